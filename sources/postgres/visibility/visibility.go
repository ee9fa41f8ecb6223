// Package visibility tells which transactions a PostgreSQL snapshot sees: the text form of pg_snapshot, 32-bit transaction
// ids widened to 64 bits, and the set of transactions that a stream has brought and no snapshot is known to see yet. It does
// no I/O; what a transaction id means to a capture is the business of the package postgres.
package visibility

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is a pg_snapshot: which transactions, by their 64-bit ids, had ended when it was taken.
type Snapshot struct {
	// Xmin is the lowest id that had not ended, Xmax the first that was not yet looked at. Xip, ascending, are the top-level ids
	// from Xmin up to below Xmax that had not ended.
	Xmin, Xmax uint64
	Xip        []uint64
}

// Parse reads the text form XMIN:XMAX:XIP,XIP,...
func Parse(text string) (Snapshot, error) {
	var s Snapshot
	low, rest, ok := strings.Cut(text, ":")
	high, list, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return s, fmt.Errorf("%q is no pg_snapshot such as 10:20:10,14", text)
	}
	var err error
	if s.Xmin, err = strconv.ParseUint(low, 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("pg_snapshot %q: xmin: %w", text, err)
	}
	if s.Xmax, err = strconv.ParseUint(high, 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("pg_snapshot %q: xmax: %w", text, err)
	}
	if s.Xmin == 0 || s.Xmax < s.Xmin {
		return Snapshot{}, fmt.Errorf("pg_snapshot %q: want 0 < xmin <= xmax", text)
	}
	for list != "" {
		var one string
		one, list, _ = strings.Cut(list, ",")
		xid, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			return Snapshot{}, fmt.Errorf("pg_snapshot %q: xip: %w", text, err)
		}
		if xid < s.Xmin || xid >= s.Xmax {
			return Snapshot{}, fmt.Errorf("pg_snapshot %q: %d is not between xmin and xmax", text, xid)
		}
		s.Xip = append(s.Xip, xid)
	}
	if !slices.IsSorted(s.Xip) {
		slices.Sort(s.Xip)
	}
	return s, nil
}

func (s Snapshot) String() string {
	b := strconv.AppendUint(nil, s.Xmin, 10)
	b = strconv.AppendUint(append(b, ':'), s.Xmax, 10)
	b = append(b, ':')
	for i, xid := range s.Xip {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, xid, 10)
	}
	return string(b)
}

// Sees tells whether the transaction had ended when the snapshot was taken: what it committed is visible.
func (s *Snapshot) Sees(xid uint64) bool {
	if xid < s.Xmin {
		return true
	}
	if xid >= s.Xmax {
		return false
	}
	_, running := slices.BinarySearch(s.Xip, xid)
	return !running
}

// Widen completes the 32-bit id of a transaction that is less than 2^31 transactions away from near. The server sees to it
// that no two ids that matter at a time are further apart.
func Widen(xid uint32, near uint64) uint64 {
	distance := int64(int32(xid - uint32(near)))
	if distance < 0 && near < uint64(-distance) {
		return uint64(xid) // nothing is before the first epoch
	}
	return near + uint64(distance)
}
