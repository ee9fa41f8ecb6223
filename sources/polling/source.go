package polling

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/sources"
)

// dialect is what the engine needs of a kind of datastore. Its methods are called by one goroutine.
type dialect interface {
	// changed tells cheaply whether anything was committed since it was last called. It may say so in vain.
	changed(ctx context.Context) (bool, error)
	// view opens a consistent view of the datastore.
	view(ctx context.Context) (view, error)
	close() error
}

// view is one consistent view of the datastore.
type view interface {
	// database identifies the datastore, and horizon is the watermark up to which the view is complete: no version
	// numbered up to it is committed later.
	database() string
	horizon() int64
	// tables are the captured ones in the order of their names. A *table stays the same as long as nothing about it
	// changes.
	tables() []*table
	// read adds to b the rows of t whose watermark is above after, in its order, until there are none or b is full.
	// It returns the watermark of the last row added, and whether b was full.
	read(ctx context.Context, t *table, after int64, b *batch) (last int64, full bool, err error)
	close() error
}

// table is a captured table.
type table struct {
	sources.Table
	// name identifies it in positions and in messages.
	name string
	// query selects the rows above a watermark in its order: the watermark, then the columns. It and scan are the
	// dialect's.
	query string
	scan  []any
}

// source is the engine: it implements sources.Source on a dialect.
type source struct {
	dialect  dialect
	interval time.Duration
	place    string // names the datastore in messages

	position position
	started  bool // the position was returned or is the one that Open was given
	pending  bool // the last poll left rows, or failed
	turn     string
	batch    *batch
}

// open makes the engine and verifies the datastore against o.Position.
func open(ctx context.Context, d dialect, place string, interval time.Duration, o sources.OpenOptions) (*source, error) {
	s := &source{
		dialect: d, interval: interval, place: place, pending: true, started: o.Position != nil,
		batch: newBatch(o.BatchBytes),
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
	v, err := d.view(ctx)
	if err != nil {
		return nil, err
	}
	if o.Position == nil {
		s.position.Database = v.database()
		s.position.Tables = map[string]tablePosition{}
		for _, t := range v.tables() {
			s.position.Tables[t.name] = tablePosition{Watermark: v.horizon()}
		}
	} else {
		err = s.verify(v)
	}
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
	highest := s.position.highest()
	switch {
	case v.database() != s.position.Database:
		gap.Reason = fmt.Sprintf("%s is another database than the one captured so far: its identity is %s, the checkpoint's %s",
			s.place, v.database(), s.position.Database)
	case v.horizon() < highest:
		gap.Reason = fmt.Sprintf("%s was put back to an older state: its counter is at %d, the checkpoint at %d, so up to %d "+
			"changes that were captured are no longer in it", s.place, v.horizon(), highest, highest-v.horizon())
	default:
		return nil
	}
	resume := position{Database: v.database(), Poll: s.position.Poll, Tables: map[string]tablePosition{}}
	for _, t := range v.tables() {
		resume.Tables[t.name] = tablePosition{}
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
	// A poll is short, since a batch bounds it, and is not interrupted: what it has found is returned even if ctx ends.
	polling := context.WithoutCancel(ctx)
	var timer *time.Timer
	for {
		b, err := s.poll(polling)
		if err != nil {
			return sources.Batch{}, err
		}
		if len(b.Changes) > 0 {
			return b, nil
		}
		if timer == nil {
			timer = time.NewTimer(s.interval)
			defer timer.Stop()
		} else {
			timer.Reset(s.interval)
		}
		select {
		case <-ctx.Done():
			return sources.Batch{}, ctx.Err()
		case <-timer.C:
		}
	}
}

// poll looks once. The batch is empty if there was nothing.
func (s *source) poll(ctx context.Context) (sources.Batch, error) {
	changed, err := s.dialect.changed(ctx)
	if err != nil {
		return sources.Batch{}, err
	}
	s.pending = s.pending || changed
	if !s.pending {
		return sources.Batch{}, nil
	}
	v, err := s.dialect.view(ctx)
	if err != nil {
		return sources.Batch{}, err
	}
	b, err := s.read(ctx, v)
	if cerr := v.close(); err == nil {
		err = cerr
	}
	return b, err
}

// read fills a batch from a view, and moves the position only when it is complete.
func (s *source) read(ctx context.Context, v view) (sources.Batch, error) {
	if err := s.verify(v); err != nil {
		return sources.Batch{}, err
	}
	next := position{
		Database: s.position.Database, Poll: s.position.Poll + 1,
		Tables: make(map[string]tablePosition, len(s.position.Tables)),
	}
	tables := v.tables()
	lowest := s.position.lowest()
	for _, t := range tables {
		at, ok := s.position.Tables[t.name]
		if !ok {
			// The table is new to the capture. Watermarks are of one counter for all tables, so what was written to it
			// since the position is above the position's lowest.
			at.Watermark = lowest
		}
		next.Tables[t.name] = at
	}
	// A table that fills a batch is the last to be read for the next.
	first, _ := slices.BinarySearchFunc(tables, s.turn, func(t *table, name string) int {
		return strings.Compare(t.name, name)
	})
	s.batch.reset(next.Poll)
	full := false
	turn := ""
	for i := range tables {
		t := tables[(first+i)%len(tables)]
		at := next.Tables[t.name].Watermark
		last, tableFull, err := v.read(ctx, t, at, s.batch)
		if err != nil {
			return sources.Batch{}, err
		}
		if tableFull {
			full, turn = true, t.name+"\x00"
			next.Tables[t.name] = tablePosition{Watermark: last}
			break
		}
		next.Tables[t.name] = tablePosition{Watermark: v.horizon()}
	}
	s.pending = full
	if len(s.batch.changes) == 0 {
		if !maps.Equal(s.position.Tables, next.Tables) {
			// Kept without being returned: nothing was found below it, and a change that comes carries it along.
			next.Poll = s.position.Poll
			s.position = next
		}
		return sources.Batch{}, nil
	}
	p, err := next.encode()
	if err != nil {
		return sources.Batch{}, err
	}
	s.position, s.turn = next, turn
	return sources.Batch{Changes: s.batch.changes, Position: p, More: full}, nil
}

// Durable implements sources.Source: the datastore holds nothing for us that could be released.
func (s *source) Durable(sources.Position) error { return nil }

// Close implements sources.Source.
func (s *source) Close() error { return s.dialect.close() }
