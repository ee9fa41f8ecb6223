package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// verified is what `weft verify --json` prints.
type verified struct {
	Clean  bool `json:"clean"`
	Tables []struct {
		Table     string `json:"table"`
		Rows      int64  `json:"rows"`
		Undecided int64  `json:"undecided"`
		Keys      []struct {
			Kind    string          `json:"kind"`
			Key     json.RawMessage `json:"key"`
			Row     json.RawMessage `json:"row"`
			Columns []string        `json:"columns"`
			Count   int64           `json:"count"`
		} `json:"keys"`
		Unknown map[string]int64 `json:"unknown_columns"`
		Repair  *struct {
			Keys int64 `json:"keys"`
			Left int64 `json:"left"`
		} `json:"repair"`
	} `json:"tables"`
}

// verify runs `weft verify` and returns its exit code.
func verify(t testing.TB, config, capture string, more ...string) (v verified, code int, text string) {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, append([]string{"verify", "-c", config, "--json", capture}, more...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text = stdout.String() + stderr.String()
	if code = cmd.ProcessState.ExitCode(); code > 1 {
		return v, code, text
	}
	if err := json.Unmarshal(stdout.Bytes(), &v); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return v, code, text
}

// TestVerify: tables under load verify clean VERIFIES times in a row (5 without it), also those with moving keys, large
// values that updates leave out, truncates, and no key. Then the topics are made wrong in a few records, and the same load goes
// on: those keys are named, and no other, until they are mended: by a change, or by --repair, which writes those keys and no other.
func TestVerify(t *testing.T) {
	times := 5
	if s := os.Getenv("VERIFIES"); s != "" {
		var err error
		if times, err = strconv.Atoi(s); err != nil {
			t.Fatalf("VERIFIES: %v", err)
		}
	}
	for _, kind := range []func(testing.TB) logKind{kafkaLog, embeddedLog} {
		to := kind(t)
		t.Run("into "+to.name, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("verify_%x", rand.Uint32())
			o := newPGOrigin(t, name)
			err := o.exec(t.Context(), `CREATE TABLE visits(page text, n int); ALTER TABLE visits REPLICA IDENTITY FULL`)
			if err != nil {
				t.Fatal(err)
			}
			if to.name == "kafka" {
				t.Cleanup(func() { deleteTopics(t, to.broker, name) })
			}
			config := writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d, dialect: json}\ncaptures:\n  - {name: %s, %s}\n",
				to.config, name, partitions, name, strings.Replace(o.capture(), "tables: [", "tables: [public.visits, ", 1))
			d := startDaemon(t, config)
			pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + "." + o.topic("pulse")}
			pulse.await(t, d, time.Minute)
			if err := o.exec(t.Context(), "DELETE FROM pulse"); err != nil { // the first rows may be from before the capture
				t.Fatal(err)
			}

			ctx, stop := context.WithCancel(t.Context())
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return o.load(ctx, 7) })
			g.Go(func() error { return o.visit(ctx) })
			ended := false
			defer func() {
				if stop(); !ended {
					_ = g.Wait() // the test has failed already
				}
			}()
			time.Sleep(time.Second)
			var rows int64
			for n := range times {
				v, code, text := verify(t, config, name)
				if code != 0 || !v.Clean {
					t.Fatalf("run %d: code %d:\n%s\nthe daemon's messages:\n%s", n, code, text, d.messages())
				}
				rows = 0
				for _, table := range v.Tables {
					rows += table.Rows
					// The columns that come and go are told by no change until the row's next one.
					if len(table.Unknown) > 0 && table.Table != "public.evolving" {
						t.Errorf("run %d: unknown in table %s: %v", n, table.Table, table.Unknown)
					}
				}
			}
			t.Logf("clean %d times, at the end with %d rows", times, rows)

			if to.name == "kafka" { // nobody else may write to the embedded log's topics
				wrong := spoil(t, o, to.broker, name)
				v, code, text := verify(t, config, name)
				found := map[string]bool{}
				for _, table := range v.Tables {
					for _, k := range table.Keys {
						found[strings.Join([]string{table.Table, k.Kind, compact(k.Key), compact(k.Row), strings.Join(k.Columns, ",")}, " ")] = true
					}
				}
				if code != 1 || len(found) != len(wrong) {
					t.Errorf("code %d, found %v, want %v:\n%s", code, found, wrong, text)
				}
				for _, w := range wrong {
					if !found[w] {
						t.Errorf("not found: %s\nbut %v", w, found)
					}
				}
				// A change that changes nothing mends a row.
				if err := o.exec(t.Context(), `UPDATE orders SET note = note WHERE id = 90003`); err != nil {
					t.Fatal(err)
				}
				repair(t, to.broker, config, name)
			}
			stop()
			ended = true
			if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			d.stop()
		})
	}
}

func compact(text json.RawMessage) string {
	var b bytes.Buffer
	if len(text) > 0 && json.Compact(&b, text) != nil {
		return string(text)
	}
	return b.String()
}

// visit writes to the table without a key until ctx ends.
func (o *pgOrigin) visit(ctx context.Context) error {
	c, err := pgx.Connect(context.WithoutCancel(ctx), o.url)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	r := rand.New(rand.NewPCG(1, 1))
	for ctx.Err() == nil {
		page := fmt.Sprintf("page %d", r.IntN(5))
		for _, sql := range []string{
			`INSERT INTO visits SELECT $1, g FROM generate_series(1, 20) g`,
			`UPDATE visits SET n = n + 1 WHERE page = $1 AND n < 4`,
			`DELETE FROM visits WHERE page = $1 AND n > 12`,
		} {
			if _, err := c.Exec(context.WithoutCancel(ctx), sql, page); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// repair has the keys of the table orders mended that spoil has made wrong and nobody has mended, under load.
func repair(t *testing.T, broker, config, name string) {
	topic := name + ".public.orders"
	from := ends(t, broker, topic)
	v, code, text := verify(t, config, name, "public.orders", "--repair", "--yes")
	if code != 0 || !v.Clean || v.Tables[0].Repair == nil || v.Tables[0].Repair.Keys != 4 || v.Tables[0].Repair.Left != 0 {
		t.Errorf("repair: code %d:\n%s", code, text)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	left := ends(t, broker, topic)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	written := map[string]int{}
	for p := range left {
		if from[p] == left[p] {
			delete(left, p)
		}
	}
	for len(left) > 0 { // the load goes on, so that each partition gets beyond its end
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			var e struct {
				Op     string `json:"op"`
				Source struct {
					Snapshot string `json:"snapshot"`
				} `json:"source"`
			}
			if r.Value != nil && json.Unmarshal(r.Value, &e) != nil {
				t.Errorf("offset %d of partition %d is no JSON", r.Offset, r.Partition)
			}
			if e.Source.Snapshot == "repair" {
				written[e.Op+" "+string(r.Key)]++
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end.EpochOffset().Offset {
				delete(left, r.Partition)
			}
		})
	}
	want := map[string]int{`r {"id":90001}`: 1, `r {"id":90002}`: 1, `r {"id":90004}`: 1, `d {"id":90009}`: 1}
	if !maps.Equal(written, want) {
		t.Errorf("repair records %v, want %v", written, want)
	}
	if v, code, text := verify(t, config, name, "public.orders"); code != 0 || !v.Clean {
		t.Errorf("after the repair: code %d:\n%s", code, text)
	}
	// A table without a key is not repaired, and the exit code says so.
	if v, code, text := verify(t, config, name, "public.visits", "--repair", "--yes"); code != 1 || v.Clean {
		t.Errorf("repair of a table without a key: code %d:\n%s", code, text)
	}
}

// ends are the ends of a topic's partitions.
func ends(t *testing.T, broker, topic string) map[int32]kgo.Offset {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	listed, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), topic)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	return listed.KOffsets()[topic]
}

// spoil makes rows that the load does not touch, waits until they are in the topic, and writes records over them that are not
// the capture's. It returns what is to be found.
func spoil(t *testing.T, o *pgOrigin, broker, prefix string) (wrong []string) {
	t.Helper()
	err := o.exec(t.Context(), `INSERT INTO orders SELECT id, 0, 'quiet', 1.50, true, now(), 'x' FROM generate_series(90001, 90004) id;
		INSERT INTO visits VALUES ('quiet', 1)`)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(prefix+".public.orders", prefix+".public.visits"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var quiet []*kgo.Record
	for len(quiet) < 5 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if bytes.Contains(r.Value, []byte(`quiet`)) {
				quiet = append(quiet, r)
			}
		})
	}
	var records []*kgo.Record
	for _, r := range quiet {
		out := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
		switch string(r.Key) {
		case `{"id":90001}`:
			out.Value = nil
			wrong = append(wrong, `public.orders missing {"id":90001}  `)
			stray := &kgo.Record{Topic: r.Topic, Key: []byte(`{"id":90009}`), Value: bytes.Replace(r.Value, []byte(`"id":90001`), []byte(`"id":90009`), 1)}
			stray.Partition = int32(kgo.StickyKeyPartitioner(nil).ForTopic(r.Topic).Partition(stray, partitions))
			records = append(records, stray)
			wrong = append(wrong, `public.orders extra {"id":90009}  `)
		case `{"id":90002}`:
			out.Value = bytes.Replace(r.Value, []byte(`"amount":"1.50"`), []byte(`"amount":"1.51"`), 1)
			wrong = append(wrong, `public.orders differing {"id":90002}  amount`)
		case `{"id":90003}`:
			out.Value = nil
			wrong = append(wrong, `public.orders missing {"id":90003}  `)
		case `{"id":90004}`:
			out.Value = []byte(`{"before":null,"after":null,"source":{"seq":"00000001.z.0.0"},"op":"d"}`)
			wrong = append(wrong, `public.orders missing {"id":90004}  `)
		case "":
			wrong = append(wrong, `public.visits extra  {"page":"quiet","n":1} `)
		default:
			continue
		}
		records = append(records, out)
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return wrong
}
