package fold

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

func onDisk(t testing.TB) (*Table, string) {
	t.Helper()
	dir := t.TempDir()
	table, err := NewOnDisk(dir, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	return table, dir
}

// Rows come in the order of their keys' values over all partitions, whatever the keys' text.
func TestEachIsInKeyOrder(t *testing.T) {
	keys := []string{
		`{"a":null}`, `{"a":false}`, `{"a":true}`, `{"a":-9007199254740993}`, `{"a":-9007199254740992}`, `{"a":-1.5}`, `{"a":0}`, `{"a":9}`,
		`{"a":10}`, `{"a":10.25}`, `{"a":9007199254740992}`, `{"a":9007199254740993}`, `{"a":""}`, `{"a":"\u0000"}`, `{"a":"\u0000a"}`, `{"a":"a"}`,
		`{"a":"a","b":1}`, `{"a":"a","b":"x"}`, `{"a":"a\u0000"}`, `{"a":"ab"}`, `{"a":"b"}`, `{"a":[1]}`,
	}
	table, dir := onDisk(t)
	for _, i := range rand.Perm(len(keys)) {
		value := fmt.Sprintf(`{"op":"c","after":%s,"source":{"seq":"%d.2"}}`, keys[i], i)
		if err := table.Apply(int32(i%3), Record{Key: []byte(keys[i]), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := table.Each(func(r *Image) error {
		got = append(got, string(r.Key))
		if want := fmt.Sprintf("%d.2", len(got)-1); string(r.Seq) != want || int(r.Partition) != (len(got)-1)%3 {
			t.Errorf("row %s: seq %s of partition %d, want %s", r.Key, r.Seq, r.Partition, want)
		}
		return nil
	})
	if err != nil || !slices.Equal(got, keys) {
		t.Errorf("got %v\n%s\nwant\n%s", err, strings.Join(got, "\n"), strings.Join(keys, "\n"))
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("Close left %v, %v", left, err)
	}
}

// What Each gives can be put into another table, which then goes on as the first would.
func TestPutRestores(t *testing.T) {
	first, second := New(), New()
	records := []Record{
		{Key: []byte(`{"id":1}`), Value: []byte(`{"op":"c","after":{"id":1,"big":"x"},"source":{"seq":"1.2"}}`)},
		{Key: []byte(`{"id":2}`), Value: []byte(`{"op":"u","after":{"id":2},"source":{"seq":"2.2","unavailable":["big"]}}`)},
		{Value: []byte(`{"op":"c","after":{"b":1,"a":2},"source":{"seq":"3.2"}}`)},
		{Value: []byte(`{"op":"c","after":{"a":2, "b":1},"source":{"seq":"4.2"}}`)},
	}
	for _, r := range records {
		if err := first.Apply(1, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.Restore(first.Each); err != nil {
		t.Fatal(err)
	}
	for _, table := range []*Table{first, second} {
		if got, want := lines(t, table), `{"id":1} {"big":"x","id":1} x1`+"\n"+`{"id":2} {"id":2} x1 unknown [big]`+"\n"+` {"a":2,"b":1} x2`+"\n"; got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	}
	for _, table := range []*Table{first, second} {
		if err := table.Apply(1, Record{Key: []byte(`{"id":1}`), Value: []byte(`{"op":"u","after":{"id":1},"source":{"seq":"5.2","unavailable":["big"]}}`)}); err != nil {
			t.Fatal(err)
		}
		if err := table.Apply(1, Record{Value: []byte(`{"op":"d","before":{"a":2,"b":1},"source":{"seq":"6.0"}}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := lines(t, first), lines(t, second); a != b || !strings.Contains(a, `{"big":"x","id":1} x1`) || !strings.Contains(a, `{"a":2,"b":1} x1`) {
		t.Errorf("after the same records:\n%s\n%s", a, b)
	}
}

func BenchmarkApplyOnDisk(b *testing.B) {
	table, _ := onDisk(b)
	defer table.Close()
	b.ReportAllocs()
	for i := range b.N {
		id := (i * 7919) % 1_000_003
		key := fmt.Appendf(nil, `{"id":%d}`, id)
		value := fmt.Appendf(nil, `{"before":null,"after":{"id":%d,"customer":%d,"status":"paid","total":"129.90","note":"some text of a usual length","created_at":"2026-11-24T10:00:00.123456Z"},"source":{"version":"1.0.0","connector":"postgresql","name":"shop","ts_ms":1795378139717,"snapshot":"false","db":"shop","ts_us":1795378139717334,"ts_ns":1795378139717334000,"schema":"public","table":"orders","txId":827,"lsn":23702520,"sequence":"[\"23702344\",\"23702520\"]","xmin":null,"origin":null,"origin_lsn":null,"seq":"00000001.%016x.00000003.2"},"transaction":{"id":"827:23807304","total_order":2,"data_collection_order":1},"op":"c","ts_ms":1795378140123,"ts_us":1795378140123456,"ts_ns":1795378140123456789}`, id, id%1000, i)
		if err := table.Apply(int32(id%6), Record{Key: key, Value: value}); err != nil {
			b.Fatal(err)
		}
	}
}
