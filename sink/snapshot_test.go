package sink

import (
	"testing"
	"time"

	"weft/checkpoint"
	"weft/sources"
)

// read is a row that a snapshot found, put behind the n-th change.
func read(n int, id, v string) *sources.Change {
	c := create(n, id, v)
	c.Op = sources.OpRead
	return c
}

// The snapshot's state comes with the rows that it covers, never before them, and rows are not counted as changes.
func TestSnapshotStateIsCommittedWithItsRows(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		commit(t, w, `1`, true)
		w.SetSnapshot(&checkpoint.Snapshot{ID: 1})
		write(t, w, read(10, "1", "a")) // a topic's first record may write the last checkpoint anew
		if w.Rows() != 1 {
			t.Errorf("%d rows are pending", w.Rows())
		}
		if err := w.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		// No Close: the process is gone.

		w = open(t, o)
		if cp := w.Checkpoint(); cp.Snapshot != nil {
			t.Fatalf("the state is there without a commit: %+v", cp.Snapshot)
		}
		w.SetSnapshot(&checkpoint.Snapshot{ID: 2})
		write(t, w, read(20, "1", "a"), create(30, "2", "b"))
		commit(t, w, `3`, true)
		commit(t, w, `4`, true)
		w.Close()
		w = open(t, o)
		if cp := w.Checkpoint(); cp.Snapshot == nil || cp.Snapshot.ID != 2 || cp.Changes != 1 {
			t.Errorf("checkpoint %+v", cp)
		}
		// With a gap the state and the epoch change together.
		w.SetSnapshot(&checkpoint.Snapshot{ID: 3, StartedAt: time.Now()})
		if err := w.NextEpoch(t.Context(), &sources.GapError{Reason: "lost", Resume: sources.Position(`9`)}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if cp := open(t, o).Checkpoint(); cp.Snapshot.ID != 3 || cp.Epoch != 2 {
			t.Errorf("checkpoint %+v", cp)
		}
	})
}

// A crash leaves rows in the embedded log that no checkpoint covers. Their chunk is read again and comes at a later place; they must
// neither hide a change that is repeated, nor hold the checkpoint's offsets back for good.
func TestRowsBeyondTheCheckpoint(t *testing.T) {
	for name, after := range map[string][]*sources.Change{
		"rows last":    nil,
		"changes last": {create(6, "3", "f")},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := embeddedLog(t, t.TempDir())
			o := options(l)
			w := open(t, o)
			write(t, w, create(1, "1", "a"))
			commit(t, w, `1`, true)
			write(t, w, create(2, "2", "b"), create(3, "1", "c"), read(4, "7", "old"), read(5, "8", "old"))
			write(t, w, after...)
			if err := w.flush(t.Context()); err != nil {
				t.Fatal(err)
			}

			// The stream repeats its changes; the snapshot reads a newer row at a later place.
			w = open(t, o)
			write(t, w, create(2, "2", "b"), create(3, "1", "c"))
			write(t, w, after...)
			commit(t, w, `3`, true)
			write(t, w, read(9, "7", "new"), read(10, "8", "old"))
			write(t, w, create(11, "7", "newer"))
			commit(t, w, `11`, true)
			s := w.delivery.(*sequenced)
			if s.highest != nil || len(s.found) > 0 {
				t.Errorf("past everything found, the writer remembers %d places", len(s.found))
			}
			w.Close()
			if at := open(t, o).Checkpoint().Offsets[o.Topics.Prefix+".public.items"]; sum(at) != int64(8+len(after)) {
				t.Errorf("past everything found, the checkpoint continues at %v", at)
			}
			want := `{"{\"id\":1}":["a","c"],"{\"id\":2}":["b"],"{\"id\":7}":["old","new","newer"],"{\"id\":8}":["old","old"]}`
			if after != nil {
				want = `{"{\"id\":1}":["a","c"],"{\"id\":2}":["b"],"{\"id\":3}":["f"],"{\"id\":7}":["old","new","newer"],"{\"id\":8}":["old","old"]}`
			}
			expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), want)
		})
	}
}
