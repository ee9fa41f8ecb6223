package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weft/sink"
	"weft/snapshot"
	"weft/sources"
)

// Snapshots says how a capture reads tables beside its stream, where its source can.
type Snapshots struct {
	// Initial: the tables are read when the capture begins, when one is added, and after a gap. Otherwise only when somebody asks. A
	// source that polls does so by itself.
	Initial bool
	// Parallel, RowsPerSecond and ChunkBytes are as in snapshot.Options.
	Parallel, RowsPerSecond, ChunkBytes int
}

// ringBytes bounds what is kept of the stream's changes while a snapshot is read.
const ringBytes = 8 << 20

// errWoken says that there are rows to put between two batches.
var errWoken = errors.New("rows are ready")

// Ask asks the capture for a snapshot, or to cancel one. Any goroutine may call it, whether the capture runs or not. What
// became of a request is in the checkpoint (checkpoint.Snapshot): until it is there, ask again in each process; asking twice
// is asking once.
func (c *Capture) Ask(r snapshot.Request) { c.asked.add(r) }

// Asked returns the requests that nothing in the checkpoint has come of yet.
func (c *Capture) Asked() []snapshot.Request {
	c.asked.mu.Lock()
	defer c.asked.mu.Unlock()
	return slices.Clone(c.asked.requests)
}

// snapshotter returns the source's config if its tables can be read, or nil.
func (c *Capture) snapshotter() sources.Snapshotter {
	s, _ := c.Source.(sources.Snapshotter)
	return s
}

// interleaved tells whether tables are read beside the stream without being asked for.
func (c *Capture) interleaved() bool {
	_, polls := c.Source.(sources.Poller)
	return c.Snapshots.Initial && !polls && c.snapshotter() != nil
}

// interleaver is nil where the source reads no tables.
func (c *Capture) interleaver(w *sink.Writer) (*snapshot.Interleaver, error) {
	source := c.snapshotter()
	cp := w.Checkpoint()
	if source == nil {
		if cp.Snapshot.Running() {
			return nil, sources.Fatal("give the capture another name", "the capture's checkpoint is in the middle of a snapshot, and its source reads no tables")
		}
		return nil, nil
	}
	state := cp.Snapshot
	if state == nil && cp.Position == nil && c.interleaved() {
		state = snapshot.Initial()
		w.SetSnapshot(state)
	}
	in := snapshot.New(snapshot.Options{
		Source: source,
		Open: sources.OpenOptions{
			Capture: c.Name, Tables: c.Tables, Keys: c.Keys, BatchBytes: c.BatchBytes, ReadAheadBytes: c.ReadAheadBytes, Logger: c.Logger,
		},
		Added: c.interleaved(), Parallel: c.Snapshots.Parallel, RowsPerSecond: c.Snapshots.RowsPerSecond,
		ChunkBytes: c.Snapshots.ChunkBytes, RingBytes: ringBytes,
		Sweep: func(t *sources.Table) snapshot.Sweep { return w.NewSweep(t) }, Logger: c.Logger,
	}, state)
	c.asked.attach(in)
	return in, nil
}

func (c *Capture) closeInterleaver(in *snapshot.Interleaver) {
	c.asked.attach(nil)
	if in != nil {
		in.Close()
	}
}

// snapshotAfterGap has all tables read again, in the commit that begins the new epoch.
func (c *Capture) snapshotAfterGap(w *sink.Writer) {
	if c.interleaved() {
		w.SetSnapshot(snapshot.AfterGap(w.Checkpoint().Snapshot))
	}
}

// interleave tracks what the stream has changed, and between two source transactions writes the rows that it has passed. moved says
// that the snapshot has come further: that is committed together with what is written.
func (c *Capture) interleave(ctx context.Context, in *snapshot.Interleaver, w *sink.Writer, changes []sources.Change, position sources.Position,
	partial bool) (moved bool, err error) {
	if in == nil {
		return false, nil
	}
	in.Track(changes)
	if !partial {
		var to snapshot.Writer = w
		if position == nil { // nothing was returned yet: reads may begin, but whether rows may come here is not known
			position, to = w.Checkpoint().Position, nil
		}
		if position == nil {
			return false, nil
		}
		for _, r := range c.asked.give() {
			in.Ask(r)
		}
		done := c.whenSlow()
		err := in.Interleave(ctx, position, to)
		done()
		if err != nil {
			return false, fmt.Errorf("interleave: %w", err)
		}
	}
	state, moved := in.State()
	if moved {
		w.SetSnapshot(state)
	}
	return moved, nil
}

// nextOrWoken is nextBatch, and errWoken when there is something to interleave first.
func (c *Capture) nextOrWoken(ctx context.Context, src sources.Source, in *snapshot.Interleaver, w *sink.Writer, all, behind bool) (sources.Batch, error) {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in.OnWake(func() { cancel(errWoken) })
	batch, err := c.nextBatch(waiting, src, w, false, all, behind)
	in.OnWake(nil)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(waiting), errWoken) && errors.Is(err, context.Canceled) {
		return batch, errWoken
	}
	return batch, err
}
