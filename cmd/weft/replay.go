package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/configs"
	"weft/snapshot/archive"
	"weft/snapshot/replay"
	"weft/sources"
)

// replayFlags are those of weft replay.
type replayFlags struct {
	until, where, to, from string
	keys                   []string
	dryRun, asJSON, live   bool
	partial                bool
}

func replayCommand(a *app) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay CAPTURE TABLE --to TOPIC|FILE.parquet|FILE.ndjson|-",
		Short: "Bring a table back as it was, from its archives and its topic, without asking the database",
		Long: `Writes the rows that a table had at a moment: from the newest archive before it and the changes since.

--until takes a time (2026-11-24T03:00:00Z), the sequence of a record (its header weft-seq), or PARTITION:OFFSET.
A time is the cut before the first transaction that was committed after it, so that no transaction is split.

--where is an expression over the row's columns: status == "paid" and id > 100. Decimals and times are strings in
the records; float(total) makes a number of one.`,
		Args: takes("CAPTURE", "TABLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.to == "" && !f.dryRun {
				return &exitError{exitUsage, errors.New("--to is required: a topic, a file that ends in .parquet or .ndjson, or - for lines of JSON")}
			}
			until, err := replay.ParseUntil(f.until)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			filter, err := replay.NewFilter(f.keys, f.where)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			return a.reading(func(r *reader) error { return a.replay(cmd.Context(), r, args[0], args[1], f, until, filter) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.until, "until", "", "up to when: a time, a sequence, or PARTITION:OFFSET (default: the newest checkpoint)")
	flags.StringArrayVar(&f.keys, "key", nil, `only the row with this key, as JSON: '{"id":17}', or 17; may be repeated`)
	flags.StringVar(&f.where, "where", "", "only rows for which this expression over their columns is true")
	flags.StringVar(&f.to, "to", "", "TOPIC, FILE.parquet, FILE.ndjson, or - for standard output")
	flags.StringVar(&f.from, "from", "", "archive to begin with (default: the newest before the cut)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say how many rows would be written")
	flags.BoolVar(&f.asJSON, "json", false, "one JSON document about the replay")
	flags.BoolVar(&f.partial, "partial", false, "leave out rows that the table had and of which the log tells nothing before --until")
	flags.BoolVar(&f.live, "to-live-topic", false, "allow the table's own topic in --to")
	return cmd
}

// closer is a target that gives up what was not ended.
type closer interface {
	replay.Target
	io.Closer
}

func (a *app) replay(ctx context.Context, r *reader, capture, table string, f replayFlags, until replay.Until, filter *replay.Filter) (err error) {
	cc, err := findCapture(ctx, r.config, r.cl, capture)
	if err != nil {
		return err
	}
	topics, err := topicsOf(ctx, r.cl, cc, []string{table})
	if err != nil {
		var e *exitError
		if errors.As(err, &e) {
			return err
		}
		return failed(err)
	}
	var b *archive.Bucket
	if r.config.Archives.Bucket != "" {
		if b, err = a.bucket(ctx, r.config); err != nil {
			return err
		}
		defer closing(b.Close, &err)
	}
	bar := newBar(a.stderr, table)
	o := replay.Options{
		Client: r.cl, Bucket: b, Capture: cc.Name, Topic: topics[0], Dialect: string(cc.Topics.Dialect),
		Until: until, From: f.from, Filter: filter, Partial: f.partial, Memory: int64(r.config.Archives.Memory), Progress: bar.show,
	}
	var to replay.Target
	if !f.dryRun {
		target, err := a.target(ctx, r, cc, o, table, f)
		if err != nil {
			return err
		}
		defer closing(target.Close, &err)
		to = target
	}
	result, err := replay.Run(ctx, o, to)
	bar.end()
	var missing *archive.MissingError
	if errors.As(err, &missing) {
		return &exitError{exitNotSo, err}
	}
	if err != nil {
		return failed(err)
	}
	return failed(a.printReplay(result, f))
}

func (a *app) printReplay(r *replay.Result, f replayFlags) error {
	w := a.stdout
	if f.to == "-" {
		w = a.stderr
	}
	if f.asJSON && f.to != "-" {
		return a.printJSON(r)
	}
	from := "the start of the topic"
	if r.Archive != "" {
		from = "archive " + r.Archive
	}
	what := "written to " + f.to
	if f.dryRun {
		what = "would be written"
	}
	fmt.Fprintf(w, "%d rows of %s %s, as of sequence %s, from %s and %d records since", r.Rows, r.Topic, what, r.Below, from, r.Changes)
	if r.Resumed > 0 {
		fmt.Fprintf(w, "; %d were there already", r.Resumed)
	}
	fmt.Fprintln(w)
	return nil
}

// target is what --to names.
func (a *app) target(ctx context.Context, r *reader, cc *configs.Capture, o replay.Options, table string, f replayFlags) (closer, error) {
	switch {
	case f.to == "-":
		return replay.ToStdout(a.stdout), nil
	case strings.HasSuffix(f.to, ".parquet"):
		return replay.ToParquet(f.to), nil
	case strings.HasSuffix(f.to, ".ndjson"):
		return replay.ToNDJSON(f.to), nil
	case strings.ContainsAny(f.to, `/\`):
		return nil, &exitError{exitUsage, fmt.Errorf("--to %q is no topic's name; files end in .parquet or .ndjson", f.to)}
	case strings.HasPrefix(f.to, "__"):
		return nil, &exitError{exitUsage, fmt.Errorf("--to %q is a topic of Kafka or Weft itself", f.to)}
	}
	captures, err := knownCaptures(ctx, r.config, r.cl)
	if err != nil {
		return nil, failed(err)
	}
	if liveTopic(captures, f.to) && !(f.live && f.to == o.Topic) {
		return nil, &exitError{exitUsage, fmt.Errorf("--to %q is a topic that a capture writes: its consumers would take the old rows for new ones. Replay to another topic; "+
			"for the table's own topic, if that is what you want, add --to-live-topic", f.to)}
	}
	if err := samePartitions(ctx, r.cl, o.Topic, f.to); err != nil {
		return nil, failed(err)
	}
	writer := writerOptions(r.config, *cc, r.log)
	partitions, err := writer.Topics.Ensure(ctx, r.log, r.cl, f.to)
	if err != nil {
		return nil, failed(err)
	}
	cl, err := r.log.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, failed(err)
	}
	schema, name, ok := strings.Cut(table, ".")
	if !ok {
		schema, name = "", table
	}
	return &topicTarget{cl: cl, Topic: &replay.Topic{
		Client: cl, Name: f.to, Partitions: partitions, Live: f.to == o.Topic, Filter: o.Filter,
		Source: replay.Source{Version: buildVersion(), Connector: cc.Source.Connector(), Name: cc.Topics.Prefix, Schema: schema, Table: name},
	}}, nil
}

// samePartitions refuses to replay to a topic in which keys would have other partitions than in the table's own.
func samePartitions(ctx context.Context, cl *kgo.Client, live, to string) error {
	_, there, err := checkpoint.Bounds(ctx, cl, to)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	if err != nil {
		return err
	}
	_, ends, err := checkpoint.Bounds(ctx, cl, live)
	if err == nil && len(there) != len(ends) {
		return sources.Fatal("replay to a topic that does not exist yet; it is made like the table's own",
			"topic %q has %d partitions, the table's own topic %q has %d", to, len(there), live, len(ends))
	}
	return err
}

// topicTarget owns its client.
type topicTarget struct {
	*replay.Topic
	cl *kgo.Client
}

func (t *topicTarget) Close() error {
	t.cl.Close()
	return nil
}

// liveTopic tells whether some capture writes to a topic of this name.
func liveTopic(captures known, topic string) bool {
	for _, cc := range captures {
		if cc.Capture == nil { // its registration cannot be read
			continue
		}
		table, ok := strings.CutPrefix(topic, cc.Topics.Prefix+".")
		if ok && slices.ContainsFunc(cc.Tables, func(pattern string) bool { return matchesTopic(pattern, table) }) {
			return true
		}
	}
	return false
}
