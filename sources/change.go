package sources

// Op is what happened to a row, as the envelope's op letter.
type Op byte

const (
	OpCreate   Op = 'c'
	OpUpdate   Op = 'u'
	OpDelete   Op = 'd'
	OpRead     Op = 'r' // a row as a snapshot found it
	OpTruncate Op = 't' // all rows of Table are gone
	OpMessage  Op = 'm' // a message written into the datastore's log; see Message
)

// Cause is what brought a change about.
type Cause uint8

const (
	// CauseStream: the datastore's stream told it.
	CauseStream Cause = iota
	// CauseSnapshot: a snapshot put it between the stream's changes, to which it adds nothing that the datastore did.
	CauseSnapshot
	// CauseRepair is CauseSnapshot for a key whose row in the topic was found to be wrong.
	CauseRepair
)

// Change is one event of one table, in source order.
type Change struct {
	Op    Op
	Cause Cause
	// Table is the table as it was when the change was made; nil for OpMessage. A source returns the same pointer as
	// long as nothing about the table changes.
	Table *Table
	// Before and After hold a value for each of Table.Columns, or are nil. An update whose key columns differ between
	// Before and After is a key change.
	Before, After []Value
	// Order is the change's identity within its epoch: text of a width fixed for the source, that sorts as bytes in
	// source order. See Batch for how long the bytes live.
	Order []byte
	// Stamp is what a View tells by whether its read saw the change: for PostgreSQL the 64-bit transaction id, for a Poller the time
	// at which it found the row. Zero where the source is no Snapshotter.
	Stamp uint64
	// CommitTime at the datastore, in microseconds since 1970; 0 where unknown.
	CommitTime int64
	// Meta holds members of the envelope's source block that only this kind of datastore has, as JSON without the
	// braces: `"txId":820,"lsn":23698640`. Empty for none.
	Meta []byte
	// Transaction is nil where the datastore tells of none.
	Transaction *Transaction
	// TransactionOrder counts the transaction's changes and TableOrder those of this table in it, both from 1.
	TransactionOrder, TableOrder int64
	// Message is set for OpMessage alone.
	Message *Message
}

// Transaction is the source transaction that a change belongs to.
type Transaction struct {
	// ID is the same for every change of the transaction, and unique in the epoch.
	ID string
}

// Message is a message that an application wrote into the datastore's log (pg_logical_emit_message).
type Message struct {
	Database string
	Prefix   string
	Content  []byte
}

// State says whether a column's value is known.
type State uint8

const (
	// Null is SQL's null, or the zero Value.
	Null State = iota
	// Present means that Data holds the value.
	Present
	// Unavailable means that the datastore did not send the value: an unchanged TOAST value in After, a column outside
	// of the replica identity in Before. It is not null; a reader keeps the value it has.
	Unavailable
)

// Value is a column's value in the wire form of its Kind. It refers to the batch's memory.
type Value struct {
	Data  []byte
	State State
}

// Table is a captured table with the columns that its changes carry.
type Table struct {
	// Database and Schema may be empty where the datastore has no such level.
	Database, Schema, Name string
	Columns                []Column
	// Key indexes Columns in key order. Empty: the table has no key, and a change is told from others only by its
	// whole row.
	Key []int
}

// String is SCHEMA.NAME, or NAME where there is no schema.
func (t *Table) String() string {
	if t.Schema == "" {
		return t.Name
	}
	return t.Schema + "." + t.Name
}

// Column is a column of a Table.
type Column struct {
	Name string
	Type Type
}

// Type is a column's type: how its values' bytes are to be read, and what the datastore calls it.
type Type struct {
	Kind Kind
	// Name as the datastore gives it, for people: "numeric(12,2)".
	Name string
	// Precision: for Decimal the number of digits, 0 for unbounded; for the time kinds the digits of a second's fraction.
	// Size in bits for Int and Float (16, 32, 64), in bits for Bits where fixed, 0 where it varies.
	Precision int
	// Scale of a Decimal with a Precision: digits after the point.
	Scale int
	// Elem of an Array.
	Elem *Type
}

// Kind says which wire form a value has. The forms are PostgreSQL's text output with DateStyle ISO, IntervalStyle
// postgres and TimeZone UTC (https://www.postgresql.org/docs/current/datatype.html), since that source brings the most of
// them and must not convert; other sources write these forms.
type Kind uint8

const (
	String      Kind = iota // UTF-8 text; also every type that has no Kind of its own
	Bool                    // t or f
	Int                     // decimal integer, any sign, up to 64 bits
	Float                   // shortest exact decimal, such as 1e+20; NaN, Infinity, -Infinity
	Decimal                 // decimal digits with an optional point and no exponent; NaN, Infinity, -Infinity
	Bytes                   // the raw bytes
	Bits                    // a string of 0 and 1
	Date                    // 2026-02-28, 0044-03-15 BC, 5874897-12-31, infinity, -infinity
	Time                    // 23:59:59.123456, up to 24:00:00
	TimeTZ                  // 12:34:56.123456+02, +05:30, +01:02:03
	Timestamp               // 2026-02-28 23:59:59.123456, with BC and infinity as for Date
	TimestampTZ             // as Timestamp, then the offset: +00
	Interval                // 1 year 2 mons 3 days 04:05:06.789, -1 mons +2 days -00:00:01
	UUID                    // a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
	JSON                    // one JSON text, exactly as stored
	Point                   // (1.5,2.5)
	Map                     // hstore: "k1"=>"v1", "k2"=>NULL
	Array                   // array literal: {1,NULL,"a,b",{..}}, elements in the form of Elem with Bytes as \xhex
)
