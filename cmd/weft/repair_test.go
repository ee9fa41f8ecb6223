package main

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/status"
	"weft/configs"
	"weft/sink"
	"weft/sources"
)

// repairLog is a log in which a capture is registered, and a repairer of it.
func repairLog(t *testing.T) (*repairer, *kgo.Client) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, checkpoint.Topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	log := &sink.Log{Brokers: cluster.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}
	cl, err := log.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	s := &fleet.Store{Log: log, Replication: -1, By: "me@here", Version: "v1"}
	err = s.Update(t.Context(), "shop", func(*fleet.Entry) (*fleet.Registration, error) {
		return &fleet.Registration{Capture: json.RawMessage(`{}`), File: "here:weft.yaml"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &repairer{store: s, cl: cl, capture: "shop", timeout: 20 * time.Second}, cl
}

// checkpointed writes the capture's checkpoint with the state of its snapshots.
func checkpointed(t *testing.T, cl *kgo.Client, s *checkpoint.Snapshot) {
	t.Helper()
	value, err := checkpoint.Encode(checkpoint.Checkpoint{Capture: "shop", Epoch: 1, Connector: "postgresql", Position: sources.Position(`1`), Snapshot: s})
	if err == nil {
		err = cl.ProduceSync(t.Context(), &kgo.Record{Topic: checkpoint.Topic, Key: []byte("shop"), Value: value}).FirstErr()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestRepairer: the keys are in the registration until a checkpoint says what became of them, and then no more.
func TestRepairer(t *testing.T) {
	keys := [][][]byte{{[]byte("1"), nil}, {[]byte("2"), []byte("b")}}
	for _, c := range []struct {
		name    string
		handled checkpoint.Handled
		want    string
	}{
		{"done", checkpoint.Handled{Rows: 2}, ""},
		{"refused", checkpoint.Handled{Error: "no such table"}, "no such table"},
		{"cancelled", checkpoint.Handled{Cancelled: true}, "was cancelled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, cl := repairLog(t)
			now := time.Now()
			checkpointed(t, cl, &checkpoint.Snapshot{ID: 1, EndedAt: &now})
			daemon := make(chan struct{})
			go func() { // the daemon
				defer close(daemon)
				err := await(t.Context(), 20*time.Second, func() (bool, error) {
					e, err := fleet.LoadOne(t.Context(), cl, "shop")
					if err != nil || e.Snapshot == nil {
						return false, err
					}
					if want := map[string][][][]byte{"public.a": keys}; !reflect.DeepEqual(e.Snapshot.Keys, want) {
						t.Errorf("asked for %v, want %v", e.Snapshot.Keys, want)
					}
					c.handled.Request = e.Snapshot.ID
					checkpointed(t, cl, &checkpoint.Snapshot{ID: 2, EndedAt: &now, Handled: []checkpoint.Handled{c.handled}})
					return true, nil
				})
				if err != nil {
					t.Error(err)
				}
			}()
			err := p.Repair(t.Context(), "public.a", keys)
			<-daemon
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err := p.forget(t.Context()); err != nil {
				t.Fatal(err)
			}
			if e, err := fleet.LoadOne(t.Context(), cl, "shop"); err != nil || e.Snapshot != nil || e.File == "" {
				t.Errorf("afterwards %+v is registered (%v)", e, err)
			}
		})
	}
}

// What is not done in time is left to the daemon, and nothing is asked of one that is busy.
func TestRepairerWaits(t *testing.T) {
	p, cl := repairLog(t)
	p.timeout = 100 * time.Millisecond
	now := time.Now()
	checkpointed(t, cl, &checkpoint.Snapshot{ID: 1, EndedAt: &now})
	err := p.Repair(t.Context(), "public.a", [][][]byte{{[]byte("1")}})
	if err == nil || !strings.Contains(err.Error(), "weft snapshot cancel shop") {
		t.Errorf("got %v", err)
	}
	if err := p.forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, err := fleet.LoadOne(t.Context(), cl, "shop"); err != nil || e.Snapshot == nil {
		t.Errorf("the request is gone: %+v, %v", e, err)
	}
	if err := p.Repair(t.Context(), "public.a", nil); err == nil || !strings.Contains(err.Error(), "is still to be taken up") {
		t.Errorf("while another waits: %v", err)
	}
	checkpointed(t, cl, &checkpoint.Snapshot{ID: 2, Request: p.last, Reason: checkpoint.ReasonRepair})
	if err := p.Repair(t.Context(), "public.a", nil); err == nil || !strings.Contains(err.Error(), "a snapshot (repair) is under way") {
		t.Errorf("while one runs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.await(ctx, []int64{0}, "x"); err == nil {
		t.Error("a stop is no error")
	}
}

// Only a capture that runs can be asked.
func TestRepairNeedsADaemon(t *testing.T) {
	p, cl := repairLog(t)
	r := &reader{config: &configs.Config{}, log: p.store.Log, cl: cl}
	for _, c := range []struct {
		report status.Report
		want   string
	}{
		{status.Report{Capture: "another", State: "running"}, "no daemon runs capture shop"},
		{status.Report{Capture: "shop", State: "failed", Error: "no slot"}, "has failed, and repairs nothing: no slot"},
		{status.Report{Capture: "shop", State: "running"}, ""},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		published := make(chan struct{})
		publisher := status.NewPublisher(cl, -1, func() []status.Report { return []status.Report{c.report} })
		go func() {
			defer close(published)
			publisher.Run(ctx, func(err error) { t.Error(err) })
		}()
		publisher.Changed()
		eventually(t, "the report is there", func() bool {
			all, err := status.Load(ctx, cl)
			_, ok := all[c.report.Capture]
			return err == nil && ok
		})
		_, err := (&app{}).newRepairer(t.Context(), r, "shop", verifyFlags{}, nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.report, err, c.want)
		}
		cancel()
		<-published
	}
}
