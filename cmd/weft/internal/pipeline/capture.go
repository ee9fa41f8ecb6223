// Package pipeline runs captures: one capture's loop from source to log, and the supervisor that restarts it.
//
// It knows no datastore and no record format. What a source is, is package sources; how records and checkpoints get into
// the log, package sink.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sink"
	"weft/sources"
)

// Capture is one capture as configured.
type Capture struct {
	Name   string
	Source sources.Config
	Tables []string
	Keys   map[string][]string
	// ContinueAfterGap: go on where the source can, in a new epoch, instead of stopping.
	ContinueAfterGap bool
	// Writer is how the capture's log is opened.
	Writer sink.Options
	// BatchBytes and ReadAheadBytes bound what the source holds.
	BatchBytes, ReadAheadBytes int
	// CommitBytes and CommitInterval bound what one commit gathers while the source has more.
	CommitBytes    int
	CommitInterval time.Duration
	Logger         hclog.Logger
}

// openPartial is how long a source transaction that is slow to arrive may hold a commit back. The log's own limit is a
// minute, and its readers wait that long.
const openPartial = 10 * time.Second

// Run captures until ctx ends, which is no error, or something goes wrong. progress is called once the source is open, and
// after each commit.
func (c *Capture) Run(ctx context.Context, progress func(Progress)) error {
	w, err := sink.Open(ctx, c.Writer)
	if err != nil {
		return stopped(ctx, fmt.Errorf("open log: %w", err))
	}
	defer w.Close()
	if gap := w.Gap(); gap != nil {
		if err := c.overGap(ctx, w, gap); err != nil {
			return err
		}
	}
	for {
		src, err := c.openSource(ctx, w)
		if err != nil {
			return stopped(ctx, err)
		}
		progress(progressOf(w, src))
		err = errors.Join(c.loop(ctx, src, w, progress), src.Close())
		var gap *sources.GapError
		if !errors.As(err, &gap) {
			return err
		}
		if err := c.overGap(ctx, w, gap); err != nil {
			return err
		}
	}
}

// openSource opens the source at the checkpoint; over a gap, if the capture is to go on, at its far side.
func (c *Capture) openSource(ctx context.Context, w *sink.Writer) (sources.Source, error) {
	for {
		src, err := c.Source.Open(ctx, sources.OpenOptions{
			Capture: c.Name, Tables: c.Tables, Keys: c.Keys,
			Position: w.Checkpoint().Position, Above: w.Above(),
			BatchBytes: c.BatchBytes, ReadAheadBytes: c.ReadAheadBytes, Logger: c.Logger,
		})
		var gap *sources.GapError
		if !errors.As(err, &gap) {
			if err != nil {
				return nil, fmt.Errorf("open source: %w", err)
			}
			return src, nil
		}
		if err := c.overGap(ctx, w, gap); err != nil {
			return nil, err
		}
	}
}

// overGap records the gap and begins a new epoch, or stops the capture with it.
func (c *Capture) overGap(ctx context.Context, w *sink.Writer, gap *sources.GapError) error {
	if !c.ContinueAfterGap {
		return gap
	}
	c.Logger.Error("changes are lost; going on in a new epoch", "reason", gap.Reason)
	if err := w.NextEpoch(ctx, gap); err != nil {
		return fmt.Errorf("record gap: %w", err)
	}
	return nil
}

// loop is the capture: pull a batch, write it, and when due commit it and tell the source.
func (c *Capture) loop(ctx context.Context, src sources.Source, w *sink.Writer, progress func(Progress)) error {
	var position sources.Position
	whole := 0 // bytes pending at the last end of a source transaction
	commit := func(ctx context.Context, all bool) error {
		if err := w.Commit(ctx, position, all); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		whole = 0
		if err := src.Durable(position); err != nil {
			return fmt.Errorf("release source: %w", err)
		}
		progress(progressOf(w, src))
		return nil
	}
	for {
		batch, err := c.next(ctx, src, w)
		switch {
		case ctx.Err() != nil:
			if pending, _ := w.Pending(); pending > 0 { // a stop: what is written is committed, the rest is read again
				return commit(context.WithoutCancel(ctx), false)
			}
			return nil
		case errors.Is(err, context.DeadlineExceeded) && overdue(w):
			if err := commit(ctx, false); err != nil {
				return err
			}
			continue
		case err != nil:
			var gap *sources.GapError
			if pending, _ := w.Pending(); pending > 0 && errors.As(err, &gap) { // what came before it is good
				if err := commit(ctx, false); err != nil {
					return err
				}
			}
			return fmt.Errorf("read source: %w", err)
		}
		// A snapshot's chunk goes here, between two batches of the stream.
		for i := range batch.Changes {
			if err := w.Write(ctx, &batch.Changes[i]); err != nil {
				return stopped(ctx, fmt.Errorf("write: %w", err))
			}
		}
		position = append(position[:0], batch.Position...)
		if c.due(batch, w, whole) {
			if err := commit(ctx, !batch.More); err != nil {
				return err
			}
		} else if !batch.Partial {
			whole, _ = w.Pending()
		}
	}
}

// next bounds the wait for a batch by the time at which what is pending must be committed.
func (c *Capture) next(ctx context.Context, src sources.Source, w *sink.Writer) (sources.Batch, error) {
	if pending, since := w.Pending(); pending > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, since.Add(openPartial))
		defer cancel()
	}
	return src.Next(ctx)
}

// due tells whether to commit after a batch: at once when the source has nothing more ready, since waiting would gain
// nothing; else when enough is gathered. A source transaction is cut only when it alone is too large, or too slow.
func (c *Capture) due(b sources.Batch, w *sink.Writer, whole int) bool {
	pending, since := w.Pending()
	if b.Partial {
		return pending-whole >= c.CommitBytes || overdue(w)
	}
	return !b.More || b.Urgent || pending >= c.CommitBytes || pending > 0 && time.Since(since) >= c.CommitInterval
}

// overdue tells whether an unfinished source transaction has held the commit back for long enough.
func overdue(w *sink.Writer) bool {
	pending, since := w.Pending()
	return pending > 0 && time.Since(since) >= openPartial
}

// stopped drops an error that is but the stop itself.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
