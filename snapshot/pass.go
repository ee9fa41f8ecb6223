package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/sources"
)

// Writer takes the rows, as sink.Writer does.
type Writer interface {
	Write(ctx context.Context, c *sources.Change) error
}

// place is where rows are put into the stream.
type place struct {
	ctx      context.Context
	position sources.Position
	reader   sources.Reader
	w        Writer
	sweep    func(*sources.Table) Sweep // nil: nothing is swept
	order    []byte
}

// pass writes the rows of the chunks that the stream has passed at a position, as many as one commit takes. Everything that it changes
// belongs into one commit with them.
func (c *core) pass(p *place) error {
	if err := c.passSpans(p); err != nil {
		return err
	}
	for _, t := range c.tables {
		if t.done {
			continue
		}
		if err := c.passKeys(p, t); err != nil {
			return err
		}
		if err := c.passSweep(p, t); err != nil {
			return err
		}
		c.settle(t)
	}
	c.prune()
	return nil
}

// passSpans begins behind the span that wrote last, so that all of them go on being read.
func (c *core) passSpans(p *place) error {
	type part struct {
		t *table
		s *span
	}
	var parts []part
	for _, t := range c.tables {
		for _, s := range t.spans {
			if len(s.reads) > 0 {
				parts = append(parts, part{t, s})
			}
		}
	}
	for i, first := 0, c.turn; i < len(parts); i++ {
		n := (first + i) % len(parts)
		before := c.written.chunks
		if err := c.passSpan(p, parts[n].t, parts[n].s); err != nil {
			return err
		}
		if c.written.chunks > before {
			c.turn = n + 1
		}
	}
	return nil
}

// passSpan writes what it can of a span, in key order.
func (c *core) passSpan(p *place, t *table, s *span) error {
	for len(s.reads) > 0 && s.reads[0].chunk != nil {
		r := s.reads[0]
		if !c.room(t, r.chunk) {
			return nil
		}
		var goOn bool
		var err error
		if len(r.chunk.Table.Key) == 0 {
			goOn, err = c.passKeyless(p, t, s, r)
		} else {
			goOn, err = c.passKeyed(p, t, s, r)
		}
		if err != nil || !goOn {
			return err
		}
	}
	return nil
}

// room tells whether a chunk may be written before the next commit: the first one, and others that would have had room in it.
func (c *core) room(t *table, chunk *sources.Chunk) bool {
	w := &c.written
	if w.chunks == 0 || w.rows+len(chunk.Rows) <= c.rowsOf(t) && w.bytes+chunk.Bytes <= c.bytes {
		return true
	}
	w.full = true
	return false
}

// committed tells that what was written is committed, and whether a chunk has waited for that.
func (c *core) committed() (waits bool) {
	waits = c.written.full
	c.written = written{}
	c.sweepOn()
	return waits
}

// ready tells whether the stream has passed the chunk, and what it has changed since that the chunk did not see.
func (c *core) ready(p *place, t *table, chunk *sources.Chunk) (bool, unseen, error) {
	passed, err := chunk.View.Passed(p.position)
	if err != nil || !passed {
		return false, unseen{}, err
	}
	return true, c.ring.unseen(t.name, chunk.View), nil
}

func (c *core) passKeyed(p *place, t *table, s *span, r *read) (goOn bool, err error) {
	passed, u, err := c.ready(p, t, r.chunk)
	if err != nil || !passed {
		return false, err
	}
	var again [][][]byte
	rows := r.chunk.Rows
	if !u.empty() {
		if u.unknown {
			c.restart(s)
			return false, nil
		}
		rows, again = c.newest(r.chunk, &u)
		for _, key := range again {
			if !t.addAgain(key) {
				c.restart(s)
				return false, nil
			}
		}
	}
	if err := c.write(p, t, r.chunk, rows); err != nil {
		return false, err
	}
	c.advance(t, s, r)
	return true, nil
}

// newest is those of a chunk's rows that the stream has not changed since, and the keys of those that it has changed in part.
func (c *core) newest(chunk *sources.Chunk, u *unseen) (rows [][]sources.Value, again [][][]byte) {
	for _, row := range chunk.Rows {
		c.key, _ = appendKey(c.key[:0], chunk.Table, row, nil)
		kind, changed := u.keys[string(c.key)]
		switch {
		case kind == part:
			again = append(again, wireKey(chunk.Table, row, nil))
		case !changed && !u.truncated:
			rows = append(rows, row)
		}
	}
	return rows, again
}

// advance moves the span's cursor behind a chunk.
func (c *core) advance(t *table, s *span, r *read) {
	delete(c.reads, r)
	s.reads = slices.Delete(s.reads, 0, 1) // and leave none of its rows in memory
	c.changed = true
	if s.after = r.chunk.Next; s.after == nil {
		t.spans = slices.DeleteFunc(t.spans, func(o *span) bool { return o == s })
	}
}

// passKeyless writes rows of the one read of a table without a key. The topic's rows of it are a bag, to which those of the read
// and what is changed later may come in any order. So once the stream is exactly where the read was it is emptied, and then
// filled; a truncate meanwhile undoes that.
func (c *core) passKeyless(p *place, t *table, s *span, r *read) (goOn bool, err error) {
	if t.where != "" {
		return false, &Refusal{Reason: fmt.Sprintf("table %s has no key: it can only be read whole, without a condition", t.name)}
	}
	if !t.held {
		passed, u, err := c.ready(p, t, r.chunk)
		if err != nil || !passed {
			return false, err
		}
		if !u.empty() {
			c.restart(s)
			return false, nil
		}
		if err := c.put(p, &sources.Change{Op: sources.OpTruncate, Cause: c.cause, Table: r.chunk.Table}); err != nil {
			return false, err
		}
		t.held, t.cut, t.rows = true, false, 0
	}
	if t.cut {
		c.restartTable(t)
		return false, nil
	}
	if err := c.write(p, t, r.chunk, r.chunk.Rows); err != nil {
		return false, err
	}
	delete(c.reads, r)
	s.reads = slices.Delete(s.reads, 0, 1)
	c.changed = true
	if r.chunk.Next == nil {
		t.spans = []*span{}
	}
	return true, nil
}

// passKeys writes rows that were read by their keys.
func (c *core) passKeys(p *place, t *table) error {
	if t.overflown {
		return &Refusal{Reason: fmt.Sprintf("too many rows of table %s got other keys meanwhile; compare it again, and repair what is left", t.name)}
	}
	r := t.fetching
	if r == nil || r.chunk == nil || !c.room(t, r.chunk) {
		return nil
	}
	passed, u, err := c.ready(p, t, r.chunk)
	if err != nil || !passed {
		return err
	}
	delete(c.reads, r)
	t.fetching = nil
	if u.unknown {
		return nil
	}
	rows := r.chunk.Rows
	if !u.empty() {
		rows, _ = c.newest(r.chunk, &u)
	}
	if err := c.write(p, t, r.chunk, rows); err != nil {
		return err
	}
	if c.cause == sources.CauseRepair {
		if err := c.writeAbsent(p, t, r, &u); err != nil {
			return err
		}
	}
	c.changed = true
	for _, key := range r.q.Keys {
		if id := bytesOf(key); u.keys[id] != part {
			t.dropAgain(id)
		}
	}
	return nil
}

// write writes those rows of a chunk.
func (c *core) write(p *place, t *table, chunk *sources.Chunk, rows [][]sources.Value) error {
	c.written.chunks++
	c.written.rows += len(rows)
	c.written.bytes += chunk.Bytes
	ch := sources.Change{Op: sources.OpRead, Cause: c.cause, Table: chunk.Table}
	for _, row := range rows {
		ch.After = row
		if err := c.put(p, &ch); err != nil {
			return err
		}
	}
	t.rows += int64(len(rows))
	return nil
}

// writeAbsent writes deletes of those keys that were asked for and have no row, unless the stream has changed them since.
func (c *core) writeAbsent(p *place, t *table, r *read, u *unseen) error {
	if u.truncated {
		return nil
	}
	present := make(map[string]bool, len(r.chunk.Rows))
	for _, row := range r.chunk.Rows {
		c.key, _ = appendKey(c.key[:0], r.chunk.Table, row, nil)
		present[string(c.key)] = true
	}
	ch := sources.Change{Op: sources.OpDelete, Cause: c.cause, Table: r.chunk.Table}
	for _, key := range r.q.Keys {
		id := bytesOf(key)
		if _, changed := u.keys[id]; changed || present[id] {
			continue
		}
		ch.Before = keyAlone(r.chunk.Table, key)
		if err := c.put(p, &ch); err != nil {
			return err
		}
		t.rows++
	}
	return nil
}

// put writes a change behind the position, and behind what was put there before.
func (c *core) put(p *place, ch *sources.Change) error {
	var err error
	if ch.Order, err = c.nextOrder(p); err != nil {
		return err
	}
	return p.w.Write(p.ctx, ch)
}

// nextOrder is the order of the next change there. Its bytes live until the next call.
func (c *core) nextOrder(p *place) ([]byte, error) {
	if p.order == nil {
		first, err := p.reader.AppendOrder(nil, p.position, 0)
		if err != nil {
			return nil, fmt.Errorf("find a place for rows: %w", err)
		}
		p.order = first
		if c.index++; bytes.Compare(first, c.order) > 0 {
			c.index = 0
		}
	} else {
		c.index++
	}
	var err error
	if p.order, err = p.reader.AppendOrder(p.order[:0], p.position, c.index); err != nil {
		return nil, fmt.Errorf("find a place for rows: %w", err)
	}
	c.order = append(c.order[:0], p.order...)
	return p.order, nil
}

// settle ends a table that has nothing left.
func (c *core) settle(t *table) {
	if t.spans == nil || len(t.spans) > 0 || len(t.again) > 0 || t.fetching != nil || t.sweep || t.done {
		return
	}
	t.done, t.held = true, false
	c.changed = true
	args := []any{"table", t.name, "rows", t.rows}
	if !t.began.IsZero() {
		args = append(args, "after", c.now().Sub(t.began).Round(time.Millisecond))
	}
	c.logger.Info("table is read", args...)
}

// prune forgets what all reads see that are under way or will be.
func (c *core) prune() {
	if len(c.ring.txs) == 0 && c.ring.lost == 0 {
		return
	}
	if c.latest == nil {
		return
	}
	views := []sources.View{c.latest}
	for r := range c.reads {
		if r.kind > readKeys || r.t.held {
			continue
		}
		v := r.view()
		if v == nil {
			return
		}
		views = append(views, v)
	}
	c.ring.prune(views)
}

// Refusal ends a snapshot that somebody asked for, and not the capture.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return strings.TrimSpace(r.Reason) }
