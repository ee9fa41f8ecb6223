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
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// Topic of the reports, keyed by capture and daemon, with one partition.
const Topic = "__weft.status"

// Interval between two reports. A report that is older than Fresh comes from a daemon that is gone or cut off.
const (
	Interval = 10 * time.Second
	Fresh    = 25 * time.Second
)

// Report is what a daemon last said of a capture.
type Report struct {
	Capture string    `json:"capture"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Error   string    `json:"error,omitempty"`
	// Unarchived says of what the last attempt to archive failed, and why.
	Unarchived []string `json:"unarchived,omitempty"`
	// Position and the rest are as of the last commit of this daemon.
	Position sources.Position `json:"position,omitempty"`
	Epoch    uint32           `json:"epoch,omitempty"`
	Changes  int64            `json:"changes"`
	// LagBytes of the datastore's own log; -1 where it has no such measure.
	LagBytes int64 `json:"lag_bytes"`
	// CommitTime at the datastore of the newest change delivered, if any.
	CommitTime *time.Time `json:"commit_time,omitempty"`
	// Horizon up to which the source returns changes, for people; empty where that is the datastore's present.
	Horizon string `json:"horizon,omitempty"`
	// Daemon that says so, as HOST:PID, its version, and when.
	Daemon  string    `json:"daemon"`
	Version string    `json:"version"`
	At      time.Time `json:"at"`
}

// Publisher writes a daemon's reports.
type Publisher struct {
	cl          *kgo.Client
	replication int
	collect     func() []Report
	changed     chan struct{}
	made        bool            // the topic exists
	keys        map[string]bool // of the reports that were written
}

// NewPublisher publishes what collect returns, with a client that partitions by hand, as package sink's do. Run makes the
// topic.
func NewPublisher(cl *kgo.Client, replication int, collect func() []Report) *Publisher {
	return &Publisher{cl: cl, replication: replication, collect: collect, changed: make(chan struct{}, 1), keys: map[string]bool{}}
}

// Changed asks for reports before the interval is over. It never blocks.
func (p *Publisher) Changed() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends, and then takes the daemon's reports back. failed is called with the first error of a row; the next try
// is an interval later.
func (p *Publisher) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	wasFailing := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := p.retract(last); err != nil && !wasFailing {
				failed(err)
			}
			return
		case <-tick.C:
		case <-p.changed:
		}
		err := p.publish(ctx)
		if err != nil && !wasFailing && ctx.Err() == nil {
			failed(err)
		}
		wasFailing = err != nil
	}
}

func (p *Publisher) publish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Interval)
	defer cancel()
	if !p.made {
		policy := "compact"
		_, err := kadm.NewClient(p.cl).CreateTopic(ctx, 1, int16(p.replication), map[string]*string{"cleanup.policy": &policy}, Topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create topic %s: %w", Topic, err)
		}
		if err := p.forgetDead(ctx); err != nil {
			return err
		}
		p.made = true
	}
	var records []*kgo.Record
	gone := maps.Clone(p.keys)
	for _, r := range p.collect() {
		delete(gone, r.key())
		r.At = time.Now().UTC()
		value, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode status of capture %q: %w", r.Capture, err)
		}
		p.keys[r.key()] = true
		records = append(records, &kgo.Record{Topic: Topic, Key: []byte(r.key()), Value: value})
	}
	for key := range gone { // of captures that run here no more
		records = append(records, &kgo.Record{Topic: Topic, Key: []byte(key)})
	}
	if err := p.write(ctx, records); err != nil {
		return err
	}
	for key := range gone {
		delete(p.keys, key)
	}
	return nil
}

// forgetDead removes reports of daemons that ended without taking them back.
func (p *Publisher) forgetDead(ctx context.Context) error {
	all, err := load(ctx, p.cl)
	if err != nil {
		return err
	}
	var records []*kgo.Record
	for key, r := range all {
		if time.Since(r.At) > time.Hour {
			records = append(records, &kgo.Record{Topic: Topic, Key: []byte(key)})
		}
	}
	return p.write(ctx, records)
}

func (p *Publisher) retract(ctx context.Context) error {
	var records []*kgo.Record
	for key := range p.keys {
		records = append(records, &kgo.Record{Topic: Topic, Key: []byte(key)})
	}
	return p.write(ctx, records)
}

func (p *Publisher) write(ctx context.Context, records []*kgo.Record) error {
	if err := p.cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	return nil
}

func (r Report) key() string { return r.Capture + "@" + r.Daemon }

// Load returns what is said of each capture, by name: where several daemons speak, the one that runs it, else the one
// that spoke last.
func Load(ctx context.Context, cl *kgo.Client) (map[string]Report, error) {
	all, err := load(ctx, cl)
	if err != nil {
		return nil, err
	}
	best := map[string]Report{}
	for _, r := range all {
		if was, ok := best[r.Capture]; !ok || r.before(was) {
			best[r.Capture] = r
		}
	}
	return best, nil
}

// before tells whether r is to be shown rather than o.
func (r Report) before(o Report) bool {
	live := func(r Report) bool { return r.State == "running" && time.Since(r.At) < Fresh }
	if live(r) != live(o) {
		return live(r)
	}
	return r.At.After(o.At)
}

func load(ctx context.Context, cl *kgo.Client) (map[string]Report, error) {
	found := map[string]Report{}
	err := checkpoint.ScanAll(ctx, cl, Topic, func(r *kgo.Record) error {
		if r.Value == nil {
			delete(found, string(r.Key))
			return nil
		}
		var report Report
		if err := json.Unmarshal(r.Value, &report); err != nil {
			return fmt.Errorf("%s offset %d: %w", Topic, r.Offset, err)
		}
		found[string(r.Key)] = report
		return nil
	})
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, fmt.Errorf("load status: %w", err)
	}
	return found, nil
}
