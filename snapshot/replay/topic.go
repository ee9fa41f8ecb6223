package replay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/fold"
	"weft/sources"
	"weft/sources/jsonscan"
)

// Header marks the records of a replay with its ID.
const Header = "weft-replay"

// Topic writes rows to a topic as op r, in the partitions that the live topic has them in. What an earlier run with the same
// ID has written there is not written again: the order of the rows is the same.
type Topic struct {
	Client *kgo.Client
	Name   string
	// Partitions of the topic, as many as the live topic has.
	Partitions int
	// Live says that it is the live topic, which holds other records too.
	Live bool
	// Source is what begins the envelope's source block.
	Source Source
	Filter *Filter

	id   string
	r    *Result
	skip []int64
	head []byte
	now  time.Time
	slab []byte

	mu  sync.Mutex
	err error
}

// Source names where the rows are from.
type Source struct{ Version, Connector, Name, Schema, Table string }

// ID is that of a replay: the same for the same rows to the same topic.
func ID(topic, below string, f *Filter) string {
	// A cut behind a transaction is the same however many changes it is known to have.
	if parts := strings.Split(below, "."); strings.HasSuffix(below, "~") && len(parts) > 3 {
		below = strings.Join(parts[:2], ".") + ".~"
	}
	text, _ := json.Marshal([]any{topic, below, f.text, slices.Sorted(maps.Keys(f.keys))}) // strings
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Begin is of Target: it looks what the topic holds already.
func (t *Topic) Begin(ctx context.Context, r *Result, _ func(func(*fold.Image) error) error) error {
	t.r, t.id, t.now = r, ID(r.Topic, r.Below, t.Filter), time.Now()
	t.skip = make([]int64, t.Partitions)
	err := checkpoint.ScanAll(ctx, t.Client, t.Name, func(k *kgo.Record) error {
		for _, h := range k.Headers {
			if h.Key == Header && string(h.Value) == t.id {
				t.skip[k.Partition]++
				return nil
			}
		}
		if t.Live {
			return nil
		}
		return sources.Fatal("replay to a topic that does not exist yet, or delete this one; to go on with a replay, repeat its command with --until SEQUENCE as it printed",
			"topic %q holds records that are not of this replay (%s), such as offset %d of partition %d", t.Name, t.id, k.Offset, k.Partition)
	})
	if err != nil {
		return err
	}
	t.head = append(t.head, `{"version":`...)
	for _, m := range []struct{ value, next string }{
		{t.Source.Version, `,"connector":`}, {t.Source.Connector, `,"name":`}, {t.Source.Name, `,"ts_ms":null,"snapshot":"true","db":null,"ts_us":null,"ts_ns":null,"schema":`},
		{t.Source.Schema, `,"table":`}, {t.Source.Table, `,"seq":"`},
	} {
		t.head = append(jsonscan.AppendQuoted(t.head, []byte(m.value)), m.next...)
	}
	return nil
}

// Write is of Target.
func (t *Topic) Write(ctx context.Context, image *fold.Image) error {
	p := int(image.Partition)
	if p >= t.Partitions {
		return fmt.Errorf("row with key %s is of partition %d, topic %q has %d", image.Key, p, t.Name, t.Partitions)
	}
	for range image.Count {
		if t.skip[p] > 0 {
			t.skip[p]--
			t.r.Resumed++
			continue
		}
		if err := t.failed(); err != nil {
			return err
		}
		t.Client.Produce(ctx, t.record(image), func(_ *kgo.Record, err error) {
			if err != nil {
				t.fail(fmt.Errorf("write to topic %q: %w", t.Name, err))
			}
		})
	}
	return nil
}

func (t *Topic) record(image *fold.Image) *kgo.Record {
	if cap(t.slab)-len(t.slab) < 2*(len(image.Columns)+len(image.Key))+1024 {
		t.slab = make([]byte, 0, max(1<<20, 4*len(image.Columns)))
	}
	cut := func(from int) []byte { return t.slab[from:len(t.slab):len(t.slab)] }
	at := len(t.slab)
	t.slab = append(append(append(t.slab, `{"before":null,"after":`...), image.Columns...), `,"source":`...)
	t.slab = append(append(t.slab, t.head...), image.Seq...)
	t.slab = append(t.slab, '"')
	for i, name := range image.Unknown {
		sep := `,`
		if i == 0 {
			sep = `,"unavailable":[`
		}
		t.slab = jsonscan.AppendQuoted(append(t.slab, sep...), []byte(name))
	}
	if len(image.Unknown) > 0 {
		t.slab = append(t.slab, ']')
	}
	t.slab = append(t.slab, `},"transaction":null,"op":"r","ts_ms":`...)
	t.slab = strconv.AppendInt(t.slab, t.now.UnixMilli(), 10)
	t.slab = append(t.slab, '}')
	r := &kgo.Record{Topic: t.Name, Partition: image.Partition, Value: cut(at)}
	if image.Key != nil {
		at = len(t.slab)
		t.slab = append(t.slab, image.Key...)
		r.Key = cut(at)
	}
	at = len(t.slab)
	t.slab = append(t.slab, image.Seq...)
	r.Headers = []kgo.RecordHeader{{Key: "weft-seq", Value: cut(at)}, {Key: Header, Value: []byte(t.id)}}
	return r
}

// End is of Target.
func (t *Topic) End(ctx context.Context) error {
	if err := t.Client.Flush(ctx); err != nil {
		return fmt.Errorf("write to topic %q: %w", t.Name, err)
	}
	return t.failed()
}

// Close does nothing: what was written is gone on from.
func (t *Topic) Close() error { return nil }

func (t *Topic) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

func (t *Topic) failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
