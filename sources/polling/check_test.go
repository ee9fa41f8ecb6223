package polling

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// A range of keys that no index leads to is told by the server's plan.
func TestMariaDBCheckKeyRange(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("lines", "a BIGINT NOT NULL, b BIGINT NOT NULL, UNIQUE (b)", "a", "b")
	m.exec("INSERT INTO " + m.name + ".lines (a, b) SELECT seq, seq FROM " + m.name + ".seq_1_to_2000")
	table := m.name + ".lines"
	show := func() string {
		var lines []string
		for _, f := range m.config().Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: m.opts.Tables, Keys: map[string][]string{table: {"a", "b"}}}) {
			lines = append(lines, fmt.Sprintf("%s %s: %s [%s]", f.Level, f.Subject, f.Text, f.Remedy))
		}
		return strings.Join(lines, "\n")
	}
	add := fmt.Sprintf("ALTER TABLE `%s`.`lines` ADD INDEX (`a`, `b`);", m.name)
	has(t, show(), "warning table "+table+": no index leads to a range of its keys (a, b)", "["+add+"]")
	m.exec(add)
	if text := show(); strings.Contains(text, "no index") {
		t.Errorf("with the index:\n%s", text)
	}
}

// What no index leads to is told by the server's plan; that it reads a small table as a whole, though an index would do, is not.
func TestPostgresCheckPlans(t *testing.T) {
	db := newPostgres(t, needServer(t, "WEFT_TEST_POSTGRES_NEWEST"))
	db.prepare(db.config("weft_xid"), "lines", "a int8 NOT NULL, b int8 NOT NULL UNIQUE", "a", "b")
	db.exec("INSERT INTO lines (a, b) SELECT i, i FROM generate_series(1, 100) i", "ANALYZE lines")
	keys := map[string][]string{"public.lines": {"a", "b"}}
	show := func() string {
		var lines []string
		for _, f := range db.config("weft_xid").Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: []string{"public.*"}, Keys: keys}) {
			lines = append(lines, fmt.Sprintf("%s %s: %s [%s]", f.Level, f.Subject, f.Text, f.Remedy))
		}
		return strings.Join(lines, "\n")
	}
	const add = `CREATE INDEX ON "public"."lines" ("a", "b");`
	text := show()
	has(t, text, "warning table public.lines: no index leads to a range of its keys (a, b)", "["+add+"]")
	if strings.Contains(text, "no index leads a poll") {
		t.Errorf("the index on weft_xid is not seen:\n%s", text)
	}
	db.exec(add)
	if text := show(); strings.Contains(text, "no index") {
		t.Errorf("with the index:\n%s", text)
	}
	c := db.config("weft_xid")
	d, err := c.dialect(t.Context(), []string{"public.*"}, keys, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	v, err := d.begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	lines := &table{Table: sources.Table{Schema: "public", Name: "lines"}}
	for where, want := range map[string]access{"a % 2 = 0": byScan, "weft_xid > '5'": byChoice, "a = 5": byChoice, "b + 1 = 5": byScan} {
		query := "SELECT FROM public.lines WHERE " + where
		if got, err := v.access(t.Context(), lines, query, nil); err != nil || got != want {
			t.Errorf("%s: access %d, error %v; want %d", query, got, err, want)
		}
	}
}
