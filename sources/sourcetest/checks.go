package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"weft/sources"
)

// mixed writes transactions of several sizes over few rows: the largest are several batches long.
func mixed(ctx context.Context, w *history) error {
	for i, n := range []int{1, 3, 40, 2, 1, 60, 5, 1} {
		var rows []Row
		for j := range n {
			id := int64(i*7+j) % 13
			switch {
			case j%9 == 8 && w.isLive(id):
				rows = append(rows, w.del(id))
			case j%10 == 7:
				rows = append(rows, w.put(id, 20<<10))
			default:
				rows = append(rows, w.put(id, 200))
			}
		}
		if err := w.write(ctx, rows...); err != nil {
			return err
		}
	}
	return nil
}

func (w *history) isLive(id int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[id]
}

func checkOrder(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	p := w.start()
	// The first half is there before Next is called, the second comes while it is.
	if err := mixed(ctx, w); err != nil {
		return errors.Join(err, s.close())
	}
	if err := s.read(ctx, p); err != nil {
		return errors.Join(err, s.close())
	}
	written := make(chan error, 1)
	go func() { written <- mixed(ctx, w) }()
	err = s.read(ctx, p)
	if err = errors.Join(err, <-written); err != nil {
		return errors.Join(err, s.close())
	}
	return s.finish(ctx, p)
}

func checkValues(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	bodies := []string{
		"", " ", "null", "NULL", `\N`, `"`, `'`, `\`, `\\x00`, "a\tb\nc\r\nd", "\x01\x1f\x7f", "{}", "{1,NULL}", "0", "-0", "1e400",
		"\u00e9", "e\u0301", "\ufeff", "\uffff", "\U0001F9F5", "\U0010FFFF", "\u2028", strings.Repeat("\u20ac", 100_000),
	}
	ids := []int64{0, 1, -1, math.MaxInt32 + 1, math.MaxInt64, math.MinInt64}
	for i := range max(len(bodies), len(ids)) {
		id := int64(i) + 1000
		if i < len(ids) {
			id = ids[i]
		}
		row := w.put(id, 0)
		row.Body = &bodies[i]
		if err := w.write(ctx, row); err != nil {
			return errors.Join(err, s.close())
		}
	}
	null := w.put(2000, 0)
	null.Body = nil
	if err := w.write(ctx, null); err != nil {
		return errors.Join(err, s.close())
	}
	return s.finish(ctx, w.start())
}

func checkConcurrentWriters(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	const writers, writes = 4, 60
	results := make(chan error, writers)
	for n := range writers {
		go func() {
			for i := range writes {
				first := int64(n*10 + i%7)
				if err := w.write(ctx, w.put(first, 100), w.put(first+1, 100), w.put(first, 100)); err != nil {
					results <- err
					return
				}
			}
			results <- nil
		}()
	}
	p := w.start()
	for done := 0; done < writers; {
		if err == nil {
			err = s.read(ctx, p)
		}
		select {
		case werr := <-results:
			done++
			err = errors.Join(err, werr)
		case <-time.After(time.Millisecond):
		}
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	return s.finish(ctx, p)
}

func checkResume(ctx context.Context, h *Harness) error {
	full, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	// Some of it is read as it comes, so that there are positions between the transactions too.
	p := w.start()
	for range 2 {
		if err := mixed(ctx, w); err != nil {
			return errors.Join(err, full.close())
		}
		if err := full.read(ctx, p); err != nil {
			return errors.Join(err, full.close())
		}
	}
	if err := full.finish(ctx, p); err != nil {
		return err
	}
	stops := full.stops
	if len(stops) < 3 {
		return fmt.Errorf("%d changes came in %d batches of at most %d bytes; the check needs more positions",
			len(full.events), len(stops), full.opts.BatchBytes)
	}
	for i, at := range stops {
		if err := resume(ctx, h, w, full, at); err != nil {
			return fmt.Errorf("resume at position %d of %d, after %d of %d changes (partial: %t), %s: %w",
				i+1, len(stops), at.events, len(full.events), at.partial, at.position, err)
		}
	}
	return nil
}

// resume opens at one position of a full run and compares what comes with the rest of it.
func resume(ctx context.Context, h *Harness, w *history, full *session, at stop) error {
	p := w.start()
	if err := p.addAll(full.events[:at.events]); err != nil {
		return err
	}
	opts := h.options()
	opts.Position = at.position
	if len(full.events) > at.events {
		opts.Above = []byte(full.last)
	}
	s, err := open(ctx, h, opts)
	if err != nil {
		return err
	}
	if at.events > 0 && h.Traits.TotalOrder {
		s.last = full.events[at.events-1].order
	}
	s.partial = at.partial
	if err := s.finish(ctx, p); err != nil {
		return err
	}
	if !h.Traits.Reproducible {
		return nil
	}
	rest := full.events[at.events:]
	if h.Traits.EveryChange && len(s.events) != len(rest) {
		return fmt.Errorf("%d changes came, %d are left", len(s.events), len(rest))
	}
	orders := make(map[string]event, len(rest))
	for _, e := range rest {
		orders[e.order] = e
	}
	for _, e := range s.events {
		if first, ok := orders[e.order]; !ok || first != e {
			return fmt.Errorf("row %d, %q: the Order %s is not the one that the change had before", e.id, e.version.label, e.order)
		}
	}
	return nil
}

func checkDowntime(ctx context.Context, h *Harness) error {
	w := newHistory(h)
	p := w.start()
	opts := h.options()
	for round := range 4 {
		s, err := open(ctx, h, opts)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if round == 0 {
			err = w.write(ctx, w.put(1, 0), w.put(2, 0))
		}
		if err == nil {
			err = s.read(ctx, p)
		}
		opts.Position = s.position()
		if s.last != "" {
			opts.Above = []byte(s.last)
		}
		if err := errors.Join(err, s.close()); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := w.write(ctx, w.put(1, 0), w.put(int64(round+10), 0), w.del(2)); err != nil {
			return err
		}
		if err := w.write(ctx, w.put(2, 0)); err != nil {
			return err
		}
	}
	s, err := open(ctx, h, opts)
	if err != nil {
		return err
	}
	return s.finish(ctx, p)
}

func checkCancel(ctx context.Context, h *Harness) error {
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	w := newHistory(h)
	p := w.start()
	written := make(chan error, 1)
	go func() {
		for i := range 150 {
			rows := []Row{w.put(int64(i%17), 100), w.put(int64(i%5), 3000)}
			if i%10 == 9 {
				for j := range int64(60) {
					rows = append(rows, w.put(100+j, 2000))
				}
			}
			if err := w.write(ctx, rows...); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	ended := false
	for calls := 0; err == nil && (!ended || calls < 300); calls++ {
		select {
		case err = <-written:
			ended = true
			continue
		default:
		}
		one, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
		if calls%20 == 0 {
			cancel() // ended before the call
		}
		n := len(s.events)
		_, nextErr := s.next(one)
		if nextErr != nil && (one.Err() == nil || !errors.Is(nextErr, one.Err())) {
			err = fmt.Errorf("next, call %d, with a context that ends: %w", calls, nextErr)
		}
		cancel()
		if err == nil {
			err = p.addAll(s.events[n:])
		}
	}
	if !ended {
		err = errors.Join(err, <-written)
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	return s.finish(ctx, p)
}

func checkGap(ctx context.Context, h *Harness) error {
	w := newHistory(h)
	s, err := open(ctx, h, h.options())
	if err != nil {
		return err
	}
	err = w.write(ctx, w.put(1, 0), w.put(2, 0))
	if err == nil {
		err = s.read(ctx, w.start())
	}
	opts := h.options()
	opts.Position = s.position()
	if err := errors.Join(err, s.close()); err != nil {
		return err
	}
	if err := w.write(ctx, w.put(1, 0), w.put(3, 0)); err != nil {
		return err
	}
	if err := h.Break(ctx); err != nil {
		return fmt.Errorf("harness: break the datastore: %w", err)
	}
	gap, err := findGap(ctx, h, opts)
	if err != nil {
		return err
	}
	if gap.Reason == "" || gap.Remedy == "" {
		return fmt.Errorf("a gap's Reason %q or Remedy %q is empty", gap.Reason, gap.Remedy)
	}
	opts.Position = gap.Resume
	s, err = open(ctx, h, opts)
	if err != nil {
		return fmt.Errorf("after the gap, with its Resume %s: %w", gap.Resume, err)
	}
	after := newHistory(h)
	if err := after.write(ctx, after.put(100, 0)); err != nil {
		return errors.Join(err, s.close())
	}
	p := after.start()
	for n := 0; ; {
		if _, done := p.behind(); done {
			return s.close()
		}
		if _, err := s.next(ctx); err != nil {
			return errors.Join(fmt.Errorf("next, after the gap: %w", err), s.close())
		}
		for ; n < len(s.events); n++ {
			if e := s.events[n]; e.id == 100 { // others may be what the datastore still has
				if err := p.add(e); err != nil {
					return errors.Join(err, s.close())
				}
			}
		}
	}
}

// findGap opens a broken datastore and returns the gap that Open or Next reports.
func findGap(ctx context.Context, h *Harness, opts sources.OpenOptions) (*sources.GapError, error) {
	s, err := open(ctx, h, opts)
	if err == nil {
		limit, cancel := context.WithTimeout(ctx, 5*time.Second)
		for err == nil {
			_, err = s.next(limit)
		}
		cancel()
		if cerr := s.close(); cerr != nil {
			return nil, cerr
		}
	}
	var gap *sources.GapError
	if !errors.As(err, &gap) {
		return nil, fmt.Errorf("changes were lost, but neither Open nor Next returned a *GapError: %w", err)
	}
	return gap, nil
}
