package fold

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/sink/envelope"
	"weft/sources"
)

var dialects = []envelope.Dialect{envelope.JSON, envelope.Debezium}

func value(s string) sources.Value { return sources.Value{Data: []byte(s), State: sources.Present} }

var (
	null   = sources.Value{}
	unsent = sources.Value{State: sources.Unavailable}
)

func things() *sources.Table {
	return &sources.Table{Schema: "public", Name: "things", Key: []int{0}, Columns: []sources.Column{
		{Name: "id", Type: sources.Type{Kind: sources.Int}},
		{Name: "n", Type: sources.Type{Kind: sources.Int}},
		{Name: "big", Type: sources.Type{Kind: sources.String}},
	}}
}

// log is a topic: the records of each partition in their order.
type log struct {
	t          testing.TB
	encoder    *envelope.Encoder
	order      int
	partitions [][]Record
}

func newLog(t testing.TB, d envelope.Dialect, partitions int) *log {
	e, err := envelope.New(envelope.Options{Dialect: d, Connector: "test", Name: "shop", Version: "1"})
	if err != nil {
		t.Fatal(err)
	}
	return &log{t: t, encoder: e, partitions: make([][]Record, partitions)}
}

// add appends a change's records where the writer puts them. place says where a keyless table's go.
func (l *log) add(c *sources.Change, place int) {
	l.t.Helper()
	l.order++
	_, records, err := l.encoder.Encode(nil, nil, c, fmt.Appendf(nil, "00000001.%08d.", l.order))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range records {
		record := Record{Key: r.Key, Value: r.Value, OldKey: r.OldKey, NewKey: r.NewKey}
		if c.Op == sources.OpTruncate {
			for i := range l.partitions {
				l.partitions[i] = append(l.partitions[i], record)
			}
			continue
		}
		p := place
		if r.Key != nil {
			h := fnv.New32a()
			h.Write(r.Key)
			p = int(h.Sum32())
		}
		p = int(uint(p) % uint(len(l.partitions)))
		l.partitions[p] = append(l.partitions[p], record)
	}
}

// fold reads the partitions in a random interleaving, into either store.
func (l *log) fold(random *rand.Rand) *Table {
	l.t.Helper()
	t, next := New(), make([]int, len(l.partitions))
	if random.IntN(8) == 0 {
		var err error
		if t, err = NewOnDisk(l.t.TempDir(), 16<<20); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { t.Close() })
	}
	for {
		var ready []int
		for i := range next {
			if next[i] < len(l.partitions[i]) {
				ready = append(ready, i)
			}
		}
		if len(ready) == 0 {
			return t
		}
		i := ready[random.IntN(len(ready))]
		for range 1 + random.IntN(20) { // fetches bring runs of records
			if next[i] == len(l.partitions[i]) {
				break
			}
			if err := t.Apply(int32(i), l.partitions[i][next[i]]); err != nil {
				l.t.Fatal(err)
			}
			next[i]++
		}
	}
}

// pending counts the key changes of which one half is still to come.
func pending(t testing.TB, table *Table) int {
	t.Helper()
	c, err := table.entries([]byte{'m'})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := 0
	for c.Next() {
		n++
	}
	return n
}

// lines is a table as lines that can be compared.
func lines(t testing.TB, table *Table) string {
	t.Helper()
	rows, err := table.Rows()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	n := 0
	for _, r := range rows {
		columns, err := json.Marshal(r.Columns)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s x%d", r.Key, columns, r.Count)
		if r.Unknown != nil {
			fmt.Fprintf(&b, " unknown %v", r.Unknown)
		}
		b.WriteByte('\n')
		n += r.Count
	}
	if length, err := table.Len(); err != nil || n != length {
		t.Errorf("Len says %d, %v, and there are %d rows", length, err, n)
	}
	return b.String()
}

type thing struct {
	n   int
	big string
}

func (v thing) row(id int) []sources.Value {
	return []sources.Value{value(strconv.Itoa(id)), value(strconv.Itoa(v.n)), value(v.big)}
}

// Histories of inserts, updates that leave a large column out, key changes, deletes and truncates fold to the table that
// they made, whatever the order in which the partitions are read.
func TestFoldsToTheTable(t *testing.T) {
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 1))
		table := things()
		l := newLog(t, dialects[seed%2], 1+random.IntN(5))
		model := make(map[int]thing)
		for step := range 300 {
			ids := slices.Sorted(maps.Keys(model))
			fresh := random.IntN(40)
			_, taken := model[fresh]
			c := &sources.Change{Table: table}
			switch what := random.IntN(100); {
			case what == 0:
				c.Op = sources.OpTruncate
				clear(model)
			case len(ids) == 0 || what < 30:
				if taken {
					continue
				}
				c.Op = sources.OpCreate
				if what%2 == 0 {
					c.Op = sources.OpRead
				}
				model[fresh] = thing{step, fmt.Sprintf("big %d", step)}
				c.After = model[fresh].row(fresh)
			default:
				id := ids[random.IntN(len(ids))]
				was := model[id]
				switch {
				case what < 40:
					c.Op, c.Before = sources.OpDelete, []sources.Value{value(strconv.Itoa(id)), unsent, unsent}
					delete(model, id)
				case what < 70: // an update
					now := was
					now.n = step
					c.Op, c.After = sources.OpUpdate, now.row(id)
					if c.After[2] = unsent; what < 50 {
						now.big = fmt.Sprintf("big %d", step)
						c.After = now.row(id)
					}
					model[id] = now
				default: // a key change
					if taken {
						continue
					}
					c.Op, c.Before, c.After = sources.OpUpdate, []sources.Value{value(strconv.Itoa(id)), unsent, unsent}, was.row(fresh)
					if what < 90 {
						c.After[2] = unsent
					}
					delete(model, id)
					model[fresh] = was
				}
			}
			l.add(c, 0)
		}
		var want []string
		for id, v := range model {
			want = append(want, fmt.Sprintf(`{"id":%d} {"big":%q,"id":%d,"n":%d} x1`+"\n", id, v.big, id, v.n))
		}
		slices.Sort(want)
		for range 3 {
			folded := l.fold(random)
			got := strings.SplitAfter(lines(t, folded), "\n")
			slices.Sort(got)
			if g, w := strings.Join(got, ""), strings.Join(want, ""); g != w {
				t.Fatalf("seed %d:\n got\n%swant\n%s", seed, g, w)
			}
			if held := pending(t, folded); held > 0 {
				t.Fatalf("seed %d: %d key changes are still held", seed, held)
			}
		}
	}
}

// The rows of a keyless table fold to the same bag wherever its records lie.
func TestKeylessFoldsToTheBag(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 2))
		table := things()
		table.Key = nil
		l := newLog(t, dialects[seed%2], 1+random.IntN(3))
		var model []thing
		for range 300 {
			c := &sources.Change{Table: table}
			now := thing{random.IntN(4), "same"}
			i := 0
			if len(model) > 0 {
				i = random.IntN(len(model))
			}
			switch what := random.IntN(100); {
			case what == 0:
				c.Op = sources.OpTruncate
				model = nil
			case len(model) == 0 || what < 50:
				c.Op, c.After = sources.OpCreate, now.row(1)
				model = append(model, now)
			case what < 70:
				c.Op, c.Before = sources.OpDelete, model[i].row(1)
				model = slices.Delete(model, i, i+1)
			default:
				c.Op, c.Before, c.After = sources.OpUpdate, model[i].row(1), now.row(1)
				model[i] = now
			}
			l.add(c, random.IntN(10))
		}
		count := make(map[int]int)
		for _, v := range model {
			count[v.n]++
		}
		want := ""
		for _, n := range slices.Sorted(maps.Keys(count)) {
			want += fmt.Sprintf(` {"big":"same","id":1,"n":%d} x%d`+"\n", n, count[n])
		}
		if got := lines(t, l.fold(random)); got != want {
			t.Fatalf("seed %d:\n got\n%swant\n%s", seed, got, want)
		}
	}
}

// apply folds records of one partition each, in the order given.
func apply(t *testing.T, table *Table, partition int32, l *log) {
	t.Helper()
	for _, r := range l.partitions[0] {
		if err := table.Apply(partition, r); err != nil {
			t.Fatal(err)
		}
	}
	l.partitions[0] = nil
}

// What no record has told is named, never guessed, in either dialect: the placeholder is not a value.
func TestUnknownIsSaid(t *testing.T) {
	for _, d := range dialects {
		l, table := newLog(t, d, 1), New()
		l.add(&sources.Change{Op: 'u', Table: things(), After: []sources.Value{value("1"), value("2"), unsent}}, 0)
		apply(t, table, 0, l)
		if got, want := lines(t, table), `{"id":1} {"id":1,"n":2} x1 unknown [big]`+"\n"; got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
		l.add(&sources.Change{Op: 'u', Table: things(), After: []sources.Value{value("1"), null, value("__debezium_unavailable_value")}}, 0)
		apply(t, table, 0, l)
		if got, want := lines(t, table), `{"id":1} {"big":"__debezium_unavailable_value","id":1,"n":null} x1`+"\n"; got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

// A row that comes from another key has nothing of what was at its own key before.
func TestKeyChangeForgetsTheNewKeysPast(t *testing.T) {
	l, table := newLog(t, envelope.JSON, 1), New()
	l.add(&sources.Change{Op: 'c', Table: things(), After: []sources.Value{value("2"), null, value("stale")}}, 0)
	l.add(&sources.Change{Op: 'u', Table: things(), Before: []sources.Value{value("1"), unsent, unsent},
		After: []sources.Value{value("2"), null, unsent}}, 0)
	apply(t, table, 0, l)
	if got, want := lines(t, table), `{"id":2} {"id":2,"n":null} x1 unknown [big]`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A row whose key changes twice is read from the newest partition back to the oldest: each half waits for the one before.
func TestKeyChangesReadBackwards(t *testing.T) {
	for _, d := range dialects {
		l := newLog(t, d, 1)
		table := things()
		move := func(from, to string) []Record {
			l.add(&sources.Change{Op: 'u', Table: table, Before: []sources.Value{value(from), unsent, unsent},
				After: []sources.Value{value(to), value("7"), unsent}}, 0)
			records := l.partitions[0]
			l.partitions[0] = nil
			return records
		}
		l.add(&sources.Change{Op: 'c', Table: table, After: []sources.Value{value("1"), value("7"), value("precious")}}, 0)
		insert := l.partitions[0]
		l.partitions[0] = nil
		first, second := move("1", "2"), move("2", "3")
		folded := New()
		for _, step := range []struct {
			partition int32
			records   []Record
			want      string
		}{
			{3, second[2:], `{"id":3} {"id":3,"n":7} x1 unknown [big]`},
			{2, first[2:], `{"id":2} {"id":2,"n":7} x1 unknown [big]|{"id":3} {"id":3,"n":7} x1 unknown [big]`},
			{2, second[:2], `{"id":3} {"id":3,"n":7} x1 unknown [big]`},
			{1, insert, `{"id":1} {"big":"precious","id":1,"n":7} x1|{"id":3} {"id":3,"n":7} x1 unknown [big]`},
			{1, first[:2], `{"id":3} {"big":"precious","id":3,"n":7} x1`},
		} {
			for _, r := range step.records {
				if err := folded.Apply(step.partition, r); err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.ReplaceAll(strings.TrimSpace(lines(t, folded)), "\n", "|"); got != step.want {
				t.Errorf("%s: got %s, want %s", d, got, step.want)
			}
		}
	}
}

// A truncate empties the rows of the partition that it is read from, and no others.
func TestTruncateIsPerPartition(t *testing.T) {
	l, table := newLog(t, envelope.JSON, 1), New()
	for id, p := range map[string]int32{"1": 0, "2": 1} {
		l.add(&sources.Change{Op: 'c', Table: things(), After: []sources.Value{value(id), null, null}}, 0)
		apply(t, table, p, l)
	}
	l.add(&sources.Change{Op: 't', Table: things()}, 0)
	apply(t, table, 0, l)
	if got, want := lines(t, table), `{"id":2} {"big":null,"id":2,"n":null} x1`+"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestApplyRefuses(t *testing.T) {
	tests := []struct{ key, value, old, want string }{
		{"", "", "", "neither key nor value"},
		{`{"id":1}`, `{`, "", "key {\"id\":1}: unexpected end"},
		{`{"id":1}`, `{"op":"m"}`, "", `op "m" is not one of a row`},
		{`{"id":1}`, `{"op":"c","after":null}`, "", "op c without after"},
		{`{"id":1}`, `{"op":"c","after":{"id":1}}`, `{"id":0}`, "a key change without source.seq"},
		{"", `{"op":"m"}`, "", `op "m" is not one of a row`},
		{"", `{"op":""}`, "", `op "" is not one of a row`},
		{"", `{"op":"d","before":null,"source":{"seq":"x.0"}}`, "", "seq x.0: op d of a row without a key lacks before or after"},
		{"", `{"op":"c","after":{"a":1},"source":{"unavailable":["b"]}}`, "", "columns that are not known: b"},
	}
	for _, test := range tests {
		bytesOf := func(s string) []byte {
			if s == "" {
				return nil
			}
			return []byte(s)
		}
		table := New()
		err := table.Apply(0, Record{Key: bytesOf(test.key), Value: bytesOf(test.value), OldKey: bytesOf(test.old)})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.value, err, test.want)
		}
		if n, err := table.Len(); n != 0 || err != nil {
			t.Errorf("%s: left %d rows, %v", test.value, n, err)
		}
	}
	table := New()
	if err := table.Apply(0, Record{Value: []byte(`{"op":"d","before":{"a":1}}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Rows(); err == nil || !strings.Contains(err.Error(), "deleted 1 times more than inserted") {
		t.Errorf("got %v", err)
	}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte(`{"id":1}`), []byte(`{"op":"c","after":{"id":1},"source":{"seq":"1.2","unavailable":["b"]}}`), []byte(`{"id":2}`), []byte(nil))
	f.Fuzz(func(t *testing.T, key, value, oldKey, newKey []byte) {
		table := New()
		for p := range int32(2) {
			r := Record{Key: key, Value: value, OldKey: oldKey, NewKey: newKey}
			if len(bytes.TrimSpace(oldKey)) == 0 {
				r.OldKey = nil
			}
			if err := table.Apply(p, r); err != nil {
				return
			}
		}
		_, _ = table.Rows()
		_, _ = table.Len()
	})
}
