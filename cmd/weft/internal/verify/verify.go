package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink"
	"weft/sink/envelope"
	"weft/sources"
)

// Options say what to compare, and with what means.
type Options struct {
	Client *kgo.Client
	// Source is the capture's; Open is how the capture opens it, but for the position.
	Source sources.Config
	Open   sources.OpenOptions
	// Envelope and Prefix are those of the capture's topics.
	Envelope envelope.Options
	Prefix   string
	// Tables to compare; none for all that the capture has.
	Tables []string
	// Memory bounds in bytes what is held, whatever the size of a table. The folded topic is in a directory below Dir, which is
	// the system's for temporary files when empty.
	Memory int
	Dir    string
	// Rate bounds the rows a second that are read from the source; 0 for no bound.
	Rate int
	// Keys is how many differing keys of a table are listed; all are counted.
	Keys int
	// Timeout is how long to wait for the capture to come past a read.
	Timeout time.Duration
	// Repair, where not nil, mends what differs.
	Repair Repairer
	// Progress and Waiting are called by the goroutine that calls Run; neither is nil.
	Progress func(Progress)
	Waiting  func(why string)
}

// Progress is how far the work on a table has come.
type Progress struct {
	Table string
	// Phase is topic, rows, keys or repair: folding the topic, comparing all rows, comparing open keys again, having them repaired.
	Phase string
	// Done of about Total, which is 0 where it is not known.
	Done, Total int64
}

// Kinds of a Finding.
const (
	Missing   = "missing"   // the source has the row, the topic does not
	Extra     = "extra"     // the topic has the row, the source does not
	Differing = "differing" // both have it, with other values
	// Undecided: what tells is not in the log, or the key cannot be read back from it.
	Undecided = "undecided"
)

// Finding is a key whose rows are not equal.
type Finding struct {
	Kind string `json:"kind"`
	// Key as the record's JSON; of a keyless table the row.
	Key json.RawMessage `json:"key,omitempty"`
	Row json.RawMessage `json:"row,omitempty"`
	// Columns that differ.
	Columns []string `json:"columns,omitempty"`
	// Count of such rows, in a keyless table.
	Count int64  `json:"count,omitempty"`
	Why   string `json:"why,omitempty"`
}

// Result is that of one table.
type Result struct {
	Table string `json:"table"`
	Topic string `json:"topic"`
	// Rows of the source that were compared.
	Rows      int64 `json:"rows"`
	Missing   int64 `json:"missing"`
	Extra     int64 `json:"extra"`
	Differing int64 `json:"differing"`
	Undecided int64 `json:"undecided"`
	// Unknown counts the rows whose column the topic does not tell, by column: they were compared without it.
	Unknown map[string]int64 `json:"unknown_columns,omitempty"`
	// Moving is how many rows of a source that polls were written between every two looks: they were compared without their values.
	Moving int64 `json:"moving,omitempty"`
	// Gone lists columns of rows in the topic that the source no longer has.
	Gone []string `json:"dropped_columns,omitempty"`
	// Trimmed says that the log no longer has all of the topic, so that a row it lacks is undecided.
	Trimmed bool `json:"trimmed"`
	// Position of the capture at the end.
	Position sources.Position `json:"position"`
	Findings []Finding        `json:"keys"`
	// LeftOff is how many keys are not in Findings.
	LeftOff int64 `json:"keys_left_off"`
	// Keyless: the table has no key.
	Keyless bool `json:"keyless,omitempty"`
	// Repair is what was done about the findings, nil for nothing.
	Repair *Repair `json:"repair,omitempty"`
}

// Clean tells whether all rows are equal, as far as the topic tells their columns, at the end.
func (r *Result) Clean() bool {
	n := r.Missing + r.Extra + r.Differing + r.Undecided
	if r.Repair != nil {
		n -= r.Repair.Keys - r.Repair.Left
	}
	return n == 0
}

func (r *Result) add(f Finding, limit int) {
	n := max(1, f.Count)
	switch f.Kind {
	case Missing:
		r.Missing += n
	case Extra:
		r.Extra += n
	case Differing:
		r.Differing += n
	case Undecided:
		r.Undecided += n
	}
	if len(r.Findings) < limit {
		r.Findings = append(r.Findings, f)
	} else {
		r.LeftOff++
	}
}

// verifier is one run.
type verifier struct {
	o           Options
	source      sources.Snapshotter
	checkpoints *checkpoints
}

// Run compares the tables one after the other, and calls done with each result. Errors that only a person can mend are
// *sources.FatalError; ErrUnknownTable is one of them.
func Run(ctx context.Context, o Options, done func(*Result) error) (err error) {
	source, ok := o.Source.(sources.Snapshotter)
	if !ok {
		remedy := "compare its tables by other means"
		if _, polls := o.Source.(sources.Poller); polls {
			remedy = fmt.Sprintf("weft checkpoint set %s null # reads all rows again, and writes those that are not in the topic; with brokers while weft run runs, "+
				"with the embedded log before it", o.Open.Capture)
		}
		return sources.Fatal(remedy, "capture %q: a source of kind %s cannot read its tables beside the stream",
			o.Open.Capture, o.Source.Connector())
	}
	v := &verifier{o: o, source: source, checkpoints: &checkpoints{
		cl: o.Client, capture: o.Open.Capture, timeout: o.Timeout, waiting: o.Waiting,
	}}
	tables, err := v.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		r, err := v.table(ctx, table)
		if err != nil {
			return fmt.Errorf("verify table %s: %w", table, err)
		}
		if err := done(r); err != nil {
			return err
		}
	}
	return nil
}

// ErrUnknownTable says that the capture has no table of a name.
var ErrUnknownTable = errors.New("unknown table")

func (v *verifier) tables(ctx context.Context) (names []string, err error) {
	cp, err := v.checkpoints.read(ctx)
	if err != nil {
		return nil, err
	}
	reader, err := v.open(ctx, cp)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	all, err := reader.Tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for _, name := range v.o.Tables {
		if !slices.Contains(all, name) {
			return nil, sources.Fatal("name one of "+strings.Join(all, ", "), "%w: capture %q has no table %q", ErrUnknownTable, v.o.Open.Capture, name)
		}
	}
	if len(v.o.Tables) > 0 {
		return v.o.Tables, nil
	}
	return all, nil
}

// open opens a reader whose reads see all that is in the log up to a checkpoint.
func (v *verifier) open(ctx context.Context, cp checkpoint.Checkpoint) (sources.Reader, error) {
	o := v.o.Open
	o.Position = cp.Position
	return v.source.OpenReader(ctx, o)
}

// rounds is how often a difference is looked at before it counts as one. Each look is exact but for what the log is told
// beside the stream, such as a row that a snapshot writes.
const rounds = 3

// table compares one table. A keyless one is read again as a whole where it differs.
func (v *verifier) table(ctx context.Context, name string) (r *Result, err error) {
	for round := 1; ; round++ {
		c := &comparison{verifier: v, last: round == rounds}
		if err := c.run(ctx, name); err != nil {
			return nil, err
		}
		if !c.again {
			return &c.result, nil
		}
		if err := sleep(ctx, roundPause); err != nil {
			return nil, err
		}
	}
}

const roundPause = 300 * time.Millisecond

// topicOf is the topic of a table of this name.
func (v *verifier) topicOf(table string) string {
	return sink.TopicOf(v.o.Prefix, &sources.Table{Name: table})
}
