package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// sweepBytes bounds the keys that a Sweep holds, and those that are written meanwhile.
const sweepBytes = 32 << 20

// keyBytes is about what a key takes beside its bytes.
const keyBytes = 64

// Sweep removes from a table's topic the rows of earlier epochs that nothing has been written of in this one: after a gap, when all rows
// that the datastore still has are written again, those are the ones that were deleted meanwhile.
//
// It goes in rounds, each for a part of the keys that fits into memory: Watch, then a commit, then Find, then Remove. Find may be
// called beside the writer; the others belong to the writer's goroutine.
type Sweep struct {
	w     *Writer
	table *sources.Table
	topic string
	epoch []byte
	limit int
	seed  maphash.Seed
	// The round is that of keys whose hash is part modulo parts.
	parts, part uint64
	touched     map[string]struct{} // keys written since Watch
	bytes       int
	overflown   bool
}

// NewSweep prepares one. Nothing is watched yet.
func (w *Writer) NewSweep(t *sources.Table) *Sweep {
	return &Sweep{
		w: w, table: t, topic: TopicOf(w.o.Topics.Prefix, t), epoch: appendSeq(nil, w.cp.Epoch, nil)[:9], limit: sweepBytes,
		seed: maphash.MakeSeed(), parts: 1,
	}
}

// Watch notes the keys that are written to the topic from now on.
func (s *Sweep) Watch() {
	s.touched, s.bytes, s.overflown = map[string]struct{}{}, 0, false
	if s.w.sweeps == nil {
		s.w.sweeps = map[string]*Sweep{}
	}
	s.w.sweeps[s.topic] = s
}

// Stop ends what Watch began.
func (s *Sweep) Stop() {
	if s.w.sweeps[s.topic] == s {
		delete(s.w.sweeps, s.topic)
	}
	s.touched = nil
}

// touch is called for each record that is written to the topic.
func (s *Sweep) touch(key []byte) {
	if s.overflown || !s.mine(key) {
		return
	}
	if _, ok := s.touched[string(key)]; ok {
		return
	}
	if s.bytes += len(key) + keyBytes; s.bytes > s.limit {
		s.touched, s.overflown = nil, true
		return
	}
	s.touched[string(key)] = struct{}{}
}

// mine tells whether the key is of this round.
func (s *Sweep) mine(key []byte) bool {
	return s.parts == 1 || maphash.Bytes(s.seed, key)%s.parts == s.part
}

// errSweepFull says that a round has more keys than it may hold.
var errSweepFull = errors.New("too many keys")

// Find reads the topic and returns the keys of this round whose rows are of earlier epochs; full says that they are too many for one
// round. All that was written before Watch must be committed.
func (s *Sweep) Find(ctx context.Context) (keys [][]byte, full bool, err error) {
	keys, err = s.find(ctx)
	if errors.Is(err, errSweepFull) {
		return nil, true, nil
	}
	return keys, false, err
}

func (s *Sweep) find(ctx context.Context) ([][]byte, error) {
	starts, ends, err := checkpoint.Bounds(ctx, s.w.cl, s.topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	var found [][]byte
	size := 0
	for p := range ends {
		live, bytes := map[string]struct{}{}, 0
		err := checkpoint.Scan(ctx, s.w.cl, s.topic, int32(p), starts[p], ends[p], func(r *kgo.Record) error {
			if len(r.Key) > 0 && !s.mine(r.Key) {
				return nil
			}
			bytes += s.apply(live, r)
			if size+bytes > s.limit {
				return errSweepFull
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("sweep: %w", err)
		}
		for key := range live {
			found = append(found, []byte(key))
		}
		size += bytes
	}
	return found, nil
}

// apply keeps the rows of earlier epochs, and returns by how much they have grown.
func (s *Sweep) apply(live map[string]struct{}, r *kgo.Record) int {
	seq := headerOf(r, "weft-seq")
	if seq == nil || r.Key == nil {
		return 0 // not Weft's
	}
	if len(r.Key) == 0 { // a truncate
		n := 0
		for key := range live {
			n += len(key) + keyBytes
		}
		clear(live)
		return -n
	}
	_, was := live[string(r.Key)]
	old := r.Value != nil && !bytes.HasPrefix(seq, s.epoch) && seq[len(seq)-1] != '0'
	switch {
	case old && !was:
		live[string(r.Key)] = struct{}{}
		return len(r.Key) + keyBytes
	case !old && was:
		delete(live, string(r.Key))
		return -len(r.Key) - keyBytes
	}
	return 0
}

// Remove takes what Find returned, and writes the deletes of those keys that were not written since Watch, each at the place that
// order gives. done says that this was the last round; otherwise another one is to follow.
func (s *Sweep) Remove(ctx context.Context, keys [][]byte, full bool, order func() ([]byte, error)) (removed int, done bool, err error) {
	touched := s.touched
	s.Stop()
	if full || s.overflown { // this round again, for half of its keys
		s.parts *= 2
		return 0, false, nil
	}
	for _, key := range keys {
		if _, ok := touched[string(key)]; ok {
			continue
		}
		at, err := order()
		if err != nil {
			return removed, false, err
		}
		if err := s.w.writeDelete(ctx, s.table, key, at); err != nil {
			return removed, false, err
		}
		removed++
	}
	// The rounds are the leaves of a tree whose nodes were split when they had too many keys.
	for s.parts > 1 && s.part >= s.parts/2 {
		s.parts /= 2
		s.part -= s.parts
	}
	if s.parts == 1 {
		return removed, true, nil
	}
	s.part += s.parts / 2
	return removed, false, nil
}
