package verify

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// check compares what was found.
func check(t *testing.T, r *Result, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if got := findings(r); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestTruncate(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(ids(1, 30)...)
	db.commit(true, sources.Change{Op: sources.OpTruncate})
	db.create(5, 6)
	l.write()
	stop := l.beside(l.write)
	check(t, must(t, l))
	stop()

	// The truncate is lost in one partition.
	db.create(ids(31, 60)...)
	l.write()
	db.commit(true, sources.Change{Op: sources.OpTruncate})
	l.mutate = func(all []*kgo.Record) []*kgo.Record {
		return slices.DeleteFunc(all, func(r *kgo.Record) bool { return op(r) == 't' && r.Partition == 1 })
	}
	l.write()
	l.mutate = nil
	defer l.beside(l.write)()
	if r := must(t, l); r.Extra < 2 || r.Missing+r.Differing+r.Undecided > 0 {
		t.Errorf("%+v", r)
	}
}

// TestLateTruncate: a truncate is in the log that the source does not show yet, and what came after it.
func TestLateTruncate(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(ids(1, 30)...)
	l.write()
	go func() {
		time.Sleep(20 * time.Millisecond)
		tx := db.commit(false, sources.Change{Op: sources.OpTruncate})
		late := db.commit(false, sources.Change{Op: sources.OpCreate, After: row(7, "later", "")})
		l.write()
		time.Sleep(200 * time.Millisecond)
		db.show(tx)
		db.show(late)
	}()
	for range 8 {
		check(t, must(t, l))
	}
}

// TestMoved: columns that an update and a key change leave out are those of the old row, in whatever order the halves are read.
func TestMoved(t *testing.T) {
	db, l := newFake(t, newTable(0))
	untold := sources.Value{State: sources.Unavailable}
	db.create(ids(1, 40)...)
	for id := 1; id <= 40; id++ {
		db.commit(true, sources.Change{Op: sources.OpUpdate, Before: row(id, "", ""), After: []sources.Value{value(strconv.Itoa(1000 + id)), value("moved"), untold}})
	}
	for id := 1; id <= 40; id += 2 {
		old := row(id, "", "")
		old[0] = value(strconv.Itoa(1000 + id))
		db.commit(true, sources.Change{Op: sources.OpUpdate, Before: old, After: []sources.Value{value(strconv.Itoa(2000 + id)), value("again"), untold}})
	}
	for _, c := range db.txs[40:] {
		for j := range c.changes { // the stream tells nothing but the key of the old row
			c.changes[j].Before[1], c.changes[j].Before[2] = untold, untold
		}
	}
	l.write()
	defer l.beside(l.write)()
	r := must(t, l)
	check(t, r)
	if len(r.Unknown) > 0 || r.Rows != 40 {
		t.Errorf("%d rows, unknown %v", r.Rows, r.Unknown)
	}
}

// TestColumns: a column that the topic does not tell is counted and not compared, one that it alone has is named, and the rest
// is compared all the same.
func TestColumns(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(1, 2, 3)
	l.write()
	l.db.mu.Lock()
	now := newTable(0)
	now.Columns[2].Name = "remark" // note is dropped, remark added
	db.table = now
	l.db.mu.Unlock()
	db.commit(true, update(3, "paid", "told"))
	l.write()
	defer l.beside(l.write)()
	r := must(t, l)
	check(t, r)
	if want := map[string]int64{"remark": 2}; !maps.Equal(r.Unknown, want) || !slices.Equal(r.Gone, []string{"note"}) || !r.Clean() {
		t.Errorf("unknown %v, gone %v", r.Unknown, r.Gone)
	}
}

func TestKeyless(t *testing.T) {
	db, l := newFake(t, newTable())
	for range 3 {
		db.create(ids(1, 30)...)
	}
	db.commit(true, sources.Change{Op: sources.OpDelete, Before: row(4, "new", "n4")})
	db.commit(true, sources.Change{Op: sources.OpUpdate, Before: row(5, "new", "n5"), After: row(5, "paid", "n5")})
	l.write()
	n := 0
	stop := l.beside(func() {
		tx := db.commit(false, sources.Change{Op: sources.OpCreate, After: row(7, "late", "")})
		l.write()
		if n++; n%3 > 0 {
			time.Sleep(time.Millisecond)
		}
		db.show(tx)
	})
	for range 5 {
		check(t, must(t, l))
	}
	stop()
	db.commit(true, sources.Change{Op: sources.OpDelete, Before: row(9, "new", "n9")}, sources.Change{Op: sources.OpDelete, Before: row(9, "new", "n9")})
	db.create(50)
	l.mutate = func([]*kgo.Record) []*kgo.Record { return nil }
	l.write()
	l.mutate = nil
	check(t, must(t, l), `extra {"id":9,"status":"new","note":"n9"} x2`, `missing {"id":50,"status":"new","note":"n50"} x1`)
}

// TestDebezium: placeholders are not values, and keys are read back in this dialect too.
func TestDebezium(t *testing.T) {
	table := newTable(0)
	table.Columns[0].Type = sources.Type{Kind: sources.Decimal, Precision: 12, Scale: 2, Name: "numeric(12,2)"}
	db, l := newSilent(t, table)
	l.setDialect(t, "debezium")
	full := func(id, note string) []sources.Value { return []sources.Value{value(id), value("s"), value(note)} }
	db.commit(true, sources.Change{Op: sources.OpCreate, After: full("1.50", "a")}, sources.Change{Op: sources.OpCreate, After: full("-2.00", "b")})
	db.commit(true, sources.Change{Op: sources.OpUpdate, After: []sources.Value{value("1.50"), value("t"), {State: sources.Unavailable}}})
	l.write()
	db.commit(true, sources.Change{Op: sources.OpDelete, Before: full("-2.00", "b")})
	l.mutate = func([]*kgo.Record) []*kgo.Record { return nil }
	l.write()
	l.mutate = nil
	defer l.beside(l.write)()
	check(t, must(t, l), `extra {"id":"/zg="}`)
}

// TestSnapshotRows: rows that were read beside the stream are of no transaction.
func TestSnapshotRows(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(1, 2, 3)
	l.done = 3 // they are from before the capture
	for id := 1; id <= 3; id++ {
		l.produce(l.records(&sources.Change{Op: sources.OpRead, Table: db.table, After: row(id, "new", "n"+strconv.Itoa(id))})...)
	}
	db.commit(true, update(2, "paid", "x"))
	l.write()
	defer l.beside(l.write)()
	check(t, must(t, l))
}

// TestTrimmed: what retention has removed cannot be called missing.
func TestTrimmed(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(1, 2)
	l.write()
	all, err := kadm.NewClient(l.cl).ListEndOffsets(t.Context(), "shop.public.orders")
	if err == nil {
		_, err = kadm.NewClient(l.cl).DeleteRecords(t.Context(), all.Offsets())
	}
	if err != nil {
		t.Fatal(err)
	}
	db.create(3)
	l.write()
	defer l.beside(l.write)()
	r := must(t, l)
	check(t, r, `undecided {"id":1}`, `undecided {"id":2}`)
	if !r.Trimmed || r.Clean() || !strings.Contains(r.Findings[0].Why, "retention") {
		t.Errorf("%+v", r)
	}
}

// TestHeldBound: what the source does not show is not held without bound; what that leaves open is undecided.
func TestHeldBound(t *testing.T) {
	held := &topic{maxHeld: 2 * recordBytes, parts: []part{{held: map[string][]held{}, whole: true}}, store: nil}
	view := &fakeView{}
	for n := range 3 {
		r := record{key: []byte{byte(n)}, value: []byte(`{"source":{"txId":9,"snapshot":"false"},"op":"c","after":{}}`)}
		if err := r.readValue(); err != nil {
			t.Fatal(err)
		}
		err := held.follow(0, &r, recordBytes, view)
		if full := n == 2; errors.Is(err, errStop) != full || held.isWhole(0) == full {
			t.Errorf("record %d: %v, whole %v", n, err, held.isWhole(0))
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		setUp func(l *fakeLog, o *Options)
		want  string
	}{
		{"a source that cannot", func(l *fakeLog, o *Options) { o.Source = onlyConfig{l.db} }, "of kind fake cannot read its tables beside the stream"},
		{"a table that is not there", func(_ *fakeLog, o *Options) { o.Tables = []string{"public.order"} }, `has no table "public.order"; to mend it: name one of public.orders`},
		{"a capture that never ran", func(_ *fakeLog, o *Options) { o.Open.Capture = "other" }, `capture "other" has never run on this log`},
		{"a capture that does not run", func(l *fakeLog, o *Options) {
			l.db.create(3)
			o.Timeout = 100 * time.Millisecond
		}, "did not come past what was read from the source in 100ms"},
		{"a snapshot under way", func(l *fakeLog, _ *Options) {
			l.checkpoint = func(cp *checkpoint.Checkpoint) {
				cp.Snapshot = &checkpoint.Snapshot{ID: 1, Tables: []checkpoint.TableSnapshot{{Table: "public.orders"}}}
			}
			l.write()
		}, "a snapshot of the table is under way"},
		{"a gap meanwhile", func(l *fakeLog, o *Options) {
			l.db.create(3)
			gap := false
			o.Progress = func(p Progress) {
				if p.Phase == "rows" && !gap {
					gap = true
					l.checkpoint = func(cp *checkpoint.Checkpoint) { cp.Epoch = 2 }
					l.write()
				}
			}
		}, "went over a gap meanwhile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db, l := newFake(t, newTable(0))
			db.create(1, 2)
			l.write()
			o := l.options()
			c.setUp(l, &o)
			err := Run(t.Context(), o, func(*Result) error { return nil })
			var fatal *sources.FatalError
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &fatal) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// onlyConfig hides that a config is a Snapshotter.
type onlyConfig struct{ sources.Config }
