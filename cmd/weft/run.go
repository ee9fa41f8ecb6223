package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

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
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			return a.run(cmd.Context(), c)
		},
	}
}

func (a *app) run(ctx context.Context, c *configs.Config) error {
	logger := a.logger(c.Logging)
	log, closeLog, err := openLog(ctx, c.Log, false, logger)
	if err != nil {
		return failed(err)
	}
	logger.Info("weft starts", "version", buildVersion(), "log", log.Profile, "brokers", log.Brokers, "captures", len(c.Captures))
	done := make(chan error, 1)
	go func() { done <- runCaptures(ctx, c, log, logger) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		logger.Info("stopping")
		select {
		case err = <-done:
		case <-time.After(stopLimit):
			// Closing the log under its writers would gain nothing: the next start finds out what was committed.
			return failed(fmt.Errorf("not stopped within %s; what was not committed is read again at the next start", stopLimit))
		}
	}
	if err = errors.Join(err, closeLog()); err != nil {
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
	sup := &pipeline.Supervisor{}
	for _, cc := range c.Captures {
		sup.Captures = append(sup.Captures, capture(c, cc, log, logger))
	}
	reports, stopReports := context.WithCancel(context.WithoutCancel(ctx))
	publisher := status.NewPublisher(cl, c.Topics.Replication)
	published := make(chan struct{})
	go func() {
		defer close(published)
		publisher.Run(reports, func(err error) { logger.Warn("status is not published", "error", err) })
	}()
	defer func() {
		stopReports()
		<-published
	}()
	daemon := fmt.Sprintf("%s:%d", hostname(), os.Getpid())
	shown := map[string]pipeline.State{}
	sup.Observe = func(s pipeline.Status) {
		if s.State == pipeline.Running && shown[s.Capture] != s.State {
			logger.Info("capture is running", "capture", s.Capture, "epoch", s.Epoch, "position", string(s.Position))
		}
		shown[s.Capture] = s.State
		publisher.Set(reportOf(s, daemon))
	}
	return sup.Run(ctx)
}

func reportOf(s pipeline.Status, daemon string) status.Report {
	r := status.Report{
		Capture: s.Capture, State: string(s.State), Since: s.Since.UTC(), Position: s.Position, Epoch: s.Epoch,
		Changes: s.Changes, LagBytes: s.Lag.Bytes, Daemon: daemon, Version: buildVersion(),
	}
	if s.Err != nil {
		r.Error = s.Err.Error()
	}
	if s.Lag.CommitTime > 0 {
		t := time.UnixMicro(s.Lag.CommitTime).UTC()
		r.CommitTime = &t
	}
	return r
}
