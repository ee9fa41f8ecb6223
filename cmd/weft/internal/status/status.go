// Package status tells what captures are doing, by the log: the daemon publishes reports to a compacted topic, and
// whoever can read the log can read them, from any machine.
//
// A report is not state: nothing is resumed from it. What is delivered is in the checkpoint, package checkpoint.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// Topic of the reports, keyed by capture, with one partition.
const Topic = "__weft.status"

// Interval between two reports of a capture whose state does not change. A report that is older than three of them comes
// from a daemon that is gone.
const Interval = 10 * time.Second

// Report is what a daemon last said of a capture.
type Report struct {
	Capture string    `json:"capture"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Error   string    `json:"error,omitempty"`
	// Position and the rest are as of the last commit of this daemon.
	Position sources.Position `json:"position,omitempty"`
	Epoch    uint32           `json:"epoch,omitempty"`
	Changes  int64            `json:"changes"`
	// LagBytes of the datastore's own log; -1 where it has no such measure.
	LagBytes int64 `json:"lag_bytes"`
	// CommitTime at the datastore of the newest change delivered, if any.
	CommitTime *time.Time `json:"commit_time,omitempty"`
	// Daemon that says so, as HOST:PID, its version, and when.
	Daemon  string    `json:"daemon"`
	Version string    `json:"version"`
	At      time.Time `json:"at"`
}

// Publisher writes reports.
type Publisher struct {
	cl          *kgo.Client
	replication int
	made        bool // the topic exists

	mu      sync.Mutex
	reports map[string]Report
	changed chan struct{}
}

// NewPublisher uses a client that partitions by hand, as package sink's do. Run makes the topic.
func NewPublisher(cl *kgo.Client, replication int) *Publisher {
	return &Publisher{cl: cl, replication: replication, reports: map[string]Report{}, changed: make(chan struct{}, 1)}
}

// Set takes a capture's newest report over. It never blocks; a state that did not change is published at the next interval.
func (p *Publisher) Set(r Report) {
	p.mu.Lock()
	was, ok := p.reports[r.Capture]
	p.reports[r.Capture] = r
	p.mu.Unlock()
	if !ok || was.State != r.State || was.Error != r.Error {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// Run publishes until ctx ends, and then once more. failed is called when a report could not be written; the next try is
// an interval later.
func (p *Publisher) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := p.publish(last); err != nil {
				failed(err)
			}
			return
		case <-tick.C:
		case <-p.changed:
		}
		if err := p.publish(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

func (p *Publisher) publish(ctx context.Context) error {
	if !p.made {
		policy := "compact"
		_, err := kadm.NewClient(p.cl).CreateTopic(ctx, 1, int16(p.replication), map[string]*string{"cleanup.policy": &policy}, Topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", Topic, err)
		}
		p.made = true
	}
	p.mu.Lock()
	reports := maps.Clone(p.reports)
	p.mu.Unlock()
	var records []*kgo.Record
	for name, r := range reports {
		r.At = time.Now().UTC()
		value, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode status of capture %q: %w", name, err)
		}
		records = append(records, &kgo.Record{Topic: Topic, Key: []byte(name), Value: value})
	}
	if err := p.cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	return nil
}

// Load returns the newest report of every capture, by name.
func Load(ctx context.Context, cl *kgo.Client) (map[string]Report, error) {
	found := map[string]Report{}
	err := checkpoint.ScanAll(ctx, cl, Topic, func(r *kgo.Record) error {
		var report Report
		if err := json.Unmarshal(r.Value, &report); err != nil {
			return fmt.Errorf("%s offset %d: %w", Topic, r.Offset, err)
		}
		found[report.Capture] = report
		return nil
	})
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("load status: %w", err)
	}
	return found, nil
}
