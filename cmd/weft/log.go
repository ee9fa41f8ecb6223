package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// logHandle is an open log and what ends it.
type logHandle struct {
	*sink.Log
	close func() error
	// own says that this process runs the log: no daemon has the embedded log open.
	own bool
}

// openLog opens the configured log for a daemon: an embedded one is started here.
func openLog(ctx context.Context, c configs.Log, logger hclog.Logger) (*logHandle, error) {
	l, err := describeLog(c, logger)
	if err != nil || c.Embedded == nil {
		return l, err
	}
	e, err := awaitEmbedded(c.Embedded, c.Embedded.Listen, l.MaxRecordBytes, func(*embedded.ErrInUse) bool { return ctx.Err() == nil })
	if err != nil {
		return nil, err
	}
	l.Brokers, l.close, l.own = []string{e.Addr}, e.Close, true
	return l, nil
}

// lockWait is how long to wait for another process to leave the embedded log: a command such as status has it open for a
// moment when no daemon runs, and a daemon that stops for seconds.
const lockWait = 5 * time.Second

// openLogToRead opens the log for a command that only reads: an embedded one at the port of the daemon that runs it, or,
// when none does, for itself.
func openLogToRead(c configs.Log, logger hclog.Logger) (*logHandle, error) {
	l, err := describeLog(c, logger)
	if err != nil || c.Embedded == nil {
		return l, err
	}
	if _, err := os.Stat(c.Embedded.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no embedded log in %s; weft run makes it, relative to the directory in which it is started", c.Embedded.Dir)
	}
	// A daemon that has just begun does not listen yet.
	e, err := awaitEmbedded(c.Embedded, "127.0.0.1:0", l.MaxRecordBytes, func(by *embedded.ErrInUse) bool { return by.Addr == "" })
	var inUse *embedded.ErrInUse
	if errors.As(err, &inUse) && inUse.Addr != "" {
		l.Brokers = []string{inUse.Addr}
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	l.Brokers, l.close, l.own = []string{e.Addr}, e.Close, true
	return l, nil
}

// awaitEmbedded opens the embedded log, and waits for the process that has it open as long as wait says, up to lockWait.
func awaitEmbedded(c *configs.Embedded, listen string, maxRecord int, wait func(by *embedded.ErrInUse) bool) (*embedded.Log, error) {
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		e, err := openEmbedded(c, listen, maxRecord)
		var inUse *embedded.ErrInUse
		if !errors.As(err, &inUse) || !wait(inUse) || time.Since(began) > lockWait {
			return e, err
		}
	}
}

func openEmbedded(e *configs.Embedded, listen string, maxRecord int) (*embedded.Log, error) {
	return embedded.Open(embedded.Options{
		Dir: e.Dir, Listen: listen, RetentionAge: e.Retention.Age, RetentionBytes: int64(e.Retention.Bytes),
		MaxRecordBytes: max(maxRecord, sink.Profiles["embedded"].MaxRecordBytes),
	})
}

// describeLog turns configuration into a log, opening nothing.
func describeLog(c configs.Log, logger hclog.Logger) (*logHandle, error) {
	l := &logHandle{close: func() error { return nil }, Log: &sink.Log{
		Brokers: c.Brokers, Profile: string(c.Profile), ClientID: c.ClientID, Zone: c.Zone,
		Compression: string(c.Compression), MaxRecordBytes: int(c.MaxRecord), CommitBytes: int(c.Commit.Bytes), Logger: logger.Named("log"),
	}}
	if c.Embedded != nil {
		l.Profile = "embedded"
		return l, nil
	}
	var err error
	if c.TLS != nil && c.TLS.Enabled {
		files := sink.TLSFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, ServerName: c.TLS.ServerName}
		if l.TLS, err = files.Config(); err != nil {
			return nil, err
		}
	}
	if s := c.SASL; s != nil {
		auth := sink.SASL{
			Mechanism: string(s.Mechanism), Username: s.Username, Password: string(s.Password), PasswordFile: s.PasswordFile,
			Token: string(s.Token), TokenFile: s.TokenFile,
		}
		if l.SASL, err = auth.Build(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// reader is what a command that only reads works with.
type reader struct {
	config *configs.Config
	log    *sink.Log
	cl     *kgo.Client
	// alone says that no daemon runs on the log, as far as can be told: an embedded log that nobody has open.
	alone bool
}

// reading loads the configuration, connects to the log, and runs fn.
func (a *app) reading(fn func(r *reader) error) (err error) {
	c, err := a.config()
	if err != nil {
		return err
	}
	log, err := openLogToRead(c.Log, a.logger(c.Logging))
	if err != nil {
		return failed(err)
	}
	defer closing(log.close, &err)
	cl, err := log.Client()
	if err != nil {
		return failed(err)
	}
	defer cl.Close()
	return fn(&reader{config: c, log: log.Log, cl: cl, alone: log.own})
}

// closing joins the error of closing into a function's own.
func closing(end func() error, err *error) {
	if e := end(); e != nil && *err == nil {
		*err = failed(e)
	}
}

// loadCheckpoints returns every capture's, for people, and beside them which cannot be read; a log without the topic holds
// none.
func loadCheckpoints(ctx context.Context, cl *kgo.Client) (all map[string]checkpoint.Checkpoint, corrupt map[string]error, err error) {
	all, err = checkpoint.Load(ctx, cl)
	var some *checkpoint.CorruptError
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil, nil
	case errors.As(err, &some):
		return all, some.Captures, nil
	}
	return all, nil, err
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

// heldDir is where a capture that polls keeps what the log holds.
func heldDir(c *configs.Config, capture string) string { return filepath.Join(c.State.Dir, capture) }

// capture is the capture as the pipeline runs it.
func capture(c *configs.Config, cc configs.Capture, log *sink.Log, logger hclog.Logger) *pipeline.Capture {
	if cc.Source == nil { // it cannot be used, and fails before anything is opened
		return &pipeline.Capture{Name: cc.Name, Logger: logger.Named(cc.Name)}
	}
	writer := writerOptions(c, cc, log)
	logger = logger.Named(cc.Name)
	if writer.Polls && c.State.Enabled {
		writer.Held = heldDir(c, cc.Name)
	}
	return &pipeline.Capture{
		Preflight: preflight(c, cc, writer, logger.Warn),
		Name:      cc.Name, Source: cc.Source, Tables: cc.Tables, Keys: cc.Keys, ContinueAfterGap: cc.OnGap == configs.ContinueOnGap,
		Writer: writer, BatchBytes: int(cc.Buffer.Batch), ReadAheadBytes: int(cc.Buffer.ReadAhead),
		CommitBytes: int(c.Log.Commit.Bytes), CommitInterval: c.Log.Commit.Interval, Logger: logger,
		Snapshots: pipeline.Snapshots{
			Initial: cc.Snapshot == configs.SnapshotInitial, Parallel: cc.SnapshotOptions.Parallel,
			RowsPerSecond: cc.SnapshotOptions.RowsPerSecond, ChunkBytes: int(cc.SnapshotOptions.Chunk),
		},
	}
}
