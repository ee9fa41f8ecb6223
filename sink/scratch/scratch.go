// Package scratch holds ordered maps of bytes for as long as some work takes: in memory, or on disk, where what is held in
// memory does not grow with what is put in.
//
// What lives here: the maps. What does not: what their keys and values mean.
package scratch

import (
	"bytes"
	"maps"
	"slices"
)

// Map is an ordered map. It is used by one goroutine. After an error it is of no more use but to be closed.
type Map interface {
	// Get returns the value, valid until the next call, or nil where there is none.
	Get(key []byte) ([]byte, error)
	Set(key, value []byte) error
	Delete(key []byte) error
	// DeleteRange deletes the keys in [from, to).
	DeleteRange(from, to []byte) error
	// Each returns a cursor over the keys in [from, to), in order.
	Each(from, to []byte) (Cursor, error)
	// Load returns what brings many entries in at once, which is several times cheaper than Set.
	Load() Loader
	// Close gives up the entries.
	Close() error
}

// Cursor walks over a map's entries.
type Cursor interface {
	Next() bool
	// Entry's key and value are valid until the next call.
	Entry() (key, value []byte)
	// Close also returns what made Next end early.
	Close() error
}

// Loader takes entries that come in several runs, numbered from 0. The keys of a run must grow; those of different runs, and
// those that the map has already, must lie in ranges that do not overlap. The entries are in the map after Done.
type Loader interface {
	Add(run int, key, value []byte) error
	Done() error
	// Close must follow. What is not done is given up.
	Close() error
}

// After is the first key that does not begin with prefix, which must not be of highest bytes alone.
func After(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// InMemory returns an empty map that is held in memory.
func InMemory() Map { return memory{} }

type memory map[string][]byte

func (m memory) Get(key []byte) ([]byte, error) { return m[string(key)], nil }

func (m memory) Set(key, value []byte) error {
	m[string(key)] = append([]byte{}, value...)
	return nil
}

func (m memory) Delete(key []byte) error {
	delete(m, string(key))
	return nil
}

func (m memory) DeleteRange(from, to []byte) error {
	maps.DeleteFunc(m, func(k string, _ []byte) bool { return k >= string(from) && k < string(to) })
	return nil
}

func (m memory) Each(from, to []byte) (Cursor, error) {
	var keys []string
	for k := range m {
		if k >= string(from) && k < string(to) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return &memoryCursor{m: m, keys: keys}, nil
}

func (m memory) Load() Loader { return memoryLoader{m} }

func (m memory) Close() error { return nil }

type memoryCursor struct {
	m    memory
	keys []string
	at   int
}

func (c *memoryCursor) Next() bool {
	c.at++
	return c.at <= len(c.keys)
}

func (c *memoryCursor) Entry() (key, value []byte) {
	k := c.keys[c.at-1]
	return []byte(k), c.m[k]
}

func (c *memoryCursor) Close() error { return nil }

type memoryLoader struct{ m memory }

func (l memoryLoader) Add(_ int, key, value []byte) error { return l.m.Set(key, value) }
func (l memoryLoader) Done() error                        { return nil }
func (l memoryLoader) Close() error                       { return nil }
