package held

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
	"weft/sources/jsonscan"
)

// progress is how far a topic was followed. Another topic of the name has another id.
type progress struct {
	ID      string  `json:"id"`
	Offsets []int64 `json:"offsets"` // the next of each partition
}

func (s *Store) progress(topic string) (p progress, ok bool, err error) {
	text, ok, err := s.get(append([]byte{'p'}, topic...))
	if err != nil || !ok {
		return p, false, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, false, fmt.Errorf("read how far topic %s was followed: %w", topic, err)
	}
	return p, true, nil
}

func (s *Store) setProgress(b *pebble.Batch, topic string, p progress) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("note how far topic %s was followed: %w", topic, err)
	}
	if err := b.Set(append([]byte{'p'}, topic...), text, nil); err != nil {
		return s.broken(err)
	}
	return nil
}

const (
	// followBytes is what is gathered of a topic before it is kept.
	followBytes = 1 << 20
	// manyRecords is from when on reading a topic is worth a message.
	manyRecords = 100_000
)

// Follow reads what the topic holds beyond what is known of it. Nobody else may write to the topic, and nothing of it may be
// pending. Where the topic no longer has what comes next, or is another one, all that was known of it is forgotten.
func (s *Store) Follow(ctx context.Context, cl *kgo.Client, topic string) error {
	s.forgetRun(topic)
	meta, err := kadm.NewClient(cl).Metadata(ctx, topic)
	if err != nil {
		return fmt.Errorf("look for topic %s: %w", topic, err)
	}
	starts, ends, err := checkpoint.Bounds(ctx, cl, topic)
	if err != nil {
		return err
	}
	p, known, err := s.progress(topic)
	if err != nil {
		return err
	}
	id := meta.Topics[topic].ID.String()
	behind, lost := int64(0), p.ID != id || len(p.Offsets) != len(ends)
	for i := 0; i < len(ends) && !lost; i++ {
		lost = p.Offsets[i] < starts[i] || p.Offsets[i] > ends[i]
	}
	if lost {
		if known {
			s.log.Warn("the topic no longer has what comes after the rows that are known of it, which are read anew", "topic", topic)
		}
		prefix := prefixOf(nil, topic)
		if err := s.db.DeleteRange(prefix, endOf(prefix), pebble.NoSync); err != nil {
			return s.broken(err)
		}
		p = progress{ID: id, Offsets: starts}
	}
	for i, end := range ends {
		behind += end - p.Offsets[i]
	}
	if behind > manyRecords {
		s.log.Info("reading which rows the topic holds", "topic", topic, "offsets", behind)
	}
	b := s.db.NewBatch()
	for i, end := range ends {
		if b, err = s.followPartition(ctx, cl, topic, int32(i), end, &p, b); err != nil {
			return err
		}
		p.Offsets[i] = end
	}
	if err := s.setProgress(b, topic, p); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return s.broken(err)
	}
	return nil
}

// followPartition keeps what it gathers in b, and returns the batch that comes after.
func (s *Store) followPartition(ctx context.Context, cl *kgo.Client, topic string, partition int32, end int64, p *progress, b *pebble.Batch) (*pebble.Batch, error) {
	err := checkpoint.Scan(ctx, cl, topic, partition, p.Offsets[partition], end, func(r *kgo.Record) error {
		if err := s.apply(b, r); err != nil {
			return fmt.Errorf("read %s[%d] offset %d: %w", topic, partition, r.Offset, err)
		}
		p.Offsets[partition] = r.Offset + 1
		if b.Len() < followBytes {
			return nil
		}
		if err := s.setProgress(b, topic, *p); err != nil {
			return err
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			return s.broken(err)
		}
		b = s.db.NewBatch()
		return nil
	})
	return b, err
}

// apply folds a record in. A deleted row is gone with its tombstone and empty before that, since a crash may have come between the
// two.
func (s *Store) apply(b *pebble.Batch, r *kgo.Record) error {
	if r.Key == nil {
		return errForeign(r.Topic)
	}
	if r.Value == nil {
		return b.Delete(s.rowKey(r.Topic, r.Key), nil)
	}
	var op, row []byte
	err := jsonscan.Members(r.Value, func(name, raw []byte) error {
		switch string(name) {
		case "op":
			op = raw
		case "after":
			row = raw
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch string(op) {
	case `"d"`:
		return b.Set(s.rowKey(r.Topic, r.Key), nil, nil)
	case `"c"`, `"u"`, `"r"`:
		return b.Set(s.rowKey(r.Topic, r.Key), row, nil)
	}
	return errForeign(r.Topic)
}

func errForeign(topic string) error {
	return sources.Fatal("give the capture a topics.prefix of its own", "topic %s holds a record that no source that polls writes, such as a truncate", topic)
}
