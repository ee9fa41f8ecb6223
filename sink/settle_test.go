package sink

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
)

// lateNote keeps the client from taking note of a topic until well after it has sent the topic's first record.
type lateNote struct{}

func (lateNote) OnProduceRecordPartitioned(*kgo.Record, int32) { time.Sleep(100 * time.Millisecond) }

// Without settle the second commit is refused as out of order.
func TestCommitsAfterATopicsFirstRecord(t *testing.T) {
	l, _ := fakeLog(t)
	cl, err := l.Client(kgo.TransactionalID("weft-c"), kgo.WithHooks(lateNote{}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := ensureTopic(t.Context(), cl, checkpointTopic(-1, Profiles["kafka"])); err != nil {
		t.Fatal(err)
	}
	w := &Writer{cl: cl, ctx: context.WithoutCancel(t.Context())}
	w.delivery = &transactional{w: w}
	for i := range 3 {
		if err := w.delivery.begin(); err != nil {
			t.Fatal(err)
		}
		if err := w.delivery.commit(t.Context(), checkpoint.Checkpoint{Capture: "c", Epoch: 1}, true); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
}
