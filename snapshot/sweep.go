package snapshot

import (
	"context"
	"fmt"

	"weft/sources"
)

// Sweep removes from a table's topic what the datastore no longer has, in rounds, as sink.Sweep does: Watch, then a commit, then Find beside
// the capture's goroutine, then Remove.
type Sweep interface {
	Watch()
	Find(ctx context.Context) (keys [][]byte, full bool, err error)
	Remove(ctx context.Context, keys [][]byte, full bool, order func() ([]byte, error)) (removed int, done bool, err error)
	// Stop gives it up after Watch.
	Stop()
}

// sweeping is a table whose rows are all written, and that is being swept.
type sweeping struct {
	sweep Sweep
	stage sweepStage
	read  *read // while finding
	keys  [][]byte
	full  bool
	count int
}

type sweepStage uint8

const (
	watching sweepStage = iota // what was written before is not committed yet
	sweepable
	finding
	found
)

// sweepOn brings sweeps on that waited for a commit.
func (c *core) sweepOn() {
	for _, t := range c.tables {
		if t.sweeping != nil && t.sweeping.stage == watching {
			t.sweeping.stage = sweepable
		}
	}
}

// nextSweep is what of the sweep is to be done beside the capture's goroutine.
func (c *core) nextSweep(t *table) *read {
	switch {
	case !t.swept() || t.describing != nil:
	case t.of == nil: // all rows were written before a restart
		t.describing = &read{t: t, kind: readTable, q: sources.ChunkRequest{Table: t.name, Rows: 1, Bytes: 1}}
		return t.describing
	case t.sweeping != nil && t.sweeping.stage == sweepable:
		t.sweeping.stage, t.sweeping.read = finding, &read{t: t, kind: readSweep, sweep: t.sweeping.sweep}
		return t.sweeping.read
	}
	return nil
}

// swept tells whether the sweep is what is left of a table.
func (t *table) swept() bool {
	return t.sweep && !t.done && t.spans != nil && len(t.spans) == 0 && len(t.again) == 0 && t.fetching == nil
}

// described takes in a chunk that was read to know the table.
func (c *core) described(r *read, of *sources.Table) {
	if c.abandoned(r) {
		return
	}
	delete(c.reads, r)
	r.t.of, r.t.describing = of, nil
}

// foundKeys takes in what a round has found.
func (c *core) foundKeys(r *read, keys [][]byte, full bool) {
	if c.abandoned(r) {
		return
	}
	delete(c.reads, r)
	s := r.t.sweeping
	s.stage, s.read, s.keys, s.full = found, nil, keys, full
}

// stopSweep gives the sweep of a table up.
func (c *core) stopSweep(t *table) {
	if t.sweeping == nil {
		return
	}
	c.void(t.sweeping.read)
	t.sweeping.sweep.Stop()
	t.sweeping = nil
}

// passSweep brings the sweep of a table on.
func (c *core) passSweep(p *place, t *table) error {
	if !t.swept() || t.of == nil {
		return nil
	}
	if len(t.of.Key) == 0 || p.sweep == nil { // its rows follow a truncate
		t.sweep = false
		return nil
	}
	if t.sweeping == nil {
		t.sweeping = &sweeping{sweep: p.sweep(t.of)}
		t.sweeping.sweep.Watch()
		c.changed = true // so that there is a commit
	}
	s := t.sweeping
	if s.stage != found {
		return nil
	}
	removed, done, err := s.sweep.Remove(p.ctx, s.keys, s.full, func() ([]byte, error) { return c.nextOrder(p) })
	if err != nil {
		return fmt.Errorf("remove rows of %s that are gone: %w", t.name, err)
	}
	s.keys = nil
	s.count += removed
	c.changed = true
	if !done {
		s.stage = watching
		s.sweep.Watch()
		return nil
	}
	c.logger.Info("rows that were deleted behind the gap are removed", "table", t.name, "rows", s.count)
	t.sweep, t.sweeping = false, nil
	return nil
}
