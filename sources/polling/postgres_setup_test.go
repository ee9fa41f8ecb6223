package polling

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"weft/sources"
	"weft/sources/sourcetest"
)

// needServer returns the variable that leads to a server; without it the test is skipped, and fails where CI is true.
func needServer(t *testing.T, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not set: run the tests by make test", variable)
		}
		t.Skipf("%s is not set: no server to test with", variable)
	}
	return value
}

// pgDatabase is a database of the test's own.
type pgDatabase struct {
	t     *testing.T
	admin string
	name  string
	opts  sources.OpenOptions
}

var pgDatabases atomic.Int64

// eachPostgres runs a test on the oldest and the newest server.
func eachPostgres(t *testing.T, test func(t *testing.T, db *pgDatabase)) { onPostgres(t, false, test) }

// onPostgres is eachPostgres; beside says that the servers need not be tested one after the other.
func onPostgres(t *testing.T, beside bool, test func(t *testing.T, db *pgDatabase)) {
	for _, name := range []string{"OLDEST", "NEWEST"} {
		t.Run(strings.ToLower(name), func(t *testing.T) {
			if beside {
				t.Parallel()
			}
			test(t, newPostgres(t, needServer(t, "WEFT_TEST_POSTGRES_"+name)))
		})
	}
}

func newPostgres(t *testing.T, admin string) *pgDatabase {
	t.Helper()
	db := &pgDatabase{t: t, admin: admin, name: fmt.Sprintf("polling_%d_%d", os.Getpid(), pgDatabases.Add(1))}
	db.opts = sources.OpenOptions{Capture: "shop", Tables: []string{"public.*"}, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10,
		Logger: hclog.NewNullLogger()}
	db.create()
	t.Cleanup(func() {
		db.adminExec("DROP DATABASE " + db.name + " WITH (FORCE)")
	})
	return db
}

func (db *pgDatabase) adminExec(statement string) {
	db.t.Helper()
	db.run(db.admin, statement)
}

func (db *pgDatabase) run(url string, statements ...string) {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		db.t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			db.t.Fatalf("%s: %v", s, err)
		}
	}
}

// connect opens a connection that is closed with the test.
func (db *pgDatabase) connect() *pgx.Conn {
	db.t.Helper()
	conn, err := pgx.Connect(db.t.Context(), db.url())
	if err != nil {
		db.t.Fatal(err)
	}
	db.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (db *pgDatabase) create() {
	db.t.Helper()
	db.adminExec("CREATE DATABASE " + db.name)
}

func (db *pgDatabase) url() string {
	u, err := url.Parse(db.admin)
	if err != nil {
		db.t.Fatal(err)
	}
	u.Path = "/" + db.name
	return u.String()
}

func (db *pgDatabase) exec(statements ...string) {
	db.t.Helper()
	db.run(db.url(), statements...)
}

func (db *pgDatabase) config(watermark string) *PostgresConfig {
	return &PostgresConfig{URL: db.url(), Watermark: watermark, Interval: 2 * time.Millisecond}
}

// prepare creates a table, with the column that c reads by where there is one.
func (db *pgDatabase) prepare(c *PostgresConfig, name, columns string, key ...string) {
	db.t.Helper()
	db.exec(fmt.Sprintf("CREATE TABLE %s (%s)", name, columns))
	if c.Watermark != "" {
		db.exec(PostgresStatements("public", name, c.Watermark, key...)...)
	}
}

func (db *pgDatabase) open(c *PostgresConfig) sources.Source {
	db.t.Helper()
	src, err := c.Open(db.t.Context(), db.opts)
	if err != nil {
		db.t.Fatal(err)
	}
	db.t.Cleanup(func() { src.Close() })
	return src
}

// start opens the source and takes the first, empty batch.
func (db *pgDatabase) start(c *PostgresConfig) sources.Source {
	db.t.Helper()
	src := db.open(c)
	if b := next(db.t, src); len(b.Changes) > 0 || b.Position == nil {
		db.t.Fatalf("the first batch holds %d changes at %s", len(b.Changes), b.Position)
	}
	return src
}

func (db *pgDatabase) openError(c *PostgresConfig) error {
	db.t.Helper()
	src, err := c.Open(db.t.Context(), db.opts)
	if err == nil {
		src.Close()
		db.t.Fatal("open succeeded")
	}
	return err
}

// pgModes are the two ways in which PostgreSQL is polled. What differs between servers is the scan: the oldest is tested with that
// alone.
func pgModes(t *testing.T, test func(t *testing.T, db *pgDatabase, c *PostgresConfig)) {
	onPostgresModes(t, false, test)
}

// onPostgresModes is pgModes; beside says that the servers need not be tested one after the other.
func onPostgresModes(t *testing.T, beside bool, test func(t *testing.T, db *pgDatabase, c *PostgresConfig)) {
	onPostgres(t, beside, func(t *testing.T, shared *pgDatabase) {
		modes := []string{"", "weft_xid"}
		if strings.HasSuffix(t.Name(), "/oldest") {
			modes = modes[:1]
		}
		for _, watermark := range modes {
			name := "xmin"
			if watermark != "" {
				name = "column"
			}
			t.Run(name, func(t *testing.T) {
				db := newPostgres(t, shared.admin)
				test(t, db, db.config(watermark))
			})
		}
	})
}

func TestPostgresConformance(t *testing.T) {
	pgModes(t, func(t *testing.T, shared *pgDatabase, c *PostgresConfig) {
		sourcetest.RunParallel(t, func(t *testing.T) *sourcetest.Harness {
			db := newPostgres(t, shared.admin)
			config := db.config(c.Watermark)
			prepare := func() { db.prepare(config, "items", "id int8 PRIMARY KEY, body text", "id") }
			prepare()
			return &sourcetest.Harness{
				Config: config,
				Tables: []string{"public.items"},
				Traits: sourcetest.Traits{TotalOrder: true, FirstBatches: 1},
				Write: func(ctx context.Context, rows ...sourcetest.Row) error {
					conn, err := pgx.Connect(ctx, db.url())
					if err != nil {
						return err
					}
					defer conn.Close(ctx)
					return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
						for _, r := range rows {
							statement := "INSERT INTO items (body, id) VALUES ($1, $2)"
							if r.Op == sources.OpUpdate {
								statement = "UPDATE items SET body = $1 WHERE id = $2"
							}
							if _, err := tx.Exec(ctx, statement, r.Body, r.ID); err != nil {
								return err
							}
						}
						return nil
					})
				},
				Break: func(context.Context) error {
					// Another database comes in its place.
					db.adminExec("DROP DATABASE " + db.name + " WITH (FORCE)")
					db.create()
					prepare()
					return nil
				},
			}
		})
	})
}
