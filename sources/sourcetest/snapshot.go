package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/sources"
)

func skipSnapshot(h *Harness) string {
	if _, ok := h.Config.(sources.Snapshotter); !ok {
		return "the source reads no tables"
	}
	return ""
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
			if !c.View.Sees(stamp) && !polls(s.h) { // which may say so of what was polled after the read
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
		if !s.h.Traits.TotalOrder { // other changes that the view sees may be still to come
			if err := s.pass(ctx, c.View); err != nil {
				return err
			}
		}
		if passed, err = c.View.Passed(s.position()); err != nil || !passed {
			return fmt.Errorf("the stream has brought what came after a view, and is not past it (%w)", err)
		}
	}
	return nil
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
		if !s.h.Traits.TotalOrder { // rows come where the stream has passed their view
			c, _, err := s.chunk(ctx, sources.ChunkRequest{})
			if err != nil {
				return err
			}
			if err := s.pass(ctx, c.View); err != nil {
				return err
			}
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
