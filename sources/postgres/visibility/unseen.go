package visibility

import (
	"fmt"
	"slices"
)

const (
	// maxFresh bounds how many ids a Tracker holds one by one, 8 bytes each, until it learns a snapshot.
	maxFresh = 64 << 10
	// maxAlso bounds the ids that an Unseen lists one by one.
	maxAlso = 32
)

// Unseen is a set of transactions in a form that stays small: it holds every one that was added and that no snapshot is known
// to see, and may hold others of the same time. The zero value is empty.
type Unseen struct {
	// From and To bound a range, both inclusive; zero where there is none.
	From uint64 `json:"from,omitempty"`
	To   uint64 `json:"to,omitempty"`
	// Also are ids outside of the range, ascending.
	Also []uint64 `json:"also,omitempty"`
}

func (u *Unseen) Empty() bool { return u.To == 0 && len(u.Also) == 0 }

// Check refuses what no Tracker makes.
func (u *Unseen) Check() error {
	switch {
	case (u.From == 0) != (u.To == 0) || u.From > u.To:
		return fmt.Errorf("unseen.from and unseen.to must be a range: they are %d and %d", u.From, u.To)
	case !slices.IsSorted(u.Also):
		return fmt.Errorf("unseen.also must ascend")
	case len(u.Also) > maxAlso:
		return fmt.Errorf("unseen.also holds %d transactions, and may hold %d", len(u.Also), maxAlso)
	}
	return nil
}

// Holds tells whether the set holds a transaction.
func (u *Unseen) Holds(xid uint64) bool {
	if u.From <= xid && xid <= u.To && u.To != 0 {
		return true
	}
	_, found := slices.BinarySearch(u.Also, xid)
	return found
}

// Settled tells whether a snapshot sees all of the set.
func (u *Unseen) Settled(s *Snapshot) bool {
	if u.To != 0 {
		if u.To >= s.Xmax {
			return false
		}
		if i, _ := slices.BinarySearch(s.Xip, u.From); i < len(s.Xip) && s.Xip[i] <= u.To {
			return false
		}
	}
	for _, xid := range u.Also {
		if !s.Sees(xid) {
			return false
		}
	}
	return true
}

// Tracker knows which of the transactions that a stream has brought are not yet known to be visible. It holds them one by one
// between two snapshots, so that one that merely runs meanwhile is not among them; beyond maxFresh it falls back to a range.
type Tracker struct {
	known Snapshot // the last one learned
	// old are below known.Xmax, ascending, and not seen by it. fresh are at or above it, in the order of the stream.
	old, fresh []uint64
	low, high  uint64 // of fresh
	// rest is the range of what was not kept one by one.
	rest Unseen
}

// Resume begins with what a position held.
func (t *Tracker) Resume(u Unseen) {
	t.rest = Unseen{From: u.From, To: u.To}
	t.old = slices.Clone(u.Also)
}

// Add notes a transaction. Adding one again does nothing worse than to hold it twice.
func (t *Tracker) Add(xid uint64) {
	if t.known.Xmax != 0 && xid < t.known.Xmax {
		if t.known.Sees(xid) {
			return
		}
		if i, found := slices.BinarySearch(t.old, xid); !found {
			t.old = slices.Insert(t.old, i, xid)
		}
		return
	}
	if len(t.fresh) >= maxFresh {
		t.rest.cover(t.low, t.high)
		t.fresh = t.fresh[:0]
	}
	if len(t.fresh) == 0 {
		t.low, t.high = xid, xid
	}
	t.low, t.high = min(t.low, xid), max(t.high, xid)
	t.fresh = append(t.fresh, xid)
}

// AddRunning notes all that had not ended at s and had begun before the transaction next did.
func (t *Tracker) AddRunning(s Snapshot, next uint64) {
	for _, xid := range s.Xip {
		t.Add(xid)
	}
	for xid := s.Xmax; xid < next; xid++ {
		t.Add(xid)
	}
}

// Learn takes in a snapshot that is newer than the one before.
func (t *Tracker) Learn(s Snapshot) {
	t.known = s
	seen := func(xid uint64) bool { return s.Sees(xid) }
	t.old = slices.DeleteFunc(t.old, seen)
	t.fresh = slices.DeleteFunc(t.fresh, seen)
	if t.rest.To != 0 {
		for _, xid := range s.Xip {
			if t.rest.From <= xid && xid <= t.rest.To {
				t.old = append(t.old, xid)
			}
		}
		t.rest.From = max(t.rest.From, s.Xmax)
		if t.rest.From > t.rest.To {
			t.rest = Unseen{}
		}
	}
	t.fresh = slices.DeleteFunc(t.fresh, func(xid uint64) bool {
		if xid < s.Xmax {
			t.old = append(t.old, xid)
		}
		return xid < s.Xmax
	})
	if len(t.fresh) > 0 {
		t.low, t.high = slices.Min(t.fresh), slices.Max(t.fresh)
	}
	slices.Sort(t.old)
	t.old = slices.Compact(t.old)
}

// Empty tells whether everything that was added is known to be visible.
func (t *Tracker) Empty() bool { return len(t.old) == 0 && len(t.fresh) == 0 && t.rest.To == 0 }

// Unseen returns what is not known to be visible: nil for nothing.
func (t *Tracker) Unseen() *Unseen {
	if t.Empty() {
		return nil
	}
	u := &Unseen{From: t.rest.From, To: t.rest.To}
	if u.To == 0 && len(t.old)+len(t.fresh) <= maxAlso {
		u.Also = slices.Concat(t.old, t.fresh)
		slices.Sort(u.Also)
		u.Also = slices.Compact(u.Also)
		return u
	}
	if len(t.fresh) > 0 {
		u.cover(t.low, t.high)
	}
	also := t.old
	if len(also) > maxAlso {
		u.cover(also[maxAlso], also[len(also)-1])
		also = also[:maxAlso]
	}
	u.Also = slices.Clone(also)
	return u
}

// cover widens the range.
func (u *Unseen) cover(from, to uint64) {
	if u.To != 0 {
		from, to = min(u.From, from), max(u.To, to)
	}
	u.From, u.To = from, to
}
