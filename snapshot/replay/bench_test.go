package replay_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink/embedded"
	"weft/snapshot/archive"
	"weft/snapshot/replay"
)

// BenchmarkArchiveAndReplay takes each way once at the number of rows in WEFT_BENCH_ROWS (200,000 without it) and reports
// rows a second, and the memory of the process without the embedded log's broker, which runs in it too.
func BenchmarkArchiveAndReplay(b *testing.B) {
	rows := 200_000
	if text := os.Getenv("WEFT_BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	w := newBenchWorld(b, rows)
	m := step(b, "create", rows, func() *archive.Manifest { return w.mustCreate() })
	if int(m.Rows) != rows {
		b.Fatalf("%d rows", m.Rows)
	}
	to := func(target replay.Target) func() *replay.Result {
		return func() *replay.Result {
			r, err := replay.Run(b.Context(), replay.Options{Client: w.cl, Bucket: w.bucket, Capture: "items", Topic: topicName, Dialect: "json", Filter: &replay.Filter{}, Dir: b.TempDir()}, target)
			if err != nil {
				b.Fatal(err)
			}
			return r
		}
	}
	step(b, "parquet", rows, to(replay.ToParquet(filepath.Join(b.TempDir(), "item.parquet"))))
	step(b, "ndjson", rows, to(replay.ToNDJSON(filepath.Join(b.TempDir(), "item.ndjson"))))
	if _, err := kadm.NewClient(w.cl).CreateTopic(b.Context(), 6, 1, nil, "side"); err != nil {
		b.Fatal(err)
	}
	step(b, "topic", rows, to(&replay.Topic{Client: w.cl, Name: "side", Partitions: 6, Filter: &replay.Filter{}}))
	w.produce(record(rows, 0, 1, 6, `{"id":1}`))
	w.checkpoint(seqOf(rows, 0), false)
	step(b, "folded", rows, to(replay.ToNDJSON(filepath.Join(b.TempDir(), "more.ndjson"))))
}

// step measures one way and prints it.
func step[T any](b *testing.B, name string, rows int, run func() T) T {
	b.Helper()
	runtime.GC()
	done, peak := make(chan struct{}), make(chan uint64)
	go func() {
		top := uint64(0)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				peak <- top
				return
			case <-tick.C:
				top = max(top, rss())
			}
		}
	}()
	began := time.Now()
	out := run()
	took := time.Since(began)
	close(done)
	fmt.Printf("%-8s %9d rows %8.0f rows/s  peak RSS %d MiB\n", name, rows, float64(rows)/took.Seconds(), <-peak>>20)
	return out
}

// rss is the process's resident memory without mapped files.
func rss() uint64 {
	text, _ := os.ReadFile("/proc/self/status") // zero elsewhere
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

func newBenchWorld(b *testing.B, rows int) *world {
	b.Helper()
	log, err := embedded.Open(embedded.Options{Dir: b.TempDir(), Listen: "127.0.0.1:0", RetentionAge: time.Hour, RetentionBytes: 1 << 40, MaxRecordBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { log.Close() })
	cl, err := kgo.NewClient(kgo.SeedBrokers(log.Addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(20_000), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cl.Close)
	for topic, n := range map[string]int32{topicName: 6, "__weft.checkpoints": 1} {
		if _, err := kadm.NewClient(cl).CreateTopic(b.Context(), n, 1, nil, topic); err != nil {
			b.Fatal(err)
		}
	}
	bucket, err := archive.Open(b.Context(), "file://"+b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { bucket.Close() })
	w := &world{t: b, cl: cl, bucket: bucket}
	for i := range rows {
		r := record(i, 0, i, 6, fmt.Sprintf(`{"id":%d,"customer":%d,"status":"paid","total":"129.90","weight":1.25,"created_at":"2026-11-24T10:00:00.123456Z"}`, i, i%997))
		cl.Produce(b.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	w.checkpoint(seqOf(rows-1, 0), false)
	return w
}
