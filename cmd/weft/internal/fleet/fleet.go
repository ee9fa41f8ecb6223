package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/pipeline"
	"weft/configs"
	"weft/snapshot"
	"weft/sources"
)

// Fleet says which captures a daemon is to run: those of its config file, and its share of those that are registered in the
// log. The daemons of one name share them.
type Fleet struct {
	Name  string
	Store *Store
	// Alone says that no other daemon can be at the log.
	Alone bool
	// File are the captures of the daemon's config file, and FileName is that file, as HOST:PATH.
	File     []configs.Capture
	FileName string
	// Parse reads a registered capture, and Make makes what runs one.
	Parse func(Registration) (*configs.Capture, error)
	Make  func(configs.Capture) *pipeline.Capture
	// Complete, where it is not nil, is called, once or more often, when all that this daemon is to run was made: what is registered
	// was read, and which of it is this daemon's is known.
	Complete func()
	Logger   hclog.Logger

	own   map[string]*pipeline.Capture // the file's
	made  map[string]made              // of what is registered, by name
	asked map[string]asked             // the last request by name

	mu      sync.Mutex // of what follows and changes
	entries map[string]Entry
	group   *group // nil where it is alone, and before it has joined
}

// made is what was made of a registration.
type made struct {
	of      string
	capture *pipeline.Capture
}

// asked is a request that was handed to a capture.
type asked struct {
	capture *pipeline.Capture
	id      string
	cancel  bool
}

// followRetry is the pause after the log could not be followed.
const followRetry = 5 * time.Second

// Run hands over what is wanted, at first and at each change, until ctx ends. Captures of the file do not wait for the log:
// they run with what the file says. Without a file's captures, an error that no retry mends is returned.
func (f *Fleet) Run(ctx context.Context, wanted chan<- pipeline.Wanted) error {
	f.own, f.made, f.asked = map[string]*pipeline.Capture{}, map[string]made{}, map[string]asked{}
	for _, cc := range f.File {
		c := f.Make(cc)
		c.Confirm = f.confirmFile(cc.Name)
		f.own[cc.Name] = c
	}
	f.hand(ctx, wanted, false)
	said := ""
	for {
		began := time.Now()
		err := f.follow(ctx, wanted)
		if ctx.Err() != nil {
			return nil
		}
		var fatal *sources.FatalError
		if errors.As(err, &fatal) && len(f.own) == 0 && len(f.made) == 0 {
			return err
		}
		if err.Error() != said || time.Since(began) > time.Minute { // once for each time that it cannot be followed
			said = err.Error()
			f.Logger.Warn("what is registered in the log cannot be read; captures go on as they are until it can", "error", err)
		}
		f.hand(ctx, wanted, len(f.own) > 0 && len(f.made) == 0)
		select {
		case <-ctx.Done():
		case <-time.After(followRetry):
		}
	}
}

// hand tells what is wanted now.
func (f *Fleet) hand(ctx context.Context, wanted chan<- pipeline.Wanted, settled bool) {
	all := slices.Collect(maps.Values(f.own))
	for _, m := range f.made {
		all = append(all, m.capture)
	}
	select {
	case wanted <- pipeline.Wanted{Captures: all, Settled: settled}:
	case <-ctx.Done():
	}
}

// follow reads what is registered and goes on with what changes. It returns with an error, or when ctx ends.
func (f *Fleet) follow(ctx context.Context, wanted chan<- pipeline.Wanted) error {
	cl, err := f.Store.Log.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := f.Store.Log.MakeTopic(ctx, cl, Topic, f.Store.Replication); err != nil {
		return err
	}
	starts, ends, err := checkpoint.Bounds(ctx, cl, Topic.Name)
	if err != nil {
		return err
	}
	entries := map[string]Entry{}
	for p, end := range ends {
		err := checkpoint.Scan(ctx, cl, Topic.Name, int32(p), starts[p], end, func(r *kgo.Record) error {
			apply(entries, r)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := f.register(ctx, entries); err != nil {
		return err
	}
	f.mu.Lock()
	f.entries, f.group = entries, nil
	f.mu.Unlock()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	update := func() { f.update(ctx, wanted) }
	update()
	shared := make(chan error, 1)
	if f.Alone {
		shared <- nil
	} else if err := f.share(ctx, update, shared, stop); err != nil {
		return err
	}
	err = checkpoint.Follow(ctx, cl, Topic.Name, ends, func(r *kgo.Record) error {
		f.mu.Lock()
		apply(entries, r)
		f.mu.Unlock()
		update()
		return nil
	})
	stop()
	return errors.Join(err, <-shared)
}

// share joins the fleet's group. The goroutine that stays in it ends with ctx, or calls stop with its error in done.
func (f *Fleet) share(ctx context.Context, update func(), done chan<- error, stop func()) error {
	g, err := join(f.Store.Log, f.Name, update)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.group = g
	f.mu.Unlock()
	update() // it may have been told before
	go func() {
		err := g.run(ctx)
		stop()
		g.close()
		done <- err
	}()
	return nil
}

// update makes what is registered and this daemon's, and hands it over. Until the group has told which that is, what runs goes
// on.
func (f *Fleet) update(ctx context.Context, wanted chan<- pipeline.Wanted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil { // the group is being left, and tells it
		return
	}
	var mine map[int32]bool
	if f.group != nil {
		mine = f.group.partitions()
	}
	registered := 0
	for name, e := range f.entries {
		c := f.own[name]
		switch {
		case c != nil || !f.runs(e):
			delete(f.made, name)
		case f.Alone || mine[PartitionOf(name)]:
			c = f.capture(name, e)
			registered++
		case mine != nil:
			delete(f.made, name)
			registered++
		default:
			registered++
		}
		if e.Snapshot != nil && c != nil {
			f.ask(name, c, *e.Snapshot)
		}
	}
	gone := func(name string) bool { _, ok := f.entries[name]; return !ok }
	maps.DeleteFunc(f.made, func(name string, _ made) bool { return gone(name) })
	maps.DeleteFunc(f.asked, func(name string, _ asked) bool { return gone(name) })
	if f.Complete != nil && (f.Alone || mine != nil || registered == 0) {
		f.Complete()
	}
	f.hand(ctx, wanted, len(f.own) > 0 && registered == 0)
}

// ask hands a request to the capture, once to each that runs under the name.
func (f *Fleet) ask(name string, c *pipeline.Capture, s SnapshotRequest) {
	now := asked{c, s.ID, s.Cancel}
	if f.asked[name] == now {
		return
	}
	f.asked[name] = now
	c.Ask(snapshot.Request{ID: s.ID, Tables: s.Tables, Where: s.Where, Keys: s.Keys, Cancel: s.Cancel})
}

// runs tells whether a daemon of this fleet is to run the capture. One that cannot be read may be of any.
func (f *Fleet) runs(e Entry) bool {
	return e.Err != nil || e.File == "" && e.Fleet == f.Name && !e.Removing
}

// register makes the file's captures known in the log, and says what was in the file before and is no more.
func (f *Fleet) register(ctx context.Context, entries map[string]Entry) error {
	named := map[string]bool{}
	for _, cc := range f.File {
		named[cc.Name] = true
		if e, ok := entries[cc.Name]; ok && e.Err == nil && e.File == f.FileName && string(e.Capture) == string(cc.Written) {
			continue
		}
		err := f.Store.Update(ctx, cc.Name, func(stands *Entry) (*Registration, error) {
			r := &Registration{Capture: cc.Written, File: f.FileName}
			if stands == nil || stands.Err != nil && !stands.Newer {
				return r, nil
			}
			if stands.Removing || stands.Newer { // Confirm reports the one, and the other is not this Weft's to change
				return nil, ErrUnchanged
			}
			if stands.File == "" {
				f.Logger.Warn("the capture was registered by a command; now the config file has it, and what stands there holds", "capture", cc.Name)
			}
			r.Snapshot = stands.Snapshot
			return r, nil
		})
		if err != nil {
			return fmt.Errorf("capture %s: %w", cc.Name, err)
		}
	}
	for name, e := range entries {
		if e.File == f.FileName && !named[name] && !e.Removing {
			f.Logger.Warn("the config file had this capture and has it no more: it does not run, and what it made at its source stays there; "+
				"put it back into the file, or remove it for good: weft capture remove "+name, "capture", name)
		}
	}
	return nil
}

// capture is what runs a registered capture: the one that does already, unless the registration has changed.
func (f *Fleet) capture(name string, e Entry) *pipeline.Capture {
	of := string(e.Capture)
	if e.Err != nil {
		of = e.Err.Error()
	}
	if m, ok := f.made[name]; ok && m.of == of {
		return m.capture
	}
	var cc *configs.Capture
	err := e.Err
	if err == nil {
		cc, err = f.Parse(e.Registration)
	}
	var c *pipeline.Capture
	if err != nil {
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) {
			err = sources.Fatal(fmt.Sprintf("set what it lacks where weft run starts, and start that again; or register it anew: weft capture remove %s "+
				"--keep-source, and weft capture add", name), "its registration cannot be used here: %w", err)
		}
		c = f.Make(configs.Capture{Name: name})
		c.Preflight = func(context.Context) error { return err }
	} else {
		c = f.Make(*cc)
		c.Confirm = f.confirm(name, of)
	}
	f.made[name] = made{of, c}
	return c
}

// confirm tells whether a registered capture is still to run as it was made.
func (f *Fleet) confirm(name, of string) func(context.Context) error {
	return func(ctx context.Context) error {
		e, err := f.registered(ctx, name)
		switch {
		case err != nil:
			return err
		case e == nil || e.Removing:
			return sources.Fatal("nothing, it was asked for", "the capture is being removed")
		case e.File != "" || string(e.Capture) != of:
			return errors.New("its registration has just changed")
		}
		return nil
	}
}

// confirmFile tells whether a capture of the file may run.
func (f *Fleet) confirmFile(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		e, err := f.registered(ctx, name)
		if errors.Is(err, kerr.UnknownTopicOrPartition) { // which the daemon is about to make
			return nil
		}
		if err == nil && e != nil && e.Removing {
			err = sources.Fatal(fmt.Sprintf("take it out of the config file, run weft capture remove %s again, and then put it back to begin anew", name),
				"the removal of the capture has begun and is not finished")
		}
		return err
	}
}

// registered is what stands for a capture now, nil for nothing. A broker that has yet to learn of the topic is not taken for one
// where nothing stands.
func (f *Fleet) registered(ctx context.Context, name string) (*Entry, error) {
	cl, err := f.Store.Log.Client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return loadOne(ctx, cl, name)
}
