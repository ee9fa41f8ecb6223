package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/sources"
)

// passWithin is how soon a stream must come past a View while nothing is written.
const passWithin = 5 * time.Second

func skipSnapshot(h *Harness) string {
	if _, ok := h.Config.(sources.Snapshotter); !ok {
		return "the source reads no tables"
	}
	return ""
}

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
	for i, stamp := range s.stamps {
		sees, err := c.View.SeesSource(s.blocks[i])
		if err != nil || sees != c.View.Sees(stamp) {
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

// checkChunks: the chunks of a table hold every row once, whatever their size, wherever they begin and end, also for another
// reader.
func checkChunks(ctx context.Context, h *Harness) (err error) {
	s, err := openSnapshot(ctx, h, fill(ctx))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	whole, _, err := s.all(ctx, sources.ChunkRequest{})
	if err != nil {
		return err
	}
	if err := s.history.same(whole, nil); err != nil {
		return fmt.Errorf("in one chunk: %w", err)
	}
	kept, first, err := s.chunk(ctx, sources.ChunkRequest{Rows: 9, Bytes: 1 << 20})
	if err != nil {
		return err
	}
	var cursors []sources.Cursor
	for _, q := range []sources.ChunkRequest{{Rows: 1000, Bytes: 2000}, {Rows: 7, Bytes: 1 << 20}, {Rows: 1, Bytes: 1}} {
		var rows []Row
		if rows, cursors, err = s.all(ctx, q); err != nil {
			return err
		}
		if !slices.Equal(versionsOf(rows), versionsOf(whole)) {
			return fmt.Errorf("in chunks of %d rows and %d bytes the rows are not those of one chunk: %d for %d, %w",
				q.Rows, q.Bytes, len(rows), len(whole), s.history.same(rows, nil))
		}
	}
	for i, values := range kept.Rows {
		row, err := s.h.decode(&sources.Change{Op: sources.OpRead, Table: kept.Table, After: values})
		if err != nil || versionOf(row) != versionOf(first[i]) {
			return fmt.Errorf("the memory of a chunk was used again: row %d is %q now (%w)", first[i].ID, versionOf(row).label, err)
		}
	}
	if err := s.reader.Close(); err != nil {
		return fmt.Errorf("close a reader: %w", err)
	}
	s.reader = nil
	if err := s.openReader(ctx); err != nil {
		return err
	}
	for i := 0; i < len(cursors); i += 17 { // of chunks of one row
		c := cursors[i]
		low, _, err := s.all(ctx, sources.ChunkRequest{Until: c, Rows: 50, Bytes: 1 << 20})
		if err != nil {
			return err
		}
		high, _, err := s.all(ctx, sources.ChunkRequest{After: c, Rows: 50, Bytes: 1 << 20})
		if err != nil {
			return err
		}
		if len(low) != i+1 || !slices.Equal(versionsOf(slices.Concat(low, high)), versionsOf(whole)) {
			return fmt.Errorf("up to the cursor %s there are %d rows where it is behind %d, and %d after it, of %d", c, len(low), i+1, len(high), len(whole))
		}
	}
	return s.checkSplit(ctx, whole)
}

func versionsOf(rows []Row) []version {
	all := make([]version, len(rows))
	for i, row := range rows {
		all[i] = versionOf(row)
	}
	return all
}

func (s *snapshotting) checkSplit(ctx context.Context, whole []Row) error {
	cuts, err := s.reader.Split(ctx, s.table, 4)
	if err != nil {
		return fmt.Errorf("split: %w", err)
	}
	if len(cuts) > 3 {
		return fmt.Errorf("split into 4 makes %d cuts", len(cuts))
	}
	var rows []Row
	var after sources.Cursor
	for _, until := range append(cuts, nil) {
		some, _, err := s.all(ctx, sources.ChunkRequest{After: after, Until: until})
		if err != nil {
			return err
		}
		rows, after = append(rows, some...), until
	}
	if !slices.Equal(versionsOf(rows), versionsOf(whole)) {
		return fmt.Errorf("the ranges of a split hold %d rows of %d", len(rows), len(whole))
	}
	return nil
}

// checkChunkKeys: rows are read by their keys, and those that are not there are not.
func checkChunkKeys(ctx context.Context, h *Harness) (err error) {
	s, err := openSnapshot(ctx, h, fill(ctx))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	whole, rows, err := s.chunk(ctx, sources.ChunkRequest{})
	if err != nil {
		return err
	}
	var keys [][][]byte
	var ids []int64
	for i := 0; i < len(rows); i += 9 {
		var key [][]byte
		for _, k := range whole.Table.Key {
			key = append(key, whole.Rows[i][k].Data)
		}
		keys, ids = append(keys, key), append(ids, rows[i].ID)
	}
	c, found, err := s.chunk(ctx, sources.ChunkRequest{Keys: keys, Rows: 2, Bytes: 10})
	if err != nil {
		return err
	}
	if c.Next != nil {
		return fmt.Errorf("a chunk of keys goes on after %s", c.Next)
	}
	if err := s.history.same(found, ids); err != nil {
		return err
	}
	if err := s.history.write(ctx, s.history.del(ids[0])); err != nil {
		return err
	}
	if _, found, err = s.chunk(ctx, sources.ChunkRequest{Keys: keys}); err != nil {
		return err
	}
	return s.history.same(found, ids)
}

// checkViews: a view sees what its rows hold and nothing that came later, and the stream comes past it soon, and not before it
// has brought what the view sees.
func checkViews(ctx context.Context, h *Harness) (err error) {
	s, err := openSnapshot(ctx, h, fill(ctx))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	for i := range int64(5) {
		before := s.position()
		if err := s.history.write(ctx, s.history.put(1000+i, 10), s.history.put(3, 10)); err != nil {
			return err
		}
		c, rows, err := s.chunk(ctx, sources.ChunkRequest{})
		if err != nil {
			return err
		}
		if err := s.history.same(rows, nil); err != nil {
			return err
		}
		passed, err := c.View.Passed(before)
		if err != nil || passed {
			return fmt.Errorf("the stream is said to have passed a view (%w) before it has brought what the view sees", err)
		}
		if i%2 == 0 {
			if err := s.pass(ctx, c.View); err != nil {
				return err
			}
		}
		if _, done := s.seen.behind(); i%2 == 0 && !done {
			return errors.New("the stream is past a view, and has not brought all that the view sees")
		}
		known := len(s.stamps)
		if i%2 == 1 {
			if err := s.read(ctx, s.seen); err != nil { // perhaps up to the mark, perhaps not
				return err
			}
			known = len(s.stamps)
		}
		for _, stamp := range s.stamps {
			if !c.View.Sees(stamp) {
				return fmt.Errorf("the view does not see stamp %d, which its rows hold", stamp)
			}
		}
		if err := s.history.write(ctx, s.history.put(3, 10)); err != nil {
			return err
		}
		if err := s.read(ctx, s.seen); err != nil {
			return err
		}
		for _, stamp := range s.stamps[known:] {
			if c.View.Sees(stamp) || stamp < c.View.Horizon() {
				return fmt.Errorf("the view sees stamp %d, which came later", stamp)
			}
		}
		if passed, err = c.View.Passed(s.position()); err != nil || !passed {
			return fmt.Errorf("the stream has brought what came after a view, and is not past it (%w)", err)
		}
	}
	return nil
}

// pass reads until the stream is past a view.
func (s *snapshotting) pass(ctx context.Context, view sources.View) error {
	limit, cancel := context.WithTimeout(ctx, passWithin)
	defer cancel()
	for {
		n := len(s.events)
		b, err := s.next(limit)
		if err != nil {
			return fmt.Errorf("next, waiting for the stream to come past a view: %w", err)
		}
		if err := s.seen.addAll(s.events[n:]); err != nil {
			return err
		}
		passed, err := view.Passed(b.Position)
		if err != nil {
			return fmt.Errorf("passed: %w", err)
		}
		if passed {
			return nil
		}
	}
}

// checkAppendOrder: rows that are put behind a position sort there.
func checkAppendOrder(ctx context.Context, h *Harness) (err error) {
	s, err := openSnapshot(ctx, h, func(w *history) error { return w.write(ctx, w.put(1, 10), w.put(2, 10)) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	for i := range int64(5) {
		highest := s.last
		if !s.h.Traits.TotalOrder {
			highest = slices.Max(orders(s.events))
		}
		var rows []string
		for _, n := range []int{0, 1, 2, 1000} {
			order, err := s.reader.AppendOrder([]byte("before"), s.position(), n)
			if err != nil {
				return fmt.Errorf("append an order: %w", err)
			}
			text, ok := strings.CutPrefix(string(order), "before")
			switch {
			case !ok:
				return fmt.Errorf("AppendOrder made %q of what was there", order)
			case len(text) != len(highest):
				return fmt.Errorf("the order %q of a row is not as wide as the change's %q", text, highest)
			case text <= highest:
				return fmt.Errorf("the order %q of a row is not above the change's %q, which came before", text, highest)
			}
			highest = text
			rows = append(rows, text)
		}
		known := len(s.events)
		if err := s.history.write(ctx, s.history.put(1, 10), s.history.put(10+i, 10)); err != nil {
			return err
		}
		if err := s.read(ctx, s.seen); err != nil {
			return err
		}
		for _, order := range orders(s.events[known:]) {
			if order <= rows[len(rows)-1] {
				return fmt.Errorf("the order %q of a change is not above the row's %q, which came before", order, rows[len(rows)-1])
			}
		}
	}
	if _, err := s.reader.AppendOrder(nil, s.position(), -1); err == nil {
		return errors.New("row " + strconv.Itoa(-1) + " has an order")
	}
	return nil
}

func orders(events []event) (all []string) {
	for _, e := range events {
		all = append(all, e.order)
	}
	return all
}

// checkCancelledReads: a read whose context ends says so, and the next one works.
func checkCancelledReads(ctx context.Context, h *Harness) (err error) {
	s, err := openSnapshot(ctx, h, fill(ctx))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	for i := range 20 {
		limit, cancel := context.WithTimeout(ctx, time.Duration(i)*200*time.Microsecond)
		_, err := s.reader.ReadChunk(limit, sources.ChunkRequest{Table: s.table, Rows: 1000, Bytes: 1 << 20})
		if err != nil && (limit.Err() == nil || !errors.Is(err, limit.Err())) {
			cancel()
			return fmt.Errorf("a read whose context has ended returns another error: %w", err)
		}
		cancel()
	}
	rows, _, err := s.all(ctx, sources.ChunkRequest{})
	if err != nil {
		return err
	}
	return s.history.same(rows, nil)
}
