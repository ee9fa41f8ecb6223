package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"weft/sources"
)

// passWithin is how soon a stream must come past a View while nothing is written.
const passWithin = 20 * time.Second

// snapshotting is a stream with a reader beside it.
type snapshotting struct {
	*session
	history *history
	seen    *progress
	reader  sources.Reader
	table   string
	// Of the changes that the stream has brought.
	streamed *sources.Table
	stamps   []uint64
	blocks   []json.RawMessage
	versions map[rowVersion]int64 // that a PolledReader told
}

type rowVersion struct {
	id int64
	version
}

// polls tells whether the source does.
func polls(h *Harness) bool {
	_, ok := h.Config.(sources.Poller)
	return ok
}

// openSnapshot opens a stream, writes, reads what it brings, and opens a reader at the place where the stream then is.
func openSnapshot(ctx context.Context, h *Harness, write func(w *history) error) (_ *snapshotting, err error) {
	s := &snapshotting{history: newHistory(h)}
	if s.session, err = open(ctx, h, h.options()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.end())
		}
	}()
	s.seen = s.history.start()
	s.watch = s.note
	if err := write(s.history); err != nil {
		return nil, err
	}
	if err := s.read(ctx, s.seen); err != nil {
		return nil, err
	}
	if err := s.openReader(ctx); err != nil {
		return nil, err
	}
	tables, err := s.reader.Tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("tables: %w", err)
	}
	if len(tables) != 1 || tables[0] != s.streamed.String() {
		return nil, fmt.Errorf("tables are %q, and changes come of %s", tables, s.streamed)
	}
	s.table = tables[0]
	return s, nil
}

func (s *snapshotting) openReader(ctx context.Context) (err error) {
	o := s.h.options()
	o.Position = s.position()
	if s.reader, err = s.h.Config.(sources.Snapshotter).OpenReader(ctx, o); err != nil {
		return fmt.Errorf("open a reader: %w", err)
	}
	return nil
}

func (s *snapshotting) note(c *sources.Change, _ int64) error {
	if c.Stamp == 0 {
		return errors.New("a change has no Stamp")
	}
	s.streamed = c.Table
	s.stamps = append(s.stamps, c.Stamp)
	s.blocks = append(s.blocks, json.RawMessage("{"+string(c.Meta)+"}"))
	return nil
}

func (s *snapshotting) end() error {
	var err error
	if s.reader != nil {
		if err = s.reader.Close(); err != nil {
			err = fmt.Errorf("close a reader: %w", err)
		}
		s.reader = nil
	}
	return errors.Join(err, s.close())
}

// chunk reads one and verifies what holds for each.
func (s *snapshotting) chunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, []Row, error) {
	q.Table = s.table
	if q.Rows == 0 {
		q.Rows, q.Bytes = 1000, 1<<20
	}
	c, err := s.reader.ReadChunk(ctx, q)
	if err != nil {
		return nil, nil, fmt.Errorf("read a chunk after %s: %w", q.After, err)
	}
	switch {
	case c.Table == nil || c.View == nil:
		return nil, nil, errors.New("a chunk has no Table or no View")
	case !reflect.DeepEqual(c.Table, s.streamed):
		return nil, nil, fmt.Errorf("a chunk's table is %+v, and that of changes %+v", c.Table, s.streamed)
	case q.Keys == nil && len(c.Rows) > q.Rows:
		return nil, nil, fmt.Errorf("a chunk has %d rows, and %d were asked for", len(c.Rows), q.Rows)
	case c.Next != nil && len(c.Rows) == 0:
		return nil, nil, errors.New("a chunk without rows goes on")
	case c.Next != nil && !json.Valid(c.Next):
		return nil, nil, fmt.Errorf("the cursor %q is not a JSON value", c.Next)
	}
	var rows []Row
	size := 0
	for i, values := range c.Rows {
		if size > q.Bytes && q.Keys == nil {
			return nil, nil, fmt.Errorf("a chunk of %d rows holds %d bytes in its first %d; Bytes is %d", len(c.Rows), size, i, q.Bytes)
		}
		if len(values) != len(c.Table.Columns) {
			return nil, nil, fmt.Errorf("a row has %d values for %d columns", len(values), len(c.Table.Columns))
		}
		for n, v := range values {
			size += len(v.Data)
			if v.State == sources.Unavailable {
				return nil, nil, fmt.Errorf("column %s of a row is unavailable", c.Table.Columns[n].Name)
			}
		}
		row, err := s.h.decode(&sources.Change{Op: sources.OpRead, Table: c.Table, After: values})
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, row)
	}
	if polls(s.h) {
		if c.Versions == nil || len(c.Versions) != len(c.Rows) {
			return nil, nil, fmt.Errorf("a chunk of %d rows tells %d versions", len(c.Rows), len(c.Versions))
		}
		if s.versions == nil {
			s.versions = map[rowVersion]int64{}
		}
		for i, row := range rows {
			row.Op = sources.OpRead
			of := rowVersion{row.ID, versionOf(row)}
			if was, ok := s.versions[of]; ok && was != c.Versions[i] {
				return nil, nil, fmt.Errorf("row %d has version %d, and had %d, though nobody has written it", row.ID, c.Versions[i], was)
			}
			s.versions[of] = c.Versions[i]
		}
	}
	for i, stamp := range s.stamps {
		sees, err := c.View.SeesSource(s.blocks[i])
		if err != nil || sees != (c.View.Sees(stamp) || polls(s.h)) {
			return nil, nil, fmt.Errorf("the view sees stamp %d: %t; by its source block: %t, %w", stamp, c.View.Sees(stamp), sees, err)
		}
		if stamp < c.View.Horizon() && !sees {
			return nil, nil, fmt.Errorf("the view does not see stamp %d, which is below its horizon %d", stamp, c.View.Horizon())
		}
	}
	return c, rows, nil
}

// all reads a range to its end.
func (s *snapshotting) all(ctx context.Context, q sources.ChunkRequest) (rows []Row, cursors []sources.Cursor, err error) {
	var table *sources.Table
	for {
		c, some, err := s.chunk(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		if table != nil && c.Table != table {
			return nil, nil, errors.New("two chunks have not the same *Table, though nothing about the table has changed")
		}
		table = c.Table
		for _, stamp := range s.stamps {
			if !c.View.Sees(stamp) {
				return nil, nil, fmt.Errorf("the view does not see stamp %d, which the stream had brought before the reader was opened", stamp)
			}
		}
		rows = append(rows, some...)
		if c.Next == nil {
			return rows, cursors, nil
		}
		if len(cursors) > 10_000 {
			return nil, nil, errors.New("the chunks come to no end")
		}
		q.After = c.Next
		cursors = append(cursors, c.Next)
	}
}

// same compares rows with the newest versions of a history, each once; some of them where ids is not nil.
func (w *history) same(rows []Row, ids []int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[int64]bool{}
	for _, row := range rows {
		versions := w.versions[row.ID]
		row.Op = sources.OpRead
		switch {
		case found[row.ID]:
			return fmt.Errorf("row %d is read twice", row.ID)
		case len(versions) == 0 || versions[len(versions)-1] != versionOf(row):
			return fmt.Errorf("row %d is read as %q, which is not its newest version", row.ID, versionOf(row).label)
		}
		found[row.ID] = true
	}
	for id, live := range w.live {
		wanted := ids == nil || slices.Contains(ids, id)
		if live && wanted != found[id] {
			return fmt.Errorf("row %d is read: %t, though it was asked for: %t", id, found[id], wanted)
		}
	}
	return nil
}

// fill writes some hundred rows, updates and deletes some, and has large ones and nulls among them.
func fill(ctx context.Context) func(w *history) error {
	return func(w *history) error {
		var rows []Row
		for id := range int64(150) {
			row := w.put(id*37%151-50, 50)
			switch {
			case id%11 == 0:
				row = w.put(row.ID, 3000)
			case id%13 == 0:
				row.Body = nil
			}
			row.Op = sources.OpCreate
			rows = append(rows, row)
		}
		if err := w.write(ctx, rows...); err != nil {
			return err
		}
		return w.write(ctx, w.put(-50, 10), w.put(3, 10), w.del(4), w.del(100))
	}
}

// pass reads until the stream is past a view.
func (s *snapshotting) pass(ctx context.Context, view sources.View) error {
	limit, cancel := context.WithTimeout(ctx, passWithin)
	defer cancel()
	for {
		passed, err := view.Passed(s.position())
		if err != nil {
			return fmt.Errorf("passed: %w", err)
		}
		if passed {
			return nil
		}
		n := len(s.events)
		if _, err := s.next(limit); err != nil {
			return fmt.Errorf("next, waiting for the stream to come past a view: %w", err)
		}
		if err := s.seen.addAll(s.events[n:]); err != nil {
			return err
		}
	}
}
