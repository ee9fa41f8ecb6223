package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/sources"
)

// ErrTrimmed says that a partition no longer holds the offset to scan from.
var ErrTrimmed = errors.New("the log no longer holds that offset")

// CorruptError says which captures' checkpoints are none that can be read, and why.
type CorruptError struct{ Captures map[string]error }

func (e *CorruptError) Error() string {
	var all []error
	for _, capture := range slices.Sorted(maps.Keys(e.Captures)) {
		all = append(all, e.Captures[capture])
	}
	return errors.Join(all...).Error()
}

// Load returns the newest committed checkpoint of every capture, by name. Those that cannot be read are in a *CorruptError,
// and the others are returned all the same. A log without the topic is kerr.UnknownTopicOrPartition, as is a broker that has
// yet to learn of it: who resumes a capture by what Load returns must not take that for a capture that never ran.
func Load(ctx context.Context, cl *kgo.Client) (map[string]Checkpoint, error) {
	newest, err := load(ctx, cl)
	if err != nil {
		return nil, err
	}
	found := make(map[string]Checkpoint, len(newest))
	corrupt := &CorruptError{Captures: map[string]error{}}
	for capture, r := range newest {
		c, err := decode(r)
		if err != nil {
			corrupt.Captures[capture] = err
			continue
		}
		found[capture] = c
	}
	if len(corrupt.Captures) > 0 {
		return found, corrupt
	}
	return found, nil
}

// LoadOne is Load for one capture; the checkpoints of others do not matter to it, even if they cannot be read.
func LoadOne(ctx context.Context, cl *kgo.Client, capture string) (c Checkpoint, ok bool, err error) {
	newest, err := load(ctx, cl)
	if err != nil {
		return Checkpoint{}, false, err
	}
	r, ok := newest[capture]
	if !ok {
		return Checkpoint{}, false, nil
	}
	c, err = decode(r)
	return c, err == nil, err
}

func load(ctx context.Context, cl *kgo.Client) (map[string]*kgo.Record, error) {
	newest := make(map[string]*kgo.Record)
	err := ScanAll(ctx, cl, Topic, func(r *kgo.Record) error {
		if r.Value == nil {
			delete(newest, string(r.Key))
		} else {
			newest[string(r.Key)] = r
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load checkpoints: %w", err)
	}
	return newest, nil
}

func decode(r *kgo.Record) (Checkpoint, error) {
	c, err := Decode(r.Value)
	if err == nil && c.Capture != string(r.Key) {
		err = fmt.Errorf("decode checkpoint: the record of %q holds that of %q", r.Key, c.Capture)
	}
	var fatal *sources.FatalError
	switch {
	case errors.As(err, &fatal): // which says what to do
		return Checkpoint{}, fmt.Errorf("load checkpoints: %s offset %d: %w", Topic, r.Offset, err)
	case err != nil:
		return Checkpoint{}, sources.Fatal(fmt.Sprintf("weft checkpoint set %s POSITION --epoch N # N is above the number, in hexadecimal, that begins the "+
			"header weft-seq of its topics' last records; POSITION may be null, for anew", r.Key),
			"load checkpoints: %s offset %d cannot be read: %w", Topic, r.Offset, err)
	}
	return c, nil
}

// ScanAll calls fn for the committed records of a topic, partition by partition, each up to its end at the time of the call.
//
// The end is the partition's high watermark, not its last stable offset: another writer's open transaction holds the last
// stable offset back, and what was committed above it would be missed.
func ScanAll(ctx context.Context, cl *kgo.Client, topic string, fn func(*kgo.Record) error) error {
	starts, ends, err := Bounds(ctx, cl, topic)
	if err != nil {
		return err
	}
	for p, end := range ends {
		if err := Scan(ctx, cl, topic, int32(p), starts[p], end, fn); err != nil {
			return err
		}
	}
	return nil
}

// Bounds returns the first offset and the high watermark of each partition of a topic.
func Bounds(ctx context.Context, cl *kgo.Client, topic string) (starts, ends []int64, err error) {
	adm := kadm.NewClient(cl)
	listedStarts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("find the start of topic %q: %w", topic, err)
	}
	listedEnds, err := adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("find the end of topic %q: %w", topic, err)
	}
	if err := errors.Join(listedStarts.Error(), listedEnds.Error()); err != nil {
		return nil, nil, fmt.Errorf("find the ends of topic %q: %w", topic, err)
	}
	for p := int32(0); ; p++ {
		start, ok := listedStarts.Lookup(topic, p)
		end, ok2 := listedEnds.Lookup(topic, p)
		if !ok || !ok2 {
			break
		}
		starts, ends = append(starts, start.Offset), append(ends, end.Offset)
	}
	if len(ends) == 0 {
		return nil, nil, fmt.Errorf("topic %q: %w", topic, kerr.UnknownTopicOrPartition)
	}
	return starts, ends, nil
}

// Scan calls fn for the committed records of a partition from offset from (inclusive) to offset to (exclusive), in
// order, and returns when the position has reached to: it waits for transactions that are open below it. It returns
// ErrTrimmed when from is below the partition's start. A record and its bytes stay valid after fn returns.
//
// It fetches by itself instead of by a consumer, since a consumer tells its position only by the records that it
// returns, and the last offsets of a partition may hold none (markers, aborted records, compacted batches).
func Scan(ctx context.Context, cl *kgo.Client, topic string, partition int32, from, to int64, fn func(*kgo.Record) error) error {
	opts := kgo.ProcessFetchPartitionOpts{
		Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: topic, Partition: partition,
	}
	decompressor := kgo.DefaultDecompressor()
	var leader *kgo.Broker
	var id [16]byte
	for opts.Offset < to {
		if leader == nil {
			var err error
			if leader, id, err = findLeader(ctx, cl, topic, partition); err != nil {
				return fmt.Errorf("scan %s[%d]: %w", topic, partition, err)
			}
		}
		got, err := fetch(ctx, leader, id, topic, partition, opts.Offset)
		if err != nil {
			return fmt.Errorf("scan %s[%d] at offset %d: %w", topic, partition, opts.Offset, err)
		}
		switch err := kerr.ErrorForCode(got.ErrorCode); {
		case errors.Is(err, kerr.OffsetOutOfRange):
			return fmt.Errorf("scan %s[%d] at offset %d, log starts at %d: %w", topic, partition, opts.Offset, got.LogStartOffset, ErrTrimmed)
		case kerr.IsRetriable(err):
			leader = nil
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("scan %s[%d] at offset %d: %w", topic, partition, opts.Offset, err)
		}
		records, next := kgo.ProcessFetchPartition(opts, got, decompressor, nil)
		if records.Err != nil {
			return fmt.Errorf("scan %s[%d] at offset %d: %w", topic, partition, opts.Offset, records.Err)
		}
		for _, r := range records.Records {
			if r.Offset >= to {
				return nil
			}
			if err := fn(r); err != nil {
				return err
			}
		}
		opts.Offset = next
	}
	return nil
}

// fetch asks for records from offset on, waiting up to half a second for some.
func fetch(ctx context.Context, leader *kgo.Broker, id [16]byte, topic string, partition int32, offset int64) (*kmsg.FetchResponseTopicPartition, error) {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.CurrentLeaderEpoch = partition, offset, -1
	p.PartitionMaxBytes = 256 << 10 // as it is on the wire; in memory it may be twenty times that
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	t.Partitions = append(t.Partitions, p)
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, 8<<20
	req.IsolationLevel = 1 // read_committed
	req.SessionEpoch = -1  // no fetch session
	req.Topics = append(req.Topics, t)
	resp, err := leader.RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	got := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, err
	}
	if len(got.Topics) != 1 || len(got.Topics[0].Partitions) != 1 {
		return nil, errors.New("the broker's fetch response lacks the partition asked for")
	}
	return &got.Topics[0].Partitions[0], nil
}

func findLeader(ctx context.Context, cl *kgo.Client, topic string, partition int32) (*kgo.Broker, [16]byte, error) {
	meta, err := kadm.NewClient(cl).Metadata(ctx, topic)
	if err != nil {
		return nil, [16]byte{}, err
	}
	t := meta.Topics[topic]
	if t.Err != nil {
		return nil, [16]byte{}, t.Err
	}
	p, ok := t.Partitions[partition]
	if !ok {
		return nil, [16]byte{}, kerr.UnknownTopicOrPartition
	}
	if p.Err != nil {
		return nil, [16]byte{}, p.Err
	}
	return cl.Broker(int(p.Leader)), t.ID, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
