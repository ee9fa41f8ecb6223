package replay_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/embedded"
	"weft/snapshot/archive"
	"weft/snapshot/replay"
)

// benchLog is set, to a number of rows, where the test binary is to be the embedded log of a benchmark.
const benchLog = "WEFT_BENCH_LOG"

func TestMain(m *testing.M) {
	if rows, err := strconv.Atoi(os.Getenv(benchLog)); err == nil {
		if err := serve(rows); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// BenchmarkArchiveAndReplay takes each way once at the number of rows in WEFT_BENCH_ROWS (200,000 without it) and reports
// rows a second and the peak of memory. The embedded log is a process of its own, which holds what it retains in memory.
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
			r, err := replay.Run(b.Context(), replay.Options{Client: w.cl, Bucket: w.bucket, Capture: "items", Topic: topicName, Dialect: "json", Filter: &replay.Filter{}, Dir: b.TempDir(), Memory: w.memory}, target)
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
	if m = step(b, "again", rows, func() *archive.Manifest { return w.mustCreate() }); m.Parent == "" {
		b.Error("the second archive has no parent")
	}
}

// step measures one way and prints it.
func step[T any](b *testing.B, name string, rows int, run func() T) T {
	b.Helper()
	debug.FreeOSMemory()
	done, peak := make(chan struct{}), make(chan [2]uint64)
	go func() {
		var top [2]uint64
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-done:
				tick.Stop()
				peak <- top
				return
			case <-tick.C:
				all, heap := rss()
				top = [2]uint64{max(top[0], all), max(top[1], heap)}
			}
		}
	}()
	began, cpu := time.Now(), cpuTime()
	out := run()
	took, used := time.Since(began), cpuTime()-cpu
	close(done)
	top := <-peak
	fmt.Printf("%-8s %9d rows %8.0f rows/s %5.1f CPU-us/row  peak RSS %d MiB, %d MiB without mapped files\n",
		name, rows, float64(rows)/took.Seconds(), float64(used.Microseconds())/float64(rows), top[0]>>20, top[1]>>20)
	return out
}

// cpuTime is what the process has taken of the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss is the process's resident memory, and that without mapped files, such as the program itself.
func rss() (all, anonymous uint64) {
	text, _ := os.ReadFile("/proc/self/status") // zero elsewhere
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "RssAnon" {
			continue
		}
		kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
		if name == "VmRSS" {
			all = kib << 10
		} else {
			anonymous = kib << 10
		}
	}
	return all, anonymous
}

func newBenchWorld(b *testing.B, rows int) *world {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	log := exec.Command(self)
	log.Env, log.Stderr = append(os.Environ(), benchLog+"="+strconv.Itoa(rows), "TMPDIR="+b.TempDir()), os.Stderr
	stdin, err := log.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := log.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := log.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := log.Wait(); err != nil {
			b.Error(err)
		}
	})
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	cl, err := benchClient(strings.TrimSpace(addr))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(cl.Close)
	bucket, err := archive.Open(b.Context(), "file://"+b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { bucket.Close() })
	w := &world{t: b, cl: cl, bucket: bucket, memory: 64 << 20}
	w.checkpoint(seqOf(rows-1, 0), false)
	return w
}

func benchClient(addr string) (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(20_000), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
}

// serve is an embedded log that holds a table's rows, until standard input ends. It prints its address.
func serve(rows int) error {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := embedded.Open(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", RetentionAge: time.Hour, RetentionBytes: 1 << 40, MaxRecordBytes: 16 << 20})
	if err != nil {
		return err
	}
	defer log.Close()
	cl, err := benchClient(log.Addr)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := context.Background()
	for topic, n := range map[string]int32{topicName: 6, checkpoint.Topic: 1} {
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, n, 1, nil, topic); err != nil {
			return err
		}
	}
	failed := make(chan error, 1)
	for i := range rows {
		r := record(i, 0, i, 6, fmt.Sprintf(`{"id":%d,"customer":%d,"status":"paid","total":"129.90","weight":1.25,"created_at":"2026-11-24T10:00:00.123456Z"}`, i, i%997))
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println(log.Addr)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
