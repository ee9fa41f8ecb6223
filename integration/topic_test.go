package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// record is a record as any Kafka client sees it.
type record struct {
	topic      string
	partition  int32
	offset     int64
	key, value []byte
	headers    map[string]string
}

func (r record) String() string {
	return fmt.Sprintf("%s/%d@%d key %s seq %s", r.topic, r.partition, r.offset, r.key, r.headers["weft-seq"])
}

// readTopics reads the topic of that name and all whose names begin with it and a dot, with isolation read_committed, from
// their start to the end that they have now. Records come partition by partition, in order of offset.
func readTopics(ctx context.Context, broker, name string) ([]record, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		// The marker of an aborted transaction may be a partition's last record: seen, it tells that the end is reached.
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(topics.Names(), func(topic string) bool {
		return topic != name && !strings.HasPrefix(topic, name+".")
	})
	if len(names) == 0 {
		return nil, nil
	}
	ends, err := admin.ListEndOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	if err := ends.Error(); err != nil {
		return nil, err
	}
	from := map[string]map[int32]kgo.Offset{}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			return
		}
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
		left++
	})
	client.AddConsumePartitions(from)
	var records []record
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, _ := ends.Lookup(r.Topic, r.Partition)
			if r.Offset >= end.Offset {
				return
			}
			if r.Offset == end.Offset-1 {
				left--
			}
			if r.Attrs.IsControl() {
				return
			}
			headers := map[string]string{}
			for _, h := range r.Headers {
				headers[h.Key] = string(h.Value)
			}
			records = append(records, record{r.Topic, r.Partition, r.Offset, r.Key, r.Value, headers})
		})
	}
	slices.SortFunc(records, func(a, b record) int {
		return strings.Compare(place(a), place(b))
	})
	return records, nil
}

func place(r record) string { return fmt.Sprintf("%s/%06d/%019d", r.topic, r.partition, r.offset) }

// envelope is what the tests read of a record's value.
type envelope struct {
	Op            string
	Before, After row
	Source        struct {
		Seq         string
		Unavailable []string
	}
}

// row is a table's row by column, with numbers kept as they were written.
type row map[string]any

// decode reads JSON without rounding numbers.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(into)
}

// canonical is JSON with the members of objects sorted, so that equal keys are equal texts.
func canonical(text []byte) (string, error) {
	var v any
	if err := decode(text, &v); err != nil {
		return "", err
	}
	return canonicalOf(v)
}

func canonicalOf(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// pulse tells when a capture has begun, and when it has caught up: by rows of a table for nothing else, whose key is id, or
// _id as a text.
type pulse struct {
	insert        func(ctx context.Context, id int) error
	broker, topic string
	n             int
}

// await inserts rows until one of them is in the topic, and with it all that was committed before this call. The first
// ones may never come: a capture begins with what is written after it was made.
func (p *pulse) await(t testing.TB, d *daemon, limit time.Duration) {
	t.Helper()
	first, next := p.n+1, time.Time{}
	eventually(t, d, limit, "a new row is in "+p.topic, func(ctx context.Context) (bool, error) {
		if now := time.Now(); now.After(next) {
			p.n++
			if err := p.insert(ctx, p.n); err != nil {
				return false, err
			}
			next = now.Add(time.Second)
		}
		records, err := readTopics(ctx, p.broker, p.topic)
		for _, r := range records {
			var key struct {
				ID       int
				Document int `json:"_id,string"`
			}
			if err := decode(r.key, &key); err != nil {
				return false, err
			}
			if max(key.ID, key.Document) >= first {
				return true, nil
			}
		}
		return false, err
	})
}

// deleteTopics removes what a test wrote into a log that other tests use too.
func deleteTopics(t testing.TB, broker, name string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(context.Background())
	if err != nil {
		t.Errorf("list topics: %v", err)
		return
	}
	for _, topic := range topics.Names() {
		if topic == name || strings.HasPrefix(topic, name+".") {
			if _, err := admin.DeleteTopic(context.Background(), topic); err != nil {
				t.Errorf("delete topic %s: %v", topic, err)
			}
		}
	}
}

// spoilKeys takes the row of one key out of a topic, and writes that which a snapshot read of another one again.
func spoilKeys(t testing.TB, broker, prefix, topic, lost, again string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	records, err := readTopics(t.Context(), broker, prefix)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := 0
	for _, r := range records {
		if r.topic != topic || !bytes.Contains(r.value, []byte(`"op":"r"`)) {
			continue
		}
		value := r.value
		switch string(r.key) {
		case lost:
			value = nil
		case again:
		default:
			continue
		}
		spoiled++
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: r.topic, Partition: r.partition, Key: r.key, Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if spoiled != 2 {
		t.Fatalf("%d records of the keys %s and %s are there, not 2", spoiled, lost, again)
	}
}
