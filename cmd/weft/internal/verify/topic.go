package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// topic follows a table's topic and folds it into a store: first up to a place where every read of the source sees all
// changes, then as far as a View sees.
type topic struct {
	cl        *kgo.Client
	name      string
	store     *store
	keyless   bool
	parts     []part
	heldBytes int
	maxHeld   int
	// trimmed: the log no longer has the topic's first records.
	trimmed     bool
	partitioner kgo.TopicPartitioner
	// progress is called now and then with the number of records that were passed.
	progress func(records int64)
}

// part is a partition's place.
type part struct {
	next int64 // the first offset that is not read
	// held are records that the last view did not see, and those of the same keys after them, by key.
	held map[string][]held
	// whole tells that the fold stands for all that the last view saw.
	whole bool
}

type held struct {
	record record
	bytes  int
}

func newTopic(cl *kgo.Client, name string, s *store, maxHeld int) *topic {
	return &topic{cl: cl, name: name, store: s, maxHeld: maxHeld, partitioner: kgo.StickyKeyPartitioner(nil).ForTopic(name),
		progress: func(int64) {}}
}

// bounds returns the offsets of the partitions; none where the topic does not exist yet.
func (t *topic) bounds(ctx context.Context) (starts, ends []int64, err error) {
	starts, ends, err = checkpoint.Bounds(ctx, t.cl, t.name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil, nil
	}
	for p := len(t.parts); p < len(starts); p++ {
		t.parts = append(t.parts, part{next: starts[p], held: make(map[string][]held)})
		t.trimmed = t.trimmed || starts[p] > 0
	}
	return starts, ends, err
}

// partition is that of a key.
func (t *topic) partition(key []byte) int32 {
	if len(t.parts) == 0 {
		return 0
	}
	return int32(t.partitioner.Partition(&kgo.Record{Key: key}, len(t.parts)))
}

var errStop = errors.New("stop")

// fold folds all records up to ends. Every read of the source that is still to come must see all their changes.
func (t *topic) fold(ctx context.Context, ends []int64) error {
	for p := range ends {
		err := t.scan(ctx, p, ends[p], func(r *record, _ int) error { return t.store.apply(r) })
		if err != nil {
			return err
		}
	}
	return nil
}

// scan reads a partition on to an offset. Where fn returns errStop it ends before that record, without an error.
func (t *topic) scan(ctx context.Context, p int, to int64, fn func(r *record, size int) error) error {
	at := &t.parts[p]
	if at.next >= to {
		return nil
	}
	var passed int64
	err := checkpoint.Scan(ctx, t.cl, t.name, int32(p), at.next, to, func(r *kgo.Record) error {
		parsed, err := parse(r)
		if err != nil {
			return err
		}
		if err := fn(&parsed, len(r.Key)+len(r.Value)+recordBytes); err != nil {
			return err
		}
		at.next = r.Offset + 1
		if passed++; passed%1024 == 0 {
			t.progress(1024)
		}
		return nil
	})
	t.progress(passed % 1024)
	switch {
	case errors.Is(err, errStop):
		return nil
	case errors.Is(err, checkpoint.ErrTrimmed):
		return sources.Fatal("run it again; if it stays so, raise the topic's retention",
			"retention removes records of topic %q faster than they are read: %w", t.name, err)
	case err != nil:
		return err
	}
	at.next = to // the last offsets may hold no records
	return nil
}

// recordBytes is about what a held record takes beside its key and value.
const recordBytes = 512

// advance folds the topic on to its present end, as far as the view sees: what it does not see is held for a later one. Views
// must come in the order in which they were read. Afterwards isWhole tells of which keys all that the view saw is folded,
// provided that the capture's stream had passed the view before.
//
// Of one key the view sees a change only if it sees those before it, since a transaction that changes a row waits for the
// end of the one that changed it before. So what is held of a key is all that came after the first unseen change, rows
// that a snapshot wrote included: such a row may already have what the view does not see.
func (t *topic) advance(ctx context.Context, view sources.View) error {
	_, ends, err := t.bounds(ctx)
	if err != nil {
		return err
	}
	for p := range ends {
		if err := t.promote(p, view); err != nil {
			return err
		}
		t.parts[p].whole = true
		if err := t.scan(ctx, p, ends[p], func(r *record, size int) error { return t.follow(p, r, size, view) }); err != nil {
			return err
		}
	}
	return nil
}

// isWhole tells whether the fold of a partition stands for all that the last view saw.
func (t *topic) isWhole(partition int32) bool {
	return len(t.parts) == 0 || t.parts[partition].whole
}

func (t *topic) follow(p int, r *record, size int, view sources.View) error {
	at := &t.parts[p]
	ok, err := sees(view, r)
	if err != nil {
		return r.fault(err)
	}
	queue, isHeld := at.held[string(r.key)]
	switch {
	case !ok && r.op == 't':
		// A truncate waits for all transactions on the table, and they for it: nothing after it is seen either.
		return errStop
	case ok && (t.keyless || !isHeld):
		return t.store.apply(r)
	case t.heldBytes+size > t.maxHeld:
		at.whole = false
		return errStop
	}
	own := record{partition: r.partition, offset: r.offset, moved: r.moved, key: bytes.Clone(r.key), value: bytes.Clone(r.value)}
	if own.value != nil {
		if err := own.readValue(); err != nil {
			return r.fault(err)
		}
	}
	at.held[string(r.key)] = append(queue, held{own, size})
	t.heldBytes += size
	return nil
}

// sees tells whether a view sees a record's change. A tombstone belongs to the delete before it, and what was read beside the
// stream is of no transaction.
func sees(view sources.View, r *record) (bool, error) {
	if r.value == nil || !r.streamed {
		return true, nil
	}
	return view.SeesSource(r.source)
}

// promote folds what was held and is seen now.
func (t *topic) promote(p int, view sources.View) error {
	at := &t.parts[p]
	for key, queue := range at.held {
		rest := queue[:0]
		for i, h := range queue {
			ok, err := sees(view, &h.record)
			if err != nil {
				return h.record.fault(err)
			}
			if !ok && !t.keyless {
				rest = append(rest, queue[i:]...)
				break
			}
			if !ok {
				rest = append(rest, h)
				continue
			}
			if err := t.store.apply(&h.record); err != nil {
				return err
			}
			t.heldBytes -= h.bytes
		}
		clear(queue[len(rest):])
		if len(rest) == 0 {
			delete(at.held, key)
			continue
		}
		at.held[key] = rest
	}
	return nil
}

// value returns the value of the record at an offset of partition 0, to show a keyless row by.
func (t *topic) value(ctx context.Context, offset int64) (value []byte, err error) {
	err = checkpoint.Scan(ctx, t.cl, t.name, 0, offset, offset+1, func(r *kgo.Record) error {
		value = r.Value
		return nil
	})
	if err == nil && value == nil {
		err = fmt.Errorf("topic %q has no record at offset %d any more", t.name, offset)
	}
	return value, err
}
