package pgoutput

import (
	"fmt"
	"slices"
	"strings"

	"weft/sources"
)

// Row is an inserted, updated or deleted row.
type Row struct {
	RelationOID uint32
	// OldKind says what Old is: 'O' the whole old row (replica identity full), 'K' only the columns of the replica
	// identity, all others being Null whatever they were; 0 for no Old.
	OldKind byte
	// Old is nil for an insert and for an update that has none, New is nil for a delete. Each holds a value for each of
	// the Relation's columns.
	Old, New []sources.Value
}

// DecodeRow decodes a frame of KindInsert, KindUpdate or KindDelete. The values are appended to slab, which is returned;
// their Data refers to the frame's memory. A slab that must grow moves to new memory, so rows that were decoded before
// stay valid until the caller cuts the slab back. With an error, slab is returned as it was.
//
// A value's State is Null, Unavailable for an unchanged TOAST value, or Present: then Data is the type's text output.
// Values in binary form are an error; the stream must not ask for them.
func DecodeRow(frame []byte, slab []sources.Value) (Row, []sources.Value, error) {
	kind, err := Kind(frame)
	if err != nil {
		return Row{}, slab, err
	}
	r := newReader(frame, kind)
	row := Row{RelationOID: r.uint32("relation id")}
	out := slab
	switch kind {
	case KindInsert:
		r.tupleKind("N")
		row.New, out = r.tuple(out)
	case KindUpdate:
		if tuple := r.tupleKind("KON"); tuple != 'N' {
			row.OldKind = tuple
			row.Old, out = r.tuple(out)
			r.tupleKind("N")
		}
		row.New, out = r.tuple(out)
	case KindDelete:
		row.OldKind = r.tupleKind("KO")
		row.Old, out = r.tuple(out)
	default:
		return Row{}, slab, fmt.Errorf("pgoutput: %s message: byte 0: want a row message: I, U or D", kindName(kind))
	}
	if err := r.end(); err != nil {
		return Row{}, slab, err
	}
	return row, out, nil
}

// tupleKind reads the byte that says what the tuple after it is: one of want's.
func (r *reader) tupleKind(want string) byte {
	at := r.pos
	kind := r.uint8("tuple kind")
	if strings.IndexByte(want, kind) < 0 {
		r.failf(at, "tuple kind is %q, want one of %q", kind, want)
	}
	return kind
}

// tuple appends the values of a tuple to slab. It returns them, with no room to append, and the slab.
func (r *reader) tuple(slab []sources.Value) (tuple, grown []sources.Value) {
	at := r.pos
	n := int(r.uint16("column count"))
	if n > r.left() { // a column takes a byte at least
		r.failf(at, "column count is %d, which %d remaining bytes cannot hold", n, r.left())
	}
	if r.err != nil {
		return nil, slab
	}
	if n == 0 {
		return []sources.Value{}, slab // not nil: there is a row, of no columns
	}
	slab = slices.Grow(slab, n)
	first := len(slab)
	for range n {
		at := r.pos
		var v sources.Value
		switch state := r.uint8("column state"); state {
		case 'n':
		case 'u':
			v.State = sources.Unavailable
		case 't':
			v = sources.Value{Data: r.bytes("column value"), State: sources.Present}
		case 'b':
			r.failf(at, "column value is in binary form, want text")
		default:
			r.failf(at, "column state is %q, want one of n, u, t", state)
		}
		if r.err != nil {
			return nil, slab
		}
		slab = append(slab, v)
	}
	return slab[first:len(slab):len(slab)], slab
}
