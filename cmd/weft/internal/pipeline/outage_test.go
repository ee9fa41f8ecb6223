package pipeline

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/sink"
)

// The log's brokers may come up long after Weft.
func TestBrokersComeLate(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	l := &sink.Log{Brokers: []string{addr}, Profile: "kafka", CommitBytes: 1 << 20}
	s := &script{transactions: []int{3}, batch: 3}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var states []State
	sup := &Supervisor{}
	sup.Observe = func(st Status) {
		if len(states) == 0 || states[len(states)-1] != st.State {
			states = append(states, st.State)
		}
		if st.State == Retrying && len(states) == 2 {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(func(string, string) (net.Listener, error) {
				return net.Listen("tcp", addr)
			}))
			if err != nil {
				t.Error(err)
				cancel()
				return
			}
			t.Cleanup(c.Close)
		}
		if string(st.Position) == "3" {
			cancel()
		}
	}
	if err := sup.Run(ctx, want(capture(s, l))); err != nil {
		t.Errorf("an outage is for good: %v", err)
	}
	if !slices.Equal(states, []State{Starting, Retrying, Starting, Running, Stopped}) {
		t.Errorf("the capture went %v", states)
	}
}

// A stop ends a write that waits for brokers which take nothing.
func TestStopWhileBrokersTakeNothing(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := &sink.Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}
	s := &script{transactions: []int{1, 30000}, batch: 30000} // a batch of more than the client buffers
	outage := make(chan struct{})
	s.fail = func(at int) error {
		if at == 1 {
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				return nil, errors.New("hang up"), true
			})
			close(outage)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- capture(s, l).Run(ctx, func(Progress) {}) }()
	<-outage
	time.Sleep(time.Second)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("stopped with %v", err)
		}
	case <-time.After(9 * time.Second):
		t.Error("not stopped within 9 s")
	}
	if len(s.durable) > 0 {
		t.Errorf("told the source %v, and the log has nothing", s.durable)
	}
}
