package postgres

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources/postgres/visibility"
)

// seenInterval is how often a snapshot is read while a transaction that was streamed is not known to be visible.
const seenInterval = time.Second

// unseen holds the transactions that the stream has brought and that no snapshot is known to see. A commit is decoded from the
// log before it is visible, with a stalled synchronous standby long before; whoever reads the table meanwhile reads what was
// there before it. So positions carry them, also while nobody reads.
type unseen struct {
	mu      sync.Mutex
	tracker visibility.Tracker
	near    uint64 // an id of these times, by which 32-bit ones are widened
}

// add notes that a transaction is about to be returned, and widens its id.
func (u *unseen) add(xid uint32) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	stamp := visibility.Widen(xid, u.near)
	u.near = max(u.near, stamp)
	u.tracker.Add(stamp)
	return stamp
}

// addRunning notes all that s shows as running, and what has begun since and before the transaction next.
func (u *unseen) addRunning(s visibility.Snapshot, next uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tracker.AddRunning(s, next)
}

// resume begins with what a position held, nil for nothing, and the snapshot of now.
func (u *unseen) resume(from *visibility.Unseen, s visibility.Snapshot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if from != nil {
		u.tracker.Resume(*from)
	}
	u.near = s.Xmax
	u.tracker.Learn(s)
}

func (u *unseen) learn(s visibility.Snapshot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.near = max(u.near, s.Xmax)
	u.tracker.Learn(s)
}

func (u *unseen) empty() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tracker.Empty()
}

// now is what a position carries; nil for nothing.
func (u *unseen) now() *visibility.Unseen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tracker.Unseen()
}

// look reads a snapshot while there is something to learn from it. That it cannot be read is found out by whoever needs the
// server: until then what is unseen stays so.
func (s *source) look(ctx context.Context) {
	if s.unseen.empty() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, meterInterval)
	defer cancel()
	var snapshot visibility.Snapshot
	err := s.catalog.do(ctx, func(conn *pgx.Conn) (err error) {
		snapshot, err = readSnapshot(ctx, conn)
		return err
	})
	if err == nil {
		s.unseen.learn(snapshot)
	}
}

func readSnapshot(ctx context.Context, conn *pgx.Conn) (visibility.Snapshot, error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text); err != nil {
		return visibility.Snapshot{}, fmt.Errorf("read a snapshot: %w", err)
	}
	return visibility.Parse(text)
}

// assignXID makes a transaction that does nothing and returns its id: whatever has begun to write before has a lower one.
func assignXID(ctx context.Context, conn *pgx.Conn) (uint64, error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_current_xact_id()::text").Scan(&text); err != nil {
		return 0, fmt.Errorf("take a transaction id: %w", err)
	}
	xid, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("take a transaction id: %w", err)
	}
	return xid, nil
}
