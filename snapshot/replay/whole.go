package replay

import (
	"context"
	"errors"
	"fmt"

	"weft/sink/fold"
	"weft/sink/scratch"
	"weft/snapshot/archive"
	"weft/sources"
)

// whole refuses an image that lacks rows which the table had at the cut: those of which the log tells nothing before it, and which
// after it are read by a snapshot, updated or deleted without having been inserted. from is where the image's records end.
func (o *Options) whole(ctx context.Context, t *archive.Topic, table *fold.Table, from []int64, below string) (err error) {
	newest := archive.CutOf(t.Checkpoint)
	if o.Partial || below >= newest {
		return nil
	}
	met, err := scratch.OnDisk(o.Dir, o.Memory/4) // keys that came after the cut
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, met.Close()) }()
	keys := Filter{keys: o.Filter.keys}
	missing, key, last := 0, "", ""
	emptied := map[int32]bool{} // partitions
	_, err = t.Scan(ctx, from, newest, func(r *archive.Record) error {
		p := r.Kafka.Partition
		if r.Kafka.Key == nil || r.Kafka.Value == nil || emptied[p] || r.Seq < below { // where the order is per key only, some of the image lie here
			return nil
		}
		if len(r.Kafka.Key) == 0 { // a truncate: what comes behind it was not there before
			emptied[p] = true
			return nil
		}
		if ok, err := keys.Takes(r.Kafka.Key, nil); !ok || err != nil {
			return err
		}
		known, err := table.Has(p, r.Kafka.Key)
		if known || err != nil {
			return err
		}
		if v, err := met.Get(r.Kafka.Key); v != nil || err != nil {
			return err
		}
		op, err := fold.Op(r.Kafka.Value)
		if err != nil {
			return fmt.Errorf("%s[%d] offset %d: %w", t.Name, p, r.Kafka.Offset, err)
		}
		if op != "c" {
			missing, key, last = missing+1, string(r.Kafka.Key), max(last, r.Seq)
		}
		return met.Set(r.Kafka.Key, []byte{1})
	})
	if err != nil || missing == 0 {
		return err
	}
	return sources.Fatal(fmt.Sprintf("replay --until %s or later, or leave them out with --partial", last),
		"the log tells nothing before the cut of %d rows that table %s had already, such as the one with key %s: a snapshot or a change told of them later",
		missing, t.Name, key)
}
