package polling

import (
	"slices"

	"weft/sources"
)

// batch is the changes of one poll and their memory, which the next poll uses again.
type batch struct {
	changes []sources.Change

	poll     uint64
	stamp    uint64 // of the changes
	maxBytes int
	size     int
	// Blocks that are full stay where they are, referred to by the values in them; only the newest is used again.
	bytes  []byte
	values []sources.Value
}

// What a change and a value are taken to add to the encoded size beside their data.
const (
	changeOverhead = 128
	valueOverhead  = 16
)

// Sizes of the first blocks of a batch's memory. Each next one is larger, so that a whole batch soon fits into one.
const (
	byteBlock  = 64 << 10
	valueBlock = 1024
)

func newBatch(maxBytes int) *batch {
	return &batch{maxBytes: maxBytes}
}

// reset empties it for a poll. stamp is a moment after its view was opened.
func (b *batch) reset(poll, stamp uint64) {
	clear(b.changes)
	b.changes = b.changes[:0]
	b.poll, b.stamp = poll, stamp
	b.size = 0
	b.bytes = b.bytes[:0]
	b.values = b.values[:0]
}

// room returns a slice to append n bytes to, which keep takes.
func (b *batch) room(n int) []byte {
	if cap(b.bytes)-len(b.bytes) < n {
		b.bytes = make([]byte, 0, max(n, byteBlock, min(2*cap(b.bytes), b.maxBytes)))
	}
	return b.bytes[len(b.bytes):len(b.bytes):cap(b.bytes)]
}

// keep takes what was appended to the slice of room.
func (b *batch) keep(data []byte) sources.Value {
	b.bytes = b.bytes[:len(b.bytes)+len(data)]
	return sources.Value{Data: slices.Clip(data), State: sources.Present}
}

// row returns the memory for n values.
func (b *batch) row(n int) []sources.Value {
	if cap(b.values)-len(b.values) < n {
		b.values = make([]sources.Value, 0, max(n, valueBlock, 2*cap(b.values)))
	}
	at := len(b.values)
	b.values = b.values[:at+n]
	return b.values[at : at+n : at+n]
}

// add adds a row as a change unless the batch is full.
func (b *batch) add(t *table, values []sources.Value) bool {
	size := changeOverhead
	for _, v := range values {
		size += len(v.Data) + valueOverhead
	}
	if len(b.changes) > 0 && b.size+size > b.maxBytes {
		return false
	}
	b.size += size
	order := appendOrder(b.room(orderWidth), b.poll, len(b.changes))
	b.keep(order)
	c := sources.Change{Op: sources.OpCreate, Table: &t.Table, After: values, Order: slices.Clip(order), Stamp: b.stamp}
	if t.isDeleted(values) {
		c.Op, c.Before, c.After = sources.OpDelete, values, nil
	}
	b.changes = append(b.changes, c)
	return true
}

// addDelete adds the delete of a row of which the key alone is known, unless the batch is full.
func (b *batch) addDelete(t *table, key [][]byte) bool {
	values := b.row(len(t.Columns))
	for i := range values {
		values[i] = sources.Value{State: sources.Unavailable}
	}
	size := changeOverhead + orderWidth
	for i, k := range t.Key {
		values[k] = sources.Value{State: sources.Present, Data: key[i]}
		size += len(key[i]) + valueOverhead
	}
	if len(b.changes) > 0 && b.size+size > b.maxBytes {
		return false
	}
	b.size += size
	order := appendOrder(b.room(orderWidth), b.poll, len(b.changes))
	b.keep(order)
	b.changes = append(b.changes, sources.Change{Op: sources.OpDelete, Table: &t.Table, Before: values, Order: slices.Clip(order), Stamp: b.stamp})
	return true
}

// last is the row of the last change.
func (b *batch) last() []sources.Value {
	c := b.changes[len(b.changes)-1]
	if c.Op == sources.OpDelete {
		return c.Before
	}
	return c.After
}
