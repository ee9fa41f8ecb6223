package visibility

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, text := range []string{"10:20:10,14,15", "795:799:795,798", "12:12:", "4294967300:4294967310:4294967300"} {
		s, err := Parse(text)
		if err != nil || s.String() != text {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "10", "10:20", "0:1:", "20:10:", "10:20:9", "10:20:20", "a:20:", "10:b:", "10:20:c",
		"10:20:11,,12", "-1:20:", "10:99999999999999999999:"} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%q: no error but %v", text, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10:20:10,14,15")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		if s.Sees(s.Xmax) || !s.Sees(s.Xmin-1) || !slices.IsSorted(s.Xip) {
			t.Errorf("%q: %v", text, s)
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q became %s, then %s (%v)", text, s, again, err)
		}
	})
}

func TestSees(t *testing.T) {
	s, err := Parse("10:20:10,14,15")
	if err != nil {
		t.Fatal(err)
	}
	for xid, want := range map[uint64]bool{0: true, 9: true, 10: false, 11: true, 13: true, 14: false, 15: false, 16: true, 19: true, 20: false,
		math.MaxUint64: false} {
		if got := s.Sees(xid); got != want {
			t.Errorf("sees %d: %v", xid, got)
		}
	}
}

func TestWiden(t *testing.T) {
	const epoch = 1 << 32
	for _, c := range []struct {
		xid  uint32
		near uint64
		want uint64
	}{
		{820, 830, 820},
		{830, 820, 830},
		{3, 3, 3},
		{math.MaxUint32, 5, math.MaxUint32}, // nothing is before the first epoch
		{7, epoch - 3, epoch + 7},           // the stream is ahead of what is known, over the wrap
		{math.MaxUint32, epoch + 2, epoch - 1},
		{3, 5*epoch + 10, 5*epoch + 3},
		{math.MaxUint32, 5*epoch + 10, 5*epoch - 1},
		{10, 5*epoch - 1, 5*epoch + 10},
	} {
		if got := Widen(c.xid, c.near); got != c.want {
			t.Errorf("Widen(%d, %d) = %d, want %d", c.xid, c.near, got, c.want)
		}
	}
	random := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		near := epoch + random.Uint64N(1<<40)
		full := near + random.Uint64N(1<<31)
		if random.IntN(2) == 0 {
			full = near - random.Uint64N(1<<31)
		}
		if got := Widen(uint32(full), near); got != full {
			t.Fatalf("Widen(%d, %d) = %d, want %d", uint32(full), near, got, full)
		}
	}
}

// server is transactions as PostgreSQL has them: one gets an id, then its commit is streamed, then it is visible; or it ends
// without having been streamed.
type server struct {
	random  *rand.Rand
	next    uint64
	running []uint64 // not streamed
	waiting []uint64 // streamed, and not visible
}

func (v *server) take(from *[]uint64) uint64 {
	i := v.random.IntN(len(*from))
	xid := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return xid
}

func (v *server) snapshot() Snapshot {
	all := slices.Sorted(slices.Values(slices.Concat(v.running, v.waiting)))
	s := Snapshot{Xmax: v.next}
	// The server's xmax is behind the last id that ended, so that the newest that run may be above it.
	for len(all) > 0 && all[len(all)-1] == s.Xmax-1 {
		s.Xmax--
		all = all[:len(all)-1]
	}
	s.Xmin, s.Xip = s.Xmax, all
	if len(all) > 0 {
		s.Xmin = all[0]
	}
	return s
}

// TestTracker: what is unseen is never forgotten, over snapshots and restarts, and everything is forgotten in the end.
func TestTracker(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 7))
		v := &server{random: random, next: 3 + random.Uint64N(2)*(1<<32-200)}
		stall := random.IntN(3) // how rarely what was streamed becomes visible
		var tr Tracker
		exact := true // no restart so far, which leaves a range behind
		for range 400 {
			switch op := random.IntN(10); {
			case op < 4:
				v.running = append(v.running, v.next)
				v.next++
			case op < 7 && len(v.running) > 0:
				xid := v.take(&v.running)
				if random.IntN(10) > 0 { // else it is rolled back
					v.waiting = append(v.waiting, xid)
					tr.Add(xid)
				}
			case op < 9 && len(v.waiting) > 0 && random.IntN(stall+1) == 0:
				v.take(&v.waiting)
			case random.IntN(5) == 0:
				s := v.snapshot()
				tr.Learn(s)
				if want := slices.Sorted(slices.Values(v.waiting)); exact && tr.rest.To == 0 && !slices.Equal(slices.Sorted(slices.Values(slices.Concat(tr.old, tr.fresh))), want) {
					t.Fatalf("seed %d: after %s, %v and %v are unseen, want %v", seed, s, tr.old, tr.fresh, want)
				}
			case random.IntN(20) == 0: // a restart
				text, err := json.Marshal(tr.Unseen())
				if err != nil {
					t.Fatal(err)
				}
				var u Unseen
				if err := json.Unmarshal(text, &u); err != nil {
					t.Fatal(err)
				}
				tr, exact = Tracker{}, false
				tr.Resume(u)
			}
			u := tr.Unseen()
			if (u == nil) != tr.Empty() {
				t.Fatalf("seed %d: unseen %v, empty %v", seed, u, tr.Empty())
			}
			if u == nil {
				u = &Unseen{}
			}
			if err := u.Check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for _, xid := range v.waiting {
				if !u.Holds(xid) {
					t.Fatalf("seed %d: transaction %d was streamed, is not visible, and is not in %+v", seed, xid, *u)
				}
			}
			s := v.snapshot()
			settled := true
			for _, xid := range slices.Concat(v.running, v.waiting) {
				settled = settled && !u.Holds(xid)
			}
			if got := u.Settled(&s); got != settled {
				t.Fatalf("seed %d: %+v is settled by %s: %v, want %v", seed, *u, s, got, settled)
			}
		}
		v.running, v.waiting = nil, nil
		tr.Learn(v.snapshot())
		if !tr.Empty() {
			t.Fatalf("seed %d: all is visible, and %+v is unseen", seed, *tr.Unseen())
		}
	}
}

// TestTrackerBounds: neither memory nor the position's form grow with the number of transactions.
func TestTrackerBounds(t *testing.T) {
	var tr Tracker
	tr.Learn(Snapshot{Xmin: 100, Xmax: 100})
	for xid := uint64(200_100); xid >= 101; xid-- {
		tr.Add(xid)
	}
	if len(tr.fresh) > maxFresh {
		t.Errorf("%d ids are held", len(tr.fresh))
	}
	if text, _ := json.Marshal(tr.Unseen()); string(text) != `{"from":101,"to":200100}` {
		t.Errorf("unseen: %s", text)
	}
	// A thousand are stuck, and other streamed ones come after.
	s := Snapshot{Xmin: 1000, Xmax: 200_101}
	for xid := uint64(1000); xid < 3000; xid += 2 {
		s.Xip = append(s.Xip, xid)
	}
	tr.Learn(s)
	tr.Add(300_000)
	u := tr.Unseen()
	if text, _ := json.Marshal(u); len(text) > 400 || len(u.Also) != maxAlso || u.From != 1064 || u.To != 300_000 {
		t.Errorf("unseen: %s", text)
	}
	for _, xid := range append(s.Xip, 300_000) {
		if !u.Holds(xid) {
			t.Fatalf("%d is not held by %+v", xid, *u)
		}
	}
}

// TestTrackerRunning: a transaction that runs and has streamed nothing does not count, but for AddRunning's.
func TestTrackerRunning(t *testing.T) {
	var tr Tracker
	tr.Learn(Snapshot{Xmin: 100, Xmax: 110, Xip: []uint64{100}})
	tr.Add(105) // seen already
	if !tr.Empty() {
		t.Errorf("unseen: %+v", *tr.Unseen())
	}
	tr.Add(112)
	tr.Learn(Snapshot{Xmin: 100, Xmax: 120, Xip: []uint64{100, 111}})
	if !tr.Empty() {
		t.Errorf("unseen: %+v", *tr.Unseen())
	}
	tr.AddRunning(Snapshot{Xmin: 100, Xmax: 130, Xip: []uint64{100, 111}}, 132)
	if text, _ := json.Marshal(tr.Unseen()); string(text) != `{"also":[100,111,130,131]}` {
		t.Errorf("unseen: %s", text)
	}
}

func TestUnseenCheck(t *testing.T) {
	for want, u := range map[string]Unseen{
		"must be a range": {From: 5}, "range": {From: 5, To: 4}, "must ascend": {Also: []uint64{2, 1}}, "may hold": {Also: make([]uint64, maxAlso+1)},
	} {
		if err := u.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", u, err, want)
		}
	}
}

// BenchmarkTracker is a batch of 64 transactions and its position.
func BenchmarkTracker(b *testing.B) {
	var tr Tracker
	tr.Learn(Snapshot{Xmin: 100, Xmax: 100})
	xid := uint64(100)
	for b.Loop() {
		for range 64 {
			tr.Add(xid)
			xid++
		}
		_ = tr.Unseen()
		if xid%50_000 < 64 {
			tr.Learn(Snapshot{Xmin: xid, Xmax: xid})
		}
	}
}
