package mongodb

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"weft/sources"
	"weft/sources/mongodb/extjson"
)

// newTable is the table of a collection: a document's _id, and the whole of it.
func newTable(db, coll string) *sources.Table {
	return &sources.Table{
		Database: db, Schema: db, Name: coll,
		Columns: []sources.Column{
			{Name: "_id", Type: sources.Type{Kind: sources.JSON, Name: "bson"}},
			{Name: "document", Type: sources.Type{Kind: sources.JSON, Name: "bson"}},
		},
		Key: []int{0},
	}
}

// table is the captured collection of a namespace, or nil.
func (s *source) table(db, coll []byte) (*captured, error) {
	if c := s.last; c != nil && c.table.Name == string(coll) && c.table.Schema == string(db) {
		return c, nil
	}
	c, ok := s.known[namespaceName{string(db), string(coll)}]
	if !ok {
		name := namespaceName{string(db), string(coll)}
		if strings.HasPrefix(name.coll, "system.") || !slices.ContainsFunc(s.tables, func(p pattern) bool {
			return p.matches(name.db, name.coll)
		}) {
			return nil, nil
		}
		quoted, err := json.Marshal(name.coll)
		if err != nil {
			return nil, fmt.Errorf("quote the name of a collection: %w", err)
		}
		c = &captured{table: newTable(name.db, name.coll), head: append([]byte(`"collection":`), quoted...)}
		s.known[name] = c
	}
	s.last = c
	return c, nil
}

// decode appends an event's change to the batch, if it has one.
func (s *source) decode(e *event) error {
	in, err := s.table(e.db, e.coll)
	if err != nil {
		return err
	}
	c := sources.Change{}
	var after, before []byte
	switch op := string(e.op); op {
	case "insert":
		c.Op, after = sources.OpCreate, e.full
	case "update", "replace":
		c.Op, after, before = sources.OpUpdate, e.full, e.before
	case "delete":
		c.Op, before = sources.OpDelete, e.before
	case "drop", "rename":
		c.Op = sources.OpTruncate
		if op == "rename" {
			if err := s.renamed(e); err != nil {
				return err
			}
		}
	case "dropDatabase", "invalidate": // each of its collections has an event of its own
		return nil
	default:
		return sources.Fatal("update Weft", "the server sent an event of a kind that this version does not know: %s", e)
	}
	if in == nil {
		return nil
	}
	c.Table = in.table
	if c.Op != sources.OpTruncate {
		if e.id.Type == 0 {
			return fmt.Errorf("%s: %w", e, errEvent)
		}
		if (c.Op == sources.OpCreate || string(e.op) == "replace") && after == nil {
			return fmt.Errorf("%s has no document: %w", e, errEvent)
		}
		id, err := s.value(e, &s.keys, e.id)
		if err != nil {
			return err
		}
		if c.Op == sources.OpDelete || before != nil {
			if c.Before, err = s.row(e, id, before); err != nil {
				return err
			}
		}
		if c.Op != sources.OpDelete {
			if c.After, err = s.row(e, id, after); err != nil {
				return err
			}
		}
	}
	delta, err := s.delta(e, &c)
	if err != nil {
		return err
	}
	if err := s.place(e, &c); err != nil {
		return err
	}
	s.meta(e, &c, in, delta)
	c.CommitTime = int64(e.clusterTime>>32) * 1e6
	if e.wallTime != 0 {
		c.CommitTime = e.wallTime * 1000
	}
	s.commitTime.Store(c.CommitTime)
	s.changes = append(s.changes, c)
	return nil
}

// renamed notes the gap that a rename onto a captured name is: the documents come with the collection, without events.
func (s *source) renamed(e *event) error {
	to, err := s.table(e.toDB, e.toColl)
	if err != nil || to == nil {
		return err
	}
	s.gap = &sources.GapError{
		Reason: fmt.Sprintf("collection %s.%s was renamed to %s, which is captured: the documents that it had are not in the "+
			"change stream", e.db, e.coll, to.table),
		Remedy: "set on_gap: continue, and write each document of the collection once if its topic is to hold them all",
	}
	s.failed = s.gap
	return nil
}

// delta is the description of an update whose document is not there.
func (s *source) delta(e *event, c *sources.Change) ([]byte, error) {
	if c.Op != sources.OpUpdate || e.full != nil {
		return nil, nil
	}
	if e.update == nil {
		return nil, fmt.Errorf("%s has neither a document nor updateDescription: %w", e, errEvent)
	}
	v, err := s.value(e, &s.writer, extjson.Value{Type: extjson.Document, Data: e.update})
	return v.Data, err
}

// row is a document's values. What the server did not send is Unavailable.
func (s *source) row(e *event, id sources.Value, doc []byte) ([]sources.Value, error) {
	v := sources.Value{State: sources.Unavailable}
	if doc != nil {
		var err error
		if v, err = s.value(e, &s.writer, extjson.Value{Type: extjson.Document, Data: doc}); err != nil {
			return nil, err
		}
	}
	n := len(s.values)
	s.values = append(s.values, id, v)
	return s.values[n : n+2 : n+2], nil
}

// value writes a BSON value as JSON.
func (s *source) value(e *event, w *extjson.Writer, v extjson.Value) (sources.Value, error) {
	from := len(s.buf)
	out, err := appendValue(s.buf, w, v, s.config.Invalid)
	var invalid *extjson.InvalidError
	switch {
	case errors.As(err, &invalid):
		return sources.Value{}, refused(e.String(), e.id, invalid)
	case err != nil:
		return sources.Value{}, err
	}
	s.buf = out
	return sources.Value{State: sources.Present, Data: s.buf[from:len(s.buf):len(s.buf)]}, nil
}

// place gives a change its order and its transaction.
func (s *source) place(e *event, c *sources.Change) error {
	last := s.position.ClusterTime.stamp()
	if e.clusterTime < last {
		return fmt.Errorf("the change stream went back: cluster time %016x came after %016x", e.clusterTime, last)
	}
	if passed := max(s.passed, s.position.Passed.stamp()); e.clusterTime <= passed {
		return fmt.Errorf("the change stream went back: cluster time %016x came when it was past %016x", e.clusterTime, passed)
	}
	id := ""
	if e.inTX && !s.tx.is(e) {
		var err error
		if id, err = transactionID(e); err != nil {
			return err
		}
	}
	if e.clusterTime > last {
		s.position.ClusterTime, s.position.Ordinal = timestampOf(e.clusterTime), 0
	}
	c.Stamp = e.clusterTime
	from := len(s.buf)
	s.buf = appendOrder(s.buf, e.clusterTime, s.position.Ordinal, 0)
	c.Order = s.buf[from:len(s.buf):len(s.buf)]
	s.position.Ordinal++
	if !e.inTX {
		s.tx = nil
		return nil
	}
	if !s.tx.is(e) {
		if s.tx == nil || s.tx.ID != id { // else it is the position's, whose session is not known yet
			s.tx = &transaction{Transaction: sources.Transaction{ID: id}, tables: map[string]int64{}}
		}
		s.tx.lsid, s.tx.txn = append([]byte(nil), e.lsid...), e.txn
	}
	s.tx.changes++
	s.tx.tables[c.Table.String()]++
	c.Transaction = &s.tx.Transaction
	c.TransactionOrder, c.TableOrder = s.tx.changes, s.tx.tables[c.Table.String()]
	return nil
}

// appendOrder appends a Change.Order: that of the ordinal-th change of a cluster time, or where row is above 0, of the row-th that
// a snapshot puts behind that change.
func appendOrder(dst []byte, clusterTime uint64, ordinal, row int64) []byte {
	dst = appendHex(dst, clusterTime, 16)
	dst = appendHex(append(dst, '.'), uint64(ordinal), 8)
	return appendHex(append(dst, '.'), uint64(row), 8)
}

// appendHex appends the lowest digits of n.
func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// transactionID is the session's UUID and the number of the transaction in it.
func transactionID(e *event) (string, error) {
	id, ok, err := lookup(extjson.Value{Type: extjson.Document, Data: e.lsid}, "id")
	if err != nil || !ok || id.Type != extjson.Binary {
		return "", fmt.Errorf("%s, field lsid: %w", e, errors.Join(errEvent, err))
	}
	return hex.EncodeToString(id.Data[5:]) + ":" + strconv.FormatInt(e.txn, 10), nil
}

// meta writes the members of the source block that only MongoDB has.
func (s *source) meta(e *event, c *sources.Change, in *captured, delta []byte) {
	from := len(s.buf)
	buf := append(append(s.buf, in.head...), `,"clusterTime":{"t":`...)
	buf = strconv.AppendUint(buf, e.clusterTime>>32, 10)
	buf = strconv.AppendUint(append(buf, `,"i":`...), e.clusterTime&math.MaxUint32, 10)
	buf = append(buf, '}')
	if e.wallTime != 0 {
		buf = strconv.AppendInt(append(buf, `,"wallTime":`...), e.wallTime, 10)
	}
	if s.tx != nil {
		session, _, _ := strings.Cut(s.tx.ID, ":")
		buf = append(append(append(buf, `,"lsid":"`...), session...), '"')
		buf = strconv.AppendInt(append(buf, `,"txnNumber":`...), e.txn, 10)
	}
	switch {
	case c.Op == sources.OpTruncate:
		buf = append(append(append(buf, `,"operationType":"`...), e.op...), '"')
	case c.Op == sources.OpCreate || string(e.op) == "replace":
		buf = append(buf, `,"fullDocument":"event"`...)
	case delta != nil:
		buf = append(append(buf, `,"fullDocument":"delta","updateDescription":`...), delta...)
	case c.Op == sources.OpUpdate && s.config.FullDocument == FullLookup:
		buf = append(buf, `,"fullDocument":"lookup"`...)
	case c.Op == sources.OpUpdate:
		buf = append(buf, `,"fullDocument":"postImage"`...)
	}
	s.buf = buf
	c.Meta = buf[from:len(buf):len(buf)]
}
