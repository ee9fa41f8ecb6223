package mongodb

import (
	"bytes"
	"errors"
	"fmt"

	"weft/sources/mongodb/extjson"
)

// event is a change event, cut into its fields, which refer to its BSON. A field that is absent or null has no Data.
type event struct {
	op, db, coll, toDB, toColl []byte
	token                      []byte
	clusterTime                uint64
	wallTime                   int64 // milliseconds since 1970, 0 where unknown
	id                         extjson.Value
	full, before, update       []byte
	lsid                       []byte
	txn                        int64
	inTX                       bool
	fragment, of               int64
}

var (
	errEvent = errors.New("a change event has not the form that the server documents")

	opInvalidate = []byte("invalidate")
)

func (e *event) String() string { return fmt.Sprintf("%s of %s.%s", e.op, e.db, e.coll) }

// parseEvent cuts an event, or one fragment of one.
func parseEvent(data []byte) (event, error) {
	var e event
	err := e.add(data)
	return e, err
}

// add takes the fields of an event, or of its next fragment: each field is in one of them.
func (e *event) add(data []byte) error {
	elements, err := extjson.Open(data)
	if err != nil {
		return fmt.Errorf("read change event: %w", err)
	}
	for {
		name, v, ok, err := elements.Next()
		if err != nil {
			return fmt.Errorf("read change event: %w", err)
		}
		if !ok {
			return nil
		}
		if v.Type == extjson.Null {
			continue
		}
		if err := e.field(string(name), v); err != nil {
			return fmt.Errorf("read change event, field %s: %w", name, err)
		}
	}
}

func (e *event) field(name string, v extjson.Value) (err error) {
	switch name {
	case "_id":
		e.token, err = document(v)
	case "operationType":
		if v.Type != extjson.String {
			return errEvent
		}
		e.op, err = v.Text()
	case "clusterTime":
		if v.Type != extjson.Timestamp {
			return errEvent
		}
		e.clusterTime = v.Uint64()
	case "wallTime":
		if v.Type != extjson.DateTime {
			return errEvent
		}
		e.wallTime = int64(v.Uint64())
	case "ns":
		e.db, e.coll, err = namespace(v)
	case "to":
		e.toDB, e.toColl, err = namespace(v)
	case "documentKey":
		var ok bool
		if e.id, ok, err = lookup(v, "_id"); err == nil && !ok {
			err = errEvent
		}
	case "fullDocument":
		e.full, err = document(v)
	case "fullDocumentBeforeChange":
		e.before, err = document(v)
	case "updateDescription":
		e.update, err = document(v)
	case "lsid":
		e.lsid, err = document(v)
	case "txnNumber":
		e.txn, e.inTX = v.Int()
	case "splitEvent":
		e.fragment, e.of, err = split(v)
	}
	return err
}

func document(v extjson.Value) ([]byte, error) {
	if v.Type != extjson.Document {
		return nil, errEvent
	}
	return v.Data, nil
}

// lookup finds a field of a document.
func lookup(v extjson.Value, field string) (found extjson.Value, ok bool, err error) {
	doc, err := document(v)
	if err != nil {
		return found, false, err
	}
	elements, err := extjson.Open(doc)
	if err != nil {
		return found, false, err
	}
	for {
		name, v, more, err := elements.Next()
		if err != nil || !more {
			return found, false, err
		}
		if string(name) == field {
			return v, true, nil
		}
	}
}

// namespace reads a database's and a collection's name; dropDatabase has only the former.
func namespace(v extjson.Value) (db, coll []byte, err error) {
	if db, err = text(v, "db"); err != nil {
		return nil, nil, err
	}
	coll, err = text(v, "coll")
	return db, coll, err
}

// text is a field of a document that is a string, nil where it is absent.
func text(v extjson.Value, field string) ([]byte, error) {
	found, ok, err := lookup(v, field)
	if err != nil || !ok {
		return nil, err
	}
	if found.Type != extjson.String {
		return nil, errEvent
	}
	return found.Text()
}

func split(v extjson.Value) (fragment, of int64, err error) {
	if fragment, err = number(v, "fragment"); err != nil {
		return 0, 0, err
	}
	if of, err = number(v, "of"); err != nil {
		return 0, 0, err
	}
	if fragment < 1 || fragment > of {
		return 0, 0, errEvent
	}
	return fragment, of, nil
}

func number(v extjson.Value, field string) (int64, error) {
	found, ok, err := lookup(v, field)
	if err != nil {
		return 0, err
	}
	n, isInt := found.Int()
	if !ok || !isInt {
		return 0, errEvent
	}
	return n, nil
}

// isInvalidate tells whether data is an invalidate event. One that cannot be read is not; Next reports it.
func isInvalidate(data []byte) bool {
	op, err := text(extjson.Value{Type: extjson.Document, Data: data}, "operationType")
	return err == nil && bytes.Equal(op, opInvalidate)
}
