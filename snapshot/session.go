package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weft/checkpoint"
	"weft/sources"
)

// session is the reading of one snapshot: a core, a Reader, and the goroutines that read.
type session struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   func()
	work   chan struct{} // holds one where a reader may find something to do
	rate   *limiter
	sweep  func(*sources.Table) Sweep

	splitting sync.Mutex

	mu     sync.Mutex
	core   *core
	reader sources.Reader // once it is open
	err    error          // of a read
}

// startSession opens the Reader and begins to read.
func startSession(ctx context.Context, o Options, open sources.OpenOptions, state *checkpoint.Snapshot, wake func()) *session {
	s := &session{core: newCore(state, o), wake: wake, rate: &limiter{perSecond: o.RowsPerSecond}, sweep: o.Sweep}
	s.work = make(chan struct{}, s.core.parallel)
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.wg.Go(func() {
		reader, err := o.Source.OpenReader(s.ctx, open)
		if err != nil {
			s.fail(fmt.Errorf("open reader: %w", err))
			return
		}
		s.mu.Lock()
		s.reader = reader
		s.mu.Unlock()
		var readers sync.WaitGroup
		for range s.core.parallel {
			readers.Go(s.run)
		}
		s.wake() // there may be nothing to read
		readers.Wait()
		if err := reader.Close(); err != nil {
			s.fail(fmt.Errorf("close reader: %w", err))
		}
	})
	return s
}

// stop ends the reads, wait waits for that.
func (s *session) stop() { s.cancel() }
func (s *session) wait() { s.wg.Wait() }

func (s *session) fail(err error) {
	s.mu.Lock()
	if s.err == nil && s.ctx.Err() == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.cancel()
	s.wake()
}

// failed tells whether a read has.
func (s *session) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

func (s *session) track(changes []sources.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.track(changes)
}

// save brings the state up to date.
func (s *session) save(i *Interleaver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.core.changed {
		s.core.save(i.state)
		i.changed = true
	}
}

// pass writes what is ready, and tells whether the snapshot is complete.
func (s *session) pass(ctx context.Context, position sources.Position, w Writer) (finished bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false, s.err
	}
	if s.reader == nil {
		return false, nil
	}
	err = s.core.pass(&place{ctx: ctx, position: position, reader: s.reader, w: w, sweep: s.sweep})
	for range s.core.parallel {
		s.offer()
	}
	return err == nil && s.core.finished(), err
}

// committed tells that what was written is committed.
func (s *session) committed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.core.committed() {
		s.wake()
	}
	for range s.core.parallel {
		s.offer()
	}
}

// stopSweeps gives them up.
func (s *session) stopSweeps() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.core.tables {
		s.core.stopSweep(t)
	}
}

// offer lets a waiting goroutine look for something to do.
func (s *session) offer() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// run reads until the session ends.
func (s *session) run() {
	for s.ctx.Err() == nil {
		s.mu.Lock()
		r := s.core.next()
		s.mu.Unlock()
		if r == nil {
			select {
			case <-s.work:
			case <-s.ctx.Done():
			}
			continue
		}
		if err := s.read(r); err != nil {
			s.fail(err)
			return
		}
		s.offer() // the next chunk of the range may be begun
		s.wake()
	}
}

func (s *session) read(r *read) error {
	if r.kind == readSplit {
		var cuts []sources.Cursor
		if s.core.parallel > 1 {
			s.splitting.Lock()
			defer s.splitting.Unlock()
			var err error
			if cuts, err = s.reader.Split(s.ctx, r.t.name, s.core.parallel); err != nil {
				return fmt.Errorf("split table %s: %w", r.t.name, err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.core.split(r, cuts)
		return nil
	}
	if r.kind == readSweep {
		keys, full, err := r.sweep.Find(s.ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.core.foundKeys(r, keys, full)
		return nil
	}
	if err := s.rate.wait(s.ctx); err != nil {
		return err
	}
	began := time.Now()
	chunk, err := s.reader.ReadChunk(s.ctx, r.q)
	if err != nil {
		return fmt.Errorf("read chunk: %w", err)
	}
	took := time.Since(began)
	s.rate.spend(len(chunk.Rows))
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.kind == readTable {
		s.core.described(r, chunk.Table)
		return nil
	}
	s.core.arrived(r, chunk, took)
	return nil
}

// limiter holds reads to so many rows a second. A read is paid for after it, by the next one.
type limiter struct {
	perSecond int
	mu        sync.Mutex
	free      time.Time
}

func (l *limiter) spend(rows int) {
	if l.perSecond <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(rows) / float64(l.perSecond) * float64(time.Second)))
}

func (l *limiter) wait(ctx context.Context) error {
	l.mu.Lock()
	free := l.free
	l.mu.Unlock()
	d := time.Until(free)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("wait for the rate"), ctx.Err())
	}
}
