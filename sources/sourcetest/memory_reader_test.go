package sourcetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"weft/sources"
)

// OpenReader makes memoryConfig a Snapshotter.
func (c *memoryConfig) OpenReader(_ context.Context, o sources.OpenOptions) (sources.Reader, error) {
	r := &memoryReader{memoryConfig: c, table: c.table()}
	return r, json.Unmarshal(o.Position, &r.from)
}

// memoryReader folds the log up to a place, which is what its views are.
type memoryReader struct {
	*memoryConfig
	table *sources.Table
	from  int // that the stream was at
	slab  []byte
}

func (r *memoryReader) Tables(context.Context) ([]string, error) { return []string{"items"}, nil }

func (r *memoryReader) Close() error { return nil }

// fold returns the live rows in key order, and the view that sees them.
func (r *memoryReader) fold() ([]entry, *memoryView, error) {
	m := r.store
	m.mu.Lock()
	to := len(m.log)
	if r.mutant == readsStale {
		to = r.from - 1
	}
	rows := map[int64]entry{}
	v := &memoryView{mutant: r.mutant, mark: to}
	for _, e := range m.log[:to] {
		v.stamp = uint64(e.transaction)
		if e.index == 0 {
			continue
		}
		if rows[e.id] = e; e.op == sources.OpDelete {
			delete(rows, e.id)
		}
	}
	m.mu.Unlock()
	if r.mutant != writesNoMark {
		if err := m.write(); err != nil {
			return nil, nil, err
		}
		v.mark++
	}
	var all []entry
	for _, e := range rows {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return int(a.id - b.id) })
	return all, v, nil
}

func (r *memoryReader) Split(_ context.Context, _ string, n int) (cuts []sources.Cursor, err error) {
	all, _, err := r.fold()
	for i := 1; i < n; i++ {
		cuts = append(cuts, strconv.AppendInt(nil, all[i*len(all)/n].id, 10))
	}
	return cuts, err
}

func (r *memoryReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if ctx.Err() != nil && r.mutant != hidesCancel {
		return nil, ctx.Err()
	}
	if ctx.Err() != nil {
		return nil, errors.New("the connection is closed")
	}
	all, view, err := r.fold()
	if err != nil {
		return nil, err
	}
	if r.mutant == losesFirstRow && q.After == nil {
		all = all[1:]
	}
	if q.Keys != nil {
		all = slices.DeleteFunc(all, func(e entry) bool {
			return !slices.ContainsFunc(q.Keys, func(k [][]byte) bool { return string(k[0]) == strconv.FormatInt(e.id, 10) })
		})
	} else if all, err = r.bound(all, q); err != nil {
		return nil, err
	}
	c := &sources.Chunk{Table: r.table, View: view}
	if r.mutant == newTableEachChunk {
		c.Table = r.memoryConfig.table()
	}
	if r.mutant == reusesChunkMemory {
		clear(r.slab)
	}
	for i, e := range all {
		if q.Keys == nil && i > 0 && (i == q.Rows || c.Bytes+e.length+8 > q.Bytes) && r.mutant != overfillsChunks {
			c.Next = strconv.AppendInt(nil, all[i-1].id, 10)
			break
		}
		body := make([]byte, e.length)
		if _, err := r.store.bodies.ReadAt(body, e.at); err != nil {
			return nil, err
		}
		value := sources.Value{Data: body, State: sources.Present}
		if e.null {
			value = sources.Value{}
		}
		c.Rows = append(c.Rows, []sources.Value{{Data: strconv.AppendInt(nil, e.id, 10), State: sources.Present}, value})
		c.Bytes += e.length + 8
		r.slab = body
	}
	return c, nil
}

func (r *memoryReader) bound(all []entry, q sources.ChunkRequest) ([]entry, error) {
	if q.After != nil {
		var after int64
		if err := json.Unmarshal(q.After, &after); err != nil {
			return nil, err
		}
		if r.mutant == repeatsAtCursor {
			after--
		}
		all = slices.DeleteFunc(all, func(e entry) bool { return e.id <= after })
	}
	if q.Until != nil && r.mutant != ignoresUntil {
		var until int64
		if err := json.Unmarshal(q.Until, &until); err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(e entry) bool { return e.id > until })
	}
	return all, nil
}

func (r *memoryReader) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	var at int
	if err := json.Unmarshal(p, &at); err != nil {
		return nil, err
	}
	if i < 0 {
		return nil, errors.New("there is no such row")
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	transaction := 0
	if at > 0 {
		transaction = r.store.log[at-1].transaction
	}
	switch r.mutant {
	case rowsSortLow:
		return fmt.Appendf(dst, "%016x.%08x", transaction, i), nil
	case rowsSortHigh:
		return fmt.Appendf(dst, "%016x.%08x", transaction+1, 1<<31+i), nil
	}
	return fmt.Appendf(dst, "%016x.%08x", transaction, 1<<31+i), nil
}

// memoryView sees the transactions up to stamp; the mark is where the stream is past them.
type memoryView struct {
	mutant mutant
	stamp  uint64
	mark   int
}

func (v *memoryView) Sees(stamp uint64) bool {
	switch v.mutant {
	case seesEverything:
		return true
	case seesNothing:
		return false
	}
	return stamp <= v.stamp
}

func (v *memoryView) SeesSource(block json.RawMessage) (bool, error) {
	if v.mutant == misreadsBlocks {
		return false, nil
	}
	var source struct{ Transaction uint64 }
	d := json.NewDecoder(bytes.NewReader(block))
	if err := d.Decode(&source); err != nil {
		return false, err
	}
	return v.Sees(source.Transaction), nil
}

func (v *memoryView) Horizon() uint64 { return v.stamp + 1 }

func (v *memoryView) Passed(p sources.Position) (bool, error) {
	var at int
	err := json.Unmarshal(p, &at)
	if v.mutant == passedAtOnce {
		at = v.mark
	}
	// Without the mark the stream is past the view only once something follows.
	return at > v.mark || at == v.mark && v.mutant != writesNoMark, err
}
