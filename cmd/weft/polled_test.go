package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weft/sources/polling"
)

// A polled table's changes are what they are, its deletes are found, and reading it anew writes what differs alone.
func TestPolledChanges(t *testing.T) {
	s := newShop(t, "")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, strings.Replace(string(text), "interval: 10ms", "interval: 10ms, reconcile: {every: 1s}", 1))
	s.exec(t, `INSERT INTO item (id, name) VALUES (1, 'old'), (2, 'old'), (3, 'old')`)
	told := func() string {
		var all []string
		for line := range strings.Lines(ok(t, "tail", "-c", s.config, "shop.item", "--from", "start", "--exit-at-end")) {
			var r struct {
				Key   struct{ ID int }
				Value *struct {
					Op            string
					Before, After *struct{ Name string }
				}
			}
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if r.Value == nil || r.Key.ID != 1 {
				continue
			}
			all = append(all, r.Value.Op)
			for _, row := range []*struct{ Name string }{r.Value.Before, r.Value.After} {
				if row != nil {
					all = append(all, row.Name)
				}
			}
		}
		return strings.Join(all, " ")
	}
	wait := func(want string) {
		t.Helper()
		eventually(t, want, func() bool { return told() == want })
	}
	d := s.start(t)
	wait("c old")
	_, out, _ := weft(t, "status", "-c", s.config)
	if !strings.Contains(out, "items: horizon exact: the counter that triggers draw weft_version from, now 3; ") {
		t.Errorf("status printed\n%s", out)
	}
	s.exec(t, `UPDATE item SET name = 'new' WHERE id = 1`)
	wait("c old u old new")
	s.exec(t, `DELETE FROM item WHERE id = 1`)
	wait("c old u old new d new")
	s.exec(t, `INSERT INTO item (id, name) VALUES (1, 'again')`)
	wait("c old u old new d new c again")
	d.end(t)

	records := func() int {
		return strings.Count(ok(t, "tail", "-c", s.config, "shop.item", "--from", "start", "--exit-at-end"), "\n")
	}
	before := records()
	ok(t, "checkpoint", "set", "-c", s.config, "items", "null")
	if err := os.RemoveAll(filepath.Join(s.dir, "state")); err != nil { // it is a cache
		t.Fatal(err)
	}
	d = s.start(t)
	s.exec(t, `INSERT INTO item (id, name) VALUES (4, 'last')`)
	captured(t, s, 4)
	d.end(t)
	if after := records(); after != before+1 {
		t.Errorf("reading the table anew and one insert wrote %d records", after-before)
	}
}

// A polled table verifies clean; a row that was written, one that came and one that went without being polled are found, and repaired.
func TestVerifyPolled(t *testing.T) {
	s := newShop(t, "")
	d := s.start(t)
	s.exec(t, `INSERT INTO item (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')`)
	captured(t, s, 4)
	verify := func(wantCode int, want string, more ...string) {
		t.Helper()
		code, out, errs := weft(t, append([]string{"verify", "-c", s.config, "items"}, more...)...)
		if code != wantCode || out != want {
			t.Errorf("verify %v: code %d, %s, printed\n%s", more, code, errs, out)
		}
	}
	verify(exitDone, "item: the same; 4 rows compared with topic shop.item\n")

	s.unpolled(t, `UPDATE item SET name = 'other' WHERE id = 2`, `INSERT INTO item (id, name, weft_version) VALUES (9, 'new', 0)`, `DELETE FROM item WHERE id = 4`)
	found := `item differing {"id":2} in name
item extra {"id":4} (deleted rows are looked for every 1h0m0s)
item missing {"id":9}
item: 1 missing, 1 extra, 1 differing, 0 undecided; 4 rows compared with topic shop.item
`
	verify(exitNotSo, found)
	verify(exitDone, found+"item: repaired 3, still different 0\n", "--repair", "--yes")
	verify(exitDone, "item: the same; 4 rows compared with topic shop.item\n")

	// A snapshot writes those that are there too.
	s.unpolled(t, `UPDATE item SET name = 'more' WHERE id = 1`, `INSERT INTO item (id, name, weft_version) VALUES (10, 'new', -1)`)
	verify(exitNotSo, `item missing {"id":10}
item differing {"id":1} in name
item: 1 missing, 0 extra, 1 differing, 0 undecided; 5 rows compared with topic shop.item
`)
	ok(t, "snapshot", "start", "-c", s.config, "items")
	eventually(t, "the snapshot's rows are in the topic", func() bool {
		code, _, _ := weft(t, "verify", "-c", s.config, "items")
		return code == exitDone
	})
	verify(exitDone, "item: the same; 5 rows compared with topic shop.item\n")
	d.end(t)
}

// unpolled writes rows that no trigger numbers, so that they are not polled.
func (s *shop) unpolled(t *testing.T, statements ...string) {
	t.Helper()
	tx, err := s.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback() // after a commit it does nothing
	statements = slices.Concat([]string{"DROP TRIGGER weft_insert_item", "DROP TRIGGER weft_update_item"}, statements, polling.SQLiteStatements("item", "weft_version"))
	for _, statement := range statements {
		if _, err := tx.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}
