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
	sup := &Supervisor{Captures: []*Capture{a, b}}
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
	err := sup.Run(ctx)
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
	sup := &Supervisor{Captures: []*Capture{capture(s, fake(t))}, Observe: func(Status) {}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := sup.Run(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("Run gave %v", err)
	}
}
