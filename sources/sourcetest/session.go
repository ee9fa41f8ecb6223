package sourcetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// event is a change as the suite keeps it: a copy that outlives its batch.
type event struct {
	id      int64
	version version
	op      sources.Op
	order   string
}

// stop is a position that Next returned and how many events came before it.
type stop struct {
	position sources.Position
	events   int
	partial  bool
}

// session is one opened source. Its next verifies what holds for every batch.
type session struct {
	h      *Harness
	opts   sources.OpenOptions
	src    sources.Source
	events []event
	stops  []stop

	orders        map[string]bool
	last          string           // the newest Order
	lastOf        map[int64]string // and by row
	transaction   string
	inTransaction int64
	partial       bool
	watch         func(c *sources.Change, id int64) error // sees each change too, where not nil
}

func (h *Harness) options() sources.OpenOptions {
	return sources.OpenOptions{
		Capture:        "sourcetest",
		Tables:         h.Tables,
		Keys:           h.Keys,
		BatchBytes:     64 << 10,
		ReadAheadBytes: 1 << 20,
		Logger:         hclog.NewNullLogger(),
	}
}

func open(ctx context.Context, h *Harness, opts sources.OpenOptions) (*session, error) {
	if err := h.Config.Validate(); err != nil {
		return nil, fmt.Errorf("validate the harness's config: %w", err)
	}
	src, err := h.Config.Open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	s := &session{h: h, opts: opts, src: src, orders: map[string]bool{}, lastOf: map[int64]string{}}
	if opts.Position == nil {
		if err := s.begin(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("begin the capture: %w", err), s.close())
		}
	}
	return s, nil
}

// begin takes the batches that come before a capture's first change.
func (s *session) begin(ctx context.Context) error {
	for i := range s.h.Traits.FirstBatches {
		b, err := s.next(ctx)
		if err != nil {
			return fmt.Errorf("next, of first batch %d of %d: %w", i+1, s.h.Traits.FirstBatches, err)
		}
		if len(b.Changes) > 0 {
			return fmt.Errorf("first batch %d of %d holds changes, though nothing was written", i+1, s.h.Traits.FirstBatches)
		}
		if err := durable(s, b.Position); err != nil {
			return err
		}
		s.stops = s.stops[len(s.stops)-1:] // what is durable may be released: only the newest can be resumed at
	}
	return nil
}

// position is the newest one, or the one opened with.
func (s *session) position() sources.Position {
	if len(s.stops) == 0 {
		return s.opts.Position
	}
	return s.stops[len(s.stops)-1].position
}

// next calls Next once, verifies the batch and keeps a copy of what it brought.
func (s *session) next(ctx context.Context) (sources.Batch, error) {
	b, err := s.src.Next(ctx)
	if err != nil {
		return b, err
	}
	if !json.Valid(b.Position) {
		return b, fmt.Errorf("position %q is not a JSON value", b.Position)
	}
	if len(b.Changes) == 0 && bytes.Equal(b.Position, s.position()) {
		return b, fmt.Errorf("an empty batch repeats the position %s; Next must block", b.Position)
	}
	if b.Partial && !s.h.Traits.Transactions {
		return b, errors.New("a batch is Partial, of a source without transactions")
	}
	size := 0
	for i := range b.Changes {
		c := &b.Changes[i]
		if size > s.opts.BatchBytes {
			return b, fmt.Errorf("a batch of %d changes holds %d bytes in its first %d; BatchBytes is %d",
				len(b.Changes), size, i, s.opts.BatchBytes)
		}
		for _, values := range [][]sources.Value{c.Before, c.After} {
			for _, v := range values {
				size += len(v.Data)
			}
		}
		if err := s.add(c); err != nil {
			return b, fmt.Errorf("change %d of a batch, order %q: %w", i, c.Order, err)
		}
	}
	if len(b.Changes) > 0 {
		s.partial = b.Partial
	}
	s.stops = append(s.stops, stop{
		position: bytes.Clone(b.Position), events: len(s.events), partial: b.Partial,
	})
	return b, nil
}

// add verifies one change and keeps a copy.
func (s *session) add(c *sources.Change) error {
	if err := shape(c); err != nil {
		return err
	}
	row, err := s.h.decode(c)
	if err != nil {
		return err
	}
	e := event{id: row.ID, version: versionOf(row), op: c.Op, order: string(c.Order)}
	switch {
	case e.order == "":
		return errors.New("the Order is empty")
	case s.last != "" && len(e.order) != len(s.last):
		return fmt.Errorf("the Order's width differs from that of %q", s.last)
	case s.orders[e.order]:
		return errors.New("two changes have one Order")
	case e.order <= s.lastOf[e.id]:
		return fmt.Errorf("the Order of row %d does not increase: it was %q before", e.id, s.lastOf[e.id])
	case s.h.Traits.TotalOrder && e.order <= s.last:
		return fmt.Errorf("the Order does not increase: it was %q before", s.last)
	case !s.h.Traits.Reproducible && s.opts.Above != nil && e.order <= string(s.opts.Above):
		return fmt.Errorf("the Order is not above %q, which OpenOptions.Above asks for", s.opts.Above)
	}
	s.orders[e.order] = true
	s.last = e.order
	s.lastOf[e.id] = e.order
	if err := s.addTransaction(c); err != nil {
		return err
	}
	if s.watch != nil {
		if err := s.watch(c, row.ID); err != nil {
			return err
		}
	}
	s.events = append(s.events, e)
	return nil
}

// addTransaction verifies that a change counts on from the one before.
func (s *session) addTransaction(c *sources.Change) error {
	if !s.h.Traits.Transactions {
		if c.Transaction != nil {
			return errors.New("a change has a Transaction, of a source without transactions")
		}
		return nil
	}
	if c.Transaction == nil || c.Transaction.ID == "" {
		return errors.New("the change has no transaction ID")
	}
	want := int64(1)
	switch {
	case c.Transaction.ID == s.transaction:
		if !s.partial && len(s.stops) > 0 && s.stops[len(s.stops)-1].events == len(s.events) {
			return fmt.Errorf("transaction %s goes on after a batch that was not Partial", s.transaction)
		}
		want = s.inTransaction + 1
	case s.transaction == "" && s.opts.Position != nil:
		want = c.TransactionOrder // resumed, perhaps in mid-transaction
	}
	if c.TransactionOrder != want || c.TableOrder != want {
		return fmt.Errorf("transaction %s: TransactionOrder is %d and TableOrder %d; %d was to come",
			c.Transaction.ID, c.TransactionOrder, c.TableOrder, want)
	}
	s.transaction, s.inTransaction = c.Transaction.ID, c.TransactionOrder
	return nil
}

// shape verifies what a change must hold for its op.
func shape(c *sources.Change) error {
	if c.Table == nil {
		return fmt.Errorf("a change of op %q has no Table", c.Op)
	}
	if len(c.Table.Key) == 0 {
		return fmt.Errorf("table %s has no Key", c.Table)
	}
	for _, k := range c.Table.Key {
		if k < 0 || k >= len(c.Table.Columns) {
			return fmt.Errorf("table %s has %d columns, its Key names number %d", c.Table, len(c.Table.Columns), k)
		}
	}
	var before, after bool // required
	switch c.Op {
	case sources.OpCreate, sources.OpUpdate:
		after = true
	case sources.OpDelete:
		before = true
	default:
		return fmt.Errorf("op %q is not among those that the suite's writes make", c.Op)
	}
	if after != (c.After != nil) || before && c.Before == nil {
		return fmt.Errorf("op %q: Before is nil: %t, After is nil: %t", c.Op, c.Before == nil, c.After == nil)
	}
	for _, values := range [][]sources.Value{c.Before, c.After} {
		if values != nil && len(values) != len(c.Table.Columns) {
			return fmt.Errorf("%d values for %d columns", len(values), len(c.Table.Columns))
		}
		for _, v := range values {
			if v.State != sources.Present && len(v.Data) > 0 {
				return fmt.Errorf("a value of state %d holds data %q", v.State, v.Data)
			}
		}
	}
	if len(c.Meta) > 0 && !json.Valid([]byte("{"+string(c.Meta)+"}")) {
		return fmt.Errorf("meta %q is not members of a JSON object", c.Meta)
	}
	return nil
}

// read calls next until p has the newest version of every row.
func (s *session) read(ctx context.Context, p *progress) error {
	for {
		missing, done := p.behind()
		if done {
			return nil
		}
		n := len(s.events)
		if _, err := s.next(ctx); err != nil {
			return fmt.Errorf("next, after %d changes, waiting for %s: %w", n, missing, err)
		}
		if err := p.addAll(s.events[n:]); err != nil {
			return err
		}
	}
}

// addAll adds events until one is wrong.
func (p *progress) addAll(events []event) error {
	for _, e := range events {
		if err := p.add(e); err != nil {
			return err
		}
	}
	return nil
}

// quiet verifies that no further change comes.
func (s *session) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	for n := len(s.events); ; {
		_, err := s.next(ctx)
		switch {
		case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
			return nil
		case err != nil:
			return fmt.Errorf("next, with nothing more to come: %w", err)
		case len(s.events) > n:
			e := s.events[n]
			return fmt.Errorf("a change too many: row %d, %q, order %s", e.id, e.version.label, e.order)
		}
	}
}

// finish reads to the end of the history, verifies that nothing follows, and closes.
func (s *session) finish(ctx context.Context, p *progress) error {
	err := s.read(ctx, p)
	if err == nil {
		err = s.quiet(ctx)
	}
	return errors.Join(err, s.close())
}

func (s *session) close() error {
	if err := s.src.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}
