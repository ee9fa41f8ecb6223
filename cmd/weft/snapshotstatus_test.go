package main

import (
	"bytes"
	"testing"
	"time"

	"weft/checkpoint"
)

func TestSnapshotStatus(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := &checkpoint.Snapshot{ID: 2, Reason: checkpoint.ReasonGap, StartedAt: at, Tables: []checkpoint.TableSnapshot{
		{Table: "public.a", Begun: true, Rows: 7, Done: true}, {Table: "public.bb", Begun: true, Rows: 3}, {Table: "public.c"},
	}, Handled: []checkpoint.Handled{{Request: "x", At: at, Error: "no such table"}, {Request: "y", At: at}}}
	var out bytes.Buffer
	a := &app{stdout: &out}
	a.printSnapshot("shop", snapshotStatusOf(s))
	const want = `shop: snapshot 2 (gap) is running: 1 of 3 tables, 10 rows
  public.a   done     7 rows
  public.bb  reading  3 rows
  public.c   waiting  0 rows
shop: snapshot request x of 2026-03-01T12:00:00Z failed: no such table
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
	s.EndedAt = &at
	for _, c := range []struct {
		state string
		set   func()
	}{{"done", func() {}}, {"cancelled", func() { s.Cancelled = true }}, {"failed", func() { s.Error = "gone" }}} {
		if c.set(); snapshotStatusOf(s).State != c.state {
			t.Errorf("state %s, want %s", snapshotStatusOf(s).State, c.state)
		}
	}
	if snapshotStatusOf(nil) != nil {
		t.Error("a capture without one has a status of it")
	}
}
