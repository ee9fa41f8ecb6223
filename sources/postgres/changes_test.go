package postgres

import (
	"fmt"
	"strings"
	"testing"

	"weft/sources"
)

func TestChanges(t *testing.T) {
	big := "repeat('x', 3000)"
	tests := []struct {
		name    string
		setup   []string
		tables  []string
		config  func(*Config)
		keys    map[string][]string
		changes []string
		want    []string
	}{
		{
			name:    "insert, update, key change, delete, truncate",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, b text)"},
			changes: []string{"INSERT INTO t VALUES (1, 'x')", "UPDATE t SET b = 'y'", "UPDATE t SET a = 2", "DELETE FROM t", "TRUNCATE t"},
			want: []string{
				"c public.t [a] -> a=1 b=x",
				"u public.t [a] -> a=1 b=y",
				"u public.t [a] a=1 b=? -> a=2 b=y",
				"d public.t [a] a=2 b=? ->",
				"t public.t [a]",
			},
		},
		{
			name:    "money",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, b money, c money[])"},
			changes: []string{"INSERT INTO t VALUES (1, -1234.5, '{1.25}')"},
			want:    []string{"c public.t [a] -> a=1 b=-1234.50 c={$1.25}"},
		},
		{
			name:    "replica identity full",
			setup:   []string{"CREATE TABLE t (b text, a int PRIMARY KEY)", "ALTER TABLE t REPLICA IDENTITY FULL"},
			changes: []string{"INSERT INTO t VALUES (null, 1)", "UPDATE t SET b = 'y'", "DELETE FROM t"},
			want: []string{
				"c public.t [a] -> b=null a=1",
				"u public.t [a] b=null a=1 -> b=y a=1",
				"d public.t [a] b=y a=1 ->",
			},
		},
		{
			name:    "replica identity full without a key",
			setup:   []string{"CREATE TABLE t (a int, b text)", "ALTER TABLE t REPLICA IDENTITY FULL"},
			changes: []string{"INSERT INTO t VALUES (1, 'x')", "DELETE FROM t"},
			want:    []string{"c public.t -> a=1 b=x", "d public.t a=1 b=x ->"},
		},
		{
			name:    "configured key",
			setup:   []string{"CREATE TABLE t (a int, b text)", "ALTER TABLE t REPLICA IDENTITY FULL"},
			keys:    map[string][]string{"public.t": {"b", "a"}},
			changes: []string{"INSERT INTO t VALUES (1, 'x')"},
			want:    []string{"c public.t [b] [a] -> a=1 b=x"},
		},
		{
			name: "replica identity index",
			setup: []string{"CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL, c text)", "CREATE UNIQUE INDEX i ON t (b)",
				"ALTER TABLE t REPLICA IDENTITY USING INDEX i"},
			changes: []string{"INSERT INTO t VALUES (1, 2, 'x')", "UPDATE t SET b = 3", "DELETE FROM t"},
			want: []string{
				"c public.t [b] -> a=1 b=2 c=x",
				"u public.t [b] a=? b=2 c=? -> a=1 b=3 c=x",
				"d public.t [b] a=? b=3 c=? ->",
			},
		},
		{
			name:    "replica identity nothing",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, b text)", "ALTER TABLE t REPLICA IDENTITY NOTHING"},
			changes: []string{"INSERT INTO t VALUES (1, 'x')"},
			want:    []string{"c public.t [a] -> a=1 b=x"},
		},
		{
			name:  "unchanged TOAST",
			setup: []string{"CREATE TABLE t (a int PRIMARY KEY, b text, c text)", "ALTER TABLE t ALTER b SET STORAGE EXTERNAL"},
			changes: []string{"INSERT INTO t VALUES (1, " + big + ", 'x')", "UPDATE t SET c = 'y'", "UPDATE t SET a = 2",
				"ALTER TABLE t REPLICA IDENTITY FULL", "UPDATE t SET c = 'z'"},
			want: []string{
				"c public.t [a] -> a=1 b=xxxx...(3000) c=x",
				"u public.t [a] -> a=1 b=? c=y",
				"u public.t [a] a=1 b=? c=? -> a=2 b=? c=y",
				"u public.t [a] a=2 b=xxxx...(3000) c=y -> a=2 b=xxxx...(3000) c=z",
			},
		},
		{
			name:    "unchanged TOAST in the key",
			setup:   []string{"CREATE TABLE t (a text PRIMARY KEY, b int)", "ALTER TABLE t ALTER a SET STORAGE EXTERNAL"},
			changes: []string{"INSERT INTO t VALUES (repeat('k', 2500), 1)", "UPDATE t SET b = 2"},
			want: []string{
				"c public.t [a] -> a=kkkk...(2500) b=1",
				"u public.t [a] a=kkkk...(2500) b=? -> a=kkkk...(2500) b=2",
			},
		},
		{
			name:    "values that are not sent in their wire form",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, b bytea, m money, f float8)", "ALTER TABLE t REPLICA IDENTITY FULL", "ALTER TABLE t ALTER b SET STORAGE EXTERNAL"},
			changes: []string{`INSERT INTO t VALUES (1, convert_to(repeat('ab', 1500), 'UTF8'), -1234.5, 0.1::float8 + 0.2)`, "UPDATE t SET m = 1"},
			want: []string{
				"c public.t [a] -> a=1 b=abab...(3000) m=-1234.50 f=0.30000000000000004",
				"u public.t [a] a=1 b=abab...(3000) m=-1234.50 f=0.30000000000000004 -> a=1 b=abab...(3000) m=1.00 f=0.30000000000000004",
			},
		},
		{
			name: "partitions under their root",
			setup: []string{"CREATE TABLE p (a int PRIMARY KEY, b text) PARTITION BY RANGE (a)",
				"CREATE TABLE p1 (b text, gone int, a int PRIMARY KEY)", "ALTER TABLE p1 DROP gone",
				"ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)"},
			tables: []string{"public.p*"},
			changes: []string{"INSERT INTO p VALUES (1, 'x')", "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)",
				"UPDATE p SET a = 11", "DELETE FROM p2", "TRUNCATE p"},
			want: []string{
				"c public.p [a] -> a=1 b=x",
				"d public.p [a] a=1 b=? ->",
				"c public.p [a] -> a=11 b=x",
				"d public.p [a] a=11 b=? ->",
				"t public.p [a]",
			},
		},
		{
			name: "partitions under their leaves",
			setup: []string{"CREATE TABLE p (a int PRIMARY KEY, b text) PARTITION BY RANGE (a)",
				"CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)"},
			tables: []string{"public.p"},
			config: func(c *Config) { c.Partitions = PartitionsLeaves },
			changes: []string{"INSERT INTO p VALUES (1, 'x')", "CREATE TABLE later PARTITION OF p FOR VALUES FROM (10) TO (20)",
				"UPDATE p SET a = 11"},
			want: []string{
				"c public.p1 [a] -> a=1 b=x",
				"d public.p1 [a] a=1 b=? ->",
				"c public.later [a] -> a=11 b=x",
			},
		},
		{
			name:    "a change of the table inside a transaction",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, b text)"},
			changes: []string{"BEGIN; INSERT INTO t VALUES (1, 'x'); ALTER TABLE t ADD c int DEFAULT 7; INSERT INTO t VALUES (2, 'y'); ALTER TABLE t DROP b; ALTER TABLE t RENAME a TO id; INSERT INTO t VALUES (3, 8); COMMIT"},
			want: []string{
				"c public.t [a] -> a=1 b=x",
				"c public.t [a] -> a=2 b=y c=7",
				"c public.t [id] -> id=3 c=8",
			},
		},
		{
			name:    "a generated column",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a * 2) STORED, b text)"},
			changes: []string{"INSERT INTO t (a, b) VALUES (1, 'x')"},
			want:    []string{"c public.t [a] -> a=1 b=x"},
		},
		{
			name: "hostile names",
			setup: []string{`CREATE SCHEMA "Ünï"`, `CREATE TABLE "Ünï"."a""; drop--" ("Kéy" int PRIMARY KEY, "select" text, """" int)`,
				`CREATE TABLE "Ünï".other (a int PRIMARY KEY)`},
			tables:  []string{`Ünï.a"; drop--`},
			config:  func(c *Config) { c.Publication = `it's, "here"` },
			changes: []string{`INSERT INTO "Ünï"."a""; drop--" VALUES (1, 'x', 2)`, `INSERT INTO "Ünï".other VALUES (1)`, `DELETE FROM "Ünï"."a""; drop--"`},
			want: []string{
				`c Ünï.a"; drop-- [Kéy] -> Kéy=1 select=x "=2`,
				`d Ünï.a"; drop-- [Kéy] Kéy=1 select=? "=? ->`,
			},
		},
		{
			name:   "messages",
			setup:  []string{"CREATE TABLE t (a int PRIMARY KEY)"},
			config: func(c *Config) { c.Messages = true },
			changes: []string{"SELECT pg_logical_emit_message(false, 'p', 'loose')",
				"BEGIN; INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(true, 'p', 'inside'); SELECT pg_logical_emit_message(false, 'p', 'before'); COMMIT"},
			want: []string{"m p loose", "m p before", "c public.t [a] -> a=1", "m p inside"},
		},
		{
			name:    "messages that are not asked for",
			setup:   []string{"CREATE TABLE t (a int PRIMARY KEY)"},
			changes: []string{"SELECT pg_logical_emit_message(false, 'p', 'loose')", "SELECT pg_logical_emit_message(true, 'p', 'inside')", "INSERT INTO t VALUES (1)"},
			want:    []string{"c public.t [a] -> a=1"},
		},
		{
			name: "truncate of several tables",
			setup: []string{"CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE u (a int PRIMARY KEY REFERENCES t)",
				"CREATE TABLE other (a int PRIMARY KEY)"},
			tables:  []string{"public.?"},
			changes: []string{"TRUNCATE t, u, other"},
			want:    []string{"t public.t [a]", "t public.u [a]"},
		},
		{
			name: "types of extensions, enums, domains, arrays",
			setup: []string{"CREATE TYPE mood AS ENUM ('ok', 'sad')", "CREATE DOMAIN pos AS int CHECK (VALUE > 0)",
				"CREATE TABLE t (a pos PRIMARY KEY, m mood, l mood[], r regclass)"},
			changes: []string{"INSERT INTO t VALUES (1, 'ok', '{sad,NULL}', 't')"},
			want:    []string{"c public.t [a] -> a=1 m=ok l={sad,NULL} r=public.t"},
		},
	}
	eachServer(t, func(t *testing.T, shared *database) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				db := newDatabase(t, shared.admin)
				db.exec(tt.setup...)
				c := db.config()
				if tt.config != nil {
					tt.config(&c)
				}
				if tt.tables == nil {
					tt.tables = []string{"public.t"}
				}
				o := db.options(tt.tables...)
				o.Keys = tt.keys
				s := db.open(c, o)
				db.exec(tt.changes...)
				equal(t, s.take(len(tt.want)), tt.want...)
			})
		}
	})
}

// TestIdentity: orders, transactions and the source block of changes.
func TestIdentity(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE u (a int PRIMARY KEY)", "CREATE TABLE x (a int PRIMARY KEY)",
			"CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)")
		c := db.config()
		c.Publication = "everything"
		c.Messages = true
		s := db.open(c, db.options("public.t", "public.u"))
		db.exec("BEGIN; INSERT INTO t VALUES (1); INSERT INTO x VALUES (1); INSERT INTO u VALUES (1); SELECT pg_logical_emit_message(false, '', 'm'); " +
			"TRUNCATE x, t; INSERT INTO t VALUES (2); COMMIT")
		var got []string
		var orders []string
		for len(got) < 5 {
			b := s.next()
			for i := range b.Changes {
				c := &b.Changes[i]
				order := string(c.Order)
				if len(order) != 25 || len(orders) > 0 && orders[len(orders)-1] >= order {
					t.Errorf("order %q after %q", order, orders)
				}
				orders = append(orders, order)
				id := ""
				if c.Transaction != nil {
					id = c.Transaction.ID
					xid, final, ok := strings.Cut(id, ":")
					if want := fmt.Sprintf(`"txId":%s,"lsn":`, xid); !ok || !strings.HasPrefix(string(c.Meta), want) {
						t.Errorf("meta %s does not begin with %s", c.Meta, want)
					}
					var l uint64
					if _, err := fmt.Sscan(final, &l); err != nil || fmt.Sprintf("%016x", l) != order[:16] {
						t.Errorf("transaction %s has order %s", id, order)
					}
					if c.CommitTime < 1_600_000_000_000_000 || c.Table.Database != db.name {
						t.Errorf("commit time %d, database %q", c.CommitTime, c.Table.Database)
					}
					id = "tx"
				}
				got = append(got, fmt.Sprintf("%c %s %s %d %d", c.Op, order[17:], id, c.TransactionOrder, c.TableOrder))
			}
		}
		equal(t, got, "m 00000000  0 0", "c 00000000 tx 1 1", "c 00000002 tx 2 1", "t 00000004 tx 3 2", "c 00000005 tx 4 3")
	})
}

// TestSamePointer: a table stays the same pointer as long as nothing of it changes.
func TestSamePointer(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		var tables []*sources.Table
		for _, statement := range []string{"INSERT INTO t VALUES (1)", "GRANT SELECT ON t TO PUBLIC", "INSERT INTO t VALUES (2)",
			"ALTER TABLE t ADD b int", "INSERT INTO t VALUES (3)"} {
			db.exec(statement)
			if strings.HasPrefix(statement, "INSERT") {
				b := s.next()
				if len(b.Changes) != 1 {
					t.Fatalf("%s brought %d changes", statement, len(b.Changes))
				}
				tables = append(tables, b.Changes[0].Table)
			}
		}
		if tables[0] != tables[1] {
			t.Error("the table got another pointer though nothing of it changed")
		}
		if tables[1] == tables[2] || len(tables[1].Columns) != 1 || len(tables[2].Columns) != 2 {
			t.Error("the changed table did not get a description of its own")
		}
	})
}
