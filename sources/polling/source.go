package polling

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// source is the engine: it implements sources.Source on a dialect.
type source struct {
	dialect  dialect
	interval time.Duration
	place    string // names the datastore in messages
	deleted  string // the column that marks deleted rows, "" for none
	existing bool   // rows that are there before a table is captured are read
	log      hclog.Logger

	position  position
	started   bool // the position was returned or is the one that Open was given
	pending   bool // the last poll left rows, or failed
	moved     bool // the position has moved since it was returned
	returned  time.Time
	turn      string
	batch     *batch
	returning *batch                 // the one of the batch that was returned
	ahead     chan result            // of a poll that goes on beside what handles that batch, nil while there is none
	stop      context.CancelFunc     // ends that poll
	described atomic.Pointer[string] // the horizon as of the last look
	reconcile *reconciler            // nil where deleted rows are not looked for
	pollAt    time.Time              // when the next poll is due
}

// start opens a source, or closes the dialect. The interval is fallback where none is configured.
func start(ctx context.Context, d dialect, place string, interval, fallback time.Duration, deleted string, reconcile Reconcile, o sources.OpenOptions) (sources.Source, error) {
	s, err := open(ctx, d, place, cmp.Or(interval, fallback), deleted, reconcile, o)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return s, nil
}

// open makes the engine and verifies the datastore against o.Position.
func open(ctx context.Context, d dialect, place string, interval time.Duration, deleted string, reconcile Reconcile, o sources.OpenOptions) (*source, error) {
	s := &source{
		dialect: d, interval: interval, place: place, deleted: deleted, existing: o.Existing, log: o.Logger, returned: time.Now(), pending: true, started: o.Position != nil,
		batch: newBatch(o.BatchBytes), returning: newBatch(o.BatchBytes),
	}
	poll, err := pollOf(o.Above)
	if err != nil {
		return nil, err
	}
	if o.Position != nil {
		if s.position, err = parsePosition(o.Position); err != nil {
			return nil, err
		}
	}
	s.position.Poll = max(s.position.Poll, poll)
	s.reconcile = newReconciler(reconcile, o, s.position.Reconciled)
	v, err := d.view(ctx)
	if err != nil {
		return nil, err
	}
	if err = markDeleted(v.tables(), deleted); err != nil {
		return nil, errors.Join(err, v.close())
	}
	if o.Position == nil {
		s.position.Database = v.database()
		s.position.Tables = map[string]tablePosition{}
		for _, t := range v.tables() {
			at := tablePosition{Watermark: v.horizon(), Identity: t.identity}
			if s.existing {
				at.Watermark = 0
			}
			s.position.Tables[t.name] = at
		}
	} else {
		err = s.verify(v)
	}
	s.describe(v)
	if cerr := v.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// verify reports a datastore that is not the one of the position, or an older copy of it.
func (s *source) verify(v view) error {
	gap := &sources.GapError{
		Remedy: "look for what replaced it, then set on_gap: continue, which reads every row of the captured tables once more in a new epoch",
	}
	if v.database() != s.position.Database {
		gap.Reason = fmt.Sprintf("%s is another database than the one captured so far: its identity is %s, the checkpoint's %s",
			s.place, v.database(), s.position.Database)
	} else if gap.Reason = v.older(s.position.highest()); gap.Reason == "" {
		return nil
	} else {
		gap.Reason = s.place + " was put back to an older state: " + gap.Reason
	}
	resume := position{Database: v.database(), Poll: s.position.Poll, Tables: map[string]tablePosition{}}
	for _, t := range v.tables() {
		resume.Tables[t.name] = tablePosition{Identity: t.identity}
	}
	var err error
	gap.Resume, err = resume.encode()
	if err != nil {
		return err
	}
	return gap
}

// Next implements sources.Source.
func (s *source) Next(ctx context.Context) (sources.Batch, error) {
	if err := ctx.Err(); err != nil {
		return sources.Batch{}, err
	}
	if !s.started {
		// Where the capture begins, so that it is in a checkpoint before the first change is.
		p, err := s.position.encode()
		if err != nil {
			return sources.Batch{}, err
		}
		s.started = true
		return sources.Batch{Position: p}, nil
	}
	// A poll is bounded by a batch and is not interrupted at once: what it has found is returned even if ctx ends.
	polling, stop := withGrace(ctx)
	defer stop()
	var timer *time.Timer
	for {
		b, err := s.next(ctx, polling)
		if err != nil && polling.Err() != nil {
			return sources.Batch{}, ctx.Err()
		}
		if err != nil {
			return sources.Batch{}, err
		}
		if len(b.Changes) > 0 {
			s.readAhead(ctx)
			return b, nil
		}
		if s.pending && ctx.Err() == nil {
			continue // the dialect has more to read, though nothing was in what it has read
		}
		if p, err := s.progress(); p != nil || err != nil {
			return sources.Batch{Position: p}, err
		}
		pause := time.Until(s.pollAt)
		if s.reconcile != nil {
			pause = min(pause, time.Until(s.reconcile.next))
		}
		if timer == nil {
			timer = time.NewTimer(pause)
			defer timer.Stop()
		} else {
			timer.Reset(pause)
		}
		select {
		case <-ctx.Done():
			return sources.Batch{}, ctx.Err()
		case <-timer.C:
		}
	}
}

// result is what a poll returned.
type result struct {
	batch sources.Batch
	err   error
}

// readAhead begins the next poll while the caller handles what the last one found, if that left rows. It looks for no deleted rows:
// that is done against what the log holds, which is known up to the batches that were handled.
func (s *source) readAhead(ctx context.Context) {
	if !s.pending || s.reconcile.due(time.Now(), true) {
		return
	}
	s.batch, s.returning = s.returning, s.batch
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	ahead := make(chan result, 1)
	s.ahead = ahead
	go func() {
		b, err := s.poll(ctx, false)
		ahead <- result{b, err}
	}()
}

// next is what the poll that is under way returns, which is waited for until ctx ends, or else another.
func (s *source) next(ctx, polling context.Context) (sources.Batch, error) {
	if s.ahead == nil {
		return s.poll(polling, s.reconcile.due(time.Now(), s.pending))
	}
	select {
	case <-ctx.Done():
		return sources.Batch{}, ctx.Err()
	case p := <-s.ahead:
		s.ahead = nil
		s.stop()
		return p.batch, p.err
	}
}

// progressEvery is how often a position that has moved without a change is returned: so a restart begins near the present.
const progressEvery = 10 * time.Second

// progress is the position, if it has moved since one was returned and that was a while ago.
func (s *source) progress() (sources.Position, error) {
	if !s.moved || time.Since(s.returned) < progressEvery {
		return nil, nil
	}
	s.moved, s.returned = false, time.Now()
	return s.position.encode()
}

// grace is how long a poll that is under way may go on when nobody waits for it any longer.
const grace = 5 * time.Second

// withGrace returns a context that ends a while after ctx does.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return late, func() {
		stop()
		cancel()
	}
}

// poll looks once, for what has changed, or for deleted rows with reconcile. The batch is empty if there was nothing.
func (s *source) poll(ctx context.Context, reconcile bool) (sources.Batch, error) {
	began := time.Now()
	looks := s.pending || !began.Before(s.pollAt)
	if looks {
		changed, err := s.dialect.changed(ctx)
		if err != nil {
			return sources.Batch{}, err
		}
		s.pending = s.pending || changed
	}
	var b sources.Batch
	again := false
	if s.pending || reconcile {
		v, err := s.dialect.view(ctx)
		if err != nil {
			return sources.Batch{}, err
		}
		if v, ok := v.(rereader); ok {
			again = v.rereads()
		}
		b, err = s.look(ctx, v, reconcile)
		if cerr := v.close(); err == nil {
			err = cerr
		}
		if err != nil {
			return sources.Batch{}, err
		}
	}
	if looks && (len(b.Changes) == 0 || again && !s.pending) {
		// An expensive look, such as a whole table's, is made no more than half of the time.
		s.pollAt = time.Now().Add(max(s.interval, time.Since(began)))
	}
	return b, nil
}

// look returns what a view shows: deleted rows if they are due, else what has changed.
func (s *source) look(ctx context.Context, v view, reconcile bool) (sources.Batch, error) {
	if v, ok := v.(rewinder); ok && v.rewind() > 0 {
		for name, at := range s.position.Tables {
			if at.Watermark >= v.rewind() || at.Cursor != nil {
				s.position.Tables[name] = tablePosition{Watermark: min(at.Watermark, v.rewind()-1), Identity: at.Identity}
			}
		}
	}
	if err := s.verify(v); err != nil {
		return sources.Batch{}, err
	}
	if err := markDeleted(v.tables(), s.deleted); err != nil {
		return sources.Batch{}, err
	}
	s.describe(v)
	if reconcile && v.horizon() < s.position.highest() { // what a standby that lags does not show yet is not gone
		s.reconcile.next = time.Now().Add(s.interval)
		reconcile = false
	}
	if reconcile {
		if b, err := s.findDeleted(ctx, v); err != nil || len(b.Changes) > 0 {
			return b, err
		}
	}
	if !s.pending {
		return sources.Batch{}, nil
	}
	return s.read(ctx, v)
}

// findDeleted makes a step in the search for deleted rows.
func (s *source) findDeleted(ctx context.Context, v view) (sources.Batch, error) {
	next := s.position
	next.Poll++
	s.batch.reset(next.Poll, moment())
	done, err := s.reconcile.step(ctx, v, s.batch)
	if err != nil {
		return sources.Batch{}, err
	}
	if done {
		s.position.Reconciled, s.moved = time.Now().Unix(), true
	}
	if len(s.batch.changes) == 0 {
		return sources.Batch{}, nil
	}
	p, err := next.encode()
	if err != nil {
		return sources.Batch{}, err
	}
	s.position, s.moved, s.returned = next, false, time.Now()
	return sources.Batch{Changes: s.batch.changes, Position: p, More: s.pending}, nil
}

// read fills a batch from a view, and moves the position only when it is complete.
func (s *source) read(ctx context.Context, v view) (sources.Batch, error) {
	next := position{
		Database: s.position.Database, Poll: s.position.Poll + 1,
		Tables: make(map[string]tablePosition, len(s.position.Tables)), Reconciled: s.position.Reconciled,
	}
	tables := v.tables()
	lowest := s.position.lowest()
	for _, t := range tables {
		at, ok := s.position.Tables[t.name]
		if !ok {
			// The table is new to the capture. Watermarks are of one counter for all tables, so what was written to it
			// since the position is above the position's lowest.
			at = tablePosition{Watermark: lowest, Identity: t.identity}
			if s.existing {
				at.Watermark = 0
			}
		}
		next.Tables[t.name] = at
	}
	// A table that fills a batch is the last to be read for the next.
	first, _ := slices.BinarySearchFunc(tables, s.turn, func(t *table, name string) int {
		return strings.Compare(t.name, name)
	})
	s.batch.reset(next.Poll, moment())
	full := false
	turn := ""
	for i := range tables {
		t := tables[(first+i)%len(tables)]
		at := next.Tables[t.name]
		if at.Identity != t.identity {
			s.log.Warn("a table was replaced or rebuilt, and is read from its beginning", "table", t.name)
			at = tablePosition{Identity: t.identity}
		}
		at, tableFull, err := v.read(ctx, t, at, s.batch)
		if err != nil {
			return sources.Batch{}, err
		}
		next.Tables[t.name] = at
		if tableFull {
			full, turn = true, t.name+"\x00"
			break
		}
	}
	s.pending = full
	if len(s.batch.changes) == 0 {
		if !maps.EqualFunc(s.position.Tables, next.Tables, tablePosition.equal) {
			// Kept without being returned: nothing was found below it, and a change that comes carries it along.
			next.Poll = s.position.Poll
			s.position, s.moved = next, true
		}
		s.turn = turn
		return sources.Batch{}, nil
	}
	p, err := next.encode()
	if err != nil {
		return sources.Batch{}, err
	}
	s.position, s.turn = next, turn
	s.moved, s.returned = false, time.Now()
	return sources.Batch{Changes: s.batch.changes, Position: p, More: full}, nil
}

func (s *source) describe(v view) {
	text := v.describe()
	s.described.Store(&text)
}

// Horizon implements sources.Horizoner.
func (s *source) Horizon() string { return *s.described.Load() }

// Durable implements sources.Source: the datastore holds nothing for us that could be released.
func (s *source) Durable(sources.Position) error { return nil }

// Close implements sources.Source.
func (s *source) Close() error {
	if s.ahead != nil {
		s.stop()
		<-s.ahead
	}
	return s.dialect.close()
}
