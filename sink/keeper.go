package sink

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink/envelope"
	"weft/sink/held"
	"weft/sources"
)

// keeper is a writer's knowledge of the rows in its topics. What is written is in it at once for this writer, and kept once it is
// committed.
type keeper struct {
	w     *Writer
	store *held.Store
	log   hclog.Logger
	// topic is the one that lookup, which gives the row of a key, looks in.
	topic  string
	lookup func(key []byte) ([]byte, error)
	known  map[string]bool // topics that were followed to their ends
	warned map[string]bool // those with keys that could not be read back

	mu   sync.Mutex
	ends map[string][]int64 // by topic, the offsets behind what the log has taken since the last commit
}

func openKeeper(w *Writer, dir string) (*keeper, error) {
	log := w.o.Log.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	store, err := held.Open(dir, log)
	if err != nil {
		return nil, err
	}
	k := &keeper{w: w, store: store, log: log, known: map[string]bool{}, warned: map[string]bool{}, ends: map[string][]int64{}}
	k.lookup = func(key []byte) ([]byte, error) {
		row, ok, err := store.Row(k.topic, key)
		if !ok {
			return nil, err
		}
		return row, nil
	}
	return k, nil
}

// enter makes the store know what the topic holds, before anything is written to it.
func (k *keeper) enter(ctx context.Context, topic string) error {
	if topic == k.topic {
		return nil
	}
	if !k.known[topic] {
		if err := k.store.Follow(ctx, k.w.cl, topic); err != nil {
			return explain(err)
		}
		k.known[topic] = true
	}
	k.topic = topic
	return nil
}

// encode is envelope.EncodeFound against the store, which takes in what comes of it. A change without records is in the log already.
func (k *keeper) encode(ctx context.Context, buf []byte, dst []envelope.Record, c *sources.Change, topic string, seq []byte) ([]byte, []envelope.Record, error) {
	if err := k.enter(ctx, topic); err != nil {
		return buf, dst, err
	}
	var err error
	if c.Cause == sources.CauseRepair { // the topic was found to hold another row than what is known of it says
		buf, dst, err = k.w.enc.Encode(buf, dst, c, seq)
	} else {
		buf, dst, err = k.w.enc.EncodeFound(buf, dst, c, seq, k.lookup)
	}
	if err != nil {
		return buf, dst, err
	}
	if len(dst) == 0 {
		k.w.bytes += unchangedBytes
		return buf, dst, nil
	}
	if r := &dst[len(dst)-1]; r.Value == nil { // a tombstone
		err = k.store.Remove(topic, r.Key)
	} else {
		err = k.store.Put(topic, r.Key, r.Row)
	}
	return buf, dst, err
}

// unchangedBytes is what a row that is in the log already counts for, so that a pass over many of them is committed now and then.
const unchangedBytes = 64

// acked is called for each record that the log has taken, from the client's goroutine.
func (k *keeper) acked(r *kgo.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ends := k.ends[r.Topic]
	for int(r.Partition) >= len(ends) {
		ends = append(ends, 0)
	}
	ends[r.Partition] = max(ends[r.Partition], r.Offset+1)
	k.ends[r.Topic] = ends
}

// commit is called when all that was written is committed in the log.
func (k *keeper) commit() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for topic := range k.ends {
		if !k.known[topic] { // the checkpoints', and that of gaps
			delete(k.ends, topic)
		}
	}
	err := k.store.Commit(k.ends)
	clear(k.ends)
	return err
}

// Held tells what the log holds, or is nil where rows are not kept. It is for the writer's own goroutine.
func (w *Writer) Held() sources.Holder {
	if w.kept == nil {
		return nil
	}
	return w.kept
}

// HeldKeys implements sources.Holder.
func (k *keeper) HeldKeys(ctx context.Context, t *sources.Table, after []byte, limit int) (keys [][][]byte, next []byte, err error) {
	r, err := k.w.route(ctx, &sources.Change{Table: t})
	if err != nil {
		return nil, nil, err
	}
	if err := k.enter(ctx, r.topic); err != nil {
		return nil, nil, err
	}
	next, err = k.store.Keys(r.topic, after, limit, func(key []byte) error {
		wire, err := k.w.enc.DecodeKey(t, key)
		if errors.Is(err, envelope.ErrKeyForm) {
			if !k.warned[r.topic] {
				k.warned[r.topic] = true
				k.log.Warn("a row's delete would not be found, since its key in the log is not one of the table as it is now", "error", err)
			}
			return nil
		}
		keys = append(keys, wire)
		return err
	})
	return keys, next, err
}
