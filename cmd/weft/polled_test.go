package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
