package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
)

// seenTo is a view of all transactions below it, passed everywhere.
type seenTo uint64

func (v seenTo) Sees(stamp uint64) bool                   { return stamp < uint64(v) }
func (v seenTo) SeesSource(json.RawMessage) (bool, error) { return true, nil }
func (v seenTo) Horizon() uint64                          { return uint64(v) }
func (v seenTo) Passed(sources.Position) (bool, error)    { return true, nil }

func TestRingIsBounded(t *testing.T) {
	r := ring{limit: 100_000}
	key := make([]byte, 100)
	for stamp := range uint64(5000) {
		for i := range 1 + stamp%7 {
			r.add(stamp+1, "t", fmt.Appendf(key[:0], "%d/%d", stamp, i), whole)
		}
		if r.bytes > r.limit || r.bytes < 0 {
			t.Fatalf("%d bytes, bound %d", r.bytes, r.limit)
		}
	}
	for i := range 100_000 { // one transaction that is larger than all
		r.add(6000, "t", fmt.Appendf(key[:0], "%d", i), whole)
	}
	if r.bytes > r.limit {
		t.Errorf("%d bytes, bound %d", r.bytes, r.limit)
	}
	for v, unknown := range map[seenTo]bool{1: true, 5000: true, 6000: true, 6001: false} {
		if u := r.unseen("t", v); u.unknown != unknown || !unknown && !u.empty() {
			t.Errorf("a read that sees all below %d: %+v", uint64(v), u)
		}
	}
	r.prune([]sources.View{seenTo(6001)})
	if len(r.txs) > 0 || r.bytes != 0 || r.lost != 0 {
		t.Errorf("all is seen, and %d transactions of %d bytes are left, and up to %d", len(r.txs), r.bytes, r.lost)
	}
}

func newTestCore() (*core, *read) {
	c := newCore(&checkpoint.Snapshot{Tables: []checkpoint.TableSnapshot{{Table: "keyed"}}},
		Options{Parallel: 1, ChunkBytes: 1 << 20, RingBytes: 64 << 20, Logger: hclog.NewNullLogger()})
	c.split(c.next(), nil)
	return c, c.next()
}

// What is to be read again is in the checkpoint, so there is a bound: then the chunk is read again as a whole.
func TestManyIncompleteRows(t *testing.T) {
	for n, again := range map[int]bool{maxAgain: false, maxAgain + 1: true} {
		c, r := newTestCore()
		chunk := &sources.Chunk{Table: keyed, View: seenTo(10)}
		for key := range n {
			chunk.Rows = append(chunk.Rows, row{version: 1}.values(key))
			e := effect{op: sources.OpUpdate, key: key, from: key, part: true}
			c.track([]sources.Change{e.change(11)})
		}
		c.arrived(r, chunk, 0)
		s := &simulation{}
		if err := c.pass(&place{ctx: context.Background(), position: s.here(), reader: s, w: s}); err != nil {
			t.Fatal(err)
		}
		next := c.next()
		if again != (next.kind == readRows) || len(c.tables[0].again) > maxAgain {
			t.Errorf("%d rows to be read again: the next read is %+v", n, next.q.Table)
		}
	}
}

// counter counts the rows that are written.
type counter int

func (n *counter) Write(context.Context, *sources.Change) error {
	*n++
	return nil
}

// A crash makes one chunk be written again, whatever was ready; a commit takes several only where one might have held them all. Spans
// take turns.
func TestChunksOfACommit(t *testing.T) {
	for size, want := range map[int][]int{100: {1, 2, 3, 4}, 50: {2, 4}, 30: {3, 4}} {
		c := newCore(&checkpoint.Snapshot{Tables: []checkpoint.TableSnapshot{{Table: "keyed"}}},
			Options{Parallel: 2, ChunkBytes: 100, RingBytes: 1 << 20, Logger: hclog.NewNullLogger()})
		c.split(c.next(), []sources.Cursor{cursor(1000)})
		s, w := &simulation{}, counter(0)
		pass := func() {
			t.Helper()
			if err := c.pass(&place{ctx: context.Background(), position: s.here(), reader: s, w: &w}); err != nil {
				t.Fatal(err)
			}
		}
		arrive := func(r *read) {
			t.Helper()
			if r == nil || r.kind != readRows {
				t.Fatalf("the next read is %+v", r)
			}
			from := 0
			if r.q.After != nil {
				from = keyOf(r.q.After)
			}
			c.arrived(r, &sources.Chunk{Table: keyed, View: seenTo(10), Rows: [][]sources.Value{row{version: 1}.values(from + 1)}, Bytes: size, Next: cursor(from + 1)}, 0)
		}
		for range 2 { // the first chunks of both spans, then the second ones
			first, second := c.next(), c.next()
			arrive(first)
			arrive(second)
		}
		if r := c.next(); r != nil {
			t.Errorf("a fifth read begins: %+v", r)
		}
		for i, rows := range want {
			pass()
			if pass(); int(w) != rows {
				t.Errorf("chunks of %d bytes, bound 100: after %d commits %d are written, want %d", size, i, w, rows)
			}
			if i == 0 && c.next() != nil {
				t.Error("a read begins while a chunk is not committed: more than four would be read again")
			}
			if waits := c.committed(); waits != (rows < 4) {
				t.Errorf("after %d chunks another one waits: %v", rows, waits)
			}
			if i == 1 && size == 100 && (c.tables[0].spans[0].after == nil || c.tables[0].spans[1].after == nil) {
				t.Error("a span's second chunk came before the other one's first")
			}
		}
	}
}

// Too many rows that have moved to other keys have the table read again.
func TestManyMovedRows(t *testing.T) {
	c, r := newTestCore()
	for key := range maxAgain + 1 {
		e := effect{op: sources.OpUpdate, key: key + 100_000, from: key, part: true}
		c.track([]sources.Change{e.change(11)})
	}
	if !r.void || len(c.tables[0].again) > 0 || c.tables[0].spans != nil {
		t.Errorf("void %v, %d keys, spans %v", r.void, len(c.tables[0].again), c.tables[0].spans)
	}
	if next := c.next(); next != nil {
		t.Errorf("a read begins beside one that is given up: %+v", next)
	}
	c.arrived(r, &sources.Chunk{Table: keyed, View: seenTo(10)}, 0)
	if next := c.next(); next == nil || next.kind != readSplit {
		t.Errorf("the next read is %+v", next)
	}
}

// Keys that differ have different bytes, whatever they hold.
func TestAppendKey(t *testing.T) {
	two := &sources.Table{Key: []int{1, 0}, Columns: make([]sources.Column, 2)}
	value := func(s string) sources.Value { return sources.Value{State: sources.Present, Data: []byte(s)} }
	seen := map[string]string{}
	for _, row := range [][]sources.Value{
		{value(""), value("")}, {value("a"), value("")}, {value(""), value("a")}, {value("a"), {}}, {{}, value("a")}, {value("\x00"), {}},
		{{}, {}}, {value(""), {}}, {{}, value("")}, {value("ab"), value("c")}, {value("a"), value("bc")},
	} {
		key, ok := appendKey(nil, two, row, nil)
		if !ok || bytesOf(wireKey(two, row, nil)) != string(key) {
			t.Errorf("%v: %q", row, key)
		}
		if other, twice := seen[string(key)]; twice {
			t.Errorf("%v has the bytes of %s", row, other)
		}
		seen[string(key)] = fmt.Sprint(row)
	}
	unknown := []sources.Value{{State: sources.Unavailable}, value("a")}
	if _, ok := appendKey(nil, two, unknown, nil); ok {
		t.Error("a key is told whose column is not known")
	}
	if key, ok := appendKey(nil, two, unknown, []sources.Value{value("b"), {}}); !ok || string(key) != "\x02a\x02b" {
		t.Errorf("key %q", key)
	}
}
