package sink

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// remove is the delete of a row of which the source knows the key alone.
func remove(n int, id string) *sources.Change {
	return &sources.Change{Op: sources.OpDelete, Table: items, Before: []sources.Value{value(id), {State: sources.Unavailable}}, Order: fmt.Appendf(nil, "%08d", n)}
}

// ops are a topic's records as KEY:OP:BEFORE>AFTER, sorted by key; a tombstone is KEY:-.
func ops(t *testing.T, l *Log, topic string) string {
	t.Helper()
	cl, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	byKey := map[string][]string{}
	err = checkpoint.ScanAll(t.Context(), cl, topic, func(r *kgo.Record) error {
		var key struct{ ID int }
		if err := json.Unmarshal(r.Key, &key); err != nil {
			return err
		}
		text := "-"
		if r.Value != nil {
			var e struct {
				Op            string
				Before, After *struct{ V *string }
			}
			if err := json.Unmarshal(r.Value, &e); err != nil {
				return err
			}
			show := func(row *struct{ V *string }) string {
				if row == nil || row.V == nil {
					return ""
				}
				return *row.V
			}
			text = e.Op + ":" + show(e.Before) + ">" + show(e.After)
		}
		k := fmt.Sprint(key.ID)
		byKey[k] = append(byKey[k], text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(byKey)
	return strings.ReplaceAll(string(text), `\u003e`, ">")
}

func keptOptions(t *testing.T, l *Log) Options {
	o := options(l)
	o.Polls, o.Held = true, filepath.Join(t.TempDir(), "held")
	return o
}

// A row that is found becomes what it is: a create, an update with the row before, or nothing.
func TestKeptRowsTellChanges(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := keptOptions(t, l)
		topic := o.Topics.Prefix + ".public.items"
		w := open(t, o)
		write(t, w, create(1, "1", "a"), create(2, "2", "b"), create(3, "1", "a2"))
		commit(t, w, `1`, true)
		write(t, w, create(4, "1", "a2"), create(5, "2", "b2"), remove(6, "3"))
		commit(t, w, `2`, true)
		write(t, w, remove(7, "2"))
		commit(t, w, `3`, true)
		write(t, w, create(8, "2", "b3"))
		commit(t, w, `4`, true)
		if n := w.Checkpoint().Changes; n != 6 {
			t.Errorf("%d changes are counted, want 6", n)
		}
		want := `{"1":["c:>a","u:a>a2"],"2":["c:>b","u:b>b2","d:b2>","-","c:>b3"]}`
		expect(t, ops(t, l, topic), want)
		w.Close()

		// It is there after a restart, and is made anew from the topic where it was lost.
		for _, lost := range []bool{false, true} {
			if lost {
				if err := os.RemoveAll(o.Held); err != nil {
					t.Fatal(err)
				}
			}
			w = open(t, o)
			write(t, w, create(9, "1", "a2"), create(10, "2", "b3"), remove(11, "3"))
			commit(t, w, `5`, true)
			expect(t, ops(t, l, topic), want)
			w.Close()
		}
	})
}

// A repair is written whatever is known of the row, since the topic was found to hold another.
func TestKeptRowsAreRepaired(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := keptOptions(t, l)
		w := open(t, o)
		write(t, w, create(1, "1", "a"), create(2, "2", "b"))
		commit(t, w, `1`, true)
		same, gone := create(3, "1", "a"), remove(4, "3")
		same.Op, same.Cause, gone.Cause = sources.OpRead, sources.CauseRepair, sources.CauseRepair
		changed := create(5, "2", "b2")
		changed.Op, changed.Cause = sources.OpRead, sources.CauseRepair
		write(t, w, same, gone, changed)
		commit(t, w, `2`, true)
		write(t, w, create(6, "1", "a"), create(7, "2", "b2"), remove(8, "3"))
		commit(t, w, `3`, true)
		expect(t, ops(t, l, o.Topics.Prefix+".public.items"), `{"1":["c:>a","r:>a"],"2":["c:>b","r:>b2"],"3":["d:>","-"]}`)
	})
}

// What was written and not committed is not in the state of the next writer, whether the log has it or not.
func TestKeptRowsAreNotAheadOfTheLog(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := keptOptions(t, l)
		topic := o.Topics.Prefix + ".public.items"
		w := open(t, o)
		write(t, w, create(1, "1", "a"))
		commit(t, w, `1`, true)
		write(t, w, create(2, "1", "b"), create(3, "2", "c"), create(4, "3", "d"))
		if err := w.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		crash(t, w)

		w = open(t, o)
		write(t, w, create(5, "1", "b"), create(6, "2", "c2"), create(7, "3", "d"))
		commit(t, w, `2`, true)
		want := `{"1":["c:>a","u:a>b"],"2":["c:>c2"],"3":["c:>d"]}`
		if _, ok := w.delivery.(*sequenced); ok { // the log had it
			want = `{"1":["c:>a","u:a>b"],"2":["c:>c","u:c>c2"],"3":["c:>d"]}`
		}
		expect(t, ops(t, l, topic), want)
	})
}

// crash ends a writer as the end of its process does: what is pending is lost, and so is what its store has in memory.
func crash(t *testing.T, w *Writer) {
	t.Helper()
	w.cancel()
	w.cl.Close()
	if err := w.kept.store.Abandon(); err != nil {
		t.Fatal(err)
	}
}

// A store from before the log's last commits, as after a crash or a restored backup, is brought up to date.
func TestKeptRowsCatchUp(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := keptOptions(t, l)
	topic := o.Topics.Prefix + ".public.items"
	w := open(t, o)
	write(t, w, create(1, "1", "a"), create(2, "2", "b"))
	commit(t, w, `1`, true)
	w.Close()
	w = open(t, o)
	write(t, w, create(3, "1", "a2"), remove(4, "2"))
	commit(t, w, `2`, true)
	crash(t, w)
	w = open(t, o)
	write(t, w, create(5, "1", "a2"), create(6, "2", "b"))
	commit(t, w, `3`, true)
	expect(t, ops(t, l, topic), `{"1":["c:>a","u:a>a2"],"2":["c:>b","d:b>","-","c:>b"]}`)
}

// A crash may come between a delete and its tombstone where the log has no transactions.
func TestKeptRowsFinishADelete(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("reinserted=%v", again), func(t *testing.T) {
			l, _ := embeddedLog(t, t.TempDir())
			o := keptOptions(t, l)
			topic := o.Topics.Prefix + ".public.items"
			w := open(t, o)
			write(t, w, create(1, "1", "a"))
			commit(t, w, `1`, true)
			w.Close()
			half := open(t, func() Options { o := o; o.Held = ""; return o }())
			gone := create(2, "1", "a")
			gone.Op, gone.Before, gone.After = sources.OpDelete, gone.After, nil
			half.delivery = &withoutTombstones{half.delivery}
			write(t, half, gone)
			if err := half.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			half.cl.Close()

			w = open(t, o)
			want := `{"1":["c:>a","d:a>","-"]}`
			if again {
				want = `{"1":["c:>a","d:a>","c:>a"]}`
				write(t, w, create(3, "1", "a"))
			} else {
				write(t, w, remove(3, "1"))
			}
			commit(t, w, `2`, true)
			expect(t, ops(t, l, topic), want)
		})
	}
}

type withoutTombstones struct{ delivery }

func (d *withoutTombstones) skip(r *kgo.Record, seq []byte) (bool, error) {
	return r.Value == nil, nil
}

func TestHeldKeys(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	w := open(t, keptOptions(t, l))
	for i, id := range []string{"10", "9", "-3", "9007199254740993", "9007199254740992", "2"} {
		write(t, w, create(i, id, "a"))
	}
	commit(t, w, `1`, true)
	write(t, w, create(7, "1", "a"), remove(8, "2"))
	var got []string
	var after []byte
	for {
		keys, next, err := w.Held().HeldKeys(t.Context(), items, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			got = append(got, string(k[0]))
		}
		if after = next; next == nil {
			break
		}
	}
	expect(t, strings.Join(got, " "), "-3 1 9 10 9007199254740992 9007199254740993")
}

// A state that cannot be read is no reason to stop.
func TestKeptRowsUnreadable(t *testing.T) {
	l, _ := embeddedLog(t, t.TempDir())
	o := keptOptions(t, l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	w.Close()
	files, err := filepath.Glob(filepath.Join(o.Held, "MANIFEST-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifest to damage: %v", err)
	}
	for _, f := range files {
		if err := os.WriteFile(f, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w = open(t, o)
	write(t, w, create(2, "1", "b"))
	commit(t, w, `2`, true)
	expect(t, ops(t, l, o.Topics.Prefix+".public.items"), `{"1":["c:>a","u:a>b"]}`)
}
