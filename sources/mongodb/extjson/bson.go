package extjson

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The types of BSON values, as https://bsonspec.org numbers them.
const (
	Double        = 0x01
	String        = 0x02
	Document      = 0x03
	Array         = 0x04
	Binary        = 0x05
	Undefined     = 0x06
	ObjectID      = 0x07
	Boolean       = 0x08
	DateTime      = 0x09
	Null          = 0x0a
	Regex         = 0x0b
	DBPointer     = 0x0c
	Code          = 0x0d
	Symbol        = 0x0e
	CodeWithScope = 0x0f
	Int32         = 0x10
	Timestamp     = 0x11
	Int64         = 0x12
	Decimal128    = 0x13
	MaxKey        = 0x7f
	MinKey        = 0xff
)

// Value is one BSON value. Data refers to the document it was read from.
type Value struct {
	Type byte
	Data []byte
}

var errTruncated = errors.New("the BSON is cut off")

// Elements reads the elements of a document one after the other.
type Elements struct {
	rest []byte
}

// Open begins to read a document or an array, of which data must be the whole.
func Open(data []byte) (Elements, error) {
	if len(data) < 5 {
		return Elements{}, errTruncated
	}
	if n := int32(binary.LittleEndian.Uint32(data)); int64(n) != int64(len(data)) {
		return Elements{}, fmt.Errorf("a BSON document says that it has %d bytes and has %d", n, len(data))
	}
	if data[len(data)-1] != 0 {
		return Elements{}, errors.New("a BSON document does not end in a zero byte")
	}
	return Elements{rest: data[4 : len(data)-1]}, nil
}

// Next returns the next element's name and value; ok is false at the end.
func (e *Elements) Next() (name []byte, v Value, ok bool, err error) {
	if len(e.rest) == 0 {
		return nil, Value{}, false, nil
	}
	v.Type = e.rest[0]
	end := bytes.IndexByte(e.rest[1:], 0)
	if end < 0 {
		return nil, Value{}, false, errTruncated
	}
	name = e.rest[1 : 1+end]
	body := e.rest[2+end:]
	n, err := size(v.Type, body)
	if err != nil {
		return nil, Value{}, false, err
	}
	v.Data, e.rest = body[:n:n], body[n:]
	return name, v, true, nil
}

// size is how many bytes a value takes at the beginning of data.
func size(kind byte, data []byte) (int, error) {
	n := 0
	switch kind {
	case Undefined, Null, MinKey, MaxKey:
	case Boolean:
		n = 1
	case Int32:
		n = 4
	case Double, DateTime, Timestamp, Int64:
		n = 8
	case ObjectID:
		n = 12
	case Decimal128:
		n = 16
	case Regex:
		pattern := bytes.IndexByte(data, 0)
		if pattern < 0 {
			return 0, errTruncated
		}
		options := bytes.IndexByte(data[pattern+1:], 0)
		if options < 0 {
			return 0, errTruncated
		}
		n = pattern + options + 2
	case String, Code, Symbol, Document, Array, Binary, DBPointer, CodeWithScope:
		if len(data) < 4 {
			return 0, errTruncated
		}
		length := int64(int32(binary.LittleEndian.Uint32(data)))
		least, extra := int64(1), int64(4)
		switch kind {
		case Document, Array:
			least, extra = 5, 0
		case CodeWithScope:
			least, extra = 14, 0
		case Binary:
			least, extra = 0, 5
		case DBPointer:
			extra = 16
		}
		if length < least {
			return 0, fmt.Errorf("a BSON value of type 0x%02x has the length %d", kind, length)
		}
		if length+extra > int64(len(data)) {
			return 0, errTruncated
		}
		return int(length + extra), nil
	default:
		return 0, fmt.Errorf("0x%02x is no type of BSON", kind)
	}
	if len(data) < n {
		return 0, errTruncated
	}
	return n, nil
}

// Text is the value of a String, a Code or a Symbol.
func (v Value) Text() ([]byte, error) {
	if len(v.Data) < 5 || v.Data[len(v.Data)-1] != 0 {
		return nil, errors.New("a BSON string does not end in a zero byte")
	}
	return v.Data[4 : len(v.Data)-1], nil
}

// Uint64 is the value of an 8-byte type, such as a Timestamp.
func (v Value) Uint64() uint64 {
	if len(v.Data) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(v.Data)
}

// Int is the value of an Int32, an Int64, or a Double without a fraction; ok is false for anything else.
func (v Value) Int() (n int64, ok bool) {
	switch v.Type {
	case Int32:
		return int64(int32(binary.LittleEndian.Uint32(v.Data))), true
	case Int64:
		return int64(v.Uint64()), true
	case Double:
		f := float(v.Data)
		return int64(f), float64(int64(f)) == f
	}
	return 0, false
}
