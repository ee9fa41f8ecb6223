package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
)

// Options is what an Interleaver needs to know.
type Options struct {
	Source sources.Snapshotter
	// Open is how the capture's source was opened; Position is set for each Reader.
	Open sources.OpenOptions
	// Added says that captured tables that no snapshot has covered are read without being asked for.
	Added bool
	// Parallel is how many reads may be under way at a time. Twice as many chunks are in memory.
	Parallel int
	// RowsPerSecond bounds the reading; 0 for no bound.
	RowsPerSecond int
	// ChunkBytes bounds a chunk, RingBytes what is kept of the stream's changes.
	ChunkBytes, RingBytes int
	// Sweep is asked for after a gap, for each table with a key. Nil: rows that were deleted meanwhile stay in the topic.
	Sweep  func(*sources.Table) Sweep
	Logger hclog.Logger
}

// Request asks for a snapshot, or for the end of one.
type Request struct {
	// ID is unique in the capture. One that is done with already is ignored.
	ID string
	// Tables, as Reader.Tables has them; all of the capture's where there are none.
	Tables []string
	// Where is a condition in the datastore's language, or empty.
	Where string
	// Keys, where not nil, asks for a repair instead: the rows with these keys, by table, are written as they are at the source, and those
	// that are not there as deletes. Tables and Where say nothing then. A key holds the wire forms of the key columns in
	// Table.Key's order, nil for null.
	Keys map[string][][][]byte
	// Cancel ends the snapshot of that name (checkpoint.Snapshot.Name) instead, or forgets the request of that ID.
	Cancel bool
}

// A repair takes no more than this at a time, of each table, and of bytes in its keys.
const (
	MaxRepairKeys  = maxAgain - maxAgain/8 // the rest is for rows that get another key meanwhile
	MaxRepairBytes = maxAgainBytes - maxAgainBytes/8
)

// KeyBytes is what a key counts of MaxRepairBytes.
func KeyBytes(key [][]byte) int { return len(bytesOf(key)) }

// Interleaver makes a capture's snapshots. Its methods are called by the capture's goroutine, but for Wake.
type Interleaver struct {
	o       Options
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	state   *checkpoint.Snapshot
	changed bool
	waiting []Request
	early   []checkpoint.Handled // while there is no state
	names   []string             // the capture's tables, once they are listed
	checked bool                 // added tables have been looked for
	listing *listing
	rows    *session

	mu    sync.Mutex
	wake  func()
	woken bool // since Interleave was last called
}

// listing asks the datastore for the capture's tables.
type listing struct {
	position sources.Position
	done     chan struct{}
	names    []string
	err      error
}

// New goes on from state, the checkpoint's, which may be nil. Close must be called.
func New(o Options, state *checkpoint.Snapshot) *Interleaver {
	i := &Interleaver{o: o, state: state.Clone(), woken: true}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	return i
}

// Close ends all reads and waits for them.
func (i *Interleaver) Close() {
	i.cancel()
	if i.rows != nil {
		i.rows.wait()
	}
	i.wg.Wait()
}

// OnWake sets what is called, from any goroutine, when there may be something to interleave that was not there when Interleave was
// last called; at once where that is so already. It must not block. Nil ends that.
func (i *Interleaver) OnWake(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wake = f
	if i.woken && f != nil {
		f()
	}
}

// Wake has Interleave called. Any goroutine may call it.
func (i *Interleaver) Wake() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.woken = true
	if i.wake != nil {
		i.wake()
	}
}

// Ask takes a request in.
func (i *Interleaver) Ask(r Request) {
	i.Wake()
	if !slices.ContainsFunc(i.waiting, func(o Request) bool { return o.ID == r.ID && o.Cancel == r.Cancel }) {
		i.waiting = append(i.waiting, r)
	}
}

// State returns how far it has come if that has changed since the last call: it belongs into the next commit.
func (i *Interleaver) State() (*checkpoint.Snapshot, bool) {
	if i.rows != nil {
		i.rows.save(i)
	}
	if !i.changed {
		return nil, false
	}
	i.changed = false
	return i.state.Clone(), true
}

// Track notes what the stream has changed. It is called for all changes that are returned, before Interleave for the position
// behind them.
func (i *Interleaver) Track(changes []sources.Change) {
	if i.rows != nil {
		i.rows.track(changes)
	}
}

// Committed tells that all that was written is committed.
func (i *Interleaver) Committed() {
	if i.rows != nil {
		i.rows.committed()
	}
}

// Interleave writes the rows of all chunks that the stream has passed at position, which is between two transactions, and begins and
// ends snapshots. What it has written and State belong into one commit. With a nil w nothing is written, and position may be inside
// of a transaction.
func (i *Interleaver) Interleave(ctx context.Context, position sources.Position, w Writer) error {
	i.mu.Lock()
	i.woken = false
	i.mu.Unlock()
	i.cancels()
	switch {
	case i.rows != nil && w == nil:
		return nil
	case i.rows != nil:
		return i.proceed(ctx, position, w)
	case !i.wanted():
		return nil
	case i.listing == nil:
		i.list(position)
		return nil
	}
	select {
	case <-i.listing.done:
	default:
		return nil
	}
	switch err := i.listing.err; {
	case errors.Is(err, sources.ErrNotBegun):
		if string(i.listing.position) != string(position) {
			i.list(position)
		}
		return nil
	case err != nil:
		return fmt.Errorf("list the tables to read: %w", err)
	}
	i.names, i.listing = i.listing.names, nil
	i.choose()
	if i.state.Running() {
		i.begin(position)
	}
	return nil
}

// wanted tells whether there is something to begin, or to look for.
func (i *Interleaver) wanted() bool {
	return i.state.Running() || len(i.waiting) > 0 || len(i.early) > 0 || i.o.Added && !i.checked
}

// list begins to list the tables.
func (i *Interleaver) list(position sources.Position) {
	l := &listing{position: slices.Clone(position), done: make(chan struct{})}
	i.listing = l
	o := i.o.Open
	o.Position = l.position
	i.wg.Go(func() {
		defer i.Wake()
		defer close(l.done)
		reader, err := i.o.Source.OpenReader(i.ctx, o)
		if err != nil {
			l.err = err
			return
		}
		l.names, l.err = reader.Tables(i.ctx)
		l.err = errors.Join(l.err, reader.Close())
	})
}

// proceed writes what is ready, and ends the snapshot when that was all.
func (i *Interleaver) proceed(ctx context.Context, position sources.Position, w Writer) error {
	finished, err := i.rows.pass(ctx, position, w)
	if err != nil {
		var refused *Refusal
		var fatal *sources.FatalError
		if i.state.Request == "" || !errors.As(err, &refused) && !(errors.As(err, &fatal) && i.rows.failed()) {
			return fmt.Errorf("snapshot: %w", err)
		}
		i.end(err.Error(), false)
		return nil
	}
	if finished {
		i.end("", false)
	}
	return nil
}

// begin starts the reads of the state's snapshot. What is returned from position on is tracked.
func (i *Interleaver) begin(position sources.Position) {
	o := i.o.Open
	o.Position = slices.Clone(position)
	i.o.Logger.Info("snapshot is read", "snapshot", i.state.Name(), "reason", i.state.Reason, "tables", len(i.state.Tables), "rows_so_far", i.state.Rows())
	i.rows = startSession(i.ctx, i.o, o, i.state, i.Wake)
}

// end closes the snapshot that is under way.
func (i *Interleaver) end(why string, cancelled bool) {
	if s := i.rows; s != nil {
		s.save(i)
		s.stop()
		s.stopSweeps()
		i.rows = nil
		i.wg.Go(s.wait)
	}
	now := time.Now().UTC()
	s := i.state
	s.EndedAt, s.Error, s.Cancelled = &now, why, cancelled
	for _, t := range s.Tables {
		if t.Done && t.Where == "" && s.Reason != checkpoint.ReasonRepair || cancelled && s.Request == "" {
			i.cover(t.Table)
		}
	}
	if s.Request != "" {
		i.handled(checkpoint.Handled{Request: s.Request, At: now, Rows: s.Rows(), Cancelled: cancelled, Error: why})
	}
	i.changed, i.checked = true, false
	i.Wake() // for what comes next
	log, args := i.o.Logger.Info, []any{"snapshot", s.Name(), "rows", s.Rows(), "after", now.Sub(s.StartedAt).Round(time.Millisecond)}
	if why != "" {
		log, args = i.o.Logger.Error, append(args, "error", why)
	}
	log(map[bool]string{false: "snapshot has ended", true: "snapshot is cancelled"}[cancelled], args...)
}
