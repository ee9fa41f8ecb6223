package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/checkpoint"
	"weft/sink/envelope"
	"weft/sources"
)

// comparison is the work on one table.
type comparison struct {
	*verifier
	last   bool // of a keyless table's rounds
	again  bool // a keyless table differed, and this was not the last round
	result Result

	store  *store
	topic  *topic
	reader sources.Reader
	rows   encoder
	table  *sources.Table
	bytes  int64   // of the rows that were read
	polled *polled // nil where the source does not poll
	// found takes in what is not equal in the end.
	found func(Finding)
}

// Parts of Options.Memory. The store takes less than half; the rest is for what the log's client has fetched, and for garbage.
const (
	heldPart  = 8
	chunkPart = 32
)

const (
	maxChunkRows = 20_000
	maxOpenKeys  = 5_000
)

func (c *comparison) run(ctx context.Context, name string) (err error) {
	c.result = Result{Table: name, Topic: c.topicOf(name), Unknown: make(map[string]int64), Findings: []Finding{}}
	c.found = func(f Finding) { c.result.add(f, c.o.Keys) }
	if c.rows.enc, err = envelope.New(c.o.Envelope); err != nil {
		return err
	}
	if c.store, err = openStore(c.o.Dir, c.o.Memory); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.close()) }()
	c.rows.maker.shapes = c.store.rows.shapes
	c.topic = newTopic(c.o.Client, c.result.Topic, c.store, c.o.Memory/heldPart)

	cp, err := c.foldTopic(ctx)
	if err != nil {
		return err
	}
	if c.reader, err = c.open(ctx, cp); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.reader.Close()) }()
	if r, ok := c.reader.(sources.PolledReader); ok {
		c.polled = newPolled(r, c.o.Timeout)
	}
	c.store.careful = true
	if err := c.compareRows(ctx); err != nil {
		return err
	}
	if c.polled != nil {
		c.polled.began = time.Now()
	}
	if c.topic.keyless {
		err = c.judgeKeyless(ctx)
	} else {
		err = c.judgeOpen(ctx)
	}
	if err != nil {
		return err
	}
	c.result.Keyless, c.result.Trimmed = c.topic.keyless, c.topic.trimmed
	slices.Sort(c.result.Gone)
	if c.o.Repair != nil && !c.topic.keyless {
		if err := c.repair(ctx); err != nil {
			return err
		}
	}
	c.result.Position = c.checkpoints.last.Position
	return nil
}

// foldTopic folds the topic up to a place where no read of the returned checkpoint's reader can be behind.
func (c *comparison) foldTopic(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := c.checkpoints.read(ctx)
	if err != nil {
		return cp, err
	}
	_, ends, err := c.topic.bounds(ctx)
	if err != nil {
		return cp, err
	}
	if cp.Offsets != nil { // records beyond the checkpoint may be in the log already
		known := cp.Offsets[c.topic.name]
		ends = ends[:min(len(ends), len(known))]
		for p := range ends {
			ends[p] = min(ends[p], known[p])
		}
	}
	var total, passed int64
	for p := range ends {
		total += ends[p] - c.topic.parts[p].next
	}
	c.topic.progress = func(records int64) {
		passed += records
		c.o.Progress(Progress{c.result.Table, "topic", passed, total})
	}
	if err := c.topic.fold(ctx, ends); err != nil {
		return cp, err
	}
	c.topic.progress = func(int64) {}
	// What was committed up to ends is covered by the checkpoint that is newest now.
	if cp, err = c.checkpoints.read(ctx); err != nil {
		return cp, err
	}
	if s := cp.Snapshot; s != nil && s.EndedAt == nil {
		for _, t := range s.Tables {
			if t.Table == c.result.Table && !t.Done {
				return cp, sources.Fatal("wait until weft status says that it is done",
					"a snapshot of the table is under way: rows that it has not come to would be called missing")
			}
		}
	}
	return cp, nil
}

// compareRows reads all rows, and leaves open what is not equal.
func (c *comparison) compareRows(ctx context.Context) error {
	var view sources.View
	err := c.eachChunk(ctx, func(chunk *sources.Chunk) error {
		if c.table == nil {
			c.topic.keyless = len(chunk.Table.Key) == 0
		}
		c.table, view = chunk.Table, chunk.View
		if !c.topic.keyless {
			if err := c.topic.advance(ctx, chunk.View); err != nil {
				return err
			}
		}
		for _, row := range chunk.Rows {
			if err := c.compareRow(row); err != nil {
				return err
			}
		}
		c.bytes += int64(chunk.Bytes)
		c.o.Progress(Progress{c.result.Table, "rows", c.result.Rows, max(c.store.live, 0)})
		return nil
	})
	if err != nil || !c.topic.keyless {
		return err
	}
	if err := c.checkpoints.await(ctx, view); err != nil {
		return err
	}
	return c.topic.advance(ctx, view)
}

func (c *comparison) compareRow(values []sources.Value) error {
	c.result.Rows++
	e, err := c.rows.encode(c.table, values)
	if err != nil {
		return err
	}
	if c.topic.keyless {
		return c.store.count(e.object, -1, 0, e.object)
	}
	partition := c.topic.partition(e.key)
	_, topicRow, err := c.store.row(partition, e.key)
	if err != nil {
		return err
	}
	if topicRow != nil {
		d, err := c.store.compare(e.row, topicRow)
		if err != nil {
			return err
		}
		if len(d.columns) == 0 {
			c.note(d)
			return c.store.confirm(partition, e.key, topicRow)
		}
	}
	return c.store.addOpen(e.key, wireForms(c.table, values))
}

// wireForms are those of a row's key columns, nil for null.
func wireForms(t *sources.Table, values []sources.Value) [][]byte {
	var wire [][]byte
	for _, i := range t.Key {
		w := []byte(nil)
		if values[i].State == sources.Present {
			w = append([]byte{}, values[i].Data...)
		}
		wire = append(wire, w)
	}
	return wire
}

// note counts what could not be compared of a row that is otherwise equal.
func (c *comparison) note(d difference) {
	for _, name := range d.unknown {
		c.result.Unknown[unquote(name)]++
	}
	for _, name := range d.gone {
		if name = unquote(name); !slices.Contains(c.result.Gone, name) {
			c.result.Gone = append(c.result.Gone, name)
		}
	}
}

// eachChunk reads the table to its end; the next chunk is read while fn has the one before.
func (c *comparison) eachChunk(ctx context.Context, fn func(*sources.Chunk) error) (err error) {
	type read struct {
		chunk *sources.Chunk
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan read, 1)
	began, rows := time.Now(), 0
	start := func(after sources.Cursor) {
		due := began
		if c.o.Rate > 0 {
			due = began.Add(time.Duration(float64(rows) / float64(c.o.Rate) * float64(time.Second)))
		}
		go func() {
			if err := sleep(ctx, time.Until(due)); err != nil {
				done <- read{err: err}
				return
			}
			chunk, err := c.reader.ReadChunk(ctx, sources.ChunkRequest{
				Table: c.result.Table, After: after, Rows: c.chunkRows(), Bytes: c.o.Memory / chunkPart,
			})
			done <- read{chunk, err}
		}()
	}
	start(nil)
	reading := true
	defer func() {
		cancel()
		if reading {
			<-done
		}
	}()
	for {
		r := <-done
		reading = false
		if r.err != nil {
			return fmt.Errorf("read the source: %w", r.err)
		}
		if rows += len(r.chunk.Rows); r.chunk.Next != nil {
			start(r.chunk.Next)
			reading = true
		}
		if err := fn(r.chunk); err != nil {
			return err
		}
		if !reading {
			return nil
		}
	}
}

// chunkRows keeps a chunk below half a second where there is a rate.
func (c *comparison) chunkRows() int {
	if c.o.Rate > 0 {
		return min(maxChunkRows, max(1, c.o.Rate/2))
	}
	return maxChunkRows
}

// judgeKeyless looks at what is left of the bag.
func (c *comparison) judgeKeyless(ctx context.Context) error {
	return c.store.eachBag(func(e bagEntry) error {
		if !c.last {
			c.again = true
			return nil
		}
		f := Finding{Kind: Extra, Count: e.count, Row: e.json}
		if e.count < 0 {
			f.Kind, f.Count = Missing, -e.count
		}
		if f.Row == nil && len(c.result.Findings) < c.o.Keys {
			value, err := c.topic.value(ctx, e.offset)
			if err != nil {
				return err
			}
			r := record{value: value}
			if err := r.readValue(); err != nil {
				return r.fault(err)
			}
			if f.Row = json.RawMessage(r.after); r.after == nil {
				f.Row = json.RawMessage(r.before)
			}
		}
		switch names := c.store.rows.shapes.shapeOf(e.row).names; {
		case !c.topic.isWhole(0):
			f.Kind, f.Why = Undecided, "more changes than fit into memory wait for the source to show them; run it again, or with more --memory"
		case c.topic.trimmed:
			f.Kind, f.Why = Undecided, "retention has removed records of the topic, maybe this row's"
		case len(names) != len(c.table.Columns):
			f.Kind, f.Why = Undecided, "the table's columns have changed since, and a table without a key does not fold across that"
		}
		c.found(f)
		return nil
	})
}

// unquote is a column's name from its JSON.
func unquote(name string) string {
	var plain string
	if json.Unmarshal([]byte(name), &plain) != nil {
		return name
	}
	return plain
}
