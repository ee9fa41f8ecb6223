package polling

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/sources"
	"weft/sources/sourcetest"
)

func TestSQLValidate(t *testing.T) {
	good := SQLConfig{Driver: "sqlite", DSN: "shop.db", MaxTransaction: 10 * time.Second}
	if err := good.Validate(); err != nil || good.lag() != 12*time.Second {
		t.Errorf("error %v, lag %s", err, good.lag())
	}
	for want, change := range map[string]func(c *SQLConfig){
		"driver: there are mysql, pgx, sqlite": func(c *SQLConfig) { c.Driver = "oracle" },
		"dsn: it must be the plain path":       func(c *SQLConfig) { c.DSN = "" },
		"dsn: it must be set, such as postgres": func(c *SQLConfig) {
			c.Driver, c.DSN = "pgx", ""
		},
		"dsn: it is no valid postgres:// URL":                            func(c *SQLConfig) { c.Driver, c.DSN = "pgx", "postgres://u:se/cret@h/d" },
		"dsn: it must be such as USER":                                   func(c *SQLConfig) { c.Driver, c.DSN = "mysql", "u:secret@tcp(h" },
		"max_transaction: it must say":                                   func(c *SQLConfig) { c.MaxTransaction = 0 },
		"lag: with overlap it is 10s, and must be above max_transaction": func(c *SQLConfig) { c.Lag = 10 * time.Second },
		"lag: with overlap it is 9s":                                     func(c *SQLConfig) { c.Lag, c.Overlap = 4*time.Second, 5*time.Second },
		"lag: it must be above 0":                                        func(c *SQLConfig) { c.Lag = -1 },
		"overlap:":                                                       func(c *SQLConfig) { c.Overlap = -1 },
		"interval:":                                                      func(c *SQLConfig) { c.Interval = 1 },
		"reconcile.every:":                                               func(c *SQLConfig) { c.Reconcile.Every = 1 },
		"watermark:":                                                     func(c *SQLConfig) { c.Watermark = "a\x00" },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@") {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	for lag, c := range map[time.Duration]SQLConfig{
		0: {MaxTransaction: 5 * time.Second, Overlap: 7 * time.Second}, 4 * time.Second: {MaxTransaction: 5 * time.Second, Overlap: 3 * time.Second},
		9 * time.Second: {MaxTransaction: 5 * time.Second, Lag: 9 * time.Second},
	} {
		if c.lag() != lag {
			t.Errorf("lag %s, want %s", c.lag(), lag)
		}
	}
}

// What cannot be told of any database has to be said, and what can be is verified.
func TestSQLOpenRefuses(t *testing.T) {
	s := newSQL(t, "sqlite")
	s.exec("CREATE TABLE items (id INTEGER PRIMARY KEY, body TEXT, n REAL, updated_at DATETIME)")
	open := func() error {
		src, err := s.config.Open(t.Context(), s.opts)
		if err == nil {
			src.Close()
		}
		return err
	}
	opts, config := s.opts, *s.config
	for want, change := range map[string]func(){
		"tables: item* is a pattern":       func() { s.opts.Tables = []string{"item*"} },
		"its key is not named":             func() { s.opts.Keys = nil },
		"it has no column changed":         func() { s.config.Watermark = "changed" },
		"the column id is of type INTEGER": func() { s.config.Watermark = "id" },
		"the key column n is of type REAL": func() { s.opts.Keys = map[string][]string{"items": {"n"}} },
		"overlap reads rows again":         func() { s.config.Overlap = time.Second },
	} {
		change()
		wantFatal(t, open(), want)
		s.opts, *s.config = opts, config
	}
	s.exec("INSERT INTO items (id) VALUES (1)")
	err := open()
	wantFatal(t, err, "is NULL in some row")
	_, remedy, _ := strings.Cut(err.Error(), "; to mend it: ")
	s.exec(remedy)
	if err := open(); err != nil {
		t.Error(err)
	}
}

// Rows that are younger than the lag are not read, by the database's clock.
func TestSQLLag(t *testing.T) {
	eachSQL(t, func(t *testing.T, d *sqlDatabase) {
		d.create()
		src := d.start()
		body := "x"
		began := time.Now()
		if err := d.write(t.Context(), sourcetest.Row{Op: sources.OpCreate, ID: 1, Body: &body}); err != nil {
			t.Fatal(err)
		}
		b := next(t, src)
		if took := time.Since(began); took < d.config.Lag-50*time.Millisecond {
			t.Errorf("a row came after %s, with a lag of %s", took, d.config.Lag)
		}
		if len(b.Changes) != 1 || string(b.Changes[0].After[1].Data) != "x" {
			t.Errorf("%s came", show(b))
		}
		if h := src.(sources.Horizoner).Horizon(); !strings.Contains(h, "exact only as long as every transaction has ended 900ms") || !strings.Contains(h, "exact would be type:") {
			t.Errorf("the horizon is said to be %s", h)
		}
	})
}

// A table that does not fit a batch is read by pages, in which rows of one time are not cut; the position goes on within them.
func TestSQLPages(t *testing.T) {
	eachSQL(t, func(t *testing.T, d *sqlDatabase) {
		d.create()
		var values []string
		for i := range 3000 {
			values = append(values, fmt.Sprintf("(%d, '%s', '2026-01-01 00:00:0%d')", i, strings.Repeat("x", 100), i%3))
		}
		d.exec("INSERT INTO " + d.table("items") + " (id, body, updated_at) VALUES " + strings.Join(values, ", "))
		d.opts.Existing = true
		seen := map[string]int{}
		for len(seen) < 3000 {
			src, err := d.config.Open(t.Context(), d.opts)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				b := next(t, src)
				for _, c := range b.Changes {
					seen[string(c.After[0].Data)]++
				}
				d.opts.Position = b.Position
				if len(seen) == 3000 {
					break
				}
			}
			if err := src.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Fatalf("row %s came %d times", id, n)
			}
		}
	})
}

// With an overlap the polls do not follow each other without a pause, though each returns rows.
func TestSQLOverlapPaced(t *testing.T) {
	d := newSQL(t, "sqlite")
	d.create()
	d.config.Lag, d.config.Overlap, d.config.Interval = 0, time.Minute, 100*time.Millisecond
	d.opts.Held = newFakeHolder()
	src := d.start()
	d.exec("INSERT INTO items (id) VALUES (1)")
	began, polls := time.Now(), 5
	for range polls {
		if b := next(t, src); len(b.Changes) != 1 {
			t.Fatalf("a poll returned %s", show(b))
		}
	}
	if took := time.Since(began); took < time.Duration(polls-2)*d.config.Interval {
		t.Errorf("%d polls took %s", polls, took)
	}
}

// An old row that appears late is found as far back as the overlap goes, also behind a pass of many batches.
func TestSQLOverlapReachesBehindPass(t *testing.T) {
	d := newSQL(t, "sqlite")
	d.create()
	d.config.Lag, d.config.MaxTransaction, d.config.Overlap = 0, 2*time.Second, 20*time.Second
	d.opts.Held, d.opts.BatchBytes, d.opts.Existing = newFakeHolder(), 4<<10, true
	var values []string
	for i := range 500 {
		values = append(values, fmt.Sprintf("(%d, '%s', '2026-01-01 00:00:00')", i, strings.Repeat("x", 100)))
	}
	d.exec("INSERT INTO items (id, body, updated_at) VALUES " + strings.Join(values, ", "))
	d.exec("INSERT INTO items (id, body, updated_at) SELECT 1000, 'last', " + d.now)
	src := d.start()
	seen := map[string]bool{}
	late := false
	for end := time.Now().Add(30 * time.Second); !seen["2000"] && time.Now().Before(end); {
		for _, c := range next(t, src).Changes {
			seen[string(c.After[0].Data)] = true
		}
		if seen["499"] && !late { // the pass has gone by the old rows
			late = true
			d.exec("INSERT INTO items (id, updated_at) SELECT 2000, strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 seconds')")
		}
	}
	if !seen["2000"] || len(seen) != 502 {
		t.Errorf("%d rows were seen, the late one %v", len(seen), seen["2000"])
	}
}

// Deleted rows are found, by ranges and by lists of keys.
func TestSQLReconcile(t *testing.T) {
	eachSQL(t, func(t *testing.T, d *sqlDatabase) {
		text := map[string]string{"pgx": "text", "mysql": "VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "sqlite": "TEXT"}[d.config.Driver]
		pairs := d.table("pairs")
		d.create()
		d.exec(fmt.Sprintf("CREATE TABLE %s (a %s NOT NULL, b INTEGER NOT NULL, %s, UNIQUE (a, b))", pairs, text, strings.Replace(d.columns, "PRIMARY KEY", "NOT NULL", 1)))
		d.opts.Tables = append(d.opts.Tables, pairs)
		d.opts.Keys[pairs] = []string{"a", "b"}
		var items, both []string
		for i := range 800 {
			items = append(items, fmt.Sprintf("(%d)", i))
			both = append(both, fmt.Sprintf("('k%d', %d, %[2]d)", i%7, i))
		}
		d.exec("INSERT INTO "+d.table("items")+" (id) VALUES "+strings.Join(items, ", "), "INSERT INTO "+pairs+" (a, b, id) VALUES "+strings.Join(both, ", "))
		held := newFakeHolder()
		d.opts.Held, d.opts.Existing = held, true
		d.config.Reconcile = Reconcile{Every: time.Second, RowsPerSecond: 100_000}
		src := d.start()
		for len(held.rows[d.table("items")])+len(held.rows[pairs]) < 1600 {
			held.note(next(t, src))
		}
		d.exec("DELETE FROM "+d.table("items")+" WHERE id IN (3, 700)", "DELETE FROM "+pairs+" WHERE b = 500")
		var deleted []string
		for len(deleted) < 3 {
			deleted = append(deleted, held.note(next(t, src))...)
		}
		if slices.Sort(deleted); !slices.Equal(deleted, []string{"3", "700", "k3|500"}) {
			t.Errorf("the deletes are %v", deleted)
		}
	})
}

// A clock that is put back is noticed, and what was read since is read again; one that was put back meanwhile is a gap.
func TestSQLClockBack(t *testing.T) {
	d := newSQL(t, "sqlite")
	d.create()
	src := d.start().(*source)
	d.exec("INSERT INTO items (id) VALUES (1)")
	p := next(t, src).Position
	back := *sqlDrivers["sqlite"]
	back.clock = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-60 seconds')"
	src.dialect.(*sqlDialect).driver = &back
	d.exec("INSERT INTO items (id, updated_at) SELECT 2, " + back.clock)
	seen := map[string]bool{}
	for !seen["2"] {
		for _, c := range next(t, src).Changes {
			seen[string(c.After[0].Data)] = true
		}
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	dialect, err := d.config.dialect(t.Context(), d.opts.Tables, d.opts.Keys, d.opts.Logger)
	if err != nil {
		t.Fatal(err)
	}
	defer dialect.close()
	dialect.driver = &back
	d.opts.Position = p
	_, err = open(t.Context(), dialect, dialect.place, time.Second, "", Reconcile{}, d.opts)
	wantGap(t, err, "its clock is at")
}

// What the check says: how exact it is, what would be exact, how to enforce the limit, and what each poll costs.
func TestSQLCheck(t *testing.T) {
	eachSQL(t, func(t *testing.T, d *sqlDatabase) {
		items := d.table("items")
		d.exec("CREATE TABLE " + items + " (" + d.columns + ")")
		text := d.check()
		has(t, text, "warning horizon: exact only as long as every transaction has ended 900ms after its rows were given their updated_at",
			"exact would be type: ", "warning table "+items+": no index leads a poll to the rows with a new updated_at", "[CREATE INDEX ")
		has(t, text, map[string]string{"pgx": "SET transaction_timeout = '900ms'", "mysql": "SET GLOBAL idle_transaction_timeout = 1", "sqlite": "BEGIN IMMEDIATE"}[d.config.Driver])
		for line := range strings.Lines(text) {
			if _, statement, found := strings.Cut(line, "[CREATE INDEX"); found {
				d.exec("CREATE INDEX" + strings.TrimSuffix(strings.TrimSpace(statement), "]"))
			}
		}
		if text := d.check(); strings.Contains(text, "no index leads") || !strings.Contains(text, "ok table "+items+": key (id), read by updated_at") {
			t.Errorf("with the index:\n%s", text)
		}
		d.exec("INSERT INTO " + items + " (id, updated_at) VALUES (1, '2030-01-01 00:00:00')")
		has(t, d.check(), "a row's updated_at is ahead of the database's clock")
	})
}

// A range of keys that no index leads to is told.
func TestSQLCheckKeyRange(t *testing.T) {
	d := newSQL(t, "sqlite")
	d.exec("CREATE TABLE items (id INTEGER NOT NULL, updated_at DATETIME)", "CREATE INDEX items_updated ON items (updated_at, id)")
	has(t, d.check(), "no index leads to a range of its keys (id)", `[CREATE INDEX "weft_items_id" ON "items" ("id");]`)
	d.exec(`CREATE INDEX "weft_items_id" ON "items" ("id");`)
	if text := d.check(); strings.Contains(text, "no index") {
		t.Errorf("with the index:\n%s", text)
	}
}

// Two rows of one key may be cut by a page.
func TestSQLKeyNotUnique(t *testing.T) {
	d := newSQL(t, "sqlite")
	d.exec("CREATE TABLE items (id INTEGER NOT NULL, updated_at DATETIME)")
	src := d.start()
	d.exec("INSERT INTO items SELECT 1, " + d.now + " UNION ALL SELECT 1, " + d.now)
	wantFatal(t, nextError(t, src), "key id=\"1\"", "two rows have it")
}

// Values of all types come through each driver in the wire form of their Kind.
func TestSQLValues(t *testing.T) {
	type value struct {
		declared, literal, want string
		kind                    sources.Kind
	}
	for driver, values := range map[string][]value{
		"pgx": {
			{"bool", "true", "t", sources.Bool}, {"int2", "-5", "-5", sources.Int}, {"float4", "0.1", "0.1", sources.Float}, {"float8", "1e20", "1e+20", sources.Float},
			{"numeric(30,3)", "123456789012345678901234567.125", "123456789012345678901234567.125", sources.Decimal}, {"numeric", "'NaN'", "NaN", sources.Decimal},
			{"bytea", `'\x00ff'`, "\x00\xff", sources.Bytes}, {"date", "'0044-03-15 BC'", "0044-03-15 BC", sources.Date}, {"date", "'infinity'", "infinity", sources.Date},
			{"timestamp", "'2026-02-28 23:59:59.5'", "2026-02-28 23:59:59.5", sources.Timestamp}, {"timestamptz", "'-infinity'", "-infinity", sources.TimestampTZ},
			{"timestamptz", "'2026-02-28 23:59:59.123456+02'", "2026-02-28 21:59:59.123456+00", sources.TimestampTZ}, {"time", "'12:34:56'", "12:34:56", sources.Time},
			{"interval", "'1 day'", "1 day", sources.Interval}, {"uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", sources.UUID},
			{"jsonb", `'{"a": null}'`, `{"a": null}`, sources.JSON}, {"bit(3)", "B'101'", "101", sources.Bits}, {"text", "'a''b'", "a'b", sources.String},
			{"int4[]", "'{1,NULL}'", "{1,NULL}", sources.String}, {"text", "NULL", "", sources.String}, {"money", "1", "$1.00", sources.String},
		},
		"mysql": {
			{"TINYINT", "-5", "-5", sources.Int}, {"BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615", sources.Decimal}, {"INT UNSIGNED", "4294967295", "4294967295", sources.Int},
			{"FLOAT", "0.1", "0.10000000149011612", sources.Float}, {"DOUBLE", "1e20", "1e+20", sources.Float}, {"DECIMAL(30,3)", "123456789012345678901234567.125", "123456789012345678901234567.125", sources.Decimal},
			{"DATE", "'2026-02-28'", "2026-02-28", sources.Date}, {"DATETIME(6)", "'2026-02-28 23:59:59.5'", "2026-02-28 23:59:59.500000", sources.Timestamp},
			{"TIMESTAMP", "'2026-02-28 23:59:59'", "2026-02-28 23:59:59+00", sources.TimestampTZ}, {"TIME", "'-100:00:00'", "-100:00:00", sources.String}, {"YEAR", "2026", "2026", sources.Int},
			{"VARBINARY(4)", "x'00ff'", "\x00\xff", sources.Bytes}, {"BIT(9)", "b'100000001'", "\x01\x01", sources.Bytes}, {"LONGTEXT", "'a''b'", "a'b", sources.String},
			{"ENUM('x','y')", "'y'", "y", sources.String}, {"TEXT", "NULL", "", sources.String},
		},
		"sqlite": {
			{"BOOLEAN", "1", "t", sources.Bool}, {"INTEGER", "-5", "-5", sources.Int}, {"REAL", "1e20", "1e+20", sources.Float}, {"DECIMAL(9,2)", "1.50", "1.5", sources.Decimal},
			{"BLOB", "x'00ff'", "\x00\xff", sources.Bytes}, {"JSON", `'{"a": null}'`, `{"a": null}`, sources.JSON}, {"DATETIME", "'2026-02-28T23:59:59Z'", "2026-02-28T23:59:59Z", sources.String},
			{"TEXT", "NULL", "", sources.String},
		},
	} {
		t.Run(driver, func(t *testing.T) {
			d := newSQL(t, driver)
			columns, literals := "", ""
			for i, v := range values {
				columns += fmt.Sprintf(", c%d %s NULL", i, v.declared)
				literals += ", " + v.literal
			}
			d.exec("CREATE TABLE " + d.table("items") + " (" + d.columns + columns + ")")
			src := d.start()
			d.exec("INSERT INTO " + d.table("items") + " VALUES (1, 'x', " + d.now + literals + ")")
			c := next(t, src).Changes[0]
			for i, v := range values {
				got, column := c.After[i+3], c.Table.Columns[i+3]
				if string(got.Data) != v.want || column.Type.Kind != v.kind || (got.State == sources.Null) != (v.literal == "NULL") {
					t.Errorf("%s: got %q (state %d) of kind %d, want %q of kind %d", v.declared, got.Data, got.State, column.Type.Kind, v.want, v.kind)
				}
			}
		})
	}
}

// A value that its type does not allow for is told with its table, key and column.
func TestSQLWrongValues(t *testing.T) {
	for declared, literal := range map[string]string{"INTEGER": "'x'", "BOOLEAN": "2", "REAL": "'x'", "JSON": "'{'", "TEXT": "CAST(x'ff' AS TEXT)", "DECIMAL": "'1e5x'"} {
		t.Run(declared, func(t *testing.T) {
			d := newSQL(t, "sqlite")
			d.exec("CREATE TABLE items (" + d.columns + ", c " + declared + ")")
			src := d.start()
			d.exec("INSERT INTO items (id, c) VALUES (7, " + literal + ")")
			wantFatal(t, nextError(t, src), "table items, key id=\"7\", column c")
		})
	}
	d := newSQL(t, "sqlite")
	d.create()
	d.exec("INSERT INTO items (id, updated_at) VALUES (7, '2026-02-28T23:59:59Z')")
	d.opts.Existing = true
	wantFatal(t, nextError(t, d.start()), "table items, key id=\"7\": the watermark: \"2026-02-28T23:59:59Z\" is not a time such as")
}
