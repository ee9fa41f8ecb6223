package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// reader opens a reader that begins at a position; nil for none.
func (db *database) reader(c Config, o sources.OpenOptions) *rowReader {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := c.OpenReader(ctx, o)
	if err != nil {
		db.t.Fatalf("open a reader: %v", err)
	}
	db.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			db.t.Errorf("close a reader: %v", err)
		}
	})
	return r.(*rowReader)
}

func (db *database) chunk(r *rowReader, q sources.ChunkRequest) *sources.Chunk {
	db.t.Helper()
	c, err := db.tryChunk(r, q)
	if err != nil {
		db.t.Fatalf("read a chunk of %s after %s: %v", q.Table, q.After, err)
	}
	return c
}

func (db *database) tryChunk(r *rowReader, q sources.ChunkRequest) (*sources.Chunk, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return r.ReadChunk(ctx, q)
}

// rows reads a range in chunks and returns its rows as text.
func (db *database) rows(r *rowReader, q sources.ChunkRequest) (lines []string) {
	db.t.Helper()
	for n := 0; ; n++ {
		c := db.chunk(r, q)
		if len(c.Rows) > q.Rows {
			db.t.Fatalf("a chunk of %d rows has %d", q.Rows, len(c.Rows))
		}
		lines = append(lines, rowLines(c)...)
		if q.After = c.Next; c.Next == nil {
			return lines
		}
		if n > 10_000 {
			db.t.Fatal("the chunks come to no end")
		}
	}
}

func rowLines(c *sources.Chunk) (lines []string) {
	for _, row := range c.Rows {
		lines = append(lines, describe(&sources.Change{Op: sources.OpRead, Table: c.Table, After: row}))
	}
	return lines
}

// inSession reads one column as text, with the settings of the reader's sessions.
func (db *database) inSession(query string) (texts []string) {
	db.t.Helper()
	conn, err := connectSQL(db.t.Context(), db.config())
	if err != nil {
		db.t.Fatal(err)
	}
	defer func() { _ = closeConn(conn) }()
	result := conn.PgConn().ExecParams(db.t.Context(), strings.ReplaceAll(query, "COLLATE other", "COLLATE public.other"), nil, nil, nil, nil).Read()
	if result.Err != nil {
		db.t.Fatalf("%s: %v", query, result.Err)
	}
	for _, row := range result.Rows {
		texts = append(texts, string(row[0]))
	}
	return texts
}

const debezium = "../../integration/testdata/debezium/"

// TestChunkValues: a row reads as the stream has it, for every type of the schema that Debezium's records are of, and so does
// its table.
func TestChunkValues(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		schema, err := os.ReadFile(debezium + "01-schema.sql")
		if err != nil {
			t.Fatal(err)
		}
		rows, err := os.ReadFile(debezium + "all_types_rows.sql")
		if err != nil {
			t.Fatal(err)
		}
		db.exec(string(schema), "DROP TABLE inv.no_pk")
		db.exec("CREATE DOMAIN inv.blob AS bytea", "CREATE TABLE inv.more (b inv.blob, c money, n name, PRIMARY KEY (c, b))")
		o := db.options("inv.*")
		s := db.open(db.config(), o)
		db.exec(strings.ReplaceAll(string(rows), ":base", "1"))
		db.exec(`INSERT INTO inv.toast SELECT 1,1,repeat('0123456789',2000),jsonb_build_object('x',repeat('j',20000)),decode(repeat('ab',20000),'hex'),ARRAY[repeat('e',20000),'y'];
			INSERT INTO inv.ri_full VALUES (1,'x',1); INSERT INTO inv.ri_default VALUES (1,'x',1); INSERT INTO inv.ri_nothing VALUES(1,'x',1);
			INSERT INTO inv.no_pk_full VALUES (1,'x'),(NULL,NULL); INSERT INTO inv.ri_index VALUES ('c1','x');
			INSERT INTO inv.comp_key VALUES ('t1',1,'x'); INSERT INTO inv.gen_col(a) VALUES (3); INSERT INTO inv.part VALUES (1,'2025-05-05','x');
			INSERT INTO inv."Mixed Case.Näme" VALUES (1,'x'); INSERT INTO inv.more VALUES ('\x00ff', -12.5, 'n'), ('', 1e6, NULL);
			INSERT INTO inv.hb VALUES (0, now())`)
		streamed := map[string][]sources.Change{}
		for n := 0; streamed["inv.hb"] == nil; n++ {
			b := s.next()
			for _, c := range b.Changes {
				c.After = cloneValues(c.After)
				streamed[c.Table.String()] = append(streamed[c.Table.String()], c)
			}
			s.durable(b.Position)
		}
		o.Position = s.position
		r := db.reader(db.config(), o)
		names, err := r.Tables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := "inv.Mixed Case.Näme"; names[0] != want {
			t.Errorf("the first table is %q, want %q", names[0], want)
		}
		for _, name := range names {
			c := db.chunk(r, sources.ChunkRequest{Table: name, Rows: 100, Bytes: 1 << 20})
			if c.Next != nil || len(c.Rows) != len(streamed[name]) {
				t.Errorf("table %s: %d rows, and then %s; %d were streamed", name, len(c.Rows), c.Next, len(streamed[name]))
				continue
			}
			for i, change := range streamed[name] {
				if !reflect.DeepEqual(c.Table, change.Table) {
					t.Errorf("table %s is read as\n%+v\nand streamed as\n%+v", name, c.Table, change.Table)
				}
				if !c.View.Sees(change.Stamp) || change.Stamp == 0 {
					t.Errorf("table %s: the view does not see what was streamed, of transaction %d", name, change.Stamp)
				}
				match := false
				for _, row := range c.Rows {
					match = match || reflect.DeepEqual(row, change.After)
				}
				if !match {
					t.Errorf("table %s: row %d was streamed as\n%s\nand is read as\n%s", name, i, describe(&change), strings.Join(rowLines(c), "\n"))
				}
			}
			if sees, err := c.View.SeesSource([]byte("{" + metaOf(streamed[name]) + "}")); len(c.Rows) > 0 && (err != nil || !sees) {
				t.Errorf("table %s: sees its source block: %v, %v", name, sees, err)
			}
		}
	})
}

func metaOf(changes []sources.Change) string {
	if len(changes) == 0 {
		return ""
	}
	return fmt.Sprintf(`"lsn":1,"txId":%d`, uint32(changes[0].Stamp))
}

func cloneValues(values []sources.Value) []sources.Value {
	values = append([]sources.Value(nil), values...)
	for i, v := range values {
		if v.State == sources.Present {
			values[i].Data = append([]byte{}, v.Data...)
		}
	}
	return values
}

// TestChunkKeys pages through keys of many types, a row at a time and in ranges, in the order of their index, and uses it.
func TestChunkKeys(t *testing.T) {
	tests := []struct {
		name     string
		setup    []string
		insert   string // what follows INSERT INTO k
		order    string // of the rows, as the server gives it
		keys     []string
		unsorted bool // no index serves
		money    bool // the text of a key is not the server's
	}{
		{name: "int", setup: []string{"CREATE TABLE k (a int PRIMARY KEY)"}, insert: "SELECT 37 * n % 101 - 50 FROM generate_series(1, 60) n", order: "a"},
		{name: "composite", setup: []string{"CREATE TABLE k (v text, a text, b bigint, PRIMARY KEY (a, b))"},
			insert: "SELECT 'v', n % 5, n FROM generate_series(1, 60) n", order: "a, b"},
		{name: "composite in another order", setup: []string{"CREATE TABLE k (a int, b int, PRIMARY KEY (b, a))"},
			insert: "SELECT n, n % 7 FROM generate_series(1, 60) n", order: "b, a"},
		{name: "text", setup: []string{`CREATE TABLE k (a text COLLATE "C" PRIMARY KEY)`},
			insert: `VALUES (''), (' '), ('A'), ('a'), ('B'), ('ä'), ('"q"'), (E'back\\slash'), (E'new\nline'), ('{x,y}'), ('NULL')`, order: "a"},
		{name: "collation", setup: []string{"CREATE COLLATION fold (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
			"CREATE TABLE k (a text COLLATE fold PRIMARY KEY)"}, insert: "VALUES ('b'), ('A'), ('c'), ('B!'), ('é'), ('Z')", order: "a"},
		{name: "collation of the index", setup: []string{`CREATE TABLE k (a text COLLATE "C" NOT NULL)`, "CREATE COLLATION other (provider = icu, locale = 'en')",
			"CREATE UNIQUE INDEX i ON k (a COLLATE other)", "ALTER TABLE k REPLICA IDENTITY USING INDEX i"},
			insert: "VALUES ('b'), ('A'), ('c'), ('B'), ('é'), ('Z')", order: "a COLLATE other"},
		{name: "char", setup: []string{"CREATE TABLE k (a char(5) PRIMARY KEY)"}, insert: "VALUES ('b'), ('ab'), (''), ('  x')", order: "a"},
		{name: "varchar", setup: []string{"CREATE TABLE k (a varchar(9) PRIMARY KEY)"}, insert: "VALUES ('b'), ('ab'), (''), ('  x')", order: "a"},
		{name: "citext", setup: []string{"CREATE SCHEMA ext", "CREATE EXTENSION citext SCHEMA ext", "CREATE TABLE k (a ext.citext PRIMARY KEY)"},
			insert: "VALUES ('b'), ('A'), ('a_'), ('C'), ('D'), ('e')", order: "a USING OPERATOR(ext.<)"},
		{name: "citext and int", setup: []string{"CREATE SCHEMA ext", "CREATE EXTENSION citext SCHEMA ext", "CREATE TABLE k (a ext.citext, b int, PRIMARY KEY (a, b))"},
			insert: "SELECT chr(65 + n % 3 + 32 * (n % 2)), n FROM generate_series(1, 40) n", order: "a USING OPERATOR(ext.<), b"},
		{name: "pattern", setup: []string{"CREATE TABLE k (a text NOT NULL)", "CREATE UNIQUE INDEX i ON k (a text_pattern_ops)",
			"ALTER TABLE k REPLICA IDENTITY USING INDEX i"}, insert: "VALUES ('b'), ('A'), ('a'), ('B'), ('é')", order: "a USING ~<~"},
		{name: "uuid", setup: []string{"CREATE TABLE k (a uuid PRIMARY KEY)"}, insert: "SELECT gen_random_uuid() FROM generate_series(1, 30)", order: "a"},
		{name: "numeric", setup: []string{"CREATE TABLE k (a numeric PRIMARY KEY)"}, insert: "VALUES (1.0), (-1), (1e100), ('NaN'), (0.00001), (10)", order: "a"},
		{name: "float", setup: []string{"CREATE TABLE k (a float8 PRIMARY KEY)"},
			insert: "VALUES (0.1::float8 + 0.2), (0.3), (-1e300), ('NaN'), ('Infinity'), ('-Infinity')", order: "a"},
		{name: "times", setup: []string{"CREATE TABLE k (a timestamptz, b timestamp, c date, d interval, PRIMARY KEY (a, b, c, d))"},
			insert: "SELECT '2026-01-01 00:00:00+00'::timestamptz + n % 3 * '1 us'::interval, '0044-03-15 BC', 'infinity', n * '1 month'::interval FROM generate_series(1, 20) n",
			order:  "a, b, c, d"},
		{name: "enum", setup: []string{"CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')", "CREATE TABLE k (a mood, b int, PRIMARY KEY (a, b))"},
			insert: "SELECT m, n FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 5) n", order: "a, b"},
		{name: "domain", setup: []string{"CREATE DOMAIN d AS text", "CREATE DOMAIN dd AS d", "CREATE TABLE k (a dd PRIMARY KEY)"},
			insert: "VALUES ('b'), ('a'), ('c')", order: "a"},
		{name: "bytea", setup: []string{"CREATE TABLE k (a bytea PRIMARY KEY)"}, insert: `VALUES ('\x'), ('\x00'), ('\xff'), ('\x00ff'), ('\x5c5c')`, order: "a"},
		{name: "money", setup: []string{"CREATE TABLE k (a money PRIMARY KEY)"}, insert: `VALUES (-12.5), (0), (1234567.89)`, order: "k.a", money: true},
		{name: "array", setup: []string{"CREATE TABLE k (a text[] PRIMARY KEY)"}, insert: `VALUES ('{}'), ('{a,NULL}'), ('{"b,\"c"}'), ('{a}')`, order: "a"},
		{name: "bool and bits", setup: []string{"CREATE TABLE k (a bool, b bit(3), PRIMARY KEY (a, b))"},
			insert: "SELECT a, n::bit(3) FROM (VALUES (true), (false)) v (a), generate_series(0, 7) n", order: "a, b"},
		{name: "inet", setup: []string{"CREATE TABLE k (a inet PRIMARY KEY)"}, insert: "VALUES ('10.0.0.1/8'), ('10.0.0.1'), ('::1')", order: "a"},
		{name: "ranges", setup: []string{"CREATE TABLE k (a int4range PRIMARY KEY)"}, insert: "VALUES ('[1,5)'), ('empty'), ('[1,)')", order: "a"},
		{name: "hostile names", setup: []string{`CREATE TABLE k ("a""b;--" int, "$1" text, "Ü" int, PRIMARY KEY ("$1", "a""b;--"))`},
			insert: "SELECT n, n % 3, 1 FROM generate_series(1, 20) n", order: `"$1", "a""b;--"`},
		{name: "partitions", setup: []string{"CREATE TABLE k (a int, b int, PRIMARY KEY (a)) PARTITION BY HASH (a)",
			"CREATE TABLE k0 PARTITION OF k FOR VALUES WITH (MODULUS 2, REMAINDER 0)", "CREATE TABLE k1 (b int, a int NOT NULL)",
			"ALTER TABLE k ATTACH PARTITION k1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)"}, insert: "SELECT n, -n FROM generate_series(1, 50) n", order: "a"},
		{name: "inheritance", setup: []string{"CREATE TABLE k (a int PRIMARY KEY)", "CREATE TABLE child (PRIMARY KEY (a)) INHERITS (k)", "INSERT INTO child VALUES (1), (5)"},
			insert: "VALUES (2), (1)", order: "a"},
		{name: "configured", setup: []string{"CREATE TABLE k (a int NOT NULL, b text NOT NULL, c int)", "CREATE INDEX ON k (b, a, c)", "ALTER TABLE k REPLICA IDENTITY FULL"},
			insert: "SELECT n, n % 4, n FROM generate_series(1, 40) n", order: "b, a", keys: []string{"a", "b"}},
		{name: "configured with nulls", setup: []string{"CREATE TABLE k (a int, b text)", "ALTER TABLE k REPLICA IDENTITY FULL"},
			insert: "SELECT nullif(n % 5, 0), nullif(n % 7, 0) FROM generate_series(1, 34) n", order: "a, b", keys: []string{"a", "b"}, unsorted: true},
		{name: "configured without an index", setup: []string{"CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')", "CREATE DOMAIN d AS varchar(5)",
			"CREATE TABLE k (a mood NOT NULL, b d NOT NULL, c int[] NOT NULL)", "ALTER TABLE k REPLICA IDENTITY FULL"},
			insert: "SELECT m, n, ARRAY[n] FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 5) n", order: "a, b, c", keys: []string{"a", "b", "c"}, unsorted: true},
	}
	eachServer(t, func(t *testing.T, shared *database) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				db := *shared
				db.t = t
				db.exec("DROP SCHEMA IF EXISTS ext CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
				db.exec(tt.setup...)
				db.exec("INSERT INTO k " + tt.insert)
				from := "ONLY k"
				if tt.name == "partitions" {
					from = "k"
				}
				o := db.options("public.k")
				if tt.keys != nil {
					o.Keys = map[string][]string{"public.k": tt.keys}
				}
				r := db.reader(db.config(), o)
				whole := db.chunk(r, sources.ChunkRequest{Table: "public.k", Rows: 1000, Bytes: 1 << 20})
				n := db.one("SELECT count(*)::text FROM " + from)
				if whole.Next != nil || fmt.Sprint(len(whole.Rows)) != n {
					t.Fatalf("%d rows, then %s; the table has %s", len(whole.Rows), whole.Next, n)
				}
				// In the order of the server's own.
				var columns, got []string
				for _, i := range whole.Table.Key {
					columns = append(columns, quoteIdent(whole.Table.Columns[i].Name))
				}
				for _, row := range whole.Rows {
					var key []string
					for _, i := range whole.Table.Key {
						if row[i].State == sources.Present {
							key = append(key, string(keyText(&whole.Table.Columns[i].Type, row[i].Data)))
						}
					}
					got = append(got, strings.Join(key, "|"))
				}
				if !tt.money {
					equal(t, got, db.inSession("SELECT concat_ws('|', "+strings.Join(columns, ", ")+") FROM "+
						strings.Replace(from, "k", "public.k", 1)+" k ORDER BY "+tt.order)...)
				}
				want := rowLines(whole)
				for _, size := range []int{1, 2, 7} {
					equal(t, db.rows(r, sources.ChunkRequest{Table: "public.k", Rows: size, Bytes: 1 << 20}), want...)
				}
				equal(t, db.rows(r, sources.ChunkRequest{Table: "public.k", Rows: 100, Bytes: 1}), want...)
				// Every range between two cursors, and the keys by themselves.
				var keys [][][]byte
				description, err := r.described(t.Context(), "public.k")
				if err != nil {
					t.Fatal(err)
				}
				if description.key.indexed == tt.unsorted {
					t.Errorf("indexed: %v", description.key.indexed)
				}
				cursors := []sources.Cursor{nil}
				for _, row := range whole.Rows {
					c, err := description.cursor(row)
					if err != nil {
						t.Fatal(err)
					}
					cursors = append(cursors, c)
					var key [][]byte
					for _, i := range whole.Table.Key {
						key = append(key, row[i].Data)
					}
					keys = append(keys, key)
				}
				cursors[len(cursors)-1] = nil
				middle := len(want) / 2
				for _, until := range []int{1, middle} {
					if len(want) > until {
						got := db.rows(r, sources.ChunkRequest{Table: "public.k", Until: cursors[until], Rows: 3, Bytes: 1 << 20})
						got = append(got, db.rows(r, sources.ChunkRequest{Table: "public.k", After: cursors[until], Rows: 3, Bytes: 1 << 20})...)
						equal(t, got, want...)
					}
				}
				c := db.chunk(r, sources.ChunkRequest{Table: "public.k", Keys: keys})
				equal(t, rowLines(c), want...)
				c = db.chunk(r, sources.ChunkRequest{Table: "public.k", Keys: append(keys[:1:1], keys[0])})
				equal(t, rowLines(c), want[0])
				if c.Next != nil {
					t.Errorf("after keys comes %s", c.Next)
				}
			})
		}
	})
}

// TestChunkPlan: a chunk follows the index, also where the statistics would have the server sort, and keys are looked up.
func TestChunkPlan(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE k (a int, b text, PRIMARY KEY (b, a))", "INSERT INTO k SELECT n, n % 10 FROM generate_series(1, 20000) n", "ANALYZE k")
		r := db.reader(db.config(), db.options("public.k"))
		d, err := r.described(t.Context(), "public.k")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := r.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = closeConn(conn) }()
		plan := func(q *query, err error) string {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			result := conn.PgConn().ExecParams(t.Context(), "EXPLAIN "+string(q.text), q.values, q.oids, nil, nil).Read()
			if result.Err != nil {
				t.Fatalf("%s: %v", q.text, result.Err)
			}
			var b strings.Builder
			for _, row := range result.Rows {
				b.Write(row[0])
				b.WriteByte('\n')
			}
			return b.String()
		}
		if _, err := conn.Exec(t.Context(), "SET random_page_cost = 1000"); err != nil {
			t.Fatal(err)
		}
		b := newRowBuffer(d, sources.ChunkRequest{Rows: 15000, Bytes: 1 << 20})
		key := func(b, a string) [][]byte { return [][]byte{[]byte(b), []byte(a)} }
		p := plan(b.statement(key("3", "100"), key("8", "5"), nil, 15000))
		if !strings.Contains(p, "Index Cond: ((ROW(b, a) > ROW('3'::text, 100)) AND (ROW(b, a) <= ROW('8'::text, 5)))") || strings.Contains(p, "Sort") {
			t.Errorf("a chunk's plan is\n%s", p)
		}
		if _, err := conn.Exec(t.Context(), "RESET random_page_cost; SET enable_sort = on"); err != nil {
			t.Fatal(err)
		}
		b = newRowBuffer(d, sources.ChunkRequest{Keys: [][][]byte{key("1", "1")}})
		p = plan(b.statement(nil, nil, [][][]byte{key("1", "1"), key("2", "2")}, 2))
		if !strings.Contains(p, "Index Cond: ((b = ") {
			t.Errorf("the plan of keys is\n%s", p)
		}
	})
}

// TestCursor: a cursor is of its table's key.
func TestCursor(t *testing.T) {
	d := &rowTable{table: &sources.Table{Schema: "s", Name: "t", Key: []int{1, 0}, Columns: []sources.Column{{Name: "a"}, {Name: `b"`}}},
		key: keyOrder{columns: []keyColumn{{index: 1, name: `b"`}, {index: 0, name: "a", nullable: true}}}}
	row := []sources.Value{{}, {State: sources.Present, Data: []byte(`x"\`)}}
	text, err := d.cursor(row)
	if err != nil || string(text) != `{"b\"":"x\"\\","a":null}` || !json.Valid(text) {
		t.Fatalf("cursor %s, %v", text, err)
	}
	key, err := d.parseCursor(text)
	if err != nil || string(key[0]) != `x"\` || key[1] != nil {
		t.Errorf("key %q, %v", key, err)
	}
	for _, bad := range []string{`{"a":null,"b\"":"x"}`, `{"b\"":"x"}`, `{"b\"":null,"a":"1"}`, `{"b\"":1,"a":"1"}`, `{"b\"":"x","a":"1","c":"1"}`, `["x","1"]`, `{`, ``} {
		if _, err := d.parseCursor([]byte(bad)); err == nil {
			t.Errorf("%s is a cursor", bad)
		} else {
			isFatal(t, err, "start it anew")
		}
	}
	row[1].Data = []byte("\xff")
	if _, err := d.cursor(row); err == nil {
		t.Error("a key that is no UTF-8 has a cursor")
	}
}
