package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"time"

	"weft/sources"
)

// The bounds that checkBackPressure allows beyond ReadAheadBytes and BatchBytes, and how much more it writes.
const (
	heapSlack    = 6 << 20
	pressureRows = 512
	pressureBody = 64 << 10
)

// heap is the number of live bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func checkBackPressure(ctx context.Context, h *Harness) error {
	opts := h.options()
	opts.BatchBytes = 256 << 10
	w := newHistory(h)
	s, err := open(ctx, h, opts)
	if err != nil {
		return err
	}
	base := heap()
	limit := base + int64(4*opts.ReadAheadBytes+4*opts.BatchBytes+heapSlack)
	err = pressure(ctx, w, limit, s)
	if err != nil {
		return errors.Join(err, s.close())
	}
	return s.finish(ctx, w.start()) // nothing was read yet: the whole history has to come
}

// pressure writes far more than limit without reading: half of it in one transaction.
func pressure(ctx context.Context, w *history, limit int64, s *session) error {
	var large []Row
	for i := range pressureRows {
		row := w.put(int64(i), pressureBody)
		if i < pressureRows/2 {
			if err := w.write(ctx, row); err != nil {
				return err
			}
			continue
		}
		large = append(large, row)
	}
	if err := w.write(ctx, large...); err != nil {
		return err
	}
	clear(large)
	for range 20 { // a source that reads ahead without a bound has a second to show it
		if live := heap(); live > limit {
			return fmt.Errorf("with %d MiB written and Next not called, the heap grew beyond its limit by %d KiB: "+
				"ReadAheadBytes of %d KiB does not bound it", pressureRows*pressureBody>>20, (live-limit)>>10, s.opts.ReadAheadBytes>>10)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

func checkBatchMemory(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	var rows []Row
	for i := range int64(300) {
		rows = append(rows, w.put(i%50, 1000))
	}
	if err := w.write(ctx, rows...); err != nil {
		return errors.Join(err, s.close())
	}
	p := w.start()
	for batches := 0; ; batches++ {
		if _, done := p.behind(); done || batches == 20 {
			break
		}
		n := len(s.events)
		b, err := s.next(ctx)
		if err == nil {
			err = p.addAll(s.events[n:])
		}
		if err == nil {
			err = heldStill(ctx, w, s, b)
		}
		if err != nil {
			return errors.Join(err, s.close())
		}
	}
	return s.finish(ctx, p)
}

// heldStill copies a batch, lets the datastore and the source go on, and compares.
func heldStill(ctx context.Context, w *history, s *session, b sources.Batch) error {
	before := clone(b)
	for i := range int64(3) {
		if err := w.write(ctx, w.put(200+i, 3000)); err != nil {
			return err
		}
	}
	if err := s.src.Durable(bytes.Clone(b.Position)); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	time.Sleep(20 * time.Millisecond)
	runtime.GC()
	if !reflect.DeepEqual(before, clone(b)) {
		return errors.New("a batch changed before the next call of Next: its memory was used again too early")
	}
	return nil
}

// clone copies a batch with all that it refers to.
func clone(b sources.Batch) sources.Batch {
	out := b
	out.Position = bytes.Clone(b.Position)
	out.Changes = make([]sources.Change, len(b.Changes))
	for i, c := range b.Changes {
		table := *c.Table
		c.Table = &table
		c.Before, c.After = cloneValues(c.Before), cloneValues(c.After)
		c.Order, c.Meta = bytes.Clone(c.Order), bytes.Clone(c.Meta)
		if c.Transaction != nil {
			transaction := *c.Transaction
			c.Transaction = &transaction
		}
		out.Changes[i] = c
	}
	return out
}

func cloneValues(values []sources.Value) []sources.Value {
	if values == nil {
		return nil
	}
	out := make([]sources.Value, len(values))
	for i, v := range values {
		out[i] = sources.Value{Data: bytes.Clone(v.Data), State: v.State}
	}
	return out
}

func checkIdle(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	p := w.start()
	err = w.write(ctx, w.put(1, 0))
	if err == nil {
		err = s.read(ctx, p)
	}
	if err == nil {
		err = s.quiet(ctx)
	}
	if err == nil && h.Traits.IdleWithin > 0 {
		err = idle(ctx, s)
	}
	opts := h.options()
	opts.Position, opts.Above = s.position(), []byte(s.last)
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	// A position that came idle must resume like any other.
	if err := w.write(ctx, w.put(1, 0), w.put(2, 0)); err != nil {
		return err
	}
	s, err = open(ctx, h, opts)
	if err != nil {
		return fmt.Errorf("at the idle position %s: %w", opts.Position, err)
	}
	return s.finish(ctx, p)
}

// idle moves the datastore beside the table and waits for an empty batch, twice.
func idle(ctx context.Context, s *session) error {
	for range 2 {
		before := s.position()
		if err := s.h.Idle(ctx); err != nil {
			return fmt.Errorf("harness: idle: %w", err)
		}
		limit, cancel := context.WithTimeout(ctx, s.h.Traits.IdleWithin)
		b, err := s.next(limit)
		cancel()
		if err != nil {
			return fmt.Errorf("no newer position than %s within %s, though the datastore moved: %w",
				before, s.h.Traits.IdleWithin, err)
		}
		if len(b.Changes) > 0 {
			return fmt.Errorf("%d changes came of a table that nobody wrote to", len(b.Changes))
		}
		if err := s.src.Durable(bytes.Clone(b.Position)); err != nil {
			return fmt.Errorf("durable: %w", err)
		}
	}
	return nil
}

func checkDurable(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	p := w.start()
	err = mixed(ctx, w)
	for n := 0; err == nil; n = len(s.events) {
		if _, done := p.behind(); done {
			break
		}
		if _, err = s.next(ctx); err != nil {
			break
		}
		if err = p.addAll(s.events[n:]); err == nil && len(s.stops)%3 == 0 {
			err = durable(s, s.position()) // the ones between are skipped
		}
	}
	if err == nil {
		err = durableWhileBlocked(ctx, s)
	}
	opts := h.options()
	opts.Position = s.position()
	if s.last != "" {
		opts.Above = []byte(s.last)
	}
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	if err := mixed(ctx, w); err != nil {
		return err
	}
	s, err = open(ctx, h, opts)
	if err != nil {
		return fmt.Errorf("at the position told durable, %s: %w", opts.Position, err)
	}
	return s.finish(ctx, p)
}

// durableWhileBlocked calls Durable while Next waits in another goroutine.
func durableWhileBlocked(ctx context.Context, s *session) error {
	limit, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	position := bytes.Clone(s.position())
	blocked := make(chan error, 1)
	go func() { blocked <- s.quiet(limit) }()
	time.Sleep(50 * time.Millisecond)
	err := durable(s, position)
	return errors.Join(err, <-blocked)
}

// durable calls Durable and verifies that it does not block.
func durable(s *session, position sources.Position) error {
	result := make(chan error, 1)
	go func() { result <- s.src.Durable(bytes.Clone(position)) }()
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("durable %s: %w", position, err)
		}
		return nil
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("durable %s blocks", position)
	}
}

func checkClose(ctx context.Context, h *Harness) error {
	w := newHistory(h)
	var position sources.Position
	var last string
	closings := []struct {
		name string
		read func(s *session) error
	}{
		{"at once", func(*session) error { return nil }},
		{"after reading", func(s *session) error {
			_, err := s.next(ctx)
			return err
		}},
		{"with changes unread", func(*session) error { return mixed(ctx, w) }},
		{"after Next was cancelled", func(s *session) error {
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := s.next(cancelled); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("next with a cancelled context: %w", err)
			}
			return nil
		}},
	}
	for _, c := range closings {
		before := goroutines()
		opening, cancel := context.WithCancel(ctx)
		opts := h.options()
		opts.Position = position
		if last != "" {
			opts.Above = []byte(last)
		}
		s, err := open(opening, h, opts)
		if err == nil {
			if position == nil {
				err = w.write(ctx, w.put(1, 0))
			}
			err = errors.Join(err, c.read(s))
			if s.position() != nil {
				position, last = s.position(), max(last, s.last)
			}
			cancel() // what Open got may have ended when Close is called
			err = errors.Join(err, s.close())
		}
		cancel()
		if err == nil {
			err = left(before)
		}
		if err != nil {
			return fmt.Errorf("close %s: %w", c.name, err)
		}
	}
	return nil
}

var goroutineHeader = regexp.MustCompile(`(?m)^goroutine (\d+) `)

// goroutines lists the stacks of all goroutines by their number.
func goroutines() map[string]string {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	out := map[string]string{}
	for _, stack := range bytes.Split(stacks, []byte("\n\n")) {
		if m := goroutineHeader.FindSubmatch(stack); m != nil {
			out[string(m[1])] = string(stack)
		}
	}
	return out
}

// left names a goroutine that was started since before and still runs.
func left(before map[string]string) error {
	var leaked string
	for range 10 { // one that has done its work may need a moment to go
		leaked = ""
		for id, stack := range goroutines() {
			if _, ok := before[id]; !ok {
				leaked = stack
			}
		}
		if leaked == "" {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("a goroutine is left after Close:\n%s", leaked)
}
