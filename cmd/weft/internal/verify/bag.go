package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A bag entry is a count (8 bytes), and how the row can be shown: 'o' and the offset of a record of partition 0 that has it,
// or 'j' and its JSON.
const (
	shownByOffset = 'o'
	shownByJSON   = 'j'
)

// bagEntry is rows of a keyless table that are equal, of which the topic has count more than the source.
type bagEntry struct {
	row    []byte
	count  int64
	offset int64  // of a record that has the row
	json   []byte // the row, where no record has it
}

func (s *store) foldKeyless(r *record) error {
	if r.unavailable != nil {
		return errors.New("a row without a key has columns that are not known")
	}
	before, after := r.op == 'u' || r.op == 'd', r.op == 'c' || r.op == 'r' || r.op == 'u'
	switch {
	case !before && !after:
		return fmt.Errorf("op %q is not one of a row", r.op)
	case before && r.before == nil || after && r.after == nil:
		return errEnvelope
	}
	if before {
		s.live--
		if err := s.count(r.before, -1, r.offset, nil); err != nil {
			return err
		}
	}
	if after {
		s.live++
		return s.count(r.after, 1, r.offset, nil)
	}
	return nil
}

// count adds by to the number of rows that are equal to this JSON object. show is kept to show the row by if no record has it.
func (s *store) count(object []byte, by, offset int64, show []byte) error {
	key, err := s.rows.make(append(s.key[:0], inBag), object, nil, nil, cell{})
	if err != nil {
		return err
	}
	s.key = key
	v, err := s.get(key)
	if err != nil {
		return err
	}
	if v == nil {
		v = append(make([]byte, 8), shownByOffset)
		v = binary.BigEndian.AppendUint64(v, uint64(offset))
		if show != nil {
			v = append(append(v[:8], shownByJSON), show...)
		}
	}
	n := int64(binary.BigEndian.Uint64(v)) + by
	if n == 0 {
		return s.entries.Delete(key)
	}
	binary.BigEndian.PutUint64(v, uint64(n))
	return s.entries.Set(key, v)
}

// eachBag calls fn for the rows of a keyless table of which there are more or fewer in the topic.
func (s *store) eachBag(fn func(bagEntry) error) error {
	return s.scan([]byte{inBag}, []byte{inBag + 1}, func(k, v []byte) (bool, error) {
		if len(v) < 9 {
			return false, errors.New("a damaged entry in the store")
		}
		e := bagEntry{row: bytes.Clone(k[1:]), count: int64(binary.BigEndian.Uint64(v))}
		if v[8] == shownByJSON {
			e.json = bytes.Clone(v[9:])
		} else {
			e.offset = int64(binary.BigEndian.Uint64(v[9:]))
		}
		return true, fn(e)
	})
}
