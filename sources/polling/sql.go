package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// SQLConfig is the sql source's part of the config file: a database of which nothing is known but how to speak SQL to it.
type SQLConfig struct {
	Driver         string        `yaml:"driver" json:"driver" jsonschema:"the database/sql driver: pgx (PostgreSQL and what speaks its protocol), mysql (MySQL, MariaDB and what speaks theirs) or sqlite"`
	DSN            string        `yaml:"dsn" json:"dsn" jsonschema:"what the driver connects with: a postgres:// URL for pgx, USER:PASSWORD@tcp(HOST:PORT)/DATABASE for mysql, a file for sqlite"`
	MaxTransaction time.Duration `yaml:"max_transaction" json:"max_transaction" jsonschema:"how long it takes at most from when a row is given its watermark until its transaction has ended, such as 30s; the database must see to it, since rows of a longer one are lost"`
	Lag            time.Duration `yaml:"lag,omitempty" json:"lag,omitempty" jsonschema:"how old a row's watermark is by the database's clock before it is read; with overlap above max_transaction; by default 2s above it"`
	Overlap        time.Duration `yaml:"overlap,omitempty" json:"overlap,omitempty" jsonschema:"how far back each poll reads once more, in place of as much lag: rows come sooner, and each is read many times; needs state"`
	Watermark      string        `yaml:"watermark,omitempty" json:"watermark,omitempty" jsonschema:"name of the column that holds the time of a row's last write by the database's clock, in all captured tables; default updated_at"`
	Interval       time.Duration `yaml:"interval,omitempty" json:"interval,omitempty" jsonschema:"pause between two polls that find nothing, and with overlap between any two, such as 1s, which is the default"`
	Deleted        string        `yaml:"deleted,omitempty" json:"deleted,omitempty" jsonschema:"name of a column that marks a row as deleted: true, a number other than 0, or, in a column of another type, any value; such a row is delivered as a delete"`
	Reconcile      Reconcile     `yaml:"reconcile,omitempty" json:"reconcile,omitempty" jsonschema:"how deleted rows are found"`
}

const (
	sqlWatermark = "updated_at"
	sqlInterval  = time.Second
	// lagMargin is how much lag and overlap are above max_transaction unless configured otherwise: a second for watermarks that are
	// cut to one, and a second for the database to notice that a transaction has taken too long.
	lagMargin = 2 * time.Second
)

// Connector implements sources.Config.
func (c *SQLConfig) Connector() string { return "sql" }

// Polls implements sources.Poller.
func (c *SQLConfig) Polls() {}

// Validate implements sources.Config.
func (c *SQLConfig) Validate() error {
	driver, ok := sqlDrivers[c.Driver]
	if !ok {
		return fmt.Errorf("driver: there are %s, and no %q", strings.Join(slices.Sorted(maps.Keys(sqlDrivers)), ", "), c.Driver)
	}
	db, _, err := driver.open(c.DSN)
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("dsn: %w", err)
	}
	switch {
	case c.MaxTransaction <= 0:
		return errors.New("max_transaction: it must say how long a transaction may take at most, such as 30s, and the database must see to it")
	case c.Lag < 0:
		return errors.New("lag: it must be above 0")
	case c.Overlap < 0:
		return errors.New("overlap: it must be above 0")
	case c.lag()+c.Overlap <= c.MaxTransaction:
		return fmt.Errorf("lag: with overlap it is %s, and must be above max_transaction, which is %s: what a transaction wrote that ends later would be lost", c.lag()+c.Overlap, c.MaxTransaction)
	case strings.ContainsRune(c.Watermark, 0):
		return errors.New("watermark: it holds a NUL")
	case c.Interval != 0 && c.Interval < time.Millisecond:
		return fmt.Errorf("interval: %s is shorter than 1ms", c.Interval)
	}
	return c.Reconcile.validate()
}

func (c *SQLConfig) lag() time.Duration {
	if c.Lag > 0 {
		return c.Lag
	}
	return max(0, c.MaxTransaction+lagMargin-c.Overlap)
}

// Open implements sources.Config.
func (c *SQLConfig) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	if c.Overlap > 0 && o.Held == nil {
		return nil, sources.Fatal("leave out state.enabled: false, or overlap",
			"overlap reads rows again and again, and what is new among them is told by the state, which is not kept")
	}
	d, err := c.dialect(ctx, o.Tables, o.Keys, o.Logger)
	if err != nil {
		return nil, err
	}
	return start(ctx, d, d.place, c.Interval, sqlInterval, c.Deleted, c.Reconcile, o)
}

// Check implements sources.Checker.
func (c *SQLConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys, hclog.NewNullLogger())
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	return check(ctx, d, "server", d.place, d.watermark, c.Reconcile, o)
}

// dialect connects for a capture.
func (c *SQLConfig) dialect(ctx context.Context, tables []string, keys map[string][]string, log hclog.Logger) (*sqlDialect, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := &sqlDialect{
		driver: sqlDrivers[c.Driver], watermark: c.Watermark, lag: c.lag(), overlap: c.Overlap, maxTransaction: c.MaxTransaction,
		names: tables, keys: keys, log: log, limits: limits{},
	}
	if d.watermark == "" {
		d.watermark = sqlWatermark
	}
	var err error
	if d.db, d.place, err = d.driver.open(c.DSN); err != nil {
		return nil, sources.Fatal("correct dsn", "%w", err)
	}
	if d.conn, err = d.db.Conn(ctx); err != nil {
		return nil, errors.Join(d.explain(fmt.Errorf("connect: %w", err)), d.db.Close())
	}
	return d, nil
}

// sqlDialect reads a database through one connection, in standard SQL and what sqlDriver knows beyond it. Its watermark is a
// time by the database's clock, in microseconds since 1970.
type sqlDialect struct {
	driver         *sqlDriver
	place          string
	watermark      string
	lag, overlap   time.Duration
	maxTransaction time.Duration
	names          []string
	keys           map[string][]string
	log            hclog.Logger
	db             *sql.DB
	conn           *sql.Conn

	captured []*table
	limits   limits
	last     clockReading
}

// explain adds the database's place to an error.
func (d *sqlDialect) explain(err error) error { return fmt.Errorf("%s: %w", d.place, err) }

// changed implements dialect. An empty poll is the clock, and for each table its columns and a range of an index.
func (d *sqlDialect) changed(context.Context) (bool, error) { return true, nil }

func (d *sqlDialect) close() error { return closeConn(d.conn, d.db) }

// view implements dialect.
func (d *sqlDialect) view(ctx context.Context) (view, error) {
	v, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := loadAll(ctx, v.match, d.captured)
	if err != nil {
		return nil, d.explain(err)
	}
	d.captured = tables
	return v, nil
}

// begin reads the clock. What is older than the lag by then is committed, so that each statement that follows sees it, and no snapshot
// is needed: a row that is written meanwhile has a later time.
func (d *sqlDialect) begin(ctx context.Context) (*sqlView, error) {
	now := clockReading{sent: time.Now()}
	var clock markCell
	if err := d.conn.QueryRowContext(ctx, "SELECT "+d.driver.clock).Scan(&clock); err != nil {
		return nil, d.explain(fmt.Errorf("read the clock: %w", err))
	}
	now.received = time.Now()
	at, err := clock.time()
	if err != nil {
		return nil, d.explain(fmt.Errorf("read the clock: %w", err))
	}
	now.clock = at.UnixMicro()
	v := &sqlView{dialect: d, clock: now.clock, below: now.clock - d.lag.Microseconds()}
	back, by := now.putBack(d.last)
	if back > 0 {
		d.log.Warn("the database's clock was put back; rows since then are read once more", "by", by.Round(100*time.Millisecond), "from", timeOf(back))
		v.back = back
	}
	d.last = now
	return v, nil
}

// sqlView is one reading of the clock.
type sqlView struct {
	dialect *sqlDialect
	clock   int64
	// below is the time before which every row is there, if no transaction takes longer than it may.
	below int64
	// back is how far back the clock makes the reading go, 0 for not.
	back int64
}

func (v *sqlView) database() string { return v.dialect.place }
func (v *sqlView) horizon() int64   { return v.below - 1 }
func (v *sqlView) tables() []*table { return v.dialect.captured }
func (v *sqlView) rewind() int64    { return v.back }
func (v *sqlView) rereads() bool    { return v.dialect.overlap > 0 }
func (v *sqlView) close() error     { return nil }

// describe implements view.
func (v *sqlView) describe() string {
	d := v.dialect
	text := fmt.Sprintf("exact only as long as every transaction has ended %s after its rows were given their %s (max_transaction), which is not looked at here: "+
		"rows that are %s old by the database's clock, now those before %s; ", d.maxTransaction, d.watermark, d.lag, timeOf(v.below))
	if d.overlap > 0 {
		text += fmt.Sprintf("the last %s before that are read again by each poll; ", d.overlap)
	}
	return text + "a poll is an index range a table; exact would be " + d.driver.exact
}

// older implements view.
func (v *sqlView) older(highest int64) string {
	if v.clock <= highest {
		return fmt.Sprintf("its clock is at %s and rows up to %s were captured, so that rows may have been written since with older times", timeOf(v.clock), timeOf(highest))
	}
	return ""
}

var (
	_ sources.Poller  = (*SQLConfig)(nil)
	_ sources.Checker = (*SQLConfig)(nil)
)
