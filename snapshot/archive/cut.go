package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/fold"
	"weft/sources"
)

// highest follows every ordinal, index and separator of a sequence.
const highest = "~"

// A cut is a sequence below which everything belongs to an image, and nothing from there on. It lies between two source
// transactions, so that an image has all of one or nothing. It is proven by a checkpoint: all that the capture wrote before
// the checkpoint is in the log where the checkpoint is, so that below the partitions' ends, taken after the checkpoint was
// read, nothing at or below its sequence is missing. What the ends let in of later commits sorts above.

// CutOf is the cut at a checkpoint: behind its last change, or before its last transaction where that is not complete. Where changes have an
// order per key only, it is where every change below has come.
func CutOf(cp checkpoint.Checkpoint) string {
	if cp.Below != "" {
		return cp.Below
	}
	if cp.Partial {
		return Before(cp.Seq)
	}
	return cp.Seq + highest
}

// Before is the cut before the transaction that a sequence belongs to. A sequence is EPOCH.TRANSACTION.INDEX.ORDINAL, where the
// last two parts tell the changes of a transaction from each other.
func Before(seq string) string { return transactionOf(seq) }

// Behind is the cut behind the transaction that a sequence belongs to.
func Behind(seq string) string { return transactionOf(seq) + highest }

func transactionOf(seq string) string {
	if i := strings.LastIndexByte(seq, '.'); i > 0 {
		if i = strings.LastIndexByte(seq[:i], '.'); i >= 0 {
			return seq[:i+1]
		}
	}
	return seq
}

// Topic is a table's topic and where it is to be cut.
type Topic struct {
	Client     *kgo.Client
	Checkpoint checkpoint.Checkpoint
	Name       string
	// Starts and Ends are the partitions' bounds; Ends were taken after Checkpoint.
	Starts, Ends []int64
}

// perKey tells that changes have an order per key only.
func (t *Topic) perKey() bool { return t.Checkpoint.Below != "" }

// Look reads the capture's checkpoint and then the bounds of the topic.
func Look(ctx context.Context, cl *kgo.Client, capture, topic string) (*Topic, error) {
	cp, ok, err := checkpoint.LoadOne(ctx, cl, capture)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		ok, err = false, nil
	}
	if err != nil {
		return nil, err
	}
	if !ok || cp.Seq == "" {
		return nil, sources.Fatal("let weft run capture changes first", "the log holds no checkpoint of capture %q that tells how far its records go", capture)
	}
	t := &Topic{Client: cl, Checkpoint: cp, Name: topic}
	t.Starts, t.Ends, err = checkpoint.Bounds(ctx, cl, topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, sources.Fatal("give a table that is captured; its topic is made at its first change (weft status lists captures)", "topic %q does not exist", topic)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// LostError says that retention has removed records that are needed.
type LostError struct {
	Topic     string
	Partition int32
	From      int64 // the first offset needed
	Start     int64 // the first that there is
	Remedy    string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%s[%d] begins at offset %d, and records from offset %d on are needed: retention has removed them; %s", e.Topic, e.Partition, e.Start, e.From, e.Remedy)
}

// From tells where to read: behind an archive, or from the topic's start for none. The first error is a *LostError.
func (t *Topic) From(m *Manifest) ([]int64, error) {
	from := make([]int64, len(t.Starts))
	if m != nil {
		if len(m.Offsets) != len(from) {
			return nil, sources.Fatal("archives and topic do not belong together: was the topic made anew? Use another bucket or prefix for it",
				"topic %q has %d partitions, archive %s has %d", t.Name, len(from), m.ID, len(m.Offsets))
		}
		copy(from, m.Offsets)
	}
	for p := range from {
		switch {
		case from[p] > t.Ends[p]:
			return nil, sources.Fatal("archives and topic do not belong together: was the topic made anew? Use another bucket or prefix for it",
				"%s[%d] ends at offset %d, archive %s goes on at %d", t.Name, p, t.Ends[p], m.ID, from[p])
		case from[p] < t.Starts[p]:
			return from, &LostError{Topic: t.Name, Partition: int32(p), From: from[p], Start: t.Starts[p]}
		}
	}
	return from, nil
}

// Record is one of a topic, with what the fold does not need.
type Record struct {
	Kafka *kgo.Record
	Seq   string
	// OldKey and NewKey are the headers of a key change, or nil.
	OldKey, NewKey []byte
}

// Fold is what the fold reads of it.
func (r *Record) Fold() fold.Record {
	return fold.Record{Key: r.Kafka.Key, Value: r.Kafka.Value, OldKey: r.OldKey, NewKey: r.NewKey}
}

func (r *Record) read(from *kgo.Record) {
	*r = Record{Kafka: from}
	for i := range from.Headers {
		switch h := &from.Headers[i]; h.Key {
		case "weft-seq":
			r.Seq = string(h.Value)
		case "__debezium.oldkey":
			r.OldKey = h.Value
		case "__debezium.newkey":
			r.NewKey = h.Value
		}
	}
}

var errAbove = errors.New("above the cut")

// Scan calls fn for the topic's records below the cut, partition by partition, and returns for each partition the first
// offset that it did not give. In a partition the sequences grow, so the first record that is not below it ends it; where changes have an
// order per key only, others that are below may follow, and are given.
func (t *Topic) Scan(ctx context.Context, from []int64, below string, fn func(*Record) error) (next []int64, err error) {
	next = append([]int64(nil), from...)
	var one Record
	for p := range from {
		next[p] = t.Ends[p]
		err := checkpoint.Scan(ctx, t.Client, t.Name, int32(p), from[p], t.Ends[p], func(r *kgo.Record) error {
			one.read(r)
			if one.Seq == "" {
				return sources.Fatal("replay and archive topics that Weft writes", "%s[%d] offset %d has no header weft-seq: it is no record of Weft's", t.Name, p, r.Offset)
			}
			if one.Seq >= below {
				next[p] = min(next[p], r.Offset)
				if t.perKey() {
					return nil
				}
				return errAbove
			}
			return fn(&one)
		})
		if err != nil && !errors.Is(err, errAbove) {
			return nil, err
		}
	}
	return next, nil
}

// CommitTime is when the record's change was committed at the datastore, or where that tells no time, when the record was
// written.
func CommitTime(r *kgo.Record) time.Time {
	// The member stands in the envelope's source block; a column's value cannot be taken for it, as its quotes are escaped.
	const member = `,"ts_us":`
	if i := bytes.Index(r.Value, []byte(`"source":{"version":`)); i >= 0 {
		rest := r.Value[i:]
		if i = bytes.Index(rest, []byte(member)); i >= 0 {
			digits := rest[i+len(member):]
			if end := bytes.IndexAny(digits, ",}"); end > 0 {
				if us, err := strconv.ParseInt(string(digits[:end]), 10, 64); err == nil && us > 0 { // null elsewhere
					return time.UnixMicro(us).UTC()
				}
			}
		}
	}
	return r.Timestamp.UTC()
}
