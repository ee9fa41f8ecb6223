package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/pipeline"
	"weft/cmd/weft/internal/status"
	"weft/cmd/weft/internal/verify"
	"weft/sources"
)

// repairer has the daemon that runs a capture write rows anew: the capture's place in the log is the daemon's alone.
type repairer struct {
	app     *app
	store   *fleet.Store
	cl      *kgo.Client
	capture string
	timeout time.Duration
	// show prints what was found, before anybody is asked; yes asks nobody.
	show func(*verify.Result) error
	yes  bool

	shown *verify.Result // that show was called for
	last  string         // request
}

// newRepairer refuses a capture that no daemon runs.
func (a *app) newRepairer(ctx context.Context, r *reader, capture string, f verifyFlags, show func(*verify.Result) error) (*repairer, error) {
	p := &repairer{
		app: a, store: store(r.config, r.log), cl: r.cl, capture: capture, timeout: f.timeout, show: show, yes: f.yes,
	}
	reports, err := status.Load(ctx, r.cl)
	if err != nil {
		return nil, failed(err)
	}
	said, ok := reports[capture]
	switch {
	case r.alone || !ok || time.Since(said.At) >= status.Fresh:
		return nil, failed(sources.Fatal("start it with weft run", "no daemon runs capture %s, and only who runs it writes to its topics", capture))
	case said.State == string(pipeline.Failed):
		return nil, failed(fmt.Errorf("capture %s has failed, and repairs nothing: %s", capture, said.Error))
	}
	return p, nil
}

const nothingWritten = "nothing is written"

// Wanted asks, unless nobody is to be asked.
func (p *repairer) Wanted(r *verify.Result, keys int64) (bool, error) {
	p.shown = r
	if err := p.show(r); err != nil || p.yes {
		return true, err
	}
	question := fmt.Sprintf("Have capture %s write %d keys of %s anew, as they are at the database? [y/N] ", p.capture, keys, r.Table)
	return true, p.app.confirm(question, nothingWritten)
}

// Repair asks the daemon for it, and waits until it is done.
func (p *repairer) Repair(ctx context.Context, table string, keys [][][]byte) error {
	_, ends, err := checkpoint.Bounds(ctx, p.cl, checkpoint.Topic)
	if err != nil {
		return fmt.Errorf("look for checkpoints: %w", err)
	}
	id := rand.Text()
	err = p.store.Update(ctx, p.capture, func(now *fleet.Entry) (*fleet.Registration, error) {
		if now == nil || now.Err != nil || now.Removing {
			return nil, fmt.Errorf("capture %s is being removed", p.capture)
		}
		cp, _, err := checkpoint.LoadOne(ctx, p.cl, p.capture)
		if err != nil {
			return nil, err
		}
		if err := (knownCapture{Entry: now}).busy(p.capture, cp.Snapshot); err != nil {
			return nil, err
		}
		reg := now.Registration
		reg.Snapshot = &fleet.SnapshotRequest{ID: id, Tables: []string{table}, Keys: map[string][][][]byte{table: keys}, At: time.Now().UTC()}
		return &reg, nil
	})
	if err != nil {
		return fmt.Errorf("ask for a repair: %w", err)
	}
	p.last = id
	done, err := p.await(ctx, ends, id)
	switch {
	case err != nil:
		return fmt.Errorf("wait for repair %s: %w", id, err)
	case done.Error != "":
		return fmt.Errorf("repair %s: %s", id, done.Error)
	case done.Cancelled:
		return fmt.Errorf("repair %s was cancelled", id)
	}
	return nil
}

// await waits for a checkpoint, behind these offsets, in which the request is done with.
func (p *repairer) await(ctx context.Context, offsets []int64, id string) (done *checkpoint.Handled, err error) {
	waiting, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	err = checkpoint.Follow(waiting, p.cl, checkpoint.Topic, offsets, func(r *kgo.Record) error {
		if string(r.Key) != p.capture || r.Value == nil {
			return nil
		}
		cp, err := checkpoint.Decode(r.Value)
		if err != nil || cp.Snapshot == nil {
			return err
		}
		if done = handled(cp.Snapshot, id); done != nil {
			cancel()
		}
		return nil
	})
	switch {
	case err != nil || done != nil:
		return done, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, sources.Fatal(fmt.Sprintf("look at weft status; --timeout waits longer, weft snapshot cancel %s takes the request back", p.capture),
		"capture %s has not done it after %s", p.capture, p.timeout)
}

// forget takes the last request out of the registration, which its keys make large.
func (p *repairer) forget(ctx context.Context) error {
	if p.last == "" {
		return nil
	}
	return p.store.Update(ctx, p.capture, func(now *fleet.Entry) (*fleet.Registration, error) {
		if now == nil || now.Err != nil || now.Snapshot == nil || now.Snapshot.ID != p.last || now.Snapshot.Cancel {
			return nil, fleet.ErrUnchanged
		}
		cp, _, err := checkpoint.LoadOne(ctx, p.cl, p.capture)
		if err != nil {
			return nil, err
		}
		if cp.Snapshot == nil || handled(cp.Snapshot, p.last) == nil { // it is still to be done
			return nil, fleet.ErrUnchanged
		}
		reg := now.Registration
		reg.Snapshot = nil
		return &reg, nil
	})
}
