package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/snapshot/archive"
	"weft/snapshot/replay"
)

const topicName = "shop.item"

// world is a log with one table's topic, and a bucket.
type world struct {
	t      testing.TB
	cl     *kgo.Client
	bucket *archive.Bucket
	memory int64
	// partial is replay's option.
	partial bool
	tx      int
}

func newWorld(t testing.TB, partitions int32) *world {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	for topic, n := range map[string]int32{topicName: partitions, checkpoint.Topic: 1} {
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), n, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	b, err := archive.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &world{t: t, cl: cl, bucket: b, memory: 16 << 20}
}

// begun is the commit time of transaction 0; each is a second after the one before.
var begun = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)

func timeOf(tx int) time.Time { return begun.Add(time.Duration(tx) * time.Second) }

func seqOf(tx, index int) string { return fmt.Sprintf("00000001.%016x.%08x.", tx, index) }

// record of a row; its partition is the id's.
func record(tx, index, id, partitions int, after string) *kgo.Record {
	seq := seqOf(tx, index) + "2"
	return &kgo.Record{
		Topic: topicName, Partition: int32(id % partitions), Key: fmt.Appendf(nil, `{"id":%d}`, id),
		Value: fmt.Appendf(nil, `{"before":null,"after":%s,"source":{"version":"1","connector":"test","name":"shop","ts_us":%d,"schema":"","table":"item","seq":%q},"op":"c"}`,
			after, timeOf(tx).UnixMicro(), seq),
		Headers: []kgo.RecordHeader{{Key: "weft-seq", Value: []byte(seq)}},
	}
}

// transaction writes rows with these ids, all with the transaction's number.
func (w *world) transaction(partitions int, ids ...int) {
	w.t.Helper()
	for i, id := range ids {
		w.produce(record(w.tx, i, id, partitions, fmt.Sprintf(`{"id":%d,"tx":%d}`, id, w.tx)))
	}
	w.tx++
}

func (w *world) produce(records ...*kgo.Record) {
	w.t.Helper()
	if err := w.cl.ProduceSync(w.t.Context(), records...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) checkpoint(seq string, partial bool) {
	w.t.Helper()
	w.save(checkpoint.Checkpoint{Seq: seq, Partial: partial})
}

func (w *world) save(cp checkpoint.Checkpoint) {
	w.t.Helper()
	cp.Capture, cp.Epoch, cp.Position = "items", 1, json.RawMessage(`1`)
	value, err := checkpoint.Encode(cp)
	if err != nil {
		w.t.Fatal(err)
	}
	w.produce(&kgo.Record{Topic: checkpoint.Topic, Key: []byte("items"), Value: value})
}

func (w *world) create() (*archive.Manifest, error) {
	return archive.Create(w.t.Context(), archive.Options{
		Client: w.cl, Bucket: w.bucket, Capture: "items", Topic: topicName, Dialect: "json", Dir: w.t.TempDir(), Memory: w.memory, Version: "test", Now: time.Now,
	})
}

func (w *world) mustCreate() *archive.Manifest {
	w.t.Helper()
	m, err := w.create()
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) options() replay.Options {
	return replay.Options{
		Client: w.cl, Bucket: w.bucket, Capture: "items", Topic: topicName, Dialect: "json", Dir: w.t.TempDir(), Memory: w.memory, Partial: w.partial,
	}
}

// rows replays to lines.
func (w *world) rows(until, where string) (string, *replay.Result, error) {
	w.t.Helper()
	u, err := replay.ParseUntil(until)
	if err != nil {
		w.t.Fatal(err)
	}
	f, err := replay.NewFilter(nil, where)
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	o := w.options()
	o.Until, o.Filter = u, f
	r, err := replay.Run(w.t.Context(), o, replay.ToStdout(&out))
	return strings.ReplaceAll(strings.TrimSpace(out.String()), "\n", " "), r, err
}

func (w *world) want(until, want string) *replay.Result {
	w.t.Helper()
	got, r, err := w.rows(until, "")
	if err != nil || got != want {
		w.t.Errorf("until %q: got %s, %v\nwant %s", until, got, err, want)
	}
	return r
}

// Each cut has whole transactions, however they lie in the partitions and whatever the log holds above it.
func TestCutsAreWholeTransactions(t *testing.T) {
	w := newWorld(t, 2)
	w.transaction(2, 1, 2)    // 0
	w.transaction(2, 3, 4, 1) // 1
	w.checkpoint(seqOf(1, 2), false)
	w.transaction(2, 2) // 2: written, and not covered by a checkpoint
	w.want("", `{"id":1,"tx":1} {"id":2,"tx":0} {"id":3,"tx":1} {"id":4,"tx":1}`)
	m := w.mustCreate()
	if m.Rows != 4 || m.Seq != seqOf(1, 2)+"2" || !m.NewestChange.Equal(timeOf(1)) || m.Table != "item" || m.Epoch != 1 {
		t.Errorf("manifest %+v", m)
	}

	w.transaction(2, 5, 6) // 3
	w.checkpoint(seqOf(3, 0), true)
	if r := w.want("", `{"id":1,"tx":1} {"id":2,"tx":2} {"id":3,"tx":1} {"id":4,"tx":1}`); r.Archive != m.ID || r.Changes != 1 {
		t.Errorf("from %q and %d changes", r.Archive, r.Changes)
	}
	w.checkpoint(seqOf(3, 1), false)
	first := `{"id":1,"tx":0} {"id":2,"tx":0}`
	w.want(timeOf(0).Format(time.RFC3339), first)
	w.want("2026-11-24 03:00:00.999", first)
	w.want(seqOf(0, 0)+"2", first) // a part of a transaction is the transaction
	w.want("1:0", first)           // id 1 is the first of partition 1
	w.want(timeOf(2).Format(time.RFC3339), `{"id":1,"tx":1} {"id":2,"tx":2} {"id":3,"tx":1} {"id":4,"tx":1}`)
	w.want("2027-01-01T00:00:00Z", `{"id":1,"tx":1} {"id":2,"tx":2} {"id":3,"tx":1} {"id":4,"tx":1} {"id":5,"tx":3} {"id":6,"tx":3}`)
	w.want("2026-01-01T00:00:00Z", "")
	if _, _, err := w.rows(seqOf(9, 0)+"2", ""); err == nil || !strings.Contains(err.Error(), "above what is committed") {
		t.Errorf("a sequence of the future: %v", err)
	}
}

// Rows that the log tells of only after the cut are not left out silently.
func TestRowsToldLater(t *testing.T) {
	w := newWorld(t, 2)
	w.transaction(2, 1) // 0
	later := record(1, 0, 2, 2, `{"id":2,"tx":1}`)
	later.Value = bytes.Replace(later.Value, []byte(`"op":"c"`), []byte(`"op":"r"`), 1)
	w.produce(later) // 1: read by a snapshot
	w.tx = 2
	w.transaction(2, 3) // 2: inserted after the cut, then read again
	again := record(3, 0, 3, 2, `{"id":3,"tx":3}`)
	again.Value = bytes.Replace(again.Value, []byte(`"op":"c"`), []byte(`"op":"r"`), 1)
	w.produce(again)
	w.checkpoint(seqOf(3, 0), false)

	first := timeOf(0).Format(time.RFC3339)
	_, _, err := w.rows(first, "")
	if err == nil || !strings.Contains(err.Error(), "1 rows") || !strings.Contains(err.Error(), `{"id":2}`) || !strings.Contains(err.Error(), "--until "+seqOf(1, 0)+"2") {
		t.Fatalf("a cut before a row was read: %v", err)
	}
	w.want(seqOf(1, 0)+"2", `{"id":1,"tx":0} {"id":2,"tx":1}`)
	w.partial = true
	w.want(first, `{"id":1,"tx":0}`)
	w.partial = false
	w.want(timeOf(2).Format(time.RFC3339), `{"id":1,"tx":0} {"id":2,"tx":1} {"id":3,"tx":2}`)
	f, err := replay.NewFilter([]string{"1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := replay.ParseUntil(first)
	if err != nil {
		t.Fatal(err)
	}
	o := w.options()
	o.Filter, o.Until = f, u
	if r, err := replay.Run(t.Context(), o, nil); err != nil || r.Rows != 1 {
		t.Errorf("a row that the log does tell of: %+v, %v", r, err)
	}
}

// Where changes have an order per key only, a cut is where all of them have come, and has what the log holds behind others that are above
// it; the next archive goes on from there, and takes nothing twice.
func TestCutsInOrderPerKeyOnly(t *testing.T) {
	w := newWorld(t, 1)
	put := func(tx, id int) { w.produce(record(tx, 0, id, 1, fmt.Sprintf(`{"id":%d,"tx":%d}`, id, tx))) }
	bag := func(tx int) { // a row of a table without a key is there as often as it is counted
		r := record(tx, 0, 0, 1, fmt.Sprintf(`{"tx":%d}`, tx))
		r.Key, r.Value = nil, bytes.Replace(r.Value, []byte(`"op":"u"`), []byte(`"op":"c"`), 1)
		w.produce(r)
	}
	put(0, 1)
	put(5, 2) // of a partition of the source that is ahead
	put(1, 3)
	put(2, 1)
	w.save(checkpoint.Checkpoint{Seq: seqOf(2, 0), Below: seqOf(4, 0)})
	w.want("", `{"id":1,"tx":2} {"id":3,"tx":1}`)
	w.want(timeOf(1).Format(time.RFC3339), `{"id":1,"tx":0} {"id":3,"tx":1}`)
	if m := w.mustCreate(); m.Rows != 2 || m.Offsets[0] != 1 {
		t.Errorf("manifest %+v", m)
	}
	put(4, 1)
	w.save(checkpoint.Checkpoint{Seq: seqOf(4, 0), Below: seqOf(6, 0)})
	if r := w.want("", `{"id":1,"tx":4} {"id":2,"tx":5} {"id":3,"tx":1}`); r.Archive == "" || r.Changes != 2 {
		t.Errorf("from %q and %d changes", r.Archive, r.Changes)
	}

	w = newWorld(t, 1)
	bag(5)
	bag(1)
	w.save(checkpoint.Checkpoint{Seq: seqOf(1, 0), Below: seqOf(2, 0)})
	w.mustCreate()
	w.save(checkpoint.Checkpoint{Seq: seqOf(1, 0), Below: seqOf(6, 0)})
	w.want("", `{"tx":1} {"tx":5}`)
}

// A truncate, whose record has an empty key, is none of a row: before it the table comes back, and archives go on behind it.
func TestTruncate(t *testing.T) {
	w := newWorld(t, 1)
	w.transaction(1, 1, 2) // 0
	w.checkpoint(seqOf(0, 1), false)
	truncate := record(1, 0, 0, 1, "null")
	truncate.Key, truncate.Value = []byte{}, bytes.Replace(truncate.Value, []byte(`"op":"c"`), []byte(`"op":"t"`), 1)
	for _, archived := range []bool{false, true} {
		if archived {
			w.mustCreate()
		}
		w.produce(truncate)
		w.tx = 2
		w.transaction(1, 3) // 2
		w.checkpoint(seqOf(2, 0), false)
		w.want(timeOf(0).Format(time.RFC3339), `{"id":1,"tx":0} {"id":2,"tx":0}`)
		w.want("", `{"id":3,"tx":2}`)
		if m := w.mustCreate(); m.Rows != 1 {
			t.Errorf("archived %d rows behind a truncate", m.Rows)
		}
		w = newWorld(t, 1)
		w.transaction(1, 1, 2)
		w.checkpoint(seqOf(0, 1), false)
	}
}

// What retention has removed is said, with the moment from which on a replay is possible.
func TestRetentionGap(t *testing.T) {
	w := newWorld(t, 1)
	w.transaction(1, 1)
	w.transaction(1, 2)
	w.checkpoint(seqOf(1, 0), false)
	m := w.mustCreate()
	w.transaction(1, 3)
	w.transaction(1, 4)
	w.checkpoint(seqOf(3, 0), false)
	w.trim(1)
	if _, _, err := w.rows(timeOf(0).Format(time.RFC3339), ""); err == nil || !strings.Contains(err.Error(), "possible from 2026-11-24T03:00:01Z on (archive "+m.ID) {
		t.Errorf("before the archive: %v", err)
	}
	w.want("", `{"id":1,"tx":0} {"id":2,"tx":1} {"id":3,"tx":2} {"id":4,"tx":3}`)
	w.trim(3)
	if _, _, err := w.rows("", ""); err == nil || !strings.Contains(err.Error(), "retention has removed them") {
		t.Errorf("behind the archive: %v", err)
	}
	if _, _, err := w.rows(timeOf(2).Format(time.RFC3339), ""); err == nil || !strings.Contains(err.Error(), "--until "+m.Seq+" for "+m.ID) {
		t.Errorf("behind the archive, with one to name: %v", err)
	}
	w.want(m.Seq, `{"id":1,"tx":0} {"id":2,"tx":1}`)
	var lost *archive.LostError
	if _, err := w.create(); !errors.As(err, &lost) || !strings.Contains(err.Error(), "can no longer be gone on from") {
		t.Errorf("create: %v", err)
	}
}

func (w *world) trim(offset int64) {
	w.t.Helper()
	var before kadm.Offsets
	before.AddOffset(topicName, 0, offset, -1)
	if _, err := kadm.NewClient(w.cl).DeleteRecords(w.t.Context(), before); err != nil {
		w.t.Fatal(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t, 1)
	if _, err := w.create(); err == nil || !strings.Contains(err.Error(), "let weft run capture changes first") {
		t.Errorf("without a checkpoint: %v", err)
	}
	w.transaction(1, 1)
	w.checkpoint(seqOf(0, 0), false)
	m := w.mustCreate()
	text := record(1, 0, 1, 1, `{"id":"x"}`)
	text.Key = []byte(`{"id":"x"}`)
	w.produce(text)
	w.checkpoint(seqOf(1, 0), false)
	if _, err := w.create(); err == nil || !strings.Contains(err.Error(), `the key of the table has changed since archive `+m.ID) {
		t.Errorf("a key of another type: %v", err)
	}
	if got, _, err := w.rows("", ""); err == nil || got != "" || !strings.Contains(err.Error(), `offset 1 has {"id":"x"}`) {
		t.Errorf("a replay over a key of another type: %s, %v", got, err)
	}
	for want, o := range map[string]replay.Options{
		"is of capture items, not of other": {Capture: "other", Topic: topicName, Dialect: "json"},
		"values in dialect json":            {Capture: "items", Topic: topicName, Dialect: "debezium"},
	} {
		o.Client, o.Bucket, o.Filter, o.Memory = w.cl, w.bucket, &replay.Filter{}, w.memory
		if o.Capture == "other" {
			value, _ := checkpoint.Encode(checkpoint.Checkpoint{Capture: "other", Epoch: 1, Seq: seqOf(0, 0)})
			w.produce(&kgo.Record{Topic: checkpoint.Topic, Key: []byte("other"), Value: value})
		}
		if _, err := replay.Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	w = newWorld(t, 1)
	w.transaction(1, 1)
	foreign := &kgo.Record{Topic: topicName, Partition: 0, Key: []byte(`{"id":9}`), Value: []byte(`{}`)}
	w.produce(foreign)
	w.checkpoint(seqOf(2, 0), false)
	if _, _, err := w.rows("", ""); err == nil || !strings.Contains(err.Error(), "no header weft-seq") {
		t.Errorf("a foreign record: %v", err)
	}
}

// A replay to a topic that was broken off goes on behind what it has written.
func TestTopicResumes(t *testing.T) {
	w := newWorld(t, 3)
	ids := make([]int, 300)
	for i := range ids {
		ids[i] = i
	}
	w.transaction(3, ids...)
	w.checkpoint(seqOf(0, 299), false)
	if _, err := kadm.NewClient(w.cl).CreateTopic(t.Context(), 3, 1, nil, "side"); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, stopAt int64) (*replay.Result, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f, _ := replay.NewFilter(nil, "id != 7")
		to := &replay.Topic{Client: w.cl, Name: "side", Partitions: 3, Filter: f}
		return replay.Run(ctx, replay.Options{Client: w.cl, Capture: "items", Topic: topicName, Dialect: "json", Filter: f, Memory: w.memory},
			&breaking{Topic: to, after: stopAt})
	}
	if _, err := run(t.Context(), 120); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	r, err := run(t.Context(), -1)
	if err != nil || r.Rows != 299 || r.Resumed != 120 {
		t.Fatalf("resumed %+v, %v", r, err)
	}
	seen := map[string]int{}
	err = checkpoint.ScanAll(t.Context(), w.cl, "side", func(r *kgo.Record) error { seen[string(r.Key)]++; return nil })
	if err != nil || len(seen) != 299 || seen[`{"id":7}`] != 0 {
		t.Errorf("%d keys, %v", len(seen), err)
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("key %s is there %d times", key, n)
		}
	}
}
