package sink

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/checkpoint"
	"weft/sources"
)

func TestCommitAndResume(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		if cp := w.Checkpoint(); cp.Position != nil || cp.Epoch != 1 {
			t.Fatalf("a capture that never ran has checkpoint %+v", cp)
		}
		write(t, w, create(1, "1", "a"), create(2, "2", "b"))
		commit(t, w, `{"at":2}`, true)
		write(t, w, create(3, "1", "c"))
		commit(t, w, `{"at":3}`, true)
		if pending, since := w.Pending(); pending != 0 || !since.IsZero() {
			t.Errorf("after a commit %d bytes are pending since %v", pending, since)
		}
		w.Close()

		w = open(t, o)
		cp := w.Checkpoint()
		expect(t, string(cp.Position), `{"at":3}`)
		if cp.Changes != 3 || cp.Connector != "test" {
			t.Errorf("checkpoint %+v", cp)
		}
		expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","c"],"{\"id\":2}":["b"]}`)
	})
}

// What was written and not committed must not be twice after the next start, which writes it again.
func TestUncommittedIsNotTwice(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		write(t, w, create(1, "1", "a"))
		commit(t, w, `1`, true)
		write(t, w, create(2, "1", "b"), create(3, "2", "c"))
		if err := w.flush(t.Context()); err != nil { // the log has them; the checkpoint has not
			t.Fatal(err)
		}
		// No Close: the process is gone.

		w = open(t, o)
		expect(t, string(w.Checkpoint().Position), `1`)
		write(t, w, create(2, "1", "b"))
		commit(t, w, `2`, false) // past half of what was found
		w.cl.Close()

		w = open(t, o)
		write(t, w, create(3, "2", "c"), create(4, "2", "d"))
		commit(t, w, `4`, true)
		expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","b"],"{\"id\":2}":["c","d"]}`)
		if s, ok := w.delivery.(*sequenced); ok && (s.highest != nil || len(s.found) > 0) {
			t.Error("past everything found, the writer still remembers it")
		}
	})
}

// A source that polls may repeat a row under another order, or find a newer one.
func TestPollsAreToldByRow(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	o.Polls = true
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	write(t, w, create(2, "1", "b"), create(3, "2", "c"), create(4, "3", "d"))
	if err := w.flush(t.Context()); err != nil {
		t.Fatal(err)
	}

	w = open(t, o)
	expect(t, string(w.Above()), "00000004")
	// Since then row 2 has changed, and row 3 was not.
	write(t, w, create(5, "1", "b"), create(6, "3", "d"), create(7, "2", "e"))
	commit(t, w, `2`, true)
	expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","b"],"{\"id\":2}":["c","e"],"{\"id\":3}":["d"]}`)
	// Once a poll was complete, the same row again is a new version.
	write(t, w, create(8, "3", "d"))
	commit(t, w, `3`, true)
	expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","b"],"{\"id\":2}":["c","e"],"{\"id\":3}":["d","d"]}`)
}

// A delete and its tombstone that a poll repeats are told by the row too; another delete after a create is written whole.
func TestPolledDeletesAreToldByRow(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	o.Polls = true
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	gone := func(n int, id, v string) *sources.Change {
		c := create(n, id, v)
		c.Op, c.Before, c.After = sources.OpDelete, c.After, nil
		return c
	}
	write(t, w, gone(2, "1", "a"), gone(3, "2", "b"), create(4, "2", "c"))
	if err := w.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = open(t, o)
	write(t, w, gone(5, "1", "a"), gone(6, "2", "d"))
	commit(t, w, `2`, true)
	var tombstones, deletes int
	for _, r := range records(t, l, o.Topics.Prefix+".public.items") {
		switch {
		case strings.HasSuffix(r.at, ".1"):
			tombstones++
		case strings.HasSuffix(r.at, ".0"):
			deletes++
		}
	}
	if deletes != 3 || tombstones != 3 {
		t.Errorf("the topic holds %d deletes and %d tombstones, want 3 of each", deletes, tombstones)
	}
}

func TestSecondWriterFencesTheFirst(t *testing.T) {
	l := kafkaLog(t)
	o := options(l)
	first := open(t, o)
	write(t, first, create(1, "1", "a"))
	commit(t, first, `1`, true)
	write(t, first, create(2, "1", "stale"))

	second := open(t, o)
	write(t, second, create(2, "1", "b"))
	commit(t, second, `2`, true)

	err := first.Commit(within(t, 30*time.Second), sources.Position(`2`), true)
	if !errors.Is(err, ErrFenced) {
		t.Errorf("the fenced writer's commit gave %v", err)
	}
	expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","b"]}`)
}

// The outcome of a commit is unknown when the answer is lost; the next writer finds it out, and either is right.
func TestCommitWithoutAnswer(t *testing.T) {
	for _, arrived := range []bool{true, false} {
		t.Run(fmt.Sprintf("arrived=%v", arrived), func(t *testing.T) {
			l, fake := fakeLog(t)
			o := options(l)
			w := open(t, o)
			write(t, w, create(1, "1", "a"))
			commit(t, w, `1`, true)
			write(t, w, create(2, "1", "b"))
			if arrived {
				// It was committed, and nobody heard of it.
				cp := w.Checkpoint()
				cp.Position = sources.Position(`2`)
				if err := w.delivery.commit(t.Context(), cp, true); err != nil {
					t.Fatal(err)
				}
			} else {
				fake.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
					return unknownOutcome(req), nil, true
				})
				if err := w.Commit(within(t, 30*time.Second), sources.Position(`2`), true); err == nil {
					t.Fatal("a commit whose outcome is unknown reports success")
				}
			}
			w.Close()

			w = open(t, o)
			if at := string(w.Checkpoint().Position); at == `1` {
				write(t, w, create(2, "1", "b")) // the source sends it again
			} else if at != `2` || !arrived {
				t.Fatalf("resumes at %s", at)
			}
			write(t, w, create(3, "1", "c"))
			commit(t, w, `3`, true)
			expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a","b","c"]}`)
		})
	}
}

func unknownOutcome(req kmsg.Request) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.EndTxnResponse)
	resp.ErrorCode = kerr.UnknownServerError.Code
	return resp
}

// Another capture's transaction that stays open holds the last stable offset of the checkpoint topic back.
func TestOpenTransactionOfAnotherCapture(t *testing.T) {
	l := kafkaLog(t)
	o := options(l)
	other := open(t, options(l))
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	write(t, other, create(1, "1", "x"))
	if err := other.writeCheckpoint(t.Context(), checkpoint.Checkpoint{Capture: other.o.Capture, Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, w, create(2, "1", "b"))
	commit(t, w, `2`, true)
	w.Close()

	opened := make(chan *Writer, 1)
	failed := make(chan error, 1)
	go func() {
		w, err := Open(t.Context(), o)
		if err != nil {
			failed <- err
			return
		}
		opened <- w
	}()
	select {
	case w := <-opened:
		w.Close()
		t.Fatalf("opened at %s without waiting for the open transaction below it", w.Checkpoint().Position)
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(2 * time.Second):
	}
	other.Close() // aborts
	select {
	case w := <-opened:
		defer w.Close()
		expect(t, string(w.Checkpoint().Position), `2`)
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("the open transaction has ended, but the capture does not open")
	}
}

func TestNextEpoch(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		write(t, w, create(9, "1", "a"))
		commit(t, w, `9`, true)
		err := w.NextEpoch(t.Context(), &sources.GapError{Reason: "the slot was dropped", Resume: sources.Position(`{"new":true}`)})
		if err != nil {
			t.Fatal(err)
		}
		write(t, w, create(1, "1", "b")) // the order begins again
		commit(t, w, `1`, true)
		got := records(t, l, o.Topics.Prefix+".public.items")
		expect(t, got[0].at+" "+got[1].at, "00000001.00000009.2 00000002.00000001.2")
		gaps := records(t, l, o.Topics.Prefix+".__gaps")
		if len(gaps) != 1 || gaps[0].key != o.Capture {
			t.Errorf("gap records %+v", gaps)
		}
		w.Close()
		w = open(t, o)
		cp := w.Checkpoint()
		if cp.Epoch != 2 || cp.Gap == nil || cp.Gap.Reason != "the slot was dropped" || string(cp.Gap.From) != `9` {
			t.Errorf("checkpoint %+v, gap %+v", cp, cp.Gap)
		}
	})
}

func TestTruncateGoesToEveryPartition(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		write(t, w, &sources.Change{Op: sources.OpTruncate, Table: items, Order: []byte("00000001")})
		commit(t, w, `1`, true)
		got := records(t, l, o.Topics.Prefix+".public.items")
		if len(got) != 3 || got[0].partition == got[1].partition || got[1].partition == got[2].partition || got[0].key != "" {
			t.Errorf("truncate of 3 partitions gave %+v", got)
		}
	})
}

// Partitions as Java's DefaultPartitioner chooses them: toPositive(murmur2(key)) % partitions. The hashes are those of
// Kafka's own UtilsTest.testMurmur2.
func TestPartitionEqualsJava(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		p := kgo.StickyKeyPartitioner(nil).ForTopic("t")
		for _, n := range []int{3, 6, 100} {
			want := int(hash&0x7fffffff) % n
			if got := p.Partition(&kgo.Record{Key: []byte(key)}, n); got != want {
				t.Errorf("key %q of %d partitions: %d, Java says %d", key, n, got, want)
			}
		}
	}
}

func TestRecordAboveTheLogsLimit(t *testing.T) {
	l, _ := fakeLog(t)
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	err := w.Write(t.Context(), create(2, "7", strings.Repeat("x", 2<<20)))
	fatal(t, err, "public.items", `{"id":7}`, "log.max_record")
	w.Close()
	expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{}`) // nothing half-done
}

func TestTopicsWithOtherSettings(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		adm := admin(t, l)
		for name, c := range map[string]struct {
			partitions int32
			settings   map[string]*string
			want       string
		}{
			"partitions":  {2, map[string]*string{"cleanup.policy": kadm.StringPtr("delete"), "max.message.bytes": kadm.StringPtr("20000000")}, "has 2 partitions"},
			"cleanup":     {3, map[string]*string{"cleanup.policy": kadm.StringPtr("compact"), "max.message.bytes": kadm.StringPtr("20000000")}, "cleanup.policy = compact"},
			"record size": {3, map[string]*string{"max.message.bytes": kadm.StringPtr("1000")}, "max.message.bytes = 1000"},
		} {
			t.Run(name, func(t *testing.T) {
				o := options(l)
				w := open(t, o)
				topic := o.Topics.Prefix + ".public.items"
				if _, err := adm.CreateTopic(t.Context(), c.partitions, 1, c.settings, topic); err != nil {
					t.Fatal(err)
				}
				fatal(t, w.Write(t.Context(), create(1, "1", "a")), topic, c.want)
			})
		}
		t.Run("missing", func(t *testing.T) {
			o := options(l)
			o.Topics.Create = false
			fatal(t, open(t, o).Write(t.Context(), create(1, "1", "a")), "does not exist", "topics.create")
		})
	})
}

func TestTwoTablesOneTopic(t *testing.T) {
	l, _ := fakeLog(t)
	w := open(t, options(l))
	a, b := *items, *items
	a.Name, b.Name = "a b", "a$b"
	change := create(1, "1", "x")
	change.Table = &a
	write(t, w, change)
	change.Table = &b
	fatal(t, w.Write(t.Context(), change), "public.a b", "public.a$b", "public.a_b")
}

func TestCheckpointOfAnotherConnector(t *testing.T) {
	l, _ := fakeLog(t)
	o := options(l)
	w := open(t, o)
	commit(t, w, `1`, true)
	w.Close()
	o.Connector = "another"
	_, err := Open(t.Context(), o)
	fatal(t, err, o.Capture, "test source", "another")
}

func TestLogWithoutTransactions(t *testing.T) {
	l, fake := fakeLog(t)
	fake.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		return resp, nil, true
	})
	_, err := Open(within(t, 20*time.Second), options(l))
	fatal(t, err, "supports Kafka transactions")
}

func TestEmbeddedRefusesCompaction(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := options(l)
	o.Topics.Cleanup = "compact"
	_, err := Open(t.Context(), o)
	fatal(t, err, "compaction")
}

// Records that the embedded log lost from beyond the checkpoint are a gap, not silence.
func TestEmbeddedLostItsEnd(t *testing.T) {
	dir := t.TempDir()
	l, end := embeddedLog(t, dir)
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"), create(2, "2", "b"), create(3, "3", "c"))
	commit(t, w, `3`, true)
	w.Close()
	if _, err := admin(t, l).DeleteTopics(t.Context(), o.Topics.Prefix+".public.items"); err != nil {
		t.Fatal(err)
	}
	w = open(t, o)
	if gap := w.Gap(); gap == nil || !strings.Contains(gap.Reason, "public.items") || string(gap.Resume) != `3` {
		t.Fatalf("a deleted topic gave gap %+v", gap)
	}
	if err := w.NextEpoch(t.Context(), w.Gap()); err != nil {
		t.Fatal(err)
	}
	write(t, w, create(4, "1", "d"))
	commit(t, w, `4`, true)
	w.Close()
	end()
	l, _ = embeddedLog(t, dir)
	o.Log = l
	expect(t, string(open(t, o).Checkpoint().Position), `4`)
}
