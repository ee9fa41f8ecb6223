package checkpoint

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Follow calls fn for the committed records of a topic from these offsets on, until ctx ends.
func Follow(ctx context.Context, cl *kgo.Client, topic string, offsets []int64, fn func(*kgo.Record) error) error {
	parts := make(map[int32]kgo.Offset, len(offsets))
	for p, o := range offsets {
		parts[int32(p)] = kgo.NewOffset().At(o)
	}
	consumer, err := kgo.NewClient(append(cl.Opts(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: parts}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return fmt.Errorf("set up consumer: %w", err)
	}
	defer consumer.Close()
	for {
		fetches := consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read topic %q: %w", topic, err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			if err := fn(it.Next()); err != nil {
				return err
			}
		}
	}
}
