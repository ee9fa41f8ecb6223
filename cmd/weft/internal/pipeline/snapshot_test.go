package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"weft/checkpoint"
	"weft/snapshot"
	"weft/sources"
)

// shelved is a script whose table "t" has rows too, with ids from 100 on, which its stream never changes. Its views are passed when the
// whole script is.
type shelved struct {
	*script
	rows int
	mark chan struct{} // a read is done
	// gone counts reads of the snapshot until one fails, if above zero.
	gone atomic.Int64
}

func (s *shelved) OpenReader(_ context.Context, o sources.OpenOptions) (sources.Reader, error) {
	return &shelvedReader{s}, nil
}

func (s *shelved) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	src, err := s.script.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &marked{src.(*scripted), s.mark}, nil
}

// marked comes past a view with a batch of its own.
type marked struct {
	*scripted
	mark chan struct{}
}

func (m *marked) Next(ctx context.Context) (sources.Batch, error) {
	if ctx.Err() != nil { // a source need not look for more first
		return sources.Batch{}, ctx.Err()
	}
	if m.at < m.total() {
		return m.scripted.Next(ctx)
	}
	select {
	case <-m.mark:
		return sources.Batch{Position: fmt.Appendf(nil, "%d", m.at)}, nil
	case <-ctx.Done():
		return sources.Batch{}, ctx.Err()
	}
}

type shelvedReader struct{ *shelved }

func (r *shelvedReader) Tables(context.Context) ([]string, error) { return []string{"t"}, nil }
func (r *shelvedReader) Split(context.Context, string, int) ([]sources.Cursor, error) {
	return nil, nil
}
func (r *shelvedReader) Close() error { return nil }

func (r *shelvedReader) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	at, err := strconv.Atoi(string(p))
	return fmt.Appendf(dst, "%08d", 1_000_000*at+i), err
}

func (r *shelvedReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if r.gone.Add(-1) == 0 {
		return nil, errors.New("the connection is lost")
	}
	select {
	case r.mark <- struct{}{}:
	default:
	}
	time.Sleep(5 * time.Millisecond) // the stream is past it before the chunk is there
	from := 100
	if q.After != nil {
		if err := json.Unmarshal(q.After, &from); err != nil {
			return nil, err
		}
	}
	c := &sources.Chunk{Table: table, View: shelvedView{r.shelved}}
	for id := from; id < 100+r.rows; id++ {
		if len(c.Rows) == 7 {
			c.Next = strconv.AppendInt(nil, int64(id), 10)
			break
		}
		v := sources.Value{State: sources.Present, Data: strconv.AppendInt(nil, int64(id), 10)}
		c.Rows = append(c.Rows, []sources.Value{v, v})
	}
	return c, nil
}

type shelvedView struct{ s *shelved }

func (v shelvedView) Sees(uint64) bool                         { return true }
func (v shelvedView) SeesSource(json.RawMessage) (bool, error) { return true, nil }
func (v shelvedView) Horizon() uint64                          { return 1 }
func (v shelvedView) Passed(p sources.Position) (bool, error) {
	at, err := strconv.Atoi(string(p))
	return at >= v.s.total(), err
}

// A snapshot is written although the stream has nothing more to say, and goes on after a failure without a row twice.
func TestSnapshot(t *testing.T) {
	l := fake(t)
	s := &shelved{script: &script{transactions: []int{3, 4}, batch: 2}, rows: 50, mark: make(chan struct{}, 1)}
	s.gone.Store(4)
	c := capture(s.script, l)
	c.Source = s
	c.Snapshots = Snapshots{Initial: true, Parallel: 1, ChunkBytes: 1 << 20}
	ended := func(p Progress) bool { return p.Snapshot != nil && p.Snapshot.EndedAt != nil }
	for {
		err := run(t, c, ended)
		if err == nil {
			break
		}
		if err.Error() != "interleave: snapshot: read chunk: the connection is lost" {
			t.Fatal(err)
		}
	}
	if got := delivered(t, l); len(got) != 57 {
		t.Errorf("%d changes and rows are there, want 57", len(got))
	}
	if n := c.Figures().Rows; n != 50 {
		t.Errorf("%d rows are counted", n)
	}
	// Whoever asks is heard while nothing happens, whether the capture runs yet or not.
	c.Ask(snapshot.Request{ID: "early"})
	asked := false
	done := func(id string) func(Progress) bool {
		return func(p Progress) bool {
			if !asked {
				asked = true
				time.AfterFunc(20*time.Millisecond, func() { c.Ask(snapshot.Request{ID: "late"}) })
			}
			h := p.Snapshot.Handled
			return len(h) > 0 && h[len(h)-1].Request == id && h[len(h)-1].Rows == 50
		}
	}
	if err := run(t, c, done("late")); err != nil {
		t.Fatal(err)
	}
	if got := delivered(t, l); len(got) != 157 {
		t.Errorf("%d changes and rows are there, want 157", len(got))
	}
}

// With snapshot: never nothing is read, also not when the setting changes later; after a gap everything is.
func TestSnapshotOnlyWhereWanted(t *testing.T) {
	l := fake(t)
	s := &shelved{script: &script{transactions: []int{4}, batch: 2}, rows: 10, mark: make(chan struct{}, 1)}
	c := capture(s.script, l)
	c.Source = s
	c.Snapshots = Snapshots{Parallel: 1, ChunkBytes: 1 << 20}
	if err := run(t, c, at(4)); err != nil {
		t.Fatal(err)
	}
	c.Snapshots.Initial = true
	s.transactions = append(s.transactions, 2)
	if err := run(t, c, func(p Progress) bool { return p.Snapshot != nil && string(p.Position) == "6" }); err != nil {
		t.Fatal(err)
	}
	if got := delivered(t, l); len(got) != 6 {
		t.Errorf("%d changes and rows are there, want 6", len(got))
	}
	s.openErr = &sources.GapError{Reason: "lost", Remedy: "look", Resume: sources.Position(`6`)}
	c.ContinueAfterGap = true
	var last *checkpoint.Snapshot
	if err := run(t, c, func(p Progress) bool {
		last = p.Snapshot
		return p.Epoch == 2 && last != nil && last.Reason == checkpoint.ReasonGap && last.EndedAt != nil
	}); err != nil {
		t.Fatal(err)
	}
	// The rows of the first epoch that are not read again are swept: ten ids, as the script has them.
	if last.Rows() != 10 || !last.Tables[0].Done {
		t.Errorf("after the gap: %+v", last)
	}
}
