package sources

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// ErrNotBegun is what OpenReader returns for a position from before the stream begins, at which no place is for rows: it is
// to be tried again with a later one.
var ErrNotBegun = errors.New("the stream has not begun")

// Snapshotter is optional for a Config: a datastore whose tables can be read in key order beside the stream.
type Snapshotter interface {
	// OpenReader connects for reading the tables of a capture. Every chunk that the reader returns sees all changes that
	// the capture's stream had returned when it was at o.Position; the reader waits where the datastore does not show
	// them yet. Errors are as those of Config.Open. Fields of o that concern the stream alone are ignored.
	OpenReader(ctx context.Context, o OpenOptions) (Reader, error)
}

// Reader reads tables in chunks, each of which knows what it saw. ReadChunk may be called by several goroutines at once, the
// others by one at a time; AppendOrder does no I/O, and may be called beside any of them.
type Reader interface {
	// Tables lists the capture's tables as Table.String has them: those under whose names changes arrive.
	Tables(ctx context.Context) ([]string, error)
	// Split returns up to n-1 cursors that cut a table into ranges of about the same size, in key order; none where the
	// table is small, has no key, or its keys tell nothing.
	Split(ctx context.Context, table string, n int) ([]Cursor, error)
	// ReadChunk reads rows as one moment of the datastore had them. A table that is gone is a *FatalError.
	ReadChunk(ctx context.Context, r ChunkRequest) (*Chunk, error)
	// AppendOrder appends the Change.Order of the i-th row, from 0, that is put into the stream after position p. It is
	// above that of every change before p and below that of every change after it, and of the same width. Where changes have an
	// order per key only, that holds for those of a key that a View which is passed at p sees, and for those that it does not see.
	AppendOrder(dst []byte, p Position, i int) ([]byte, error)
	Close() error
}

// PolledReader is the Reader of a Poller. The log has the versions of rows that polls saw, so that it is at no moment what a read saw:
// Chunk.Versions tells whether a row has stayed the same from one read to another. A View's Sees may say no of a change that the read
// saw, though never yes of one that it did not, and SeesSource says yes.
type PolledReader interface {
	Reader
	// DeletesAfter is how long after one search for deleted rows the stream begins the next; 0: it makes none.
	DeletesAfter() time.Duration
}

// Cursor is a place between the rows of a table, in key order. Only the source that made it reads it. It holds one JSON
// value, so that people can read it in a checkpoint.
type Cursor = json.RawMessage

// ChunkRequest says which rows of a table to read.
type ChunkRequest struct {
	Table string
	// After and Until bound the keys, exclusive and inclusive; nil for the table's ends.
	After, Until Cursor
	// Keys, where not nil, asks for the rows with these keys alone: for each key the wire forms of the table's key columns, in
	// Table.Key's order. After and Until are then nil, and Chunk.Next will be.
	Keys [][][]byte
	// Where is a condition in the datastore's own language, or empty for all rows.
	Where string
	// Rows and Bytes bound the chunk; one row may exceed Bytes.
	Rows, Bytes int
}

// Chunk is a run of rows in key order.
type Chunk struct {
	Table *Table
	// Rows hold a value for each of Table.Columns, none of them Unavailable. The memory is the chunk's own.
	Rows [][]Value
	// Versions are those of Rows, of a PolledReader: a row that is written gets another one.
	Versions []int64
	Bytes    int
	// Next is where to go on, nil when the range or the table is read to its end.
	Next Cursor
	// View is what the read saw. Of a keyless table it is the same in all chunks from a request with After nil to that
	// whose Next is nil: they are of one moment, which a restart cannot go on from.
	View View
}

// View is the state of the datastore that a read saw: a snapshot, a cluster time, a read timestamp. Time goes forward: what a
// View sees, those of all reads that begin after it was returned see too.
type View interface {
	// Sees tells whether the read saw the change with this stamp (Change.Stamp).
	Sees(stamp uint64) bool
	// SeesSource is Sees for a change of which only the envelope's source block is left, as the log holds it.
	SeesSource(block json.RawMessage) (bool, error)
	// Horizon is a stamp below which this view and every later one sees all changes.
	Horizon() uint64
	// Passed tells whether the stream has returned every change that the read saw, once it is at p. A source sees to it
	// that its stream comes past a view soon, and that a batch ends there, although nothing else is written.
	Passed(p Position) (bool, error)
}
