package fold

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"

	"weft/sources/jsonscan"
)

// row is a stored row.
type row struct {
	// seq of the record that told it last.
	seq string
	// columns is a JSON object of what is known.
	columns []byte
	// open are the columns whose values the row's own records have not told.
	open []open
}

// open is a column without a value. Where change is set, the delete half of that key change may have told it since.
type open struct{ name, change string }

// reset makes r what the record tells. Where columns are unavailable, complete must follow.
func (r *row) reset(e *body) {
	r.seq, r.columns, r.open = e.seq, e.after, r.open[:0]
}

// complete takes the columns that the record does not tell from the row that was before; nil for none.
func (r *row) complete(e *body, old *row) error {
	if len(e.unavailable) == 0 {
		return nil
	}
	out := make([]byte, 0, len(e.after)+64)
	out = append(out, '{')
	// In the debezium dialect after holds a placeholder for what is unavailable.
	err := jsonscan.Members(e.after, func(name, raw []byte) error {
		if !slices.Contains(e.unavailable, string(name)) {
			out = appendMember(out, name, raw)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range e.unavailable {
		var raw []byte
		link := ""
		if old != nil {
			if raw, link, err = old.find(name); err != nil {
				return err
			}
		}
		if raw != nil {
			out = appendMember(out, []byte(name), raw)
		} else {
			r.open = append(r.open, open{name: name, change: link})
		}
	}
	r.columns = append(out, '}')
	return nil
}

// find returns a column's value, or else the key change that may tell it.
func (r *row) find(name string) (raw []byte, change string, err error) {
	if r.columns == nil {
		return nil, "", nil
	}
	err = jsonscan.Members(r.columns, func(n, value []byte) error {
		if string(n) == name {
			raw = value
		}
		return nil
	})
	for _, o := range r.open {
		if o.name == name {
			change = o.change
		}
	}
	return raw, change, err
}

func appendMember(dst, name, raw []byte) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(jsonscan.AppendQuoted(dst, name), ':')
	return append(dst, raw...)
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

var errStored = errors.New("the fold's store returned something else than was put into it")

func cutBytes(b []byte) (part, rest []byte, err error) {
	n, width := binary.Uvarint(b)
	if width <= 0 || n > uint64(len(b)-width) {
		return nil, nil, errStored
	}
	return b[width : width+int(n)], b[width+int(n):], nil
}

// append appends the stored form: seq, number of open columns, these, and the object.
func (r *row) append(dst []byte) []byte {
	dst = appendBytes(dst, r.seq)
	dst = binary.AppendUvarint(dst, uint64(len(r.open)))
	for _, o := range r.open {
		dst = appendBytes(appendBytes(dst, o.name), o.change)
	}
	return append(dst, r.columns...)
}

// decode reads the stored form; the row refers to it.
func (r *row) decode(stored []byte) error {
	seq, rest, err := cutBytes(stored)
	if err != nil {
		return err
	}
	n, width := binary.Uvarint(rest)
	if width <= 0 || n > uint64(len(rest)) {
		return errStored
	}
	rest = rest[width:]
	*r = row{seq: string(seq), open: r.open[:0]}
	for range n {
		var name, change []byte
		if name, rest, err = cutBytes(rest); err != nil {
			return err
		}
		if change, rest, err = cutBytes(rest); err != nil {
			return err
		}
		r.open = append(r.open, open{string(name), string(change)})
	}
	if len(rest) > 0 {
		r.columns = rest
	}
	return nil
}

// canonical is an object with its members in the order of their names, without space between them: equal for equal rows.
func canonical(object []byte) ([]byte, error) {
	type member struct{ name, raw []byte }
	var all []member
	err := jsonscan.Members(object, func(name, raw []byte) error {
		all = append(all, member{name, raw})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	out := append(make([]byte, 0, len(object)), '{')
	for _, m := range all {
		out = appendMember(out, m.name, m.raw)
	}
	return append(out, '}'), nil
}

// Kinds of a key's values, in the order in which they sort.
const (
	orderNull byte = iota + 1
	orderFalse
	orderTrue
	orderNumber
	orderString
	orderOther
)

// AppendSortable appends bytes that sort as the values of a record's key and differ where keys differ; KeyOf cuts the key out.
func AppendSortable(dst, key []byte) []byte { return append(appendOrder(dst, key), key...) }

// appendOrder appends bytes that sort as the values of a record's key: numbers by size, strings by their bytes. A key that is
// no object sorts by its bytes.
func appendOrder(dst, key []byte) []byte {
	start := len(dst)
	err := jsonscan.Members(key, func(_, raw []byte) error {
		switch {
		case string(raw) == "null":
			dst = append(dst, orderNull)
		case string(raw) == "false":
			dst = append(dst, orderFalse)
		case string(raw) == "true":
			dst = append(dst, orderTrue)
		case raw[0] == '"':
			s, err := jsonscan.Unquote(raw)
			if err != nil {
				return err
			}
			dst = appendTerminated(append(dst, orderString), s)
		case raw[0] == '{' || raw[0] == '[':
			dst = appendTerminated(append(dst, orderOther), raw)
		default:
			dst = appendNumberOrder(append(dst, orderNumber), raw)
		}
		return nil
	})
	if err != nil {
		dst = appendTerminated(append(dst[:start], orderOther), key)
	}
	return append(dst, 0)
}

// appendTerminated appends s so that it ends before any longer one of which it is the beginning.
func appendTerminated(dst, s []byte) []byte {
	for _, b := range s {
		if dst = append(dst, b); b == 0 {
			dst = append(dst, 0xff)
		}
	}
	return append(dst, 0, 1)
}

// appendNumberOrder appends a number by its float64, and integers that are the same as such by themselves.
func appendNumberOrder(dst, raw []byte) []byte {
	whole, err := strconv.ParseInt(string(raw), 10, 64)
	f := float64(whole)
	if err != nil {
		f, _ = strconv.ParseFloat(string(raw), 64) // out of range: an infinity, which sorts right
		whole = 0
	}
	bits := math.Float64bits(f)
	if bits>>63 != 0 {
		bits = ^bits
	} else {
		bits |= 1 << 63
	}
	dst = binary.BigEndian.AppendUint64(dst, bits)
	return binary.BigEndian.AppendUint64(dst, uint64(whole)^1<<63)
}
