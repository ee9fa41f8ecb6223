package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
	"weft/sources/postgres/pgoutput"
)

const (
	// An idle position is returned when this long has passed or so much log was written since the last one.
	idleInterval = 10 * time.Second
	idleBytes    = 16 << 20
	// urgentInterval is the least time between two batches that are urgent.
	urgentInterval = time.Second
)

// stage is what Next has to do.
type stage int

const (
	announce stage = iota // return the position that says that the slot is about to be made
	create                // once that is durable, make the slot and start the stream
	begin                 // return the position where the stream starts
	stream
)

// source implements sources.Source and sources.Lagger. All but what mu guards, and what is atomic, belongs to Next's goroutine.
type source struct {
	config  Config
	capture string
	log     hclog.Logger
	set     *tableSet
	server  continuation // as Open found it
	catalog *catalog
	decoder *decoder
	queue   *queue
	unseen  *unseen // locked in itself
	since   uint64  // see position
	stage   stage
	err     error // what Next returns from now on

	announced chan struct{} // closed when the position that announce returned is durable
	once      sync.Once

	mu     sync.Mutex
	reader *reader // nil until the stream starts

	handedOut  bool // the last Next returned the decoder's batch
	returned   atomic.Uint64
	returnedAt time.Time
	urgentAt   time.Time
	commitTime atomic.Int64

	wal            atomic.Pointer[walGrowth] // nil: unknown
	tablesInterval time.Duration
	stopMeter      context.CancelFunc
	meterDone      chan struct{}
}

// Next returns the changes that are there, as many as a batch holds; it waits for the rest of a transaction that has
// begun to arrive.
func (s *source) Next(ctx context.Context) (sources.Batch, error) {
	if err := ctx.Err(); err != nil {
		return sources.Batch{}, err
	}
	if s.err != nil {
		return sources.Batch{}, s.err
	}
	switch s.stage {
	case announce:
		s.stage = create
		p := s.server.position(0)
		p.Creating = true
		return sources.Batch{Position: p.encode(), Urgent: true}, nil
	case create:
		if err := s.create(ctx); err != nil {
			if ctx.Err() != nil {
				return sources.Batch{}, ctx.Err()
			}
			s.err = err
			return sources.Batch{}, err
		}
		s.stage = begin
	}
	if s.stage == begin {
		s.stage = stream
		return s.progress(), nil
	}
	return s.next(ctx)
}

// create makes the slot, or takes the one that an earlier try has made, and starts the stream there.
func (s *source) create(ctx context.Context) error {
	select {
	case <-s.announced:
	case <-ctx.Done():
		return ctx.Err()
	}
	var start lsn
	err := s.catalog.do(ctx, func(conn *pgx.Conn) error {
		existing, err := readFreeSlot(ctx, conn, s.config.Slot, s.server.database)
		if err != nil {
			return err
		}
		if existing != nil {
			start = existing.confirmed
			return nil
		}
		s.log.Info("making the replication slot: the server waits for transactions that are running", "slot", s.config.Slot)
		if s.since, err = assignXID(ctx, conn); err != nil {
			return err
		}
		if start, err = createSlot(ctx, conn, s.config.Slot); err != nil {
			return err
		}
		if err := s.awaitStandbys(ctx, conn); err != nil {
			return err
		}
		s.log.Info("made the replication slot; changes committed from here on are captured", "slot", s.config.Slot, "lsn", start.String())
		return nil
	})
	if err != nil {
		return err
	}
	conn, err := connectReplication(ctx, s.config)
	if err != nil {
		return err
	}
	if err := s.start(ctx, conn, start, nil); err != nil {
		_ = closeConn(conn) // the first error is what matters
		return err
	}
	return nil
}

// awaitStandbys sees to it that what was committed just before the slot, and waits for a synchronous standby before it
// becomes visible, is not missed by who reads the tables next: the stream does not have it. Which of the running
// transactions wait cannot be told, so all of them count.
func (s *source) awaitStandbys(ctx context.Context, conn *pgx.Conn) error {
	var standbys string
	if err := conn.QueryRow(ctx, "SELECT current_setting('synchronous_standby_names')").Scan(&standbys); err != nil {
		return fmt.Errorf("read the server's settings: %w", err)
	}
	if standbys == "" {
		return nil
	}
	snapshot, err := readSnapshot(ctx, conn)
	if err != nil {
		return err
	}
	next, err := assignXID(ctx, conn)
	if err != nil {
		return err
	}
	s.unseen.addRunning(snapshot, next)
	return nil
}

// start begins to stream. Without an error, the connection belongs to the reader.
func (s *source) start(ctx context.Context, conn *pgconn.PgConn, at lsn, tx *txPosition) error {
	r, err := startReader(ctx, conn, s.queue, s.config, at, s.server.senderTimeout)
	if err != nil {
		return s.startError(ctx, err)
	}
	s.decoder.at, s.decoder.resume = at, tx
	s.returned.Store(uint64(at))
	s.returnedAt = time.Now()
	s.mu.Lock()
	s.reader = r
	s.mu.Unlock()
	return nil
}

// startError tells a slot that has become useless since it was looked at from one that is in use.
func (s *source) startError(ctx context.Context, err error) error {
	switch codeOf(err) {
	case codeInUse:
		return fmt.Errorf("slot %s is in use by another reader: %w", s.config.Slot, err)
	case codeUndefinedFile:
		return streamGap(err, s.server)
	case codeNotInState:
		again := s.server
		readErr := s.catalog.do(ctx, func(conn *pgx.Conn) (err error) {
			again.slot, err = readSlot(ctx, conn, s.config.Slot)
			return err
		})
		if readErr != nil {
			return errors.Join(err, readErr)
		}
		if gap := again.findDead(); gap != nil {
			return gap
		}
	}
	return err
}

// next fills a batch from the queue.
func (s *source) next(ctx context.Context) (sources.Batch, error) {
	d := s.decoder
	if s.handedOut {
		s.handedOut = false
		d.reset()
		s.queue.release()
	}
	for n := 1; ; n++ {
		f, ok, closed := s.queue.peek()
		if ok {
			if d.endsBefore(f) {
				return s.batch(), nil
			}
			if err := d.apply(ctx, f); err != nil {
				return s.failed(ctx, f, err)
			}
			s.queue.advance()
			if d.marked {
				d.marked = false
				return s.batch(), nil
			}
			if len(d.changes) == 0 && n%256 == 0 {
				d.reset()
				s.queue.release()
				if ctx.Err() != nil {
					return sources.Batch{}, ctx.Err()
				}
			}
			continue
		}
		if len(d.changes) > 0 && (closed != nil || !d.tx.open || d.full()) {
			return s.batch(), nil
		}
		if closed != nil {
			s.err = closed
			if gap := streamGap(closed, s.server); gap != nil {
				s.err = gap
			}
			return sources.Batch{}, s.err
		}
		b, wait, err := s.idle(time.Now())
		if err != nil {
			s.err = err
			return sources.Batch{}, err
		}
		if b != nil {
			return *b, nil
		}
		if err := s.await(ctx, wait); err != nil {
			return sources.Batch{}, err
		}
	}
}

// await waits for something in the queue, for d where that is not zero.
func (s *source) await(ctx context.Context, d time.Duration) error {
	var timeout <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-s.queue.ready:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// failed returns first what came before the frame that was refused, then the error. Only what the context interrupted is
// tried again: a frame may have been written into.
func (s *source) failed(ctx context.Context, f frame, err error) (sources.Batch, error) {
	if ctx.Err() != nil && f.data[0] == pgoutput.KindRelation {
		return sources.Batch{}, ctx.Err()
	}
	s.err = fmt.Errorf("decode what follows %s: %w", s.decoder.at, err)
	var r *errResume
	if errors.As(err, &r) {
		s.err = s.resumeGap(r.reason)
	}
	if len(s.decoder.changes) > 0 {
		return s.batch(), nil
	}
	return sources.Batch{}, s.err
}

// resumeGap goes on with the whole transaction: what was delivered of it is delivered again.
func (s *source) resumeGap(reason string) error {
	at := s.server.position(s.decoder.at)
	at.Unseen, at.Since = s.unseen.now(), s.since
	return s.server.gap("%s", reason)(&at)
}

// batch hands out what the decoder has: nothing but the newer position, where only a mark has come.
func (s *source) batch() sources.Batch {
	b := s.progress()
	d := s.decoder
	b.Changes = d.changes
	b.Partial, b.Behind = d.partial(), d.tx.behind
	_, b.More, _ = s.queue.peek()
	s.handedOut = true
	if n := len(d.changes); n > 0 && d.changes[n-1].CommitTime != 0 {
		s.commitTime.Store(d.changes[n-1].CommitTime)
	}
	return b
}

// progress is an empty batch with the present position.
func (s *source) progress() sources.Batch {
	s.returned.Store(uint64(s.decoder.at))
	s.returnedAt = time.Now()
	p := s.server.position(0)
	p.Unseen, p.Since = s.unseen.now(), s.since
	return sources.Batch{Position: s.decoder.where(p).encode()}
}

// idle returns a batch without changes when a newer position is due, else how long to wait for that; zero: for as long
// as nothing comes.
//
// A server that shuts down asks for a reply again and again until all that it has sent is confirmed, and does not end before.
// A running one asks only when it has not heard from us for half of wal_sender_timeout, which the reader does not let
// happen. So an asking server is taken to wait; once a second is often enough for the case that the caller is slow.
func (s *source) idle(now time.Time) (*sources.Batch, time.Duration, error) {
	d := s.decoder
	end, pressed := s.queue.idleAt()
	if d.tx.open {
		return nil, 0, nil
	}
	if d.resume != nil {
		if end > d.resume.FinalLSN {
			return nil, 0, s.resumeGap(fmt.Sprintf("the checkpoint is inside transaction %d that commits at %s, which the server no "+
				"longer sends", d.resume.XID, d.resume.FinalLSN))
		}
		return nil, 0, nil
	}
	at := max(d.at, end)
	if pressed && uint64(at) > s.reader.durable.Load() {
		if wait := urgentInterval - now.Sub(s.urgentAt); wait > 0 {
			return nil, wait, nil
		}
		d.at, s.urgentAt = at, now
		b := s.progress()
		b.Urgent = true
		return &b, 0, nil
	}
	returned := lsn(s.returned.Load())
	if at <= returned {
		return nil, 0, nil
	}
	if wait := idleInterval - now.Sub(s.returnedAt); wait > 0 && at-returned < idleBytes {
		return nil, wait, nil
	}
	d.at = at
	b := s.progress()
	return &b, 0, nil
}

// Durable lets the server release its log up to p. Within a transaction that is the end of the one before it.
func (s *source) Durable(text sources.Position) error {
	p, err := decodePosition(text)
	if err != nil {
		return err
	}
	if p.System != s.server.system || p.Slot != s.config.Slot {
		return fmt.Errorf("position %s is not of this source", text)
	}
	if p.Creating {
		s.once.Do(func() { close(s.announced) })
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader != nil {
		s.reader.confirm(p.LSN)
	}
	return nil
}

// Close confirms what is durable, so that the next start does not read it again, and ends both connections.
func (s *source) Close() error {
	s.stopMeter()
	<-s.meterDone
	s.mu.Lock()
	r := s.reader
	s.reader = nil
	s.mu.Unlock()
	if s.err == nil {
		s.err = errClosed
	}
	var err error
	if r != nil {
		err = r.close()
	}
	return errors.Join(err, s.catalog.close())
}
