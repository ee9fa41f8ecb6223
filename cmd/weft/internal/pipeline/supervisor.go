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

// Supervisor runs captures beside each other; one that fails does not touch the others.
type Supervisor struct {
	Captures []*Capture
	// Observe is called with each change of a status, by one goroutine at a time. It must not block for long.
	Observe func(Status)

	mu sync.Mutex
}

// Backoff bounds of restarts.
const (
	backoffMin = 500 * time.Millisecond
	backoffMax = 30 * time.Second
)

// Run returns when ctx ends, or when every capture has failed for good; then with their errors.
func (s *Supervisor) Run(ctx context.Context) error {
	errs := make([]error, len(s.Captures))
	var wg sync.WaitGroup
	for i, c := range s.Captures {
		wg.Go(func() { errs[i] = s.supervise(ctx, c) })
	}
	wg.Wait()
	return errors.Join(errs...)
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
