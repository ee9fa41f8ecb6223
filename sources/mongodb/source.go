package mongodb

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"weft/sources"
	"weft/sources/mongodb/extjson"
)

const (
	// idleEvery is how often a position is returned that moved without a change.
	idleEvery = 10 * time.Second
	// passEvery is the same where it is past a later cluster time, for which somebody who reads beside the stream may wait. A set
	// that nobody writes to has no later one, but for one each ten seconds.
	passEvery = time.Second
)

// source implements sources.Source on the events that the reader has read.
type source struct {
	config     Config
	tables     []pattern
	client     *mongo.Client
	reader     *reader
	queue      *queue
	batchBytes int

	position position
	started  bool // the position was returned, or is the one that Open was given
	token    []byte
	passed   uint64 // as position.Passed, behind token
	moved    bool   // token or passed is newer than the position that was returned last
	behind   bool   // the last change was old when the server sent it
	settled  bool   // the server had nothing more ready after token
	returned time.Time
	failed   error             // what the next call of Next returns
	gap      *sources.GapError // it is a gap at the end of the batch, after which the capture can go on

	run     entry  // taken from the queue
	rest    []byte // those of its events that are not yet cut off
	ahead   *event // the next event, cut off and not yet in a batch; nil while it is not known
	joining event  // ahead's memory: the fragments that are there so far

	known map[namespaceName]*captured
	last  *captured
	tx    *transaction
	// partial is what the last batch said.
	partial bool

	// A batch's memory.
	changes []sources.Change
	values  []sources.Value
	buf     []byte
	writer  extjson.Writer // documents
	keys    extjson.Writer // _id, always relaxed

	commitTime atomic.Int64
}

type namespaceName struct{ db, coll string }

// captured is a collection whose changes the capture takes.
type captured struct {
	table *sources.Table
	// head begins the members of the source block.
	head []byte
}

// transaction is that of the last change.
type transaction struct {
	sources.Transaction
	lsid    []byte
	txn     int64
	changes int64
	tables  map[string]int64
}

// Next implements sources.Source.
func (s *source) Next(ctx context.Context) (sources.Batch, error) {
	if err := ctx.Err(); err != nil {
		return sources.Batch{}, err
	}
	s.changes, s.values, s.buf = s.changes[:0], s.values[:0], s.buf[:0]
	if !s.started {
		s.started, s.returned = true, time.Now()
		return s.batch(false)
	}
	if s.failed != nil {
		return sources.Batch{}, s.failed
	}
	for {
		more, err := s.fill()
		switch {
		case len(s.changes) > 0:
			// An error comes after what was before it.
			s.failed = err
			return s.batch(more)
		case s.moved && s.failed != nil:
			return s.batch(false)
		case err != nil:
			return sources.Batch{}, err
		}
		idle := s.config.idle
		if s.passed > s.position.Passed.stamp() {
			idle = min(idle, passEvery)
		}
		wait := idle - time.Since(s.returned)
		if s.moved && (wait <= 0 || s.settled && s.partial) {
			return s.batch(more)
		}
		if err := s.await(ctx, wait); err != nil {
			return sources.Batch{}, err
		}
	}
}

// await waits for the queue, and where the token has moved for d at most.
func (s *source) await(ctx context.Context, d time.Duration) error {
	var due <-chan time.Time
	if s.moved {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-s.queue.ready:
	case <-due:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// fill takes events until the batch is full or there are none; more tells that there are.
func (s *source) fill() (more bool, err error) {
	size := 0
	for {
		ok, err := s.peek()
		if err != nil || !ok {
			return false, err
		}
		if size >= s.batchBytes {
			return true, nil
		}
		e, from := s.ahead, len(s.buf)
		if err := s.decode(e); err != nil {
			return false, err
		}
		size += len(s.buf) - from
		s.token, s.behind, s.settled, s.moved = e.token, s.run.behind, false, true
		if len(s.rest) == 0 {
			s.token = s.run.token
		}
		s.ahead, s.joining = nil, event{}
		if s.failed != nil {
			return false, s.failed
		}
	}
}

// peek sees to it that ahead is the next event, whole. ok is false when there is none yet.
func (s *source) peek() (ok bool, err error) {
	for s.ahead == nil {
		if len(s.rest) == 0 {
			if s.run.events != nil && s.joining.of == 0 { // else a fragment refers to it
				s.queue.recycle(s.run.events)
			}
			s.run.events = nil
			e, ok, err := s.queue.take()
			if err != nil || !ok {
				return false, err
			}
			if s.run, s.rest = e, e.events; e.events == nil {
				s.settled, s.behind = true, false
				if s.partial || e.passed > s.passed || !bytes.Equal(e.token, s.token) {
					s.token, s.passed, s.moved = e.token, max(s.passed, e.passed), true
				}
				continue
			}
		}
		next, err := s.cut()
		if err != nil {
			return false, err
		}
		expected := s.joining.fragment + 1
		if err := s.joining.add(next); err != nil {
			return false, err
		}
		if s.joining.fragment > 0 && s.joining.fragment != expected {
			return false, fmt.Errorf("fragment %d of an event came where %d was to come", s.joining.fragment, expected)
		}
		if s.joining.fragment < s.joining.of {
			continue
		}
		if s.joining.clusterTime == 0 || len(s.joining.op) == 0 {
			return false, errEvent
		}
		s.ahead = &s.joining
	}
	return true, nil
}

// cut takes the next event's BSON off the run.
func (s *source) cut() ([]byte, error) {
	if len(s.rest) < 4 {
		return nil, errEvent
	}
	n := int64(binary.LittleEndian.Uint32(s.rest))
	if n < 5 || n > int64(len(s.rest)) {
		return nil, errEvent
	}
	next := s.rest[:n:n]
	s.rest = s.rest[n:]
	return next, nil
}

// batch is what was gathered, with the position behind it.
func (s *source) batch(more bool) (sources.Batch, error) {
	if s.moved {
		text, err := tokenText(s.token)
		if err != nil {
			return sources.Batch{}, err
		}
		s.position.Token, s.position.StartAt = text, nil
		s.position.Passed = timestampOf(s.passedAll())
		s.moved, s.returned = false, time.Now()
	}
	b := sources.Batch{Changes: s.changes, More: more, Behind: s.behind}
	switch {
	case s.tx == nil:
		s.position.TX = nil
	default:
		s.position.TX = &txPosition{ID: s.tx.ID, Changes: s.tx.changes, Tables: s.tx.tables}
		// The stream does not say where a transaction ends: at the next event of another, or where the server had no more.
		if s.ahead != nil {
			b.Partial = s.tx.is(s.ahead)
		} else {
			b.Partial = !s.settled
		}
		s.position.TX.Open = b.Partial
	}
	s.partial = b.Partial
	var err error
	b.Position, err = s.position.encode()
	if s.gap != nil {
		s.gap.Resume, s.gap = b.Position, nil
	}
	return b, err
}

// passedAll is the cluster time up to which all changes are in batches. Of the last change's own time more may follow, and what comes
// later is not earlier.
func (s *source) passedAll() uint64 {
	passed := s.passed
	if last := s.position.ClusterTime.stamp(); last > 0 {
		passed = max(passed, last-1)
	}
	if s.ahead != nil {
		passed = max(passed, s.ahead.clusterTime-1)
	}
	return passed
}

func (t *transaction) is(e *event) bool {
	return t != nil && e.inTX && t.txn == e.txn && bytes.Equal(t.lsid, e.lsid)
}

// Durable implements sources.Source: the server keeps its oplog whatever we have read.
func (s *source) Durable(sources.Position) error { return nil }

// Close implements sources.Source.
func (s *source) Close() error {
	if s.reader != nil {
		s.reader.stop()
	}
	return disconnect(s.client)
}

// Lag implements sources.Lagger.
func (s *source) Lag() sources.Lag {
	lag := sources.UnknownLag
	lag.CommitTime = s.commitTime.Load()
	lag.ReadAheadBytes, lag.ReadAheadLimit = s.queue.held(), int64(s.queue.bound)
	return lag
}

var _ sources.Lagger = (*source)(nil)
