package postgres

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// check runs a check of the capture that options describes.
func (db *database) check(c Config, o sources.CheckOptions) findings {
	db.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return c.Check(ctx, o)
}

func (db *database) checkOptions(tables ...string) sources.CheckOptions {
	return sources.CheckOptions{Capture: "orders", Tables: tables}
}

type findings []sources.Finding

// one returns the first finding of that level about the subject.
func (fs findings) one(t *testing.T, level sources.Level, subject string) sources.Finding {
	t.Helper()
	for _, f := range fs {
		if f.Level == level && f.Subject == subject {
			return f
		}
	}
	t.Fatalf("no %s about %q in:\n%s", level, subject, fs)
	return sources.Finding{}
}

// without fails if there is such a finding.
func (fs findings) without(t *testing.T, level sources.Level, subject string) {
	t.Helper()
	for _, f := range fs {
		if f.Level == level && f.Subject == subject {
			t.Errorf("still a %s: %s: %s", level, f.Subject, f.Text)
		}
	}
}

func (fs findings) String() string {
	var b strings.Builder
	for _, f := range fs {
		b.WriteString(f.Level.String() + " " + f.Subject + ": " + f.Text + " => " + f.Remedy + "\n")
	}
	return b.String()
}

// statements are the part of a remedy that is to be run.
func statements(remedy string) string {
	run, _, _ := strings.Cut(remedy, " -- ")
	return run
}

// TestCheckRemedies: each thing that is wrong is found, and is no longer found once the statements of its remedy were run.
// A problem that blocks is one that Open, too, fails with.
func TestCheckRemedies(t *testing.T) {
	const theirs = "CREATE PUBLICATION theirs "
	usePublication := func(c *Config) { c.Publication = "theirs" }
	tests := []struct {
		name    string
		setup   []string // ROLE and DATABASE are replaced
		role    string   // attributes of the role that checks; - for the superuser
		tables  []string
		config  func(*Config)
		level   sources.Level
		subject string
		want    []string
		// openWorks says that Open does not refuse, for what only others suffer from.
		openWorks bool
	}{
		{"role without REPLICATION", nil, "", nil, nil, sources.Problem, "role", []string{"has no right to replicate", "ALTER ROLE"}, false},
		{"role without rights to publish", nil, "REPLICATION", nil, nil, sources.Problem, "publication",
			[]string{"it lacks CREATE on database weft_test_", "ownership of public.t", `CREATE PUBLICATION "weft_test_`, "GRANT CREATE ON DATABASE"}, false},
		{"role without ownership", []string{"GRANT CREATE ON DATABASE DATABASE TO ROLE"}, "REPLICATION", nil, nil, sources.Problem, "publication",
			[]string{"may not make publication", ": it lacks ownership of public.t"}, false},
		{"role without schema", []string{"CREATE SCHEMA s", "CREATE TABLE s.x (a int PRIMARY KEY)", "ALTER TABLE s.x OWNER TO ROLE",
			"GRANT CREATE ON DATABASE DATABASE TO ROLE"}, "REPLICATION", []string{"s.x"}, nil, sources.Problem, "publication",
			[]string{": it lacks USAGE on schema s"}, false},
		{"publication that lacks a table", []string{theirs + "WITH (publish_via_partition_root)"}, "-", nil, usePublication, sources.Problem,
			"publication", []string{"lacks table public.t", `ALTER PUBLICATION "theirs" ADD TABLE "public"."t";`}, false},
		{"publication without deletes", []string{theirs + "FOR TABLE t WITH (publish = 'insert, update', publish_via_partition_root)"}, "-", nil,
			usePublication, sources.Problem, "publication", []string{"lacks options", "SET (publish = 'insert, update, delete, truncate'"}, false},
		{"publication by leaves", []string{theirs + "FOR TABLE t"}, "-", nil, usePublication, sources.Problem, "publication",
			[]string{"publish_via_partition_root = true"}, false},
		{"publication of ours that the role may not change", []string{`CREATE PUBLICATION "DATABASE" WITH (publish_via_partition_root)`,
			`COMMENT ON PUBLICATION "DATABASE" IS 'made by weft for capture orders'`}, "REPLICATION", nil, nil, sources.Problem, "publication",
			[]string{"it lacks ownership of publication weft_test_", "ownership of public.t"}, false},
		{"no key", []string{"CREATE TABLE n (a int)"}, "-", []string{"public.n"}, nil, sources.Problem, "table public.n",
			[]string{"has no replica identity", `ALTER TABLE "public"."n" REPLICA IDENTITY FULL;`}, false},
		{"no key beside a unique index", []string{`CREATE TABLE n (a int NOT NULL, b int)`, `CREATE UNIQUE INDEX "i""x" ON n (a)`}, "-",
			[]string{"public.n"}, nil, sources.Problem, "table public.n", []string{`REPLICA IDENTITY USING INDEX "i""x";`}, false},
		{"hostile name", []string{`CREATE TABLE "n""; drop table t; --" (a int)`}, "-", []string{`public.n"; drop table t; --`}, nil, sources.Problem,
			`table public.n"; drop table t; --`, []string{`ALTER TABLE "public"."n""; drop table t; --" REPLICA IDENTITY FULL;`}, false},
		{"unlogged", []string{"CREATE UNLOGGED TABLE u (a int PRIMARY KEY)"}, "-", []string{"public.u"}, nil, sources.Problem, "table public.u",
			[]string{"is unlogged", "SET LOGGED;"}, false},
		{"two tables at once", []string{"CREATE TABLE n (a int)", "CREATE UNLOGGED TABLE u (a int PRIMARY KEY)"}, "-", []string{"public.?"}, nil,
			sources.Problem, "table public.u", []string{"is unlogged"}, false},
		{"identity nothing of a table that is written", []string{"CREATE TABLE n (a int PRIMARY KEY, b int)", "ALTER TABLE n REPLICA IDENTITY NOTHING",
			"INSERT INTO n VALUES (1, 1)", "UPDATE n SET b = 2", "SELECT pg_stat_force_next_flush()"}, "-", []string{"public.n"}, nil, sources.Problem,
			"table public.n", []string{"has had 1 updates and deletes", "REPLICA IDENTITY DEFAULT;"}, true},
		{"identity nothing of a log", []string{"CREATE TABLE n (a int PRIMARY KEY)", "ALTER TABLE n REPLICA IDENTITY NOTHING"}, "-",
			[]string{"public.n"}, nil, sources.Warning, "table public.n", []string{"once it is published", "REPLICA IDENTITY DEFAULT;"}, true},
		{"partition without an identity", []string{"CREATE TABLE p (a int NOT NULL) PARTITION BY RANGE (a)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
			"CREATE UNIQUE INDEX pi ON p (a)", "ALTER TABLE p REPLICA IDENTITY USING INDEX pi"}, "-", []string{"public.p"}, nil, sources.Warning,
			"table public.p1", []string{"no replica identity", `ALTER TABLE "public"."p1" REPLICA IDENTITY USING INDEX "p1_a_idx";`}, true},
		{"partition of another identity", []string{"CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a)", "CREATE TABLE p1 PARTITION OF p DEFAULT",
			"ALTER TABLE p REPLICA IDENTITY FULL"}, "-", []string{"public.p"}, nil, sources.Problem, "table public.p1", []string{"REPLICA IDENTITY FULL;"}, false},
	}
	eachServer(t, func(t *testing.T, shared *database) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				db := newDatabase(t, shared.admin)
				db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
				c, role := db.config(), ""
				if tt.role != "-" {
					role, c.URL = db.role(tt.role)
				}
				for _, s := range tt.setup {
					if strings.Contains(s, "force_next_flush") && db.one("SELECT (current_setting('server_version_num')::int < 150000)::text") == "true" {
						time.Sleep(time.Second) // the statistics of 14 are collected by another process
						s = "SELECT pg_stat_clear_snapshot()"
					}
					db.exec(strings.NewReplacer("DATABASE DATABASE", "DATABASE "+db.name, "DATABASE", db.name, "ROLE", role).Replace(s))
				}
				if tt.config != nil {
					tt.config(&c)
				}
				if tt.tables == nil {
					tt.tables = []string{"public.t"}
				}
				before := db.state()
				f := db.check(c, db.checkOptions(tt.tables...)).one(t, tt.level, tt.subject)
				for _, want := range tt.want {
					if !strings.Contains(f.Text+" => "+f.Remedy, want) {
						t.Errorf("%q is not in: %s => %s", want, f.Text, f.Remedy)
					}
				}
				if strings.Contains(f.Text+f.Remedy, "secret") {
					t.Errorf("the finding tells the password")
				}
				if after := db.state(); after != before {
					t.Errorf("the check has changed something: %s -> %s", before, after)
				}
				if !tt.openWorks {
					if !f.Blocks {
						t.Error("what Open refuses does not block")
					}
					isFatal(t, db.openError(c, db.options(tt.tables...)))
				}
				db.exec(statements(f.Remedy))
				db.check(c, db.checkOptions(tt.tables...)).without(t, tt.level, tt.subject)
			})
		}
	})
}

// state is what a check must not change.
func (db *database) state() string {
	return db.one(`SELECT (SELECT coalesce(string_agg(pubname, ','), '') FROM pg_publication) || ' ' ||
		(SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) || ' ' ||
		(SELECT coalesce(string_agg(relname || relreplident::text, ',' ORDER BY relname), '') FROM pg_class WHERE relnamespace = 'public'::regnamespace)`)
}

// TestCheckFirstStart: nothing is wrong, and what weft run will make is told. While it runs, and after it has stopped,
// nothing is wrong either.
func TestCheckFirstStart(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE f (a int)", "ALTER TABLE f REPLICA IDENTITY FULL")
		clean := func(fs findings) {
			t.Helper()
			for _, f := range fs {
				if f.Level == sources.Problem {
					t.Errorf("a problem: %s: %s", f.Subject, f.Text)
				}
			}
		}
		o := db.checkOptions("public.t", "public.f")
		fs := db.check(db.config(), o)
		clean(fs)
		if f := fs.one(t, sources.OK, "publication"); !strings.Contains(f.Text, `weft run makes it: CREATE PUBLICATION "`+db.slot()+`" FOR TABLE "public"."f", "public"."t"`) {
			t.Error(f.Text)
		}
		if f := fs.one(t, sources.OK, "slot"); !strings.Contains(f.Text, "weft run makes it") {
			t.Error(f.Text)
		}
		if f := fs.one(t, sources.OK, "table public.t"); f.Table.String() != "public.t" || len(f.Table.Key) != 1 {
			t.Errorf("%+v", f.Table)
		}
		fs.one(t, sources.Warning, "table public.f") // no key
		s := db.open(db.config(), db.options("public.t", "public.f"))
		o.Position = s.position
		fs = db.check(db.config(), o)
		clean(fs)
		if f := fs.one(t, sources.OK, "slot"); !strings.Contains(f.Text, "reads from it") {
			t.Error(f.Text)
		}
		s.close()
		free(db)
		fs = db.check(db.config(), o)
		clean(fs)
		if f := fs.one(t, sources.OK, "slot"); !strings.Contains(f.Text, "of WAL") {
			t.Error(f.Text)
		}
		fs.one(t, sources.OK, "publication")
		// A table that is new: the publication is changed by run.
		db.exec("CREATE TABLE t2 (a int PRIMARY KEY)")
		o.Tables = append(o.Tables, "public.t2")
		fs = db.check(db.config(), o)
		clean(fs)
		if f := fs.one(t, sources.OK, "publication"); !strings.Contains(f.Text, `weft run changes it: ALTER PUBLICATION "`+db.slot()+`" ADD TABLE "public"."t2";`) {
			t.Error(f.Text)
		}
		// A slot of which no checkpoint tells; where the checkpoint is not known, it is not asked about.
		o.Position = nil
		if f := db.check(db.config(), o).one(t, sources.Problem, "slot"); f.Blocks || !strings.Contains(f.Text, "no checkpoint says") {
			t.Errorf("%+v", f)
		}
		o.PositionUnknown = true
		clean(db.check(db.config(), o))
		// Without the slot: a gap, said before it happens.
		db.exec("SELECT pg_drop_replication_slot('" + db.slot() + "')")
		o.Position, o.PositionUnknown = s.position, false
		if f := db.check(db.config(), o).one(t, sources.Problem, "slot"); f.Blocks || !strings.Contains(f.Text, "is gone") {
			t.Errorf("%+v", f)
		}
	})
}

// TestCheckLeastPrivilege: a role with REPLICATION alone, and a publication that a superuser made as the check says, is enough
// for the check and for the capture.
func TestCheckLeastPrivilege(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE SCHEMA s", "CREATE TABLE s.t (a int PRIMARY KEY)", "CREATE TABLE s.p (a int PRIMARY KEY) PARTITION BY RANGE (a)",
			"CREATE TABLE s.p1 PARTITION OF s.p DEFAULT")
		c := db.config()
		_, c.URL = db.role("REPLICATION")
		o := db.checkOptions("s.t", "s.p")
		db.exec(statements(db.check(c, o).one(t, sources.Problem, "publication").Remedy))
		for _, f := range db.check(c, o) {
			if f.Level != sources.OK && f.Subject != "retention" && !strings.HasPrefix(f.Subject, "slot weft_") {
				t.Errorf("%s %s: %s", f.Level, f.Subject, f.Text)
			}
		}
		s := db.open(c, db.options("s.t", "s.p"))
		db.exec("INSERT INTO s.t VALUES (1)")
		equal(t, s.take(1), "c s.t [a] -> a=1")
		o.Position = s.position
		db.check(c, o).without(t, sources.Problem, "slot")
	})
}

// TestCheckOthers: a publication FOR ALL TABLES makes the updates of tables fail that are none of the capture's.
func TestCheckOthers(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE n (a int)", "CREATE PUBLICATION theirs FOR ALL TABLES WITH (publish_via_partition_root)")
		c := db.config()
		c.Publication = "theirs"
		f := db.check(c, db.checkOptions("public.t")).one(t, sources.Problem, "publication")
		if f.Blocks || !strings.Contains(f.Text, "public.n") {
			t.Errorf("%+v", f)
		}
	})
}

// TestCheckOrder: whoever runs a remedy from the middle of the list is told what must come first.
func TestCheckOrder(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int)", "CREATE PUBLICATION theirs WITH (publish_via_partition_root)")
		c := db.config()
		c.Publication = "theirs"
		fs := db.check(c, db.checkOptions("public.t"))
		if f := fs.one(t, sources.Problem, "publication"); !strings.Contains(f.Remedy, "only once the tables above have a replica identity") {
			t.Error(f.Remedy)
		}
		table := slices.IndexFunc(fs, func(f sources.Finding) bool { return f.Subject == "table public.t" })
		if publication := slices.IndexFunc(fs, func(f sources.Finding) bool { return f.Subject == "publication" }); table > publication {
			t.Errorf("the table comes after the publication:\n%s", fs)
		}
	})
}

// TestCheckOrphans: slots that a capture left behind are told, and those of captures that are there are not.
func TestCheckOrphans(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		name := "weft_" + db.name
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
		o := db.checkOptions("public.t")
		f := db.check(db.config(), o).one(t, sources.Warning, "slot "+name)
		o.Captures = []string{db.name}
		db.check(db.config(), o).without(t, sources.Warning, "slot "+name)
		o.Captures = nil
		db.exec(statements(f.Remedy))
		db.check(db.config(), o).without(t, sources.Warning, "slot "+name)
	})
}

// TestCheckServer: what is wrong with a server as a whole, on one of the test's own.
func TestCheckServer(t *testing.T) {
	server := startServer(t, "wal_level = replica", "max_replication_slots = 1", "max_wal_senders = 1", "max_slot_wal_keep_size = 64MB",
		"idle_replication_slot_timeout = 60")
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)", "SELECT pg_create_physical_replication_slot('taken', true)")
	o := db.checkOptions("public.t")
	fs := db.check(db.config(), o)
	wal := fs.one(t, sources.Problem, "server")
	slots := fs.one(t, sources.Problem, "slot")
	keep := fs.one(t, sources.Warning, "retention")
	for _, f := range []sources.Finding{wal, slots} {
		if !f.Blocks {
			t.Errorf("does not block: %s", f.Text)
		}
	}
	if !strings.Contains(keep.Text, "64.0 MiB") {
		t.Error(keep.Text)
	}
	// What is right is told beside what is wrong.
	fs.one(t, sources.OK, "table public.t")
	fs.one(t, sources.OK, "role")
	for _, f := range fs {
		if f.Remedy != "" {
			for s := range strings.SplitSeq(strings.TrimSuffix(statements(f.Remedy), ";"), "; ") {
				db.exec(s)
			}
		}
	}
	if err := server.ctl("restart"); err != nil {
		t.Fatal(err)
	}
	db.reconnect()
	fs = db.check(db.config(), o)
	for _, f := range fs {
		if f.Level != sources.OK {
			t.Errorf("still a %s: %s: %s", f.Level, f.Subject, f.Text)
		}
	}
	// All senders taken: by a slot of somebody else's.
	db.exec("ALTER SYSTEM SET max_wal_senders = 1", "ALTER SYSTEM SET max_slot_wal_keep_size = -1")
	if err := server.ctl("restart"); err != nil {
		t.Fatal(err)
	}
	db.reconnect()
	other := db.config()
	other.Slot += "_2"
	s := db.open(other, db.options("public.t"))
	fs = db.check(db.config(), o)
	if f := fs.one(t, sources.Problem, "senders"); f.Blocks {
		t.Error("a want of senders may pass, and blocks")
	}
	fs.one(t, sources.Warning, "retention")
	// The capture that has the sender is in order.
	o.Position = s.position
	db.check(other, o).without(t, sources.Problem, "senders")
}

// TestCheckLost: a slot that lost its WAL is a gap, with or without a known checkpoint.
func TestCheckLost(t *testing.T) {
	server := startServer(t)
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)")
	s := db.open(db.config(), db.options("public.t"))
	s.close()
	free(db)
	lose(db)
	o := db.checkOptions("public.t")
	o.Position = s.position
	if f := db.check(db.config(), o).one(t, sources.Problem, "slot"); f.Blocks || !strings.Contains(f.Text, "cannot be read any more") {
		t.Errorf("%+v", f)
	}
	o.Position, o.PositionUnknown = nil, true
	if f := db.check(db.config(), o).one(t, sources.Problem, "slot"); f.Blocks || !strings.Contains(f.Text, "cannot be read any more") {
		t.Errorf("%+v", f)
	}
}

func TestCheckUnreachable(t *testing.T) {
	c := Config{URL: "postgres://somebody:secret@127.0.0.1:1/shop?connect_timeout=2", Slot: "s"}
	fs := findings(c.Check(t.Context(), sources.CheckOptions{Capture: "c", Tables: []string{"public.t"}}))
	f := fs.one(t, sources.Problem, "server")
	if f.Blocks || len(fs) != 1 || !strings.Contains(f.Text, "127.0.0.1") || strings.Contains(f.Text, "secret") {
		t.Errorf("%s", fs)
	}
}
