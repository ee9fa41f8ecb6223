package polling

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
	"weft/sources/sourcetest"
)

// mariaDatabase is a database of the test's own.
type mariaDatabase struct {
	t    *testing.T
	url  string
	name string
	db   *sql.DB
	opts sources.OpenOptions
}

var mariaDatabases atomic.Int64

// oneLooks is held by a parallel test that polls the server: those that look at it at once delay each other.
var oneLooks sync.Mutex

func newMariaDBBeside(t *testing.T) *mariaDatabase {
	t.Helper()
	oneLooks.Lock()
	t.Cleanup(oneLooks.Unlock)
	return newMariaDB(t)
}

func newMariaDB(t *testing.T) *mariaDatabase {
	t.Helper()
	url := needServer(t, "WEFT_TEST_MARIADB")
	m := &mariaDatabase{t: t, url: url, name: fmt.Sprintf("polling_%d_%d", os.Getpid(), mariaDatabases.Add(1))}
	m.opts = sources.OpenOptions{Capture: "shop", Tables: []string{m.name + ".*"}, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10,
		Logger: hclog.NewNullLogger()}
	config, err := (&MariaDBConfig{URL: url}).driverConfig(mariaDB)
	if err != nil {
		t.Fatal(err)
	}
	config.DBName = ""
	if m.db, err = sql.Open("mysql", config.FormatDSN()); err != nil {
		t.Fatal(err)
	}
	m.db.SetMaxIdleConns(8)
	m.exec("CREATE DATABASE " + m.name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if _, err := m.db.ExecContext(ctx, "DROP DATABASE "+m.name); err != nil {
			t.Error(err)
		}
		m.db.Close()
	})
	return m
}

func (m *mariaDatabase) exec(statements ...string) {
	m.t.Helper()
	for _, s := range statements {
		if _, err := m.db.ExecContext(m.t.Context(), s); err != nil {
			m.t.Fatalf("%s: %v", s, err)
		}
	}
}

// connect returns a connection of its own, in the test's database.
func (m *mariaDatabase) connect() *sql.Conn {
	m.t.Helper()
	conn, err := m.db.Conn(m.t.Context())
	if err == nil {
		_, err = conn.ExecContext(m.t.Context(), "USE "+m.name)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return conn
}

func (m *mariaDatabase) config() *MariaDBConfig {
	return &MariaDBConfig{URL: m.url, Interval: 2 * time.Millisecond}
}

// prepare creates a table, with the column that is read by.
func (m *mariaDatabase) prepare(name, columns string, key ...string) {
	m.t.Helper()
	m.exec(fmt.Sprintf("CREATE TABLE %s.%s (%s)", m.name, name, columns))
	m.exec(MariaDBStatements(m.name, name, mariadbWatermark, key...)...)
}

func (m *mariaDatabase) open() sources.Source {
	m.t.Helper()
	src, err := m.config().Open(m.t.Context(), m.opts)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { src.Close() })
	return src
}

// start opens the source and takes the first, empty batch.
func (m *mariaDatabase) start() sources.Source {
	m.t.Helper()
	src := m.open()
	if b := next(m.t, src); len(b.Changes) > 0 || b.Position == nil {
		m.t.Fatalf("the first batch holds %d changes at %s", len(b.Changes), b.Position)
	}
	return src
}

func (m *mariaDatabase) openError(c *MariaDBConfig) error {
	m.t.Helper()
	src, err := c.Open(m.t.Context(), m.opts)
	if err == nil {
		src.Close()
		m.t.Fatal("open succeeded")
	}
	return err
}

func TestMariaDBConformance(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) *sourcetest.Harness {
		m := newMariaDB(t)
		m.prepare("items", "id BIGINT PRIMARY KEY, body LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "id")
		return &sourcetest.Harness{
			Config: m.config(),
			Tables: []string{m.name + ".items"},
			Traits: sourcetest.Traits{TotalOrder: true, FirstBatches: 1},
			Write: func(ctx context.Context, rows ...sourcetest.Row) error {
				tx, err := m.db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				for _, r := range rows {
					statement := "INSERT INTO " + m.name + ".items (body, id) VALUES (?, ?)"
					if r.Op == sources.OpUpdate {
						// One that changes nothing keeps its time.
						statement = "UPDATE " + m.name + ".items SET body = ? WHERE id = ?"
					}
					if _, err := tx.ExecContext(ctx, statement, r.Body, r.ID); err != nil {
						tx.Rollback()
						return err
					}
				}
				return tx.Commit()
			},
		}
	})
}

func TestMariaDBExperiment(t *testing.T) {
	t.Parallel() // it waits for its own long transactions
	m := newMariaDBBeside(t)
	m.prepare("items", "id BIGINT PRIMARY KEY, body VARCHAR(100) NOT NULL", "id")
	mariaExperiment(m, m.start()).run(t)
}

func mariaExperiment(m *mariaDatabase, src sources.Source) *experiment {
	naive, judge := m.connect(), m.connect() // used at the same time
	rowsOf := func(ctx context.Context, reader *sql.Conn, query string, args ...any) (map[string]string, string, error) {
		rows, err := reader.QueryContext(ctx, query, args...)
		if err != nil {
			return nil, "", err
		}
		defer rows.Close()
		found := map[string]string{}
		var id, body, last string
		for rows.Next() {
			if err := rows.Scan(&id, &body, &last); err != nil {
				return nil, "", err
			}
			found[id] = body
		}
		return found, last, rows.Err()
	}
	return &experiment{
		source: src,
		dial: func(ctx context.Context) (func(string) error, func(), error) {
			conn, err := m.db.Conn(ctx)
			if err != nil {
				return nil, nil, err
			}
			exec := func(statement string) error {
				_, err := conn.ExecContext(ctx, statement)
				return err
			}
			return exec, func() { conn.Close() }, exec("USE " + m.name)
		},
		upsert: func(id int, body string) string {
			return fmt.Sprintf("INSERT INTO items (id, body) VALUES (%d, '%s') ON DUPLICATE KEY UPDATE body = VALUES(body)", id, body)
		},
		begin:   func(string) []string { return []string{"START TRANSACTION"} },
		prepare: func(name string) []string { return []string{"XA START '" + m.name + name + "'"} },
		prepared: func(name string) []string {
			return []string{"XA END '" + m.name + name + "'", "XA PREPARE '" + m.name + name + "'"}
		},
		commitPrepared: func(name string) []string { return []string{"XA COMMIT '" + m.name + name + "'"} },
		naive: func(ctx context.Context, after string) (map[string]string, string, error) {
			if after == "" {
				after = "1971-01-01"
			}
			return rowsOf(ctx, naive, "SELECT id, body, updated_at FROM items WHERE updated_at > ? ORDER BY updated_at", after)
		},
		table: func(ctx context.Context) (map[string]string, error) {
			rows, _, err := rowsOf(ctx, judge, "SELECT id, body, '' FROM items")
			return rows, err
		},
	}
}
