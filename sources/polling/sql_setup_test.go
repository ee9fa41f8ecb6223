package polling

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
	"weft/sources/sourcetest"
)

// sqlDatabase is a database of the test's own behind one of the drivers.
type sqlDatabase struct {
	t      *testing.T
	config *SQLConfig
	opts   sources.OpenOptions
	// db writes, as applications do.
	db *sql.DB
	// table is a table's whole name, and columns are an id, a body and a time that the database sets, or the statement does.
	table   func(name string) string
	columns string
	now     string
	pg      *pgDatabase
	maria   *mariaDatabase
}

// eachSQL runs a test on a database of each driver. lag is above what the test's own transactions take.
func eachSQL(t *testing.T, test func(t *testing.T, d *sqlDatabase)) {
	for _, driver := range []string{"pgx", "mysql", "sqlite"} {
		t.Run(driver, func(t *testing.T) { test(t, newSQL(t, driver)) })
	}
}

func newSQL(t *testing.T, driver string) *sqlDatabase {
	t.Helper()
	d := &sqlDatabase{t: t, config: &SQLConfig{Driver: driver, MaxTransaction: 900 * time.Millisecond, Lag: time.Second, Interval: 2 * time.Millisecond}}
	dsn := ""
	switch driver {
	case "pgx":
		d.pg = newPostgres(t, needServer(t, "WEFT_TEST_POSTGRES_NEWEST"))
		dsn = d.pg.url()
		d.config.DSN = dsn
		d.table = func(name string) string { return "public." + name }
		d.columns, d.now = "id int8 PRIMARY KEY, body text, updated_at timestamptz NOT NULL DEFAULT now()", "now()"
	case "mysql":
		d.maria = newMariaDB(t)
		c, err := (&MariaDBConfig{URL: d.maria.url}).driverConfig(mariaDB)
		if err != nil {
			t.Fatal(err)
		}
		dsn = c.FormatDSN()
		d.config.DSN = fmt.Sprintf("%s:%s@tcp(%s)/", c.User, c.Passwd, c.Addr)
		d.table = func(name string) string { return d.maria.name + "." + name }
		d.columns = "id BIGINT PRIMARY KEY, body LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)"
		d.now = "CURRENT_TIMESTAMP(6)"
	case "sqlite":
		d.config.DSN = filepath.Join(t.TempDir(), "shop.db")
		d.db = openWriter(t, d.config.DSN, "wal")
		d.table = func(name string) string { return name }
		d.now = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
		d.columns = "id INTEGER PRIMARY KEY, body TEXT, updated_at DATETIME NOT NULL DEFAULT (" + d.now + ")"
	}
	if d.db == nil {
		var err error
		if d.db, err = sql.Open(driver, dsn); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.db.Close() })
	}
	items := d.table("items")
	d.opts = sources.OpenOptions{Capture: "shop", Tables: []string{items}, Keys: map[string][]string{items: {"id"}}, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10,
		Logger: hclog.NewNullLogger()}
	return d
}

func (d *sqlDatabase) exec(statements ...string) {
	d.t.Helper()
	for _, s := range statements {
		if _, err := d.db.ExecContext(d.t.Context(), s); err != nil {
			d.t.Fatalf("%s: %v", s, err)
		}
	}
}

// create makes the table items, with the index that polls read by.
func (d *sqlDatabase) create() {
	d.t.Helper()
	d.exec("CREATE TABLE "+d.table("items")+" ("+d.columns+")", "CREATE INDEX items_updated ON "+d.table("items")+" (updated_at, id)")
}

func (d *sqlDatabase) write(ctx context.Context, rows ...sourcetest.Row) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	parameter := sqlDrivers[d.config.Driver].parameter
	for _, r := range rows {
		statement := fmt.Sprintf("INSERT INTO %s (body, id, updated_at) VALUES (%s, %s, %s)", d.table("items"), parameter(1), parameter(2), d.now)
		if r.Op == sources.OpUpdate {
			statement = fmt.Sprintf("UPDATE %s SET body = %s, updated_at = %s WHERE id = %s", d.table("items"), parameter(1), d.now, parameter(2))
		}
		if _, err := tx.ExecContext(ctx, statement, r.Body, r.ID); err != nil {
			tx.Rollback()
			return err
		}
	}
	return tx.Commit()
}

// start opens the source and takes the first, empty batch.
func (d *sqlDatabase) start() sources.Source {
	d.t.Helper()
	src, err := d.config.Open(d.t.Context(), d.opts)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { src.Close() })
	if b := next(d.t, src); len(b.Changes) > 0 || b.Position == nil {
		d.t.Fatalf("the first batch holds %d changes at %s", len(b.Changes), b.Position)
	}
	return src
}

func (d *sqlDatabase) check() string {
	d.t.Helper()
	var lines []string
	for _, f := range d.config.Check(d.t.Context(), sources.CheckOptions{Capture: "shop", Tables: d.opts.Tables, Keys: d.opts.Keys}) {
		lines = append(lines, fmt.Sprintf("%s %s: %s [%s]", f.Level, f.Subject, f.Text, f.Remedy))
	}
	return strings.Join(lines, "\n")
}

// Not on SQLite, since each check waits for the lag a few times: what is told of one driver is told of all.
func TestSQLConformance(t *testing.T) {
	for _, driver := range []string{"pgx", "mysql"} {
		t.Run(driver, func(t *testing.T) {
			sourcetest.RunParallel(t, func(t *testing.T) *sourcetest.Harness {
				d := newSQL(t, driver)
				d.create()
				return &sourcetest.Harness{
					Config: d.config, Tables: d.opts.Tables, Keys: d.opts.Keys,
					Traits: sourcetest.Traits{TotalOrder: true, FirstBatches: 1},
					Write:  d.write,
				}
			})
		})
	}
}

// experiment is the one of the drivers' own dialects, on their servers.
func (d *sqlDatabase) experiment(src sources.Source) *experiment {
	if d.pg != nil {
		return pgExperiment(d.pg, src)
	}
	return mariaExperiment(d.maria, src)
}

// forExperiment makes the table that experiments write.
func (d *sqlDatabase) forExperiment() {
	if d.pg != nil {
		d.exec("CREATE TABLE items (id int8 PRIMARY KEY, body text, updated_at timestamptz NOT NULL)", "CREATE INDEX ON items (updated_at, id)")
		return
	}
	d.maria.prepare("items", "id BIGINT PRIMARY KEY, body VARCHAR(100) NOT NULL", "id")
}

// With a lag above the longest transaction no key is wrong; with one below it some are, and so this run shows something.
func TestSQLExperiment(t *testing.T) {
	for _, driver := range []string{"pgx", "mysql"} {
		for _, below := range []bool{false, true} {
			name := driver + ", lag above"
			if below {
				name = driver + ", lag below"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel() // it waits for its own long transactions
				d := newSQL(t, driver)
				d.forExperiment()
				d.config.MaxTransaction, d.config.Lag = 6*time.Second, 0
				if below {
					d.config.MaxTransaction, d.config.Lag = 50*time.Millisecond, 100*time.Millisecond
				}
				lag := d.config.lag()
				got := d.experiment(d.start()).measure(t)
				switch {
				case below && got.wrong == 0:
					t.Errorf("a lag of %s below transactions of %s has lost nothing, so this run shows nothing", lag, got.longest)
				case !below && got.longest > lag:
					t.Errorf("a transaction took %s, longer than the lag of %s, so this run shows nothing", got.longest, lag)
				case !below && (got.wrong > 0 || got.read > got.written):
					t.Errorf("%d keys are wrong, and %d rows were read for %d written", got.wrong, got.read, got.written)
				}
			})
		}
	}
}

// With an overlap rows come at once, and late ones are found by reading again.
func TestSQLExperimentOverlap(t *testing.T) {
	t.Parallel() // it waits for its own long transactions
	d := newSQL(t, "pgx")
	d.forExperiment()
	d.config.MaxTransaction, d.config.Lag, d.config.Overlap = 6*time.Second, 0, 8*time.Second
	if d.config.lag() != 0 {
		t.Fatalf("the lag is %s", d.config.lag())
	}
	d.opts.Held = newFakeHolder()
	d.config.Reconcile.Off = true
	got := d.experiment(d.start()).measure(t)
	if got.longest > d.config.Overlap || got.wrong > 0 {
		t.Errorf("%d keys are wrong; the longest transaction took %s", got.wrong, got.longest)
	}
	if got.read < 2*got.written {
		t.Errorf("%d rows were read for %d written, so that nothing was read again", got.read, got.written)
	}
}
