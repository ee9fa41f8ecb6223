package pipeline

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"weft/checkpoint"
	"weft/sink"
	"weft/sources"
)

// State is what a capture is doing.
type State string

const (
	Starting State = "starting" // opening its log and source
	Running  State = "running"  // reads its source
	Retrying State = "retrying" // waits to start again after an error
	Failed   State = "failed"   // needs somebody; does not start again by itself
	Stopped  State = "stopped"
)

// Progress is how far a capture has come.
type Progress struct {
	Position sources.Position
	Epoch    uint32
	Changes  int64 // since the capture's first start
	// Snapshot is the one under way, or the last one; nil for none. It is not to be changed.
	Snapshot *checkpoint.Snapshot
}

func progressOf(w *sink.Writer) Progress {
	cp := w.Checkpoint()
	return Progress{Position: cp.Position, Epoch: cp.Epoch, Changes: cp.Changes, Snapshot: cp.Snapshot}
}

// Status is a capture's state as others see it.
type Status struct {
	Capture string
	State   State
	Since   time.Time
	Err     error // of Retrying and Failed, and of Starting again
	Progress
}

// Wanted are the captures that are to run.
type Wanted struct {
	// Captures by pointer: one that was wanted before goes on undisturbed, another one of the same name takes its place.
	Captures []*Capture
	// Settled says that nobody is expected to want others, so that there is nothing to wait for when all have failed.
	Settled bool
}

// Supervisor runs captures beside each other; one that fails does not touch the others.
type Supervisor struct {
	// Observe is called with each change of a status, by one goroutine at a time. It must not block for long.
	Observe func(Status)
	// Left, where it is not nil, is called when a capture has ended that is no longer wanted, likewise.
	Left func(*Capture)

	mu sync.Mutex
}

// Backoff bounds of restarts.
const (
	backoffMin = 500 * time.Millisecond
	backoffMax = 30 * time.Second
)

// lane is the place of one capture by its name: what runs there waits for what ran there before.
type lane struct {
	capture *Capture
	stop    context.CancelFunc
	done    chan struct{}
	err     error // once done
}

func (l *lane) over() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Run runs what is wanted, as it is told. It returns when ctx ends, or when what is wanted is settled and has all failed for
// good; in either case with the errors of the captures that have.
func (s *Supervisor) Run(ctx context.Context, wanted <-chan Wanted) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	lanes := map[string]*lane{}
	ending := map[string]*lane{}    // those that are not wanted any more, until others take their place
	ended := make(chan struct{}, 1) // some lane has
	settled := false
	for ctx.Err() == nil && !(settled && len(lanes) > 0 && allDone(lanes)) {
		select {
		case <-ctx.Done():
		case <-ended:
		case w := <-wanted:
			settled = w.Settled
			next := map[string]*Capture{}
			for _, c := range w.Captures {
				next[c.Name] = c
			}
			for name, l := range lanes {
				if next[name] == l.capture {
					continue
				}
				l.stop()
				ending[name] = l
				delete(lanes, name)
			}
			for name, c := range next {
				if lanes[name] == nil {
					lanes[name] = s.start(ctx, c, ending[name], &running, ended)
					delete(ending, name)
				}
			}
		}
		for name, l := range ending {
			if !l.over() {
				continue
			}
			delete(ending, name)
			if s.Left != nil {
				s.mu.Lock()
				s.Left(l.capture)
				s.mu.Unlock()
			}
		}
	}
	stop()
	running.Wait()
	var errs []error
	for _, l := range lanes {
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}

// allDone tells whether every capture has ended for good.
func allDone(lanes map[string]*lane) bool {
	for _, l := range lanes {
		if !l.over() {
			return false
		}
	}
	return true
}

// start runs c once what ran in its place before has ended.
func (s *Supervisor) start(ctx context.Context, c *Capture, before *lane, running *sync.WaitGroup, ended chan<- struct{}) *lane {
	l := &lane{capture: c, done: make(chan struct{})}
	ctx, l.stop = context.WithCancel(ctx)
	running.Go(func() {
		if before != nil {
			<-before.done
		}
		if ctx.Err() == nil {
			l.err = s.supervise(ctx, c)
		}
		close(l.done)
		select {
		case ended <- struct{}{}:
		default:
		}
	})
	return l
}

// supervise restarts c until ctx ends or its error is one that no retry mends.
func (s *Supervisor) supervise(ctx context.Context, c *Capture) error {
	status := Status{Capture: c.Name}
	set := func(state State, err error) {
		if status.State == state && err == nil {
			return
		}
		if state != Starting {
			status.Err = err
		}
		status.State, status.Since = state, time.Now()
		s.observe(status)
	}
	backoff := backoffMin
	for {
		set(Starting, nil)
		err := c.Run(ctx, func(p Progress) {
			if !bytes.Equal(p.Position, status.Position) {
				backoff = backoffMin
			}
			status.Progress = p
			if status.State == Running {
				s.observe(status)
			}
			set(Running, nil)
		})
		if ctx.Err() != nil {
			if err != nil {
				c.Logger.Warn("stopped with an error; what was not committed is read again at the next start", "error", err)
			}
			set(Stopped, nil)
			return nil
		}
		if needsSomebody(err) {
			c.Logger.Error("capture failed", "error", err)
			set(Failed, err)
			return &CaptureError{Capture: c.Name, Err: err}
		}
		wait := backoff/2 + rand.N(backoff)
		if errors.Is(err, sink.ErrFenced) {
			// The other one runs it. Taking it back at once would only make the two depose each other again and again.
			wait = backoffMax/2 + rand.N(backoffMax)
		}
		c.Logger.Warn("capture failed, starting it again", "error", err, "in", wait.Round(time.Millisecond))
		set(Retrying, err)
		backoff = min(2*backoff, backoffMax)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *Supervisor) observe(st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Observe(st)
}

// CaptureError says which capture failed.
type CaptureError struct {
	Capture string
	Err     error
}

func (e *CaptureError) Error() string { return "capture " + e.Capture + ": " + e.Err.Error() }
func (e *CaptureError) Unwrap() error { return e.Err }

func needsSomebody(err error) bool {
	var fatal *sources.FatalError
	var gap *sources.GapError
	return errors.As(err, &fatal) || errors.As(err, &gap)
}
