package held

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// run is what was put since the last Commit of those rows of a topic whose keys are above all that the store has had of it, in order: most
// rows of a first pass, and new ones. That nothing else is known of them need not be looked up, and a large run becomes a file of
// the store as it is: nothing of it is sorted, written twice or merged.
type run struct {
	top  []byte // the highest key that the store has had of the topic, or its prefix
	rows []runRow
	// blocks hold keys and values, and what is in them stays where it is.
	blocks [][]byte
	free   *freeBlocks
	bytes  int
}

// freeBlocks are empty blocks of all runs, to be used again.
type freeBlocks [][]byte

// runRow is a row's key and value.
type runRow struct {
	key, value place
	removed    bool
}

// place is where in a run's blocks bytes are.
type place struct{ block, from, to uint32 }

const (
	// fileBytes is how large a run must be to become a file.
	fileBytes = 1 << 20
	// blockBytes is the size of a block, unless a row is larger. Of all runs keptBlocks are kept.
	blockBytes = 1 << 20
	keptBlocks = 12
	// filePrefix begins the names of files that are not the store's yet.
	filePrefix = "run-"
)

func (r *run) at(p place) []byte { return r.blocks[p.block][p.from:p.to] }

// keep copies bytes.
func (r *run) keep(data []byte) place {
	last := len(r.blocks) - 1
	if last < 0 || cap(r.blocks[last])-len(r.blocks[last]) < len(data) {
		r.blocks = append(r.blocks, r.free.take(len(data)))
		last++
	}
	b := &r.blocks[last]
	p := place{block: uint32(last), from: uint32(len(*b))}
	*b = append(*b, data...)
	p.to = uint32(len(*b))
	r.bytes += len(data)
	return p
}

// take returns a block with room for n bytes.
func (f *freeBlocks) take(n int) []byte {
	last := len(*f) - 1
	if last < 0 || n > blockBytes {
		return make([]byte, 0, max(blockBytes, n))
	}
	b := (*f)[last]
	*f = (*f)[:last]
	return b
}

func (f *freeBlocks) give(b []byte) {
	if len(*f) < keptBlocks && cap(b) == blockBytes {
		*f = append(*f, b[:0])
	}
}

func (r *run) keyOf(i int) []byte { return r.at(r.rows[i].key) }

// above tells whether a key is above all of the topic's.
func (r *run) above(key []byte) bool { return bytes.Compare(key, r.top) > 0 }

// find returns the row of a key in the run, or nil.
func (r *run) find(key []byte) *runRow {
	if len(r.rows) == 0 || bytes.Compare(key, r.keyOf(0)) < 0 {
		return nil
	}
	i := sort.Search(len(r.rows), func(i int) bool { return bytes.Compare(r.keyOf(i), key) >= 0 })
	if i == len(r.rows) || !bytes.Equal(r.keyOf(i), key) {
		return nil
	}
	return &r.rows[i]
}

// add appends a row whose key is above all.
func (r *run) add(key, value []byte) {
	r.top = append(r.top[:0], key...)
	r.rows = append(r.rows, runRow{key: r.keep(key), value: r.keep(value)})
}

// set gives a row of the run another value.
func (r *run) set(row *runRow, value []byte) { row.value, row.removed = r.keep(value), false }

func (r *run) clear() {
	for _, b := range r.blocks {
		r.free.give(b)
	}
	r.rows, r.blocks, r.bytes = nil, nil, 0
}

// each calls fn for the rows in order.
func (r *run) each(fn func(key, value []byte) error) error {
	for i := range r.rows {
		row := &r.rows[i]
		if row.removed {
			continue
		}
		if err := fn(r.at(row.key), r.at(row.value)); err != nil {
			return err
		}
	}
	return nil
}

// runOf is the run of a topic.
func (s *Store) runOf(topic string) (*run, error) {
	if s.run != nil && s.topic == topic {
		return s.run, nil
	}
	r := s.runs[topic]
	if r == nil {
		prefix := prefixOf(nil, topic)
		r = &run{top: prefix, free: &s.free}
		it, err := s.pending.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: endOf(prefix)})
		if err != nil {
			return nil, s.broken(err)
		}
		if it.Last() {
			r.top = bytes.Clone(it.Key())
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return nil, s.broken(err)
		}
		s.runs[topic] = r
	}
	s.topic, s.run = topic, r
	return r, nil
}

// forgetRun is called where rows of a topic come from elsewhere.
func (s *Store) forgetRun(topic string) {
	delete(s.runs, topic)
	s.run = nil
}

// spill moves a run into pending.
func (s *Store) spill(r *run) error {
	err := r.each(func(key, value []byte) error { return s.pending.Set(key, value, nil) })
	r.clear()
	if err != nil {
		return s.broken(err)
	}
	return nil
}

// commitRuns makes files of the large runs, and moves the others into pending.
func (s *Store) commitRuns() error {
	var files []string
	for _, r := range s.runs {
		if r.bytes < fileBytes {
			if err := s.spill(r); err != nil {
				return err
			}
			continue
		}
		file := filepath.Join(s.dir, fmt.Sprintf("%s%d", filePrefix, len(files)))
		if err := s.writeFile(file, r); err != nil {
			return s.broken(err)
		}
		files = append(files, file)
		r.clear()
	}
	if len(files) == 0 {
		return nil
	}
	if err := s.db.Ingest(context.Background(), files); err != nil { // renames the files, and does not wait for anything else
		return s.broken(err)
	}
	return nil
}

func (s *Store) writeFile(name string, r *run) error {
	f, err := vfs.Default.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	const lowest = 6
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), s.options.MakeWriterOptions(lowest, s.db.TableFormat()))
	if err := r.each(w.Set); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// removeFiles removes what a process that was killed has left.
func removeFiles(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, filePrefix+"*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}
