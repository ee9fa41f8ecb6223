package polling

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

const orders = "id INTEGER PRIMARY KEY, state TEXT"

func TestValidate(t *testing.T) {
	tests := []struct {
		config SQLiteConfig
		want   string // in the message, "" for none
	}{
		{SQLiteConfig{Path: "shop.db"}, ""},
		{SQLiteConfig{Path: "shop.db", Watermark: "version", Interval: time.Second}, ""},
		{SQLiteConfig{}, "path:"},
		{SQLiteConfig{Path: ":memory:"}, "path:"},
		{SQLiteConfig{Path: "file:shop.db?mode=rw"}, "path:"},
		{SQLiteConfig{Path: "a\x00b"}, "path:"},
		{SQLiteConfig{Path: "shop.db", Watermark: "a\x00b"}, "watermark:"},
		{SQLiteConfig{Path: "shop.db", Interval: time.Microsecond}, "interval:"},
		{SQLiteConfig{Path: "shop.db", Interval: -time.Second}, "interval:"},
	}
	for _, test := range tests {
		err := test.config.Validate()
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error %v, want %q", test.config, err, test.want)
		}
	}
}

// What a database lacks is told by Open, with what mends it.
func TestOpenRefuses(t *testing.T) {
	prepared := func(s *shop) { createTable(s.t, s.db, "orders", orders) }
	tests := []struct {
		name  string
		setup func(s *shop)
		want  []string
	}{
		{"no file", func(s *shop) { s.config.Path += ".none" }, []string{"no such file", "create the database"}},
		{"a directory", func(s *shop) { s.config.Path = filepath.Dir(s.path) }, []string{"no regular file"}},
		{"not a database", func(s *shop) {
			s.config.Path += ".txt"
			if err := os.WriteFile(s.config.Path, []byte(strings.Repeat("no database at all\n", 100)), 0o600); err != nil {
				s.t.Fatal(err)
			}
		}, []string{"not a database", "set path"}},
		{"no such table", func(s *shop) {
			prepared(s)
			s.opts.Tables = []string{"orders", "invoice_*"}
		}, []string{"invoice_*", "the database has: orders"}},
		{"a view", func(s *shop) {
			prepared(s)
			s.execute("CREATE VIEW paid AS SELECT * FROM orders")
			s.opts.Tables = []string{"paid"}
		}, []string{"paid is a view"}},
		{"no watermark column", func(s *shop) { s.execute("CREATE TABLE orders (" + orders + ")") },
			[]string{"table orders: it has no column weft_version", `ALTER TABLE "orders" ADD COLUMN "weft_version" INTEGER;`,
				"CREATE TABLE IF NOT EXISTS weft_counter", "AFTER INSERT ON", "AFTER UPDATE ON", "CREATE INDEX"}},
		{"a watermark of text", func(s *shop) { s.execute("CREATE TABLE orders (" + orders + ", weft_version TEXT)") },
			[]string{`weft_version is declared "TEXT"`}},
		{"no counter", func(s *shop) { s.execute("CREATE TABLE orders (" + orders + ", weft_version INTEGER)") },
			[]string{"no table weft_counter"}},
		{"an empty counter", func(s *shop) {
			prepared(s)
			s.execute("DELETE FROM weft_counter")
		}, []string{"no table weft_counter with one row"}},
		{"no index", func(s *shop) {
			prepared(s)
			s.execute("DROP INDEX weft_index_orders")
		}, []string{"no index", `CREATE INDEX IF NOT EXISTS "weft_index_orders" ON "orders" ("weft_version");`}},
		{"a partial index", func(s *shop) {
			prepared(s)
			s.execute("DROP INDEX weft_index_orders", "CREATE INDEX i ON orders (weft_version) WHERE state = 'paid'")
		}, []string{"no index"}},
		{"an index that begins with another column", func(s *shop) {
			prepared(s)
			s.execute("DROP INDEX weft_index_orders", "CREATE INDEX i ON orders (state, weft_version)")
		}, []string{"no index"}},
		{"no trigger on insert", func(s *shop) {
			prepared(s)
			s.execute("DROP TRIGGER weft_insert_orders")
		}, []string{"no trigger on INSERT", "CREATE TRIGGER IF NOT EXISTS"}},
		{"no trigger on update", func(s *shop) {
			prepared(s)
			s.execute("DROP TRIGGER weft_update_orders")
		}, []string{"no trigger on UPDATE"}},
		{"a trigger on some columns only", func(s *shop) {
			prepared(s)
			s.execute("DROP TRIGGER weft_update_orders", "CREATE TRIGGER u AFTER UPDATE OF state ON orders BEGIN "+
				"UPDATE weft_counter SET value = value + 1; UPDATE orders SET weft_version = (SELECT value FROM weft_counter) WHERE id = NEW.id; END")
		}, []string{"no trigger on UPDATE"}},
		{"rows without a number", func(s *shop) {
			prepared(s)
			s.execute("DROP TRIGGER weft_insert_orders", "INSERT INTO orders (id) VALUES (1)")
			s.execute(SQLiteStatements("orders", "weft_version")[3])
		}, []string{"NULL in some row", `UPDATE "orders" SET "weft_version" = NULL WHERE "weft_version" IS NULL;`}},
		{"no key", func(s *shop) { createTable(s.t, s.db, "orders", "id INTEGER") }, []string{"table orders has no primary key", "keys: {orders:"}},
		{"a key of unknown columns", func(s *shop) {
			prepared(s)
			s.opts.Keys = map[string][]string{"orders": {"number"}}
		}, []string{"no column number"}},
		{"a position of another source", func(s *shop) {
			prepared(s)
			s.opts.Position = []byte(`{"lsn":"0/15D4D50"}`)
		}, []string{"0/15D4D50", "not one of a polling source"}},
		{"a damaged position", func(s *shop) {
			prepared(s)
			s.opts.Position = []byte(`{"poll":-1}`)
		}, []string{"not one of a polling source"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newShop(t, "orders")
			test.setup(s)
			err := s.openError()
			wantFatal(t, err, test.want...)
			if s.opts.Position == nil {
				wantParts(t, err, s.config.Path)
			}
		})
	}
}

// The statements that an error prints are enough.
func TestRemedyMends(t *testing.T) {
	for _, key := range []string{"PRIMARY KEY (id)", "PRIMARY KEY (region, id)"} {
		for _, options := range []string{"", " WITHOUT ROWID"} {
			t.Run(key+options, func(t *testing.T) {
				s := newShop(t, `the "orders"`)
				name := quote(`the "orders"`)
				s.execute("CREATE TABLE "+name+" (region TEXT, id INTEGER, "+key+")"+options, "INSERT INTO "+name+" VALUES ('eu', 1)")
				var fatal *sources.FatalError
				if err := s.openError(); !errors.As(err, &fatal) {
					t.Fatal(err)
				}
				statements, ok := strings.CutSuffix(fatal.Remedy, "\n-- in the database "+s.path)
				if !ok {
					t.Fatal(fatal.Remedy)
				}
				s.execute(statements)
				src := s.start()
				s.execute("INSERT INTO "+name+" (region, id) VALUES ('us', 2)", "UPDATE "+name+" SET region = 'uk' WHERE id = 1")
				wantShown(t, next(t, src), `the "orders" us 2; the "orders" uk 1`)
			})
		}
	}
}

func TestLockedIsNoFatalError(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	s.execute("PRAGMA journal_mode = delete")
	conn, err := s.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	err = s.openError()
	wantParts(t, err, "locked")
	if strings.Contains(err.Error(), "to mend it") {
		t.Errorf("a lock is fatal: %v", err)
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	s.start()
}

// Every way to write a row gives it a new number.
func TestTriggers(t *testing.T) {
	tests := []struct {
		write string
		want  string
	}{
		{"INSERT INTO orders (id, state) VALUES (3, 'new')", "orders 3 new"},
		{"INSERT INTO orders (id, state, weft_version) VALUES (3, 'new', 1)", "orders 3 new"},
		{"INSERT INTO orders SELECT id + 10, state, weft_version FROM orders", "orders 11 a; orders 12 b"},
		{"INSERT INTO orders VALUES (3, 'x', 3), (4, 'y', 4), (5, 'z', 5)", "orders 3 x; orders 4 y; orders 5 z"},
		{"INSERT OR REPLACE INTO orders (id, state) VALUES (1, 'replaced')", "orders 1 replaced"},
		{"INSERT INTO orders (id, state) VALUES (1, 'x') ON CONFLICT DO UPDATE SET state = 'upserted'", "orders 1 upserted"},
		{"UPDATE orders SET state = 'paid' WHERE id = 1", "orders 1 paid"},
		{"UPDATE orders SET state = 'paid' WHERE id = 2", "orders 2 paid"},
		{"UPDATE orders SET state = state WHERE id = 2", "orders 2 b"},
		{"UPDATE orders SET state = 'all'", "orders 1 all; orders 2 all"},
		{"UPDATE orders SET state = 'low', weft_version = -5 WHERE id = 2", "orders 2 low"},
		{"UPDATE orders SET state = 'high', weft_version = 1000000 WHERE id = 2", "orders 2 high"},
		{"UPDATE orders SET weft_version = NULL WHERE id = 1", "orders 1 a"},
		{"UPDATE orders SET id = 9 WHERE id = 1", "orders 9 a"},
		{"DELETE FROM orders WHERE id = 2; INSERT INTO orders (id, state) VALUES (2, 'again')", "orders 2 again"},
	}
	for _, recursive := range []string{"off", "on"} {
		for _, options := range []string{"", " WITHOUT ROWID"} {
			for _, test := range tests {
				t.Run(fmt.Sprintf("%s%s, recursive_triggers %s", test.write, options, recursive), func(t *testing.T) {
					s := newShop(t, "orders")
					s.db.SetMaxOpenConns(1)
					s.execute("PRAGMA recursive_triggers = "+recursive,
						"CREATE TABLE orders ("+orders+", weft_version INTEGER)"+options)
					var key []string
					if options != "" {
						key = []string{"id"}
					}
					s.execute(SQLiteStatements("orders", "weft_version", key...)...)
					s.execute("INSERT INTO orders (id, state) VALUES (1, 'a'), (2, 'b')")
					src := s.start()
					s.execute(test.write)
					wantShown(t, next(t, src), test.want)
					nothing(t, src)
				})
			}
		}
	}
}

// A hard delete is not captured, and is no gap: not even of the newest row, whose number no other row gets.
func TestDeletedRowsLoseNothing(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	src := s.start()
	s.execute("INSERT INTO orders VALUES (1, 'a', NULL), (2, 'b', NULL)")
	position := next(t, src).Position
	s.execute("DELETE FROM orders")
	nothing(t, src)
	s.execute("INSERT INTO orders VALUES (3, 'c', NULL)")
	wantShown(t, next(t, src), "orders 3 c")
	s.opts.Position = position
	wantShown(t, next(t, s.open()), "orders 3 c")
}

func TestRowsThatNoTriggerNumbered(t *testing.T) {
	tests := []struct{ name, write, want string }{
		{"number above the counter", "UPDATE orders SET weft_version = 50", `id="1": weft_version is 50, which no trigger set: weft_counter is at`},
		{"one number twice", "UPDATE weft_counter SET value = 9; UPDATE orders SET weft_version = 5", `id="2": weft_version is 5, as in another row`},
		{"text as number", "UPDATE orders SET weft_version = 'x'", `weft_version is x, which no trigger set`},
		{"NULL in the key", "INSERT INTO orders (code, id) VALUES (NULL, 5)", "key column code is NULL"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newShop(t, "orders")
			createTable(t, s.db, "orders", "id INTEGER, code TEXT PRIMARY KEY, state TEXT")
			s.opts.Keys = map[string][]string{"ORDERS": {"id"}}
			if test.name == "NULL in the key" {
				s.opts.Keys = nil
			}
			s.execute("INSERT INTO orders (id, code) VALUES (1, 'a'), (2, 'b')")
			src := s.start()
			s.opts.Position = []byte(fmt.Sprintf(`{"database":%q,"poll":1,"tables":{"orders":{"watermark":0}}}`, src.(*source).position.Database))
			src = s.open()
			next(t, src)
			// Triggers that are there but do nothing, as after a mistaken edit.
			if !strings.HasPrefix(test.write, "INSERT") {
				s.execute("DROP TRIGGER weft_update_orders", "CREATE TRIGGER weft_update_orders AFTER UPDATE ON orders WHEN 0 BEGIN "+
					"UPDATE orders SET weft_version = (SELECT value FROM weft_counter); END")
			}
			s.execute(test.write)
			wantFatal(t, nextError(t, src), "orders", test.want)
		})
	}
}

// The file is opened so that nothing of it changes, and not even a mode bit is needed beyond reading.
func TestNeverWrites(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	s.execute("PRAGMA wal_checkpoint(TRUNCATE)")
	before, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	src := s.start()
	nothing(t, src)
	d := src.(*source).dialect.(*sqliteDialect)
	for _, statement := range []string{"DELETE FROM orders", "CREATE TABLE x (y)", "PRAGMA user_version = 3"} {
		if _, err := d.conn.ExecContext(t.Context(), statement); err == nil {
			t.Errorf("%s succeeded", statement)
		}
	}
	after, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the database file changed")
	}
}

// A database in WAL mode that nobody else has open is read too, and paths may hold anything.
func TestOpenAlone(t *testing.T) {
	for kind, name := range map[string]string{"plain": "alone.db", "escaped": "with space & ?question#hash%25.db"} {
		t.Run(kind, func(t *testing.T) {
			s := newShop(t, "orders")
			createTable(t, s.db, "orders", orders)
			if err := s.db.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), name)
			if err := os.Rename(s.path, path); err != nil {
				t.Fatal(err)
			}
			s.config.Path = path
			nothing(t, s.start())
		})
	}
}

// The index serves the query: no sorting, no scan.
func TestQueryPlan(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	src := s.start()
	query := src.(*source).dialect.(*sqliteDialect).captured[0].query + afterWatermark("weft_version")
	rows, err := s.db.Query("EXPLAIN QUERY PLAN "+query, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	if len(plan) != 1 || !strings.Contains(plan[0], "USING INDEX weft_index_orders (weft_version>?)") {
		t.Errorf("the plan of %s is %q", query, plan)
	}
}

// A Next whose context has ended before it returns that error and nothing else.
func TestNextEnded(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	src := s.open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b, err := src.Next(ctx); err != context.Canceled {
		t.Fatalf("got %s and error %v", b.Position, err)
	}
	if b := next(t, src); b.Position == nil || len(b.Changes) > 0 {
		t.Fatalf("the first batch is lost: %s", show(b))
	}
}
