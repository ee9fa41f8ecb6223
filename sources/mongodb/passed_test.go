package mongodb

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

func at(t, i uint32) bson.Timestamp { return bson.Timestamp{T: t, I: i} }

func stampOf(t bson.Timestamp) uint64 { return timestamp{T: t.T, I: t.I}.stamp() }

// past waits for a position that is past a view at that time, and returns the changes on the way to it.
func (f *fake) past(src sources.Source, of bson.Timestamp) (changes []string, position sources.Position) {
	f.t.Helper()
	for {
		b := f.next(src)
		for i := range b.Changes {
			changes = append(changes, describe(&b.Changes[i]))
		}
		passed, err := view{stampOf(of), stampOf(of)}.Passed(b.Position)
		if err != nil {
			f.t.Fatal(err)
		}
		if passed {
			return changes, bytes.Clone(b.Position)
		}
	}
}

// notPast sees to it that no position is past that time for a while.
func (f *fake) notPast(src sources.Source, of bson.Timestamp) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*passEvery)
	defer cancel()
	for {
		b, err := src.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			f.t.Fatal(err)
		}
		if passed, err := (view{stampOf(of), stampOf(of)}).Passed(b.Position); err != nil || passed {
			f.t.Fatalf("the position %s is said to be past %v (%v)", b.Position, of, err)
		}
	}
}

// A change shows that the stream is past all earlier times, and not that it is past its own; an answer without events that it
// is past what the answer before it told.
func TestPassed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(step{events: []bson.D{insert("8201", 100, 9, int64(1)), insert("8202", 100, 9, int64(2))}, now: at(100, 12)})
	changes, _ := f.past(src, at(100, 8))
	if len(changes) != 2 {
		t.Fatalf("got %q", changes)
	}
	changes, position := f.past(src, at(100, 12))
	if len(changes) != 0 {
		t.Fatalf("got %q", changes)
	}
	f.notPast(src, at(100, 13))

	// What was passed stays passed over a restart.
	o := f.options()
	o.Position = position
	src = f.open(f.config(), o)
	f.play(step{events: []bson.D{insert("8203", 100, 14, int64(3))}})
	if changes, _ = f.past(src, at(100, 13)); len(changes) != 1 {
		t.Fatalf("got %q", changes)
	}
	// A change from before is none that can still come.
	f.play(step{events: []bson.D{insert("8204", 100, 11, int64(4))}})
	_, err := src.Next(t.Context())
	for err == nil {
		_, err = src.Next(t.Context())
	}
	if !strings.Contains(err.Error(), "went back") {
		t.Fatal(err)
	}
}

// After an election the new server's first answer proves nothing, and it must not be further back than the one before was.
func TestPassedElection(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(step{events: []bson.D{insert("8201", 100, 9, int64(1))}, now: at(100, 12)})
	f.past(src, at(100, 12))
	f.play(step{refuse: &refusal{code: 189, labels: []string{"ResumableChangeStreamError"}}}, step{token: "8202"}, step{token: "8203", now: at(100, 30)})
	f.past(src, at(100, 30))
	if s := f.opened(); len(s) != 2 || s[1].after != at(100, 12) {
		t.Errorf("the stream was opened with %+v", s)
	}
}

// A server that answers without having waited for a change was not at the end: an older one may follow.
func TestPassedEarly(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	src := f.open(f.config(), f.options())
	f.play(step{token: "8201", now: at(100, 20)}, step{token: "8202"}, step{token: "8203"}, step{token: "8204"},
		step{events: []bson.D{insert("8205", 100, 15, int64(1))}})
	f.take(src, 1)
	f.past(src, at(100, 20))
}

// With several shards an answer without events proves nothing.
func TestPassedSharded(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.hello = bson.D{{Key: "msg", Value: "isdbgrid"}}
	c := f.config()
	c.URL = strings.TrimSuffix(c.URL, "?replicaSet=rs0")
	src := f.open(c, f.options())
	f.play(step{token: "8201", now: at(100, 20)})
	f.notPast(src, at(100, 8))
	f.play(step{events: []bson.D{insert("8202", 100, 30, int64(1))}})
	f.past(src, at(100, 29))
}

// Rows are put behind all that came before, and before all that may still come.
func TestAppendOrder(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.found(read{at: at(100, 7)}, read{at: at(100, 6)})
	r := f.reader(f.options())
	for name, c := range map[string]struct {
		p    position
		want string
	}{
		"begun":          {position{StartAt: &timestamp{100, 8}, Passed: timestamp{100, 7}}, "0000006400000007.00000000.00000003"},
		"behind changes": {position{Token: []byte(`{"_data":"8201"}`), ClusterTime: timestamp{100, 9}, Ordinal: 2, Passed: timestamp{100, 8}}, "0000006400000009.00000001.00000003"},
		"idle":           {position{Token: []byte(`{"_data":"8201"}`), ClusterTime: timestamp{100, 9}, Ordinal: 2, Passed: timestamp{100, 12}}, "000000640000000c.00000000.00000003"},
	} {
		c.p.Deployment = "rs0"
		text, err := c.p.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.AppendOrder(nil, text, 2); err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
}

// reader opens one, and closes it with the test. Opening takes the answers to two finds.
func (f *fake) reader(o sources.OpenOptions) sources.Reader {
	f.t.Helper()
	r, err := f.config().OpenReader(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			f.t.Error(err)
		}
	})
	return r
}
