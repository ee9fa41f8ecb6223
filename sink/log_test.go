package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/embedded"
	"weft/sink/envelope"
	"weft/sources"
)

// kafkaLog is the real Kafka of the environment.
func kafkaLog(t *testing.T) *Log {
	t.Helper()
	addr := os.Getenv("WEFT_TEST_KAFKA")
	if addr == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("WEFT_TEST_KAFKA is not set: run the tests by make test")
		}
		t.Skip("WEFT_TEST_KAFKA is not set: no Kafka to test with")
	}
	return &Log{Brokers: []string{addr}, Profile: "kafka", Compression: "lz4", CommitBytes: 1 << 20}
}

// fakeLog is an in-process broker whose answers a test may change, used as if it were Kafka.
func fakeLog(t *testing.T) (*Log, *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}, c
}

// embeddedLog opens a log in dir; the returned func closes it, at the latest the test's end does.
func embeddedLog(t *testing.T, dir string) (*Log, func()) {
	t.Helper()
	e, err := embedded.Open(embedded.Options{Dir: dir, Listen: "127.0.0.1:0", MaxRecordBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	end := func() {
		if !closed {
			closed = true
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return &Log{Brokers: []string{e.Addr}, Profile: "embedded", CommitBytes: 1 << 20}, end
}

// eachLog runs a test on every kind of log that is there.
func eachLog(t *testing.T, test func(t *testing.T, l *Log)) {
	t.Run("kafka", func(t *testing.T) { test(t, kafkaLog(t)) })
	t.Run("embedded", func(t *testing.T) {
		l, _ := embeddedLog(t, t.TempDir())
		test(t, l)
	})
}

var names atomic.Int64

// options are those of a capture of its own, with a topic prefix of its own.
func options(l *Log) Options {
	name := fmt.Sprintf("t%d-%d", time.Now().UnixNano(), names.Add(1))
	return Options{
		Log: l, Dialect: envelope.JSON, Capture: name, Connector: "test", Version: "test",
		Topics: Topics{Prefix: name, Partitions: 3, Replication: -1, Cleanup: "delete", Create: true},
	}
}

func open(t *testing.T, o Options) *Writer {
	t.Helper()
	w, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

var items = &sources.Table{
	Schema: "public", Name: "items", Key: []int{0},
	Columns: []sources.Column{{Name: "id", Type: sources.Type{Kind: sources.Int}}, {Name: "v", Type: sources.Type{Kind: sources.String}}},
}

func value(s string) sources.Value { return sources.Value{State: sources.Present, Data: []byte(s)} }

// create is a change with order n.
func create(n int, id, v string) *sources.Change {
	return &sources.Change{Op: sources.OpCreate, Table: items, After: []sources.Value{value(id), value(v)}, Order: fmt.Appendf(nil, "%08d", n)}
}

func write(t *testing.T, w *Writer, changes ...*sources.Change) {
	t.Helper()
	for _, c := range changes {
		if err := w.Write(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func commit(t *testing.T, w *Writer, position string, all bool) {
	t.Helper()
	if err := w.Commit(t.Context(), sources.Position(position), all); err != nil {
		t.Fatal(err)
	}
}

// seen is a record as a test looks at it.
type seen struct {
	partition      int32
	key, value, at string // at: weft-seq
}

// records returns the committed ones of a topic by partition, by a client of its own.
func records(t *testing.T, l *Log, topic string) []seen {
	t.Helper()
	cl, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var all []seen
	err = checkpoint.ScanAll(t.Context(), cl, topic, func(r *kgo.Record) error {
		s := seen{partition: r.Partition, key: string(r.Key), at: string(headerOf(r, "weft-seq"))}
		if r.Value != nil {
			var e struct{ After map[string]any }
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return err
			}
			s.value = fmt.Sprint(e.After["v"])
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func values(all []seen) string {
	byKey := map[string][]string{}
	for _, s := range all {
		byKey[s.key] = append(byKey[s.key], s.value)
	}
	text, _ := json.Marshal(byKey)
	return string(text)
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func fatal(t *testing.T, err error, parts ...string) {
	t.Helper()
	var f *sources.FatalError
	if !errors.As(err, &f) {
		t.Fatalf("error %v is not fatal", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not contain %q", err, p)
		}
	}
}

func admin(t *testing.T, l *Log) *kadm.Client {
	t.Helper()
	cl, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// within bounds a step that a fault could make wait for ever.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
