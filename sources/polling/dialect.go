package polling

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"weft/sources"
)

// dialect is what the engine needs of a kind of datastore. Its methods are called by one goroutine at a time.
type dialect interface {
	// changed tells cheaply whether there may be rows that no view has shown completely. It may say so in vain.
	changed(ctx context.Context) (bool, error)
	// view opens a consistent view of the datastore.
	view(ctx context.Context) (view, error)
	close() error
}

// view is one consistent view of the datastore.
type view interface {
	// database identifies the datastore, and horizon is the watermark up to which the view is complete: no version
	// numbered up to it is committed later. How exact that is, and what it costs, is the dialect's to say: in its
	// documentation, and in what its check finds.
	database() string
	horizon() int64
	// describe says in a sentence what the horizon is, how exact, and what a poll costs.
	describe() string
	// older says how the view shows that the datastore has lost what had a watermark up to highest, or "".
	older(highest int64) string
	// tables are the captured ones in the order of their names. A *table stays the same as long as nothing about it
	// changes.
	tables() []*table
	// read adds to b the rows of t that come after at, in the order of their watermarks as far as the horizon, until
	// there are none or b is full. It returns up to where it has read, and whether there may be more.
	read(ctx context.Context, t *table, at tablePosition, b *batch) (next tablePosition, more bool, err error)
	keyReader
	close() error
}

// rewinder is optional for a view: a datastore whose watermarks may go back.
type rewinder interface {
	// rewind is the watermark from which rows are to be read once more, or 0.
	rewind() int64
}

// rereader is optional for a view: one whose polls read rows once more that others read before.
type rereader interface {
	rereads() bool
}

// table is a captured table.
type table struct {
	sources.Table
	// name identifies it in positions and in messages.
	name string
	// identity tells one table of this name from another, whose rows may have any watermark; "" where watermarks cannot
	// come from elsewhere. Where it is another than before, the table is read from its beginning.
	identity string
	// query selects rows in the order of their watermarks: the watermark, then the columns. It and scan are the dialect's.
	query string
	scan  []any
	// deleted is 1 above the index of the column that marks deleted rows, 0 for none. The engine sets it.
	deleted int
}

// isDeleted tells whether a row is marked as deleted: by a bool that is true, a number other than 0, or any other value.
func (t *table) isDeleted(row []sources.Value) bool {
	if t.deleted == 0 {
		return false
	}
	v := row[t.deleted-1]
	if v.State != sources.Present {
		return false
	}
	switch t.Columns[t.deleted-1].Type.Kind {
	case sources.Bool:
		return string(v.Data) == "t"
	case sources.Int, sources.Decimal, sources.Float, sources.Bits:
		return strings.Trim(string(v.Data), "-0.") != ""
	}
	return true
}

// setDeleted finds the column that marks deleted rows, where the table has it.
func (t *table) setDeleted(column string) {
	t.deleted = 1 + slices.IndexFunc(t.Columns, func(c sources.Column) bool { return c.Name == column && column != "" })
}

// markDeleted finds the column that marks deleted rows in each table that has it, and refuses a name that none has.
func markDeleted(tables []*table, column string) error {
	if column == "" {
		return nil
	}
	found := false
	for _, t := range tables {
		t.setDeleted(column)
		found = found || t.deleted > 0
	}
	if !found {
		return sources.Fatal("correct deleted", "deleted: no captured table has a column %s", column)
	}
	return nil
}

// closeConn closes what a dialect of database/sql holds. The connection is closed already where a read on it was interrupted.
func closeConn(conn *sql.Conn, db *sql.DB) error {
	err := conn.Close()
	if errors.Is(err, sql.ErrConnDone) {
		err = nil
	}
	return errors.Join(err, db.Close())
}
