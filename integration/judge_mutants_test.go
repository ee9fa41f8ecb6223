package integration

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// history is a topic of two partitions as the daemon would write it, and the table it folds to: creates, updates with an
// unavailable column, a delete, a key change into the other partition, a truncate.
func history() ([]record, table) {
	var records []record
	seq := func(source, ordinal int) string { return fmt.Sprintf("%04d.%08d.%d", 1, source, ordinal) }
	add := func(seq, key, value string, headers ...string) {
		r := record{topic: "shop.public.docs", key: []byte(key), headers: map[string]string{"weft-seq": seq}}
		if value != "" {
			r.value = fmt.Appendf(nil, value, seq)
		}
		for i := 0; i < len(headers); i += 2 {
			r.headers[headers[i]] = headers[i+1]
		}
		if key != "" {
			r.partition = partitionOf(r.key, 2)
			records = append(records, r)
			return
		}
		for r.partition = range int32(2) {
			records = append(records, r)
		}
	}
	add(seq(1, 2), `{"id":9}`, `{"op":"c","before":null,"after":{"id":9,"n":9,"body":"z"},"source":{"seq":"%s"}}`)
	add(seq(2, 0), ``, `{"op":"t","before":null,"after":null,"source":{"seq":"%s"}}`)
	add(seq(3, 2), `{"id":1}`, `{"op":"c","before":null,"after":{"id":1,"n":1,"body":"x"},"source":{"seq":"%s"}}`)
	add(seq(4, 2), `{"id":2}`, `{"op":"c","before":null,"after":{"id":2,"n":2,"body":"y"},"source":{"seq":"%s"}}`)
	add(seq(5, 2), `{"id":1}`, `{"op":"u","before":null,"after":{"id":1,"n":3},"source":{"seq":"%s","unavailable":["body"]}}`)
	add(seq(6, 0), `{"id":1}`, `{"op":"d","before":{"id":1},"after":null,"source":{"seq":"%s"}}`,
		"__debezium.newkey", `{"id":3}`)
	add(seq(6, 1), `{"id":1}`, ``)
	add(seq(6, 2), `{"id":3}`, `{"op":"c","before":null,"after":{"id":3,"n":4},"source":{"seq":"%s","unavailable":["body"]}}`,
		"__debezium.oldkey", `{"id":1}`)
	add(seq(7, 0), `{"id":2}`, `{"op":"d","before":{"id":2},"after":null,"source":{"seq":"%s"}}`)
	add(seq(7, 1), `{"id":2}`, ``)
	add(seq(8, 2), `{"id":3}`, `{"op":"u","before":null,"after":{"id":3,"n":6},"source":{"seq":"%s","unavailable":["body"]}}`)
	add(seq(9, 2), `{"id":1}`, `{"op":"c","before":null,"after":{"id":1,"n":7,"body":"w"},"source":{"seq":"%s"}}`)
	slices.SortStableFunc(records, func(a, b record) int { return int(a.partition - b.partition) })
	for i := range records {
		records[i].offset = int64(i)
	}

	want := table{partitions: 2, rows: map[string]row{}, changes: map[string]int{
		`c {"id":9} n 9`: 1, "truncate of partition 0": 1, "truncate of partition 1": 1, `c {"id":1} n 1`: 1,
		`c {"id":2} n 2`: 1, `u {"id":1} n 3`: 1, `moved from {"id":1}`: 1, `moved to {"id":3} n 4`: 1, `delete {"id":2}`: 1,
		`u {"id":3} n 6`: 1, `c {"id":1} n 7`: 1,
	}}
	for _, text := range []string{`{"id":1,"n":7,"body":"w"}`, `{"id":3,"n":6,"body":"x"}`} {
		var r row
		if err := decode([]byte(text), &r); err != nil {
			panic(err)
		}
		want.rows[fmt.Sprintf(`{"id":%v}`, r["id"])] = r
	}
	return records, want
}

func TestJudgeAccepts(t *testing.T) {
	if problems := judge(history()); len(problems) > 0 {
		t.Errorf("a right history is judged wrong: %q", problems)
	}
}

// TestJudgeRejects takes every record of a right history and loses, repeats, moves or alters it.
func TestJudgeRejects(t *testing.T) {
	mutants := map[string]func(records []record, i int) []record{
		"lost":             func(r []record, i int) []record { return slices.Delete(r, i, i+1) },
		"repeated at once": func(r []record, i int) []record { return slices.Insert(r, i, r[i]) },
		"repeated at the end of its partition": func(r []record, i int) []record {
			end := i
			for end < len(r) && r[end].partition == r[i].partition {
				end++
			}
			return slices.Insert(r, end, r[i])
		},
		"before the one before": func(r []record, i int) []record {
			if i == 0 || r[i-1].partition != r[i].partition {
				return nil
			}
			r[i-1], r[i] = r[i], r[i-1]
			return r
		},
		"in the other partition": func(r []record, i int) []record {
			r[i].partition = 1 - r[i].partition
			slices.SortStableFunc(r, func(a, b record) int { return int(a.partition - b.partition) })
			return r
		},
		"without its header": func(r []record, i int) []record {
			r[i].headers = map[string]string{}
			return r
		},
		"with another value": func(r []record, i int) []record {
			for _, pair := range [][2]string{{`"n":`, `"n":1`}, {`"op":"d"`, `"op":"u"`}, {`"op":"t"`, `"op":"d"`}} {
				if altered := bytes.Replace(r[i].value, []byte(pair[0]), []byte(pair[1]), 1); !bytes.Equal(altered, r[i].value) {
					r[i].value = altered
					return r
				}
			}
			return nil
		},
		"with another text": func(r []record, i int) []record {
			altered := bytes.Replace(r[i].value, []byte(`"body":"`), []byte(`"body":"!`), 1)
			if bytes.Equal(altered, r[i].value) || !bytes.Contains(r[i].key, []byte(`"id":1`)) {
				return nil // a text that no row has in the end leaves no trace
			}
			r[i].value = altered
			return r
		},
		"with another key": func(r []record, i int) []record {
			if len(r[i].key) == 0 {
				return nil
			}
			r[i].key = []byte(`{"id":77}`)
			return r
		},
		"with a null for what is unavailable": func(r []record, i int) []record {
			altered := bytes.Replace(r[i].value, []byte(`},"source"`), []byte(`,"body":null},"source"`), 1)
			if !bytes.Contains(r[i].value, []byte("unavailable")) {
				return nil
			}
			r[i].value = altered
			return r
		},
	}
	for name, mutate := range mutants {
		tried := 0
		original, _ := history()
		for i := range original {
			records, want := history()
			at := records[i].String()
			if records = mutate(records, i); records == nil {
				continue
			}
			tried++
			if len(judge(records, want)) == 0 {
				t.Errorf("%s %s: judged right", at, name)
			}
		}
		if tried == 0 {
			t.Errorf("%s: no record to try it on", name)
		}
	}
}

// TestPartitionOf has keys from the test of Kafka's own murmur2 (UtilsTest.testMurmur2), whose hashes it names.
func TestPartitionOf(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		for _, partitions := range []int32{1, 3, 1000003} {
			if got, want := partitionOf([]byte(key), partitions), (hash&0x7fffffff)%partitions; got != want {
				t.Errorf("%s of %d: partition %d, want %d", key, partitions, got, want)
			}
		}
	}
}

// TestJudgeByFoldAlone leaves out what was committed, as for a source that does not deliver every change.
func TestJudgeByFoldAlone(t *testing.T) {
	records, want := history()
	want.changes = nil
	if problems := judge(records, want); len(problems) > 0 {
		t.Errorf("a right history is judged wrong: %q", problems)
	}
	if len(judge(records[:len(records)-1], want)) == 0 {
		t.Error("the last change of a row is lost: judged right")
	}
}
