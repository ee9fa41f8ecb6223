package spanner

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weft/sources"
)

// source implements sources.Source: one goroutine a running partition reads into a queue, and Next takes from it through the
// state machine of the partitions.
type source struct {
	config  *Config
	catalog *catalog
	layouts *layouts
	parts   *partitions
	queue   *queue
	encoder encoder
	batch   batch
	below   []byte // of the last batch

	// children are those that a partition has told of while its query goes on.
	children map[*partition][]child

	ctx     context.Context // of the readers
	stop    context.CancelFunc
	readers sync.WaitGroup
	begun   bool // the readers of the position's running partitions were started

	first  bool // the first position is to be returned
	told   stamp
	toldAt time.Time
	newest atomic.Int64 // commit time of the newest change returned, in microseconds
}

// idleInterval is how often at most an empty batch tells of idle progress.
const idleInterval = time.Second

func newSource(c *Config, cat *catalog, parts *partitions, o sources.OpenOptions) *source {
	s := &source{
		config: c, catalog: cat, layouts: newLayouts(cat), parts: parts, queue: newQueue(o.ReadAheadBytes),
		encoder: encoder{stream: c.Stream}, batch: batch{maxBytes: o.BatchBytes}, children: map[*partition][]child{},
		first: o.Position == nil, told: parts.low, toldAt: time.Now(),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Next implements sources.Source.
func (s *source) Next(ctx context.Context) (sources.Batch, error) {
	if err := ctx.Err(); err != nil {
		return sources.Batch{}, err
	}
	s.batch.reset()
	if s.first {
		// Where the capture begins, so that it is in a checkpoint before the first change is.
		s.first = false
		return s.give(false)
	}
	for {
		more, err := s.fill(ctx)
		if len(s.batch.changes) > 0 {
			return s.give(more || err != nil) // the item of an error stays, and fails the next call
		}
		if err != nil {
			return sources.Batch{}, s.config.explain(err)
		}
		idle, err := s.idle()
		if err != nil {
			return sources.Batch{}, err
		}
		if idle == 0 {
			return s.give(false)
		}
		timer := time.NewTimer(idle)
		select {
		case <-s.queue.ready:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return sources.Batch{}, ctx.Err()
		}
		timer.Stop()
	}
}

// give returns the batch with the position after it.
func (s *source) give(more bool) (sources.Batch, error) {
	p, err := s.encoder.encode(s.parts)
	if err != nil {
		return sources.Batch{}, err
	}
	s.told, s.toldAt = s.parts.low, time.Now()
	if n := len(s.batch.changes); n > 0 {
		s.newest.Store(max(s.newest.Load(), s.batch.changes[n-1].CommitTime))
	}
	s.below = appendBelow(s.below[:0], s.parts.low)
	return sources.Batch{Changes: s.batch.changes, Position: p, Below: s.below, More: more}, nil
}

// idle tells how long to wait until idle progress is due: 0 when it is.
func (s *source) idle() (time.Duration, error) {
	low, err := s.parts.watermark()
	if err != nil {
		return 0, err
	}
	if low == s.told {
		return time.Hour, nil // nothing to tell of until something comes
	}
	return max(0, time.Until(s.toldAt.Add(idleInterval))), nil
}

// fill takes from the queue until the batch is full, which it returns as true, or there is no more.
func (s *source) fill(ctx context.Context) (more bool, err error) {
	if !s.begun {
		if err := s.start(s.parts.running()); err != nil {
			return false, err
		}
		s.begun = true
	}
	if err := s.start(s.parts.startable()); err != nil {
		return false, err
	}
	for {
		i := s.queue.peek()
		if i == nil {
			return false, s.parts.stuck()
		}
		switch {
		case i.err != nil:
			return false, i.err
		case i.end:
			err = s.end(i.one)
		case i.rec.data != nil:
			if more, err = s.data(ctx, i.one, i.rec.data); more {
				return true, nil
			}
		case i.rec.children != nil:
			s.children[i.one] = append(s.children[i.one], i.rec.children...)
		default:
			i.one.heartbeat(i.rec.heartbeat)
		}
		if err != nil {
			return false, err
		}
		s.queue.pop()
	}
}

// end finishes a partition and starts what waited for it.
func (s *source) end(one *partition) error {
	if err := s.parts.finish(one, s.children[one]); err != nil {
		return fmt.Errorf("read the change stream %s: %w", s.config.Stream, err)
	}
	delete(s.children, one)
	return s.start(s.parts.startable())
}

// start starts the readers of partitions.
func (s *source) start(list []*partition) error {
	if len(list) == 0 {
		return nil
	}
	if n, most := len(s.parts.running()), s.config.connections()*perConnection; n > most {
		return sources.Fatal(fmt.Sprintf("set the source's connections to %d", n/perConnection+1),
			"the change stream %s has %d partitions to be read at a time, and %d connections read %d", s.config.Stream, n, s.config.connections(), most)
	}
	for _, one := range list {
		s.readers.Add(1)
		go s.read(s.ctx, one, one.at)
	}
	return nil
}

// data adds a record's mods to the batch. It returns true when the batch is full before the record is done.
func (s *source) data(ctx context.Context, one *partition, r *dataRecord) (full bool, err error) {
	done, whole, err := one.done(r.id)
	if err != nil || whole {
		return false, err
	}
	l, err := s.layouts.of(ctx, r)
	if err != nil {
		return false, err
	}
	if l == nil { // not captured
		one.take(r.id, len(r.mods), len(r.mods))
		return false, nil
	}
	for i := done; i < len(r.mods); i++ {
		m := &r.mods[i]
		if s.batch.full(len(m.keys) + len(m.newValues) + len(m.oldValues)) {
			return true, nil
		}
		if err := s.batch.add(l, r, i); err != nil {
			return false, err
		}
		one.take(r.id, i+1, len(r.mods))
	}
	if len(r.mods) == 0 {
		one.take(r.id, 0, 0)
	}
	return false, nil
}

// Durable implements sources.Source: a change stream holds its records for its retention period, whoever has read them.
func (s *source) Durable(sources.Position) error { return nil }

// Lag implements sources.Lagger.
func (s *source) Lag() sources.Lag {
	lag := sources.UnknownLag
	lag.CommitTime = s.newest.Load()
	lag.ReadAheadBytes, lag.ReadAheadLimit = int64(s.queue.held()), int64(s.queue.bound)
	return lag
}

// Close implements sources.Source.
func (s *source) Close() error {
	s.stop()
	s.queue.close()
	s.readers.Wait()
	s.catalog.client.Close()
	return nil
}

var _ sources.Lagger = (*source)(nil)
