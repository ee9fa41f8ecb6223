package replay_test

import (
	"context"
	"errors"

	"weft/sink/fold"
	"weft/snapshot/replay"
)

var errBroken = errors.New("broken off")

// breaking breaks off after some rows, which are in the topic.
type breaking struct {
	*replay.Topic
	after int64
}

func (b *breaking) Write(ctx context.Context, image *fold.Image) error {
	if b.after == 0 {
		if err := b.Topic.End(ctx); err != nil {
			return err
		}
		return errBroken
	}
	b.after--
	return b.Topic.Write(ctx, image)
}
