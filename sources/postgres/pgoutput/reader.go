package pgoutput

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// reader walks over a frame. After the first error it stays where it is, and every further read gives zero.
type reader struct {
	frame []byte
	pos   int
	kind  byte
	err   error
}

// newReader checks that frame is of the kind, and stands after it.
func newReader(frame []byte, kind byte) reader {
	r := reader{frame: frame, kind: kind}
	if got := r.uint8("message kind"); got != kind {
		r.failf(0, "message kind is %q, want %q", got, kind)
	}
	return r
}

// failf notes the first error: what is wrong with the field that begins at the byte offset at.
func (r *reader) failf(at int, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("pgoutput: %s message: byte %d: %s", kindName(r.kind), at, fmt.Sprintf(format, args...))
	}
}

// short notes that the frame ends inside of a field of size bytes.
func (r *reader) short(field string, size int) {
	r.failf(r.pos, "want %s (%d bytes), but only %d remain", field, size, r.left())
}

func (r *reader) left() int { return len(r.frame) - r.pos }

func (r *reader) uint8(field string) byte {
	if r.err != nil || r.left() < 1 {
		r.short(field, 1)
		return 0
	}
	v := r.frame[r.pos]
	r.pos++
	return v
}

func (r *reader) uint16(field string) uint16 {
	if r.err != nil || r.left() < 2 {
		r.short(field, 2)
		return 0
	}
	v := binary.BigEndian.Uint16(r.frame[r.pos:])
	r.pos += 2
	return v
}

func (r *reader) uint32(field string) uint32 {
	if r.err != nil || r.left() < 4 {
		r.short(field, 4)
		return 0
	}
	v := binary.BigEndian.Uint32(r.frame[r.pos:])
	r.pos += 4
	return v
}

func (r *reader) uint64(field string) uint64 {
	if r.err != nil || r.left() < 8 {
		r.short(field, 8)
		return 0
	}
	v := binary.BigEndian.Uint64(r.frame[r.pos:])
	r.pos += 8
	return v
}

// flags reads a byte of flags. A flag outside of known is an error: what it means for the rest is not known.
func (r *reader) flags(field string, known byte) byte {
	at := r.pos
	v := r.uint8(field)
	if v&^known != 0 {
		r.failf(at, "%s are %#02x, of which only %#02x are known", field, v, known)
	}
	return v
}

// string reads text up to a zero byte.
func (r *reader) string(field string) string {
	if r.err != nil {
		return ""
	}
	n := bytes.IndexByte(r.frame[r.pos:], 0)
	if n < 0 {
		r.failf(r.pos, "want %s (text up to a zero byte), but no zero byte in the remaining %d", field, r.left())
		return ""
	}
	v := string(r.frame[r.pos : r.pos+n])
	r.pos += n + 1
	return v
}

// bytes reads a 32-bit length and that many bytes, which it does not copy. Appending to them copies.
func (r *reader) bytes(field string) []byte {
	at := r.pos
	n := int64(r.uint32(field))
	if r.err != nil {
		return nil
	}
	if n > int64(r.left()) {
		r.failf(at, "%s is %d bytes long, but only %d remain", field, n, r.left())
		return nil
	}
	end := r.pos + int(n)
	v := r.frame[r.pos:end:end]
	r.pos = end
	return v
}

// end returns the first error, if any; bytes that are left are one.
func (r *reader) end() error {
	if r.err == nil && r.left() > 0 {
		r.failf(r.pos, "want the end, but %d bytes remain", r.left())
	}
	return r.err
}

func kindName(kind byte) string {
	switch kind {
	case KindBegin:
		return "Begin"
	case KindCommit:
		return "Commit"
	case KindOrigin:
		return "Origin"
	case KindRelation:
		return "Relation"
	case KindType:
		return "Type"
	case KindInsert:
		return "Insert"
	case KindUpdate:
		return "Update"
	case KindDelete:
		return "Delete"
	case KindTruncate:
		return "Truncate"
	case KindMessage:
		return "Message"
	default:
		return fmt.Sprintf("%q", kind)
	}
}
