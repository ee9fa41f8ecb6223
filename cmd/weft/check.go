package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/configs"
	"weft/sink"
	"weft/sources"
)

// checkTime is how long a datastore, or the log, has to answer all that a check asks.
const checkTime = 10 * time.Second

// checkReport is what `weft check` found.
type checkReport struct {
	Problems int               `json:"problems"`
	Warnings int               `json:"warnings"`
	Log      []sources.Finding `json:"log"`
	Captures []captureFindings `json:"captures"`
}

type captureFindings struct {
	Capture   string            `json:"capture"`
	Connector string            `json:"connector"`
	Findings  []sources.Finding `json:"findings"`
}

func checkCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [CAPTURE...]",
		Short: "Tell what the log, the databases and their tables lack, and what mends it; changes nothing",
		Long: `Tell what the log, the databases and their tables lack, with the statement that mends it. Nothing is changed:
no slot, publication, topic or transaction is made.

The exit code is 1 if there is a problem; a server that does not answer is one.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			r, err := check(cmd.Context(), c, a.logger(c.Logging), func(all known) ([]configs.Capture, error) { return all.choose(c, args) })
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(r)
			} else {
				a.printCheck(r)
			}
			if err == nil && r.Problems > 0 {
				return &exitError{exitNotSo, errors.New(r.summary())}
			}
			return failed(err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

// check looks at the log, and then at the captures that choose returns, beside each other.
func check(ctx context.Context, c *configs.Config, logger hclog.Logger, choose func(known) ([]configs.Capture, error)) (*checkReport, error) {
	log, found := openLogToCheck(c.Log, logger)
	if log != nil {
		defer func() { _ = log.close() }() // it was only read
	}
	return checkOpen(ctx, c, log, found, choose)
}

// checkOpen is check with an open log, and what opening it has found. The log is nil where it cannot be asked.
func checkOpen(ctx context.Context, c *configs.Config, log *logHandle, found []sources.Finding,
	choose func(known) ([]configs.Capture, error)) (*checkReport, error) {
	r := &checkReport{Log: found}
	var cl *kgo.Client
	if log != nil {
		cl, r.Log = checkLog(ctx, c, log, r.Log)
	}
	all := ofFile(c)
	if cl != nil {
		defer cl.Close()
		all = r.registrations(ctx, c, cl, all)
	}
	r.Log = append(r.Log, checkArchives(ctx, c)...)
	captures, err := choose(all)
	if err != nil {
		return nil, err
	}
	names := all.names()
	r.Captures = make([]captureFindings, len(captures))
	var wg sync.WaitGroup
	for i, cc := range captures {
		wg.Go(func() {
			var writer *sink.Options
			o := sources.CheckOptions{PositionUnknown: true, Captures: append(names[:len(names):len(names)], cc.Name)}
			var found []sources.Finding
			if cl != nil {
				options := writerOptions(c, cc, log.Log)
				writer = &options
				position, err := positionOf(ctx, cl, cc.Name)
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					found = append(found, sources.Finding{Level: sources.Warning, Subject: "checkpoint", Remedy: "check again in a minute",
						Text: "it could not be read in time, so that it is not compared with the database; a daemon that was killed holds " +
							"the checkpoints back for as long"})
				case err != nil:
					found = append(found, sources.Found("checkpoint", err))
				default:
					o.Position, o.PositionUnknown = position, false
				}
			}
			found = append(found, checkCapture(ctx, cc, o, cl, writer)...)
			found = append(found, checkRetention(ctx, c, &cc, cl)...)
			r.Captures[i] = captureFindings{Capture: cc.Name, Connector: cc.Source.Connector(), Findings: found}
		})
	}
	wg.Wait()
	r.clashes(captures)
	r.count()
	return r, nil
}

// registrationSubject begins what is said of a registration.
const registrationSubject = "registration "

// registrations adds what is wrong with them, and returns all captures that are known.
func (r *checkReport) registrations(ctx context.Context, c *configs.Config, cl *kgo.Client, file known) known {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	all, err := knownCaptures(ctx, c, cl)
	if err != nil {
		r.Log = append(r.Log, sources.Found("registrations", err))
		return file
	}
	if c.Log.Embedded == nil {
		r.Log = append(r.Log, fleet.Check(ctx, cl, c.Fleet)...)
	}
	for _, name := range all.names() {
		k, subject := all[name], registrationSubject+name
		switch {
		case k.OfFile:
		case k.orphan(c):
			r.Log = append(r.Log, sources.Finding{Level: sources.Warning, Subject: subject, Remedy: "weft capture remove " + name + " # or put it back",
				Text: "the config file had this capture and has it no more: it does not run, and what it made at its source is still there"})
		case k.Entry.Removing:
			r.Log = append(r.Log, sources.Finding{Level: sources.Warning, Subject: subject, Remedy: "weft capture remove " + name,
				Text: "its removal has begun and is not finished"})
		case k.Entry.Err != nil || k.Entry.File == "" && k.Entry.Fleet == c.Fleet && k.Err != nil:
			r.Log = append(r.Log, sources.Found(subject, k.Err))
		}
	}
	return all
}

// choose returns the captures with these names, or all that this daemon would run.
func (k known) choose(c *configs.Config, names []string) ([]configs.Capture, error) {
	all := len(names) == 0
	if all {
		names = k.names()
	}
	var chosen []configs.Capture
	for _, name := range names {
		one, ok := k[name]
		switch {
		case !ok:
			return nil, &exitError{exitUsage, fmt.Errorf("there is no capture %q, in the config file or registered", name)}
		case one.Capture != nil && (!all || one.runs(c)):
			chosen = append(chosen, *one.Capture)
		case !all:
			return nil, failed(fmt.Errorf("capture %s: %w", name, one.Err))
		}
	}
	return chosen, nil
}

// openLogToCheck returns nil where there is no log to look into.
func openLogToCheck(c configs.Log, logger hclog.Logger) (*logHandle, []sources.Finding) {
	if c.Embedded != nil {
		if _, err := os.Stat(c.Embedded.Dir); errors.Is(err, fs.ErrNotExist) {
			found := []sources.Finding{{Subject: "embedded", Text: c.Embedded.Dir + " does not exist; weft run makes it"}}
			return nil, append(found, checkListen(c.Embedded.Listen)...)
		}
	}
	l, err := openLogToRead(c, logger)
	if err != nil {
		return nil, []sources.Finding{sources.Found("log", err)}
	}
	if l.own {
		return l, checkListen(c.Embedded.Listen)
	}
	return l, nil
}

// checkListen looks whether a daemon could listen at the address of the embedded log, which none does now.
func checkListen(address string) []sources.Finding {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return []sources.Finding{sources.Found("embedded", sources.Fatal("set log.embedded.listen to an address that is free",
			"weft run could not listen: %w", err))}
	}
	_ = listener.Close() // nobody has connected
	return nil
}

// checkLog adds what is found of the log. The client is nil where it is of no use.
func checkLog(ctx context.Context, c *configs.Config, log *logHandle, found []sources.Finding) (*kgo.Client, []sources.Finding) {
	cl, err := log.Client()
	if err != nil {
		return nil, append(found, sources.Found("log", err))
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	about := sink.Check(ctx, log.Log, cl, c.Topics.Replication, fleet.Topic)
	found = append(found, about...)
	if slices.ContainsFunc(about, func(f sources.Finding) bool { return f.Level == sources.Problem && f.Subject == "brokers" }) {
		cl.Close()
		return nil, found
	}
	return cl, found
}

// positionOf is that of the capture's checkpoint, or nil.
func positionOf(ctx context.Context, cl *kgo.Client, capture string) (sources.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	cp, _, err := checkpoint.LoadOne(ctx, cl, capture)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		err = nil
	}
	return cp.Position, err
}

// checkCapture looks at a capture's datastore, and for its tables at the log. What o says of the position and of other captures is kept; writer
// is nil where the log cannot be asked.
func checkCapture(ctx context.Context, cc configs.Capture, o sources.CheckOptions, cl *kgo.Client, writer *sink.Options) []sources.Finding {
	checker, ok := cc.Source.(sources.Checker)
	if !ok {
		return nil
	}
	o.Capture, o.Tables, o.Keys, o.Snapshot = cc.Name, cc.Tables, cc.Keys, cc.Snapshot == configs.SnapshotInitial
	within, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	found := checker.Check(within, o)
	if writer == nil {
		return found
	}
	var tables []*sources.Table
	for _, f := range found {
		if f.Table != nil {
			tables = append(tables, f.Table)
		}
	}
	within, cancel = context.WithTimeout(ctx, checkTime)
	defer cancel()
	return append(found, sink.CheckCapture(within, *writer, cl, tables)...)
}

// clashes adds the topics that two captures would write to.
func (r *checkReport) clashes(captures []configs.Capture) {
	first := map[string]string{} // topic -> capture
	for i := range r.Captures {
		own := &r.Captures[i]
		for _, f := range own.Findings {
			if f.Table == nil {
				continue
			}
			topic := sink.TopicOf(captures[i].Topics.Prefix, f.Table)
			switch other := first[topic]; other {
			case "":
				first[topic] = own.Capture
			case own.Capture: // is told by the capture's own check
			default:
				own.Findings = append(own.Findings, sources.Finding{
					Level: sources.Problem, Subject: "topic " + topic, Remedy: "leave the table to one capture, or give one of them a topics.prefix of its own",
					Text: fmt.Sprintf("capture %s writes to it too: a key's records would have no order between the two", other),
				})
			}
		}
	}
}

func (r *checkReport) count() {
	all := slices.Clone(r.Log)
	for _, c := range r.Captures {
		all = append(all, c.Findings...)
	}
	for _, f := range all {
		switch f.Level {
		case sources.Problem:
			r.Problems++
		case sources.Warning:
			r.Warnings++
		}
	}
}

func (r *checkReport) summary() string {
	return plural(r.Problems, "problem") + ", " + plural(r.Warnings, "warning")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (a *app) printCheck(r *checkReport) {
	fmt.Fprintln(a.stdout, "log")
	a.printFindings(r.Log)
	for _, c := range r.Captures {
		fmt.Fprintf(a.stdout, "capture %s (%s)\n", c.Capture, c.Connector)
		a.printFindings(c.Findings)
	}
	if r.Problems == 0 {
		fmt.Fprintln(a.stdout, r.summary())
	}
}

// printFindings sets a remedy so that it can be pasted: its statements on lines of their own, the rest as comments.
func (a *app) printFindings(all []sources.Finding) {
	const indent = "           "
	for _, f := range all {
		fmt.Fprintf(a.stdout, "  %-8s %s: %s\n", f.Level, f.Subject, f.Text)
		if f.Remedy == "" {
			continue
		}
		remedy := strings.Replace(strings.Replace(f.Remedy, " -- ", "\n-- ", 1), " # ", "\n# ", 1)
		for line := range strings.SplitSeq(remedy, "\n") {
			fmt.Fprintln(a.stdout, indent+line)
		}
	}
}
