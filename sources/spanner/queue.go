package spanner

import (
	"errors"
	"sync"
)

// item is what a partition's reader hands on: a record, the end of the query, or an error.
type item struct {
	one  *partition
	rec  record
	end  bool
	err  error
	size int
}

// itemOverhead and columnOverhead are what an item takes in the queue beside its values.
const (
	itemOverhead   = 256
	columnOverhead = 96
)

func sizeOf(r record) int {
	size := itemOverhead
	if d := r.data; d != nil {
		size += len(d.columns) * columnOverhead
		for _, m := range d.mods {
			size += 96 + len(m.keys) + len(m.newValues) + len(m.oldValues)
		}
	}
	for _, c := range r.children {
		size += 64 + len(c.token)
		for _, p := range c.parents {
			size += len(p)
		}
	}
	return size
}

// queue hands items from the readers of all partitions to the one goroutine that calls Next. What has been read and not yet
// taken is bounded in bytes; beside it each reader holds the record that waits for room.
type queue struct {
	bound int
	ready chan struct{} // something was put

	mu     sync.Mutex
	space  sync.Cond
	items  []item
	head   int
	bytes  int
	closed bool
}

func newQueue(bound int) *queue {
	q := &queue{bound: bound, ready: make(chan struct{}, 1)}
	q.space.L = &q.mu
	return q
}

var errClosed = errors.New("the source is closed")

// put waits for room. One item may exceed the bound.
func (q *queue) put(i item) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes > 0 && q.bytes+i.size > q.bound && !q.closed {
		q.space.Wait()
	}
	if q.closed {
		return errClosed
	}
	q.items = append(q.items, i)
	q.bytes += i.size
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return nil
}

// peek returns the oldest item, nil if there is none. It is valid until pop.
func (q *queue) peek() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.items) {
		return nil
	}
	i := q.items[q.head]
	return &i
}

// pop takes the item that peek returned.
func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= q.items[q.head].size
	q.items[q.head] = item{}
	q.head++
	switch {
	case q.head == len(q.items):
		q.items, q.head = q.items[:0], 0
	case q.head > 64 && q.head > len(q.items)/2:
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.space.Broadcast()
}

func (q *queue) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// close lets every put return.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.space.Broadcast()
}
