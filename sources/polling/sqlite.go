package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"weft/sources"
)

// SQLiteConfig is the sqlite source's part of the config file.
type SQLiteConfig struct {
	Path      string        `yaml:"path" json:"path" jsonschema:"the database file"`
	Watermark string        `yaml:"watermark,omitempty" json:"watermark,omitempty" jsonschema:"name of the integer column that triggers set on every write; default weft_version"`
	Interval  time.Duration `yaml:"interval,omitempty" json:"interval,omitempty" jsonschema:"pause between two polls that find nothing, such as 100ms, which is the default"`
	Deleted   string        `yaml:"deleted,omitempty" json:"deleted,omitempty" jsonschema:"name of a column that marks a row as deleted: true, a number other than 0, or, in a column of another type, any value; such a row is delivered as a delete"`
	Reconcile Reconcile     `yaml:"reconcile,omitempty" json:"reconcile,omitempty" jsonschema:"how deleted rows are found"`
}

const (
	defaultWatermark = "weft_version"
	defaultInterval  = 100 * time.Millisecond
	// busyMillis is how long SQLite waits for a lock before an attempt counts as failed.
	busyMillis = "1000"
)

// Connector implements sources.Config.
func (c *SQLiteConfig) Connector() string { return "sqlite" }

// Polls implements sources.Poller.
func (c *SQLiteConfig) Polls() {}

// Validate implements sources.Config.
func (c *SQLiteConfig) Validate() error {
	switch {
	case c.Path == "":
		return errors.New("path: it must name the database file")
	case strings.HasPrefix(c.Path, "file:") || strings.HasPrefix(c.Path, ":memory:"):
		return fmt.Errorf("path: %q must be the plain path of a file", c.Path)
	case strings.ContainsRune(c.Path, 0):
		return errors.New("path: it holds a NUL")
	case strings.ContainsRune(c.Watermark, 0):
		return errors.New("watermark: it holds a NUL")
	case c.Interval != 0 && c.Interval < time.Millisecond:
		return fmt.Errorf("interval: %s is shorter than 1ms", c.Interval)
	}
	return c.Reconcile.validate()
}

// Open implements sources.Config.
func (c *SQLiteConfig) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	d, err := c.dialect(ctx, o.Tables, o.Keys)
	if err != nil {
		return nil, err
	}
	return start(ctx, d, c.place(), c.Interval, defaultInterval, c.Deleted, c.Reconcile, o)
}

// place names the datastore in messages.
func (c *SQLiteConfig) place() string { return "the SQLite database " + c.Path }

// dialect opens the database for a capture.
func (c *SQLiteConfig) dialect(ctx context.Context, tables []string, keys map[string][]string) (*sqliteDialect, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d, err := openSQLite(ctx, c.Path)
	if err != nil {
		return nil, err
	}
	d.watermark, d.patterns, d.keys = c.Watermark, tables, keys
	if d.watermark == "" {
		d.watermark = defaultWatermark
	}
	return d, nil
}

// sqliteDialect reads one database file through one connection.
type sqliteDialect struct {
	path      string
	watermark string
	patterns  []string
	keys      map[string][]string

	file fs.FileInfo // as opened
	db   *sql.DB
	conn *sql.Conn

	dataVersion   int64
	schemaVersion int64
	captured      []*table
}

func openSQLite(ctx context.Context, path string) (*sqliteDialect, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", path, err)
	}
	d := &sqliteDialect{path: path, dataVersion: -1, schemaVersion: -1}
	if d.file, err = os.Stat(absolute); err != nil {
		return nil, sources.Fatal("create the database, correct path, or give this process the right to reach it",
			"open the SQLite database: %w", err)
	}
	if !d.file.Mode().IsRegular() {
		return nil, sources.Fatal("set path to a database file", "%s is no regular file", path)
	}
	if d.db, err = sql.Open("sqlite", sqliteURI(absolute)); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d.db.SetMaxOpenConns(1)
	// data_version compares with what the same connection saw before, so the connection is kept.
	if d.conn, err = d.db.Conn(ctx); err != nil {
		return nil, errors.Join(d.explain(fmt.Errorf("connect: %w", err)), d.db.Close())
	}
	return d, nil
}

// sqliteURI opens a file to be read only.
func sqliteURI(absolute string) string {
	name := url.URL{Scheme: "file", OmitHost: true, Path: absolute, RawQuery: url.Values{
		"mode":    {"ro"},
		"_pragma": {"busy_timeout(" + busyMillis + ")", "query_only(1)"},
	}.Encode()}
	return name.String()
}

// explain adds the database's path to an error, and makes it fatal if only somebody else can mend it.
func (d *sqliteDialect) explain(err error) error {
	var serr *sqlite.Error
	if errors.As(err, &serr) {
		switch serr.Code() & 0xff {
		case sqlite3.SQLITE_NOTADB:
			return sources.Fatal("set path to an SQLite 3 database file", "%s: %w", d.path, err)
		case sqlite3.SQLITE_CORRUPT:
			return sources.Fatal("run PRAGMA integrity_check in it, and restore it from a backup", "%s: %w", d.path, err)
		case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY:
			return sources.Fatal("give this process the right to read the file, and to write in its directory: readers of a "+
				"database in WAL mode share a -shm file there", "%s: %w", d.path, err)
		}
	}
	return fmt.Errorf("%s: %w", d.path, err)
}

// changed implements dialect.
func (d *sqliteDialect) changed(ctx context.Context) (bool, error) {
	now, err := os.Stat(d.path)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", d.path, err)
	}
	if !os.SameFile(now, d.file) {
		return false, fmt.Errorf("%s is another file than the one that was opened", d.path)
	}
	var version int64
	if err := d.conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version); err != nil {
		return false, d.explain(fmt.Errorf("read data_version: %w", err))
	}
	changed := version != d.dataVersion
	d.dataVersion = version
	return changed, nil
}

func (d *sqliteDialect) close() error {
	return closeConn(d.conn, d.db)
}

// view implements dialect.
func (d *sqliteDialect) view(ctx context.Context) (view, error) { return d.load(ctx) }

func (d *sqliteDialect) load(ctx context.Context) (*sqliteView, error) {
	v, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.load(ctx); err != nil {
		return nil, errors.Join(d.explain(err), v.close())
	}
	return v, nil
}

// begin begins to read, without having looked at anything.
func (d *sqliteDialect) begin(ctx context.Context) (*sqliteView, error) {
	tx, err := d.conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, d.explain(fmt.Errorf("begin to read: %w", err))
	}
	return &sqliteView{dialect: d, tx: tx}, nil
}

// sqliteView is a read transaction.
type sqliteView struct {
	dialect  *sqliteDialect
	tx       *sql.Tx
	identity string
	counter  int64
}

func (v *sqliteView) database() string { return v.identity }
func (v *sqliteView) horizon() int64   { return v.counter }
func (v *sqliteView) describe() string {
	return fmt.Sprintf("exact: the counter that triggers draw %s from, now %d; a poll reads an index range, and nothing when the file has not changed",
		v.dialect.watermark, v.counter)
}
func (v *sqliteView) tables() []*table { return v.dialect.captured }

func (v *sqliteView) close() error {
	if err := v.tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("end reading: %w", err)
	}
	return nil
}

// load reads the counter, and the tables if the schema is another than before.
func (v *sqliteView) load(ctx context.Context) error {
	d := v.dialect
	var schema int64
	if err := v.tx.QueryRowContext(ctx, "PRAGMA schema_version").Scan(&schema); err != nil {
		return fmt.Errorf("read schema_version: %w", err)
	}
	if schema != d.schemaVersion {
		// A change of the schema that does not concern a table leaves it the same.
		tables, err := loadAll(ctx, v.match, d.captured)
		if err != nil {
			return err
		}
		d.captured, d.schemaVersion = tables, schema
	}
	return v.readCounter(ctx)
}

// readCounter reads how far numbers have been drawn, and from which database's counter.
func (v *sqliteView) readCounter(ctx context.Context) error {
	const query = `SELECT value, "database" FROM ` + counterTable
	if err := v.tx.QueryRowContext(ctx, query).Scan(&v.counter, &v.identity); err != nil {
		return sources.Fatal("put its row back, with a value above every "+v.dialect.watermark,
			"read the row of the table %s: %w", counterTable, err)
	}
	return nil
}

// older implements view.
func (v *sqliteView) older(highest int64) string {
	if v.counter >= highest {
		return ""
	}
	return fmt.Sprintf("its counter is at %d, the checkpoint at %d, so up to %d changes that were captured are no longer in it",
		v.counter, highest, highest-v.counter)
}

// read implements view.
func (v *sqliteView) read(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	last := at.Watermark
	full, err := v.page(ctx, t, t.query+afterWatermark(v.dialect.watermark), []any{at.Watermark}, b, func(mark int64) { last = mark })
	if err != nil {
		return at, false, err
	}
	if !full {
		last = v.counter
	}
	return tablePosition{Watermark: last}, full, nil
}

// afterWatermark selects the rows above a watermark, in order.
func afterWatermark(watermark string) string {
	return fmt.Sprintf(" WHERE %[1]s > ? ORDER BY %[1]s", quote(watermark))
}

// page adds the rows of a query to b until it is full, and calls each with the watermark of each of them.
func (v *sqliteView) page(ctx context.Context, t *table, query string, args []any, b *batch, each func(mark int64)) (full bool, err error) {
	rows, err := v.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return false, v.dialect.explain(fmt.Errorf("read table %s: %w", t.name, err))
	}
	last := int64(math.MinInt64)
	for !full && rows.Next() {
		row, err := v.row(t, rows, last, b)
		if err != nil {
			return false, v.dialect.explain(errors.Join(err, rows.Close()))
		}
		if full = !b.add(t, row.values); !full {
			last = row.watermark
			each(last)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, v.dialect.explain(fmt.Errorf("read table %s: %w", t.name, err))
	}
	return full, nil
}

// sqliteRow is a row in a batch's memory.
type sqliteRow struct {
	watermark int64
	values    []sources.Value
}

// row reads the row that rows stands on; last is the watermark of the one before, which none shares.
func (v *sqliteView) row(t *table, rows *sql.Rows, last int64, b *batch) (sqliteRow, error) {
	d := v.dialect
	row := sqliteRow{values: b.row(len(t.Columns))}
	for i := range row.values {
		cell := t.scan[i+1].(*cell)
		cell.batch, cell.value, cell.err = b, sources.Value{}, nil
	}
	watermark := t.scan[0].(*any)
	if err := rows.Scan(t.scan...); err != nil {
		return row, fmt.Errorf("read table %s: %w", t.name, err)
	}
	for i := range row.values {
		row.values[i] = t.scan[i+1].(*cell).value
	}
	number, ok := (*watermark).(int64)
	if !ok || number > v.counter {
		return row, sources.Fatal(
			fmt.Sprintf("have the triggers number it: UPDATE %s SET %s = NULL WHERE %s > %d;",
				quote(t.name), quote(d.watermark), quote(d.watermark), v.counter),
			"table %s, key %s: %s is %v, which no trigger set: %s is at %d",
			t.name, keyText(t, row.values), d.watermark, *watermark, counterTable, v.counter)
	}
	if number == last {
		return row, sources.Fatal(
			fmt.Sprintf("have the triggers number them: UPDATE %s SET %s = NULL WHERE %s = %d;",
				quote(t.name), quote(d.watermark), quote(d.watermark), number),
			"table %s, key %s: %s is %d, as in another row, so no trigger set it",
			t.name, keyText(t, row.values), d.watermark, number)
	}
	for i := range row.values {
		if err := t.scan[i+1].(*cell).err; err != nil {
			return row, sources.Fatal(
				fmt.Sprintf("correct the value, or leave table %s out of the capture", t.name),
				"table %s, key %s, column %s: %w", t.name, keyText(t, row.values), t.Columns[i].Name, err)
		}
	}
	for _, k := range t.Key {
		if row.values[k].State == sources.Null {
			return row, sources.Fatal(fmt.Sprintf("declare the column NOT NULL, and give this row a key: SELECT * FROM %s WHERE %s = %v",
				quote(t.name), quote(d.watermark), *watermark),
				"table %s: the key column %s is NULL in the row whose %s is %v",
				t.name, t.Columns[k].Name, d.watermark, *watermark)
		}
	}
	row.watermark = number
	return row, nil
}

// keyText is a row's key for messages.
func keyText(t *table, values []sources.Value) string {
	var b strings.Builder
	for i, k := range t.Key {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s=%.64q", t.Columns[k].Name, values[k].Data)
	}
	return b.String()
}
