package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// Open verifies the server, the tables, the publication and the slot, makes the publication where it is missing, and
// begins to stream after o.Position. A slot is made only by Next, once the position that says so is durable.
func (c Config) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	if err := c.Validate(); err != nil {
		return nil, sources.Fatal("correct the capture's source", "%w", err)
	}
	c = c.withDefaults(o.Capture)
	var p *position
	if len(o.Position) > 0 {
		decoded, err := decodePosition(o.Position)
		if err != nil {
			return nil, err
		}
		p = &decoded
	}
	conn, err := connectSQL(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := c.open(ctx, conn, p, o)
	if err != nil {
		_ = closeConn(conn) // the first error is what matters
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open: %w", ctx.Err())
		}
		return nil, err
	}
	s.startMeter()
	return s, nil
}

// open does all but start the meter.
func (c Config) open(ctx context.Context, conn *pgx.Conn, p *position, o sources.OpenOptions) (*source, error) {
	found := continuation{slotName: c.Slot, publication: c.Publication}
	var err error
	if found.server, err = readServer(ctx, conn); err != nil {
		return nil, err
	}
	if err := found.check(); err != nil {
		return nil, err
	}
	repl, err := connectReplication(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := c.prepare(ctx, conn, repl, found, p, o)
	if err != nil {
		_ = closeConn(repl) // the first error is what matters
		return nil, err
	}
	return s, nil
}

// prepare does all that needs both connections. It leaves repl streaming, or closed where there is no slot yet.
func (c Config) prepare(ctx context.Context, conn *pgx.Conn, repl *pgconn.PgConn, found continuation, p *position,
	o sources.OpenOptions) (*source, error) {
	if err := found.identify(ctx, repl); err != nil {
		return nil, err
	}
	all, err := readTables(ctx, conn)
	if err != nil {
		return nil, err
	}
	set, err := resolveTables(all, o.Tables, o.Keys, c.Partitions)
	if err != nil {
		return nil, err
	}
	pub, err := readPublication(ctx, conn, c.Publication, o.Capture, found.version)
	if err != nil {
		return nil, err
	}
	found.published = pub.exists
	if p != nil && p.System == found.system && p.Timeline == found.timeline {
		found.unseen = p.Unseen // what ran on another timeline has ended with it
	}
	if found.slot, err = readFreeSlot(ctx, conn, c.Slot, found.database); err != nil {
		return nil, err
	}
	if err := found.readHistory(ctx, repl, p); err != nil {
		return nil, err
	}
	if p != nil && p.Replace {
		if found.slot != nil {
			if err := dropSlot(ctx, conn, c.Slot); err != nil {
				return nil, err
			}
			o.Logger.Info("dropped the useless slot", "slot", c.Slot)
		}
		found.slot, p = nil, nil
	}
	if err := findGap(p, found); err != nil {
		return nil, err
	}
	if err := ensurePublication(ctx, conn, pub, set, o.Capture, o.Logger); err != nil {
		return nil, err
	}
	if pub, err = readPublication(ctx, conn, c.Publication, o.Capture, found.version); err != nil {
		return nil, err
	}
	if err := pub.check(set); err != nil {
		return nil, err
	}
	found.published = true
	if found.slot != nil && found.slot.walStatus == "unreserved" {
		o.Logger.Warn("the server may drop log that the slot needs at its next checkpoint: max_slot_wal_keep_size is exceeded",
			"slot", c.Slot, "restart_lsn", found.slot.restart.String())
	}
	snapshot, err := readSnapshot(ctx, conn)
	if err != nil {
		return nil, err
	}
	s := c.newSource(conn, found, set, o)
	s.unseen.resume(found.unseen, snapshot)
	if p != nil {
		s.since = p.Since
	}
	return s, s.enter(ctx, repl, p)
}

func (c Config) newSource(conn *pgx.Conn, found continuation, set *tableSet, o sources.OpenOptions) *source {
	s := &source{
		config:         c,
		capture:        o.Capture,
		log:            o.Logger,
		set:            set,
		server:         found,
		catalog:        newCatalog(c, conn),
		queue:          newQueue(o.ReadAheadBytes),
		unseen:         &unseen{},
		announced:      make(chan struct{}),
		tablesInterval: tablesInterval,
		meterDone:      make(chan struct{}),
	}
	s.decoder = &decoder{
		relations:  relations{set: set, catalog: s.catalog, database: found.database, byOID: map[uint32]*relation{}},
		database:   found.database,
		messages:   c.Messages,
		slot:       c.Slot,
		unseen:     s.unseen,
		batchBytes: o.BatchBytes,
	}
	return s
}

// enter chooses the stage by the position.
func (s *source) enter(ctx context.Context, repl *pgconn.PgConn, p *position) error {
	switch {
	case p == nil:
		s.stage = announce
	case !p.Creating:
		s.stage = stream
		return s.start(ctx, repl, p.LSN, p.TX)
	default:
		s.once.Do(func() { close(s.announced) })
		if s.server.slot != nil {
			s.stage = begin
			return s.start(ctx, repl, s.server.slot.confirmed, nil)
		}
		s.stage = create
	}
	// The slot may take long to make, and this connection would only wait.
	if err := closeConn(repl); err != nil {
		return fmt.Errorf("close the replication connection: %w", err)
	}
	return nil
}
