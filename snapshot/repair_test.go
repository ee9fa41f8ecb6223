package snapshot

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
)

func wireKeys(numbers ...int) (wire [][][]byte) {
	for _, n := range numbers {
		wire = append(wire, [][]byte{[]byte(strconv.Itoa(n))})
	}
	return wire
}

// A repair writes the rows that were asked for and no others: those that are not there as deletes. It makes no table covered.
func TestRepair(t *testing.T) {
	now := time.Now()
	h := newHarness(t, &shelf{tables: map[string]int{"a": 20, "b": 30}}, false, &checkpoint.Snapshot{ID: 1, EndedAt: &now, Covered: []string{"b"}})
	h.Ask(Request{ID: "one", Keys: map[string][][][]byte{"a": wireKeys(3, 50), "b": wireKeys(7)}})
	if err := h.until("the end", func(s *checkpoint.Snapshot) bool { return ended(s) && s.ID == 2 }); err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"a/3": 1, "a/50 is gone": 1, "b/7": 1}; !maps.Equal(h.written, want) {
		t.Errorf("written %v, want %v", h.written, want)
	}
	if slices.ContainsFunc(h.causes, func(c sources.Cause) bool { return c != sources.CauseRepair }) {
		t.Errorf("caused by %v", h.causes)
	}
	s := h.state
	if s.Reason != checkpoint.ReasonRepair || len(s.Handled) != 1 || s.Handled[0].Request != "one" || s.Handled[0].Rows != 3 || !slices.Equal(s.Covered, []string{"b"}) {
		t.Errorf("state %+v", s)
	}
}

// A repair is gone on with after a restart, as one.
func TestRepairResumes(t *testing.T) {
	shelf := &shelf{tables: map[string]int{"a": 20}, passed: 9}
	h := newHarness(t, shelf, false, nil)
	h.Ask(Request{ID: "one", Keys: map[string][][][]byte{"a": wireKeys(3, 50)}})
	if err := h.until("the beginning", func(s *checkpoint.Snapshot) bool { return s.Running() }); err != nil {
		t.Fatal(err)
	}
	h.Close()
	rest := newHarness(t, shelf, false, h.state)
	rest.position = 9
	if err := rest.until("the end", ended); err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"a/3": 1, "a/50 is gone": 1}; len(h.written) > 0 || !maps.Equal(rest.written, want) {
		t.Errorf("written %v and %v, want %v", h.written, rest.written, want)
	}
}

func TestRepairRefused(t *testing.T) {
	long := [][][]byte{{[]byte(strings.Repeat("x", MaxRepairBytes))}}
	for _, c := range []struct {
		keys map[string][][][]byte
		want string
	}{
		{map[string][][][]byte{"a": wireKeys(1), "c": wireKeys(1)}, "not among the capture's tables: c"},
		{map[string][][][]byte{"a": wireKeys(make([]int, MaxRepairKeys+1)...)}, fmt.Sprintf("%d keys of table a", MaxRepairKeys+1)},
		{map[string][][][]byte{"a": long}, "more than a repair takes at a time"},
	} {
		h := newHarness(t, &shelf{tables: map[string]int{"a": 20}}, false, nil)
		h.Ask(Request{ID: "one", Keys: c.keys})
		if err := h.until("the refusal", func(s *checkpoint.Snapshot) bool { return s != nil && len(s.Handled) == 1 }); err != nil {
			t.Fatal(err)
		}
		if got := h.state.Handled[0].Error; !strings.Contains(got, c.want) || len(h.written) > 0 {
			t.Errorf("refused with %q, want %q; written %v", got, c.want, h.written)
		}
	}
}

// kept are the ops and keys that were written.
type kept []string

func (w *kept) Write(_ context.Context, c *sources.Change) error {
	row := c.After
	if c.Op == sources.OpDelete {
		row = c.Before
	}
	*w = append(*w, fmt.Sprintf("%c %s", c.Op, row[0].Data))
	return nil
}

// repairOf is a core that repairs keys of the table keyed, and has read them: of those, only key 1 is there.
func repairOf(keys ...int) (c *core, r *read) {
	c = newCore(&checkpoint.Snapshot{ID: 1, Reason: checkpoint.ReasonRepair, Tables: []checkpoint.TableSnapshot{{Table: "keyed", Begun: true, Again: wireKeys(keys...)}}},
		Options{Parallel: 1, ChunkBytes: 1 << 20, RingBytes: 64 << 20, Logger: hclog.NewNullLogger()})
	r = c.next()
	c.arrived(r, &sources.Chunk{Table: keyed, View: seenTo(10), Rows: [][]sources.Value{row{version: 5, big: 5}.values(1)}}, 0)
	return c, r
}

// What the stream has changed, and the read did not see, is left to the stream, but for a row of which it told only a part.
func TestRepairBesideTheStream(t *testing.T) {
	const unseenStamp = 11
	create := &effect{op: sources.OpCreate, key: 2, from: 2, row: row{version: 6, big: 6}}
	for name, test := range map[string]struct {
		changes []*effect
		want    []string
		left    int
	}{
		"nothing":               {nil, []string{"r 1", "d 2", "d 3"}, 0},
		"an absent key is made": {[]*effect{create}, []string{"r 1", "d 3"}, 0},
		"a key is deleted":      {[]*effect{{op: sources.OpDelete, key: 1, from: 1}}, []string{"d 2", "d 3"}, 0},
		"a row is told in part": {[]*effect{{op: sources.OpUpdate, key: 1, from: 1, part: true, row: row{version: 7, big: 5}}},
			[]string{"d 2", "d 3"}, 1},
		"a row gets another key": {[]*effect{{op: sources.OpUpdate, key: 4, from: 1, part: true, row: row{version: 7, big: 5}}},
			[]string{"d 2", "d 3"}, 1},
		"another row gets another key": {[]*effect{{op: sources.OpUpdate, key: 6, from: 5, part: true, row: row{version: 7, big: 5}}},
			[]string{"r 1", "d 2", "d 3"}, 0},
		"a truncate": {[]*effect{{op: sources.OpTruncate}}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := repairOf(1, 2, 3)
			for _, e := range test.changes {
				c.track([]sources.Change{e.change(unseenStamp)})
			}
			var w kept
			if err := c.pass(&place{ctx: t.Context(), position: cursor(1), reader: shelfReader{}, w: &w}); err != nil {
				t.Fatal(err)
			}
			slices.Sort(w)
			slices.Sort(test.want)
			if !slices.Equal(w, test.want) || len(c.tables[0].again) != test.left || c.finished() != (test.left == 0) {
				t.Errorf("written %q, want %q; %d keys are left, want %d", w, test.want, len(c.tables[0].again), test.left)
			}
		})
	}
}

// More rows with other keys than can be held end the repair, and do not make it a snapshot of the table.
func TestRepairOverflows(t *testing.T) {
	c, _ := repairOf(1)
	from := 1
	for key := range maxAgain + 1 {
		e := effect{op: sources.OpUpdate, key: key + 10, from: from, part: true, row: row{version: 7, big: 5}}
		c.track([]sources.Change{e.change(11)})
		from = e.key
	}
	var w kept
	err := c.pass(&place{ctx: t.Context(), position: cursor(1), reader: shelfReader{}, w: &w})
	if _, refused := err.(*Refusal); !refused || len(w) > 0 {
		t.Errorf("got %v, written %q", err, w)
	}
}
