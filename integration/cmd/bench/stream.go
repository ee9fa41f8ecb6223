package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"syscall"
	"time"

	"weft/integration/services"
)

// streamBench is a backlog of changes on a server of its own, which keeps all of them: what a change costs is measured where the
// server sets the rate.
type streamBench struct {
	*bench
	admin string // address of the daemon's
	// insert puts a row into the table.
	insert func(ctx context.Context, id int) error
}

// streamShare of the changes that are asked for are made: the servers that stand in for the real ones are no faster.
const streamShare = 5

// idleFor is how long the daemon is watched while nothing happens.
const idleFor = 10 * time.Second

// newStreamBench builds the daemon.
func newStreamBench(ctx context.Context, p plan) (s *streamBench, err error) {
	kafka := os.Getenv("WEFT_TEST_KAFKA")
	if kafka == "" {
		return nil, errors.New("no servers in the environment; use make bench-mongodb or bench-spanner, or services run -- bench")
	}
	s = &streamBench{bench: &bench{plan: p, name: fmt.Sprintf("bench_%x", rand.Uint32()), kafka: kafka, changes: p.changes / streamShare / 1000 * 1000}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "weft-bench-"); err != nil {
		return nil, err
	}
	if s.binary, err = build(ctx, s.dir, p.profile != ""); err != nil {
		return nil, err
	}
	port, err := services.FreePort()
	if err != nil {
		return nil, err
	}
	s.admin = fmt.Sprintf("127.0.0.1:%d", port)
	s.settings = fmt.Sprintf("admin: {listen: %q}\n", s.admin)
	return s, nil
}

// measure drains the backlog in turns, and looks at the idle daemon after each drain.
func (s *streamBench) measure(ctx context.Context, source string, bare func(context.Context) (drain, error)) error {
	ofBare, ofWeft, err := inTurns(s.rounds, "change",
		way{"bare", func(int) (drain, error) { return bare(ctx) }},
		way{"weft", func(round int) (drain, error) { return s.drainWeft(ctx, round) }})
	if err != nil {
		return err
	}
	cost, bareCost := ofWeft.median(drain.cpuPerChange), ofBare.median(drain.cpuPerChange)
	fmt.Printf("median: bare %.1f CPU us/change, weft %.1f CPU us/change, RSS at most %d MiB, idle %.2f%% of a core\n",
		bareCost, cost, ofWeft.peakRSS()>>20, 100*ofWeft.median(func(d drain) float64 { return d.idle }))
	fmt.Printf("%s ratio %.2f\n", source, cost/bareCost)
	return nil
}

// begin has each round's capture begin, and stops it: it makes its topics and a first checkpoint.
func (s *streamBench) begin(ctx context.Context) error {
	for round := range s.rounds {
		d, err := s.start(ctx, s.capture(round), "never", "")
		if err != nil {
			return err
		}
		if err := s.ready(ctx, d); err != nil {
			return err
		}
		if err := s.insert(ctx, -1-round); err != nil {
			return err
		}
		if err := s.awaitCheckpoint(ctx, d, func(cp checkpoint) bool { return cp.Changes > 0 }); err != nil {
			return err
		}
		if err := d.stop(); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until the capture runs.
func (s *streamBench) ready(ctx context.Context, d *daemon) error {
	for ; ; time.Sleep(5 * time.Millisecond) {
		if err := errors.Join(ctx.Err(), d.ended()); err != nil {
			return err
		}
		reply, err := http.Get("http://" + s.admin + "/readyz?capture=" + d.capture) // 503 before it runs
		if err != nil {
			continue // it does not listen yet
		}
		if err := reply.Body.Close(); err != nil {
			return err
		}
		if reply.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// ownCPU is the user and system time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // it cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drainWeft drains the backlog from the moment that the capture runs until the checkpoint that covers the last change can be read, and
// tells what share of a core the daemon then takes while nothing happens.
func (s *streamBench) drainWeft(ctx context.Context, round int) (r drain, err error) {
	profile := ""
	if round == s.rounds-1 {
		profile = s.profile
	}
	d, err := s.start(ctx, s.capture(round), "never", profile)
	if err != nil {
		return r, err
	}
	if err := s.ready(ctx, d); err != nil {
		return r, err
	}
	began := time.Now()
	before, err := d.cpu()
	if err != nil {
		return r, err
	}
	want := int64(s.changes + s.rounds - round) // begin has inserted a row for each round
	if err := s.awaitCheckpoint(ctx, d, func(cp checkpoint) bool { return cp.Changes >= want }); err != nil {
		return r, err
	}
	r = drain{changes: s.changes, took: time.Since(began)}
	after, err := d.cpu()
	if err != nil {
		return r, err
	}
	r.cpu = after - before
	if r.peakRSS, err = d.memory("VmHWM"); err != nil {
		return r, err
	}
	if profile != "" {
		if err := d.endProfile(profile); err != nil {
			return r, err
		}
		if after, err = d.cpu(); err != nil { // writing it was no rest
			return r, err
		}
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	rested, err := d.cpu()
	if err != nil {
		return r, err
	}
	r.idle = (rested - after).Seconds() / idleFor.Seconds()
	return r, d.stop()
}
