package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/configs"
	"weft/sink"
	"weft/snapshot/archive"
	"weft/sources"
)

// matchesTopic is sources.MatchTable for a table as its topic's name has it, where other characters are underscores.
func matchesTopic(pattern, table string) bool {
	return sources.MatchTable(pattern, table) || sources.MatchTable(sink.TopicOf("", &sources.Table{Name: pattern})[1:], table)
}

// archiver makes archives of the captures' tables while the daemon runs. It looks often, and archives a table when its
// newest archive is older than every, or when it has none: so a restart neither forgets nor repeats one.
type archiver struct {
	config *configs.Config
	cl     *kgo.Client
	bucket *archive.Bucket
	logger hclog.Logger
}

// startArchives begins what archives.every asks for; stop ends it and waits.
func startArchives(ctx context.Context, c *configs.Config, cl *kgo.Client, logger hclog.Logger) (stop func(), err error) {
	if c.Archives.Every == 0 {
		return func() {}, nil
	}
	b, err := archive.Open(ctx, string(c.Archives.Bucket))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &archiver{config: c, cl: cl, bucket: b, logger: logger}
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
const lookEvery = 15 * time.Second

func (s *archiver) run(ctx context.Context) {
	tick := time.NewTicker(min(lookEvery, s.config.Archives.Every))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range s.config.Captures {
			cc := &s.config.Captures[i]
			if err := s.look(ctx, cc); err != nil && ctx.Err() == nil {
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
	if len(all) > 0 && time.Since(all[0].CreatedAt) < s.config.Archives.Every {
		return nil
	}
	t, err := archive.Look(ctx, s.cl, cc.Name, topic)
	if err != nil {
		var fatal *sources.FatalError
		if errors.As(err, &fatal) { // no checkpoint yet
			return nil
		}
		return err
	}
	if snap := t.Checkpoint.Snapshot; snap != nil && snap.EndedAt == nil && !snap.Cancelled {
		for _, table := range snap.Tables {
			if topicOf(cc, table.Table) == topic && !table.Done {
				return nil
			}
		}
	}
	m, err := archive.Create(ctx, archiveOptions(s.cl, s.bucket, cc, topic))
	if err != nil {
		return err
	}
	s.logger.Info("archived", "archive", m.ID, "rows", m.Rows, "bytes", m.Bytes())
	removed, err := s.bucket.Prune(ctx, topic, s.config.Archives.Keep, time.Now())
	for _, id := range removed {
		s.logger.Info("removed an old archive", "archive", id)
	}
	return err
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
