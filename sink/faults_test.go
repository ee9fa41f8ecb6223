package sink

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/sources"
)

// A broker that has just come up may not know a topic yet. That is no reason to begin a capture anew.
func TestBrokerThatForgotTheCheckpointTopic(t *testing.T) {
	l, fake := fakeLog(t)
	o := options(l)
	w := open(t, o)
	commit(t, w, `7`, true)
	w.Close()
	fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, t := range req.(*kmsg.ListOffsetsRequest).Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = t.Topic
			for _, p := range t.Partitions {
				partition := kmsg.NewListOffsetsResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.UnknownTopicOrPartition.Code
				topic.Partitions = append(topic.Partitions, partition)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	w, err := Open(within(t, 60*time.Second), o)
	if err == nil {
		t.Fatalf("resumes at %q instead of 7", w.Checkpoint().Position)
	}
	var f *sources.FatalError
	if errors.As(err, &f) {
		t.Errorf("%v is fatal: the broker will know the topic soon", err)
	}
}

// refuse answers every produce request with an error.
func refuse(code int16) func(kmsg.Request) (kmsg.Response, error, bool) {
	return func(req kmsg.Request) (kmsg.Response, error, bool) {
		produce := req.(*kmsg.ProduceRequest)
		resp := produce.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range produce.Topics {
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic, topic.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, code
				topic.Partitions = append(topic.Partitions, partition)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	}
}

func TestRefusedWrites(t *testing.T) {
	for name, c := range map[string]struct {
		err   *kerr.Error
		fatal bool
		once  string // is in the error, and not twice
	}{
		"no right":  {kerr.TopicAuthorizationFailed, true, "; to mend it: "},
		"too large": {kerr.MessageTooLarge, true, "; to mend it: "},
		"fenced":    {kerr.InvalidProducerEpoch, false, ErrFenced.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			l, fake := fakeLog(t)
			w := open(t, options(l))
			write(t, w, create(1, "1", "a"))
			commit(t, w, `1`, true)
			fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				return refuse(c.err.Code)(req)
			})
			write(t, w, create(2, "1", "b"))
			err := w.Commit(within(t, 30*time.Second), sources.Position(`2`), true)
			var f *sources.FatalError
			if !errors.Is(err, c.err) || errors.As(err, &f) != c.fatal || strings.Count(err.Error(), c.once) != 1 {
				t.Errorf("got %v", err)
			}
			if string(w.Checkpoint().Position) != `1` {
				t.Errorf("after a refused commit the checkpoint is %s", w.Checkpoint().Position)
			}
		})
	}
}

// Topics that no retry will make.
func TestRefusedTopics(t *testing.T) {
	l := kafkaLog(t)
	o := options(l)
	o.Topics.Settings = map[string]string{"retention.ms": "a week"}
	fatal(t, open(t, o).Write(t.Context(), create(1, "1", "a")), "retention.ms", "topics.settings")

	o = options(l)
	long := *items
	long.Name = strings.Repeat("n", 250)
	change := create(1, "1", "a")
	change.Table = &long
	fatal(t, open(t, o).Write(t.Context(), change), "topics.prefix")

	// More brokers than there are may yet come.
	o = options(l)
	o.Topics.Replication = 3
	err := open(t, o).Write(t.Context(), create(1, "1", "a"))
	var f *sources.FatalError
	if !errors.Is(err, kerr.InvalidReplicationFactor) || errors.As(err, &f) || !strings.Contains(err.Error(), "only 1 broker") {
		t.Errorf("replication on 3 of 1 brokers gave %v", err)
	}
}

// Brokers refuse records without a key in a compacted topic, whose every row would replace the one before it.
func TestKeylessTableInCompactedTopic(t *testing.T) {
	for name, l := range map[string]func(*testing.T) *Log{
		"kafka": kafkaLog,
		"fake":  func(t *testing.T) *Log { l, _ := fakeLog(t); return l },
	} {
		t.Run(name, func(t *testing.T) {
			o := options(l(t))
			o.Topics.Cleanup = "compact"
			keyless := *items
			keyless.Key = nil
			change := create(1, "1", "a")
			change.Table = &keyless
			w := open(t, o)
			err := w.Write(t.Context(), change)
			if err == nil {
				err = w.Commit(within(t, 60*time.Second), sources.Position(`1`), true)
			}
			fatal(t, err, "public.items", "keys")
		})
	}
}

// A quiet capture must not hold to what it found beyond its checkpoint once the source has repeated all of it: the log's
// retention would one day pass the offsets kept for it, and the next start would take that for a gap.
func TestAllFoundIsForgotten(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	write(t, w, create(2, "1", "b"), create(3, "2", "c"))
	if err := w.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.cl.Close()

	w = open(t, o)
	write(t, w, create(2, "1", "b"))
	commit(t, w, `2`, true)
	topic := o.Topics.Prefix + ".public.items"
	before := sum(w.delivery.(*sequenced).offsets[topic])
	write(t, w, create(3, "2", "c"))
	commit(t, w, `3`, true)
	if after := sum(w.delivery.(*sequenced).offsets[topic]); before != 1 || after != 3 {
		t.Errorf("the checkpoint's offsets sum to %d, and to %d once the source has repeated all; want 1 and 3", before, after)
	}
	w.Close()
	w = open(t, o)
	write(t, w, create(4, "2", "d"))
	commit(t, w, `4`, true)
	expect(t, values(records(t, l, topic)), `{"{\"id\":1}":["a","b"],"{\"id\":2}":["c","d"]}`)
}

// A source whose changes have an order per key only may repeat what was found in another order, and bring what is above it first.
func TestFoundInOrderPerKeyOnly(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	w := open(t, o)
	below := func(w *Writer, n int) { w.Below(create(n, "", "").Order) }
	write(t, w, create(1, "1", "a"))
	below(w, 2)
	commit(t, w, `1`, true)
	write(t, w, create(5, "1", "b"), create(3, "2", "c"))
	if err := w.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.cl.Close()

	topic := o.Topics.Prefix + ".public.items"
	offsets := func() int64 { return sum(w.delivery.(*sequenced).offsets[topic]) }
	w = open(t, o)
	write(t, w, create(7, "3", "d"), create(3, "2", "c"))
	below(w, 4)
	commit(t, w, `2`, false)
	if n := offsets(); n != 1 {
		t.Errorf("the checkpoint's offsets sum to %d, though not all that was found has come again", n)
	}
	write(t, w, create(5, "1", "b"), create(8, "2", "e"))
	below(w, 6)
	commit(t, w, `3`, false)
	if n := offsets(); n != 5 {
		t.Errorf("the checkpoint's offsets sum to %d of 5 records, though all that was found has come again", n)
	}
	expect(t, values(records(t, l, topic)), `{"{\"id\":1}":["a","b"],"{\"id\":2}":["c","e"],"{\"id\":3}":["d"]}`)
}

func sum(offsets []int64) (n int64) {
	for _, o := range offsets {
		n += o
	}
	return n
}

// Partitions that somebody adds to a topic belong to what a checkpoint covers.
func TestAddedPartitions(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	w.Close()
	topic := o.Topics.Prefix + ".public.items"
	if _, err := admin(t, l).UpdatePartitions(t.Context(), 8, topic); err != nil {
		t.Fatal(err)
	}
	o.Topics.Partitions = 8
	rows := func(from, to int) (all []*sources.Change) {
		for n := from; n < to; n++ {
			all = append(all, create(n, strconv.Itoa(n), "x"))
		}
		return all
	}
	for range 2 { // the second time the topic is in the checkpoint with all its partitions
		w = open(t, o)
		at, err := strconv.Atoi(string(w.Checkpoint().Position))
		if err != nil {
			t.Fatal(err)
		}
		write(t, w, rows(at+1, at+40)...)
		if err := w.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.cl.Close() // killed before its checkpoint

		w = open(t, o)
		write(t, w, rows(at+1, at+50)...)
		commit(t, w, strconv.Itoa(at+49), true)
		w.Close()
	}
	seqs := map[string]bool{}
	for _, r := range records(t, l, topic) {
		if seqs[r.at] {
			t.Errorf("%s of key %s is twice in partition %d", r.at, r.key, r.partition)
		}
		seqs[r.at] = true
	}
	if len(seqs) != 99 {
		t.Errorf("%d of 99 changes arrived", len(seqs))
	}
}

// Anybody may write to the embedded log's port.
func TestForeignRecords(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	for _, seq := range []string{"", "00000001.", "00000001.2", "seq"} {
		r := &kgo.Record{Topic: o.Topics.Prefix + ".public.items", Headers: []kgo.RecordHeader{{Key: "weft-seq", Value: []byte(seq)}}}
		if err := w.cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	w = open(t, o)
	if above := w.Above(); above != nil {
		t.Errorf("records that Weft did not write make it go on above %s", above)
	}
}
