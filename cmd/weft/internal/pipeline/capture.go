// Package pipeline runs captures: one capture's loop from source to log, and the supervisor that restarts it.
//
// It knows no datastore and no record format. What a source is, is package sources; how records and checkpoints get into
// the log, package sink.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sink"
	"weft/snapshot"
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
	// Snapshots says how tables are read beside the stream.
	Snapshots Snapshots
	Logger    hclog.Logger
	// Preflight, where it is not nil, is called at the beginning of each Run; an error ends it.
	Preflight func(context.Context) error
	// Confirm, where it is not nil, is called once the capture's former writer is fenced, before anything is read; an error
	// ends the Run. What it finds to stand, nobody has changed who must be the capture's only writer for that.
	Confirm func(context.Context) error

	source  atomic.Pointer[sources.Source] // while it is open
	writer  atomic.Pointer[sink.Writer]    // likewise
	figures figures
	asked   asked
}

// Lag is how far the capture is behind, as its source knows. Any goroutine may call it.
func (c *Capture) Lag() sources.Lag {
	if src := c.source.Load(); src != nil {
		if l, ok := (*src).(sources.Lagger); ok {
			return l.Lag()
		}
	}
	return sources.UnknownLag
}

// Horizon is up to where the capture's source returns changes, for people; "" where that is the datastore's present or not known.
func (c *Capture) Horizon() string {
	if src := c.source.Load(); src != nil {
		if h, ok := (*src).(sources.Horizoner); ok {
			return h.Horizon()
		}
	}
	return ""
}

// openPartial is how long a source transaction that is slow to arrive may hold a commit back. The log's own limit is a
// minute, and its readers wait that long.
const openPartial = 10 * time.Second

// stopCommit is how long a stop may take to commit what is written; after that it is read again at the next start.
const stopCommit = 5 * time.Second

// Run captures until ctx ends, which is no error, or something goes wrong. progress is called once the source is open, and
// after each commit.
func (c *Capture) Run(ctx context.Context, progress func(Progress)) error {
	c.figures.starts.Add(1)
	if c.Preflight != nil {
		if err := c.Preflight(ctx); err != nil {
			return stopped(ctx, err)
		}
	}
	w, err := sink.Open(ctx, c.Writer)
	if err != nil {
		return stopped(ctx, fmt.Errorf("open log: %w", err))
	}
	defer w.Close()
	c.writer.Store(w)
	defer c.writer.Store(nil)
	if c.Confirm != nil {
		if err := c.Confirm(ctx); err != nil {
			return stopped(ctx, err)
		}
	}
	if gap := w.Gap(); gap != nil {
		if err := c.overGap(ctx, w, gap); err != nil {
			return err
		}
	}
	goneOver, delivered := false, int64(0)
	for {
		err := c.runSource(ctx, w, progress)
		var gap *sources.GapError
		if !errors.As(err, &gap) {
			return stopped(ctx, err)
		}
		if changes := w.Checkpoint().Changes; goneOver && changes == delivered { // a third would come no further
			return fmt.Errorf("after a gap that was gone over: %w", err)
		}
		if err := c.overGap(ctx, w, gap); err != nil {
			return err
		}
		goneOver, delivered = true, w.Checkpoint().Changes
	}
}

// runSource opens the source at the checkpoint and runs the loop until it ends.
func (c *Capture) runSource(ctx context.Context, w *sink.Writer, progress func(Progress)) error {
	src, err := c.Source.Open(ctx, sources.OpenOptions{
		Capture: c.Name, Tables: c.Tables, Keys: c.Keys,
		Position: w.Checkpoint().Position, Above: w.Above(), Held: w.Held(), Existing: c.Snapshots.Initial,
		BatchBytes: c.BatchBytes, ReadAheadBytes: c.ReadAheadBytes, Logger: c.Logger,
	})
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	c.source.Store(&src)
	defer c.source.Store(nil)
	c.figures.opened()
	progress(progressOf(w))
	in, err := c.interleaver(w)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	defer c.closeInterleaver(in)
	return errors.Join(c.loop(ctx, src, in, w, progress), src.Close())
}

// overGap records the gap and begins a new epoch, or stops the capture with it.
func (c *Capture) overGap(ctx context.Context, w *sink.Writer, gap *sources.GapError) error {
	if !c.ContinueAfterGap {
		return gap
	}
	c.Logger.Error("changes are lost; going on in a new epoch", "reason", gap.Reason)
	c.snapshotAfterGap(w)
	if err := w.NextEpoch(ctx, gap); err != nil {
		return fmt.Errorf("record gap: %w", err)
	}
	return nil
}

// loop is the capture: pull a batch, write it, and when due commit it and tell the source.
func (c *Capture) loop(ctx context.Context, src sources.Source, in *snapshot.Interleaver, w *sink.Writer, progress func(Progress)) error {
	var position sources.Position
	var below []byte // of the last batch that has one
	partial := false // the last batch ended inside a source transaction
	all := false     // the last batch was all that the source had
	behind := false  // it was of a backlog
	whole := 0       // bytes pending at the last end of one
	newest := int64(0)
	var read time.Time // when the last batch came, and its newest change's commit time
	commit := func(ctx context.Context, all bool) error {
		defer c.whenSlow()()
		before := w.Checkpoint().Changes
		succeeded := c.figures.began(w)
		w.Inside(partial)
		w.Below(below)
		if err := w.Commit(ctx, position, all); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		succeeded(w.Checkpoint().Changes-before, read, newest, all)
		c.asked.settle(w.Checkpoint().Snapshot)
		whole = 0
		if in != nil {
			in.Committed()
		}
		if err := src.Durable(position); err != nil {
			return fmt.Errorf("release source: %w", err)
		}
		progress(progressOf(w))
		return nil
	}
	for {
		batch, err := c.next(ctx, src, in, w, partial, all, behind)
		woken := errors.Is(err, errWoken)
		switch {
		case woken:
			batch = sources.Batch{Position: position, More: !all, Behind: behind}
		case ctx.Err() != nil:
			if pending, _ := w.Pending(); pending > 0 { // a stop: what is written is committed, the rest is read again
				stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopCommit)
				defer cancel()
				return commit(stop, false)
			}
			return nil
		case errors.Is(err, context.DeadlineExceeded) && (all || c.overdue(w, partial)):
			if err := commit(ctx, all); err != nil {
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
		if err := c.write(ctx, w, batch.Changes); err != nil {
			return stopped(ctx, err)
		}
		if err == nil {
			read = time.Now()
			if n := len(batch.Changes); n > 0 {
				newest = batch.Changes[n-1].CommitTime
				c.figures.idle.Store(false)
			}
			position, partial, all = append(position[:0], batch.Position...), batch.Partial, !batch.More && !batch.Partial
			behind = batch.Behind
			if batch.Below != nil {
				below = append(below[:0], batch.Below...)
			}
		}
		moved, err := c.interleave(ctx, in, w, batch.Changes, position, partial)
		if err != nil {
			return stopped(ctx, err)
		}
		pending, _ := w.Pending()
		if woken && !moved && pending == 0 { // there is nothing to write yet
			continue
		}
		if moved && pending == 0 && position != nil || c.due(batch, w, whole) {
			if err := commit(ctx, !batch.More); err != nil {
				return err
			}
		} else if !partial {
			whole = pending
		}
	}
}

func (c *Capture) write(ctx context.Context, w *sink.Writer, changes []sources.Change) error {
	defer c.whenSlow()()
	for i := range changes {
		if err := w.Write(ctx, &changes[i]); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// slow is how long the log may take before the daemon says that it waits.
const slow = 5 * time.Second

// whenSlow warns if what follows takes long, and tells when it is over; the func that it returns ends it.
func (c *Capture) whenSlow() func() {
	began := time.Now()
	warn := time.AfterFunc(slow, func() {
		c.Logger.Warn("the log does not answer; the capture waits, and the datastore keeps what it has not read", "for", slow)
	})
	return func() {
		if !warn.Stop() {
			c.Logger.Info("the log has answered, or the wait is given up", "after", time.Since(began).Round(time.Millisecond))
		}
	}
}

// next bounds the wait for a batch by the time at which what is pending must be committed: when the log is ready for it if
// that is all that there is.
//
// While rows may be put between this batch and the next, it returns errWoken when there are some.
func (c *Capture) next(ctx context.Context, src sources.Source, in *snapshot.Interleaver, w *sink.Writer, partial, all, behind bool) (sources.Batch, error) {
	if in != nil && !partial && w.Checkpoint().Position != nil { // before that there is no place for any
		return c.nextOrWoken(ctx, src, in, w, all, behind)
	}
	return c.nextBatch(ctx, src, w, partial, all, behind)
}

func (c *Capture) nextBatch(ctx context.Context, src sources.Source, w *sink.Writer, partial, all, behind bool) (sources.Batch, error) {
	if pending, since := w.Pending(); pending > 0 {
		deadline := since.Add(c.patience(partial))
		if ready := readyAt(w, behind); all && ready.Before(deadline) {
			deadline = ready
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	return src.Next(ctx)
}

// due tells whether to commit after a batch: at once when the source has nothing more ready and the log is ready, since
// waiting would gain nothing; else when enough is gathered. A source transaction is cut only when it alone is too large, or too slow.
func (c *Capture) due(b sources.Batch, w *sink.Writer, whole int) bool {
	pending, _ := w.Pending()
	if b.Partial {
		return pending-whole >= c.CommitBytes || c.overdue(w, true)
	}
	return !b.More && (pending == 0 || !time.Now().Before(readyAt(w, b.Behind))) || b.Urgent || pending >= c.CommitBytes || c.overdue(w, false)
}

// gather is how long a commit of a backlog waits for more. Its changes have waited for longer, and a commit costs the log and this
// process several requests, whatever is in it.
const gather = 250 * time.Millisecond

// readyAt is the time before which a commit of what is pending would only wait in the log or, of a backlog, hold little. Rows of a
// snapshot do not wait: the next of them come after the commit.
func readyAt(w *sink.Writer, behind bool) time.Time {
	ready := w.Ready()
	if _, since := w.Pending(); behind && w.Rows() == 0 && since.Add(gather).After(ready) {
		return since.Add(gather)
	}
	return ready
}

// overdue tells whether what is pending has waited for long enough.
func (c *Capture) overdue(w *sink.Writer, partial bool) bool {
	pending, since := w.Pending()
	return pending > 0 && time.Since(since) >= c.patience(partial)
}

// patience is how long what is pending may wait for more.
func (c *Capture) patience(partial bool) time.Duration {
	if partial {
		return openPartial
	}
	return c.CommitInterval
}

// stopped drops an error that is but the stop itself.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
