package envelope

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"weft/sources"
)

// Dialect says how column values are written; the envelope around them is the same.
type Dialect string

const (
	// JSON keeps every value exact and readable: decimals and times are strings.
	JSON Dialect = "json"
	// Debezium writes what Debezium's JSON converter writes by default.
	Debezium Dialect = "debezium"
)

// Options are a capture's settings of its envelope.
type Options struct {
	// Dialect is JSON when empty.
	Dialect Dialect
	// Connector, Name and Version are the source block's members of these names: the kind of datastore, the topics'
	// prefix, and the version of this program.
	Connector, Name, Version string
	// Now gives the envelope's ts_ms; time.Now when nil.
	Now func() time.Time
}

// Ordinals of the records of one change. They sort in the order in which the records take effect.
const (
	OrdinalDelete    byte = '0'
	OrdinalTombstone byte = '1'
	OrdinalCreate    byte = '2'
)

// Record is one record of a change.
type Record struct {
	// Key is nil for a row of a keyless table, and empty but not nil for a truncate, which goes to every partition.
	Key []byte
	// Value is nil for a tombstone.
	Value []byte
	// Row is the row that the record tells, as JSON and a part of Value; nil for none.
	Row []byte
	// Ordinal ends the record's seq.
	Ordinal byte
	// OldKey and NewKey are set on the records of a key change: NewKey on the delete and the tombstone of the old key,
	// OldKey on the create of the new one.
	OldKey, NewKey []byte
}

// maxTables bounds the compiled tables that are kept. A source makes a new *sources.Table whenever a table changes, and
// nobody tells the encoder that the old one is gone.
const maxTables = 1 << 14

// Encoder encodes the changes of one capture. It is not safe for concurrent use.
type Encoder struct {
	dialect Dialect
	now     func() time.Time
	// head is the source block up to its ts_ms.
	head []byte

	last     *sources.Table
	compiled *table
	tables   map[*sources.Table]*table
}

// New makes an Encoder. It refuses an unknown dialect, and names that are not UTF-8.
func New(o Options) (*Encoder, error) {
	e := &Encoder{dialect: o.Dialect, now: o.Now, tables: make(map[*sources.Table]*table)}
	switch e.dialect {
	case "":
		e.dialect = JSON
	case JSON, Debezium:
	default:
		return nil, sources.Fatal("set it to json or debezium", "unknown dialect %q", o.Dialect)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.head = []byte(`"source":{"version":`)
	for _, m := range []struct{ value, next string }{
		{o.Version, `,"connector":`}, {o.Connector, `,"name":`}, {o.Name, `,"ts_ms":`},
	} {
		var err error
		if e.head, err = appendText(e.head, m.value); err != nil {
			return nil, fmt.Errorf("make envelope: %w", err)
		}
		e.head = append(e.head, m.next...)
	}
	return e, nil
}

// Encode appends the records of c to dst and their bytes to buf, and returns both. seqPrefix is what precedes the ordinal
// in source.seq; it must need no escaping in JSON. A create, update, read, truncate or message makes one record. A delete
// makes a delete and, unless the table has no key, a tombstone; a key change makes a delete and a tombstone of the old key
// and a create of the new one. On an error, a *ValueError, both slices come back with their former lengths.
func (e *Encoder) Encode(buf []byte, dst []Record, c *sources.Change, seqPrefix []byte) ([]byte, []Record, error) {
	out, parts, n, err := e.encode(buf, c, seqPrefix)
	if err != nil {
		return buf, dst, err
	}
	for i := range parts[:n] {
		p := &parts[i]
		dst = append(dst, Record{
			Key: p.key.of(out), Value: p.value.of(out), Row: p.row.of(out), Ordinal: p.ordinal, OldKey: p.oldKey.of(out), NewKey: p.newKey.of(out),
		})
	}
	return out, dst, nil
}

// EncodeDelete is Encode for the delete, by a snapshot, of a row of which only the record key is left, as a record of this encoder's
// dialect had it: the key's members are its before image.
func (e *Encoder) EncodeDelete(buf []byte, dst []Record, of *sources.Table, key []byte, seqPrefix []byte) ([]byte, []Record, error) {
	t, err := e.table(of)
	if err != nil {
		return buf, dst, err
	}
	c := sources.Change{Op: sources.OpDelete, Cause: sources.CauseSnapshot, Table: of}
	v := value{op: c.Op, ordinal: OrdinalDelete, rawBefore: key}
	at := span{from: len(buf), set: true}
	out := append(buf, key...)
	at.to = len(out)
	out, body, err := e.appendValue(out, t, &c, &v, at, seqPrefix)
	if err != nil {
		return buf, dst, err
	}
	return out, append(dst, Record{Key: at.of(out), Value: body.of(out), Ordinal: OrdinalDelete}, Record{Key: at.of(out), Ordinal: OrdinalTombstone}), nil
}

// span is a part of a buffer that may still move.
type span struct {
	from, to int
	set      bool
}

func (s span) of(buf []byte) []byte {
	if !s.set {
		return nil
	}
	return buf[s.from:s.to:s.to]
}

// part is a Record before its bytes have come to rest.
type part struct {
	key, value, row, oldKey, newKey span
	ordinal                         byte
}

func (e *Encoder) encode(buf []byte, c *sources.Change, seqPrefix []byte) (out []byte, parts [3]part, n int, err error) {
	if c.Op == sources.OpMessage {
		out, parts[0], err = e.encodeMessage(buf, c, seqPrefix)
		return out, parts, 1, err
	}
	t, err := e.table(c.Table)
	if err != nil {
		return buf, parts, 0, err
	}
	if (c.Before != nil && len(c.Before) != len(t.columns)) || (c.After != nil && len(c.After) != len(t.columns)) {
		return buf, parts, 0, t.valueError(errColumns, nil, "")
	}
	v := value{op: c.Op, ordinal: OrdinalCreate}
	switch c.Op {
	case sources.OpTruncate:
		parts[0].key = span{from: len(buf), to: len(buf), set: true}
	case sources.OpCreate, sources.OpRead, sources.OpUpdate:
		if c.After == nil {
			return buf, parts, 0, t.valueError(errNoRow, nil, "")
		}
		if c.Op == sources.OpUpdate && t.keyDiffers(c) {
			return e.encodeKeyChange(buf, t, c, seqPrefix)
		}
		if buf, parts[0].key, err = t.appendKey(buf, c.After, c.Before); err != nil {
			return buf, parts, 0, err
		}
		v.before, v.after = c.Before, c.After
	case sources.OpDelete:
		if c.Before == nil {
			return buf, parts, 0, t.valueError(errNoRow, nil, "")
		}
		if buf, parts[0].key, err = t.appendKey(buf, c.Before, nil); err != nil {
			return buf, parts, 0, err
		}
		v.before, v.ordinal = c.Before, OrdinalDelete
		parts[1] = part{key: parts[0].key, ordinal: OrdinalTombstone}
	default:
		return buf, parts, 0, t.valueError(errOp, nil, "")
	}
	parts[0].ordinal = v.ordinal
	if buf, parts[0].value, err = e.appendValue(buf, t, c, &v, parts[0].key, seqPrefix); err != nil {
		return buf, parts, 0, err
	}
	if v.after != nil {
		parts[0].row = v.afterAt
	}
	n = 1
	if c.Op == sources.OpDelete && len(t.key) > 0 {
		n = 2
	}
	return buf, parts, n, nil
}

// encodeKeyChange makes the three records of an update whose key columns differ. Should both keys come out as the same
// text after all, the update stays one: a delete and a create of one key would say that there was a moment without it.
func (e *Encoder) encodeKeyChange(buf []byte, t *table, c *sources.Change, seqPrefix []byte) (out []byte, parts [3]part, n int, err error) {
	var oldKey, newKey span
	if buf, oldKey, err = t.appendKey(buf, c.Before, nil); err != nil {
		return buf, parts, 0, err
	}
	if buf, newKey, err = t.appendKey(buf, c.After, c.Before); err != nil {
		return buf, parts, 0, err
	}
	if string(oldKey.of(buf)) == string(newKey.of(buf)) {
		parts[0] = part{key: newKey, ordinal: OrdinalCreate}
		v := value{op: sources.OpUpdate, before: c.Before, after: c.After, ordinal: OrdinalCreate}
		buf, parts[0].value, err = e.appendValue(buf, t, c, &v, newKey, seqPrefix)
		return buf, parts, 1, err
	}
	parts[0] = part{key: oldKey, newKey: newKey, ordinal: OrdinalDelete}
	parts[1] = part{key: oldKey, newKey: newKey, ordinal: OrdinalTombstone}
	parts[2] = part{key: newKey, oldKey: oldKey, ordinal: OrdinalCreate}
	del := value{op: sources.OpDelete, before: c.Before, ordinal: OrdinalDelete}
	if buf, parts[0].value, err = e.appendValue(buf, t, c, &del, oldKey, seqPrefix); err != nil {
		return buf, parts, 0, err
	}
	create := value{op: sources.OpCreate, after: c.After, known: c.Before, ordinal: OrdinalCreate}
	buf, parts[2].value, err = e.appendValue(buf, t, c, &create, newKey, seqPrefix)
	return buf, parts, 3, err
}

// value is what one record of a change says of it.
type value struct {
	op            sources.Op
	before, after []sources.Value
	// rawBefore is the before image where it is there as JSON only.
	rawBefore []byte
	// known is the row before the change where the record does not show it.
	known   []sources.Value
	ordinal byte
	// afterAt is where appendValue has put the row after.
	afterAt span
}

// appendValue appends the envelope of one record of c.
func (e *Encoder) appendValue(buf []byte, t *table, c *sources.Change, v *value, key span, seqPrefix []byte) ([]byte, span, error) {
	at := span{from: len(buf), set: true}
	var column int
	var err error
	unavailable := 0
	buf = append(buf, `{"before":`...)
	if v.rawBefore != nil {
		buf = append(buf, v.rawBefore...)
	} else if buf, column, err = t.appendBefore(buf, v.before); err != nil {
		return buf, at, t.valueError(err, key.of(buf), t.columns[column].plain)
	}
	buf = append(buf, `,"after":`...)
	if v.known == nil {
		v.known = v.before
	}
	v.afterAt = span{from: len(buf), set: true}
	if buf, unavailable, column, err = t.appendAfter(buf, v.after, v.known); err != nil {
		return buf, at, t.valueError(err, key.of(buf), t.columns[column].plain)
	}
	v.afterAt.to = len(buf)
	buf = append(buf, ',')
	buf = e.appendSourceStart(buf, c)
	buf = append(buf, t.db...)
	buf = appendFiner(buf, c.CommitTime)
	buf = append(buf, t.tail...)
	if len(c.Meta) > 0 {
		buf = append(buf, ',')
		buf = append(buf, c.Meta...)
	}
	buf = appendSeq(buf, seqPrefix, v.ordinal)
	if unavailable > 0 {
		buf = t.appendUnavailable(buf, v.after, v.known)
	}
	buf = append(buf, `},"transaction":`...)
	if buf, err = appendTransaction(buf, c); err != nil {
		return buf, at, t.valueError(err, key.of(buf), "")
	}
	buf = append(buf, `,"op":"`...)
	buf = append(buf, byte(v.op), '"')
	now := e.now()
	buf = append(buf, `,"ts_ms":`...)
	buf = strconv.AppendInt(buf, now.UnixMilli(), 10)
	buf = append(buf, `,"ts_us":`...)
	buf = strconv.AppendInt(buf, now.UnixMicro(), 10)
	buf = append(buf, `,"ts_ns":`...)
	buf = strconv.AppendInt(buf, now.UnixNano(), 10)
	buf = append(buf, '}')
	at.to = len(buf)
	return buf, at, nil
}

// encodeMessage makes the record of a logical message, whose members stand in the order that Debezium gives them.
func (e *Encoder) encodeMessage(buf []byte, c *sources.Change, seqPrefix []byte) ([]byte, part, error) {
	p := part{ordinal: OrdinalCreate}
	if c.Message == nil {
		return buf, p, messageError(errNoRow)
	}
	var err error
	p.key = span{from: len(buf), set: true}
	buf = append(buf, `{"prefix":`...)
	if buf, err = appendText(buf, c.Message.Prefix); err != nil {
		return buf, p, messageError(err)
	}
	prefixEnd := len(buf)
	buf = append(buf, '}')
	p.key.to = len(buf)

	p.value = span{from: len(buf), set: true}
	buf = append(buf, `{"op":"m","ts_ms":`...)
	buf = strconv.AppendInt(buf, e.now().UnixMilli(), 10)
	buf = append(buf, ',')
	buf = e.appendSourceStart(buf, c)
	buf = append(buf, `,"db":`...)
	if buf, err = appendText(buf, c.Message.Database); err != nil {
		return buf, p, messageError(err)
	}
	buf = appendFiner(buf, c.CommitTime)
	buf = append(buf, `,"schema":"","table":""`...)
	if len(c.Meta) > 0 {
		buf = append(buf, ',')
		buf = append(buf, c.Meta...)
	}
	buf = appendSeq(buf, seqPrefix, OrdinalCreate)
	buf = append(buf, `},"transaction":`...)
	if buf, err = appendTransaction(buf, c); err != nil {
		return buf, p, messageError(err)
	}
	buf = append(buf, `,"message":`...)
	buf = append(buf, buf[p.key.from:prefixEnd]...)
	buf = append(buf, `,"content":`...)
	buf = appendBase64(buf, c.Message.Content)
	buf = append(buf, `}}`...)
	p.value.to = len(buf)
	return buf, p, nil
}

func messageError(err error) error {
	var f *fault
	if errors.As(err, &f) {
		return &ValueError{Reason: "logical message: " + f.reason, Remedy: f.remedy}
	}
	return fmt.Errorf("encode message: %w", err)
}

// appendSourceStart appends the source block up to and with its member snapshot.
func (e *Encoder) appendSourceStart(buf []byte, c *sources.Change) []byte {
	buf = append(buf, e.head...)
	if c.CommitTime == 0 {
		buf = append(buf, "null"...)
	} else {
		ms := c.CommitTime / 1000
		if c.CommitTime%1000 < 0 {
			ms--
		}
		buf = strconv.AppendInt(buf, ms, 10)
	}
	switch {
	case c.Cause == sources.CauseRepair:
		return append(buf, `,"snapshot":"repair"`...)
	case c.Cause == sources.CauseSnapshot || c.Op == sources.OpRead:
		return append(buf, `,"snapshot":"true"`...)
	}
	return append(buf, `,"snapshot":"false"`...)
}

// appendFiner appends the source block's finer commit times; they are null where the datastore tells of none.
func appendFiner(buf []byte, commitTime int64) []byte {
	if commitTime == 0 {
		return append(buf, `,"ts_us":null,"ts_ns":null`...)
	}
	buf = append(buf, `,"ts_us":`...)
	buf = strconv.AppendInt(buf, commitTime, 10)
	buf = append(buf, `,"ts_ns":`...)
	buf = strconv.AppendInt(buf, commitTime, 10)
	return append(buf, "000"...)
}

func appendSeq(buf, prefix []byte, ordinal byte) []byte {
	buf = append(buf, `,"seq":"`...)
	buf = append(buf, prefix...)
	return append(buf, ordinal, '"')
}

func appendTransaction(buf []byte, c *sources.Change) ([]byte, error) {
	if c.Transaction == nil {
		return append(buf, "null"...), nil
	}
	buf = append(buf, `{"id":`...)
	buf, err := appendText(buf, c.Transaction.ID)
	if err != nil {
		return buf, err
	}
	buf = append(buf, `,"total_order":`...)
	buf = strconv.AppendInt(buf, c.TransactionOrder, 10)
	buf = append(buf, `,"data_collection_order":`...)
	buf = strconv.AppendInt(buf, c.TableOrder, 10)
	return append(buf, '}'), nil
}
