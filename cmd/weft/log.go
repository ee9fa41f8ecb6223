package main

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/pipeline"
	"weft/configs"
	"weft/sink"
	"weft/sink/embedded"
	"weft/sink/envelope"
	"weft/sources"
)

// openLog returns the configured log and what closes it. An embedded log is started here; if another process has it open
// and shared is set, that process's port is used.
func openLog(ctx context.Context, c configs.Log, shared bool, logger hclog.Logger) (*sink.Log, func() error, error) {
	l := &sink.Log{
		Brokers: c.Brokers, Profile: string(c.Profile), ClientID: c.ClientID, Zone: c.Zone,
		Compression: string(c.Compression), MaxRecordBytes: int(c.MaxRecord), CommitBytes: int(c.Commit.Bytes), Logger: logger.Named("log"),
	}
	nothing := func() error { return nil }
	if e := c.Embedded; e != nil {
		l.Profile = "embedded"
		own, err := openEmbedded(e, l)
		var inUse *embedded.ErrInUse
		for began := time.Now(); errors.As(err, &inUse) && time.Since(began) < lockWait && ctx.Err() == nil; {
			if shared && inUse.Addr != "" {
				l.Brokers = []string{inUse.Addr}
				return l, nothing, nil
			}
			time.Sleep(100 * time.Millisecond)
			inUse = nil
			own, err = openEmbedded(e, l)
		}
		if err != nil {
			return nil, nil, err
		}
		l.Brokers = []string{own.Addr}
		return l, own.Close, nil
	}
	var err error
	if c.TLS != nil && c.TLS.Enabled {
		files := sink.TLSFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, ServerName: c.TLS.ServerName}
		if l.TLS, err = files.Config(); err != nil {
			return nil, nil, err
		}
	}
	if s := c.SASL; s != nil {
		auth := sink.SASL{
			Mechanism: string(s.Mechanism), Username: s.Username, Password: string(s.Password), PasswordFile: s.PasswordFile,
			Token: string(s.Token), TokenFile: s.TokenFile,
		}
		if l.SASL, err = auth.Build(); err != nil {
			return nil, nil, err
		}
	}
	return l, nothing, nil
}

// lockWait is how long to wait for another process to leave the embedded log: a command such as status has it open for a
// moment when no daemon runs, and a daemon that stops for seconds.
const lockWait = 5 * time.Second

func openEmbedded(e *configs.Embedded, l *sink.Log) (*embedded.Log, error) {
	return embedded.Open(embedded.Options{
		Dir: e.Dir, Listen: e.Listen, RetentionAge: e.Retention.Age, RetentionBytes: int64(e.Retention.Bytes),
		MaxRecordBytes: max(l.MaxRecordBytes, sink.Profiles["embedded"].MaxRecordBytes),
	})
}

// reader connects to the configured log for commands that only read.
func (a *app) reader(ctx context.Context, c *configs.Config) (*kgo.Client, func() error, error) {
	logger := a.logger(c.Logging)
	log, closeLog, err := openLog(ctx, c.Log, true, logger)
	if err != nil {
		return nil, nil, failed(err)
	}
	cl, err := log.Client()
	if err != nil {
		return nil, nil, failed(errors.Join(err, closeLog()))
	}
	return cl, func() error {
		cl.Close()
		return closeLog()
	}, nil
}

// loadCheckpoints returns every capture's, for people; a log without the topic holds none.
func loadCheckpoints(ctx context.Context, cl *kgo.Client) (map[string]checkpoint.Checkpoint, error) {
	all, err := checkpoint.Load(ctx, cl)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	return all, err
}

// writerOptions is how the capture's writer is opened.
func writerOptions(c *configs.Config, cc configs.Capture, log *sink.Log) sink.Options {
	_, polls := cc.Source.(sources.Poller)
	t := cc.Topics
	return sink.Options{
		Log: log, Dialect: envelope.Dialect(t.Dialect), Capture: cc.Name, Connector: cc.Source.Connector(), Polls: polls, Version: buildVersion(),
		Topics: sink.Topics{
			Prefix: t.Prefix, Partitions: t.Partitions, Replication: c.Topics.Replication, Cleanup: string(t.Cleanup),
			Retention: t.Retention, Settings: t.Settings, Create: c.Topics.Create,
		},
	}
}

// capture is the capture as the pipeline runs it.
func capture(c *configs.Config, cc configs.Capture, log *sink.Log, logger hclog.Logger) *pipeline.Capture {
	return &pipeline.Capture{
		Name: cc.Name, Source: cc.Source, Tables: cc.Tables, Keys: cc.Keys, ContinueAfterGap: cc.OnGap == configs.ContinueOnGap,
		Writer: writerOptions(c, cc, log), BatchBytes: int(cc.Buffer.Batch), ReadAheadBytes: int(cc.Buffer.ReadAhead),
		CommitBytes: int(c.Log.Commit.Bytes), CommitInterval: c.Log.Commit.Interval, Logger: logger.Named(cc.Name),
	}
}
