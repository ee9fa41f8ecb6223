package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// slot is about the capture's own slot, and whether it goes on from the checkpoint. repl may be nil.
func (k *checker) slot(ctx context.Context, repl *pgconn.PgConn) error {
	const subject = "slot"
	s := k.found.slot
	if s != nil {
		if err := s.check(k.found.database); err != nil {
			k.refuse(subject, err)
			return nil
		}
	}
	if err := k.gap(ctx, repl); err != nil {
		k.refuse(subject, err)
		return nil
	}
	if s == nil {
		return k.newSlot(ctx)
	}
	if s.dead() != "" { // and no checkpoint to say whether it matters
		k.add(sources.Problem, subject, "", "%s cannot be read any more: %s", s.name, s.dead())
		return nil
	}
	var retained, safe *int64
	err := k.conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, safe_wal_size
		FROM pg_replication_slots WHERE slot_name = $1`, s.name).Scan(&retained, &safe)
	if err != nil {
		return fmt.Errorf("read slot %s: %w", s.name, err)
	}
	text := fmt.Sprintf("%s holds %s of WAL", s.name, size(value(retained)))
	if safe != nil {
		text += fmt.Sprintf(", and is invalidated after another %s", size(max(0, *safe)))
	}
	if s.activePID != 0 {
		text += fmt.Sprintf("; server process %d reads from it", s.activePID)
	}
	if s.walStatus == "unreserved" {
		k.add(sources.Warning, subject, "ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf(); -- as much as the disk can spare; "+
			"and let the capture run", "%s: the server may drop it at its next checkpoint", text)
		return nil
	}
	k.ok(subject, "%s", text)
	return nil
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// gap compares the checkpoint with the slot. While somebody reads from the slot it moves, and so does the checkpoint:
// then a comparison would mean nothing.
func (k *checker) gap(ctx context.Context, repl *pgconn.PgConn) error {
	if k.o.PositionUnknown || repl == nil || k.found.slot != nil && k.found.slot.activePID != 0 {
		return nil
	}
	var p *position
	if len(k.o.Position) > 0 {
		decoded, err := decodePosition(k.o.Position)
		if err != nil {
			return err
		}
		p = &decoded
	}
	if err := k.found.readHistory(ctx, repl, p); err != nil {
		return err
	}
	if p != nil && p.Replace {
		return nil // the slot of this name is about to be dropped
	}
	return findGap(p, k.found)
}

// newSlot is about a slot that is yet to be made.
func (k *checker) newSlot(ctx context.Context) error {
	if s := k.settings; s.slotsUsed >= s.slots {
		k.add(sources.Problem, "slot", fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; -- and restart the server; or drop a slot that "+
			"nobody needs: SELECT * FROM pg_replication_slots;", s.slots+10),
			"%s cannot be made: all of max_replication_slots = %d are taken", k.config.Slot, s.slots)
		k.findings[len(k.findings)-1].Blocks = true
		return nil
	}
	k.ok("slot", "%s does not exist; weft run makes it (%d of max_replication_slots = %d are taken)", k.config.Slot,
		k.settings.slotsUsed, k.settings.slots)
	// Making it waits for every transaction that is running.
	var seconds float64
	var what string
	err := k.conn.QueryRow(ctx, `
		SELECT coalesce(extract(epoch FROM now() - began), 0)::float8, what FROM (
			SELECT prepared AS began, 'prepared transaction ' || gid AS what FROM pg_prepared_xacts
			UNION ALL SELECT xact_start, 'the transaction of server process ' || pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL
			UNION ALL SELECT NULL, '') t
		ORDER BY began NULLS LAST LIMIT 1`).Scan(&seconds, &what)
	if err != nil {
		return fmt.Errorf("read the running transactions: %w", err)
	}
	if began := time.Duration(seconds) * time.Second; began >= time.Minute {
		k.add(sources.Warning, "slot", "end it", "%s has run for %s, and the server makes the slot only once it has ended", what, began)
	}
	return nil
}
