package verify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink/fold"
	"weft/sources"
)

// TestStoreFolds: the store folds as package fold does, of which docs/records.md is the text, over random histories with key
// changes, untold columns and truncates, whose partitions are read in any order.
func TestStoreFolds(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 3))
		key := []int{0}
		if seed%5 == 0 {
			key = nil
		}
		_, l := newEncoder(t, key)
		var parts [partitions][]*kgo.Record
		for _, r := range history(random, l, key != nil) {
			parts[r.Partition] = append(parts[r.Partition], r)
		}
		s, err := openStore(t.TempDir(), 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		want := fold.New()
		for rest := 1; rest > 0; {
			rest = 0
			p := random.IntN(partitions)
			if len(parts[p]) > 0 {
				r := parts[p][0]
				parts[p] = parts[p][1:]
				parsed, err := parse(r)
				if err == nil {
					err = s.apply(&parsed)
				}
				if err != nil {
					t.Fatal(err)
				}
				f := fold.Record{Key: r.Key, Value: r.Value}
				for _, h := range r.Headers {
					switch h.Key {
					case "__debezium.oldkey":
						f.OldKey = h.Value
					case "__debezium.newkey":
						f.NewKey = h.Value
					}
				}
				if err := want.Apply(r.Partition, f); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range parts {
				rest += len(p)
			}
		}
		if got, want := storeText(t, s), foldText(t, want); got != want {
			t.Errorf("seed %d: the store has\n%swant\n%s", seed, got, want)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}

func newEncoder(t *testing.T, key []int) (*fakeDB, *fakeLog) {
	l := &fakeLog{t: t, db: &fakeDB{table: newTable(key...)}}
	return l.db, l.encoder(t)
}

// history is random changes of a few keys.
func history(random *rand.Rand, l *fakeLog, keyed bool) (all []*kgo.Record) {
	untold := sources.Value{State: sources.Unavailable}
	live := map[int][]sources.Value{}
	for n := range 150 {
		id, to := random.IntN(6), random.IntN(6)
		now := row(id, fmt.Sprint("s", random.IntN(3)), fmt.Sprint("n", n))
		c := sources.Change{Op: sources.OpCreate, Table: l.db.table, After: now}
		was := live[id]
		switch p := random.IntN(20); {
		case was == nil:
		case p == 0:
			c = sources.Change{Op: sources.OpTruncate, Table: l.db.table}
			clear(live)
			now = nil
		case p < 4:
			c.Op, c.Before, c.After, now = sources.OpDelete, was, nil, nil
		case p < 12 && keyed && live[to] == nil:
			c.Op, c.Before = sources.OpUpdate, []sources.Value{was[0], untold, untold}
			c.After = []sources.Value{row(to, "", "")[0], now[1], untold}
			delete(live, id)
			id = to
			now = []sources.Value{c.After[0], now[1], was[2]}
		default:
			c.Op, c.Before = sources.OpUpdate, was
			if keyed && p < 17 {
				c.Before, c.After = nil, []sources.Value{now[0], now[1], untold}
				now = []sources.Value{now[0], now[1], was[2]}
			}
		}
		if delete(live, id); now != nil {
			live[id] = now
		}
		all = append(all, l.records(&c)...)
	}
	return all[random.IntN(20):] // as if retention had removed the first ones
}

// storeText and foldText are rows as text, with checksums for values.
func storeText(t *testing.T, s *store) string {
	var lines []string
	err := s.scan([]byte{inRows}, []byte{inRows + 1}, func(k, v []byte) (bool, error) {
		row := bytes.Clone(v[1:])
		line := string(k[5:])
		var cells []string
		for i, name := range s.rows.shapes.shapeOf(row).names {
			c, err := s.settle(cellAt(row, i), name)
			if err != nil {
				return false, err
			}
			cells = append(cells, fmt.Sprintf(" %s %c%x", unquote(name), c.kind, c.n))
		}
		slices.Sort(cells)
		lines = append(lines, line+strings.Join(cells, "")+"\n")
		return true, nil
	})
	if err == nil {
		err = s.eachBag(func(e bagEntry) error {
			var cells []string
			for i, name := range s.rows.shapes.shapeOf(e.row).names {
				cells = append(cells, fmt.Sprintf(" %s v%x", unquote(name), cellAt(e.row, i).n))
			}
			slices.Sort(cells)
			lines = append(lines, fmt.Sprintf("%s x%d\n", strings.Join(cells, ""), e.count))
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func foldText(t *testing.T, f *fold.Table) string {
	rows, err := f.Rows()
	if err != nil && !strings.Contains(err.Error(), "more than inserted") {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range rows {
		var cells []string
		for name, raw := range r.Columns {
			cells = append(cells, fmt.Sprintf(" %s v%x", name, xxhash.Sum64(raw)))
		}
		for _, name := range r.Unknown {
			cells = append(cells, fmt.Sprintf(" %s ?0", name))
		}
		slices.Sort(cells)
		line := r.Key + strings.Join(cells, "")
		if r.Key == "" {
			line += fmt.Sprintf(" x%d", r.Count)
		}
		lines = append(lines, line+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// FuzzMembers: what is valid JSON is cut where encoding/json cuts it, and nothing at all breaks it.
func FuzzMembers(f *testing.F) {
	for _, text := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"}"]},"c\"":"\\", "d" : null }`, `{"a":[}`, `{"a"`, `{"a":"\\\"}`, `[1,[2],{"x":"]"}]`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var names []string
		got := map[string]string{}
		err := eachMember(text, func(name, value []byte) error {
			names = append(names, string(name))
			got[string(name)] = string(value)
			return nil
		})
		_ = eachElement(text, func([]byte) error { return nil })
		var want map[string]json.RawMessage
		if json.Unmarshal(text, &want) != nil || want == nil {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, name := range names {
			var plain string
			if json.Unmarshal([]byte(name), &plain) != nil || len(want) == len(got) && string(want[plain]) != got[name] {
				t.Errorf("%s: member %s is %s, want %s", text, name, got[name], want[plain])
			}
		}
	})
}
