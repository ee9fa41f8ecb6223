package sink

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
)

// A checkpoint that is forgotten stays so: a writer that was open before cannot write another.
func TestForget(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		write(t, w, create(1, "1", "a"))
		commit(t, w, `1`, true)
		e, err := l.OpenCapture(t.Context(), o.Capture)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if _, ok, err := checkpoint.LoadOne(t.Context(), e.Client(), o.Capture); !ok || err != nil {
			t.Fatalf("before: %v, %v", ok, err)
		}
		if err := e.Forget(t.Context(), o.Capture); err != nil {
			t.Fatal(err)
		}
		if l.Profile == "kafka" {
			write(t, w, create(2, "1", "b"))
			if err := w.Commit(t.Context(), []byte(`2`), true); !errors.Is(err, ErrFenced) {
				t.Errorf("the former writer's commit gave %v", err)
			}
		}
		if _, ok, err := checkpoint.LoadOne(t.Context(), e.Client(), o.Capture); ok || err != nil {
			t.Errorf("after: %v, %v", ok, err)
		}
		if cp := open(t, o).Checkpoint(); cp.Position != nil || cp.Epoch != 1 {
			t.Errorf("the capture begins anew with %+v", cp)
		}
	})
}

// A checkpoint that cannot be read is replaced where the epoch is given.
func TestEpochInsteadOfCheckpoint(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		commit(t, w, `1`, true)
		w.Close()
		e, err := l.OpenCapture(t.Context(), o.Capture)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Write(t.Context(), &kgo.Record{Topic: checkpoint.Topic, Key: []byte(o.Capture), Value: []byte("?")}); err != nil {
			t.Fatal(err)
		}
		e.Close()
		if _, err := Open(t.Context(), o); err == nil {
			t.Fatal("opened over a checkpoint that cannot be read")
		}
		o.Epoch = 6
		w = open(t, o)
		if err := w.NextEpoch(t.Context(), lost(checkpoint.Checkpoint{}, "t", 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		o.Epoch = 0
		if cp := open(t, o).Checkpoint(); cp.Epoch != 7 {
			t.Errorf("the capture goes on with %+v", cp)
		}
	})
}
