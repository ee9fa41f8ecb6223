package sink

import (
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Sizes of the memory that records are cut from: large enough that taking more costs nothing a record, small enough that what a
// slow broker holds back is not much more than the records themselves.
const (
	slabBytes   = 1 << 20
	slabRecords = 256
	// keptSlabs is how many are kept for later when the log has taken their records.
	keptSlabs = 8
)

// record is one on its way to the log, with room for its headers.
type record struct {
	kgo.Record
	headers [2]kgo.RecordHeader // there is no more than the sequence and one half of a key change
}

// slab is memory for records: their keys, values and headers, and the records themselves. The client keeps a record until its
// promise is called and does not look at it again after that, so when this is so of all records, the slab may be used anew.
type slab struct {
	bytes  []byte
	blocks [][]record // of slabRecords each; those behind the one being filled are empty
	block  int
	// under is how many records are under way, and one more while the slab is being filled.
	under atomic.Int64
	// promise is the writer's, for the records of this slab.
	promise func(*kgo.Record, error)
}

// record returns a new, empty one. It is under way.
func (s *slab) record() *record {
	if s.block == len(s.blocks) {
		s.blocks = append(s.blocks, make([]record, 0, slabRecords))
	}
	b := append(s.blocks[s.block], record{})
	if s.blocks[s.block] = b; len(b) == cap(b) {
		s.block++
	}
	s.under.Add(1)
	return &b[len(b)-1]
}

// slabs gives slabs out and takes them back.
type slabs struct {
	mu   sync.Mutex
	free []*slab
}

// get returns an empty slab. promise is called for each of its records first.
func (p *slabs) get(promise func(*kgo.Record, error)) *slab {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		s.under.Store(1)
		return s
	}
	s := &slab{bytes: make([]byte, 0, slabBytes)}
	s.under.Store(1)
	s.promise = func(r *kgo.Record, err error) {
		promise(r, err)
		p.done(s)
	}
	return s
}

// done tells that one of the slab's records, or its filling, is done.
func (p *slabs) done(s *slab) {
	if s.under.Add(-1) > 0 || cap(s.bytes) > slabBytes { // one that a large record has made larger is not kept
		return
	}
	s.bytes, s.block = s.bytes[:0], 0
	for i := range s.blocks {
		s.blocks[i] = s.blocks[i][:0]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < keptSlabs {
		p.free = append(p.free, s)
	}
}
