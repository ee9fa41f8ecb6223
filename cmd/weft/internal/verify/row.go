package verify

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"weft/sink/envelope"
	"weft/sources"
)

// A row is held as bytes: the number of its shape (4 bytes), then a cell for each of the shape's columns. Rows with the same
// bytes are equal.

// cellBytes is a cell's size: what it is, then 8 bytes.
const cellBytes = 9

const (
	cellKnown   = 'v' // then the checksum of the value's JSON
	cellUnknown = '?' // no record that was read has told the value
	cellMoved   = 'm' // the value of the row that this one was before its key changed; then the move's number
)

// shapes numbers the lists of column names that rows come with: a table has one, and another after each ALTER TABLE.
type shapes struct {
	ids  map[string]uint32
	list []shape
}

type shape struct {
	names []string // with their quotes, as JSON has them
	index map[string]int
}

func newShapes() *shapes { return &shapes{ids: make(map[string]uint32)} }

// of returns the number of a shape. joined is all names, one behind the other.
func (s *shapes) of(joined []byte) (uint32, error) {
	if id, ok := s.ids[string(joined)]; ok {
		return id, nil
	}
	sh := shape{index: make(map[string]int)}
	for i := 0; i < len(joined); {
		end := stringEnd(joined, i)
		if end < 0 {
			return 0, errJSON
		}
		name := string(joined[i:end])
		if _, ok := sh.index[name]; ok {
			return 0, fmt.Errorf("column %s is there twice", name)
		}
		sh.index[name] = len(sh.names)
		sh.names = append(sh.names, name)
		i = end
	}
	id := uint32(len(s.list))
	s.ids[string(joined)] = id
	s.list = append(s.list, sh)
	return id, nil
}

// rowMaker makes rows of JSON objects.
type rowMaker struct {
	shapes *shapes
	names  []byte
}

// make appends the row of an object to dst. previous is the row before the change, or nil; where the columns of unavailable
// are not in previous they are what open says.
func (m *rowMaker) make(dst, object, unavailable, previous []byte, open cell) ([]byte, error) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	m.names = m.names[:0]
	add := func(name []byte, c cell) {
		m.names = append(m.names, name...)
		dst = c.append(dst)
	}
	var untold [][]byte
	if unavailable != nil {
		err := eachElement(unavailable, func(name []byte) error {
			untold = append(untold, name)
			return nil
		})
		if err != nil {
			return dst[:start], err
		}
	}
	isUntold := func(name []byte) bool {
		return slices.ContainsFunc(untold, func(u []byte) bool { return string(u) == string(name) })
	}
	err := eachMember(object, func(name, value []byte) error {
		if untold == nil || !isUntold(name) { // in the debezium dialect they are there, with a placeholder
			add(name, cell{cellKnown, xxhash.Sum64(value)})
		}
		return nil
	})
	if err != nil {
		return dst[:start], err
	}
	for _, name := range untold {
		c, ok := m.shapes.cell(previous, string(name))
		if !ok {
			c = open
		}
		add(name, c)
	}
	id, err := m.shapes.of(m.names)
	if err != nil {
		return dst[:start], err
	}
	binary.BigEndian.PutUint32(dst[start:], id)
	return dst, nil
}

type cell struct {
	kind byte
	n    uint64
}

func (c cell) append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(append(dst, c.kind), c.n)
}

func cellAt(row []byte, i int) cell {
	at := row[4+i*cellBytes:]
	return cell{at[0], binary.BigEndian.Uint64(at[1:])}
}

func (s *shapes) shapeOf(row []byte) *shape { return &s.list[binary.BigEndian.Uint32(row)] }

// cell returns a row's cell of a column; not ok where the row does not have it, or there is no row.
func (s *shapes) cell(row []byte, name string) (cell, bool) {
	if row == nil {
		return cell{}, false
	}
	i, ok := s.shapeOf(row).index[name]
	if !ok {
		return cell{}, false
	}
	return cellAt(row, i), true
}

// encoder makes of a row what the sink would make of it.
type encoder struct {
	enc     *envelope.Encoder
	maker   rowMaker
	buf     []byte
	records []envelope.Record
	row     []byte
}

// encoded is a row of the source; it is valid until the next one.
type encoded struct {
	key    []byte
	object []byte
	row    []byte
}

var seqOfNone = []byte("0")

func (e *encoder) encode(t *sources.Table, values []sources.Value) (out encoded, err error) {
	change := sources.Change{Op: sources.OpRead, Table: t, After: values}
	if e.buf, e.records, err = e.enc.Encode(e.buf[:0], e.records[:0], &change, seqOfNone); err != nil {
		return out, fmt.Errorf("encode a row of the source: %w", err)
	}
	r := record{key: e.records[0].Key, value: e.records[0].Value}
	if err := r.readValue(); err != nil {
		return out, err
	}
	if e.row, err = e.maker.make(e.row[:0], r.after, nil, nil, cell{}); err != nil {
		return out, err
	}
	return encoded{key: r.key, object: r.after, row: e.row}, nil
}
