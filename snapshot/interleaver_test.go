package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
	"weft/sources/postgres/visibility"
)

// shelf is a datastore whose tables do not change: names and numbers of rows. Positions are numbers, and every view has been passed
// at those from passed on.
type shelf struct {
	mu      sync.Mutex
	tables  map[string]int
	begun   int // the first position that is in the stream
	passed  int
	fail    map[string]error // of ReadChunk, by table
	openErr error
	opened  []string // positions
	open    int      // readers
	watched bool
	reads   []sources.ChunkRequest
	atOnce  int
	most    int // reads at once
}

type shelfReader struct{ s *shelf }

func (s *shelf) OpenReader(_ context.Context, o sources.OpenOptions) (sources.Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = append(s.opened, string(o.Position))
	if n, err := strconv.Atoi(string(o.Position)); err != nil || n < s.begun {
		return nil, errors.Join(err, sources.ErrNotBegun)
	}
	if s.openErr != nil {
		return nil, s.openErr
	}
	s.open++
	return shelfReader{s}, nil
}

func (r shelfReader) Tables(context.Context) ([]string, error) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	var names []string
	for name := range r.s.tables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (r shelfReader) Split(_ context.Context, table string, n int) ([]sources.Cursor, error) {
	var cuts []sources.Cursor
	for i := 1; i < n; i++ {
		cuts = append(cuts, cursor(r.s.tables[table]*i/n))
	}
	return cuts, nil
}

func (r shelfReader) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	n, err := strconv.Atoi(string(p))
	return appendOrder(dst, n, i), err
}

func (r shelfReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	s := r.s
	s.mu.Lock()
	s.reads = append(s.reads, q)
	s.atOnce++
	s.most = max(s.most, s.atOnce)
	err, rows := s.fail[q.Table], s.tables[q.Table]
	s.mu.Unlock()
	time.Sleep(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.atOnce--
	if err != nil {
		return nil, err
	}
	t := *keyed
	t.Name = q.Table
	c := &sources.Chunk{Table: &t, View: &shelfView{s}}
	first, last := 0, rows
	if q.After != nil {
		first = keyOf(q.After)
	}
	if q.Until != nil {
		last = keyOf(q.Until)
	}
	for key := first + 1; key <= last; key++ {
		if q.Keys != nil {
			if slices.ContainsFunc(q.Keys, func(k [][]byte) bool { return string(k[0]) == strconv.Itoa(key) }) {
				c.Rows = append(c.Rows, row{version: 1}.values(key))
			}
			continue
		}
		if len(c.Rows) == min(q.Rows, 10) {
			c.Next = cursor(key - 1)
			break
		}
		c.Rows = append(c.Rows, row{version: 1}.values(key))
	}
	return c, nil
}

func (r shelfReader) Close() error {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.open--
	return nil
}

type shelfView struct{ s *shelf }

func (v *shelfView) Sees(stamp uint64) bool {
	return (&visibility.Snapshot{Xmin: 10, Xmax: 10}).Sees(stamp)
}
func (v *shelfView) SeesSource(json.RawMessage) (bool, error) { return true, nil }
func (v *shelfView) Horizon() uint64                          { return 10 }
func (v *shelfView) Passed(p sources.Position) (bool, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	n, err := strconv.Atoi(string(p))
	return n >= v.s.passed, err
}

// harness is the capture's loop around an Interleaver.
type harness struct {
	*Interleaver
	t        *testing.T
	s        *shelf
	position int
	state    *checkpoint.Snapshot
	written  map[string]int // rows by table and key
	causes   []sources.Cause
	woken    chan struct{}
}

func newHarness(t *testing.T, s *shelf, added bool, state *checkpoint.Snapshot) *harness {
	h := &harness{t: t, s: s, position: 1, state: state, written: map[string]int{}, woken: make(chan struct{}, 1)}
	h.Interleaver = New(Options{
		Source: s, Added: added, Parallel: 3, ChunkBytes: 1 << 20, RingBytes: 1 << 20, Logger: hclog.NewNullLogger(),
	}, state)
	h.OnWake(func() {
		select {
		case h.woken <- struct{}{}:
		default:
		}
	})
	if !s.watched { // once all harnesses are closed
		s.watched = true
		t.Cleanup(func() {
			if s.open != 0 {
				t.Errorf("%d readers are left open", s.open)
			}
		})
	}
	t.Cleanup(h.Close)
	return h
}

func (h *harness) Write(_ context.Context, c *sources.Change) error {
	h.causes = append(h.causes, c.Cause)
	if c.Op == sources.OpDelete {
		h.written[fmt.Sprintf("%s/%d is gone", c.Table, number(c.Before[0]))]++
		return nil
	}
	h.written[fmt.Sprintf("%s/%d", c.Table, number(c.After[0]))]++
	return nil
}

// until interleaves until the state is as wanted, and fails when Interleave does or nothing comes any more.
func (h *harness) until(what string, is func(*checkpoint.Snapshot) bool) error {
	h.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		if err := h.Interleave(h.t.Context(), cursor(h.position), h); err != nil {
			return err
		}
		if s, changed := h.State(); changed {
			h.state = s
			h.Committed()
			h.Wake()
		}
		if is(h.state) {
			return nil
		}
		select {
		case <-h.woken:
		case <-limit:
			h.t.Fatalf("%s does not come: %+v", what, h.state)
		}
	}
}

func ended(s *checkpoint.Snapshot) bool { return s != nil && s.EndedAt != nil }

func (h *harness) expect(tables map[string]int) {
	h.t.Helper()
	total := 0
	for name, n := range tables {
		for key := 1; key <= n; key++ {
			if got := h.written[fmt.Sprintf("%s/%d", name, key)]; got != 1 {
				h.t.Errorf("row %d of %s is written %d times", key, name, got)
			}
		}
		total += n
	}
	if len(h.written) != total {
		h.t.Errorf("%d rows are written, want %d", len(h.written), total)
	}
}

func TestInitialSnapshot(t *testing.T) {
	s := &shelf{tables: map[string]int{"a": 100, "b": 0, "c": 7}, begun: 2}
	h := newHarness(t, s, true, Initial())
	for range 5 { // before the stream has begun there is nothing to do
		if err := h.Interleave(t.Context(), cursor(1), h); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	h.position = 2
	h.Wake()
	if err := h.until("the end", ended); err != nil {
		t.Fatal(err)
	}
	h.expect(s.tables)
	if h.state.Reason != checkpoint.ReasonInitial || h.state.Rows() != 107 || !slices.Equal(slices.Sorted(slices.Values(h.state.Covered)), []string{"a", "b", "c"}) {
		t.Errorf("state: %+v", h.state)
	}
	if s.most < 2 || s.most > 3 {
		t.Errorf("%d reads at once, of 3", s.most)
	}
	// Nothing more is read, unless a table is added.
	again := newHarness(t, s, true, h.state)
	again.position = 2
	s.tables["d"] = 3
	if err := again.until("the added table", func(s *checkpoint.Snapshot) bool { return ended(s) && s.ID == 2 }); err != nil {
		t.Fatal(err)
	}
	again.expect(map[string]int{"d": 3})
	if again.state.Reason != checkpoint.ReasonTableAdded {
		t.Errorf("reason %s", again.state.Reason)
	}
}

// A snapshot waits for the stream, and goes on where it was after a restart.
func TestResume(t *testing.T) {
	s := &shelf{tables: map[string]int{"a": 300}, passed: 5}
	h := newHarness(t, s, true, Initial())
	if err := h.until("the beginning", func(s *checkpoint.Snapshot) bool { return len(s.Tables) == 1 }); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if err := h.Interleave(t.Context(), cursor(4), h); err != nil || len(h.written) > 0 {
		t.Fatalf("%d rows were written before the stream had passed them (%v)", len(h.written), err)
	}
	h.position = 5
	h.Wake()
	if err := h.until("some rows", func(s *checkpoint.Snapshot) bool { return s.Rows() > 50 }); err != nil {
		t.Fatal(err)
	}
	h.Close()
	rest := newHarness(t, s, true, h.state)
	rest.position, rest.written = 6, h.written
	if err := rest.until("the end", ended); err != nil {
		t.Fatal(err)
	}
	rest.expect(s.tables)
}

// A capture that ran before it made snapshots is not read all of a sudden.
func TestCapturedBefore(t *testing.T) {
	s := &shelf{tables: map[string]int{"a": 100}}
	h := newHarness(t, s, true, nil)
	if err := h.until("the entry", ended); err != nil {
		t.Fatal(err)
	}
	if len(h.written) > 0 || h.state.Reason != checkpoint.ReasonBefore {
		t.Errorf("%d rows were written; %+v", len(h.written), h.state)
	}
	s.tables["b"] = 5
	again := newHarness(t, s, true, h.state)
	if err := again.until("the added table", func(s *checkpoint.Snapshot) bool { return ended(s) && s.Reason == checkpoint.ReasonTableAdded }); err != nil {
		t.Fatal(err)
	}
	again.expect(map[string]int{"b": 5})
}

func TestRequests(t *testing.T) {
	s := &shelf{tables: map[string]int{"a": 20, "b": 30}}
	h := newHarness(t, s, false, nil)
	done := func(id string) func(*checkpoint.Snapshot) bool {
		return func(s *checkpoint.Snapshot) bool {
			return s != nil && slices.ContainsFunc(s.Handled, func(h checkpoint.Handled) bool { return h.Request == id })
		}
	}
	h.Ask(Request{ID: "one", Tables: []string{"b"}, Where: "x > 1"})
	h.Ask(Request{ID: "one", Tables: []string{"b"}, Where: "x > 1"})
	h.Ask(Request{ID: "two", Tables: []string{"a", "nosuch"}})
	h.Ask(Request{ID: "three"})
	h.Ask(Request{ID: "three", Cancel: true})
	h.Ask(Request{ID: "four", Tables: []string{"a"}})
	if err := h.until("all of them", done("four")); err != nil {
		t.Fatal(err)
	}
	h.expect(map[string]int{"a": 20, "b": 30})
	var got []string
	for _, one := range h.state.Handled {
		got = append(got, fmt.Sprintf("%s %d %v %v", one.Request, one.Rows, one.Cancelled, one.Error != ""))
		if one.Request == "two" && !strings.Contains(one.Error, "nosuch") {
			t.Errorf("refused with %q", one.Error)
		}
	}
	if fmt.Sprint(got) != "[three 0 true false one 30 false false two 0 false true four 20 false false]" {
		t.Errorf("handled %v", got)
	}
	for _, q := range s.reads {
		if (q.Where != "") != (q.Table == "b") {
			t.Errorf("read %+v", q)
		}
	}
	// After a restart a request that is done with is ignored.
	again := newHarness(t, s, false, h.state)
	again.Ask(Request{ID: "one", Tables: []string{"b"}})
	again.Ask(Request{ID: "five", Tables: []string{"b"}})
	if err := again.until("the new one", done("five")); err != nil {
		t.Fatal(err)
	}
	again.expect(map[string]int{"b": 30})
	// One that waits can be cancelled.
	again.Ask(Request{ID: "six"})
	again.Ask(Request{ID: "six", Cancel: true})
	if err := again.until("the cancelled one", done("six")); err != nil {
		t.Fatal(err)
	}
	again.expect(map[string]int{"b": 30})
}

// A request that is taken back at once is done with, also in a capture that has made no snapshot yet.
func TestCancelBeforeAnything(t *testing.T) {
	h := newHarness(t, &shelf{tables: map[string]int{"a": 20}}, false, nil)
	h.Ask(Request{ID: "one"})
	h.Ask(Request{ID: "one", Cancel: true})
	err := h.until("the entry", func(s *checkpoint.Snapshot) bool { return s != nil && len(s.Handled) == 1 })
	if err != nil {
		t.Fatal(err)
	}
	if one := h.state.Handled[0]; one.Request != "one" || !one.Cancelled || len(h.written) > 0 {
		t.Errorf("handled %+v, %d rows are written", one, len(h.written))
	}
}

func TestCancel(t *testing.T) {
	s := &shelf{tables: map[string]int{"a": 100, "b": 100}, passed: 9}
	h := newHarness(t, s, true, Initial())
	if err := h.until("the beginning", func(s *checkpoint.Snapshot) bool { return len(s.Tables) == 2 }); err != nil {
		t.Fatal(err)
	}
	h.Ask(Request{ID: "1", Cancel: true})
	if err := h.until("the end", ended); err != nil {
		t.Fatal(err)
	}
	if !h.state.Cancelled || len(h.written) > 0 || len(h.state.Covered) != 2 {
		t.Errorf("%d rows are written; %+v", len(h.written), h.state)
	}
}

func TestFailures(t *testing.T) {
	lost, refused := errors.New("the connection is lost"), sources.Fatal("correct it", "syntax error")
	s := &shelf{tables: map[string]int{"a": 100, "b": 5}, fail: map[string]error{"a": lost}}
	h := newHarness(t, s, true, Initial())
	if err := h.until("an error", ended); !errors.Is(err, lost) {
		t.Errorf("a lost connection ends with %v", err)
	}
	s.fail["a"] = refused
	h = newHarness(t, s, true, Initial())
	if err := h.until("an error", ended); !errors.Is(err, refused) {
		t.Errorf("what somebody must mend ends with %v", err)
	}
	// Somebody's request that is wrong does not stop the capture.
	h = newHarness(t, s, false, nil)
	h.Ask(Request{ID: "x", Tables: []string{"a"}, Where: "("})
	if err := h.until("the refusal", func(s *checkpoint.Snapshot) bool { return s != nil && len(s.Handled) == 1 }); err != nil {
		t.Fatal(err)
	}
	if h.state.Error == "" || h.state.Handled[0].Error == "" {
		t.Errorf("state %+v", h.state)
	}
	s.openErr = lost
	h = newHarness(t, s, true, Initial())
	if err := h.until("an error", ended); !errors.Is(err, lost) {
		t.Errorf("a reader that does not open ends with %v", err)
	}
}

func TestRate(t *testing.T) {
	l := &limiter{perSecond: 1000}
	began := time.Now()
	for range 4 {
		if err := l.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.spend(50)
	}
	if took := time.Since(began); took < 145*time.Millisecond {
		t.Errorf("200 rows at 1000 a second took %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait that is stopped gives %v", err)
	}
}
