package pipeline

import (
	"slices"
	"testing"

	"weft/checkpoint"
	"weft/snapshot"
)

// A request is given to each run until the checkpoint says what became of it.
func TestAsked(t *testing.T) {
	var a asked
	gives := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range a.give() {
			got = append(got, r.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("gives %v, want %v", got, want)
		}
	}
	a.add(snapshot.Request{ID: "one"})
	a.add(snapshot.Request{ID: "one"})
	a.attach(nil)
	gives("one")
	gives()
	a.add(snapshot.Request{ID: "two"})
	gives("two")
	a.attach(nil) // that run has failed
	gives("one", "two")
	a.settle(nil)
	a.settle(&checkpoint.Snapshot{Handled: []checkpoint.Handled{{Request: "one"}}})
	a.attach(nil)
	gives("two")
	a.add(snapshot.Request{ID: "two", Cancel: true})
	a.settle(&checkpoint.Snapshot{}) // a commit from before it was given
	gives("two")
	a.settle(&checkpoint.Snapshot{Handled: []checkpoint.Handled{{Request: "two"}}})
	a.attach(nil)
	gives()
	if len(a.requests) > 0 {
		t.Errorf("left are %v", a.requests)
	}
}
