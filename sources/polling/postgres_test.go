package polling

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

const pgOrders = "id int8 PRIMARY KEY, state text"

func TestPostgresValidate(t *testing.T) {
	for url, want := range map[string]string{
		"": "url:", "postgres://u:pa/ss@h/d": "percent-encoded", "host=h sslmode=never": "sslmode", "postgres://u@h/d": "",
	} {
		err := (&PostgresConfig{URL: url}).Validate()
		if (err != nil) != (want != "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pa/ss")) {
			t.Errorf("%s: error %v, want %q", url, err, want)
		}
	}
}

// What a database lacks is told by Open, with what mends it; where statements do, they are enough.
func TestPostgresOpenRefuses(t *testing.T) {
	const column = "weft_xid"
	prepared := func(db *pgDatabase) {
		db.prepare(db.config(column), "orders", pgOrders, "id")
	}
	tests := []struct {
		name      string
		watermark string
		setup     func(db *pgDatabase)
		want      []string
		mends     bool
	}{
		{"no such table", "", plain("public.none"), []string{"no table matches public.none"}, false},
		{"no schema", "", plain("orders"), []string{"names no schema"}, false},
		{"a view", "", func(db *pgDatabase) {
			db.exec("CREATE VIEW paid AS SELECT 1 AS id")
			db.opts.Tables = []string{"public.paid"}
		}, []string{"public.paid is a view"}, false},
		{"a partitioned table", "", func(db *pgDatabase) {
			db.exec("CREATE TABLE orders (id int8 PRIMARY KEY) PARTITION BY RANGE (id)")
			db.opts.Tables = []string{"public.orders"}
		}, []string{"partitioned table", "name its partitions"}, false},
		{"no key", "", func(db *pgDatabase) { db.exec("CREATE TABLE orders (id int8)") }, []string{"has no primary key"}, false},
		{"an unknown key", "", func(db *pgDatabase) {
			prepared(db)
			db.opts.Keys = map[string][]string{"public.orders": {"number"}}
		}, []string{"no column number"}, false},
		{"no column", column, func(db *pgDatabase) { db.exec("CREATE TABLE orders (" + pgOrders + ")") }, []string{"has no column weft_xid"}, true},
		{"another type", column, func(db *pgDatabase) { db.exec("CREATE TABLE orders (" + pgOrders + ", weft_xid timestamptz NOT NULL)") },
			[]string{"is of type timestamp with time zone"}, false},
		{"may be NULL", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("ALTER TABLE orders ALTER COLUMN weft_xid DROP NOT NULL")
		}, []string{"may be NULL"}, true},
		{"no index", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("DROP INDEX orders_weft_xid_id_idx")
		}, []string{"has no index"}, true},
		{"a partial index", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("DROP INDEX orders_weft_xid_id_idx", "CREATE INDEX ON orders (weft_xid) WHERE state = 'paid'")
		}, []string{"has no index"}, true},
		{"no trigger", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("DROP TRIGGER weft_stamp ON orders")
		}, []string{"no trigger"}, true},
		{"a disabled trigger", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("ALTER TABLE orders DISABLE TRIGGER weft_stamp")
		}, []string{"no trigger"}, true},
		{"a trigger on some columns", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("DROP TRIGGER weft_stamp ON orders",
				"CREATE TRIGGER weft_stamp BEFORE INSERT OR UPDATE OF state ON orders FOR EACH ROW EXECUTE FUNCTION weft_stamp_weft_xid()")
		}, []string{"no trigger"}, true},
		{"a row from another server", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("ALTER TABLE orders DISABLE TRIGGER weft_stamp", "INSERT INTO orders VALUES (1, 'a', '99999999999')",
				"ALTER TABLE orders ENABLE ALWAYS TRIGGER weft_stamp")
		}, []string{"above every transaction of this server"}, true},
		{"a key that does not tell rows apart", column, func(db *pgDatabase) {
			prepared(db)
			db.exec("ALTER TABLE orders ALTER COLUMN state SET NOT NULL")
			db.opts.Keys = map[string][]string{"public.orders": {"state"}}
		}, []string{"no unique index"}, true},
		{"a key that may be NULL", column, func(db *pgDatabase) {
			prepared(db)
			db.opts.Keys = map[string][]string{"public.orders": {"id", "state"}}
		}, []string{"key column state may be NULL"}, true},
		{"another source's position", "", func(db *pgDatabase) {
			prepared(db)
			db.opts.Position = []byte(`{"lsn":"0/15D4D50"}`)
		}, []string{"not one of a polling source"}, false},
	}
	eachPostgres(t, func(t *testing.T, shared *pgDatabase) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				db := newPostgres(t, shared.admin)
				test.setup(db)
				c := db.config(test.watermark)
				err := db.openError(c)
				wantFatal(t, err, test.want...)
				if test.mends {
					_, remedy, _ := strings.Cut(err.Error(), "; to mend it: ")
					for line := range strings.Lines(remedy) {
						db.exec(line)
					}
					db.open(c)
				}
			})
		}
	})
}

func plain(pattern string) func(db *pgDatabase) {
	return func(db *pgDatabase) {
		db.exec("CREATE TABLE orders (" + pgOrders + ")")
		db.opts.Tables = []string{pattern}
	}
}

// A role without rights is told what to grant, and a policy on rows is not taken for their absence.
func TestPostgresRights(t *testing.T) {
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		role := "reader_" + db.name
		db.exec("CREATE TABLE orders ("+pgOrders+")", "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
		t.Cleanup(func() { db.exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
		c := db.config("")
		c.URL = strings.Replace(c.URL, "postgres:postgres@", role+":secret@", 1)
		wantFatal(t, db.openError(c), "has no right to read it", "GRANT SELECT")
		db.exec("GRANT SELECT ON orders TO " + role)
		db.start(c)
		db.exec("ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "INSERT INTO orders VALUES (1, 'a')")
		src := db.open(c)
		next(t, src)
		db.exec("INSERT INTO orders VALUES (2, 'b')")
		wantFatal(t, nextError(t, src), "row-level security", "BYPASSRLS")
		c.URL = strings.Replace(c.URL, ":secret@", ":wrong@", 1)
		wantFatal(t, db.openError(c), "check the user, the password")
	})
}

// What a transaction writes comes when every older one has ended, whichever writes what, and rows of a savepoint and of a
// prepared transaction too.
func TestPostgresHorizon(t *testing.T) {
	pgModes(t, func(t *testing.T, db *pgDatabase, c *PostgresConfig) {
		db.prepare(c, "orders", pgOrders, "id")
		src := db.start(c)
		older := db.connect()
		run := func(statements ...string) {
			t.Helper()
			for _, s := range statements {
				if _, err := older.Exec(t.Context(), s); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
		}
		run("BEGIN", "SAVEPOINT a", "INSERT INTO orders (id, state) VALUES (1, 'old')", "RELEASE a")
		db.exec("INSERT INTO orders (id, state) VALUES (2, 'new')")
		nothing(t, src)
		run("PREPARE TRANSACTION 'held_" + db.name + "'")
		nothing(t, src)
		run("COMMIT PREPARED 'held_" + db.name + "'")
		got := pgShow(next(t, src))
		if got == "orders 1 old" { // somebody else's transaction may lie between the two
			got += "; " + pgShow(next(t, src))
		}
		if got != "orders 1 old; orders 2 new" {
			t.Fatalf("got %s", got)
		}
		run("BEGIN", "UPDATE orders SET state = 'gone' WHERE id = 1", "ROLLBACK")
		nothing(t, src)
	})
}

// pgShow is show without the watermark.
func pgShow(b sources.Batch) string {
	var out []string
	for _, c := range b.Changes {
		text := c.Table.Name
		for i, v := range c.After {
			if c.Table.Columns[i].Name == "weft_xid" {
				continue
			}
			text += " " + string(v.Data)
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// Batches end within a transaction's rows; each position resumes, also when the table's rows move between two parts.
func TestPostgresParts(t *testing.T) {
	pgModes(t, func(t *testing.T, db *pgDatabase, c *PostgresConfig) {
		db.opts.BatchBytes = 4 << 10
		c.Deleted = "deleted_at" // batches end at deletes too
		db.prepare(c, "orders", pgOrders+", deleted_at timestamptz", "id")
		src := db.start(c)
		db.exec("INSERT INTO orders (id, state, deleted_at) SELECT i, 'a', CASE i % 2 WHEN 0 THEN now() END FROM generate_series(1, 500) i")
		seen := map[string]string{}
		versions, batches := 0, 0
		take := func(b sources.Batch) {
			for _, change := range b.Changes {
				row := change.After
				if change.Op == sources.OpDelete {
					row = change.Before
				}
				if id := row[0].Data; (id[len(id)-1]%2 == 0) != (change.Op == sources.OpDelete) {
					t.Errorf("row %s is a %c", id, change.Op)
				}
				seen[string(row[0].Data)] = string(row[1].Data)
				versions++
			}
			batches++
			db.opts.Position = b.Position
		}
		for i, more := 0, true; more; i++ {
			b := next(t, src)
			take(b)
			more = b.More
			if i == 2 {
				db.exec("UPDATE orders SET state = 'b' WHERE id <= 3 OR id > 498")
			}
			src = db.open(c)
		}
		for len(seen) < 500 || seen["1"]+seen["500"] != "bb" {
			take(next(t, src))
		}
		nothing(t, src)
		if len(seen) != 500 || seen["1"]+seen["500"] != "bb" || versions < 503 || versions > 505 || batches < 10 {
			t.Errorf("%d rows in %d versions and %d batches, row 1 is %s and row 500 %s", len(seen), versions, batches, seen["1"], seen["500"])
		}
	})
}

// A table that is rewritten, truncated, replaced by another, or has other columns loses nothing.
func TestPostgresTableChanges(t *testing.T) {
	pgModes(t, func(t *testing.T, db *pgDatabase, c *PostgresConfig) {
		db.prepare(c, "orders", pgOrders, "id")
		src := db.start(c)
		db.exec("INSERT INTO orders (id, state) VALUES (1, 'a'), (2, 'b')")
		first := next(t, src).Changes[0].Table
		db.exec("VACUUM FULL orders", "ALTER TABLE orders ADD COLUMN note text DEFAULT 'none'", "UPDATE orders SET state = 'c' WHERE id = 1")
		b := next(t, src)
		if got := pgShow(b); got != "orders 1 c none" {
			t.Fatalf("got %s", got)
		}
		if b.Changes[0].Table == first {
			t.Error("a new column did not make a new Table")
		}
		db.exec("ALTER TABLE orders ALTER COLUMN state TYPE varchar(10)", "ALTER TABLE orders DROP COLUMN note", "TRUNCATE orders",
			"INSERT INTO orders (id, state) VALUES (3, 'd')")
		if got := pgShow(next(t, src)); !strings.HasSuffix(got, "orders 3 d") {
			t.Fatalf("got %s", got)
		}
		// Rows that were written long ago come into the table's place.
		db.prepare(c, "spare", pgOrders, "id")
		db.exec("INSERT INTO spare (id, state) VALUES (7, 'spare')")
		db.opts.Tables = []string{"public.orders"}
		src = db.start(c)
		db.exec("INSERT INTO orders (id, state) VALUES (4, 'e')")
		next(t, src)
		db.exec("BEGIN; DROP TABLE orders; ALTER TABLE spare RENAME TO orders; COMMIT")
		if got := pgShow(next(t, src)); got != "orders 7 spare" {
			t.Fatalf("got %s", got)
		}
		nothing(t, src)
	})
}

// An older state is a gap, which is gone over by reading all rows; on a standby it is waited for.
func TestPostgresOlder(t *testing.T) {
	pgModes(t, func(t *testing.T, db *pgDatabase, c *PostgresConfig) {
		db.prepare(c, "orders", pgOrders, "id")
		db.exec("INSERT INTO orders (id, state) VALUES (1, 'a')")
		src := db.start(c).(*source)
		p := src.position
		p.Tables = map[string]tablePosition{"public.orders": {Watermark: 1 << 40, Identity: p.Tables["public.orders"].Identity}}
		position, err := p.encode()
		if err != nil {
			t.Fatal(err)
		}
		db.opts.Position = position
		gap := wantGap(t, db.openError(c), "older state", "1099511627776 were captured")
		db.opts.Position = gap.Resume
		db.exec("UPDATE orders SET state = 'b'")
		if got := pgShow(next(t, db.open(c))); got != "orders 1 b" {
			t.Fatalf("got %s", got)
		}
		v := &postgresView{dialect: src.dialect.(*postgresDialect), standby: true, xmin: 10}
		at := tablePosition{Watermark: 100, Identity: "7"}
		if reason := v.older(100); reason != "" {
			t.Errorf("a standby that lags is taken for an older state: %s", reason)
		}
		if got, more, err := v.read(t.Context(), &table{}, at, newBatch(1)); err != nil || more || !got.equal(at) {
			t.Errorf("a standby that lags moves to %+v, %v, %v", got, more, err)
		}
	})
}

// Row ids keep 32 bits of a transaction's 64.
func TestPostgresWidens(t *testing.T) {
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		conn := db.connect()
		for _, test := range []struct{ xmax, xmin, want int64 }{
			{800, 799, 799}, {1<<32 + 10, 5, 1<<32 + 5}, {1<<32 + 10, 4294967290, 4294967290}, {1 << 32, 3, 3}, {3<<32 + 7, 7, 3<<32 + 7},
		} {
			var got int64
			query := strings.ReplaceAll("SELECT "+widened(test.xmax), "r.xmin", fmt.Sprintf("'%d'::xid", test.xmin))
			if err := conn.QueryRow(t.Context(), query).Scan(&got); err != nil || got != test.want {
				t.Errorf("%d below %d is %d, error %v, want %d", test.xmin, test.xmax, got, err, test.want)
			}
		}
	})
}

// Values come in the wire form of their Kind.
func TestPostgresValues(t *testing.T) {
	values := []struct {
		declared, literal, want string
		kind                    sources.Kind
	}{
		{"bool", "true", "t", sources.Bool}, {"int2", "-5", "-5", sources.Int}, {"oid", "4000000000", "4000000000", sources.Int},
		{"float4", "0.1", "0.1", sources.Float}, {"float8", "'NaN'", "NaN", sources.Float}, {"numeric(12,2)", "129.9", "129.90", sources.Decimal},
		{"numeric", "1e30", "1" + strings.Repeat("0", 30), sources.Decimal}, {"money", "1234.5", "1234.50", sources.Decimal},
		{"bytea", `'\x00ff'`, "\x00\xff", sources.Bytes}, {"bit(3)", "B'101'", "101", sources.Bits}, {"varchar(5)", "'é'", "é", sources.String},
		{"date", "'0044-03-15 BC'", "0044-03-15 BC", sources.Date}, {"time(3)", "'24:00'", "24:00:00", sources.Time},
		{"timestamptz", "'2026-02-28 12:00+02'", "2026-02-28 10:00:00+00", sources.TimestampTZ}, {"timestamp", "'infinity'", "infinity", sources.Timestamp},
		{"interval", "'1 year -2 days'", "1 year -2 days", sources.Interval}, {"uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", sources.UUID},
		{"jsonb", `'{"a": null}'`, `{"a": null}`, sources.JSON}, {"point", "'(1,2)'", "(1,2)", sources.Point}, {"int4[]", "'{1,NULL}'", "{1,NULL}", sources.Array},
		{"bytea[]", `ARRAY['\x01'::bytea]`, `{"\\x01"}`, sources.Array}, {"public.amount", "7.5", "7.50", sources.Decimal}, {"int4range", "'[1,3)'", "[1,3)", sources.String},
		{"text", "NULL", "", sources.String},
	}
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		columns, literals := "id int8 PRIMARY KEY", "1"
		for i, v := range values {
			columns += fmt.Sprintf(", c%d %s", i, v.declared)
			literals += ", " + v.literal
		}
		db.exec("CREATE DOMAIN amount AS numeric(6,2)", "CREATE TABLE things ("+columns+")")
		src := db.start(db.config(""))
		db.exec("INSERT INTO things VALUES (" + literals + ")")
		c := next(t, src).Changes[0]
		for i, v := range values {
			if got := c.After[i+1]; string(got.Data) != v.want || c.Table.Columns[i+1].Type.Kind != v.kind || (got.State == sources.Null) != (v.literal == "NULL") {
				t.Errorf("%s: got %q (state %d) of kind %d, want %q of kind %d", v.declared, got.Data, got.State, c.Table.Columns[i+1].Type.Kind, v.want, v.kind)
			}
		}
		for column, want := range map[string]sources.Type{
			"c5": {Kind: sources.Decimal, Name: "numeric(12,2)", Precision: 12, Scale: 2}, "c12": {Kind: sources.Time, Name: "time(3) without time zone", Precision: 3},
			"c21": {Kind: sources.Decimal, Name: "public.amount", Precision: 6, Scale: 2}, "c9": {Kind: sources.Bits, Name: "bit(3)", Precision: 3},
		} {
			if got := c.Table.Columns[columnIndex(&table{Table: *c.Table}, column)].Type; got != want {
				t.Errorf("column %s is %+v, want %+v", column, got, want)
			}
		}
	})
}

// Keys of any type page: the mark and the key of the last row say where to go on.
func TestPostgresKeyTypes(t *testing.T) {
	eachPostgres(t, func(t *testing.T, shared *pgDatabase) {
		for declared, expression := range map[string]string{
			"bytea": `decode(lpad(to_hex(i), 4, '0'), 'hex')`, "numeric(10,2)": "i / 4.0", `text COLLATE "C"`: `chr(34 + i % 80) || '\''' || i`,
			"timestamptz": "now() + i * interval '1 s'", "uuid": "gen_random_uuid()",
		} {
			t.Run(declared, func(t *testing.T) {
				db := newPostgres(t, shared.admin)
				db.opts.BatchBytes = 4 << 10
				c := db.config("weft_xid")
				db.prepare(c, "orders", "k "+declared+" PRIMARY KEY", "k")
				src := db.start(c)
				db.exec("INSERT INTO orders (k) SELECT " + expression + " FROM generate_series(1, 200) i")
				seen := map[string]bool{}
				for more := true; more; {
					b := next(t, src)
					for _, change := range b.Changes {
						seen[string(change.After[0].Data)] = true
					}
					more = b.More
				}
				if len(seen) != 200 {
					t.Errorf("%d of 200 rows were read", len(seen))
				}
			})
		}
	})
}

// The page query is served by the index, in its order.
func TestPostgresPlan(t *testing.T) {
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		c := db.config("weft_xid")
		db.prepare(c, "orders", pgOrders, "id")
		db.exec("INSERT INTO orders (id) SELECT generate_series(1, 20000)", "ANALYZE orders")
		conn := db.connect()
		rows, err := conn.Query(t.Context(), "EXPLAIN SELECT r.weft_xid::text, r.id, r.state FROM ONLY public.orders r "+
			"WHERE r.weft_xid < '9999999'::xid8 AND (r.weft_xid, r.id) > ('800'::xid8, '7'::int8) ORDER BY r.weft_xid, r.id LIMIT 100")
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			plan = append(plan, string(rows.RawValues()[0]))
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, "Index Scan") || strings.Contains(text, "Sort") {
			t.Errorf("the plan is %s", text)
		}
	})
}

func TestPostgresCheck(t *testing.T) {
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		c := db.config("")
		db.exec("CREATE TABLE orders ("+pgOrders+")", "CREATE TABLE keyless (x int)")
		show := func(c *PostgresConfig) string {
			var lines []string
			for _, f := range c.Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: []string{"public.*"}}) {
				lines = append(lines, fmt.Sprintf("%s %s: %s [%s]", f.Level, f.Subject, f.Text, f.Remedy))
			}
			return strings.Join(lines, "\n")
		}
		has(t, show(c), "ok server: a primary", "ok horizon: exact: by the rows' own xmin", "ok table public.orders: key (id), read whole by each poll",
			"problem table public.keyless: has no primary key")
		has(t, show(db.config("weft_xid")), "problem table public.orders: it has no column weft_xid", "CREATE INDEX ON")
		wrong := db.config("")
		wrong.URL = strings.Replace(wrong.URL, "/"+db.name, "/none", 1)
		has(t, show(wrong), "problem server:", `"none" does not exist`)
	})
}

// A transaction that keeps changes back is named in the log.
func TestPostgresTellsWhoHolds(t *testing.T) {
	eachPostgres(t, func(t *testing.T, db *pgDatabase) {
		db.exec("CREATE TABLE orders (" + pgOrders + ")")
		var log strings.Builder
		db.opts.Logger = hclog.New(&hclog.LoggerOptions{Output: &log})
		src := db.start(db.config("")).(*source)
		holder := db.connect()
		if _, err := holder.Exec(t.Context(), "BEGIN; INSERT INTO orders VALUES (1, 'a')"); err != nil {
			t.Fatal(err)
		}
		db.exec("INSERT INTO orders VALUES (2, 'b')")
		nothing(t, src)
		d := src.dialect.(*postgresDialect)
		d.since = d.since.Add(-2 * heldAfter)
		for end := time.Now().Add(20 * time.Second); log.Len() == 0 && time.Now().Before(end); {
			nothing(t, src)
		}
		// Which one is named is not certain: other tests use the server too.
		wantParts(t, fmt.Errorf("%s", log.String()), "an open transaction keeps later changes", "since=2m")
	})
}
