package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"weft/cmd/weft/internal/admin"
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
		Short: "Run the daemon: capture what the config file lists, until SIGTERM or Ctrl-C",
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

// gcPercent makes the collector run at half of its usual distance. What is live are mostly large buffers without pointers,
// which cost it next to nothing, and the memory in use stays a third lower (a drain: 113 MiB at 100, 93 at 50).
const gcPercent = 50

func (a *app) run(ctx context.Context, c *configs.Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
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
	b := &board{captures: map[string]*pipeline.Capture{}, statuses: map[string]pipeline.Status{}, daemon: fmt.Sprintf("%s:%d", hostname(), os.Getpid())}
	sup := &pipeline.Supervisor{}
	for _, cc := range c.Captures {
		one := capture(c, cc, log, logger)
		b.captures[cc.Name] = one
		sup.Captures = append(sup.Captures, one)
	}
	publisher := status.NewPublisher(cl, c.Topics.Replication, b.reports)
	sup.Observe = func(s pipeline.Status) {
		if b.set(s) {
			if s.State == pipeline.Running {
				logger.Info("capture is running", "capture", s.Capture, "epoch", s.Epoch, "position", string(s.Position))
			}
			publisher.Changed()
		}
	}
	stopAdmin, err := startAdmin(c.Admin, b.figures, logger)
	if err != nil {
		return err
	}
	defer stopAdmin()
	stopArchives, err := startArchives(ctx, c, cl, logger.Named("archives"))
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
	return sup.Run(ctx)
}

// startAdmin begins to answer HTTP where it is enabled. That another daemon on this machine has the default port stops
// nothing; that an address which somebody chose is not to be had does.
func startAdmin(c configs.Admin, captures func() []admin.Capture, logger hclog.Logger) (stop func(), err error) {
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
	captures map[string]*pipeline.Capture
	daemon   string

	mu       sync.Mutex
	statuses map[string]pipeline.Status
}

// set tells whether the capture's state is another than before.
func (b *board) set(s pipeline.Status) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, ok := b.statuses[s.Capture]
	b.statuses[s.Capture] = s
	return !ok || was.State != s.State
}

// figures are of every capture that has begun.
func (b *board) figures() []admin.Capture {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []admin.Capture
	for _, name := range slices.Sorted(maps.Keys(b.statuses)) {
		all = append(all, admin.Capture{Status: b.statuses[name], Figures: b.captures[name].Figures()})
	}
	return all
}

func (b *board) reports() []status.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []status.Report
	for name, s := range b.statuses {
		lag := b.captures[name].Lag()
		r := status.Report{
			Capture: name, State: string(s.State), Since: s.Since.UTC(), Position: s.Position, Epoch: s.Epoch,
			Changes: s.Changes, LagBytes: lag.Bytes, Daemon: b.daemon, Version: buildVersion(),
		}
		if s.Err != nil {
			r.Error = s.Err.Error()
		}
		if lag.CommitTime > 0 {
			t := time.UnixMicro(lag.CommitTime).UTC()
			r.CommitTime = &t
		}
		all = append(all, r)
	}
	return all
}
