package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

// fakePolled is a datastore of one table that a capture polls.
type fakePolled struct {
	sources.Config // nothing of it is called but Connector
	l              *fakeLog
	every          time.Duration // between two searches for deleted rows

	mu      sync.Mutex
	version int64
	rows    map[int]polledRow
	logged  map[int]bool // rows that the log has
	lost    int          // a row that polls overlook, 0 for none
	// onKeys is called, where not nil, before and after rows are read by their keys, with mu held.
	onKeys func(before bool)
}

type polledRow struct {
	version int64
	status  string
}

func newPolledFake(t *testing.T, every time.Duration) *fakePolled {
	_, l := newFake(t, newTable(0))
	return &fakePolled{l: l, every: every, rows: map[int]polledRow{}, logged: map[int]bool{}}
}

// newPolledPair has two rows, which were polled.
func newPolledPair(t *testing.T, every time.Duration) *fakePolled {
	f := newPolledFake(t, every)
	f.put(1, "a")
	f.put(2, "b")
	f.poll()
	return f
}

func (f *fakePolled) Connector() string { return "fake" }

// put writes a row, with mu held.
func (f *fakePolled) put(id int, status string) {
	f.version++
	f.rows[id] = polledRow{f.version, status}
}

// poll writes what has changed since the last one, with mu held.
func (f *fakePolled) poll() {
	var changes []*sources.Change
	for id, r := range f.rows {
		if r.version > int64(f.l.done) && id != f.lost {
			changes = append(changes, &sources.Change{Op: sources.OpCreate, Table: f.l.db.table, After: row(id, r.status, "")})
			f.logged[id] = true
		}
	}
	f.l.done = int(f.version)
	f.write(changes)
}

// search writes deletes of the rows that are gone, with mu held.
func (f *fakePolled) search() {
	var changes []*sources.Change
	for id := range f.logged {
		if _, there := f.rows[id]; !there {
			changes = append(changes, &sources.Change{Op: sources.OpDelete, Table: f.l.db.table, Before: row(id, "", "")})
			delete(f.logged, id)
		}
	}
	f.write(changes)
}

func (f *fakePolled) write(changes []*sources.Change) {
	var records []*kgo.Record
	for _, c := range changes {
		records = append(records, f.l.records(c)...)
	}
	f.l.produce(records...)
}

func (f *fakePolled) OpenReader(context.Context, sources.OpenOptions) (sources.Reader, error) {
	return fakePolledReader{fakeReader{f.l.db}, f}, nil
}

type fakePolledReader struct {
	fakeReader
	f *fakePolled
}

func (r fakePolledReader) DeletesAfter() time.Duration { return r.f.every }

func (r fakePolledReader) ReadChunk(_ context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if q.Keys != nil && f.onKeys != nil {
		f.onKeys(true)
		defer f.onKeys(false)
	}
	view := &fakePolledView{}
	c := &sources.Chunk{Table: f.l.db.table, View: view, Versions: []int64{}}
	after := -1
	if q.After != nil {
		after, _ = strconv.Atoi(string(q.After))
	}
	for _, id := range slices.Sorted(maps.Keys(f.rows)) {
		asked := id > after
		if q.Keys != nil {
			asked = slices.ContainsFunc(q.Keys, func(k [][]byte) bool { return string(k[0]) == strconv.Itoa(id) })
		}
		if !asked {
			continue
		}
		if len(c.Rows) == 10 && q.Keys == nil {
			c.Next = sources.Cursor(c.Rows[9][0].Data)
			break
		}
		c.Rows = append(c.Rows, row(id, f.rows[id].status, ""))
		c.Versions = append(c.Versions, f.rows[id].version)
		view.mark = max(view.mark, f.rows[id].version)
	}
	return c, nil
}

type fakePolledView struct {
	fakeView
	mark int64
}

func (v *fakePolledView) SeesSource(json.RawMessage) (bool, error) { return true, nil }

func (v *fakePolledView) Passed(p sources.Position) (bool, error) {
	n, err := strconv.ParseInt(string(p), 10, 64)
	return n >= v.mark, err
}

func (f *fakePolled) verify(t *testing.T) *Result {
	t.Helper()
	o := f.l.options()
	o.Source = f
	var result *Result
	err := Run(t.Context(), o, func(r *Result) error {
		result = r
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestPolledUnderLoad: a table that is written to all the time, with rows that come, go and change faster than they are polled,
// verifies clean, and one of which a row was overlooked is found to differ.
func TestPolledUnderLoad(t *testing.T) {
	const rows = 200
	for _, lost := range []int{0, 77} {
		t.Run(fmt.Sprintf("lost %d", lost), func(t *testing.T) {
			f := newPolledFake(t, 30*time.Millisecond)
			f.lost = lost
			for id := 1; id <= rows; id++ {
				f.put(id, "new")
			}
			f.poll()
			random := rand.New(rand.NewPCG(1, 2))
			n := 0
			defer f.l.beside(func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				for range 5 {
					id := 1 + random.IntN(rows)
					if id == 77 {
						continue
					}
					if f.put(id, strings.Repeat("x", random.IntN(20))); random.IntN(4) == 0 {
						delete(f.rows, id)
					}
				}
				f.put(1, strconv.Itoa(n))
				if n++; n%10 == 0 {
					f.poll()
				}
				if n%30 == 0 {
					f.search()
				}
			})()
			var want []string
			if lost > 0 {
				want = []string{`missing {"id":77}`}
			}
			for range 5 {
				r := f.verify(t)
				check(t, r, want...)
				if r.Clean() != (lost == 0) {
					t.Errorf("clean: %t, %+v", r.Clean(), r)
				}
			}
		})
	}
}

// TestPolledBackAndForth: a row that was written and then written as it was before has not rested.
func TestPolledBackAndForth(t *testing.T) {
	f := newPolledPair(t, 0)
	f.put(2, "old") // so that it is looked at again
	n := 0
	f.onKeys = func(before bool) {
		if before {
			f.put(2, "as it was")
			f.poll()
			return
		}
		if n++; n <= rounds { // the topic is folded after this
			f.put(2, "other")
			f.poll()
		}
	}
	r := f.verify(t)
	check(t, r)
	if r.Moving != 1 || n != rounds+1 {
		t.Errorf("%d rows had moved after %d reads by key: %+v", r.Moving, n, r)
	}
}

// TestPolledDeletedAtTheEnd: a row that is deleted just before the last look is none that a search has overlooked.
func TestPolledDeletedAtTheEnd(t *testing.T) {
	f := newPolledPair(t, time.Second)
	f.put(2, "old") // so that it is looked at again
	looks := 0
	f.onKeys = func(before bool) {
		switch {
		case !before && looks < rounds: // the topic is folded after this
			f.put(2, "other")
			f.poll()
		case !before:
		case looks < rounds-1:
			looks++
			f.put(2, "as it was")
			f.poll()
		default:
			looks++
			delete(f.rows, 2)
		}
	}
	r := f.verify(t)
	check(t, r)
	if r.Moving != 1 {
		t.Errorf("%d rows had moved after %d looks: %+v", r.Moving, looks, r)
	}
}

// TestPolledDeletes: a row that is gone is waited for as long as it takes to be looked for, if that is not too long.
func TestPolledDeletes(t *testing.T) {
	for _, c := range []struct {
		every time.Duration
		why   string
	}{{time.Hour, "deleted rows are looked for every 1h0m0s"}, {0, "deleted rows are not looked for: reconcile.off"}} {
		f := newPolledPair(t, c.every)
		delete(f.rows, 2)
		r := f.verify(t)
		check(t, r, `extra {"id":2}`)
		if r.Findings[0].Why != c.why {
			t.Errorf("%q, want %q", r.Findings[0].Why, c.why)
		}
	}
	f := newPolledPair(t, time.Second)
	delete(f.rows, 2)
	var looks bytes.Buffer
	f.onKeys = func(before bool) {
		if fmt.Fprint(&looks, "."); before && looks.Len() > 2*rounds {
			f.search()
		}
	}
	if r := f.verify(t); len(r.Findings) > 0 || looks.Len() <= 2*rounds {
		t.Errorf("found %v after %d looks", findings(r), looks.Len()/2)
	}
}
