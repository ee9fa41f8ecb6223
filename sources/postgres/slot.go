package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// plugin is the output plugin of our slots, which every server has.
const plugin = "pgoutput"

// slot is a replication slot as pg_replication_slots shows it.
type slot struct {
	name, kind, plugin, database string
	activePID                    int32 // 0: not in use
	restart, confirmed           lsn
	walStatus                    string
	invalidation                 string // since PostgreSQL 16
}

// readSlot returns nil where there is no slot of that name.
func readSlot(ctx context.Context, conn *pgx.Conn, name string) (*slot, error) {
	s := slot{name: name}
	var restart, confirmed string
	// Through JSON, since the columns on invalidation are not the same from version to version: 14 and 15 have none,
	// 16 has conflicting, 17 has invalidation_reason too.
	err := conn.QueryRow(ctx, `
		SELECT slot_type, coalesce(plugin::text, ''), coalesce(database::text, ''), coalesce(active_pid, 0),
			coalesce(restart_lsn, '0/0')::text, coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(wal_status, ''),
			coalesce(to_jsonb(s) ->> 'invalidation_reason',
				CASE WHEN to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict' END, '')
		FROM pg_replication_slots s WHERE slot_name = $1`, name).
		Scan(&s.kind, &s.plugin, &s.database, &s.activePID, &restart, &confirmed, &s.walStatus, &s.invalidation)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	if s.restart, err = parseLSN(restart); err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	if s.confirmed, err = parseLSN(confirmed); err != nil {
		return nil, fmt.Errorf("read slot %s: %w", name, err)
	}
	return &s, nil
}

// dead says why nothing can be read from the slot ever again, or "".
func (s *slot) dead() string {
	switch {
	case s.invalidation != "":
		return "it was invalidated: " + s.invalidation
	case s.walStatus == "lost":
		return "it is lost: it needed more of the server's log than max_slot_wal_keep_size keeps"
	case s.restart == 0:
		return "the server has dropped the log that it needs"
	}
	return ""
}

// check refuses a slot that is another's.
func (s *slot) check(database string) error {
	const remedy = "name another slot in the capture's source, or drop this one: SELECT pg_drop_replication_slot('%s');"
	switch {
	case s.kind != "logical" || s.plugin != plugin:
		return sources.Fatal(fmt.Sprintf(remedy, s.name), "slot %s is a %s slot of plugin %q, not a logical one of %s",
			s.name, s.kind, s.plugin, plugin)
	case s.database != database:
		return sources.Fatal(fmt.Sprintf(remedy, s.name), "slot %s belongs to database %q, and url leads to %q",
			s.name, s.database, database)
	}
	return nil
}

// slotWait is how long Open waits for a slot's former reader to end: the server notices a closed connection within
// milliseconds.
const slotWait = 3 * time.Second

// readFreeSlot reads a slot and waits a little for it to be free. It returns nil where there is none.
func readFreeSlot(ctx context.Context, conn *pgx.Conn, name, database string) (*slot, error) {
	deadline := time.Now().Add(slotWait)
	for {
		s, err := readSlot(ctx, conn, name)
		if err != nil || s == nil {
			return nil, err
		}
		if err := s.check(database); err != nil {
			return nil, err
		}
		if s.activePID == 0 {
			return s, nil
		}
		if time.Now().After(deadline) {
			return nil, slotInUse(name, s.activePID)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// slotInUse is worth a retry: the owner may be a daemon that died, whose connection the server has yet to give up.
func slotInUse(name string, pid int32) error {
	return fmt.Errorf("slot %s is in use by server process %d: if that is a daemon that died, the server frees the slot within "+
		"wal_sender_timeout; if it is another reader, each needs a slot of its own", name, pid)
}

// createSlot makes the slot and returns its consistent point. The server first waits for every transaction that is
// running to end; when ctx ends meanwhile, it removes the half-made slot.
func createSlot(ctx context.Context, conn *pgx.Conn, name string) (lsn, error) {
	var point string
	err := conn.QueryRow(ctx, "SELECT lsn::text FROM pg_create_logical_replication_slot($1, $2)", name, plugin).Scan(&point)
	switch codeOf(err) {
	case codeNoRight:
		return 0, sources.Fatal("ALTER ROLE "+quoteIdent(conn.Config().User)+" REPLICATION;", "create slot %s: %w", name, err)
	case codeTooManySlots:
		return 0, sources.Fatal("raise max_replication_slots and restart the server, or drop a slot that nobody needs "+
			"(SELECT * FROM pg_replication_slots)", "create slot %s: %w", name, err)
	}
	if err != nil {
		return 0, fmt.Errorf("create slot %s: %w", name, err)
	}
	return parseLSN(point)
}

func dropSlot(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name); err != nil {
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}
