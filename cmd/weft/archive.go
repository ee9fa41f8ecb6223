package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/configs"
	"weft/sink"
	"weft/snapshot/archive"
	"weft/sources"
)

func archiveCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "archive", Short: "Images of tables in a bucket: make, list, inspect and remove them"}
	cmd.AddCommand(archiveCreate(a), archiveList(a), archiveInspect(a), archivePrune(a))
	return cmd
}

// bucket opens the configured one.
func (a *app) bucket(ctx context.Context, c *configs.Config) (*archive.Bucket, error) {
	if c.Archives.Bucket == "" {
		return nil, &exitError{exitUsage, errors.New(`the config file has no bucket for archives; write archives: {bucket: "file:///var/lib/weft/archives"}`)}
	}
	b, err := archive.Open(ctx, string(c.Archives.Bucket))
	return b, failed(err)
}

// atLeast is the check of a command that takes these names and any number of tables.
func atLeast(n int, usage string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return &exitError{exitUsage, fmt.Errorf("%d arguments given; usage: %s %s", len(args), cmd.CommandPath(), usage)}
	}
}

// topicsOf are the topics of a capture: of these tables, or of all that the capture's patterns name.
func topicsOf(ctx context.Context, cl *kgo.Client, cc *configs.Capture, tables []string) ([]string, error) {
	listed, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	var all []string
	if len(tables) == 0 {
		for _, name := range listed.Names() {
			table, ok := strings.CutPrefix(name, cc.Topics.Prefix+".")
			if ok && slices.ContainsFunc(cc.Tables, func(pattern string) bool { return matchesTopic(pattern, table) }) {
				all = append(all, name)
			}
		}
		if len(all) == 0 {
			return nil, sources.Fatal("let weft run capture changes first", "the log has no topic of a table of capture %q", cc.Name)
		}
		return all, nil
	}
	for _, table := range tables {
		topic := topicOf(cc, table)
		if !slices.ContainsFunc(cc.Tables, func(pattern string) bool { return matchesTopic(pattern, table) }) {
			return nil, &exitError{exitUsage, fmt.Errorf("capture %q has no table %q; its tables are %s", cc.Name, table, strings.Join(cc.Tables, ", "))}
		}
		if !listed.Has(topic) {
			return nil, sources.Fatal("a table's topic is made at its first change", "topic %q of table %q does not exist", topic, table)
		}
		all = append(all, topic)
	}
	return all, nil
}

func topicOf(cc *configs.Capture, table string) string {
	return sink.TopicOf(cc.Topics.Prefix, &sources.Table{Name: table})
}

func archiveOptions(cl *kgo.Client, b *archive.Bucket, cc *configs.Capture, topic string, memory configs.Bytes) archive.Options {
	return archive.Options{
		Client: cl, Bucket: b, Capture: cc.Name, Topic: topic, Dialect: string(cc.Topics.Dialect), Memory: int64(memory), Version: buildVersion(), Now: time.Now,
	}
}

func archiveCreate(a *app) *cobra.Command {
	var asJSON, partial bool
	cmd := &cobra.Command{
		Use:   "create CAPTURE [TABLE...]",
		Short: "Archive tables as the log has them at its newest checkpoint, without asking the database",
		Args:  atLeast(1, "CAPTURE [TABLE...]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.reading(func(r *reader) (err error) {
				cc, err := findCapture(ctx, r.config, r.cl, args[0])
				if err != nil {
					return err
				}
				b, err := a.bucket(ctx, r.config)
				if err != nil {
					return err
				}
				defer closing(b.Close, &err)
				topics, err := topicsOf(ctx, r.cl, cc, args[1:])
				if err != nil {
					return failed(err)
				}
				made := []*archive.Manifest{}
				for _, topic := range topics {
					o := archiveOptions(r.cl, b, cc, topic, r.config.Archives.Memory)
					o.Partial = partial
					bar := newBar(a.stderr, topic)
					o.Progress = bar.show
					m, err := archive.Create(ctx, o)
					bar.end()
					if err != nil {
						return failed(err)
					}
					made = append(made, m)
					if !asJSON {
						fmt.Fprintf(a.stdout, "%s: %d rows, %s\n", m.ID, m.Rows, size(m.Bytes()))
					}
				}
				if asJSON {
					return failed(a.printJSON(made))
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	cmd.Flags().BoolVar(&partial, "partial", false, "archive what there is although the log no longer has the table's first changes")
	return cmd
}

// withBucket runs fn for a command that needs the log only to find a capture that is not in the config file.
func (a *app) withBucket(cmd *cobra.Command, capture string, fn func(b *archive.Bucket, cc *configs.Capture) error) (err error) {
	c, err := a.config()
	if err != nil {
		return err
	}
	var cc *configs.Capture
	if capture != "" {
		find := func(cl *kgo.Client) error {
			cc, err = findCapture(cmd.Context(), c, cl, capture)
			return err
		}
		if ofFile(c)[capture].OfFile {
			err = find(nil)
		} else {
			err = a.reading(func(r *reader) error { return find(r.cl) })
		}
		if err != nil {
			return err
		}
	}
	b, err := a.bucket(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer closing(b.Close, &err)
	return fn(b, cc)
}

// archivesOf lists a capture's archives: of these tables, or of all.
func archivesOf(ctx context.Context, b *archive.Bucket, cc *configs.Capture, tables []string) ([]*archive.Manifest, error) {
	var topics []string
	for _, table := range tables {
		topics = append(topics, topicOf(cc, table))
	}
	if len(tables) == 0 {
		var err error
		if topics, err = b.Topics(ctx); err != nil {
			return nil, err
		}
	}
	all := []*archive.Manifest{}
	for _, topic := range topics {
		found, err := b.List(ctx, topic)
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			if m.Capture == cc.Name {
				all = append(all, m)
			}
		}
	}
	return all, nil
}

func archiveList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list CAPTURE [TABLE...]",
		Short: "List a capture's archives, newest first",
		Args:  atLeast(1, "CAPTURE [TABLE...]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBucket(cmd, args[0], func(b *archive.Bucket, cc *configs.Capture) error {
				all, err := archivesOf(cmd.Context(), b, cc, args[1:])
				if err != nil {
					return failed(err)
				}
				if asJSON {
					return failed(a.printJSON(all))
				}
				w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "ARCHIVE\tTABLE\tROWS\tSIZE\tNEWEST CHANGE")
				for _, m := range all {
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", m.ID, m.Table, m.Rows, size(m.Bytes()), m.NewestChange.Format(time.RFC3339))
				}
				return failed(w.Flush())
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

func archiveInspect(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect ARCHIVE",
		Short: "Print an archive's manifest, and compare every part with its checksum",
		Args:  takes("ARCHIVE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBucket(cmd, "", func(b *archive.Bucket, _ *configs.Capture) error {
				m, err := b.Manifest(cmd.Context(), args[0])
				var missing *archive.MissingError
				if errors.As(err, &missing) {
					return &exitError{exitNotSo, err}
				}
				if err != nil {
					return failed(err)
				}
				if err := b.Verify(cmd.Context(), m, ""); err != nil {
					return failed(err)
				}
				if asJSON {
					return failed(a.printJSON(m))
				}
				w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintf(w, "archive\t%s\ntable\t%s of capture %s\nrows\t%d in %s, %s, checksums agree\n", m.ID, m.Table, m.Capture, m.Rows, plural(len(m.Parts), "part"), size(m.Bytes()))
				fmt.Fprintf(w, "newest change\t%s, seq %s\nposition\t%s\noffsets\t%v\nparent\t%s\n", m.NewestChange.Format(time.RFC3339Nano), m.Seq, m.Position, m.Offsets, m.Parent)
				for _, c := range m.Columns {
					key := ""
					if slices.Contains(m.Key, c) {
						key = ", key"
					}
					fmt.Fprintf(w, "column\t%s: %s%s\n", c.Name, c.Kind, key)
				}
				return failed(w.Flush())
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

func archivePrune(a *app) *cobra.Command {
	var keep int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "prune CAPTURE [TABLE...] --keep N",
		Short: "Remove all but the newest archives of each table, and what unfinished ones have left",
		Args:  atLeast(1, "CAPTURE [TABLE...] --keep N"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keep < 1 {
				return &exitError{exitUsage, errors.New("--keep must be at least 1")}
			}
			return a.withBucket(cmd, args[0], func(b *archive.Bucket, cc *configs.Capture) error {
				all, err := archivesOf(cmd.Context(), b, cc, args[1:])
				if err != nil {
					return failed(err)
				}
				topics := map[string]bool{}
				removed := []string{}
				for _, m := range all {
					if topics[m.Topic] {
						continue
					}
					topics[m.Topic] = true
					gone, err := b.Prune(cmd.Context(), m.Topic, keep, time.Now())
					removed = append(removed, gone...)
					if err != nil {
						return failed(err)
					}
				}
				if asJSON {
					return failed(a.printJSON(removed))
				}
				for _, id := range removed {
					fmt.Fprintln(a.stdout, "removed", id)
				}
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 0, "how many to keep of each table")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

// size for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

// bar shows how far long work has come: one line that changes on a terminal, a line every ten seconds elsewhere.
type bar struct {
	w        io.Writer
	terminal bool
	what     string
	began    time.Time
	shown    time.Time
}

func newBar(w io.Writer, what string) *bar {
	b := &bar{w: w, what: what, began: time.Now(), shown: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		b.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return b
}

func (b *bar) show(doing string, done, all int64) {
	every := 10 * time.Second
	if b.terminal {
		every = 200 * time.Millisecond
	}
	if time.Since(b.shown) < every {
		return
	}
	b.shown = time.Now()
	text := fmt.Sprintf("%s: %s %d rows", b.what, doing, done)
	if all > 0 {
		text = fmt.Sprintf("%s: %s %d of %d rows, %d%%", b.what, doing, done, all, done*100/all)
		if b.terminal {
			n := int(min(30, done*30/all))
			text += " [" + strings.Repeat("#", n) + strings.Repeat(".", 30-n) + "]"
		}
	}
	if b.terminal {
		fmt.Fprintf(b.w, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(b.w, text)
}

func (b *bar) end() {
	if b.terminal {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}
