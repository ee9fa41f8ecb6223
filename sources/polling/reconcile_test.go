package polling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// fakeHolder holds what a test's batches have told, as the log would.
type fakeHolder struct {
	rows map[string]map[string][][]byte // by table and key
}

func newFakeHolder() *fakeHolder { return &fakeHolder{rows: map[string]map[string][][]byte{}} }

// note takes a batch in, and returns the keys of its deletes.
func (h *fakeHolder) note(b sources.Batch) (deleted []string) {
	for _, c := range b.Changes {
		row := c.After
		if c.Op == sources.OpDelete {
			row = c.Before
		}
		var key [][]byte
		for _, k := range c.Table.Key {
			key = append(key, bytes.Clone(row[k].Data))
		}
		text := string(bytes.Join(key, []byte("|")))
		table := c.Table.String()
		if h.rows[table] == nil {
			h.rows[table] = map[string][][]byte{}
		}
		if c.Op == sources.OpDelete {
			deleted = append(deleted, text)
			delete(h.rows[table], text)
			continue
		}
		h.rows[table][text] = key
	}
	return deleted
}

// HeldKeys implements sources.Holder. Its cursor is the number of keys before it, so that keys must not go while it is used.
func (h *fakeHolder) HeldKeys(_ context.Context, t *sources.Table, after []byte, limit int) ([][][]byte, []byte, error) {
	var all [][][]byte
	for _, key := range h.rows[t.String()] {
		if after == nil || bytes.Compare(cursorOf(t, key), after) > 0 {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, func(a, b [][]byte) int { return bytes.Compare(cursorOf(t, a), cursorOf(t, b)) })
	if len(all) <= limit {
		return all, nil, nil
	}
	return all[:limit], cursorOf(t, all[limit-1]), nil
}

// cursorOf sorts as the values of a key do; tests have no integers below 0.
func cursorOf(t *sources.Table, key [][]byte) []byte {
	var cursor []byte
	for i, k := range t.Key {
		if t.Columns[k].Type.Kind == sources.Int {
			n, err := strconv.Atoi(string(key[i]))
			if err != nil {
				panic(err)
			}
			cursor = fmt.Appendf(cursor, "%020d", n)
			continue
		}
		cursor = append(append(cursor, key[i]...), 0)
	}
	return cursor
}

// reconciled is a source that looks for deleted rows, over a database that exec writes to.
type reconciled struct {
	t      *testing.T
	held   *fakeHolder
	src    *source
	exec   func(statements ...string)
	orders string // the table's name in statements
	name   string // and in the configuration
}

// eachReconciled runs a test on every dialect, and every server unless once is enough. Its table has the key columns and a text v.
// The tests wait more than they work.
func eachReconciled(t *testing.T, once bool, columns string, key []string, c Reconcile, test func(t *testing.T, r *reconciled)) {
	t.Parallel()
	run := func(t *testing.T, r *reconciled, config sources.Config, o sources.OpenOptions) {
		r.t, r.held = t, newFakeHolder()
		o.Held, o.Existing = r.held, true
		src, err := config.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		r.src = src.(*source)
		r.src.reconcile.every = 20 * time.Millisecond
		r.src.reconcile.next = time.Now()
		test(t, r)
	}
	primary := ", v TEXT, PRIMARY KEY (" + strings.Join(key, ", ") + ")"
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		s := newShop(t, "orders")
		s.config.Reconcile = c
		// The primary key's columns are declared NOT NULL by columns.
		createTable(t, s.db, "orders", columns+", v TEXT")
		execute(t, s.db, "DROP TABLE orders", fmt.Sprintf("CREATE TABLE orders (%s, v TEXT, weft_version INTEGER, PRIMARY KEY (%s))", columns, strings.Join(key, ", ")))
		execute(t, s.db, SQLiteStatements("orders", "weft_version")...)
		run(t, &reconciled{exec: s.execute, orders: "orders", name: "orders"}, s.config, s.opts)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		on := func(t *testing.T, db *pgDatabase, config *PostgresConfig) {
			config.Reconcile = c
			db.prepare(config, "orders", columns+primary, key...)
			run(t, &reconciled{exec: db.exec, orders: "orders", name: "public.orders"}, config, db.opts)
		}
		if once {
			db := newPostgres(t, needServer(t, "WEFT_TEST_POSTGRES_NEWEST"))
			on(t, db, db.config("weft_xid"))
			return
		}
		onPostgresModes(t, true, on)
	})
	t.Run("mariadb", func(t *testing.T) {
		t.Parallel()
		m := newMariaDBBeside(t)
		config := m.config()
		config.Reconcile = c
		m.prepare("orders", columns+primary, key...)
		run(t, &reconciled{exec: m.exec, orders: m.name + ".orders", name: m.name + ".orders"}, config, m.opts)
	})
}

// insert writes rows whose key is a number.
func (r *reconciled) insert(from, to int) {
	r.t.Helper()
	var values []string
	for i := from; i < to; i++ {
		values = append(values, fmt.Sprintf("(%d, 'a')", i))
	}
	r.exec(fmt.Sprintf("INSERT INTO %s (id, v) VALUES %s", r.orders, strings.Join(values, ", ")))
}

// until reads until the log holds as many rows, and returns the keys of the deletes on the way.
func (r *reconciled) until(rows int) (deleted []string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	for {
		b, err := r.src.Next(ctx)
		if err != nil {
			r.t.Fatalf("with %d rows, after %q: %v", r.count(), deleted, err)
		}
		deleted = append(deleted, r.held.note(b)...)
		if r.count() == rows {
			return deleted
		}
	}
}

func (r *reconciled) count() (n int) {
	for _, keys := range r.held.rows {
		n += len(keys)
	}
	return n
}

// quiet reads for a while, over many passes, in which nothing may come.
func (r *reconciled) quiet() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 300*time.Millisecond)
	defer cancel()
	for {
		b, err := r.src.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil || len(b.Changes) > 0 {
			r.t.Fatalf("next returned %s and error %v", show(b), err)
		}
	}
}

func wantKeys(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("deleted %q, want %q", got, want)
	}
}

// Rows that were deleted are told of once; one that came back meanwhile is not, and rows that are there are left alone.
func TestReconcile(t *testing.T) {
	eachReconciled(t, false, "id BIGINT NOT NULL", []string{"id"}, Reconcile{RowsPerSecond: 1e6}, func(t *testing.T, r *reconciled) {
		r.insert(0, 1200)
		r.until(1200)
		r.quiet()
		r.exec("DELETE FROM "+r.orders+" WHERE id IN (0, 7, 8, 650, 1199)", "INSERT INTO "+r.orders+" (id, v) VALUES (8, 'again')")
		wantKeys(t, r.until(1196), "0", "7", "650", "1199")
		r.exec("INSERT INTO " + r.orders + " (id, v) VALUES (7, 'again')")
		wantKeys(t, r.until(1197))
		r.quiet()
	})
}

// An unchanged table costs sums alone: not one key is read.
func TestReconcileReadsNoKeys(t *testing.T) {
	test := func(t *testing.T, r *reconciled) {
		r.insert(0, 2000)
		r.until(2000)
		r.quiet()
		v, err := r.src.dialect.view(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer v.close()
		table := v.tables()[0]
		keys, _, err := r.held.HeldKeys(t.Context(), &table.Table, nil, 2000)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{2000, listKeys} { // a range, and a list
			counted := &countingKeys{view: v}
			missing, err := missingKeys(t.Context(), counted, table, keys[:n])
			if err != nil || len(missing) > 0 || counted.sums != 1 || counted.found > 0 {
				t.Errorf("%d keys: %d are missing, by %d sums and %d keys read; error %v", n, len(missing), counted.sums, counted.found, err)
			}
		}
	}
	t.Run("one column", func(t *testing.T) { eachReconciled(t, false, "id BIGINT NOT NULL", []string{"id"}, Reconcile{}, test) })
	t.Run("two columns", func(t *testing.T) {
		eachReconciled(t, true, "shop INTEGER DEFAULT 7 NOT NULL, id BIGINT NOT NULL", []string{"shop", "id"}, Reconcile{}, test)
	})
}

type countingKeys struct {
	view
	sums, found int
}

func (c *countingKeys) sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error) {
	c.sums++
	return c.view.sumKeys(ctx, t, keys, between)
}

func (c *countingKeys) present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error {
	return c.view.present(ctx, t, keys, func(text []byte) {
		c.found++
		fn(text)
	})
}

// More than somebody has thought of is not deleted before somebody has said that it is meant.
func TestReconcileGuard(t *testing.T) {
	eachReconciled(t, false, "id BIGINT NOT NULL", []string{"id"}, Reconcile{RowsPerSecond: 1e6}, func(t *testing.T, r *reconciled) {
		r.insert(0, 1500)
		r.until(1500)
		r.exec("DELETE FROM " + r.orders + " WHERE id >= 1000")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var err error
		for err == nil {
			var b sources.Batch
			b, err = r.src.Next(ctx)
			if deleted := r.held.note(b); len(deleted) > 0 {
				t.Fatalf("%d rows were deleted", len(deleted))
			}
		}
		wantFatal(t, err, "500 of the 1500 rows", fmt.Sprintf("confirm: {%s: 500}", r.name))
		r.src.reconcile.pass, r.src.reconcile.confirm = nil, map[string]int{r.name: 500}
		if deleted := r.until(1000); len(deleted) != 500 {
			t.Fatalf("%d rows were deleted, want 500", len(deleted))
		}
	})
}

// Keys of texts, whose order nobody knows here, are looked for by name, and are the same only if all their bytes are.
func TestReconcileTextKeys(t *testing.T) {
	eachReconciled(t, true, "code VARCHAR(50) NOT NULL, n INTEGER NOT NULL", []string{"code", "n"}, Reconcile{}, func(t *testing.T, r *reconciled) {
		backslash := `b\s` // as each dialect writes it
		if strings.HasPrefix(r.orders, "polling_") {
			backslash = `b\\s`
		}
		r.exec(fmt.Sprintf(`INSERT INTO %s (code, n, v) VALUES ('it''s "x"', 1, 'a'), ('%s', 2, 'a'), ('Grüße, {}', 3, 'a'), ('ab', 4, 'a'), ('', 5, 'a'), ('z', 6, 'a')`,
			r.orders, backslash))
		r.until(6)
		r.quiet()
		r.exec("DELETE FROM " + r.orders + " WHERE n IN (1, 2, 3)")
		got := r.until(3)
		wantKeys(t, got, `it's "x"|1`, `b\s|2`, `Grüße, {}|3`)
		r.exec("UPDATE " + r.orders + " SET code = 'AB' WHERE n = 4")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for deleted := []string(nil); len(deleted) == 0; {
			b, err := r.src.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if deleted = r.held.note(b); len(deleted) > 0 {
				wantKeys(t, deleted, "ab|4")
			}
		}
		if r.count() != 3 { // the new key may come after the old one's delete
			r.until(3)
		}
	})
}

func TestReconcileOtherKeys(t *testing.T) {
	for columns, rows := range map[string][]string{
		"id UUID NOT NULL":                                {"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"},
		"id NUMERIC(12,2) NOT NULL":                       {"1.5", "-22.25", "3"},
		"id DATE NOT NULL, n SMALLINT DEFAULT 0 NOT NULL": {"'2026-01-02'", "'1999-12-31'", "'2026-01-03'"},
		"id TIMESTAMP NOT NULL":                           {"'2026-01-02 03:04:05'", "'1999-12-31 00:00:00'", "'2026-01-03 00:00:00'"},
		"id CHAR(5) NOT NULL":                             {"'a'", "'b'", "'c'"},
	} {
		key := []string{"id"}
		if strings.Contains(columns, ", n ") {
			key = append(key, "n")
		}
		t.Run(strings.Fields(columns)[1], func(t *testing.T) {
			eachReconciled(t, true, columns, key, Reconcile{}, func(t *testing.T, r *reconciled) {
				for _, row := range rows {
					r.exec(fmt.Sprintf("INSERT INTO %s (id, v) VALUES (%s, 'a')", r.orders, row))
				}
				r.until(3)
				r.quiet()
				r.exec(fmt.Sprintf("DELETE FROM %s WHERE id = %s", r.orders, rows[1]))
				if deleted := r.until(2); len(deleted) != 1 {
					t.Errorf("deleted %q", deleted)
				}
				r.quiet()
			})
		})
	}
}

// What was looked for in the last pass is not looked for again after a restart, and without what the log holds nothing is.
func TestReconcileWhen(t *testing.T) {
	o := sources.OpenOptions{Held: newFakeHolder()}
	now := time.Now()
	for _, c := range []struct {
		reconcile Reconcile
		last      int64
		due       time.Duration
	}{
		{Reconcile{}, 0, time.Hour},
		{Reconcile{Every: time.Minute}, 0, time.Minute},
		{Reconcile{}, now.Add(-50 * time.Minute).Unix(), 10 * time.Minute},
		{Reconcile{}, now.Add(-2 * time.Hour).Unix(), -time.Hour},
	} {
		r := newReconciler(c.reconcile, o, c.last)
		if got := r.next.Sub(now); got < c.due-2*time.Second || got > c.due+2*time.Second {
			t.Errorf("%+v, last at %d: due in %s, want %s", c.reconcile, c.last, got, c.due)
		}
	}
	if newReconciler(Reconcile{Off: true}, o, 0) != nil || newReconciler(Reconcile{}, sources.OpenOptions{}, 0) != nil {
		t.Error("deleted rows are looked for all the same")
	}
	for _, c := range []Reconcile{{Every: time.Millisecond}, {RowsPerSecond: -1}, {Guard: 1.5}, {Guard: -1}} {
		if err := c.validate(); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
