package sources

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/go-hclog"
)

// Position says where to resume. Only the source that made it reads it; everybody else stores it and hands it back. It
// holds one JSON value, so that people can read it in a checkpoint. Nil means that the capture has never run.
type Position = json.RawMessage

// Config is a source's part of the config file, and its factory. Each source exports one struct that implements it.
type Config interface {
	// Connector names the kind of datastore in the envelope's source block, such as "postgresql".
	Connector() string
	// Validate reports what can be told to be wrong without connecting. Its errors name the field.
	Validate() error
	// Open connects, verifies that everything the capture needs is there, and returns a source that continues after
	// o.Position. A *GapError says that changes between that position and what the datastore still has are lost; a
	// *FatalError that somebody must change something first. Any other error is worth a retry. With a nil position the
	// capture begins here: it holds what is committed after its first position is durable, and may hold some from before.
	Open(ctx context.Context, o OpenOptions) (Source, error)
}

// OpenOptions is what a capture asks of its source.
type OpenOptions struct {
	// Capture is the capture's name: [a-z0-9_-]{1,50}, unique in a log.
	Capture string
	// Tables lists tables as SCHEMA.TABLE, or NAME where the datastore has no schemas; * and ? match any characters
	// of one part. Every pattern must match at least one table.
	Tables []string
	// Keys names the key columns of tables that have no usable key of their own, by SCHEMA.TABLE.
	Keys map[string][]string
	// Position is where to resume: one that this source returned in a Batch and that was then committed.
	Position Position
	// Above is the highest Change.Order that the log may hold beyond Position, or nil. A source whose Order is not
	// reproducible continues above it; a source that repeats the same changes with the same Order ignores it.
	Above []byte
	// Held tells which rows the log holds; nil where that is not known. It is for Pollers alone, whose changes are then compared
	// with what the log holds: an OpCreate of a row that it has becomes an update or nothing, an OpDelete needs only the key.
	Held Holder
	// Existing says that a capture that begins holds the rows that are there already. It too is for Pollers alone.
	Existing bool
	// BatchBytes bounds the encoded size of a Batch (it may be exceeded by one change), and ReadAheadBytes what a
	// source may read ahead of Next. Both are above zero.
	BatchBytes, ReadAheadBytes int
	// Logger is never nil. Nothing secret may be written to it.
	Logger hclog.Logger
}

// Source reads the changes of one capture. Next is called by one goroutine; Durable may be called by another.
type Source interface {
	// Next blocks until it has changes or a newer position. An empty Batch with a newer Position reports idle progress.
	// The batch and all that it refers to are valid until the next call of Next or Close. When ctx ends, Next returns
	// ctx's error having lost nothing: the next call goes on from the same place.
	Next(ctx context.Context) (Batch, error)
	// Durable tells that everything up to p is committed in the log, so that the source may release it. It never
	// blocks. Positions arrive in the order in which Next returned them; some may be left out.
	Durable(p Position) error
	// Close ends what Open started and waits for it. It is safe after an error of Next, and ends no slot or stream at
	// the datastore.
	Close() error
}

// Lagger is optional: a source that knows how far behind its datastore it is. Lag may be called by any goroutine.
type Lagger interface {
	Lag() Lag
}

// Lag is a distance to the datastore's newest change, and what it costs the datastore. A field is -1 where the datastore has
// no such measure, or it is not known at the moment.
type Lag struct {
	// Bytes of the datastore's log not yet returned by Next.
	Bytes int64
	// CommitTime of the newest change returned, in microseconds since 1970; 0 before the first.
	CommitTime int64
	// RetainedBytes of its log are kept by the datastore for the capture, and SafeBytes more can be written before it
	// drops what the capture still needs.
	RetainedBytes, SafeBytes int64
	// GrowthRate is how fast the datastore's log grows, in bytes a second.
	GrowthRate float64
	// ReadAheadBytes are read and not yet returned, of at most ReadAheadLimit.
	ReadAheadBytes, ReadAheadLimit int64
}

// UnknownLag is that of a source that is not open.
var UnknownLag = Lag{Bytes: -1, RetainedBytes: -1, SafeBytes: -1, GrowthRate: -1, ReadAheadBytes: -1, ReadAheadLimit: -1}

// Horizoner is optional: a source that returns changes up to a horizon, which is not the datastore's present. Horizon says in a
// sentence what it is, how exact it is, and what it costs. It may be called by any goroutine.
type Horizoner interface {
	Horizon() string
}

// Batch is a run of changes in source order.
type Batch struct {
	Changes []Change
	// Position is where to resume once all of Changes are committed.
	Position Position
	// Partial says that the batch ends inside a source transaction.
	Partial bool
	// Below, of a source whose changes have an order per key only, is an order below which every change has been returned. It never
	// falls. Nil where all changes come in order.
	Below []byte
	// More says that another batch is ready, so that committing now would gain nothing.
	More bool
	// Behind says that the datastore had committed the last change a second or more before it sent it, by its own clock: more is to be
	// expected, also where none is ready at the moment. A datastore that tells no time leaves it out.
	Behind bool
	// Urgent says that the datastore waits for Durable, as a PostgreSQL server does that shuts down: commit at once.
	Urgent bool
}

// Poller is optional for a Config: its sources look at the datastore's present state instead of reading a log of changes.
// A look after a restart may find newer rows than the one before it did, so that Change.Order is not reproducible, and
// what the log already holds is told by the row.
type Poller interface {
	// Polls does nothing; having it says it.
	Polls()
}
