package pipeline

import (
	"sync/atomic"
	"time"

	"weft/sink"
	"weft/sources"
)

// CommitBounds are the upper bounds, in seconds, of the buckets that commits are counted in by their duration; the last
// bucket has none.
var CommitBounds = [...]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// figures are what a capture counts, by its own goroutine and for any other to read. They begin at the process's start.
type figures struct {
	changes, bytes, commits, starts atomic.Int64
	rows                            atomic.Int64 // of snapshots
	commitNanos                     atomic.Int64
	commitBuckets                   [len(CommitBounds) + 1]atomic.Int64
	committing                      atomic.Int64 // since when, in Unix nanoseconds; 0: no commit is under way
	progressed                      atomic.Int64 // when the last commit ended, or the source was opened
	complete                        atomic.Int64 // the log holds all that the datastore committed until then
	idle                            atomic.Bool  // and the source has no more
}

// Figures are a capture's figures at one moment.
type Figures struct {
	// Changes, Bytes of records, and Commits since the process's start; Starts counts the tries to run the capture.
	Changes, Bytes, Commits, Starts int64
	// CommitTime is the sum of all commits' durations; CommitBuckets counts them by CommitBounds, not cumulated.
	CommitTime    time.Duration
	CommitBuckets [len(CommitBounds) + 1]int64
	// Committing is since when a commit is under way, zero for none, and Progressed when the last one ended.
	Committing, Progressed time.Time
	// Rows that snapshots have written since the process's start.
	Rows int64
	// Complete: the log holds all that the datastore committed until then. Zero when that is not known.
	Complete time.Time
	// Idle says that the source had nothing more when the last commit ended.
	Idle bool
	// BufferedBytes are on their way to the brokers, of at most BufferLimit.
	BufferedBytes, BufferLimit int64
	Lag                        sources.Lag
}

// Figures may be called by any goroutine.
func (c *Capture) Figures() Figures {
	f := &c.figures
	r := Figures{
		Changes: f.changes.Load(), Bytes: f.bytes.Load(), Commits: f.commits.Load(), Starts: f.starts.Load(),
		Rows: f.rows.Load(), CommitTime: time.Duration(f.commitNanos.Load()), Idle: f.idle.Load(),
		Committing: unixNano(f.committing.Load()), Progressed: unixNano(f.progressed.Load()), Complete: unixNano(f.complete.Load()),
		Lag: c.Lag(),
	}
	for i := range r.CommitBuckets {
		r.CommitBuckets[i] = f.commitBuckets[i].Load()
	}
	if w := c.writer.Load(); w != nil {
		r.BufferedBytes, r.BufferLimit = w.Buffered()
	}
	return r
}

func unixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// opened notes that the source is open.
func (f *figures) opened() { f.progressed.Store(time.Now().UnixNano()) }

// began notes that a commit begins; what it returns notes that it has succeeded. read is when the source returned the last of it,
// newest that change's commit time in microseconds or 0, and all whether the source had no more.
func (f *figures) began(w *sink.Writer) (succeeded func(changes int64, read time.Time, newest int64, all bool)) {
	began := time.Now()
	f.committing.Store(began.UnixNano())
	bytes, _ := w.Pending()
	rows := w.Rows()
	return func(changes int64, read time.Time, newest int64, all bool) {
		now := time.Now()
		took := now.Sub(began)
		f.committing.Store(0)
		f.progressed.Store(now.UnixNano())
		f.changes.Add(changes)
		f.bytes.Add(int64(bytes))
		f.rows.Add(rows)
		f.commits.Add(1)
		f.commitNanos.Add(int64(took))
		bucket := 0
		for bucket < len(CommitBounds) && took.Seconds() > CommitBounds[bucket] {
			bucket++
		}
		f.commitBuckets[bucket].Add(1)
		switch {
		case all:
			f.complete.Store(read.UnixNano())
		case newest > 0:
			f.complete.Store(newest * 1000)
		}
		f.idle.Store(all)
	}
}
