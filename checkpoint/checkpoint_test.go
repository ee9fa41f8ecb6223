package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

func TestCodec(t *testing.T) {
	c := Checkpoint{
		Capture: "orders", Connector: "postgresql", Epoch: 3, Position: sources.Position(`{"lsn":"0/16B3748"}`),
		Offsets: map[string][]int64{"shop.public.orders": {1, 0, 7}}, Gap: &Gap{Epoch: 3, Reason: "slot lost"}, Changes: 9,
	}
	value, err := Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(value)
	if err != nil {
		t.Fatal(err)
	}
	c.Version = version
	if fmt.Sprintf("%+v", got.Offsets) != fmt.Sprintf("%+v", c.Offsets) || string(got.Position) != string(c.Position) || got.Gap.Reason != "slot lost" || got.Epoch != 3 {
		t.Errorf("got %+v, want %+v", got, c)
	}
	never, err := Encode(Checkpoint{Capture: "new", Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(never); err != nil || got.Position != nil {
		t.Errorf("a checkpoint with no position gave %q, %v", got.Position, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"newer":     {`{"version":2,"capture":"orders","epoch":1,"writer":"v9"}`, "v9"},
		"not JSON":  {`{"version":`, "decode checkpoint"},
		"other":     {`{"a":1}`, "not one"},
		"no epoch":  {`{"version":1,"capture":"orders"}`, "epoch 0"},
		"wrong one": {`[1]`, "decode checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode([]byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func broker(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return client(t, append(opts, kgo.SeedBrokers(c.ListenAddrs()...))...)
}

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func topic(t *testing.T, cl *kgo.Client, name string) {
	t.Helper()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 1, nil, name); err != nil {
		t.Fatal(err)
	}
}

func TestLoadTakesTheNewestOfEach(t *testing.T) {
	cl := broker(t)
	if found, err := Load(t.Context(), cl); !errors.Is(err, kerr.UnknownTopicOrPartition) || found != nil {
		t.Fatalf("a log without the topic gave %v, %v", found, err)
	}
	topic(t, cl, Topic)
	for i, capture := range []string{"a", "b", "a", "c"} {
		value, err := Encode(Checkpoint{Capture: capture, Epoch: 1, Position: fmt.Appendf(nil, "%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: Topic, Key: []byte(capture), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: Topic, Key: []byte("c")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	found, err := Load(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || string(found["a"].Position) != "2" || string(found["b"].Position) != "1" {
		t.Errorf("found %+v", found)
	}
}

func TestLoadRefusesWhatIsNoCheckpoint(t *testing.T) {
	cl := broker(t)
	topic(t, cl, Topic)
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: Topic, Key: []byte("a"), Value: []byte("?")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	value, err := Encode(Checkpoint{Capture: "good", Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"good", "copied"} {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: Topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Load(t.Context(), cl)
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || len(corrupt.Captures) != 2 || !strings.Contains(err.Error(), "offset 0") {
		t.Errorf("got error %v", err)
	}
	if len(found) != 1 || found["good"].Epoch != 1 {
		t.Errorf("beside one that cannot be read: %+v", found)
	}
	var fatal *sources.FatalError // a retry would find the same
	if _, _, err := LoadOne(t.Context(), cl, "a"); !errors.As(err, &fatal) || !strings.Contains(fatal.Remedy, "weft checkpoint set a") {
		t.Errorf("got error %v", err)
	}
	if _, _, err := LoadOne(t.Context(), cl, "a"); err == nil || !strings.Contains(err.Error(), "offset 0") {
		t.Errorf("got error %v", err)
	}
	if _, ok, err := LoadOne(t.Context(), cl, "b"); ok || err != nil {
		t.Errorf("capture b, beside one that cannot be read: %v, %v", ok, err)
	}
}

// The end of a partition may hold no record that a reader sees: markers, and what was aborted.
func TestScanReachesAnEndWithoutRecords(t *testing.T) {
	cl := broker(t)
	topic(t, cl, "t")
	writer := client(t, append(cl.Opts(), kgo.TransactionalID("x"))...)
	transaction(t, writer, "committed", kgo.TryCommit)
	transaction(t, writer, "aborted", kgo.TryAbort)
	got, err := scan(t.Context(), cl)
	if err != nil || strings.Join(got, " ") != "committed" {
		t.Errorf("scanned %v, %v", got, err)
	}
}

func TestScanWaitsForAnOpenTransaction(t *testing.T) {
	cl := broker(t)
	topic(t, cl, "t")
	writer := client(t, append(cl.Opts(), kgo.TransactionalID("x"))...)
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := writer.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("late")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if got, err := scan(ctx, cl); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("scanned %v, %v past an open transaction", got, err)
	}
	if err := writer.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if got, err := scan(t.Context(), cl); err != nil || strings.Join(got, " ") != "late" {
		t.Errorf("scanned %v, %v", got, err)
	}
}

func TestScanBelowTheStart(t *testing.T) {
	cl := broker(t)
	topic(t, cl, "t")
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var before kadm.Offsets
	before.AddOffset("t", 0, 2, -1)
	if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	err := Scan(t.Context(), cl, "t", 0, 0, 3, func(*kgo.Record) error { return nil })
	if !errors.Is(err, ErrTrimmed) || !strings.Contains(err.Error(), "t[0] at offset 0") {
		t.Errorf("got error %v", err)
	}
}

func scan(ctx context.Context, cl *kgo.Client) (values []string, err error) {
	err = ScanAll(ctx, cl, "t", func(r *kgo.Record) error {
		values = append(values, string(r.Value))
		return nil
	})
	return values, err
}

func transaction(t *testing.T, cl *kgo.Client, value string, end kgo.TransactionEndTry) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(value)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}
