package integration

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// table is what a topic is judged by.
type table struct {
	// partitions of the topic.
	partitions int32
	// rows by key, the key as canonical JSON.
	rows map[string]row
	// changes counts what was committed, by the text that described gives for a record: nil where the source
	// does not deliver every change.
	changes map[string]int
	// snapshot says that rows from before the stream are read beside it. Until they are, changes may leave out what the topic does
	// not have yet.
	snapshot bool
	// ordered is set where the source orders the changes of a key only. It tells whether two records of a key had to come the
	// other way round.
	ordered func(first, second record) bool
	// exempt are keys of which a change is excused from being there, and with it the row.
	exempt map[string]bool
}

// judge compares the records of one topic with its table and lists what is wrong: a record lost, repeated, out of order
// or altered.
func judge(records []record, want table) []string {
	j := &judgement{
		rows:    map[string]row{},
		at:      map[string]int32{},
		want:    want,
		pending: map[string]record{},
		last:    map[int32]string{},
		newest:  map[keyAt]record{},
		seqs:    map[string]record{},
		moved:   map[string]row{},
		changes: map[string]int{},
	}
	for _, r := range records {
		j.order(r)
	}
	// In order of seq a key change meets its old row wherever its new key lives. A stable sort keeps a partition's order
	// should two seqs be equal, which order has reported.
	sorted := slices.Clone(records)
	slices.SortStableFunc(sorted, func(a, b record) int {
		return strings.Compare(a.headers["weft-seq"], b.headers["weft-seq"])
	})
	for _, r := range sorted {
		j.fold(r)
	}
	for _, r := range j.pending {
		j.wrong("%s: a delete with no tombstone after it", r)
	}
	j.compare()
	return j.problems
}

type judgement struct {
	problems []string

	last    map[int32]string  // seq by partition
	newest  map[keyAt]record  // with the highest seq so far
	seqs    map[string]record // by seq
	want    table
	rows    map[string]row    // by key
	at      map[string]int32  // partition of a row, by key
	moved   map[string]row    // rows whose key has changed, by old key, until the create comes
	pending map[string]record // deletes whose tombstone has not come, by key
	changes map[string]int
}

// keyAt is a key in a partition: that of a truncate is in all of them.
type keyAt struct {
	partition int32
	key       string
}

func (j *judgement) wrong(format string, args ...any) {
	j.problems = append(j.problems, fmt.Sprintf(format, args...))
}

// order checks a record's seq: it grows along the partition, or with each key where only that is promised, and no other
// record has it. Only a truncate is written to every partition.
func (j *judgement) order(r record) {
	seq := r.headers["weft-seq"]
	if seq == "" {
		j.wrong("%s: no seq", r)
		return
	}
	if j.want.ordered != nil {
		at := keyAt{r.partition, string(r.key)}
		newest, ok := j.newest[at]
		if !ok || seq > newest.headers["weft-seq"] {
			j.newest[at] = r
		} else if j.want.ordered(newest, r) {
			j.wrong("%s: seq not above that of %s, the one of its key before", r, newest)
		}
	} else if last := j.last[r.partition]; seq <= last {
		j.wrong("%s: seq not above %s, the one before in its partition", r, last)
	}
	j.last[r.partition] = seq
	if other, ok := j.seqs[seq]; ok && (len(r.key) > 0 || len(other.key) > 0 || other.partition == r.partition) {
		j.wrong("%s: seq is also that of %s", r, other)
	}
	j.seqs[seq] = r
}

// fold applies a record to the rows, as docs/records.md tells consumers to.
func (j *judgement) fold(r record) {
	if len(r.key) == 0 {
		j.truncate(r)
		return
	}
	key, err := canonical(r.key)
	if err != nil {
		j.wrong("%s: key: %v", r, err)
		return
	}
	if at := partitionOf(r.key, j.want.partitions); at != r.partition {
		j.wrong("%s: the key belongs in partition %d", r, at)
	}
	deleted, pending := j.pending[key]
	delete(j.pending, key)
	if r.value == nil {
		if !pending {
			j.wrong("%s: a tombstone with no delete before it", r)
		}
		return
	}
	if pending {
		j.wrong("%s: a delete with no tombstone after it", deleted)
	}
	var e envelope
	if err := decode(r.value, &e); err != nil {
		j.wrong("%s: value: %v", r, err)
		return
	}
	if e.Source.Seq != r.headers["weft-seq"] {
		j.wrong("%s: source.seq is %s", r, e.Source.Seq)
	}
	if e.Op != "r" {
		j.changes[described(e.Op, key, e.After, r.headers)]++
	} else if !j.want.snapshot || len(e.Source.Unavailable) > 0 {
		j.wrong("%s: op r, of a table that no snapshot reads or not whole", r)
	}
	switch {
	case e.Op == "d":
		if _, changed := r.headers["__debezium.newkey"]; changed {
			j.moved[key] = j.rows[key]
		}
		delete(j.rows, key)
		j.pending[key] = r
	case e.After == nil:
		j.wrong("%s: op %s without after", r, e.Op)
	default:
		j.rows[key], j.at[key] = j.merge(r, key, e), r.partition
	}
}

// merge gives the row after a create or an update: unavailable columns keep the value they had.
func (j *judgement) merge(r record, key string, e envelope) row {
	before := j.rows[key]
	if text, ok := r.headers["__debezium.oldkey"]; ok {
		old, err := canonical([]byte(text))
		if err != nil {
			j.wrong("%s: __debezium.oldkey: %v", r, err)
		}
		if before, ok = j.moved[old]; !ok {
			j.wrong("%s: no delete of the old key %s", r, old)
		}
		delete(j.moved, old)
	}
	after := maps.Clone(e.After)
	for _, column := range e.Source.Unavailable {
		if _, ok := e.After[column]; ok {
			j.wrong("%s: %s is unavailable, yet it is there", r, column)
		}
		if value, ok := before[column]; ok {
			after[column] = value
		} else if !j.want.snapshot {
			j.wrong("%s: %s is unavailable and was never known", r, column)
		}
	}
	return after
}

func (j *judgement) truncate(r record) {
	var e envelope
	if err := decode(r.value, &e); err != nil || e.Op != "t" || r.key == nil {
		j.wrong("%s: only a truncate has an empty key, and it is not null (op %q, %v)", r, e.Op, err)
	}
	maps.DeleteFunc(j.rows, func(key string, _ row) bool { return j.at[key] == r.partition })
	j.changes[fmt.Sprintf("truncate of partition %d", r.partition)]++
}

func (j *judgement) compare() {
	want := j.want
	for _, key := range slices.Sorted(maps.Keys(want.rows)) {
		if got, ok := j.rows[key]; want.exempt[key] {
			continue
		} else if !ok {
			j.wrong("%s: the table has it, the topic does not", key)
		} else if !reflect.DeepEqual(got, want.rows[key]) {
			j.wrong("%s: the topic has %s, the table %s", key, text(got), text(want.rows[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(j.rows)) {
		if _, ok := want.rows[key]; !ok && !want.exempt[key] {
			j.wrong("%s: the topic has it, the table does not", key)
		}
	}
	if want.changes == nil {
		return
	}
	for change, n := range want.changes {
		if j.changes[change] != n {
			j.wrong("%s: %d times in the topic, committed %d times", change, j.changes[change], n)
		}
	}
	for change, n := range j.changes {
		if want.changes[change] == 0 {
			j.wrong("%s: %d times in the topic, never committed", change, n)
		}
	}
}

// described names a change so that it can be counted on both sides: creates and updates by the number n that each
// version of a row has for itself. Both halves of a key change are told from others.
func described(op, key string, after row, headers map[string]string) string {
	_, newKey := headers["__debezium.newkey"]
	_, oldKey := headers["__debezium.oldkey"]
	switch {
	case op == "d" && newKey:
		return "moved from " + key
	case op == "d":
		return "delete " + key
	case op == "c" && oldKey:
		return fmt.Sprintf("moved to %s n %v", key, number(after))
	default:
		return fmt.Sprintf("%s %s n %v", op, key, number(after))
	}
}

// number is a row's column n, or that of its document.
func number(after row) any {
	document, ok := after["document"].(string)
	if !ok {
		return after["n"]
	}
	var fields row
	if err := decode([]byte(document), &fields); err != nil {
		return err
	}
	return fields["n"]
}

// partitionOf is where Kafka's own producer puts a key: murmur2 without its sign, by the number of partitions
// (org.apache.kafka.common.utils.Utils.murmur2).
func partitionOf(key []byte, partitions int32) int32 {
	const m, r = 0x5bd1e995, 24
	h := 0x9747b28c ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := binary.LittleEndian.Uint32(key) * m
		h = h*m ^ (k^k>>r)*m
	}
	if len(key) > 0 {
		var rest [4]byte
		copy(rest[:], key)
		h = (h ^ binary.LittleEndian.Uint32(rest[:])) * m
	}
	h = (h ^ h>>13) * m
	h ^= h >> 15
	return int32(h&0x7fffffff) % partitions
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > 300 {
		return string(b[:300]) + "..."
	}
	return string(b)
}
