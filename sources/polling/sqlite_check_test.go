package polling

import (
	"strings"
	"testing"

	"weft/sources"
)

// check returns the findings as text, a line a finding.
func (s *shop) check(p sources.Position) string {
	s.t.Helper()
	var b strings.Builder
	for _, f := range s.config.Check(s.t.Context(), sources.CheckOptions{Capture: "shop", Tables: s.opts.Tables, Keys: s.opts.Keys, Position: p}) {
		b.WriteString(f.Level.String())
		if f.Blocks {
			b.WriteString(" blocks")
		}
		b.WriteString(" " + f.Subject + ": " + f.Text + " => " + f.Remedy + "\n")
	}
	return b.String()
}

func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

// TestCheck: all tables that lack something are told at once, and each remedy mends its table.
func TestCheck(t *testing.T) {
	s := newShop(t, "*")
	s.execute("CREATE TABLE good (id INTEGER PRIMARY KEY, weft_version INTEGER)", "CREATE TABLE bare (id INTEGER PRIMARY KEY)",
		"CREATE TABLE pair (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID", "CREATE TABLE keyless (a TEXT, weft_version INTEGER)")
	s.execute(SQLiteStatements("good", "weft_version")...)
	text := s.check(nil)
	has(t, text, "ok database: journal mode wal", "ok table good: key (id), numbered by triggers in weft_version",
		"problem blocks table bare: it has no column weft_version", "problem blocks table pair:",
		"problem blocks table keyless: the column weft_version has no index")
	for _, f := range s.config.Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: s.opts.Tables}) {
		if f.Remedy != "" {
			s.execute(strings.Split(f.Remedy, "\n")...)
		}
	}
	text = s.check(nil)
	has(t, text, "ok table bare: key (id)", "ok table pair: key (a, b)", "problem blocks table keyless: has no primary key")
	s.opts.Keys = map[string][]string{"keyless": {"a"}}
	if text := s.check(nil); strings.Contains(text, "problem") {
		t.Errorf("still a problem:\n%s", text)
	}
	s.execute("ALTER TABLE keyless ADD COLUMN n INTEGER")
	s.opts.Keys = map[string][]string{"keyless": {"n"}}
	has(t, s.check(nil), "warning table keyless: no index leads to a range of its keys (n)", `=> CREATE INDEX "weft_index_keyless_n" ON "keyless" ("n");`)
	s.execute(`CREATE INDEX "weft_index_keyless_n" ON "keyless" ("n");`)
	if text := s.check(nil); strings.Contains(text, "no index") {
		t.Errorf("with the index:\n%s", text)
	}
	src := s.start()
	s.execute("INSERT INTO good (id) VALUES (1)")
	p := next(t, src).Position
	if text := s.check(p); strings.Contains(text, "problem") {
		t.Errorf("a problem:\n%s", text)
	}
	s.execute("UPDATE weft_counter SET value = 0")
	has(t, s.check(p), "problem checkpoint:", "put back to an older state", "on_gap: continue")
	s.opts.Tables = []string{"nothing"}
	has(t, s.check(nil), "problem blocks tables: no table matches nothing")
}

func TestCheckDatabase(t *testing.T) {
	s := newShop(t, "t")
	s.execute("PRAGMA journal_mode = delete", "CREATE TABLE t (id INTEGER PRIMARY KEY, weft_version INTEGER)")
	s.execute(SQLiteStatements("t", "weft_version")...)
	has(t, s.check(nil), "warning database: journal mode delete", "=> PRAGMA journal_mode = wal;")
	s.execute("PRAGMA journal_mode = wal")
	has(t, s.check(nil), "ok database")
	s.config.Path += ".none"
	has(t, s.check(nil), "problem blocks database:", "create the database")
}
