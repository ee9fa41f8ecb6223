package status

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func client(t *testing.T) (*kgo.Client, *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, c
}

// run publishes these reports until the returned func is called.
func run(t *testing.T, cl *kgo.Client, reports ...Report) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := NewPublisher(cl, 1, func() []Report { return reports })
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx, func(err error) { t.Error(err) })
	}()
	p.Changed()
	return func() {
		cancel()
		<-done
	}
}

func eventually(t *testing.T, cl *kgo.Client, so func(map[string]Report) bool) {
	t.Helper()
	var all map[string]Report
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var err error
		if all, err = Load(t.Context(), cl); err != nil {
			t.Fatal(err)
		}
		if so(all) {
			return
		}
	}
	t.Fatalf("the log says %+v", all)
}

func TestPublishAndTakeBack(t *testing.T) {
	cl, _ := client(t)
	if all, err := Load(t.Context(), cl); err != nil || len(all) != 0 {
		t.Fatalf("a log without reports gave %v, %v", all, err)
	}
	stop := run(t, cl, Report{Capture: "a", State: "running", Daemon: "x:1", Changes: 3}, Report{Capture: "b", State: "failed", Daemon: "x:1", Error: "no right"})
	eventually(t, cl, func(all map[string]Report) bool {
		return all["a"].Changes == 3 && all["b"].Error == "no right" && time.Since(all["a"].At) < time.Minute
	})
	stop()
	eventually(t, cl, func(all map[string]Report) bool { return len(all) == 0 })
}

// A daemon that waits for its turn does not hide the one that runs the capture.
func TestTwoDaemons(t *testing.T) {
	cl, _ := client(t)
	stopA := run(t, cl, Report{Capture: "a", State: "running", Daemon: "x:1"})
	defer stopA()
	eventually(t, cl, func(all map[string]Report) bool { return all["a"].Daemon == "x:1" })
	stopB := run(t, cl, Report{Capture: "a", State: "retrying", Daemon: "y:2"})
	defer stopB()
	eventually(t, cl, func(map[string]Report) bool {
		all, err := load(t.Context(), cl)
		return err == nil && len(all) == 2
	})
	eventually(t, cl, func(all map[string]Report) bool { return all["a"].State == "running" })
	stopA()
	eventually(t, cl, func(all map[string]Report) bool { return all["a"].Daemon == "y:2" })
}

func TestReportsOfTheDeadAreRemoved(t *testing.T) {
	cl, _ := client(t)
	stop := run(t, cl, Report{Capture: "a", State: "running", Daemon: "new:1"})
	eventually(t, cl, func(all map[string]Report) bool { return len(all) == 1 })
	stop()
	old := []byte(`{"capture":"a","state":"running","daemon":"dead:1","at":"2020-01-02T03:04:05Z"}`)
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: Topic, Key: []byte("a@dead:1"), Value: old}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	defer run(t, cl, Report{Capture: "a", State: "running", Daemon: "new:2"})()
	eventually(t, cl, func(map[string]Report) bool {
		all, err := load(t.Context(), cl)
		_, dead := all["a@dead:1"]
		return err == nil && len(all) == 1 && !dead
	})
}

// An outage is told once, not at every interval.
func TestFailureIsToldOnce(t *testing.T) {
	cl, c := client(t)
	c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	p := NewPublisher(cl, 1, func() []Report { return []Report{{Capture: "a"}} })
	told := make(chan error, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx, func(err error) { told <- err })
	}()
	p.Changed()
	select {
	case err := <-told:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("told %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("an outage is not told")
	}
	p.Changed()
	time.Sleep(100 * time.Millisecond)
	cancel()
	<-done
	if len(told) > 0 {
		t.Errorf("told again: %v", <-told)
	}
}
