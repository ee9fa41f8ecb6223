package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// want wants these captures for good.
func want(all ...*Capture) <-chan Wanted {
	c := make(chan Wanted, 1)
	c <- Wanted{Captures: all, Settled: true}
	return c
}

func TestSupervisor(t *testing.T) {
	l := fake(t)
	lame := &script{transactions: []int{4}, batch: 1}
	stumbles := 0
	lame.fail = func(at int) error {
		if at == 2 && stumbles < 2 {
			stumbles++
			return errors.New("the connection is lost")
		}
		return nil
	}
	refused := &script{openErr: sources.Fatal("grant it", "no right to replicate")}
	a, b := capture(lame, l), capture(refused, l)
	b.Name, b.Writer.Capture = "refused", "refused"

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	states := map[string][]State{}
	sup := &Supervisor{}
	sup.Observe = func(s Status) {
		if all := states[s.Capture]; len(all) == 0 || all[len(all)-1] != s.State {
			states[s.Capture] = append(all, s.State)
		}
		if s.State == Failed && !strings.Contains(s.Err.Error(), "grant it") {
			t.Errorf("failed with %v", s.Err)
		}
		if string(s.Position) == "4" {
			cancel()
		}
	}
	err := sup.Run(ctx, want(a, b))
	var failed *CaptureError
	if !errors.As(err, &failed) || failed.Capture != "refused" {
		t.Errorf("Run gave %v", err)
	}
	if got := fmt.Sprint(states["refused"]); got != "[starting failed]" {
		t.Errorf("the capture that needs somebody went %s", got)
	}
	if got := states["c"]; !slices.Contains(got, Retrying) || got[len(got)-1] != Stopped || !slices.Contains(got, Running) {
		t.Errorf("the capture that stumbled went %v", got)
	}
	if n := len(delivered(t, l)); n != 4 {
		t.Errorf("%d of 4 changes arrived beside a capture that failed", n)
	}
}

// When all captures have failed for good there is nothing left to run for.
func TestSupervisorEndsWhenAllFailed(t *testing.T) {
	s := &script{openErr: &sources.GapError{Reason: "lost", Remedy: "look"}}
	sup := &Supervisor{Observe: func(Status) {}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := sup.Run(ctx, want(capture(s, fake(t)))); err == nil || ctx.Err() != nil {
		t.Errorf("Run gave %v", err)
	}
}

// What is no longer wanted stops, having committed what it has written; what is wanted instead begins only then; and the others
// do not notice.
func TestSupervisorFollowsWhatIsWanted(t *testing.T) {
	l := fake(t)
	endless := func() *script { return &script{transactions: []int{3}, batch: 1} }
	first, second, beside := endless(), endless(), endless()
	a, b, c := capture(first, l), capture(second, l), capture(beside, l)
	c.Name, c.Writer.Capture, c.Writer.Topics.Prefix = "beside", "beside", "beside"
	bad := &Capture{Name: "bad", Logger: c.Logger, Preflight: func(context.Context) error { return sources.Fatal("mend it", "bad") }}

	statuses, left := make(chan Status, 100), make(chan string, 10)
	sup := &Supervisor{Observe: func(s Status) { statuses <- s }, Left: func(c *Capture) { left <- c.Name }}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	wanted, done := make(chan Wanted), make(chan error, 1)
	go func() { done <- sup.Run(ctx, wanted) }()
	await := func(what string, so func(Status) bool) {
		t.Helper()
		for {
			select {
			case s := <-statuses:
				if so(s) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("never: %s", what)
			}
		}
	}
	arrived := func(name string) func(Status) bool {
		return func(s Status) bool { return s.Capture == name && string(s.Position) == "3" }
	}
	wanted <- Wanted{Captures: []*Capture{a}}
	await("all of the first", arrived("c"))
	wanted <- Wanted{Captures: []*Capture{a, c}}
	await("all of the one beside it", arrived("beside"))
	wanted <- Wanted{Captures: []*Capture{b, c}}
	await("the first stops", func(s Status) bool { return s.Capture == "c" && s.State == Stopped })
	await("the second runs", func(s Status) bool { return s.Capture == "c" && s.State == Running })
	wanted <- Wanted{Captures: []*Capture{c}}
	if got := <-left; got != "c" {
		t.Errorf("%s has left", got)
	}
	wanted <- Wanted{Captures: []*Capture{bad, c}}
	await("the bad one fails", func(s Status) bool { return s.Capture == "bad" && s.State == Failed })
	wanted <- Wanted{Captures: []*Capture{c}}
	if got := <-left; got != "bad" {
		t.Errorf("%s has left", got)
	}
	wanted <- Wanted{Settled: true} // nothing at all is waited with, too
	if got := <-left; got != "beside" {
		t.Errorf("%s has left", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(second.opened, beside.opened, first.closed, second.closed, beside.closed); got != "[3] [] 1 1 1" {
		t.Errorf("opened and closed: %s", got)
	}
}
