package mongodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

const (
	// awaitTime is how long the server waits for an event before it answers that there is none, with a newer token. Such an
	// answer is also what tells that a transaction is over, so that waiting long would hold its changes back.
	awaitTime = 200 * time.Millisecond
	// closeTime is what ending cursor and connections may take.
	closeTime = 5 * time.Second
	// The number of events asked for at first, when their size is not known, and at most.
	firstReply, largestReply = 16, 10_000
)

// reader owns a change stream: one goroutine reads it into a queue.
type reader struct {
	queue *queue
	// watch opens the stream after a token.
	watch func(ctx context.Context, after bson.Raw) (*mongo.ChangeStream, error)
	// target is how many bytes of events a reply should have.
	target int

	cancel context.CancelFunc
	done   chan struct{}
}

func startReader(stream *mongo.ChangeStream, q *queue, watch func(context.Context, bson.Raw) (*mongo.ChangeStream, error)) *reader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{queue: q, watch: watch, target: min(max(q.bound/4, 1), 4<<20), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		q.close(r.run(ctx, stream))
	}()
	return r
}

// stop ends the goroutine and waits for it.
func (r *reader) stop() {
	r.cancel()
	<-r.done
}

// run reads until something goes wrong. It closes the stream.
func (r *reader) run(ctx context.Context, stream *mongo.ChangeStream) error {
	for {
		after, err := r.read(ctx, stream)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		_ = stream.Close(end) // the server ends a cursor that it was not told to end
		cancel()
		if err != nil {
			return err
		}
		if stream, err = r.watch(ctx, after); err != nil {
			return fmt.Errorf("open the change stream again after an invalidate event: %w", err)
		}
	}
}

// read copies events into the queue. It returns the token of an invalidate event, after which the stream is over, and is
// to be opened anew.
func (r *reader) read(ctx context.Context, stream *mongo.ChangeStream) (bson.Raw, error) {
	events, size := 0, 0 // of the reply that is being read
	settled := true      // the server had nothing more ready after the last entry
	token := bytes.Clone(stream.ResumeToken())
	for {
		if !stream.TryNext(ctx) {
			if err := stream.Err(); err != nil {
				return nil, classify("read the change stream", err)
			}
			if stream.ID() == 0 {
				return nil, errors.New("the server has ended the change stream without an event that says why")
			}
			if now := stream.ResumeToken(); !settled || !bytes.Equal(now, token) {
				token, settled = bytes.Clone(now), true
				if err := r.queue.put(ctx, entry{token: token}); err != nil {
					return nil, err
				}
			}
			continue
		}
		events++
		size += len(stream.Current)
		last := stream.RemainingBatchLength() == 0
		token = bytes.Clone(stream.ResumeToken())
		settled = false
		e := entry{event: bytes.Clone(stream.Current), token: token}
		invalid := isInvalidate(e.event)
		if invalid { // its own token is what the stream can be opened after
			ev, err := parseEvent(e.event)
			if err != nil {
				return nil, err
			}
			e.token = ev.token
		}
		if err := r.queue.put(ctx, e); err != nil {
			return nil, err
		}
		if invalid {
			return e.token, nil
		}
		if last {
			stream.SetBatchSize(int32(min(max(r.target*events/size, 1), largestReply)))
			events, size = 0, 0
		}
	}
}
