package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

// TestMarks: a mark ends a batch at once, is of its slot alone, and is never delivered.
func TestMarks(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		c := db.config()
		c.Messages = true
		s := db.open(c, db.options("public.t"))
		const mark = "SELECT pg_logical_emit_message(%t, '%s', '%s')"
		db.exec(fmt.Sprintf("BEGIN; INSERT INTO t VALUES (1); "+mark+"; INSERT INTO t VALUES (2); COMMIT", true, markPrefix, db.slot()),
			fmt.Sprintf(mark, true, markPrefix, "another"), fmt.Sprintf(mark, false, markPrefix, db.slot()), fmt.Sprintf(mark, true, "mine", "x"),
			"INSERT INTO t VALUES (3)")
		var lines []string
		first := s.next()
		for _, c := range first.Changes {
			lines = append(lines, describe(&c))
		}
		for i, c := range first.Changes {
			if c.TransactionOrder != int64(i+1) {
				t.Errorf("change %d has number %d", i, c.TransactionOrder)
			}
		}
		lines = append(lines, s.take(2)...)
		equal(t, lines, "c public.t [a] -> a=1", "c public.t [a] -> a=2", "m mine x", "c public.t [a] -> a=3")
		if len(first.Changes) != 2 || first.Partial {
			t.Errorf("the first batch has %d changes, partial: %v", len(first.Changes), first.Partial)
		}
		before, begun := s.position, time.Now()
		db.exec(fmt.Sprintf(mark, true, markPrefix, db.slot()))
		b := s.next()
		if took := time.Since(begun); len(b.Changes) != 0 || string(b.Position) == string(before) || took > 5*time.Second {
			t.Errorf("after %s a batch of %d changes at %s, which was %s", took, len(b.Changes), b.Position, before)
		}
		db.exec(fmt.Sprintf(mark, true, markPrefix, "another"))
		if b, err := s.tryNext(500 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at another slot's mark comes a batch at %s, %v", b.Position, err)
		}
		s.durable(b.Position)
		s.close()
		o := db.options("public.t")
		o.Position = s.position
		s = db.reopen(c, o)
		db.exec("INSERT INTO t VALUES (4)")
		equal(t, s.take(1), "c public.t [a] -> a=4")
	})
}

// TestAppendOrder: rows come behind all that was streamed before a position and before all that is after it.
func TestAppendOrder(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE other (a int)")
		c := db.config()
		c.Messages = true
		o := db.options("public.t")
		s := db.open(c, o)
		r := db.reader(c, o)
		var last string
		higher := func(order, what string) {
			t.Helper()
			if order <= last || last != "" && len(order) != len(last) {
				t.Errorf("%s: order %s comes after %s", what, order, last)
			}
			last = order
		}
		for i, statement := range []string{"INSERT INTO t VALUES (1)", "SELECT pg_logical_emit_message(false, 'p', 'x')",
			"SELECT pg_logical_emit_message(false, 'p', 'y')", "UPDATE t SET a = 2", "SELECT pg_logical_emit_message(true, 'p', 'z')",
			"INSERT INTO t SELECT generate_series(10, 20)", "SELECT pg_logical_emit_message(true, 'weft.mark', '" + db.slot() + "')",
			"TRUNCATE t", "SELECT pg_logical_emit_message(false, 'p', 'x')"} {
			db.exec(statement)
			b := s.next()
			for _, c := range b.Changes {
				higher(string(c.Order), statement)
			}
			for _, n := range []int{0, 1, 1 << 20} {
				order, err := r.AppendOrder([]byte("x"), b.Position, n)
				if err != nil {
					t.Fatal(err)
				}
				higher(strings.TrimPrefix(string(order), "x"), fmt.Sprintf("row %d after statement %d", n, i))
			}
		}
		// A transaction that commits right behind a position.
		old, err := pgx.Connect(context.Background(), db.url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = closeConn(old) }()
		if _, err := old.Exec(context.Background(), "BEGIN; INSERT INTO t VALUES (100)"); err != nil {
			t.Fatal(err)
		}
		db.exec("INSERT INTO t VALUES (101)")
		b := s.next()
		higher(string(b.Changes[0].Order), "the first commit")
		order, err := r.AppendOrder(nil, b.Position, 7)
		if err != nil {
			t.Fatal(err)
		}
		higher(string(order), "a row")
		if _, err := old.Exec(context.Background(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		higher(string(s.next().Changes[0].Order), "the second commit")
		p, err := decodePosition(s.position)
		if err != nil {
			t.Fatal(err)
		}
		p.TX = &txPosition{FinalLSN: p.LSN, XID: 5, Events: 1, Hash: "0000000000000000"}
		if _, err := r.AppendOrder(nil, p.encode(), 0); err == nil || !strings.Contains(err.Error(), "middle of transaction 5") {
			t.Errorf("inside a transaction: %v", err)
		}
		if _, err := r.AppendOrder(nil, s.position, maxEvents); err == nil {
			t.Error("a row too many has an order")
		}
	})
}

// TestKeyless: a table without a key is read in one moment, chunk by chunk, and goes on nowhere else.
func TestKeyless(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE n (a int, b text)", "ALTER TABLE n REPLICA IDENTITY FULL", "INSERT INTO n SELECT n, repeat('x', 1000) FROM generate_series(1, 500) n",
			"CREATE TABLE p (a int) PARTITION BY HASH (a)", "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
			"CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1)", "ALTER TABLE p REPLICA IDENTITY FULL",
			"ALTER TABLE p0 REPLICA IDENTITY FULL", "ALTER TABLE p1 REPLICA IDENTITY FULL", "INSERT INTO p SELECT generate_series(1, 20)")
		o := db.options("public.n", "public.p")
		s := db.open(db.config(), o)
		r := db.reader(db.config(), o)
		q := sources.ChunkRequest{Table: "public.n", Rows: 7, Bytes: 1 << 20}
		first := db.chunk(r, q)
		db.exec("UPDATE n SET b = 'new'", "DELETE FROM n WHERE a > 400")
		b := s.next()
		for len(b.Changes) == 0 { // at the mark
			b = s.next()
		}
		later := b.Changes[0].Stamp
		if first.View.Sees(later) {
			t.Error("the view sees what came after it")
		}
		q.Bytes = 20 << 10
		n := len(first.Rows)
		q.After = first.Next
		for q.After != nil {
			c := db.chunk(r, q)
			for _, row := range c.Rows {
				if len(row[1].Data) != 1000 {
					t.Fatalf("row %d is %s", n, rowLines(c)[0])
				}
			}
			if n += len(c.Rows); c.View != first.View || c.Table != first.Table || c.Bytes > q.Bytes {
				t.Fatalf("the chunk up to row %d has %d bytes, and another view or table", n, c.Bytes)
			}
			q.After, q.Rows = c.Next, 100
		}
		if n != 500 {
			t.Errorf("%d rows", n)
		}
		if lines := db.rows(r, sources.ChunkRequest{Table: "public.p", Rows: 3, Bytes: 100}); len(lines) != 20 {
			t.Errorf("partitions: %d rows", len(lines))
		}
		// Nothing but the next chunk follows.
		q = sources.ChunkRequest{Table: "public.n", Rows: 7, Bytes: 1 << 20}
		one := db.chunk(r, q)
		q.After = one.Next
		two := db.chunk(r, q)
		for _, after := range []string{string(one.Next), string(two.Next), "{}"} {
			q.After = []byte(after)
			if _, err := db.tryChunk(r, q); err == nil || !strings.Contains(err.Error(), "must begin anew") {
				t.Errorf("after %s: %v", after, err)
			}
		}
		q.After = nil
		again := db.chunk(r, q)
		if again.View == one.View || !again.View.Sees(later) {
			t.Error("a new read has the old view")
		}
		// A read that is interrupted is gone.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		q.After = again.Next
		if _, err := r.ReadChunk(ctx, q); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
		if _, err := db.tryChunk(r, q); err == nil {
			t.Error("a read that was interrupted goes on")
		}
		if _, err := db.tryChunk(r, sources.ChunkRequest{Table: "public.n", Keys: [][][]byte{}}); err == nil {
			t.Error("keys of a table without a key are read")
		}
		q.After = nil
		db.chunk(r, q) // held when the reader is closed
		if split, err := r.Split(t.Context(), "public.n", 4); err != nil || split != nil {
			t.Errorf("split: %s, %v", split, err)
		}
	})
}

// TestSplit: the ranges of a large table are of about the same size and cover it.
func TestSplit(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int, b text, pad text, PRIMARY KEY (b, a)) WITH (fillfactor = 20)", "CREATE TABLE small (a int PRIMARY KEY)",
			"INSERT INTO small SELECT generate_series(1, 1000)", "INSERT INTO t SELECT n, 'x' || n % 3, repeat('x', 800) FROM generate_series(1, 20000) n")
		r := db.reader(db.config(), db.options("public.t", "public.small"))
		if split, err := r.Split(t.Context(), "public.small", 4); err != nil || split != nil {
			t.Errorf("a small table: %s, %v", split, err)
		}
		split, err := r.Split(t.Context(), "public.t", 4)
		if err != nil || len(split) != 3 {
			t.Fatalf("split: %s, %v", split, err)
		}
		q := sources.ChunkRequest{Table: "public.t", Rows: 100_000, Bytes: 100 << 20}
		total := 0
		for _, until := range append(split, nil) {
			q.Until = until
			n := len(db.rows(r, q))
			if n < 1500 {
				t.Errorf("the range after %s has %d rows", q.After, n)
			}
			total += n
			q.After = until
		}
		if total != 20_000 {
			t.Errorf("%d rows", total)
		}
	})
}

// TestChunkChanges: a table may change between two chunks, and rows may be of any size.
func TestChunkChanges(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT n, n FROM generate_series(1, 9) n")
		o := db.options("public.t")
		r := db.reader(db.config(), o)
		q := sources.ChunkRequest{Table: "public.t", Rows: 3, Bytes: 1 << 20}
		first := db.chunk(r, q)
		q.After = first.Next
		if second := db.chunk(r, q); second.Table != first.Table {
			t.Error("another table, though nothing has changed")
		}
		db.exec("ALTER TABLE t ADD c int DEFAULT 5, DROP b")
		third := db.chunk(r, q)
		equal(t, rowLines(third)[:1], "r public.t [a] -> a=4 c=5")
		db.exec("CREATE INDEX i ON t (c)") // of no consequence
		if c := db.chunk(r, q); c.Table != third.Table {
			t.Error("another table, though its columns are the same")
		}
		db.exec("ALTER TABLE t ALTER c TYPE text")
		if c := db.chunk(r, q); c.Table == third.Table || c.Table.Columns[1].Type.Name != "text" {
			t.Errorf("the table is %+v", c.Table)
		}
		// Large rows behind small ones: the chunk ends in time, and the connection that would send them all is given up.
		db.exec("DROP INDEX i", "ALTER TABLE t ALTER c SET STORAGE EXTERNAL", "INSERT INTO t SELECT n, repeat('x', 1000000) FROM generate_series(10, 40) n")
		q = sources.ChunkRequest{Table: "public.t", Rows: 1000, Bytes: 100_000}
		c := db.chunk(r, q)
		if len(c.Rows) != 9 || c.Next == nil {
			t.Errorf("%d rows, then %s", len(c.Rows), c.Next)
		}
		q.After = c.Next
		if c = db.chunk(r, q); len(c.Rows) != 1 || c.Bytes < 1_000_000 {
			t.Errorf("%d rows of %d bytes", len(c.Rows), c.Bytes)
		}
		q = sources.ChunkRequest{Table: "public.t", Rows: 1000, Bytes: 1 << 20}
		if n := len(db.rows(r, q)); n != 40 {
			t.Errorf("%d rows", n)
		}
		// A connection that was dropped while nobody used it.
		db.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'weft' AND datname = current_database()")
		q.Where = "a > 38 -- and no more"
		if lines := db.rows(r, q); len(lines) != 2 {
			t.Errorf("%d rows", len(lines))
		}
		db.exec("ALTER TABLE t RENAME TO t2")
		_, err := db.tryChunk(r, q)
		isFatal(t, err, "table public.t is gone")
		db.exec("DROP TABLE t2")
		_, err = db.tryChunk(r, q)
		isFatal(t, err, "table public.t is gone")
		db.exec("CREATE TABLE t (z int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
		q.Where = ""
		equal(t, db.rows(r, q), "r public.t [z] -> z=1")
	})
}

// TestChunkConcurrent: several goroutines read at once, with a connection each, which are used again.
func TestChunkConcurrent(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 1000)", "CREATE TABLE u (a int PRIMARY KEY)")
		r := db.reader(db.config(), db.options("public.t", "public.u"))
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for _, table := range []string{"public.t", "public.u"} {
					want := map[string]int{"public.t": 1000, "public.u": 0}[table]
					if n := len(db.rows(r, sources.ChunkRequest{Table: table, Rows: 100, Bytes: 1 << 20})); n != want {
						t.Errorf("%s: %d rows", table, n)
					}
				}
			})
		}
		group.Wait()
		if len(r.idle) > 4 {
			t.Errorf("%d connections", len(r.idle))
		}
	})
}

// TestChunkRefused: what only a person can mend says so, beforehand in a check where it can be known.
func TestChunkRefused(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE SCHEMA s", "CREATE TABLE s.t (a int PRIMARY KEY)", "INSERT INTO s.t VALUES (1)")
		r := db.reader(db.config(), db.options("s.t"))
		q := sources.ChunkRequest{Table: "s.t", Rows: 1, Bytes: 1}
		for where, part := range map[string]string{"b > 1": `column "b" does not exist`, "a > ": "syntax error", "a": "must be type boolean",
			"a > 1 / (a - 1)": "division by zero", "true; DELETE FROM s.t": "syntax error"} {
			q.Where = where
			_, err := db.tryChunk(r, q)
			isFatal(t, err, part, "correct the condition")
		}
		q.Where, q.Table = "", "s.u"
		_, err := db.tryChunk(r, q)
		isFatal(t, err, "table s.u is gone")

		name, address := db.role("REPLICATION")
		c := db.config()
		c.URL = address
		o := db.checkOptions("s.t")
		remedies := func(snapshot bool) string {
			t.Helper()
			var all []string
			o.Snapshot = snapshot
			for _, f := range db.check(c, o) {
				if strings.HasPrefix(f.Text, "a snapshot") {
					if f.Level != sources.Problem || !f.Blocks {
						t.Errorf("%+v", f)
					}
					all = append(all, f.Remedy)
				}
			}
			return strings.Join(all, "")
		}
		signature := db.one("SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype")
		db.exec("REVOKE EXECUTE ON FUNCTION "+signature+" FROM PUBLIC", "ALTER TABLE s.t ENABLE ROW LEVEL SECURITY")
		refused := func(parts ...string) {
			t.Helper()
			_, err := db.tryChunk(db.reader(c, db.options("s.t")), sources.ChunkRequest{Table: "s.t", Rows: 10, Bytes: 10})
			isFatal(t, err, append(parts, name)...)
		}
		refused("may not read all of table s.t", "GRANT USAGE ON SCHEMA", "GRANT SELECT ON TABLE")
		if found := remedies(false); found != "" {
			t.Errorf("without a snapshot: %s", found)
		}
		statements := remedies(true)
		for _, part := range []string{"GRANT USAGE ON SCHEMA", "GRANT SELECT ON TABLE", "pg_logical_emit_message("} {
			if !strings.Contains(statements, part) {
				t.Errorf("the check does not say %q: %s", part, statements)
			}
		}
		db.exec(`GRANT USAGE ON SCHEMA s TO "`+name+`"`, `GRANT SELECT ON s.t TO "`+name+`"`)
		refused("row-level security", "BYPASSRLS") // rather than hide rows
		if found := remedies(true); !strings.Contains(found, "BYPASSRLS") {
			t.Errorf("the check does not speak of policies: %s", found)
		}
		db.exec("ALTER TABLE s.t DISABLE ROW LEVEL SECURITY")
		refused("may not mark a place in the log", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message(boolean, text, text")
		db.exec(remedies(true))
		if found := remedies(true); found != "" {
			t.Errorf("when all is mended: %s", found)
		}
		equal(t, db.rows(db.reader(c, db.options("s.t")), sources.ChunkRequest{Table: "s.t", Rows: 10, Bytes: 10}), "r s.t [a] -> a=1")
	})
}

// TestChunkJoined: a transaction that wrote to a table before it was published, and commits after, is not in the stream with
// what it wrote. A read of that table waits for it; one of a table that was there before the slot does not.
func TestChunkJoined(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t1 (a int PRIMARY KEY)", "CREATE TABLE t2 (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t1"))
		s.close()
		old, err := pgx.Connect(context.Background(), db.url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = closeConn(old) }()
		if _, err := old.Exec(context.Background(), "BEGIN; INSERT INTO t2 VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		o := db.options("public.t1", "public.t2")
		o.Position = s.position
		db.reopen(db.config(), o)
		if _, err := old.Exec(context.Background(), "INSERT INTO t2 VALUES (2)"); err != nil {
			t.Fatal(err)
		}
		var log logBuffer
		o.Logger = log.logger()
		r := db.reader(db.config(), o)
		r.patience = 50 * time.Millisecond
		db.chunk(r, sources.ChunkRequest{Table: "public.t1", Rows: 10, Bytes: 10})
		read := make(chan []string)
		go func() { read <- db.rows(r, sources.ChunkRequest{Table: "public.t2", Rows: 10, Bytes: 100}) }()
		log.wait(t, "reading table public.t2 waits for transactions that may have written to it before it was published")
		if strings.Contains(log.String(), "t1") {
			t.Errorf("the log says: %s", &log)
		}
		if _, err := old.Exec(context.Background(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		equal(t, <-read, "r public.t2 [a] -> a=1", "r public.t2 [a] -> a=2")
	})
}

// TestChunkStandby: a standby cannot mark the log, and its snapshots do not tell what runs.
func TestChunkStandby(t *testing.T) {
	server := startServer(t)
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)")
	if err := server.ctl("stop", "-m", "fast"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.ctl("start"); err != nil {
		t.Fatal(err)
	}
	_, err := db.config().OpenReader(t.Context(), db.options("public.t"))
	isFatal(t, err, "standby", "let url lead to the primary")
	if err := server.ctl("promote"); err != nil {
		t.Fatal(err)
	}
}

// TestView: what is no source block, or no position of this source, is an error.
func TestView(t *testing.T) {
	s, err := visibility.Parse("4294967300:4294967310:4294967300,4294967305")
	if err != nil {
		t.Fatal(err)
	}
	v := &view{snapshot: s, mark: 0x200}
	for block, want := range map[string]bool{`{"txId":4294967295}`: true, `{"txId":3,"lsn":1}`: true, `{"txId":4}`: false, `{"txId":8}`: true,
		`{"txId":9}`: false, `{"txId":14}`: false} {
		if sees, err := v.SeesSource([]byte(block)); err != nil || sees != want {
			t.Errorf("%s: %v, %v", block, sees, err)
		}
	}
	for _, block := range []string{`{"txId":null}`, `{}`, `{"txId":"5"}`, `{"txId":4294967296}`, ``} {
		if _, err := v.SeesSource([]byte(block)); err == nil {
			t.Errorf("%s is a source block", block)
		}
	}
	p := position{System: "1", Database: "d", Slot: "s"}
	for at, want := range map[lsn]bool{0x1ff: false, 0x200: true, 0x201: true} {
		p.LSN = at
		if passed, err := v.Passed(p.encode()); err != nil || passed != want {
			t.Errorf("passed at %s: %v, %v", at, passed, err)
		}
	}
	p.LSN, p.Creating = 0, true
	if passed, err := v.Passed(p.encode()); err != nil || passed {
		t.Errorf("passed before the slot: %v, %v", passed, err)
	}
	if _, err := v.Passed([]byte("7")); err == nil {
		t.Error("7 is a position")
	}
	if v.Horizon() != s.Xmin {
		t.Errorf("horizon %d", v.Horizon())
	}
}

// TestChunkSession: the settings of a role do not change what is read, nor end a read that takes its time.
func TestChunkSession(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (f float8, d timestamptz, b bytea, r regclass)", "ALTER TABLE t REPLICA IDENTITY FULL",
			`INSERT INTO t SELECT 0.1::float8 + 0.2, '2026-02-28 12:00:00+00', '\x00ff', 't' FROM generate_series(1, 3)`)
		name, address := db.role("SUPERUSER")
		for _, s := range []string{"datestyle = 'German'", "extra_float_digits = 0", "timezone = 'Asia/Tokyo'", "bytea_output = 'escape'",
			"search_path = public", "statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '50ms'", "lock_timeout = '1ms'",
			"default_transaction_read_only = on", "synchronous_commit = off"} {
			db.exec("ALTER ROLE " + name + " SET " + s)
		}
		if db.one("SELECT (current_setting('server_version_num')::int >= 170000)::text") == "true" {
			db.exec("ALTER ROLE " + name + " SET transaction_timeout = '1s'")
		}
		c := db.config()
		c.URL = address
		r := db.reader(c, db.options("public.t"))
		q := sources.ChunkRequest{Table: "public.t", Rows: 2, Bytes: 1 << 20}
		const row = "r public.t -> f=0.30000000000000004 d=2026-02-28 12:00:00+00 b=\x00\xff r=public.t"
		first := db.chunk(r, q)
		equal(t, rowLines(first), row, row)
		time.Sleep(1200 * time.Millisecond)
		q.After = first.Next
		equal(t, db.rows(r, q), row)
		if local := r.idle[0].PgConn().ExecParams(t.Context(), "SHOW synchronous_commit", nil, nil, nil, nil).Read(); string(local.Rows[0][0]) != "local" {
			t.Errorf("synchronous_commit is %s", local.Rows[0][0])
		}
	})
}

// TestChunkNames: rows are read under the names, and with the columns, that changes have.
func TestChunkNames(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a)", "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
			"CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)", "INSERT INTO p VALUES (1), (11), (12)")
		c := db.config()
		c.Partitions = PartitionsLeaves
		r := db.reader(c, db.options("public.p"))
		names, err := r.Tables(t.Context())
		if err != nil || strings.Join(names, " ") != "public.p1 public.p2" {
			t.Fatalf("tables %s, %v", names, err)
		}
		equal(t, db.rows(r, sources.ChunkRequest{Table: "public.p2", Rows: 1, Bytes: 1}), "r public.p2 [a] -> a=11", "r public.p2 [a] -> a=12")
		db.exec("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30)", "INSERT INTO p VALUES (21)", "DROP TABLE p1")
		if names, err = r.Tables(t.Context()); err != nil || strings.Join(names, " ") != "public.p2 public.p3" {
			t.Errorf("tables %s, %v", names, err)
		}
		equal(t, db.rows(r, sources.ChunkRequest{Table: "public.p3", Rows: 1, Bytes: 1}), "r public.p3 [a] -> a=21")

		db.exec("CREATE TABLE g (a int PRIMARY KEY, b int GENERATED ALWAYS AS (a * 2) STORED, c int)", "INSERT INTO g VALUES (1)")
		q := sources.ChunkRequest{Table: "public.g", Rows: 1, Bytes: 1}
		equal(t, db.rows(db.reader(db.config(), db.options("public.g")), q), "r public.g [a] -> a=1 c=null")
		if db.one("SELECT (current_setting('server_version_num')::int >= 180000)::text") == "true" {
			db.exec("CREATE PUBLICATION theirs FOR TABLE g WITH (publish_generated_columns = stored, publish_via_partition_root)")
			c = db.config()
			c.Publication = "theirs"
			s := db.open(c, db.options("public.g"))
			db.exec("INSERT INTO g VALUES (2)")
			equal(t, s.take(1), "c public.g [a] -> a=2 b=4 c=null")
			q.Rows = 2
			q.Bytes = 100
			equal(t, db.rows(db.reader(c, db.options("public.g")), q), "r public.g [a] -> a=1 b=2 c=null", "r public.g [a] -> a=2 b=4 c=null")
		}
	})
}
