package sink

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// transactional delivers by Kafka transactions: the records and, last, the checkpoint are in one.
type transactional struct {
	w    *Writer
	open bool
	last time.Time // when the last commit ended
}

// transactionalID is what fences a capture's former writer.
func transactionalID(capture string) string { return "weft-" + capture }

// The next transaction begins where the last one ended: there is nothing to find, and nothing to keep.
func (t *transactional) resume(context.Context, checkpoint.Checkpoint) (*sources.GapError, error) {
	return nil, nil
}
func (t *transactional) enter(context.Context, string) error    { return nil }
func (t *transactional) skip(*kgo.Record, []byte) (bool, error) { return false, nil }
func (t *transactional) acked(*kgo.Record)                      {}
func (t *transactional) above() []byte                          { return nil }
func (t *transactional) ready() time.Time                       { return t.last.Add(t.w.profile.AfterCommit) }
func (t *transactional) forget()                                {}

func (t *transactional) begin() error {
	if err := t.w.cl.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	t.open = true
	return nil
}

// commit leaves the transaction to the next writer's InitProducerID whenever anything fails: that both ends it and tells
// by the checkpoint how it ended, which nothing that could be done here would.
func (t *transactional) commit(ctx context.Context, cp checkpoint.Checkpoint, _ bool) error {
	if err := t.w.writeCheckpoint(ctx, cp); err != nil {
		return err
	}
	if err := t.settle(ctx); err != nil {
		return err
	}
	t.open = false
	if err := t.w.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	t.last = time.Now()
	return nil
}

// settle waits until the client has taken note of the topics that it has just met. It sends the first records of a topic a
// moment before that, and a transaction that ended within this moment would leave the topic's sequence numbers as they
// are when the new producer epoch needs them to begin anew: the next record is then refused as out of order (franz-go
// 1.22.2, storePartitionsUpdate). After a flush there is nothing to abort; what counts is the lock that it passes.
func (t *transactional) settle(ctx context.Context) error {
	if err := t.w.cl.AbortBufferedRecords(ctx); err != nil {
		return fmt.Errorf("wait for the client's topics: %w", err)
	}
	return nil
}

// abort ends an open transaction, so that readers of its partitions need not wait for the next writer. An error does not
// matter: the next writer's InitProducerID does the same.
func (t *transactional) abort() {
	if !t.open {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if t.w.cl.AbortBufferedRecords(ctx) == nil {
		_ = t.w.cl.EndTransaction(ctx, kgo.TryAbort)
	}
}
