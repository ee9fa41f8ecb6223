package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver
	"github.com/jackc/pgx/v5"
)

// polledTable is a table that is polled, on a server that can tell how many rows it has sent.
type polledTable struct {
	kind string
	// source is the capture's for a server that is reached at this address.
	source  func(address string) string
	tables  string
	address string
	// sent counts the rows that the server has sent, to the daemon where it is reached at counted.
	counted string
	sent    func(ctx context.Context) (int64, error)
	close   func()
}

// measurePolling has the daemon read a whole table by its first polls, from PostgreSQL and from MariaDB, and then look for deleted rows
// in it, of which there are none.
func measurePolling(ctx context.Context, p plan) error {
	if os.Getenv("WEFT_TEST_KAFKA") == "" {
		return errors.New("no servers in the environment; use make bench-polling, or services run -- bench")
	}
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := build(ctx, dir, p.profile != "")
	if err != nil {
		return err
	}
	for _, prepare := range []func(context.Context, plan, string) (*polledTable, error){pollPostgres, pollMariaDB} {
		if err := measurePolled(ctx, p, binary, prepare); err != nil {
			return err
		}
	}
	return nil
}

func measurePolled(ctx context.Context, p plan, binary string, prepare func(context.Context, plan, string) (*polledTable, error)) (err error) {
	b := &bench{plan: p, name: fmt.Sprintf("bench_%x", rand.Uint32()), kafka: os.Getenv("WEFT_TEST_KAFKA"), binary: binary}
	defer b.close()
	if b.dir, err = os.MkdirTemp("", "weft-bench-"); err != nil {
		return err
	}
	t, err := prepare(ctx, p, b.name)
	if err != nil {
		return err
	}
	defer t.close()
	state := filepath.Join(b.dir, "state")
	b.settings, b.tables, b.source = fmt.Sprintf("state: {dir: %q}\n", state), t.tables, t.source(t.address)
	first, err := b.firstPass(ctx)
	if err != nil {
		return fmt.Errorf("%s: first pass: %w", t.kind, err)
	}
	size, err := sizeOf(state)
	if err != nil {
		return err
	}
	fmt.Printf("%-8s  first pass  %7.0f rows/s  (%d rows, %.2f s)  %.1f CPU us/row  RSS at most %d MiB, %d of them the program  state %d MiB\n",
		t.kind, first.rate(), p.rows, first.took.Seconds(), first.cpuPerChange(), first.peakRSS>>20, first.fileRSS>>20, size>>20)
	b.source = t.source(t.counted)
	return b.reconcile(ctx, t)
}

// firstPass is from the daemon's start until a checkpoint is committed that counts all rows.
func (b *bench) firstPass(ctx context.Context) (drain, error) {
	began := time.Now()
	d, err := b.start(ctx, b.name, "initial", b.profile)
	if err != nil {
		return drain{}, err
	}
	if err := b.awaitCheckpoint(ctx, d, func(cp checkpoint) bool { return cp.Changes >= int64(b.rows) }); err != nil {
		return drain{}, err
	}
	m := drain{changes: b.rows, took: time.Since(began)}
	if m.cpu, err = d.cpu(); err != nil {
		return m, err
	}
	if m.fileRSS, err = d.memory("RssFile"); err != nil {
		return m, err
	}
	if m.peakRSS, err = d.memory("VmHWM"); err != nil {
		return m, err
	}
	if b.profile != "" {
		if err := d.endProfile(b.profile); err != nil {
			return m, fmt.Errorf("profile: %w", err)
		}
	}
	return m, d.stop()
}

// reconcile starts the daemon anew, and prints what its first search for deleted rows costs.
func (b *bench) reconcile(ctx context.Context, t *polledTable) error {
	d, err := b.start(ctx, b.name, "initial", "")
	if err != nil {
		return err
	}
	began := time.Now()
	before, err := t.sent(ctx)
	if err != nil {
		return err
	}
	var ended int64
	err = b.awaitCheckpoint(ctx, d, func(cp checkpoint) bool {
		ended = cp.Position.Reconciled
		return ended >= began.Unix()
	})
	if err != nil {
		return fmt.Errorf("%s: search for deleted rows: %w", t.kind, err)
	}
	cpu, err := d.cpu()
	if err != nil {
		return err
	}
	peak, err := d.memory("VmHWM")
	if err != nil {
		return err
	}
	if err := d.stop(); err != nil {
		return err
	}
	after, err := t.sent(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%-8s  deleted rows looked for in %d s, from the daemon's start  %.2f CPU us/row  RSS at most %d MiB  %d rows sent by the server, its catalog's included\n",
		t.kind, ended-began.Unix(), float64(cpu.Microseconds())/float64(b.rows), peak>>20, after-before)
	return nil
}

// reconcileOptions make the search as fast as it can be. Polls are far apart, so that theirs are few of the rows that are sent.
const reconcileOptions = "interval: 5s, reconcile: {every: 1s, rows_per_second: 10000000}"

func pollPostgres(ctx context.Context, p plan, name string) (*polledTable, error) {
	server := os.Getenv("WEFT_TEST_POSTGRES_NEWEST")
	config, err := pgx.ParseConfig(server)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return nil, err
	}
	proxy, err := newRowCounter(fmt.Sprintf("%s:%d", config.Host, config.Port))
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	t := &polledTable{
		kind: "postgres", tables: "[" + name + ".orders]", address: fmt.Sprintf("%s:%d", config.Host, config.Port), counted: proxy.address(),
		source: func(address string) string {
			return fmt.Sprintf(`{type: postgres-poll, url: "postgres://%s:%s@%s/%s?sslmode=disable", %s}`, config.User, config.Password, address, config.Database, reconcileOptions)
		},
		sent: func(context.Context) (int64, error) { return proxy.rows.Load(), nil },
		close: func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, _ = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+name+" CASCADE") // the server ends next
			_ = conn.Close(ctx)
			proxy.close()
		},
	}
	for _, statement := range []string{
		"CREATE SCHEMA " + name,
		"SET synchronous_commit = off",
		"CREATE TABLE " + name + ".orders (id bigint PRIMARY KEY, name text, amount numeric(12,2), note text)",
		fmt.Sprintf("INSERT INTO %s.orders SELECT n, 'customer ' || n, (n %% 100000) / 7.0, repeat('x', 40) FROM generate_series(1, %d) n", name, p.rows),
		"VACUUM ANALYZE " + name + ".orders",
		"CHECKPOINT",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.close()
			return nil, fmt.Errorf("prepare the table: %w", err)
		}
	}
	return t, nil
}

func pollMariaDB(ctx context.Context, p plan, name string) (*polledTable, error) {
	u, err := url.Parse(os.Getenv("WEFT_TEST_MARIADB"))
	if err != nil {
		return nil, err
	}
	password, _ := u.User.Password()
	db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/", u.User.Username(), password, u.Host))
	if err != nil {
		return nil, err
	}
	t := &polledTable{
		kind: "mariadb", tables: "[" + name + ".orders]", address: u.Host, counted: u.Host,
		source: func(string) string { return fmt.Sprintf("{type: mariadb, url: %q, %s}", u.String(), reconcileOptions) },
		sent: func(ctx context.Context) (rows int64, err error) {
			err = db.QueryRowContext(ctx, "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'ROWS_SENT'").Scan(&rows)
			return rows, err
		},
		close: func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, _ = db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+name) // the server ends next
			_ = db.Close()
		},
	}
	statements := []string{
		"CREATE DATABASE " + name,
		"CREATE TABLE " + name + `.orders (id BIGINT PRIMARY KEY, name VARCHAR(100), amount DECIMAL(12,2), note VARCHAR(100),
			updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), INDEX (updated_at, id))`,
	}
	const part = 100_000
	for first := 1; first <= p.rows; first += part {
		statements = append(statements, fmt.Sprintf("INSERT INTO %[1]s.orders (id, name, amount, note) SELECT seq, CONCAT('customer ', seq), (seq %% 100000) / 7.0, REPEAT('x', 40) FROM %[1]s.seq_%[2]d_to_%[3]d",
			name, first, min(first+part-1, p.rows)))
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			t.close()
			return nil, fmt.Errorf("prepare the table: %w", err)
		}
	}
	return t, nil
}

// sizeOf is what a directory's files take.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
