package verify

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// record is a topic's record as far as a fold reads it. All of it refers to the record's memory.
type record struct {
	partition int32
	offset    int64
	// key is nil for a row of a keyless table, value nil for a tombstone.
	key, value []byte
	// moved tells that the record is half of a key change: 'd' of its delete or tombstone, 'c' of its create, else 0.
	moved byte

	op            byte
	before, after []byte // JSON objects, or nil
	source        []byte // the source block
	change        []byte // its seq without the ordinal
	// unavailable is the JSON array of the columns that after does not tell, or nil.
	unavailable []byte
	// streamed tells that the record is of a transaction, and not of a read beside the stream.
	streamed bool
}

var errEnvelope = errors.New("not a change's envelope")

// parse reads a record of a table's topic.
func parse(r *kgo.Record) (record, error) {
	out := record{partition: r.Partition, offset: r.Offset, key: r.Key, value: r.Value}
	for _, h := range r.Headers {
		switch h.Key {
		case "__debezium.newkey":
			out.moved = 'd'
		case "__debezium.oldkey":
			out.moved = 'c'
		}
	}
	if r.Value == nil {
		if r.Key == nil {
			return out, out.fault(errEnvelope)
		}
		return out, nil
	}
	if err := out.readValue(); err != nil {
		return out, out.fault(err)
	}
	return out, nil
}

func (r *record) fault(err error) error {
	return fmt.Errorf("read record at partition %d, offset %d, key %s: %w", r.partition, r.offset, r.key, err)
}

func (r *record) readValue() error {
	err := eachMember(r.value, func(name, value []byte) error {
		switch string(name) {
		case `"before"`:
			r.before = object(value)
		case `"after"`:
			r.after = object(value)
		case `"source"`:
			r.source = value
		case `"op"`:
			if len(value) == 3 {
				r.op = value[1]
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.op == 0 || r.source == nil {
		return errEnvelope
	}
	return eachMember(r.source, func(name, value []byte) error {
		switch string(name) {
		case `"seq"`:
			if len(value) > 3 {
				r.change = value[1 : len(value)-2]
			}
		case `"snapshot"`:
			r.streamed = string(value) == `"false"`
		case `"unavailable"`:
			r.unavailable = value
		}
		return nil
	})
}

// object returns a value if it is an object, and nil for null.
func object(value []byte) []byte {
	if len(value) == 0 || value[0] != '{' {
		return nil
	}
	return value
}

var errJSON = errors.New("not valid JSON")

// eachMember calls fn for the members of a JSON object: the name with its quotes, and the value, as they are written. It finds
// the ends of values and checks no more of them than that takes.
func eachMember(text []byte, fn func(name, value []byte) error) error {
	i := space(text, 0)
	if i >= len(text) || text[i] != '{' {
		return errJSON
	}
	i = space(text, i+1)
	if i < len(text) && text[i] == '}' {
		return nil
	}
	for {
		nameEnd := stringEnd(text, i)
		if nameEnd < 0 {
			return errJSON
		}
		name := text[i:nameEnd]
		i = space(text, nameEnd)
		if i >= len(text) || text[i] != ':' {
			return errJSON
		}
		i = space(text, i+1)
		end := valueEnd(text, i)
		if end < 0 {
			return errJSON
		}
		if err := fn(name, text[i:end]); err != nil {
			return err
		}
		i = space(text, end)
		switch {
		case i >= len(text):
			return errJSON
		case text[i] == '}':
			return nil
		case text[i] != ',':
			return errJSON
		}
		i = space(text, i+1)
	}
}

// eachElement calls fn for the elements of a JSON array.
func eachElement(text []byte, fn func(value []byte) error) error {
	i := space(text, 0)
	if i >= len(text) || text[i] != '[' {
		return errJSON
	}
	i = space(text, i+1)
	if i < len(text) && text[i] == ']' {
		return nil
	}
	for {
		end := valueEnd(text, i)
		if end < 0 {
			return errJSON
		}
		if err := fn(text[i:end]); err != nil {
			return err
		}
		i = space(text, end)
		switch {
		case i >= len(text):
			return errJSON
		case text[i] == ']':
			return nil
		case text[i] != ',':
			return errJSON
		}
		i = space(text, i+1)
	}
}

func space(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// stringEnd returns where the string that begins at i ends, -1 for none.
func stringEnd(text []byte, i int) int {
	if i >= len(text) || text[i] != '"' {
		return -1
	}
	for i++; i < len(text); {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			return -1
		}
		backslashes := 0
		for n > backslashes && text[i+n-1-backslashes] == '\\' {
			backslashes++
		}
		i += n + 1
		if backslashes%2 == 0 {
			return i
		}
	}
	return -1
}

// valueEnd returns where the value that begins at i ends, -1 for none.
func valueEnd(text []byte, i int) int {
	if i >= len(text) {
		return -1
	}
	switch text[i] {
	case '"':
		return stringEnd(text, i)
	case '{', '[':
		depth := 0
		for i < len(text) {
			switch text[i] {
			case '"':
				if i = stringEnd(text, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(text) && text[i] != ',' && text[i] != '}' && text[i] != ']' && space(text, i) == i {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
