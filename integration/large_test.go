package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// largestRSS is what the daemon may take while a transaction passes that is larger than its memory.
const largestRSS = 256 << 20

// TestLargeTransaction inserts LARGE_ROWS rows (200,000 without it) in one transaction, kills the daemon in its middle, and
// expects every row in the topic once, in order, with the daemon's memory bounded.
func TestLargeTransaction(t *testing.T) {
	rows := 200_000
	if s := os.Getenv("LARGE_ROWS"); s != "" {
		var err error
		if rows, err = strconv.Atoi(s); err != nil {
			t.Fatalf("LARGE_ROWS: %v", err)
		}
	}
	to := kafkaLog(t)
	name := fmt.Sprintf("large_%x", rand.Uint32())
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	o := &pgOrigin{newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)}
	if err := o.exec(t.Context(), "CREATE TABLE big(id bigint PRIMARY KEY, body text); CREATE TABLE pulse(id int PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	config := writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d}\ncaptures:\n  - {name: %s, source: {type: postgres, url: %q}, tables: [\"public.*\"], snapshot: never}\n",
		to.config, name, partitions, name, o.url)
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + ".public.pulse"}
	d := startDaemon(t, config)
	pulse.await(t, d, time.Minute)

	topic := name + ".public.big"
	if err := o.exec(t.Context(), fmt.Sprintf("INSERT INTO big SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, %d) g", rows)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, d, 5*time.Minute, "a third of the transaction is in "+topic, func(ctx context.Context) (bool, error) {
		return committed(ctx, to.broker, topic) > int64(rows/3), nil
	})
	before := peakRSS(t, d)
	d.kill()
	if n := committed(t.Context(), to.broker, topic); n >= int64(rows) {
		t.Fatalf("killed too late: the topic held %d of %d rows", n, rows)
	}
	d = startDaemon(t, config)
	pulse.await(t, d, 10*time.Minute)
	took := time.Since(began)
	after := peakRSS(t, d)
	d.stop()
	t.Logf("%d rows in %s, the restart included; RSS at most %d MiB before it and %d MiB after", rows, took.Round(time.Millisecond), before>>20, after>>20)
	if before > largestRSS || after > largestRSS {
		t.Errorf("RSS of %d and %d MiB, of %d allowed", before>>20, after>>20, largestRSS>>20)
	}
	for _, problem := range eachOnce(t, to.broker, topic, rows) {
		t.Error(problem)
	}
}

// committed is the number of offsets up to the last stable ones; 0 without the topic.
func committed(ctx context.Context, broker, topic string) (n int64) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return 0
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topic)
	if err != nil {
		return 0
	}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			n += o.Offset
		}
	})
	return n
}

// peakRSS is the most memory that the daemon has had resident so far, in bytes.
func peakRSS(t *testing.T, d *daemon) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	t.Fatalf("no VmHWM:\n%s", status)
	return 0
}

// eachOnce reads a topic of creates with the ids 1 to rows, without holding it in memory, and lists at most ten things that
// are wrong.
func eachOnce(t *testing.T, broker, topic string, rows int) (problems []string) {
	t.Helper()
	wrong := func(format string, args ...any) {
		if len(problems) < 10 {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen, last, n := make([]bool, rows+1), map[int32]string{}, 0
	for n < rows {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		fetches := cl.PollFetches(ctx)
		cancel()
		if err := fetches.Err(); err != nil {
			wrong("%d of %d rows, and then no more: %v", n, rows, err)
			break
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			var id int
			if _, err := fmt.Sscanf(string(r.Key), `{"id":%d}`, &id); err != nil || id < 1 || id > rows {
				wrong("key %s", r.Key)
				return
			}
			if seen[id] {
				wrong("row %d twice", id)
			}
			seen[id] = true
			seq := ""
			for _, h := range r.Headers {
				if h.Key == "weft-seq" {
					seq = string(h.Value)
				}
			}
			if seq <= last[r.Partition] {
				wrong("row %d: seq %s not above %s", id, seq, last[r.Partition])
			}
			last[r.Partition] = seq
		})
	}
	return problems
}
