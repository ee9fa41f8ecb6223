package polling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft/sources"
)

// The first batch says where the capture begins: after all rows that were there.
func TestStart(t *testing.T) {
	s := newShop(t, "*")
	createTable(t, s.db, "orders", orders)
	createTable(t, s.db, "customers", orders)
	s.execute("INSERT INTO orders (id) VALUES (1), (2), (3)")
	src := s.open()
	s.execute("INSERT INTO customers (id, state) VALUES (7, 'new')") // after Open, before the first Next
	b := next(t, src)
	var p position
	if err := json.Unmarshal(b.Position, &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Database) != 32 || p.Poll != 0 || p.Tables["orders"].Watermark != 3 || p.Tables["customers"].Watermark != 3 {
		t.Fatalf("the first position is %s", b.Position)
	}
	b = next(t, src)
	wantShown(t, b, "customers 7 new")
	if c := b.Changes[0]; string(c.Order) != "0000000000000001.00000000" || c.Op != sources.OpCreate || c.Before != nil {
		t.Errorf("the change is %q, order %s", c.Op, c.Order)
	}
	nothing(t, src)
}

// Order goes on above OpenOptions.Above, and counts only polls that found something.
func TestOrderAbove(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	s.opts.Above = []byte("00000000000000ff.00000007")
	src := s.start()
	nothing(t, src)
	s.execute("INSERT INTO orders (id) VALUES (1), (2)")
	b := next(t, src)
	if first, second := string(b.Changes[0].Order), string(b.Changes[1].Order); first != "0000000000000100.00000000" ||
		second != "0000000000000100.00000001" {
		t.Errorf("the orders are %s, %s", first, second)
	}
	for _, above := range []string{"", "ff", "00000000000000fg.00000007", "00000000000000ff-00000007", "00000000000000ff.000000070"} {
		s.opts.Above = []byte(above)
		wantParts(t, s.openError(), "above which to go on")
	}
}

// A row that a column marks as deleted is a delete; when the mark goes, it is there again.
func TestDeletedColumn(t *testing.T) {
	tests := []struct{ declared, mark, unmark string }{
		{"BOOLEAN NOT NULL DEFAULT FALSE", "TRUE", "FALSE"}, {"INTEGER", "1", "0"}, {"INTEGER", "-7", "NULL"}, {"DATETIME", "'2026-02-28'", "NULL"},
		{"REAL NOT NULL DEFAULT 0.0", "0.5", "0.0"},
	}
	for _, test := range tests {
		t.Run(test.declared+" "+test.mark, func(t *testing.T) {
			s := newShop(t, "*")
			createTable(t, s.db, "orders", "id INTEGER PRIMARY KEY, gone "+test.declared)
			createTable(t, s.db, "other", orders)
			s.config.Deleted = "gone"
			src := s.start()
			for i, step := range []struct {
				statement string
				op        sources.Op
			}{
				{"INSERT INTO orders (id) VALUES (1)", sources.OpCreate}, {"UPDATE orders SET gone = " + test.mark, sources.OpDelete},
				{"UPDATE orders SET gone = " + test.unmark, sources.OpCreate}, {"INSERT INTO other (id) VALUES (1)", sources.OpCreate},
			} {
				s.execute(step.statement)
				b := next(t, src)
				c := b.Changes[0]
				if len(b.Changes) != 1 || c.Op != step.op || (c.Before != nil) != (c.Op == sources.OpDelete) || (c.After != nil) == (c.Before != nil) {
					t.Fatalf("step %d: %d changes, the first is %c", i, len(b.Changes), c.Op)
				}
			}
			s.config.Deleted = "removed"
			wantFatal(t, s.openError(), "no captured table has a column removed")
		})
	}
}

// No table has to wait for another that never ends.
func TestFair(t *testing.T) {
	s := newShop(t, "a", "b", "c")
	s.opts.BatchBytes = 4 << 10
	for _, name := range s.opts.Tables {
		createTable(t, s.db, name, orders)
	}
	src := s.start()
	many := "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO %s (id, state) SELECT i, hex(randomblob(200)) FROM n"
	for _, name := range s.opts.Tables {
		s.execute(fmt.Sprintf(many, name))
	}
	var first []string
	for len(first) < 6 {
		b := next(t, src)
		first = append(first, b.Changes[0].Table.Name)
		if !b.More {
			t.Error("More is false though rows are left")
		}
		s.execute("UPDATE a SET state = state") // table a never ends
	}
	if got := strings.Join(first, ""); got != "abcabc" {
		t.Errorf("batches began with the tables %s", got)
	}
}

// While a batch is handled the next poll is made, which neither touches the batch nor is lost when nobody waits for it.
func TestReadAhead(t *testing.T) {
	s := newShop(t, "orders")
	s.opts.BatchBytes = 4 << 10
	createTable(t, s.db, "orders", orders)
	src := s.start()
	s.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO orders (id, state) SELECT i, hex(randomblob(200)) FROM n")
	rows := 0
	for more := true; more; {
		b := next(t, src)
		rows, more = rows+len(b.Changes), b.More
		if engine := src.(*source); more {
			before := show(b)
			for began := time.Now(); len(engine.ahead) == 0; time.Sleep(time.Millisecond) {
				if time.Since(began) > 20*time.Second {
					t.Fatal("no poll is made beside")
				}
			}
			wantShown(t, b, before)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if b, err := src.Next(ended); !errors.Is(err, context.Canceled) {
				t.Fatalf("next returned %s and error %v", show(b), err)
			}
		} else if engine.ahead != nil {
			t.Fatal("a poll is made beside though nothing is left")
		}
	}
	if rows != 100 {
		t.Errorf("%d of 100 rows were returned", rows)
	}
	s.execute("UPDATE orders SET state = hex(randomblob(200))")
	if b := next(t, src); !b.More {
		t.Error("More is false though rows are left")
	}
	// The test's end closes it in the middle of a poll.
}

// Columns and tables come and go between polls.
func TestSchemaChanges(t *testing.T) {
	s := newShop(t, "orders*")
	createTable(t, s.db, "orders", orders)
	src := s.start()
	s.execute("INSERT INTO orders (id, state) VALUES (1, 'a')")
	b := next(t, src)
	before := b.Changes[0].Table
	wantShown(t, b, "orders 1 a")

	s.execute("CREATE TABLE other (x)", "INSERT INTO orders (id, state) VALUES (2, 'b')")
	if b = next(t, src); b.Changes[0].Table != before {
		t.Error("a schema change of another table made a new Table")
	}
	s.execute("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'none'", "UPDATE orders SET state = 'c' WHERE id = 1")
	b = next(t, src)
	wantShown(t, b, "orders 1 c none")
	if b.Changes[0].Table == before || len(before.Columns) != 3 {
		t.Error("a new column did not make a new Table")
	}
	s.execute("ALTER TABLE orders DROP COLUMN state", "ALTER TABLE orders RENAME COLUMN note TO remark", "UPDATE orders SET remark = 'd' WHERE id = 2")
	b = next(t, src)
	wantShown(t, b, "orders 2 d")
	if name := b.Changes[0].Table.Columns[2].Name; name != "remark" {
		t.Errorf("the column is named %s", name)
	}
	// The way to change what ALTER TABLE cannot: https://www.sqlite.org/lang_altertable.html, section 7.
	s.execute("BEGIN; CREATE TABLE next (id INTEGER PRIMARY KEY, weft_version INTEGER, remark TEXT, total REAL);" +
		"INSERT INTO next SELECT id, weft_version, remark, 0.5 FROM orders; DROP TABLE orders; ALTER TABLE next RENAME TO orders;" +
		strings.Join(SQLiteStatements("orders", "weft_version"), "\n") + "; COMMIT;")
	nothing(t, src)
	s.execute("UPDATE orders SET total = 2.25 WHERE id = 1")
	wantShown(t, next(t, src), "orders 1 none 2.25")

	// A table that a pattern matches from now on is captured from its first row.
	s.execute("BEGIN; CREATE TABLE orders_eu (" + orders + ", weft_version INTEGER);" +
		strings.Join(SQLiteStatements("orders_eu", "weft_version"), "\n") + "; INSERT INTO orders_eu (id) VALUES (1); COMMIT")
	wantShown(t, next(t, src), "orders_eu 1 NULL")
	s.execute("DROP TABLE orders_eu", "INSERT INTO orders (id) VALUES (5)")
	wantShown(t, next(t, src), "orders 5 NULL NULL")

	s.execute("DROP TRIGGER weft_update_orders")
	wantFatal(t, nextError(t, src), "no trigger on UPDATE")
}

// While the source is closed, tables may be created and be added to the capture: what was written to them since the
// position comes, what was there before does not.
func TestTablesAddedWhileClosed(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	createTable(t, s.db, "customers", orders)
	s.execute("INSERT INTO customers (id, state) VALUES (1, 'old'), (2, 'old')")
	src := s.start()
	s.execute("INSERT INTO orders (id, state) VALUES (1, 'a')")
	s.opts.Position = next(t, src).Position
	s.execute("UPDATE customers SET state = 'new' WHERE id = 2")
	createTable(t, s.db, "invoices", orders)
	s.execute("INSERT INTO invoices (id, state) VALUES (9, 'sent')")
	s.opts.Tables = []string{"*"}
	src = s.open()
	wantShown(t, next(t, src), "customers 2 new; invoices 9 sent")
	nothing(t, src)
}

func TestGaps(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	s.execute("INSERT INTO orders (id) VALUES (1)")
	backup := filepath.Join(t.TempDir(), "backup.db")
	s.execute("VACUUM INTO '" + backup + "'")
	src := s.start()
	s.execute("INSERT INTO orders (id) VALUES (2), (3)")
	s.opts.Position = next(t, src).Position

	older := *s.config
	older.Path = backup
	_, err := older.Open(t.Context(), s.opts)
	gap := wantGap(t, err, "older state", "its counter is at 1", "the checkpoint at 3", "up to 2 changes")
	opts := s.opts
	opts.Position = gap.Resume
	resumed, err := older.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	wantShown(t, next(t, resumed), "orders 1 NULL")
	if err := resumed.Close(); err != nil {
		t.Fatal(err)
	}

	other := newShop(t, "orders")
	createTable(t, other.db, "orders", orders)
	other.opts.Position = s.opts.Position
	wantGap(t, other.openError(), "another database")

	// The counter is set back under an open source.
	s.execute("UPDATE weft_counter SET value = 1")
	wantGap(t, nextError(t, src), "its counter is at 1")
}

// A file that is put in the place of the open one is noticed: the old one would never change again.
func TestFileReplaced(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	copied := filepath.Join(t.TempDir(), "copy.db")
	s.execute("VACUUM INTO '" + copied + "'")
	src := s.start()
	nothing(t, src)
	if err := os.Rename(copied, s.path); err != nil {
		t.Fatal(err)
	}
	err := nextError(t, src)
	wantParts(t, err, "another file")
	var fatal *sources.FatalError
	if errors.As(err, &fatal) {
		t.Error("it is fatal, though opening again helps")
	}
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	wantParts(t, nextError(t, src), "no such file")
}

// Writers hold transactions open, roll some back, and delete; the reader folds to the table all the same.
func TestConcurrentTransactions(t *testing.T) {
	s := newShop(t, "orders")
	s.opts.BatchBytes = 2 << 10
	createTable(t, s.db, "orders", "id INTEGER PRIMARY KEY, state INTEGER, deleted BOOLEAN NOT NULL DEFAULT FALSE")
	src := s.start()
	const writers, transactions, rows = 4, 60, 25
	results := make(chan error, writers)
	var numbers atomic.Int64
	for range writers {
		go func() {
			results <- func() error {
				for range transactions {
					tx, err := s.db.Begin()
					if err != nil {
						return err
					}
					for range 1 + rand.IntN(8) {
						_, err := tx.Exec("INSERT INTO orders (id, state, deleted) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET state = ?2, deleted = ?3",
							rand.IntN(rows), numbers.Add(1), rand.IntN(5) == 0)
						if err != nil {
							return errors.Join(err, tx.Rollback())
						}
						if rand.IntN(20) == 0 {
							time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
						}
					}
					if rand.IntN(4) == 0 {
						err = tx.Rollback()
					} else {
						err = tx.Commit()
					}
					if err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	folded := map[string]string{}
	seen := 0
	var lastWatermark string
	read := func() {
		src.(*source).pollAt = time.Time{} // each poll looks, however soon after the last
		b, err := src.(*source).poll(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			values := make([]string, len(c.After))
			for i, v := range c.After {
				values[i] = string(v.Data)
			}
			if watermark := fmt.Sprintf("%20s", values[3]); watermark <= lastWatermark {
				t.Fatalf("watermark %s comes after %s", watermark, lastWatermark)
			} else {
				lastWatermark = watermark
			}
			folded[values[0]] = strings.Join(values[1:], " ")
			seen++
		}
	}
	for ended := 0; ended < writers; {
		read()
		select {
		case err := <-results:
			if err != nil {
				t.Fatal(err)
			}
			ended++
		default:
		}
	}
	for n := -1; n != seen; {
		n = seen
		read()
	}
	table, err := s.db.Query("SELECT id, state, CASE deleted WHEN 0 THEN 'f' ELSE 't' END, weft_version FROM orders")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	found := 0
	for table.Next() {
		var id, state, deleted, version string
		if err := table.Scan(&id, &state, &deleted, &version); err != nil {
			t.Fatal(err)
		}
		if want := state + " " + deleted + " " + version; folded[id] != want {
			t.Errorf("row %s: read %q, the table holds %q", id, folded[id], want)
		}
		found++
	}
	if found != len(folded) || found == 0 {
		t.Errorf("%d rows were read, the table holds %d", len(folded), found)
	}
	t.Logf("%d versions of %d rows", seen, found)
}

// A poll of a quiet database opens no view, and a batch's memory is used again.
func TestPollCost(t *testing.T) {
	s := newShop(t, "orders")
	createTable(t, s.db, "orders", orders)
	src := s.start().(*source)
	counted := &countingDialect{dialect: src.dialect}
	src.dialect = counted
	for range 100 {
		if _, err := src.poll(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if counted.views != 1 {
		t.Errorf("100 quiet polls opened %d views", counted.views)
	}
	s.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO orders (id, state) SELECT i, hex(randomblob(100)) FROM n")
	for more := true; more; {
		b, err := src.poll(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		more = b.More
	}
	if got := cap(src.batch.bytes); got > 2*src.batch.maxBytes {
		t.Errorf("the batch keeps %d bytes", got)
	}
	s.execute("INSERT INTO orders (id, state) VALUES (9999, hex(randomblob(1000000)))")
	if b := next(t, src); len(b.Changes[0].After[1].Data) != 2_000_000 {
		t.Fatal("the large value is cut")
	}
	s.execute("INSERT INTO orders (id) VALUES (10000)")
	next(t, src)
	if got := cap(src.batch.bytes); got > 2*src.batch.maxBytes {
		t.Errorf("the batch keeps %d bytes of one large value", got)
	}
}

type countingDialect struct {
	dialect
	views int
}

func (d *countingDialect) view(ctx context.Context) (view, error) {
	d.views++
	return d.dialect.view(ctx)
}
