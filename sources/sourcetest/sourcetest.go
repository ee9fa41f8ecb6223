// Package sourcetest is the suite that every source must pass: what the contract of package sources promises, checked
// against a real datastore through a Harness that the source's own test provides.
//
//	func TestConformance(t *testing.T) {
//		sourcetest.Run(t, func(t *testing.T) *sourcetest.Harness { ... })
//	}
//
// What only one kind of datastore has (its types, its errors, its settings) is tested beside that source, not here.
package sourcetest

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"weft/sources"
)

// Harness is a fresh datastore with one table to capture, and the suite's hands on it. The table has an integer key
// "id" of 64 bits and a text column "body" that may be null; it may have further columns that the source needs. The
// suite reads ids and bodies through Decode where rows look otherwise.
type Harness struct {
	// Config opens the source. The suite may open it many times in sequence, never twice at a time.
	Config sources.Config
	// Tables and Keys are handed to Open.
	Tables []string
	Keys   map[string][]string
	Traits Traits
	// Write writes rows in the order given and returns when they are committed: all in one transaction where the
	// datastore has transactions. It may be called by several goroutines at a time, each with keys of its own.
	Write func(ctx context.Context, rows ...Row) error
	// Idle makes the datastore's position move with no change of the table. Needed where Traits.IdleWithin is set.
	Idle func(ctx context.Context) error
	// Break makes the datastore lose changes, while no source is open: a dropped slot, an expired log, a restored
	// file. Nil skips the check of gaps.
	Break func(ctx context.Context) error
	// Decode reads a change's row; of a delete only the ID counts. Nil reads the columns id and body.
	Decode func(c *sources.Change) (Row, error)
}

// Traits are what one source promises and another cannot.
type Traits struct {
	// Deletes: the source tells of deletes. Otherwise the suite makes none.
	Deletes bool
	// EveryChange: each change of a row is delivered, not only the newest version at each look.
	EveryChange bool
	// Transactions: changes carry their Transaction, and a batch may be Partial.
	Transactions bool
	// Reproducible: after a resume the same changes come with the same Order. Otherwise Order continues above
	// OpenOptions.Above.
	Reproducible bool
	// TotalOrder: Order increases over all changes, not only over those of one key.
	TotalOrder bool
	// FirstBatches is how many batches Next returns, empty and each told durable, after an Open without a position before
	// the capture begins: what is written later is captured.
	FirstBatches int
	// IdleWithin is how soon Next returns a newer position after Harness.Idle; 0 where Next then stays blocked.
	IdleWithin time.Duration
}

// Row is a row to write, or one that was read. OpCreate inserts, OpUpdate updates by ID, OpDelete deletes by ID.
type Row struct {
	Op   sources.Op
	ID   int64
	Body *string // nil is null
}

// Run runs the suite. Each check gets a harness of its own; newHarness cleans up with t.Cleanup and skips the test if
// there is no datastore. Goroutines and the heap are measured, so nothing else may run in the process meanwhile.
func Run(t *testing.T, newHarness func(t *testing.T) *Harness) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.test(t, newHarness) })
	}
}

// RunParallel is Run for harnesses that can be used beside each other: but for what measures the process, all checks run at once.
func RunParallel(t *testing.T, newHarness func(t *testing.T) *Harness) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if !c.alone {
				t.Parallel() // begins when the others are done
			}
			c.test(t, newHarness)
		})
	}
}

func (c *check) test(t *testing.T, newHarness func(t *testing.T) *Harness) {
	h := newHarness(t)
	if c.skip != nil {
		if reason := c.skip(h); reason != "" {
			t.Skip(reason)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), checkTimeout)
	defer cancel()
	if err := c.run(ctx, h); err != nil {
		t.Fatal(err)
	}
}

// checkTimeout bounds one check: a change that has not arrived by then counts as lost.
const checkTimeout = time.Minute

// check is one part of the contract. It returns what is wrong rather than failing a test, so that the suite's own test
// can see it fail.
type check struct {
	name string
	run  func(ctx context.Context, h *Harness) error
	// skip says why the check has no meaning for the harness, or "".
	skip func(h *Harness) string
	// alone says that the check measures the process.
	alone bool
}

var checks = []check{
	{name: "order", run: checkOrder},
	{name: "values", run: checkValues},
	{name: "concurrent writers", run: checkConcurrentWriters},
	{name: "resume at every position", run: checkResume},
	{name: "resume after downtime", run: checkDowntime},
	{name: "back-pressure", run: checkBackPressure, alone: true},
	{name: "batch memory", run: checkBatchMemory},
	{name: "cancellation", run: checkCancel},
	{name: "idle", run: checkIdle},
	{name: "durable", run: checkDurable},
	{name: "close", run: checkClose, alone: true},
	{name: "chunks", run: checkChunks, skip: skipSnapshot},
	{name: "chunks of keys", run: checkChunkKeys, skip: skipSnapshot},
	{name: "views", run: checkViews, skip: skipSnapshot},
	{name: "order of rows", run: checkAppendOrder, skip: skipSnapshot},
	{name: "cancelled reads", run: checkCancelledReads, skip: skipSnapshot},
	{name: "gap", run: checkGap, skip: func(h *Harness) string {
		if h.Break == nil {
			return "the harness cannot break its datastore"
		}
		return ""
	}},
}

// decode is Harness.Decode or its default.
func (h *Harness) decode(c *sources.Change) (Row, error) {
	if h.Decode != nil {
		return h.Decode(c)
	}
	values := c.After
	if c.Op == sources.OpDelete {
		values = c.Before
	}
	row := Row{Op: c.Op}
	found := 0
	for i, column := range c.Table.Columns {
		switch v := values[i]; column.Name {
		case "id":
			id, err := strconv.ParseInt(string(v.Data), 10, 64)
			if err != nil || v.State != sources.Present {
				return row, fmt.Errorf("column id holds %q (state %d), not an integer", v.Data, v.State)
			}
			row.ID = id
			found++
		case "body":
			found++
			if v.State == sources.Present {
				body := string(v.Data)
				row.Body = &body
			} else if v.State == sources.Unavailable && c.Op != sources.OpDelete {
				return row, fmt.Errorf("column body of row %d is unavailable, though it was written", row.ID)
			}
		}
	}
	if found != 2 {
		return row, fmt.Errorf("table %s: columns id and body are not both there", c.Table)
	}
	return row, nil
}
