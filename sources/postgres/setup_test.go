package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// TestRefused: each thing that a person must mend is a FatalError that says what to do.
func TestRefused(t *testing.T) {
	tests := []struct {
		name   string
		setup  []string
		tables []string
		keys   map[string][]string
		config func(*Config)
		want   []string
	}{
		{"pattern without a schema", nil, []string{"t"}, nil, nil, []string{`"t" names no schema and table`, "such as public.t"}},
		{"pattern without a table", nil, []string{"public."}, nil, nil, []string{`"public." names no schema and table`, "such as public.orders"}},
		{"no tables", nil, []string{}, nil, nil, []string{"names none"}},
		{"no match", nil, []string{"public.t", "public.nothing_*"}, nil, nil, []string{`"public.nothing_*" matches no table`}},
		{"another case", nil, []string{"public.T"}, nil, nil, []string{`"public.T" matches no table`, "case-sensitive"}},
		{"view", []string{"CREATE VIEW v AS SELECT 1 AS a"}, []string{"public.v"}, nil, nil, []string{"public.v is a view"}},
		{"materialized view", []string{"CREATE MATERIALIZED VIEW v AS SELECT 1 AS a"}, []string{"public.v"}, nil, nil, []string{"materialized view"}},
		{"only views", []string{"CREATE VIEW v AS SELECT 1 AS a"}, []string{"public.v*"}, nil, nil, []string{"matches no table"}},
		{"unlogged", []string{"CREATE UNLOGGED TABLE u (a int PRIMARY KEY)"}, []string{"public.u"}, nil, nil,
			[]string{"public.u is unlogged", `ALTER TABLE "public"."u" SET LOGGED`}},
		{"unlogged by a glob", []string{"CREATE UNLOGGED TABLE u (a int PRIMARY KEY)"}, []string{"public.*"}, nil, nil, []string{"public.u is unlogged"}},
		{"foreign", []string{"CREATE FOREIGN DATA WRAPPER w", "CREATE SERVER s FOREIGN DATA WRAPPER w", "CREATE FOREIGN TABLE f (a int) SERVER s"},
			[]string{"public.f"}, nil, nil, []string{"foreign table"}},
		{"no key", []string{"CREATE TABLE n (a int)"}, []string{"public.n"}, nil, nil,
			[]string{"public.n has no replica identity", `ALTER TABLE "public"."n" REPLICA IDENTITY FULL; -- records then have no key, unless`,
				`ALTER TABLE "public"."n" ADD PRIMARY KEY (...);`}},
		{"identity of a dropped index", []string{"CREATE TABLE n (a int NOT NULL)", "CREATE UNIQUE INDEX i ON n (a)",
			"ALTER TABLE n REPLICA IDENTITY USING INDEX i", "DROP INDEX i"}, []string{"public.n"}, nil, nil,
			[]string{"index that was set as such was dropped", `ALTER TABLE "public"."n" REPLICA IDENTITY FULL;`}},
		{"identity of a dropped index beside a key", []string{"CREATE TABLE n (a int PRIMARY KEY, b int NOT NULL)", "CREATE UNIQUE INDEX i ON n (b)",
			"ALTER TABLE n REPLICA IDENTITY USING INDEX i", "DROP INDEX i"}, []string{"public.n"}, nil, nil,
			[]string{"index that was set as such was dropped", `ALTER TABLE "public"."n" REPLICA IDENTITY DEFAULT;`}},
		{"deferrable key", []string{"CREATE TABLE n (a int PRIMARY KEY DEFERRABLE)"}, []string{"public.n"}, nil, nil, []string{"no replica identity"}},
		{"no key, one configured", []string{"CREATE TABLE n (a int)"}, []string{"public.n"}, map[string][]string{"public.n": {"a"}}, nil,
			[]string{"no replica identity"}},
		{"no key, one configured that does not exist", []string{"CREATE TABLE n (a int, b int)"}, []string{"public.n"},
			map[string][]string{"public.n": {"zzz"}}, nil, []string{`keys: table public.n has no column "zzz"`, "columns are a, b"}},
		{"identity nothing without key", []string{"CREATE TABLE n (a int)", "ALTER TABLE n REPLICA IDENTITY NOTHING"}, []string{"public.n"}, nil, nil,
			[]string{"replica identity nothing and no primary key"}},
		{"configured key not in the identity", nil, []string{"public.t"}, map[string][]string{"public.t": {"b"}}, nil,
			[]string{`column "b" of table public.t is not part of its replica identity`}},
		{"configured key does not exist", nil, []string{"public.t"}, map[string][]string{"public.t": {"z"}}, nil, []string{`public.t has no column "z"`}},
		{"key of a table that is not captured", nil, []string{"public.t"}, map[string][]string{"public.x": {"a"}}, nil, []string{`"public.x" is no table`}},
		{"generated key", []string{"CREATE TABLE g (a int, k int GENERATED ALWAYS AS (a) STORED PRIMARY KEY)"}, []string{"public.g"}, nil, nil,
			[]string{`key column "k" of table public.g is generated`}},
		{"partition of another identity", []string{"CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
			"ALTER TABLE p REPLICA IDENTITY FULL"}, []string{"public.p"}, nil, nil, []string{"partition public.p1", `ALTER TABLE "public"."p1" REPLICA IDENTITY FULL`}},
		{"publication of somebody else without the table", []string{"CREATE PUBLICATION theirs WITH (publish_via_partition_root)"}, nil, nil,
			func(c *Config) { c.Publication = "theirs" }, []string{"publication theirs exists, was not made by this capture and lacks table public.t",
				`ALTER PUBLICATION "theirs" ADD TABLE "public"."t"; -- as its owner, who must own the tables too, or as a superuser`}},
		{"publication of somebody else without deletes", []string{"CREATE PUBLICATION theirs FOR TABLE t WITH (publish = 'insert')"}, nil, nil,
			func(c *Config) { c.Publication = "theirs" }, []string{`ALTER PUBLICATION "theirs" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);`}},
		{"publication that renames a partition", []string{"CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
			"CREATE PUBLICATION theirs FOR ALL TABLES WITH (publish_via_partition_root)"}, []string{"public.p1"}, nil,
			func(c *Config) { c.Publication = "theirs" }, []string{"under the name of its partitioned table"}},
		{"physical slot", []string{"SELECT pg_create_physical_replication_slot('SLOT')"}, nil, nil, nil, []string{"is a physical slot", "pg_drop_replication_slot"}},
		{"slot of another plugin", []string{"SELECT pg_create_logical_replication_slot('SLOT', 'test_decoding')"}, nil, nil, nil, []string{`of plugin "test_decoding"`}},
		{"slot without checkpoint or publication", []string{"SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')"}, nil, nil, nil,
			[]string{"somebody else's"}},
		{"no such database", nil, nil, nil, func(c *Config) { c.URL = strings.Replace(c.URL, "weft_test_", "none_", 1) }, []string{"there is no database", "url"}},
	}
	eachServer(t, func(t *testing.T, shared *database) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				db := newDatabase(t, shared.admin)
				db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
				for _, s := range tt.setup {
					db.exec(strings.ReplaceAll(s, "SLOT", db.slot()))
				}
				t.Cleanup(func() { // a physical slot belongs to no database
					db.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name = '" + db.slot() + "'")
				})
				c := db.config()
				if tt.config != nil {
					tt.config(&c)
				}
				if tt.tables == nil {
					tt.tables = []string{"public.t"}
				}
				o := db.options(tt.tables...)
				o.Keys = tt.keys
				isFatal(t, db.openError(c, o), tt.want...)
				if n := db.one("SELECT count(*)::text FROM pg_publication WHERE pubname = $1", db.slot()); n != "0" {
					t.Error("a publication was left behind")
				}
			})
		}
	})
}

func TestRowFilterRefused(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		if db.one("SELECT (current_setting('server_version_num')::int >= 150000)::text") == "false" {
			t.Skip("row filters and column lists came with PostgreSQL 15")
		}
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE PUBLICATION f FOR TABLE t WHERE (a > 1) WITH (publish_via_partition_root)",
			"CREATE PUBLICATION l FOR TABLE t (a) WITH (publish_via_partition_root)",
			"CREATE PUBLICATION s FOR TABLES IN SCHEMA public WITH (publish_via_partition_root)")
		c := db.config()
		for _, c.Publication = range []string{"f", "l"} {
			isFatal(t, db.openError(c, db.options("public.t")), "row filter or a column list for table public.t")
		}
		c.Publication = "s"
		s := db.open(c, db.options("public.t"))
		db.exec("INSERT INTO t VALUES (1, 'x')")
		equal(t, s.take(1), "c public.t [a] -> a=1 b=x")
	})
}

// role makes a role with a password and returns the database's URL for it.
func (db *database) role(attributes string) (name, address string) {
	name = "r_" + db.name
	db.exec("CREATE ROLE " + name + " LOGIN PASSWORD 'secret' " + attributes)
	db.t.Cleanup(func() {
		db.exec("DROP OWNED BY "+name, "DROP ROLE "+name)
	})
	u, err := url.Parse(db.url)
	if err != nil {
		db.t.Fatal("the server's URL is not valid")
	}
	u.User = url.UserPassword(name, "secret")
	return name, u.String()
}

func TestRights(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		name, address := db.role("")
		c := db.config()
		c.URL = address
		isFatal(t, db.openError(c, db.options("public.t")), "no right to replicate", `ALTER ROLE "`+name+`" REPLICATION`)
		db.exec("ALTER ROLE " + name + " REPLICATION")
		err := db.openError(c, db.options("public.t"))
		isFatal(t, err, "may not make publication", `CREATE PUBLICATION "`+c.Slot+`" FOR TABLE "public"."t" WITH (publish = `,
			`GRANT CREATE ON DATABASE "`+db.name+`" TO "`+name+`"`)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
		// Each of the two things that the error says is enough.
		_, statements, _ := strings.Cut(err.Error(), "to mend it: ")
		db.exec(statements)
		s := db.open(c, db.options("public.t"))
		db.exec("INSERT INTO t VALUES (1)")
		equal(t, s.take(1), "c public.t [a] -> a=1")
		s.close()
		// Such a publication is the capture's, and not the role's.
		db.exec("CREATE TABLE t2 (a int PRIMARY KEY)")
		o := db.options("public.t*")
		o.Position = s.position
		err = db.openError(c, o)
		isFatal(t, err, "publication "+c.Slot+" exists and lacks table public.t2", "must be owner of publication", "as its owner")
		if strings.Contains(err.Error(), "may not make publication") {
			t.Errorf("a publication that exists need not be made: %v", err)
		}
		_, statements, _ = strings.Cut(err.Error(), "to mend it: ")
		db.exec(statements)
		db.reopen(c, o).close()
		c.Slot += "_2"
		db.exec(`GRANT CREATE ON DATABASE "`+db.name+`" TO "`+name+`"`, `ALTER TABLE t OWNER TO "`+name+`"`)
		db.open(c, db.options("public.t"))
	})
}

func TestUnreachable(t *testing.T) {
	c := Config{URL: "postgres://somebody:secret@127.0.0.1:1/shop?connect_timeout=2", Slot: "s"}
	_, err := c.Open(t.Context(), sources.OpenOptions{Capture: "c", Tables: []string{"public.t"}, BatchBytes: 1, ReadAheadBytes: 1})
	if err == nil {
		t.Fatal("no error")
	}
	isRetryable(t, err, "127.0.0.1", "shop", "check host and port in url")
	if text := err.Error(); strings.ContainsAny(text, "\n\t") || strings.Count(text, "refused") != 1 {
		t.Errorf("the error is not one line that tells each cause once: %q", text)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the password: %v", err)
	}
}

// TestSession: the settings of a role do not change what values look like.
func TestSession(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, f float8, d timestamptz, i interval, b bytea, r regclass)")
		name, address := db.role("SUPERUSER")
		for _, s := range []string{"datestyle = 'German'", "intervalstyle = 'iso_8601'", "extra_float_digits = 0", "timezone = 'Asia/Tokyo'",
			"bytea_output = 'escape'", "search_path = public", "client_encoding = 'LATIN1'", "statement_timeout = '1ms'"} {
			db.exec("ALTER ROLE " + name + " SET " + s)
		}
		c := db.config()
		c.URL = address + "&timezone=Asia/Tokyo"
		s := db.open(c, db.options("public.t"))
		db.exec(`INSERT INTO t VALUES (1, 0.1::float8 + 0.2, '2026-02-28 12:00:00+00', '1 day', '\x00ff', 't')`)
		equal(t, s.take(1), "c public.t [a] -> a=1 f=0.30000000000000004 d=2026-02-28 12:00:00+00 i=1 day b=\x00\xff r=public.t")
	})
}

// TestPublication: it holds exactly the capture's tables, grows with them, and is somebody else's without our mark.
func TestPublication(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		members := func() string {
			return db.one("SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = $1", db.slot())
		}
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE other (a int)")
		s := db.open(db.config(), db.options("public.t*"))
		if got := members(); got != "t" {
			t.Errorf("published: %s", got)
		}
		if got := db.one("SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = $1", db.slot()); got != "made by weft for capture orders" {
			t.Errorf("comment: %s", got)
		}
		s.close()
		db.exec("UPDATE other SET a = 1", "CREATE TABLE t2 (a int PRIMARY KEY)")
		o := db.options("public.t*")
		o.Position = s.position
		s = db.open(db.config(), o)
		if got := members(); got != "t,t2" {
			t.Errorf("published: %s", got)
		}
		db.exec("INSERT INTO t2 VALUES (1)")
		equal(t, s.take(1), "c public.t2 [a] -> a=1")
		s.close()
		// A table that was left out is still published, and filtered.
		o = db.options("public.t")
		o.Position = s.position
		s = db.open(db.config(), o)
		db.exec("INSERT INTO t2 VALUES (2)", "INSERT INTO t VALUES (2)")
		equal(t, s.take(1), "c public.t [a] -> a=2")
		s.close()
		db.exec("CREATE TABLE t3 (a int PRIMARY KEY)")
		o = db.options("public.t*")
		o.Capture = "another"
		o.Position = s.position
		isFatal(t, db.openError(db.config(), o), `ALTER PUBLICATION "`+db.slot()+`" ADD TABLE "public"."t3";`)
	})
}

func TestSlotInUse(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		o := db.options("public.t")
		o.Position = s.position
		isRetryable(t, db.openError(db.config(), o), "in use by server process")
		s.close()
		db.open(db.config(), o)
	})
}

func TestSlotOfAnotherDatabase(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		other := newDatabase(t, db.admin)
		other.exec("SELECT pg_create_logical_replication_slot('" + db.slot() + "', 'pgoutput')")
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		isFatal(t, db.openError(db.config(), db.options("public.t")), fmt.Sprintf("belongs to database %q", other.name))
	})
}

// TestSlotCreation: the slot is made only after the position that says so is durable, is cancellable while it waits for a
// transaction, and is taken up again after a crash at any point.
func TestSlotCreation(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		slots := func() string {
			return db.one("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", db.slot())
		}
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.reopen(db.config(), db.options("public.t"))
		b := s.next()
		creating := s.position
		if !b.Urgent || !strings.Contains(string(creating), `"creating":true`) || len(b.Changes) != 0 {
			t.Errorf("the first batch is %+v with position %s", b, creating)
		}
		if _, err := s.tryNext(300 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || slots() != "0" {
			t.Fatalf("before the position was durable: %v, %s slots", err, slots())
		}
		s.durable(creating)
		blocker, err := pgx.Connect(context.Background(), db.url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = blocker.Close(context.Background()) }()
		if _, err := blocker.Exec(context.Background(), "BEGIN; INSERT INTO t VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.tryNext(500 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || slots() != "0" {
			t.Fatalf("while a transaction runs: %v, %s slots", err, slots())
		}
		if _, err := blocker.Exec(context.Background(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		b = s.next()
		if strings.Contains(string(b.Position), "creating") || slots() != "1" {
			t.Fatalf("position is %s, with %s slots", b.Position, slots())
		}
		db.exec("INSERT INTO t VALUES (2)")
		equal(t, s.take(1), "c public.t [a] -> a=2")
		s.close()
		// Nothing of that was durable but the creating position.
		o := db.options("public.t")
		o.Position = creating
		s = db.reopen(db.config(), o)
		if b := s.next(); len(b.Changes) != 0 || !strings.Contains(string(b.Position), `"lsn"`) {
			t.Errorf("after the crash, the first batch is at %s", b.Position)
		}
		equal(t, s.take(1), "c public.t [a] -> a=2")
	})
}
