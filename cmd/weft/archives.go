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
}

// startArchives begins what archives.every asks for; stop ends it and waits. captures are those that run at the time.
func startArchives(ctx context.Context, c configs.Archives, captures func() []configs.Capture, cl *kgo.Client, logger hclog.Logger) (stop func(), err error) {
	if c.Every == 0 {
		return func() {}, nil
	}
	b, err := archive.Open(ctx, string(c.Bucket))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &archiver{every: c.Every, keep: c.Keep, memory: c.Memory, captures: captures, cl: cl, bucket: b, logger: logger, due: map[string]time.Time{}}
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
			if err := s.look(ctx, &cc); err != nil && ctx.Err() == nil {
				s.logger.Error("archives of a capture are not made; the next attempt comes soon", "capture", cc.Name, "error", err)
			}
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
	var failures []error
	for _, topic := range topics {
		if time.Now().Before(s.due[topic]) {
			continue
		}
		if err := s.table(ctx, cc, topic); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
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
