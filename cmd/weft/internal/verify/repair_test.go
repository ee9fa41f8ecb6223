package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

// mender repairs as a capture does.
type mender struct {
	l      *fakeLog
	refuse error
	idle   bool // it writes nothing
	wanted []int64
	keys   []string
}

func (m *mender) Wanted(_ *Result, keys int64) (bool, error) {
	m.wanted = append(m.wanted, keys)
	return m.refuse == nil, m.refuse
}

func (m *mender) Repair(_ context.Context, table string, keys [][][]byte) error {
	if m.l.db.table.String() != table {
		return errors.New("another table")
	}
	var records []*kgo.Record
	rows := m.l.db.rows(m.l.db.view())
	for _, key := range keys {
		m.keys = append(m.keys, string(key[0]))
		c := &sources.Change{Op: sources.OpDelete, Cause: sources.CauseRepair, Table: m.l.db.table}
		c.Before = []sources.Value{{Data: key[0], State: sources.Present}, {State: sources.Unavailable}, {State: sources.Unavailable}}
		if i := slices.IndexFunc(rows, func(r []sources.Value) bool { return bytes.Equal(r[0].Data, key[0]) }); i >= 0 {
			c.Op, c.Before, c.After = sources.OpRead, nil, rows[i]
		}
		records = append(records, m.l.records(c)...)
	}
	if !m.idle {
		m.l.produce(records...)
	}
	return nil
}

// spoilt is a log whose topic lacks row 3, has row 5 otherwise, and a row 99 that the table does not have; one more is in a partition
// where the capture writes no such key.
func spoilt(t *testing.T) *fakeLog {
	db, l := newFake(t, newTable(0))
	db.create(ids(1, 10)...)
	l.mutate = func(all []*kgo.Record) []*kgo.Record {
		all = slices.DeleteFunc(all, func(r *kgo.Record) bool { return string(r.Key) == `{"id":3}` })
		for _, r := range all {
			if string(r.Key) == `{"id":5}` {
				r.Value = bytes.Replace(r.Value, []byte(`"new"`), []byte(`"old"`), 1)
			}
		}
		return append(all, l.records(&sources.Change{Op: sources.OpCreate, Table: db.table, Meta: []byte(`"txId":1`), After: row(99, "new", "")})...)
	}
	l.write()
	l.mutate = nil
	return l
}

func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name  string
		m     mender
		clean bool
		want  string // keys, left, listed
	}{
		{"mended", mender{}, true, "3 0 0"},
		{"not mended", mender{idle: true}, false, "3 3 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := spoilt(t)
			c.m.l = l
			o := l.options()
			o.Repair = &c.m
			var result *Result
			if err := Run(t.Context(), o, func(r *Result) error { result = r; return nil }); err != nil {
				t.Fatal(err)
			}
			if want := []string{`differing {"id":5} status`, `extra {"id":99}`, `missing {"id":3}`}; !slices.Equal(findings(result), want) {
				t.Errorf("found %q, want %q", findings(result), want)
			}
			r := result.Repair
			if r == nil || result.Clean() != c.clean || fmt.Sprint(r.Keys, r.Left, len(r.Findings)) != c.want {
				t.Errorf("clean %v, repaired %+v, want %s", result.Clean(), r, c.want)
			}
			slices.Sort(c.m.keys)
			if !slices.Equal(c.m.wanted, []int64{3}) || !slices.Equal(c.m.keys, []string{"3", "5", "99"}) {
				t.Errorf("wanted %v, repaired %q", c.m.wanted, c.m.keys)
			}
			o.Repair = nil
			if err := Run(t.Context(), o, func(r *Result) error { result = r; return nil }); err != nil || result.Clean() != c.clean {
				t.Errorf("afterwards: %v, %+v", err, result)
			}
		})
	}
}

// Nothing is repaired that nobody wants to be, that is undecided or of another remedy, or of a table without a key.
func TestNotRepaired(t *testing.T) {
	refused := errors.New("no")
	l := spoilt(t)
	m := &mender{l: l, refuse: refused}
	o := l.options()
	o.Repair = m
	if err := Run(t.Context(), o, func(*Result) error { return nil }); !errors.Is(err, refused) || len(m.keys) > 0 {
		t.Errorf("got %v; repaired %q", err, m.keys)
	}

	db, l := newFake(t, newTable(0))
	db.create(1, 2)
	l.mutate = func(all []*kgo.Record) []*kgo.Record {
		astray := *all[0]
		astray.Partition = (astray.Partition + 1) % partitions
		return append(all, &astray)
	}
	l.write()
	m = &mender{l: l}
	for _, keyless := range []bool{false, true} {
		if keyless {
			db, l = newFake(t, newTable())
			db.create(1, 2)
			l.mutate = func(all []*kgo.Record) []*kgo.Record { return all[:1] }
			l.write()
		}
		o = l.options()
		o.Repair = m
		var result *Result
		if err := Run(t.Context(), o, func(r *Result) error { result = r; return nil }); err != nil {
			t.Fatal(err)
		}
		if result.Clean() || result.Repair != nil || result.Keyless != keyless || len(m.wanted) > 0 {
			t.Errorf("keyless %v: %+v, wanted %v", keyless, result, m.wanted)
		}
	}
}
