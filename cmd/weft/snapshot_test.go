package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/sources"
	"weft/sources/all"
	"weft/sources/polling"
)

// readable is a source that says that its tables can be read; nobody does in these tests.
type readable struct {
	polling.SQLiteConfig `yaml:",inline"`
}

func (*readable) OpenReader(context.Context, sources.OpenOptions) (sources.Reader, error) {
	return nil, errors.New("not in this test")
}

// TestSnapshotRequests: what is asked for is in the log once, can be taken back, and is refused where it makes no sense.
func TestSnapshotRequests(t *testing.T) {
	all.Kinds["readable"] = func() sources.Config { return &readable{} }
	t.Cleanup(func() { delete(all.Kinds, "readable") })
	s := newShop(t, "")
	s.table(t, "more")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, strings.NewReplacer("type: sqlite", "type: readable", "tables: [item]", "tables: [item], snapshot: never").Replace(string(text)))
	// Without a daemon that is running: the one that starts next takes it up.
	if code, _, errs := weft(t, "snapshot", "start", "items", "-c", s.config); code != exitFailed || !strings.Contains(errs, "weft run makes it") {
		t.Errorf("before the first start: %d, %s", code, errs)
	}
	d := s.start(t)
	eventually(t, "the file's capture is known in the log", func() bool {
		e, err := fleet.LoadOne(t.Context(), s.client(t), "items")
		return err == nil && e != nil
	})
	d.end(t)

	snapshot := func(wantCode int, want string, args ...string) {
		t.Helper()
		code, out, errs := weft(t, append(append([]string{"snapshot"}, args...), "-c", s.config)...)
		if code != wantCode || !strings.Contains(out+errs, want) {
			t.Errorf("snapshot %q: %d, want %d with %q:\n%s%s", args, code, wantCode, want, out, errs)
		}
	}
	snapshot(exitUsage, `no capture "nobody"`, "start", "nobody")
	snapshot(exitUsage, "has no table itme; it captures item", "start", "items", "itme")
	snapshot(exitNotSo, "no snapshot under way and no request for one", "cancel", "items")
	snapshot(exitDone, "requested ", "start", "items", "item", "--where", "id > 3")
	snapshot(exitNotSo, "cancel it first: weft snapshot cancel items", "start", "items")
	snapshot(exitDone, `"where": "id > 3"`, "list", "--json")
	snapshot(exitDone, "requested", "list")
	snapshot(exitDone, "is to end", "cancel", "items")
	snapshot(exitNotSo, "no snapshot under way", "cancel", "items")
	snapshot(exitDone, "[]", "list", "--json")

	other := regexp.MustCompile(`source: \{[^}]*\}`).ReplaceAllString(string(text), "source: {type: sql, driver: sqlite, dsn: shop.db, watermark: at, max_transaction: 1s}, keys: {item: [id]}")
	s.write(t, other)
	snapshot(exitUsage, "a source of type sql makes no snapshots", "start", "items")
}

func TestSnapshotProgress(t *testing.T) {
	began := time.Now().UTC()
	k := knownCapture{Entry: &fleet.Entry{Registration: fleet.Registration{Snapshot: &fleet.SnapshotRequest{ID: "r2", Tables: []string{"a"}, At: began}}}}
	running := &checkpoint.Snapshot{ID: 1, Reason: "initial", StartedAt: began, Tables: []checkpoint.TableSnapshot{{Table: "a", Rows: 3, Done: true}, {Table: "b", Rows: 4}}}
	list := k.snapshots("c", running)
	if len(list) != 2 || list[0].State != "running" || list[0].Snapshot != "1" || list[0].Rows != 7 || list[0].Done != 1 || list[0].Of != 2 ||
		list[1].State != "requested" || list[1].Snapshot != "r2" {
		t.Errorf("listed %+v", list)
	}
	taken := &checkpoint.Snapshot{ID: 2, Request: "r2", StartedAt: began, EndedAt: &began}
	if list = k.snapshots("c", taken); len(list) != 1 || list[0].State != "done" || list[0].Snapshot != "r2" {
		t.Errorf("listed %+v", list)
	}
	running.EndedAt, running.Handled = &began, []checkpoint.Handled{{Request: "r2", At: began, Error: "no such table"}}
	if list = k.snapshots("c", running); len(list) != 2 || list[0].State != "done" || list[1].State != "failed" || list[1].Error != "no such table" {
		t.Errorf("listed %+v", list)
	}
	if list = k.snapshots("c", &checkpoint.Snapshot{ID: 1, Reason: checkpoint.ReasonBefore, EndedAt: &began}); len(list) != 1 || list[0].State != "requested" {
		t.Errorf("listed %+v", list)
	}
	taken.Cancelled = true
	if list = k.snapshots("c", taken); len(list) != 1 || list[0].State != "cancelled" {
		t.Errorf("listed %+v", list)
	}
}
