package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// Check implements sources.Checker. It looks with the same eyes as Open, which would stop at the first thing that it
// refuses, and tells in advance of what only making the publication and the slot would show.
func (c Config) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	c = c.withDefaults(o.Capture)
	k := &checker{config: c, o: o}
	if err := c.Validate(); err != nil {
		return append(k.findings, sources.Found("source", sources.Fatal("correct the capture's source", "%w", err)))
	}
	conn, err := connectSQL(ctx, c)
	if err != nil {
		return append(k.findings, sources.Found("server", err))
	}
	defer func() { _ = closeConn(conn) }() // nothing hangs on how it ends
	k.conn = conn
	k.run(ctx)
	return k.findings
}

// checker gathers the findings of one capture.
type checker struct {
	config   Config
	o        sources.CheckOptions
	conn     *pgx.Conn
	findings []sources.Finding

	found    continuation
	settings settings
}

func (k *checker) add(level sources.Level, subject, remedy, format string, args ...any) {
	k.findings = append(k.findings, sources.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (k *checker) ok(subject, format string, args ...any) {
	k.add(sources.OK, subject, "", format, args...)
}

// refuse adds what Open would return.
func (k *checker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, err))
}

func (k *checker) run(ctx context.Context) {
	var err error
	k.found = continuation{slotName: k.config.Slot, publication: k.config.Publication}
	if k.found.server, err = readServer(ctx, k.conn); err != nil {
		k.refuse("server", err)
		return
	}
	if err := k.found.check(); err != nil {
		k.refuse("server", err)
		if k.found.version < oldestServer || k.found.standby {
			return // nothing else that is there would be of use
		}
	} else {
		k.ok("server", "PostgreSQL %s, database %s, wal_level logical", k.found.versionName, k.found.database)
	}
	if k.settings, err = readSettings(ctx, k.conn); err != nil {
		k.refuse("server", err)
		return
	}
	k.retention()
	if k.found.slot, err = readSlot(ctx, k.conn, k.config.Slot); err != nil {
		k.refuse("slot", err)
		return
	}
	repl := k.replication(ctx)
	if repl != nil {
		defer func() { _ = closeConn(repl) }() // nothing hangs on how it ends
	}
	if err := k.tables(ctx); err != nil {
		k.refuse("tables", err)
		return
	}
	if err := k.slot(ctx, repl); err != nil {
		k.refuse("slot", err)
	}
	if err := k.orphans(ctx); err != nil {
		k.refuse("slots", err)
	}
}

// settings are those of the server that bound what a capture may take, and what of it is taken.
type settings struct {
	senders, sendersUsed int
	slots, slotsUsed     int
	keepMiB              int64  // max_slot_wal_keep_size; -1 for no bound
	maxWALMiB            int64  // max_wal_size
	idleTimeout          string // idle_replication_slot_timeout, since PostgreSQL 18; 0 for none
}

func readSettings(ctx context.Context, conn *pgx.Conn) (s settings, err error) {
	err = conn.QueryRow(ctx, `
		SELECT current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication),
			current_setting('max_replication_slots')::int4, (SELECT count(*) FROM pg_replication_slots),
			(SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
			(SELECT setting::int8 FROM pg_settings WHERE name = 'max_wal_size'),
			coalesce(current_setting('idle_replication_slot_timeout', true), '0')`).
		Scan(&s.senders, &s.sendersUsed, &s.slots, &s.slotsUsed, &s.keepMiB, &s.maxWALMiB, &s.idleTimeout)
	if err != nil {
		err = fmt.Errorf("read the server's settings: %w", err)
	}
	return s, err
}

const mib, gib = 1 << 20, 1 << 30

// size is for people.
func size(bytes int64) string {
	switch {
	case bytes < mib:
		return fmt.Sprintf("%d KiB", bytes>>10)
	case bytes < gib:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/gib)
}

// leastKeepMiB is how much a slot should be allowed to hold, so that a stop of some minutes does not end it.
const leastKeepMiB = 1 << 10

// retention is about how much WAL a stopped capture may hold.
func (k *checker) retention() {
	const subject = "retention"
	s := k.settings
	remedy := func(keep string) string {
		return "ALTER SYSTEM SET max_slot_wal_keep_size = '" + keep + "'; SELECT pg_reload_conf(); -- as much as the disk can spare; " +
			"a capture that is stopped for longer than it takes to write that much loses its slot, and says so"
	}
	switch {
	case s.keepMiB < 0:
		k.add(sources.Warning, subject, remedy("64GB"), "max_slot_wal_keep_size is unlimited: while the capture is stopped, the server keeps all "+
			"its WAL, until its disk is full")
	case s.keepMiB < max(leastKeepMiB, s.maxWALMiB):
		k.add(sources.Warning, subject, remedy("64GB"), "max_slot_wal_keep_size is %s: the server invalidates the slot when the capture is that "+
			"much WAL behind, and the changes in it are lost to the capture", size(s.keepMiB*mib))
	default:
		k.ok(subject, "a slot may hold %s of WAL", size(s.keepMiB*mib))
	}
	if s.idleTimeout != "0" {
		k.add(sources.Warning, subject, "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf(); -- or let the capture never be "+
			"stopped for that long", "idle_replication_slot_timeout is %s: a capture that is stopped for longer loses its slot", s.idleTimeout)
	}
}

// replication opens a connection that could stream, and starts nothing. It returns nil where there is none to be had.
func (k *checker) replication(ctx context.Context) *pgconn.PgConn {
	s := k.settings
	if s.sendersUsed >= s.senders && (k.found.slot == nil || k.found.slot.activePID == 0) {
		k.add(sources.Problem, "senders", fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; -- and restart the server", s.senders+10),
			"all of max_wal_senders = %d are in use, and the capture needs one", s.senders)
		return nil
	}
	k.ok("senders", "%d of max_wal_senders = %d are in use", s.sendersUsed, s.senders)
	repl, err := connectReplication(ctx, k.config)
	if err != nil {
		k.refuse("role", err)
		return nil
	}
	k.ok("role", "%s may replicate", k.found.user)
	if err := k.found.identify(ctx, repl); err != nil {
		k.refuse("server", err)
		_ = closeConn(repl) // the first error is what matters
		return nil
	}
	return repl
}

// orphans looks for slots that a capture has left behind.
func (k *checker) orphans(ctx context.Context) error {
	rows, err := k.conn.Query(ctx, `
		SELECT s.slot_name::text, coalesce(s.database::text, ''), pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8,
			coalesce(obj_description(p.oid, 'pg_publication'), '')
		FROM pg_replication_slots s LEFT JOIN pg_publication p ON p.pubname = s.slot_name AND s.database = current_database()
		WHERE NOT s.active AND s.plugin = $1 AND s.slot_name <> $2 AND s.restart_lsn IS NOT NULL
		ORDER BY 1`, plugin, k.config.Slot)
	if err != nil {
		return fmt.Errorf("read the slots: %w", err)
	}
	known := map[string]bool{}
	for _, capture := range k.o.Captures {
		known[Config{}.withDefaults(capture).Slot] = true
		known[mark(capture)] = true
	}
	var name, database, comment string
	var retained int64
	_, err = pgx.ForEachRow(rows, []any{&name, &database, &retained, &comment}, func() error {
		if known[name] || known[comment] || !strings.HasPrefix(name, "weft_") && !strings.HasPrefix(comment, mark("")) {
			return nil
		}
		k.add(sources.Warning, "slot "+name, fmt.Sprintf("SELECT pg_drop_replication_slot('%s'); -- once it is sure that nobody needs it", name),
			"nobody reads from it, it holds %s of WAL in database %s, and none of the captures here is known to have made it: it is "+
				"left from one that was removed, or is another configuration's", size(retained), database)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the slots: %w", err)
	}
	return nil
}

var _ sources.Checker = Config{}
