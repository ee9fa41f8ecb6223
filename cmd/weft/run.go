package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"weft/cmd/weft/internal/admin"
	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/pipeline"
	"weft/cmd/weft/internal/status"
	"weft/configs"
	"weft/sink"
)

// stopLimit is how long a stop may take; what a supervisor's SIGKILL would end anyway is then left to the next start.
const stopLimit = 9 * time.Second

func runCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the daemon: capture what the config file lists and what is registered, until SIGTERM or Ctrl-C",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), c)
		},
	}
}

// gcPercent makes the collector run at a quarter of its usual distance. What is live are mostly large buffers without pointers,
// which cost it next to nothing, and the memory in use stays lower (a drain: 145 MiB at 50, 128 at 25).
const gcPercent = 25

// gcBallast is memory that is never touched, and so takes none. The collector counts it as live, so that it does not run at each
// megabyte of a small heap: a capture of a few thousand changes a second otherwise spends a fifth of its time there.
const gcBallast = 8 << 20

func (a *app) run(ctx context.Context, c *configs.Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		ballast := make([]byte, gcBallast)
		defer runtime.KeepAlive(ballast)
	}
	logger := a.logger(c.Logging)
	log, err := openLog(ctx, c.Log, logger)
	if err != nil {
		return failed(err)
	}
	logger.Info("weft starts", "version", buildVersion(), "log", log.Profile, "brokers", log.Brokers, "captures", len(c.Captures))
	done := make(chan error, 1)
	go func() { done <- runCaptures(ctx, c, log.Log, logger) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		logger.Info("stopping")
		select {
		case err = <-done:
		case <-time.After(stopLimit):
			// Closing the log under its writers would gain nothing: the next start finds out what was committed.
			return failed(fmt.Errorf("not stopped within %s, since log or source do not answer; nothing is lost: what was not committed is read again at the next start", stopLimit))
		}
	}
	if err = errors.Join(err, log.close()); err != nil {
		return failed(err)
	}
	logger.Info("stopped")
	return nil
}

// runCaptures runs the captures and publishes their status until ctx ends or all have failed.
func runCaptures(ctx context.Context, c *configs.Config, log *sink.Log, logger hclog.Logger) error {
	cl, err := log.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	b := newBoard(fmt.Sprintf("%s:%d", hostname(), os.Getpid()))
	publisher := status.NewPublisher(cl, c.Topics.Replication, b.reports)
	sup := &pipeline.Supervisor{
		Observe: func(s pipeline.Status) {
			if b.set(s) {
				if s.State == pipeline.Running {
					logger.Info("capture is running", "capture", s.Capture, "epoch", s.Epoch, "position", string(s.Position))
				}
				publisher.Changed()
			}
		},
		Left: func(c *pipeline.Capture) {
			logger.Info("capture has left", "capture", c.Name)
			b.drop(c)
			publisher.Changed()
		},
	}
	f := &fleet.Fleet{
		Name: c.Fleet, Alone: c.Log.Embedded != nil, Store: store(c, log), File: c.Captures, FileName: fileName(c), Logger: logger,
		Parse: func(r fleet.Registration) (*configs.Capture, error) { return registered(c, r) },
		Make: func(cc configs.Capture) *pipeline.Capture {
			one := capture(c, cc, log, logger)
			b.add(one, cc)
			return one
		},
		Complete: b.complete,
	}
	stopAdmin, err := startAdmin(c.Admin, b.figures, logger)
	if err != nil {
		return err
	}
	defer stopAdmin()
	stopArchives, err := startArchives(ctx, c.Archives, b, cl, logger.Named("archives"))
	if err != nil {
		return err
	}
	defer stopArchives()
	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	published := make(chan struct{})
	go func() {
		defer close(published)
		publisher.Run(publishing, func(err error) { logger.Warn("status is not published", "error", err) })
	}()
	defer func() {
		stopPublishing()
		<-published
	}()
	return runFleet(ctx, f, sup)
}

// runFleet runs what f wants until ctx ends, or either fails.
func runFleet(ctx context.Context, f *fleet.Fleet, sup *pipeline.Supervisor) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wanted, followed := make(chan pipeline.Wanted), make(chan error, 1)
	go func() {
		followed <- f.Run(ctx, wanted)
		stop() // without it nothing will be wanted any more
	}()
	err := sup.Run(ctx, wanted)
	stop()
	return errors.Join(err, <-followed)
}

// startAdmin begins to answer HTTP where it is enabled. That another daemon on this machine has the default port stops
// nothing; that an address which somebody chose is not to be had does.
func startAdmin(c configs.Admin, captures func() ([]admin.Capture, bool), logger hclog.Logger) (stop func(), err error) {
	if !c.Enabled {
		return func() {}, nil
	}
	server, err := admin.Listen(c.Listen, buildVersion(), captures)
	if errors.Is(err, syscall.EADDRINUSE) && c.Listen == configs.DefaultAdminListen {
		logger.Warn("no metrics and no readiness from this daemon", "error", err)
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	logger.Info("metrics and readiness", "address", server.Addr())
	return func() {
		if err := server.Close(); err != nil {
			logger.Warn("metrics and readiness ended with an error", "error", err)
		}
	}, nil
}

// board holds what the captures last said of themselves.
type board struct {
	daemon string

	mu       sync.Mutex
	known    bool // every capture that is to run was added
	captures map[string]*pipeline.Capture
	configs  map[string]configs.Capture
	statuses map[string]pipeline.Status
	// unarchived are, by capture, what the last attempts to archive failed of.
	unarchived map[string]map[string]error
}

func newBoard(daemon string) *board {
	return &board{daemon: daemon, captures: map[string]*pipeline.Capture{}, configs: map[string]configs.Capture{}, statuses: map[string]pipeline.Status{}, unarchived: map[string]map[string]error{}}
}

func (b *board) add(c *pipeline.Capture, cc configs.Capture) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.captures[c.Name], b.configs[c.Name] = c, cc
}

// complete notes that every capture that is to run so far was added.
func (b *board) complete() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = true
}

// drop forgets a capture that runs here no more. Another of its name may have been made already.
func (b *board) drop(c *pipeline.Capture) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.statuses, c.Name)
	if b.captures[c.Name] == c {
		delete(b.captures, c.Name)
		delete(b.configs, c.Name)
		delete(b.unarchived, c.Name)
	}
}

// running are the captures that have begun and not left.
func (b *board) running() []configs.Capture {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []configs.Capture
	for _, name := range slices.Sorted(maps.Keys(b.statuses)) {
		all = append(all, b.configs[name])
	}
	return all
}

// archived notes how an attempt to archive ended.
func (b *board) archived(capture, name string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := b.unarchived[capture]
	switch {
	case err == nil:
		delete(of, name)
	case of == nil:
		b.unarchived[capture] = map[string]error{name: err}
	default:
		of[name] = err
	}
}

// set tells whether the capture's state is another than before.
func (b *board) set(s pipeline.Status) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, ok := b.statuses[s.Capture]
	b.statuses[s.Capture] = s
	return !ok || was.State != s.State
}

// figures are of every capture, also of one that has yet to begin; known says that none is yet to be read from the log.
func (b *board) figures() (all []admin.Capture, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(b.captures)) {
		s, ok := b.statuses[name]
		if !ok {
			s = pipeline.Status{Capture: name, State: pipeline.Starting}
		}
		all = append(all, admin.Capture{Status: s, Figures: b.captures[name].Figures(), Unarchived: len(b.unarchived[name])})
	}
	return all, b.known
}

func (b *board) reports() []status.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []status.Report
	for name, s := range b.statuses {
		lag := b.captures[name].Lag()
		r := status.Report{
			Capture: name, State: string(s.State), Since: s.Since.UTC(), Position: s.Position, Epoch: s.Epoch,
			Changes: s.Changes, LagBytes: lag.Bytes, Horizon: b.captures[name].Horizon(), Daemon: b.daemon, Version: buildVersion(),
		}
		if s.Err != nil {
			r.Error = s.Err.Error()
		}
		for _, what := range slices.Sorted(maps.Keys(b.unarchived[name])) {
			r.Unarchived = append(r.Unarchived, what+": "+b.unarchived[name][what].Error())
		}
		if lag.CommitTime > 0 {
			t := time.UnixMicro(lag.CommitTime).UTC()
			r.CommitTime = &t
		}
		all = append(all, r)
	}
	return all
}
