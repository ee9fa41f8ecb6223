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
	// runBytes is about how many bytes of events are handed over at a time.
	runBytes = 64 << 10
	// behindAfter is how many seconds after its change an event is sent when the stream is behind. Cluster times are whole seconds, so
	// that it is more than one.
	behindAfter = 2
)

// reader owns a change stream: one goroutine reads it into a queue.
type reader struct {
	queue *queue
	// session is that of the stream's commands. It is causally consistent, so that the stream goes on where the server is
	// no further back than it was, also after an election.
	session *mongo.Session
	// sharded: an answer without events says nothing of what the shards still have.
	sharded bool
	// watch opens the stream after a token.
	watch func(ctx context.Context, after bson.Raw) (*mongo.ChangeStream, error)
	// target is how many bytes of events a reply should have, and run how many an entry of the queue.
	target, run int

	cancel context.CancelFunc
	done   chan struct{}
}

// start reads the stream, which was opened in the session, from a goroutine of its own.
func (r *reader) start(stream *mongo.ChangeStream) {
	ctx, cancel := context.WithCancel(context.Background())
	r.target, r.run = min(max(r.queue.bound/4, 1), 4<<20), min(r.queue.bound/8, runBytes)
	r.cancel, r.done = cancel, make(chan struct{})
	go func() {
		defer close(r.done)
		r.queue.close(r.readAll(mongo.NewSessionContext(ctx, r.session), stream))
		r.session.EndSession(context.WithoutCancel(ctx))
	}()
}

// stop ends the goroutine and waits for it.
func (r *reader) stop() {
	r.cancel()
	<-r.done
}

// readAll reads until something goes wrong. It closes the stream.
func (r *reader) readAll(ctx context.Context, stream *mongo.ChangeStream) error {
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
//
// Tokens do not tell how far the stream is. Each answer tells the time of the newest operation that the server had committed when
// it was given (operationTime), and the read after it goes to the end of what is committed. So an answer without events proves
// that all changes up to the time that the answer before it has told were returned, provided that the server has waited for one. The
// answer before that one is taken: the stand-in for MongoDB tells times that it has given to what is not committed yet, and 200 ms
// are long for that.
func (r *reader) read(ctx context.Context, stream *mongo.ChangeStream) (bson.Raw, error) {
	events, size := 0, 0 // of the reply that is being read
	var run []byte       // what of it is to be handed over next
	settled := true      // the server had nothing more ready after the last entry
	token := bytes.Clone(stream.ResumeToken())
	passed := uint64(0)
	told, before := uint64(0), uint64(0) // by the last answer, and by the one before it; nothing by the stream's opening
	for {
		cursor, asked := stream.ID(), time.Now()
		more := stream.TryNext(ctx)
		if !more {
			proven := before
			before, told = told, r.operationTime()
			if err := stream.Err(); err != nil {
				return nil, classify("read the change stream", err)
			}
			if stream.ID() == 0 {
				return nil, errors.New("the server has ended the change stream without an event that says why")
			}
			switch {
			case r.sharded || stream.ID() != cursor: // the stream was opened again, and this is the answer to that
				proven, before = 0, 0
			case time.Since(asked) < awaitTime: // the server has not waited, so that it was not at the end
				proven = 0
			}
			if now := stream.ResumeToken(); !settled || proven > passed || !bytes.Equal(now, token) {
				token, settled, passed = bytes.Clone(now), true, max(passed, proven)
				if err := r.queue.put(ctx, entry{token: token, passed: passed}); err != nil {
					return nil, err
				}
			}
			continue
		}
		settled = false
		events++
		size += len(stream.Current)
		left := stream.RemainingBatchLength()
		if run == nil {
			run = r.queue.memory(max(len(stream.Current), min(r.run, len(stream.Current)*(left+1))))
		}
		run = append(run, stream.Current...) // which the driver may use again
		invalid := isInvalidate(stream.Current)
		if invalid || left == 0 || len(run)+len(stream.Current) > r.run { // the next one may not fit
			token = bytes.Clone(stream.ResumeToken())
			last, err := parseEvent(stream.Current) // an error of it is Next's to report
			if invalid {
				if err != nil {
					return nil, err
				}
				token = bytes.Clone(last.token) // what the stream can be opened after
			}
			behind := r.operationTime()>>32 >= last.clusterTime>>32+behindAfter
			if err := r.queue.put(ctx, entry{events: run, token: token, behind: behind}); err != nil {
				return nil, err
			}
			run = nil
		}
		if invalid {
			return token, nil
		}
		if left == 0 {
			before, told = told, r.operationTime()
			stream.SetBatchSize(int32(min(max(r.target*events/size, 1), largestReply)))
			events, size = 0, 0
		}
	}
}

// operationTime is what the server has told last.
func (r *reader) operationTime() uint64 {
	t := r.session.OperationTime()
	if t == nil {
		return 0
	}
	return timestamp{T: t.T, I: t.I}.stamp()
}
