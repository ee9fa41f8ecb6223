package verify

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

func must(t *testing.T, l *fakeLog) *Result {
	t.Helper()
	r, err := l.verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ids(from, to int) (all []int) {
	for id := from; id <= to; id++ {
		all = append(all, id)
	}
	return all
}

// update, remove and move are changes of a row.
func update(id int, status, note string) sources.Change {
	return sources.Change{Op: sources.OpUpdate, Before: row(id, "", ""), After: row(id, status, note)}
}

func remove(id int) sources.Change {
	return sources.Change{Op: sources.OpDelete, Before: row(id, "", "")}
}

func TestClean(t *testing.T) {
	db, l := newFake(t, newTable(0))
	db.create(ids(1, 100)...)
	for id := 1; id < 100; id += 3 {
		db.commit(true, update(id, "paid", "x"), remove(id+1))
	}
	l.write()
	stop := l.beside(l.write)
	defer stop()
	if r := must(t, l); !r.Clean() || r.Rows != 67 || len(r.Findings) > 0 || r.LeftOff > 0 {
		t.Errorf("%+v", r)
	}
}

// TestMutants: a topic that is wrong in one record is found to be, and the key is named.
func TestMutants(t *testing.T) {
	isKey := func(r *kgo.Record, id string) bool { return string(r.Key) == `{"id":`+id+`}` }
	drop := func(is func(r *kgo.Record) bool) func([]*kgo.Record) []*kgo.Record {
		return func(all []*kgo.Record) []*kgo.Record { return slices.DeleteFunc(all, is) }
	}
	for _, c := range []struct {
		name   string
		mutate func([]*kgo.Record) []*kgo.Record
		want   []string
	}{
		{"a create is dropped", drop(func(r *kgo.Record) bool { return isKey(r, "7") }), []string{`missing {"id":7}`}},
		{"an update is dropped", drop(func(r *kgo.Record) bool { return isKey(r, "3") && op(r) == 'u' }), []string{`differing {"id":3} status,note`}},
		{"a delete and its tombstone are lost", drop(func(r *kgo.Record) bool { return isKey(r, "5") && (r.Value == nil || op(r) == 'd') }),
			[]string{`extra {"id":5}`}},
		{"a value is altered", func(all []*kgo.Record) []*kgo.Record {
			for _, r := range all {
				if isKey(r, "9") {
					r.Value = []byte(string(slices.Clone(r.Value)))
					i := slices.Index(r.Value, 'n') // any byte of a value will do: here that of "new"
					for ; string(r.Value[i:i+3]) != "new"; i++ {
					}
					r.Value[i] = 'f'
				}
			}
			return all
		}, []string{`differing {"id":9} status`}},
		{"a record is duplicated out of order", func(all []*kgo.Record) []*kgo.Record {
			for _, r := range all {
				if isKey(r, "3") && op(r) == 'c' {
					return append(all, &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
				}
			}
			return all
		}, []string{`differing {"id":3} status,note`}},
		{"a row is made up", madeUp(0), []string{`extra {"id":66}`}},
		{"a row is made up, in the wrong partition", madeUp(1), []string{`extra {"id":66}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db, l := newFake(t, newTable(0))
			db.create(ids(1, 20)...)
			db.commit(true, update(3, "paid", "x"))
			db.commit(true, remove(5))
			l.mutate = c.mutate
			l.write()
			l.mutate = nil
			stop := l.beside(l.write)
			defer stop()
			r := must(t, l)
			if got := findings(r); !slices.Equal(got, c.want) || r.Clean() {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// madeUp adds a row 66, so many partitions beside its own.
func madeUp(beside int32) func(all []*kgo.Record) []*kgo.Record {
	return func(all []*kgo.Record) []*kgo.Record {
		r := &kgo.Record{Topic: all[0].Topic, Key: []byte(`{"id":66}`), Value: all[0].Value}
		r.Partition = (int32(kgo.StickyKeyPartitioner(nil).ForTopic(r.Topic).Partition(r, partitions)) + beside) % partitions
		return append(all, r)
	}
}

func op(r *kgo.Record) byte {
	e := record{value: r.Value}
	if e.value == nil || e.readValue() != nil {
		return 0
	}
	return e.op
}
