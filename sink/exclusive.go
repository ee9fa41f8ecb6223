package sink

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
)

// Exclusive is the place of the only writer under a transactional id. Opening it ends what the former holder left open and
// fences that one, so that what is read afterwards cannot be changed by it any more. The embedded log fences nobody: there
// such writes may only overlap where that does no harm.
type Exclusive struct {
	cl     *kgo.Client
	atomic bool
}

// OpenExclusive takes a place. Of its own, an id begins with weft-, as rights are given by that prefix.
func (l *Log) OpenExclusive(ctx context.Context, id string) (*Exclusive, error) {
	p, err := l.profile()
	if err != nil {
		return nil, err
	}
	var extra []kgo.Opt
	if p.Atomic {
		extra = append(extra, kgo.TransactionalID(id))
	}
	cl, err := l.Client(extra...)
	if err != nil {
		return nil, err
	}
	e := &Exclusive{cl: cl, atomic: p.Atomic}
	if _, _, err := cl.ProducerID(ctx); err != nil {
		e.Close()
		return nil, explain(fmt.Errorf("open producer %s: %w", id, err))
	}
	return e, nil
}

// OpenCapture takes the place of a capture's writer without opening one.
func (l *Log) OpenCapture(ctx context.Context, capture string) (*Exclusive, error) {
	return l.OpenExclusive(ctx, transactionalID(capture))
}

// Client is for reading what others have written.
func (e *Exclusive) Client() *kgo.Client { return e.cl }

// Close gives up the place.
func (e *Exclusive) Close() { e.cl.Close() }

// Write writes one record; whether it is there after an error is unknown.
func (e *Exclusive) Write(ctx context.Context, r *kgo.Record) error {
	fail := func(err error) error { return explain(fenced(fmt.Errorf("write to %s: %w", r.Topic, err))) }
	if !e.atomic {
		if err := e.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			return fail(err)
		}
		return nil
	}
	if err := e.cl.BeginTransaction(); err != nil {
		return fail(err)
	}
	if err := e.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
		// What failed cannot be committed; the next who opens the place would end it too.
		_ = e.cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryAbort)
		return fail(err)
	}
	if err := e.cl.EndTransaction(context.WithoutCancel(ctx), kgo.TryCommit); err != nil {
		return fail(err)
	}
	return nil
}

// Forget removes the checkpoint of the capture whose place this is. No writer that was open before can write another after
// it.
func (e *Exclusive) Forget(ctx context.Context, capture string) error {
	err := e.Write(ctx, &kgo.Record{Topic: checkpoint.Topic, Key: []byte(capture)})
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil // there never was one
	}
	return err
}
