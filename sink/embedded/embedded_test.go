package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

func options(dir string) Options {
	return Options{Dir: dir, Listen: "127.0.0.1:0", MaxRecordBytes: 16 << 20}
}

func open(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func client(t *testing.T, l *Log, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(l.Addr))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestKeepsWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	l := open(t, options(dir))
	cl := client(t, l)
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 3<<20)
	for _, value := range []string{"a", large} {
		cl := client(t, l, kgo.ProducerBatchMaxBytes(16<<20))
		if value == large {
			if _, err := kadm.NewClient(cl).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr("16777216")}}, "t"); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	l = open(t, options(dir))
	defer l.Close()
	cl = client(t, l, kgo.ConsumeTopics("t"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	for len(got) < 2 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if len(got) != 2 || got[0] != "a" || got[1] != large {
		t.Fatalf("after a restart the log holds %d records", len(got))
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	l := open(t, options(dir))
	_, err := Open(options(dir))
	var in *ErrInUse
	if !errors.As(err, &in) || in.Addr != l.Addr || in.PID != os.Getpid() || in.Dir != dir {
		t.Fatalf("opening a directory twice gave %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, options(dir)).Close(); err != nil {
		t.Fatalf("after Close the directory is not free: %v", err)
	}
}

// What a process said that was killed is gone before another one listens.
func TestOwnerOfBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "LOCK")
	if err := os.WriteFile(path, []byte(`{"pid":17,"addr":"127.0.0.1:9"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := options(dir)
	o.Listen = taken.Addr().String()
	if _, err := Open(o); err == nil {
		t.Fatal("it listens where another does")
	}
	if text, err := os.ReadFile(path); err != nil || len(text) > 0 {
		t.Fatalf("the lock file says %q, %v", text, err)
	}
}

func TestPortInUse(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	o := options(t.TempDir())
	o.Listen = busy.Addr().String()
	_, err = Open(o)
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), o.Listen) {
		t.Fatalf("a port in use gave %v", err)
	}
	o.Listen = "127.0.0.1:0"
	if err := open(t, o).Close(); err != nil {
		t.Fatalf("the failed start left the directory locked: %v", err)
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(options(file + "/log"))
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) {
		t.Fatalf("a directory under a file gave %v", err)
	}
}

func TestRetentionIsBounded(t *testing.T) {
	o := options(t.TempDir())
	o.RetentionBytes = 8 << 20
	l := open(t, o)
	defer l.Close()
	cl := client(t, l)
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 512<<10)
	for range 64 { // 32 MiB
		_, _ = rand.Read(value)
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	l.cluster.Compact()
	starts, err := adm.ListStartOffsets(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := starts.Lookup("t", 0); o.Offset < 64-24 {
		t.Errorf("of 64 records of 512 KiB the log still holds those from %d on; 8 MiB were to be kept", o.Offset)
	}
}

// A compacted topic holds its newest record of a key for as long as the log exists, and over a crash after compaction.
func TestCompactedTopicIsKept(t *testing.T) {
	o := options(t.TempDir())
	o.RetentionAge, o.RetentionBytes = time.Millisecond, 1<<10
	l := open(t, o)
	cl := client(t, l)
	settings := map[string]*string{"cleanup.policy": kadm.StringPtr("compact"), "retention.ms": kadm.StringPtr("-1"), "retention.bytes": kadm.StringPtr("-1")}
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, settings, "t"); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Key: []byte{byte(i % 2)}, Value: fmt.Appendf(nil, "value %d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(10 * time.Millisecond)
	l.cluster.Compact()
	// What a crash would leave: the files as they are, with nothing closed.
	crashed := options(t.TempDir())
	if err := os.CopyFS(crashed.Dir+"/log", os.DirFS(o.Dir)); err != nil {
		t.Fatal(err)
	}
	crashed.Dir += "/log"
	defer l.Close()
	l = open(t, crashed)
	defer l.Close()
	cl = client(t, l, kgo.ConsumeTopics("t"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	newest := map[byte]string{}
	for newest[0] != "value 998" || newest[1] != "value 999" {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("the log holds %v", newest)
		}
		fetches.EachRecord(func(r *kgo.Record) { newest[r.Key[0]] = string(r.Value) })
	}
}
