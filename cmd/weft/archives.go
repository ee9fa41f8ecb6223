package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/configs"
	"weft/sink"
	"weft/snapshot/archive"
	"weft/sources"
)

// matchesTopic is sources.MatchTable for a table as its topic's name has it, where other characters are underscores.
func matchesTopic(pattern, table string) bool {
	return sources.MatchTable(pattern, table) || sources.MatchTable(sink.TopicOf("", &sources.Table{Name: pattern})[1:], table)
}

// archiver makes archives of the tables of the captures that this daemon runs. It looks often, and archives a table when its
// newest archive is older than every, or when it has none: so a restart neither forgets nor repeats one.
type archiver struct {
	every    time.Duration
	keep     int
	memory   configs.Bytes
	captures func() []configs.Capture
	cl       *kgo.Client
	bucket   *archive.Bucket
	logger   hclog.Logger
	// due is when a topic's next archive is, as far as is known: until then the bucket is not listed.
	due map[string]time.Time
	// failing are the captures and topics of which the last attempt failed.
	failing map[string]*failing
	// observe is told how each attempt for a capture ended; name says of what.
	observe func(capture, name string, err error)
}

// failing is what is tried again later.
type failing struct {
	said  string // the error that has been logged
	wait  time.Duration
	again time.Time
}

// Between two attempts after a failure the wait doubles from the first to the second.
const (
	firstRetry = lookEvery
	lastRetry  = 10 * time.Minute
)

// attempt runs try unless it has failed lately. An error is logged once, and so is the success that follows.
func (s *archiver) attempt(ctx context.Context, now time.Time, capture, name string, try func() error) {
	f := s.failing[name]
	if f != nil && now.Before(f.again) {
		return
	}
	err := try()
	if ctx.Err() != nil { // it ends with the daemon
		return
	}
	s.observe(capture, name, err)
	switch {
	case err == nil && f != nil:
		delete(s.failing, name)
		s.logger.Info("archives are made again", "of", name)
	case err != nil:
		if f == nil {
			f = &failing{wait: firstRetry / 2}
			s.failing[name] = f
		}
		f.wait = min(2*f.wait, lastRetry)
		f.again = now.Add(f.wait)
		// Attempts that fail alike differ in the name of the archive that was to be.
		if text := archive.Name.ReplaceAllString(err.Error(), ""); text != f.said {
			f.said = text
			s.logger.Error("archives are not made; it is tried again, at last every "+lastRetry.String(), "of", name, "error", err)
		}
	}
}

// startArchives begins what archives.every asks for, for the board's captures; stop ends it and waits.
func startArchives(ctx context.Context, c configs.Archives, on *board, cl *kgo.Client, logger hclog.Logger) (stop func(), err error) {
	if c.Every == 0 {
		return func() {}, nil
	}
	b, err := archive.Open(ctx, string(c.Bucket))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &archiver{
		every: c.Every, keep: c.Keep, memory: c.Memory, captures: on.running, observe: on.archived, cl: cl, bucket: b, logger: logger,
		due: map[string]time.Time{}, failing: map[string]*failing{},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx)
	}()
	return func() {
		cancel()
		<-done
		if err := b.Close(); err != nil {
			logger.Warn("the bucket ended with an error", "error", err)
		}
	}, nil
}

// lookEvery is how often the archiver looks: a first archive comes soon after a table's first rows.
const lookEvery = 5 * time.Second

func (s *archiver) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, cc := range s.captures() {
			s.attempt(ctx, time.Now(), cc.Name, "capture "+cc.Name, func() error { return s.look(ctx, &cc) })
		}
	}
}

func (s *archiver) look(ctx context.Context, cc *configs.Capture) error {
	topics, err := topicsOf(ctx, s.cl, cc, nil)
	var fatal *sources.FatalError
	if errors.As(err, &fatal) { // nothing has been captured yet
		return nil
	}
	if err != nil {
		return err
	}
	for _, topic := range topics {
		if time.Now().Before(s.due[topic]) {
			continue
		}
		s.attempt(ctx, time.Now(), cc.Name, "topic "+topic, func() error { return s.table(ctx, cc, topic) })
	}
	return nil
}

// table archives one if it is due. While a snapshot reads the table, none is made: it would hold a part of the rows.
func (s *archiver) table(ctx context.Context, cc *configs.Capture, topic string) error {
	all, err := s.bucket.List(ctx, topic)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		s.due[topic] = all[0].CreatedAt.Add(s.every)
		if time.Now().Before(s.due[topic]) {
			return nil
		}
	}
	t, err := archive.Look(ctx, s.cl, cc.Name, topic)
	if err != nil {
		var fatal *sources.FatalError
		if errors.As(err, &fatal) { // no checkpoint yet
			return nil
		}
		return err
	}
	if beingRead(t.Checkpoint.Snapshot, cc, topic) {
		return nil
	}
	m, err := archive.Create(ctx, archiveOptions(s.cl, s.bucket, cc, topic, s.memory))
	if err != nil {
		return err
	}
	s.due[topic] = m.CreatedAt.Add(s.every)
	s.logger.Info("archived", "archive", m.ID, "rows", m.Rows, "bytes", m.Bytes())
	removed, err := s.bucket.Prune(ctx, topic, s.keep, time.Now())
	for _, id := range removed {
		s.logger.Info("removed an old archive", "archive", id)
	}
	return err
}

// beingRead tells whether a snapshot has still to read rows of the topic's table, or is not yet as far as to know its tables.
func beingRead(s *checkpoint.Snapshot, cc *configs.Capture, topic string) bool {
	if !s.Running() {
		return false
	}
	return s.Tables == nil || slices.ContainsFunc(s.Tables, func(t checkpoint.TableSnapshot) bool {
		return !t.Done && topicOf(cc, t.Table) == topic
	})
}

// checkArchives tells what archives lack: a bucket that can be used, and topics that keep their records until they are
// archived.
func checkArchives(ctx context.Context, c *configs.Config) []sources.Finding {
	if c.Archives.Bucket == "" {
		return nil
	}
	const subject = "archives"
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	b, err := archive.Open(ctx, string(c.Archives.Bucket))
	if err != nil {
		return []sources.Finding{sources.Found(subject, err)}
	}
	defer func() { _ = b.Close() }() // the check has told
	if err := b.Check(ctx); err != nil {
		return []sources.Finding{sources.Found(subject, err)}
	}
	return []sources.Finding{{Level: sources.OK, Subject: subject, Text: "bucket " + b.String() + " can be listed, written and read"}}
}

// checkRetention compares how often tables are archived with how long their topics keep records.
func checkRetention(ctx context.Context, c *configs.Config, cc *configs.Capture, cl *kgo.Client) []sources.Finding {
	if c.Archives.Every == 0 || cl == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	refuse := func(topic string, retention time.Duration) sources.Finding {
		return sources.Found("archives", sources.Fatal("set archives.every below it, or topics.retention above it",
			"archives.every is %s, and %s keeps records for %s: changes would be removed before they are archived", c.Archives.Every, topic, retention))
	}
	if r := cc.Topics.Retention; r > 0 && r <= c.Archives.Every {
		return []sources.Finding{refuse("topics.retention", r)}
	}
	topics, err := topicsOf(ctx, cl, cc, nil)
	if err != nil || len(topics) == 0 {
		return nil // none is there yet
	}
	described, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return []sources.Finding{sources.Found("archives", fmt.Errorf("read the topics' retention: %w", err))}
	}
	var found []sources.Finding
	for _, rc := range described {
		for _, s := range rc.Configs {
			ms, err := strconv.ParseInt(s.MaybeValue(), 10, 64)
			if retention := time.Duration(ms) * time.Millisecond; s.Key == "retention.ms" && err == nil && ms > 0 && retention <= c.Archives.Every {
				found = append(found, refuse("topic "+rc.Name, retention))
			}
		}
	}
	return found
}
