package mongodb

import (
	"context"
	"sync"
)

// entry is something that the stream returned: a run of events, or nothing. Its memory is its own.
type entry struct {
	// events are the events' BSON, one behind the other; none where the server had nothing more ready: a transaction is then over.
	events []byte
	// token is where to resume after the last of them. After another it is that event's own.
	token []byte
	// behind says that the last of them was old when the server sent it.
	behind bool
	// passed is a cluster time up to which the stream has returned every change, of an entry without events; 0 where none is known.
	passed uint64
}

// entryOverhead is what an entry takes beside its bytes.
const entryOverhead = 128

func (e entry) size() int { return cap(e.events) + len(e.token) + entryOverhead }

// queue hands entries from the goroutine that reads the stream to the one that decodes.
type queue struct {
	bound int // bytes; one entry may exceed it

	mu      sync.Mutex
	entries []entry
	bytes   int
	spare   [][]byte // memory of runs that were taken, at most spareRuns
	closed  error    // why there will be no more entries

	ready, space chan struct{}
}

func newQueue(bound int) *queue {
	return &queue{bound: bound, ready: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put waits for room until ctx ends. Of two entries without events in a row the newer replaces the older.
func (q *queue) put(ctx context.Context, e entry) error {
	for !q.offer(e) {
		select {
		case <-q.space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (q *queue) offer(e entry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.entries)
	switch {
	case n > 0 && e.events == nil && q.entries[n-1].events == nil:
		q.bytes += e.size() - q.entries[n-1].size()
		e.passed = max(e.passed, q.entries[n-1].passed)
		q.entries[n-1] = e
	case n > 0 && q.bytes+e.size() > q.bound:
		return false
	default:
		q.entries = append(q.entries, e)
		q.bytes += e.size()
	}
	signal(q.ready)
	return true
}

// take returns the next entry and whether there is one. Entries come before the reason why there will be no more.
func (q *queue) take() (entry, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.entries) == 0 {
		return entry{}, false, q.closed
	}
	e := q.entries[0]
	q.entries[0] = entry{}
	q.entries = q.entries[1:]
	q.bytes -= e.size()
	signal(q.space)
	return e, true, nil
}

// spareRuns is how many runs are kept for their memory: as many as are under way while the decoder keeps up.
const spareRuns = 4

// memory is for a run of n bytes.
func (q *queue) memory(n int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last := len(q.spare) - 1; n == runBytes && last >= 0 {
		run := q.spare[last]
		q.spare = q.spare[:last]
		return run
	}
	return make([]byte, 0, n)
}

// recycle gives the memory of a run back that nothing refers to any more.
func (q *queue) recycle(run []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if cap(run) >= runBytes && cap(run) <= 2*runBytes && len(q.spare) < spareRuns {
		q.spare = append(q.spare, run[:0])
	}
}

func (q *queue) held() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(q.bytes)
}

// close says that no entries will follow, and why.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	signal(q.ready)
}
