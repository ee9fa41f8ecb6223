package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// checkpoints follows those of one capture.
type checkpoints struct {
	cl      *kgo.Client
	capture string
	timeout time.Duration
	// waiting is called once when a wait takes long.
	waiting func(why string)

	next int64
	last checkpoint.Checkpoint // of which Capture is empty before there is one
}

const (
	pollEvery = 50 * time.Millisecond
	sayAfter  = 5 * time.Second
)

// read takes up what was written since, and returns the newest checkpoint. It is an error if the capture has none, or has gone
// over a gap since the first call.
func (c *checkpoints) read(ctx context.Context) (checkpoint.Checkpoint, error) {
	starts, ends, err := checkpoint.Bounds(ctx, c.cl, checkpoint.Topic)
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return c.last, err
	}
	epoch := c.last.Epoch
	if len(ends) > 0 {
		var newest []byte
		c.next = max(c.next, starts[0])
		err := checkpoint.Scan(ctx, c.cl, checkpoint.Topic, 0, c.next, ends[0], func(r *kgo.Record) error {
			if string(r.Key) == c.capture {
				newest = r.Value
			}
			return nil
		})
		if err != nil {
			return c.last, err
		}
		c.next = max(c.next, ends[0])
		if newest != nil {
			if c.last, err = checkpoint.Decode(newest); err != nil {
				return c.last, err
			}
		}
	}
	switch {
	case c.last.Capture == "" || c.last.Position == nil:
		return c.last, sources.Fatal("start it with weft run", "capture %q has never run on this log: there is nothing to compare", c.capture)
	case epoch != 0 && c.last.Epoch != epoch:
		return c.last, sources.Fatal("run it again when weft status says that its snapshot is done", "capture %q went over a gap meanwhile", c.capture)
	}
	return c.last, nil
}

// await waits until the capture's stream, as far as the log has it, is past all that a read saw.
func (c *checkpoints) await(ctx context.Context, view sources.View) error {
	began, said := time.Now(), false
	for {
		cp, err := c.read(ctx)
		if err != nil {
			return err
		}
		passed, err := view.Passed(cp.Position)
		if err != nil {
			return fmt.Errorf("compare a position: %w", err)
		}
		if passed {
			return nil
		}
		waited := time.Since(began)
		if waited > c.timeout {
			return sources.Fatal("start the daemon with weft run, or wait until weft status shows no lag; --timeout waits longer",
				"capture %q did not come past what was read from the source in %s: it stands at %s, committed %s ago",
				c.capture, c.timeout, cp.Position, time.Since(cp.WrittenAt).Round(time.Second))
		}
		if waited > sayAfter && !said {
			said = true
			c.waiting(fmt.Sprintf("waiting for capture %q to come past what was read from the source; it committed last %s ago", c.capture,
				time.Since(cp.WrittenAt).Round(time.Second)))
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
