package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"weft/cmd/weft/internal/verify"
	"weft/configs"
	"weft/sink/envelope"
	"weft/sources"
)

// verifyReport is what `weft verify` found.
type verifyReport struct {
	Capture string           `json:"capture"`
	Clean   bool             `json:"clean"`
	Tables  []*verify.Result `json:"tables"`
}

// verifyFlags are the command's.
type verifyFlags struct {
	json    bool
	rate    int
	keys    int
	timeout time.Duration
	memory  string
	dir     string
	repair  bool
	yes     bool
}

func verifyCommand(a *app) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:   "verify CAPTURE [TABLE...]",
		Short: "Compare tables at the database with what their topics fold to, while both go on changing",
		Long: `Compare tables at the database with what their topics fold to, and print the keys that are missing in the topic,
those that only the topic has, and those whose values differ. The daemon and the applications go on meanwhile.

Each captured row is read from the database once, and rows that seem to differ again by their keys. The topic is folded
into a temporary directory, which takes about 10 bytes a column and row, and the keys.

The exit code is 1 if a table differs, or if for a row it cannot be told.

With --repair the daemon that runs the capture writes those keys' rows anew, as they are at the database, and deletes of those that
are not there; then they are compared again, and the exit code is 0 if all is the same in the end.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var memory configs.Bytes
			if err := memory.UnmarshalText([]byte(f.memory)); err != nil || memory < 16*configs.MiB || memory > 64*configs.GiB {
				return &exitError{exitUsage, fmt.Errorf("--memory %q: must be a size from 16MiB to 64GiB", f.memory)}
			}
			if f.rate < 0 || f.keys < 0 || f.timeout < 0 {
				return &exitError{exitUsage, errors.New("--rate, --keys and --timeout must not be negative")}
			}
			if f.yes && !f.repair {
				return &exitError{exitUsage, errors.New("--yes goes with --repair")}
			}
			if f.repair && !f.yes && !terminal() {
				return errUnasked(nothingWritten)
			}
			return a.reading(func(r *reader) error {
				return a.verify(cmd.Context(), r, args[0], args[1:], f, int(memory))
			})
		},
	}
	cmd.Flags().BoolVar(&f.json, "json", false, "one JSON document")
	cmd.Flags().IntVar(&f.rate, "rate", 0, "most rows a second that are read from the database (default no bound)")
	cmd.Flags().IntVar(&f.keys, "keys", 1000, "most keys of a table that are printed; all are counted")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long to wait for the capture to come past what was read, and to repair")
	cmd.Flags().StringVar(&f.memory, "memory", "128MiB", "about how much memory to take")
	cmd.Flags().StringVar(&f.dir, "dir", "", "where the temporary directory is made (default the system's)")
	cmd.Flags().BoolVar(&f.repair, "repair", false, "have the keys that differ written anew")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask before a repair")
	return cmd
}

func (a *app) verify(ctx context.Context, r *reader, name string, tables []string, f verifyFlags, memory int) error {
	cc, err := findCapture(ctx, r.config, r.cl, name)
	if err != nil {
		return err
	}
	// The collector works harder before memory is exceeded, instead of letting garbage double it.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(memory)))
	logger := a.logger(r.config.Logging).Named(cc.Name)
	p := newProgress(a.stderr)
	o := verify.Options{
		Client: r.cl, Source: cc.Source, Prefix: cc.Topics.Prefix, Tables: tables,
		Open: sources.OpenOptions{Capture: cc.Name, Tables: cc.Tables, Keys: cc.Keys, BatchBytes: int(cc.Buffer.Batch),
			ReadAheadBytes: int(cc.Buffer.ReadAhead), Logger: logger},
		Envelope: envelope.Options{Dialect: envelope.Dialect(cc.Topics.Dialect), Connector: cc.Source.Connector(), Name: cc.Topics.Prefix, Version: buildVersion()},
		Memory:   memory, Dir: f.dir, Rate: f.rate, Keys: f.keys, Timeout: f.timeout, Progress: p.show, Waiting: p.say,
	}
	if r.alone { // nobody moves the capture on, so that waiting helps nothing
		o.Timeout = 0
	}
	show := func(result *verify.Result) error {
		p.clear()
		if f.json {
			return nil
		}
		return printResult(a.stdout, result)
	}
	var mend *repairer
	if f.repair {
		if mend, err = a.newRepairer(ctx, r, cc.Name, f, show); err != nil {
			return err
		}
		o.Repair = mend
	}
	report := verifyReport{Capture: cc.Name, Clean: true, Tables: []*verify.Result{}}
	err = verify.Run(ctx, o, func(result *verify.Result) error {
		p.clear()
		report.Clean = report.Clean && result.Clean()
		report.Tables = append(report.Tables, result)
		if mend == nil || mend.shown != result {
			if err := show(result); err != nil {
				return err
			}
		}
		if f.json {
			return nil
		}
		return printRepair(a.stdout, cc.Name, result, f.repair)
	})
	p.clear()
	if mend != nil && ctx.Err() == nil {
		err = errors.Join(err, mend.forget(ctx))
	}
	var coded *exitError
	if errors.As(err, &coded) {
		return coded
	}
	if errors.Is(err, verify.ErrUnknownTable) {
		return &exitError{exitUsage, err}
	}
	if err != nil {
		return failed(err)
	}
	if f.json {
		if err := a.printJSON(report); err != nil {
			return failed(err)
		}
	}
	if !report.Clean {
		return &exitError{exitNotSo, fmt.Errorf("capture %s: source and topic are not shown to be the same", cc.Name)}
	}
	return nil
}

// progress shows how far long work has come: a bar on a terminal, a line every ten seconds elsewhere.
type progress struct {
	w        io.Writer
	terminal bool
	every    time.Duration
	last     time.Time
	shown    bool // a bar stands in the terminal's last line
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, every: 10 * time.Second, last: time.Now()}
	if file, ok := w.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		p.terminal, p.every = true, 100*time.Millisecond
	}
	return p
}

// what each phase counts.
var phases = map[string]string{"topic": "records of the topic read", "rows": "rows compared", "keys": "keys looked at again", "repair": "keys repaired"}

func (p *progress) show(s verify.Progress) {
	if time.Since(p.last) < p.every {
		return
	}
	p.last = time.Now()
	text := fmt.Sprintf("%s: %d %s", s.Table, s.Done, phases[s.Phase])
	if s.Total > 0 {
		text = fmt.Sprintf("%s: %d of about %d %s", s.Table, s.Done, max(s.Done, s.Total), phases[s.Phase])
	}
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	const width = 24
	bar := strings.Repeat(" ", width)
	if s.Total > 0 {
		n := int(min(s.Done, s.Total) * width / s.Total)
		bar = strings.Repeat("#", n) + strings.Repeat(" ", width-n)
	}
	fmt.Fprintf(p.w, "\r\x1b[K[%s] %s", bar, text)
	p.shown = true
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func (p *progress) say(text string) {
	p.clear()
	fmt.Fprintln(p.w, text)
}
