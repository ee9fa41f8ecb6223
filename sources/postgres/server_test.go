package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// eachServer runs a test on the oldest and on the newest server that is supported.
func eachServer(t *testing.T, test func(t *testing.T, db *database)) {
	t.Helper()
	eachServerInTurn(t, func(t *testing.T, db *database) {
		t.Parallel()
		test(t, db)
	})
}

// eachServerInTurn is for tests that look at the whole process.
func eachServerInTurn(t *testing.T, test func(t *testing.T, db *database)) {
	t.Helper()
	for _, name := range []string{"OLDEST", "NEWEST"} {
		t.Run(strings.ToLower(name), func(t *testing.T) {
			variable := "WEFT_TEST_POSTGRES_" + name
			admin := os.Getenv(variable)
			if admin == "" {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%s must be set in CI", variable)
				}
				t.Skipf("%s is not set: no PostgreSQL to test with", variable)
			}
			test(t, newDatabase(t, admin))
		})
	}
}

// database is a test's own database; it and its slots are dropped with the test.
type database struct {
	t          testing.TB
	admin, url string
	name       string
	conn       *pgx.Conn
}

func newDatabase(t testing.TB, admin string) *database {
	t.Helper()
	db := &database{t: t, admin: admin, name: fmt.Sprintf("weft_test_%x", rand.Uint64())}
	db.withAdmin(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+db.name)
		return err
	})
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal("the server's URL is not valid")
	}
	u.Path = "/" + db.name
	db.url = u.String()
	t.Cleanup(db.drop)
	db.reconnect()
	t.Cleanup(func() { _ = db.conn.Close(context.Background()) })
	return db
}

// reconnect opens the test's own connection, again after the server was restarted.
func (db *database) reconnect() {
	db.t.Helper()
	conn, err := pgx.Connect(context.Background(), db.url)
	if err != nil {
		db.t.Fatal(err)
	}
	db.conn = conn
}

func (db *database) withAdmin(fn func(context.Context, *pgx.Conn) error) {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.admin)
	if err != nil {
		db.t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := fn(ctx, conn); err != nil {
		db.t.Fatal(err)
	}
}

func (db *database) drop() {
	db.withAdmin(func(ctx context.Context, conn *pgx.Conn) error {
		for {
			_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
				WHERE database = $1 AND active_pid IS NOT NULL`, db.name)
			if err == nil {
				_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`, db.name)
			}
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		_, err := conn.Exec(ctx, "DROP DATABASE "+db.name+" WITH (FORCE)")
		return err
	})
}

// exec runs statements one by one, so that each is a transaction of its own; a statement may hold several.
func (db *database) exec(statements ...string) {
	db.t.Helper()
	for _, s := range statements {
		if _, err := db.conn.Exec(context.Background(), s); err != nil {
			db.t.Fatalf("%s: %v", s, err)
		}
	}
}

// one reads one value as text.
func (db *database) one(query string, args ...any) string {
	db.t.Helper()
	var text *string
	if err := db.conn.QueryRow(context.Background(), query, args...).Scan(&text); err != nil {
		db.t.Fatalf("%s: %v", query, err)
	}
	if text == nil {
		return "null"
	}
	return *text
}

// with returns the database's URL with parameters of the session.
func (db *database) with(params ...string) string {
	u, err := url.Parse(db.url)
	if err != nil {
		db.t.Fatal("the server's URL is not valid")
	}
	q := u.Query()
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// slot is unique in the server, since slots are shared by all databases.
func (db *database) slot() string { return db.name }

func (db *database) config() Config { return Config{URL: db.url, Slot: db.slot()} }

func (db *database) options(tables ...string) sources.OpenOptions {
	return sources.OpenOptions{
		Capture: "orders", Tables: tables, BatchBytes: 1 << 20, ReadAheadBytes: 4 << 20, Logger: hclog.NewNullLogger(),
	}
}

// stream is an opened source with what it has brought, as text.
type testStream struct {
	t        testing.TB
	src      sources.Source
	position sources.Position
	closed   sync.Once
}

// open opens a source and makes its slot, so that what is written from then on arrives.
func (db *database) open(c Config, o sources.OpenOptions) *testStream {
	db.t.Helper()
	s := db.reopen(c, o)
	if o.Position != nil {
		return s
	}
	for range 2 {
		b := s.next()
		if len(b.Changes) > 0 {
			db.t.Fatalf("the first batches hold %d changes", len(b.Changes))
		}
		s.durable(b.Position)
	}
	return s
}

// reopen opens a source without making a slot.
func (db *database) reopen(c Config, o sources.OpenOptions) *testStream {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, f := range c.Check(ctx, sources.CheckOptions{Capture: o.Capture, Tables: o.Tables, Keys: o.Keys, PositionUnknown: true}) {
		if f.Blocks { // weft run would refuse what works
			db.t.Errorf("before an Open that works, the check finds a problem that blocks: %s: %s", f.Subject, f.Text)
		}
	}
	src, err := c.Open(ctx, o)
	if err != nil {
		db.t.Fatalf("open: %v", err)
	}
	s := &testStream{t: db.t, src: src, position: o.Position}
	db.t.Cleanup(s.close)
	return s
}

// openError opens a source and returns the error that it must fail with.
func (db *database) openError(c Config, o sources.OpenOptions) error {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	src, err := c.Open(ctx, o)
	if err == nil {
		_ = src.Close()
		db.t.Fatal("open succeeded")
	}
	return err
}

func (s *testStream) close() {
	s.closed.Do(func() {
		if err := s.src.Close(); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
}

func (s *testStream) durable(p sources.Position) {
	s.t.Helper()
	if err := s.src.Durable(p); err != nil {
		s.t.Fatalf("durable %s: %v", p, err)
	}
}

func (s *testStream) next() sources.Batch {
	s.t.Helper()
	b, err := s.tryNext(20 * time.Second)
	if err != nil {
		s.t.Fatalf("next: %v", err)
	}
	return b
}

func (s *testStream) tryNext(timeout time.Duration) (sources.Batch, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	b, err := s.src.Next(ctx)
	if err == nil {
		s.position = append(sources.Position(nil), b.Position...)
	}
	return b, err
}

// nextError calls Next until it fails for another reason than the time.
func (s *testStream) nextError() error {
	s.t.Helper()
	for {
		if _, err := s.tryNext(20 * time.Second); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				s.t.Fatal("next does not fail")
			}
			return err
		}
	}
}

// take collects n changes.
func (s *testStream) take(n int) []string {
	s.t.Helper()
	var lines []string
	for len(lines) < n {
		b := s.next()
		for i := range b.Changes {
			lines = append(lines, describe(&b.Changes[i]))
		}
	}
	if len(lines) > n {
		s.t.Fatalf("got %d changes, want %d:\n%s", len(lines), n, strings.Join(lines, "\n"))
	}
	return lines
}

// describe is a change as one line: op, table, key, before -> after. Null is null, an unavailable value ?.
func describe(c *sources.Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c ", c.Op)
	if c.Op == sources.OpMessage {
		fmt.Fprintf(&b, "%s %s", c.Message.Prefix, c.Message.Content)
		return b.String()
	}
	b.WriteString(c.Table.String())
	for _, i := range c.Table.Key {
		fmt.Fprintf(&b, " [%s]", c.Table.Columns[i].Name)
	}
	row := func(values []sources.Value) {
		for i, v := range values {
			text := string(v.Data)
			switch v.State {
			case sources.Null:
				text = "null"
			case sources.Unavailable:
				text = "?"
			}
			if len(text) > 40 {
				text = fmt.Sprintf("%s...(%d)", text[:4], len(text))
			}
			fmt.Fprintf(&b, " %s=%s", c.Table.Columns[i].Name, text)
		}
	}
	row(c.Before)
	if c.Op != sources.OpTruncate {
		b.WriteString(" ->")
	}
	row(c.After)
	return b.String()
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

// isFatal wants a FatalError with a remedy, and each part in its text.
func isFatal(t *testing.T, err error, parts ...string) {
	t.Helper()
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) {
		t.Fatalf("want a FatalError, got %T: %v", err, err)
	}
	hasParts(t, err, parts...)
}

func isGap(t *testing.T, err error, parts ...string) sources.Position {
	t.Helper()
	var gap *sources.GapError
	if !errors.As(err, &gap) {
		t.Fatalf("want a GapError, got %T: %v", err, err)
	}
	hasParts(t, err, parts...)
	return gap.Resume
}

func isRetryable(t *testing.T, err error, parts ...string) {
	t.Helper()
	var fatal *sources.FatalError
	var gap *sources.GapError
	if errors.As(err, &fatal) || errors.As(err, &gap) {
		t.Fatalf("want a retryable error, got %T: %v", err, err)
	}
	hasParts(t, err, parts...)
}

func hasParts(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
