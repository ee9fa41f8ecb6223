package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// sequenced delivers to a log whose transactions are not atomic over a crash: records first, and when the log has synced
// them the checkpoint, which holds the next offset of each partition. What a crash leaves in the log beyond a checkpoint
// is found when the capture resumes, and not written again.
//
// A topic enters the checkpoint before its first record, so that the checkpoint names all places to look. And the offsets
// in it stay where they are until the source has come past everything found: otherwise a second crash, after a checkpoint
// that is past only half of it, would no longer find the other half.
type sequenced struct {
	w *Writer
	// offsets as in the last checkpoint.
	offsets map[string][]int64

	mu   sync.Mutex
	next map[string][]int64 // next offset of each partition as the log acknowledged them

	// What the log holds beyond the checkpoint: for sources that repeat their changes the sequences by place; for those
	// that poll, the row last written by topic and key.
	found   map[string]struct{}
	rows    map[string][]byte
	highest []byte // order of any of them; nil once the source is past it
	all     bool   // the source has come to highest: at the next commit nothing found is needed any more
}

func newSequenced(w *Writer) *sequenced {
	s := &sequenced{w: w, offsets: map[string][]int64{}, next: map[string][]int64{}}
	s.forget()
	return s
}

func (s *sequenced) begin() error     { return nil }
func (s *sequenced) ready() time.Time { return time.Time{} }
func (s *sequenced) above() []byte    { return s.highest }

func (s *sequenced) forget() {
	s.found, s.rows, s.highest, s.all = map[string]struct{}{}, map[string][]byte{}, nil, false
}

func (s *sequenced) resume(ctx context.Context, cp checkpoint.Checkpoint) (*sources.GapError, error) {
	var gap *sources.GapError
	epoch := appendSeq(nil, cp.Epoch, nil)[:epochWidth]
	for _, topic := range slices.Sorted(maps.Keys(cp.Offsets)) {
		starts, ends, err := checkpoint.Bounds(ctx, s.w.cl, topic)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			starts, ends, err = nil, nil, nil // deleted: the loop below calls it a gap
		}
		if err != nil {
			return nil, err
		}
		offsets := cp.Offsets[topic]
		if known := len(offsets); known < len(starts) { // somebody has added partitions
			offsets = append(slices.Clone(offsets), starts[known:]...)
		}
		next := slices.Clone(offsets)
		for p, from := range offsets {
			if p >= len(ends) {
				gap, next = lost(cp, topic, p, from, 0, 0), nil
				break
			}
			err := checkpoint.ErrTrimmed
			if starts[p] <= from && from <= ends[p] {
				err = checkpoint.Scan(ctx, s.w.cl, topic, int32(p), from, ends[p], func(r *kgo.Record) error {
					return s.remember(r, epoch)
				})
			}
			if errors.Is(err, checkpoint.ErrTrimmed) {
				gap, err = lost(cp, topic, p, from, starts[p], ends[p]), nil
			}
			if err != nil {
				return nil, err
			}
			next[p] = ends[p]
		}
		if next != nil {
			s.next[topic], s.offsets[topic] = next, offsets
		}
	}
	return gap, nil
}

func lost(cp checkpoint.Checkpoint, topic string, p int, from, start, end int64) *sources.GapError {
	return &sources.GapError{
		Reason: fmt.Sprintf("the checkpoint continues %s[%d] at offset %d, but the log holds %d to %d: what was written beyond the checkpoint can't be told", topic, p, from, start, end),
		Remedy: "set on_gap: continue, so that changes since the checkpoint are written again in a new epoch; raise log.embedded.retention so that it does not come again",
		Resume: cp.Position,
	}
}

// enter writes the last checkpoint anew with the topic's end in it.
func (s *sequenced) enter(ctx context.Context, topic string) error {
	if _, ok := s.offsets[topic]; ok {
		return nil
	}
	_, ends, err := checkpoint.Bounds(ctx, s.w.cl, topic)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.next[topic] = slices.Clone(ends)
	s.mu.Unlock()
	s.offsets[topic] = ends
	cp := s.w.cp
	cp.Offsets = s.offsets
	return s.w.writeCheckpoint(ctx, cp)
}

func (s *sequenced) remember(r *kgo.Record, epoch []byte) error {
	seq := headerOf(r, "weft-seq")
	if !bytes.HasPrefix(seq, epoch) || len(seq) < len(epoch)+len("O.2") {
		return nil // not Weft's, or from before a gap
	}
	if order := orderOf(seq); bytes.Compare(order, s.highest) > 0 {
		s.highest = bytes.Clone(order)
	}
	if !s.w.o.Polls {
		s.found[place(r, seq)] = struct{}{}
		return nil
	}
	row, err := rowOf(r.Value)
	if err != nil {
		return fmt.Errorf("read %s[%d] offset %d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	if row == nil {
		s.rows[rowKey(r)+tombstone] = nil
		return nil
	}
	s.rows[rowKey(r)] = row
	delete(s.rows, rowKey(r)+tombstone)
	return nil
}

func (s *sequenced) skip(r *kgo.Record, seq []byte) (bool, error) {
	switch {
	case s.highest == nil:
		return false, nil
	case s.w.o.Polls:
		if r.Value == nil { // skipped if its delete was
			_, ok := s.rows[rowKey(r)+tombstone]
			delete(s.rows, rowKey(r)+tombstone)
			return ok, nil
		}
		was, ok := s.rows[rowKey(r)]
		if !ok {
			return false, nil
		}
		row, err := rowOf(r.Value)
		if err != nil {
			return false, err
		}
		delete(s.rows, rowKey(r)) // whatever comes next for this key is newer
		if !bytes.Equal(was, row) {
			delete(s.rows, rowKey(r)+tombstone)
			return false, nil
		}
		return true, nil
	}
	if s.w.cp.Below == "" {
		switch bytes.Compare(orderOf(seq), s.highest) {
		case 1:
			s.forget() // past everything found
			return false, nil
		case 0:
			s.all = true // a change may have more than one record
		}
	}
	_, ok := s.found[place(r, seq)]
	return ok, nil
}

// epochWidth is that of a sequence's epoch, "00000001.".
const epochWidth = 9

// orderOf cuts the source's order out of a sequence: "00000001.ORDER.2".
func orderOf(seq []byte) []byte { return seq[epochWidth : len(seq)-2] }

func place(r *kgo.Record, seq []byte) string {
	return fmt.Sprintf("%s/%d/%s", r.Topic, r.Partition, seq)
}

// tombstone, after a rowKey, is where the tombstone of the delete that is kept there is.
const tombstone = "\x00tombstone"

func rowKey(r *kgo.Record) string { return r.Topic + "/" + string(r.Key) }

// rowOf cuts what happened to the row out of an envelope: without the source block, which differs from poll to poll.
func rowOf(value []byte) ([]byte, error) {
	var e struct {
		Op            string
		Before, After json.RawMessage
	}
	if value == nil {
		return nil, nil
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return nil, fmt.Errorf("decode envelope: %w", err)
	}
	return bytes.Join([][]byte{[]byte(e.Op), e.Before, e.After}, []byte{'\n'}), nil
}

func headerOf(r *kgo.Record, key string) []byte {
	for _, h := range r.Headers {
		if h.Key == key {
			return h.Value
		}
	}
	return nil
}

func (s *sequenced) acked(r *kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next := s.next[r.Topic]; int(r.Partition) < len(next) { // not the checkpoint topic
		next[r.Partition] = max(next[r.Partition], r.Offset+1)
	}
}

func (s *sequenced) commit(ctx context.Context, cp checkpoint.Checkpoint, all bool) error {
	if err := s.w.flush(ctx); err != nil {
		return err
	}
	passed := cp.Below != "" && cp.Below[epochWidth:] > string(s.highest)
	if s.all || s.w.o.Polls && all || passed {
		s.forget() // the source has come past everything found; a complete poll has read every row there is
	}
	if s.highest == nil {
		s.mu.Lock()
		for topic, next := range s.next {
			s.offsets[topic] = slices.Clone(next)
		}
		s.mu.Unlock()
	}
	cp.Offsets = s.offsets
	return s.w.writeCheckpoint(ctx, cp)
}
