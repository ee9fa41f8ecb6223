package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"weft/sink/scratch"
)

// store is a table folded from its topic, on disk: what is held in memory does not grow with the table. It lives as long as
// the comparison. It is used by one goroutine.
//
// Its keys begin with what they are of:
//
//	r PARTITION KEY    a row: flags, then the row
//	o KEY              an open key, of which it is to be decided whether source and topic agree: its key columns' wire forms
//	m NUMBER           a key change: what its delete left, or what its create waits for
//	b ROW              rows of a keyless table that are equal: how many
type store struct {
	entries scratch.Map
	rows    rowMaker
	key     []byte // scratch
	value   []byte
	// careful: rows may be confirmed, so a row must be read before it is written. Before, that is rarely needed.
	careful bool
	live    int64 // about how many rows there are
}

const (
	inRows  = 'r'
	inOpen  = 'o'
	inMoves = 'm'
	inBag   = 'b'
)

const (
	flagNone      = 0
	flagConfirmed = 1 // the source has, or had when it was read, the same row
)

// openStore makes a store in a directory of its own below dir ("" for the system's). It takes about half of memory, in bytes.
func openStore(dir string, memory int) (*store, error) {
	entries, err := scratch.OnDisk(dir, int64(memory/2))
	if err != nil {
		return nil, err
	}
	return &store{entries: entries, rows: rowMaker{shapes: newShapes()}}, nil
}

func (s *store) close() error { return s.entries.Close() }

func (s *store) rowKey(partition int32, key []byte) []byte {
	s.key = binary.BigEndian.AppendUint32(append(s.key[:0], inRows), uint32(partition))
	s.key = append(s.key, key...)
	return s.key
}

// get returns a copy of what is stored, nil for nothing.
func (s *store) get(key []byte) ([]byte, error) {
	v, err := s.entries.Get(key)
	return bytes.Clone(v), err
}

// row returns the flag and the row of a key; the row is nil where there is none.
func (s *store) row(partition int32, key []byte) (flag byte, row []byte, err error) {
	v, err := s.get(s.rowKey(partition, key))
	if err != nil || v == nil {
		return 0, nil, err
	}
	return v[0], v[1:], nil
}

// confirm notes that a row need not be looked at again.
func (s *store) confirm(partition int32, key, row []byte) error {
	s.value = append(append(s.value[:0], flagConfirmed), row...)
	return s.entries.Set(s.rowKey(partition, key), s.value)
}

// apply folds one record in, by the rules of docs/records.md.
func (s *store) apply(r *record) error {
	if err := s.fold(r); err != nil {
		return r.fault(err)
	}
	return nil
}

func (s *store) fold(r *record) error {
	switch {
	case r.value == nil:
		return s.entries.Delete(s.rowKey(r.partition, r.key))
	case r.op == 't':
		return s.truncate(r)
	case r.key == nil:
		return s.foldKeyless(r)
	case r.op == 'd':
		s.live--
		return s.delete(r)
	case r.op == 'c' || r.op == 'r' || r.op == 'u':
		if r.after == nil {
			return errEnvelope
		}
		if r.op != 'u' {
			s.live++
		}
		return s.put(r)
	}
	return fmt.Errorf("op %q is not one of a row", r.op)
}

func (s *store) truncate(r *record) error {
	s.live = 0
	if r.partition == 0 {
		if err := s.entries.DeleteRange([]byte{inBag}, []byte{inBag + 1}); err != nil {
			return err
		}
	}
	from := bytes.Clone(s.rowKey(r.partition, nil))
	return s.entries.DeleteRange(from, s.rowKey(r.partition+1, nil))
}

func (s *store) put(r *record) error {
	open := cell{kind: cellUnknown}
	flag, previous := byte(flagNone), []byte(nil)
	var err error
	if s.careful || r.unavailable != nil {
		if flag, previous, err = s.row(r.partition, r.key); err != nil {
			return err
		}
	}
	if r.moved == 'c' {
		if previous, open, err = s.arrive(r); err != nil {
			return err
		}
	}
	if s.value, err = s.rows.make(append(s.value[:0], flag), r.after, r.unavailable, previous, open); err != nil {
		return err
	}
	return s.entries.Set(s.rowKey(r.partition, r.key), s.value)
}

func (s *store) delete(r *record) error {
	if r.moved == 'd' {
		if err := s.leave(r); err != nil {
			return err
		}
	}
	return s.entries.Delete(s.rowKey(r.partition, r.key))
}

// A key change's halves are in the partitions of two keys, so either may be read first. What the store has of it then:
const (
	moveLeft   = 'l' // the delete has been read; then the row that it deleted, if there was one
	moveWanted = 'w' // the create has been read, and has columns that the old row has
	moveDone   = 'd' // the create has been read, and wants nothing
)

func moveNumber(r *record) uint64 { return xxhash.Sum64(r.change) }

func moveKey(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{inMoves}, n) }

// arrive returns the row that a key change's create comes from, or what its untold columns are until that is known.
func (s *store) arrive(r *record) (previous []byte, open cell, err error) {
	n := moveNumber(r)
	key := moveKey(n)
	v, err := s.get(key)
	switch {
	case err != nil:
		return nil, cell{}, err
	case v == nil && r.unavailable != nil:
		return nil, cell{cellMoved, n}, s.entries.Set(key, []byte{moveWanted})
	case v == nil:
		return nil, cell{}, s.entries.Set(key, []byte{moveDone})
	case v[0] != moveLeft:
		return nil, cell{}, fmt.Errorf("seq %s has two creates", r.change)
	}
	if len(v) > 1 {
		previous = v[1:]
	}
	return previous, cell{kind: cellUnknown}, s.entries.Delete(key)
}

// leave keeps the row that a key change's delete ends.
func (s *store) leave(r *record) error {
	key := moveKey(moveNumber(r))
	v, err := s.get(key)
	if err != nil {
		return err
	}
	if v != nil && v[0] == moveDone {
		return s.entries.Delete(key)
	}
	_, row, err := s.row(r.partition, r.key)
	if err != nil {
		return err
	}
	return s.entries.Set(key, append([]byte{moveLeft}, row...))
}

// settle follows a cell through key changes; it comes out known or unknown.
func (s *store) settle(c cell, name string) (cell, error) {
	for c.kind == cellMoved {
		v, err := s.get(moveKey(c.n))
		if err != nil {
			return cell{}, err
		}
		if len(v) < 2 || v[0] != moveLeft {
			return cell{kind: cellUnknown}, nil
		}
		was, ok := s.rows.shapes.cell(v[1:], name)
		if !ok {
			return cell{kind: cellUnknown}, nil
		}
		c = was
	}
	return c, nil
}

// difference is how a row at the source and the topic's differ.
type difference struct {
	columns []string // that differ
	unknown []string // that the topic does not tell
	gone    []string // that only the topic has
}

// compare compares two rows column by column. Names are as JSON has them.
func (s *store) compare(source, topic []byte) (d difference, err error) {
	if bytes.Equal(source, topic) {
		return d, nil
	}
	sh := s.rows.shapes.shapeOf(source)
	for i, name := range sh.names {
		c, ok := s.rows.shapes.cell(topic, name)
		if ok {
			if c, err = s.settle(c, name); err != nil {
				return d, err
			}
		}
		switch {
		case !ok || c.kind == cellUnknown:
			d.unknown = append(d.unknown, name)
		case c != cellAt(source, i):
			d.columns = append(d.columns, name)
		}
	}
	for _, name := range s.rows.shapes.shapeOf(topic).names {
		if _, ok := sh.index[name]; !ok {
			d.gone = append(d.gone, name)
		}
	}
	return d, nil
}

// addOpen notes a key that is not decided. wire holds its columns' wire forms, nil for null.
func (s *store) addOpen(key []byte, wire [][]byte) error {
	return s.putOpen(openKey{json: key, wire: wire})
}

func (s *store) putOpen(o openKey) error {
	s.value = append(s.value[:0], 0)
	if o.seen {
		s.value[0] = 1
	}
	for _, w := range o.wire {
		if w == nil {
			s.value = binary.AppendUvarint(s.value, 0)
			continue
		}
		s.value = append(binary.AppendUvarint(s.value, uint64(len(w))+1), w...)
	}
	s.key = append(append(s.key[:0], inOpen), o.json...)
	return s.entries.Set(s.key, s.value)
}

// close takes a key off the open ones.
func (s *store) closeKey(key []byte) error {
	s.key = append(append(s.key[:0], inOpen), key...)
	return s.entries.Delete(s.key)
}

// openKey is an open key as JSON and as wire forms. The source was seen to have its row where seen is set.
type openKey struct {
	json []byte
	wire [][]byte
	seen bool
}

// nextOpen returns up to n open keys that come after a key's JSON, in the store's order.
func (s *store) nextOpen(after []byte, n int) (keys []openKey, err error) {
	from := append([]byte{inOpen}, after...)
	if after != nil {
		from = append(from, 0)
	}
	err = s.scan(from, []byte{inOpen + 1}, func(k, v []byte) (bool, error) {
		o := openKey{json: bytes.Clone(k[1:]), seen: v[0] == 1}
		for v = v[1:]; len(v) > 0; {
			size, used := binary.Uvarint(v)
			if v = v[used:]; size == 0 {
				o.wire = append(o.wire, nil)
				continue
			}
			o.wire = append(o.wire, bytes.Clone(v[:size-1]))
			v = v[size-1:]
		}
		keys = append(keys, o)
		return len(keys) < n, nil
	})
	return keys, err
}

// scan calls fn for what is stored in [from, to), in order, until it returns false.
func (s *store) scan(from, to []byte, fn func(k, v []byte) (bool, error)) (err error) {
	c, err := s.entries.Each(from, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for c.Next() {
		if more, err := fn(c.Entry()); err != nil || !more {
			return err
		}
	}
	return nil
}
