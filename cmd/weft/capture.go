package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/status"
	"weft/configs"
	"weft/sources"
)

func captureCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "capture", Short: "Register captures in the log while the daemon runs, list and remove them"}
	cmd.AddCommand(captureAddCommand(a), captureListCommand(a), captureRemoveCommand(a))
	return cmd
}

func captureAddCommand(a *app) *cobra.Command {
	var f captureFlags
	cmd := &cobra.Command{
		Use:   "add NAME (--source TYPE --set FIELD=VALUE... --table TABLE... | --file FILE | --table TABLE...)",
		Short: "Register a capture, or add tables to a registered one; the running daemon follows",
		Long: `Register a capture in the log, or add tables to one that is registered. A running daemon follows without a restart.

First everything is checked that weft check looks at; nothing is registered while there is a problem.

What is registered is kept in the log as it is written. A secret must be a variable, such as --set url='${SHOP_URL}' in
single quotes: this command and the daemon each expand it by their own environment.`,
		Example: `  weft capture add orders --source postgres --set url='${SHOP_URL}' --table public.orders
  weft capture add orders --table public.invoices --key public.invoices=id
  weft capture add orders --file orders.yaml    # the fields of an entry of captures`,
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.addCapture(cmd.Context(), args[0], &f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "file", "", "read the capture from a file: the fields of an entry of captures, YAML or JSON")
	flags.StringVar(&f.source, "source", "", "kind of database, as the field type of source")
	flags.StringArrayVar(&f.set, "set", nil, "FIELD=VALUE of source")
	flags.StringArrayVar(&f.tables, "table", nil, "a table to capture; * and ? match within a part")
	flags.StringArrayVar(&f.keys, "key", nil, "TABLE=COLUMN,COLUMN: key of a table that has no primary key")
	flags.StringVar(&f.snapshot, "snapshot", "", "whether rows from before the capture are read")
	flags.StringVar(&f.onGap, "on-gap", "", "stop, or continue")
	flags.StringVar(&f.prefix, "prefix", "", "first part of its topics' names, instead of the config file's")
	return cmd
}

// captureFlags are the command line of capture add.
type captureFlags struct {
	file, source, snapshot, onGap, prefix string
	set, tables, keys                     []string
}

// extends says that only tables are given.
func (f *captureFlags) extends() bool {
	return f.file == "" && f.source == "" && len(f.set) == 0 && f.snapshot == "" && f.onGap == "" && f.prefix == ""
}

// written is the capture as it is to be registered, and what errors call it. stands is what is registered under the name.
func (f *captureFlags) written(name string, stands *fleet.Entry) (from string, text []byte, err error) {
	if f.file != "" {
		if f.source != "" || len(f.set)+len(f.tables)+len(f.keys) > 0 || f.snapshot != "" || f.onGap != "" || f.prefix != "" {
			return "", nil, errors.New("--file and other flags exclude each other; write all into the file")
		}
		text, err := os.ReadFile(f.file)
		return f.file, text, err
	}
	if f.extends() {
		text, err := f.extended(name, stands)
		return "capture " + name + " with these tables", text, err
	}
	if f.source == "" {
		return "", nil, errors.New("--source is not given; what is registered already can only have tables added")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "source:\n  type: %s\n", quoted(f.source))
	for _, set := range f.set {
		field, value, ok := strings.Cut(set, "=")
		if !ok || field == "" {
			return "", nil, errors.New("--set takes FIELD=VALUE, a field of source and its value")
		}
		fmt.Fprintf(&b, "  %s: %s\n", field, scalar(value))
	}
	b.WriteString("tables:\n")
	for _, table := range f.tables {
		fmt.Fprintf(&b, "  - %s\n", quoted(table))
	}
	if len(f.tables) == 0 {
		return "", nil, errors.New("--table is not given; name the tables to capture, such as --table public.orders")
	}
	keys, err := f.keysByTable()
	if err != nil {
		return "", nil, err
	}
	if len(keys) > 0 {
		text, err := json.Marshal(keys)
		if err != nil {
			return "", nil, err
		}
		fmt.Fprintf(&b, "keys: %s\n", text)
	}
	for _, line := range [][2]string{{"snapshot", f.snapshot}, {"on_gap", f.onGap}} {
		if line[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", line[0], quoted(line[1]))
		}
	}
	if f.prefix != "" {
		fmt.Fprintf(&b, "topics: {prefix: %s}\n", quoted(f.prefix))
	}
	return "command line", []byte(b.String()), nil
}

// quoted is a YAML string; JSON's are such.
func quoted(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return "''" // a string always marshals
	}
	return string(b)
}

// scalar is a value of --set: a number, true and false, and what is in brackets are what YAML takes them for, the rest is text.
func scalar(value string) string {
	if json.Valid([]byte(value)) || strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{") {
		return value
	}
	return quoted(value)
}

func (f *captureFlags) keysByTable() (map[string][]string, error) {
	keys := map[string][]string{}
	for _, key := range f.keys {
		table, columns, ok := strings.Cut(key, "=")
		if !ok || table == "" || columns == "" {
			return nil, errors.New("--key takes TABLE=COLUMN,COLUMN")
		}
		keys[table] = strings.Split(columns, ",")
	}
	return keys, nil
}

// extended is what is registered, with more tables and keys.
func (f *captureFlags) extended(name string, stands *fleet.Entry) ([]byte, error) {
	switch {
	case stands == nil || stands.File != "":
		return nil, fmt.Errorf("there is no registered capture %q to add tables to; for a new one give --source and --set too, or --file", name)
	case stands.Err != nil:
		return nil, stands.Err
	case len(f.tables)+len(f.keys) == 0:
		return nil, errors.New("nothing is given to add; name tables with --table")
	}
	var fields map[string]json.RawMessage
	var tables []string
	keys := map[string][]string{}
	err := json.Unmarshal(stands.Capture, &fields)
	if err == nil {
		err = json.Unmarshal(fields["tables"], &tables)
	}
	if err == nil && fields["keys"] != nil {
		err = json.Unmarshal(fields["keys"], &keys)
	}
	if err != nil {
		return nil, fmt.Errorf("read the registration: %w", err)
	}
	more, err := f.keysByTable()
	if err != nil {
		return nil, err
	}
	for table, columns := range more {
		if was, ok := keys[table]; ok && !slices.Equal(was, columns) {
			return nil, fmt.Errorf("table %s has the key %s; another would put its records elsewhere", table, strings.Join(was, ", "))
		}
		keys[table] = columns
	}
	if fields["tables"], err = json.Marshal(append(tables, f.tables...)); err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		if fields["keys"], err = json.Marshal(keys); err != nil {
			return nil, err
		}
	}
	return json.Marshal(fields)
}

// addCapture registers a capture once the check has found it to work.
func (a *app) addCapture(ctx context.Context, name string, f *captureFlags) (err error) {
	c, err := a.config()
	if err != nil {
		return err
	}
	if err := configs.CheckName(name); err != nil {
		return &exitError{exitUsage, err}
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
	all, err := knownCaptures(ctx, c, cl)
	if err != nil {
		return failed(err)
	}
	reports, err := status.Load(ctx, cl)
	if err != nil {
		return failed(err)
	}
	stands := all[name]
	if err := mayRegister(c, name, stands, f, reports); err != nil {
		return &exitError{exitUsage, err}
	}
	from, text, err := f.written(name, stands.Entry)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	cc, err := c.ParseCapture(from, name, text, os.LookupEnv)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if err := a.checkNew(ctx, c, log, *cc, all); err != nil {
		return err
	}
	extended := false
	err = store(c, log.Log).Update(ctx, name, func(now *fleet.Entry) (*fleet.Registration, error) {
		if !sameEntry(now, stands.Entry) {
			return nil, fmt.Errorf("the registration of capture %s has changed meanwhile; look at it with weft capture list, and try again", name)
		}
		r := &fleet.Registration{Capture: cc.Written, Fleet: c.Fleet}
		if now != nil && now.Err == nil {
			r.Snapshot, extended = now.Snapshot, now.File == ""
		}
		return r, nil
	})
	if err != nil {
		return failed(err)
	}
	what := "registered"
	if extended {
		what = "extended"
	}
	fmt.Fprintf(a.stdout, "capture %s is %s: %s, tables %s, topics %s.*\n", name, what, cc.SourceType, strings.Join(cc.Tables, " "), cc.Topics.Prefix)
	fmt.Fprintln(a.stdout, "a running daemon takes it up at once; weft status shows how it goes")
	return nil
}

// sameEntry tells whether two looks at a registration saw the same.
func sameEntry(a, b *fleet.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return string(a.Capture) == string(b.Capture) && a.File == b.File && a.Removing == b.Removing && (a.Err == nil) == (b.Err == nil)
}

// mayRegister refuses a name that is in use.
func mayRegister(c *configs.Config, name string, stands knownCapture, f *captureFlags, reports map[string]status.Report) error {
	said, reported := reports[name]
	switch e := stands.Entry; {
	case stands.OfFile:
		return fmt.Errorf("capture %s is in the config file %s; change it there and start weft run again", name, c.File)
	case e == nil || e.Err != nil:
		return nil
	case e.Removing:
		return fmt.Errorf("the removal of capture %s has begun and is not finished; finish it first: weft capture remove %[1]s", name)
	case e.File != "" && reported && time.Since(said.At) < status.Fresh:
		return fmt.Errorf("capture %s is in the config file %s, whose daemon %s runs it; change it there", name, e.File, said.Daemon)
	case e.File == "" && e.Fleet != c.Fleet:
		return fmt.Errorf("capture %s is registered for the daemons of fleet %s, the config file %s is of fleet %s", name, e.Fleet, c.File, c.Fleet)
	case e.File == "" && !f.extends():
		return fmt.Errorf("capture %s is registered already; to add tables give only --table, for anything else remove it first: weft capture remove %[1]s", name)
	}
	return nil
}

// checkNew runs the check of weft check for a capture, and looks for topics that others write to.
func (a *app) checkNew(ctx context.Context, c *configs.Config, log *logHandle, cc configs.Capture, all known) error {
	var chosen []configs.Capture
	for _, name := range all.names() {
		if one := all[name]; name != cc.Name && one.Capture != nil && one.Topics.Prefix == cc.Topics.Prefix {
			chosen = append(chosen, *one.Capture)
		}
	}
	if err := configs.CheckClash(cc, chosen); err != nil {
		return &exitError{exitUsage, err}
	}
	r, err := checkOpen(ctx, c, log, nil, func(known) ([]configs.Capture, error) { return append(chosen, cc), nil })
	if err != nil {
		return err
	}
	r.Captures = r.Captures[len(r.Captures)-1:] // the others are only compared with
	r.Log = slices.DeleteFunc(r.Log, func(f sources.Finding) bool {
		return f.Level == sources.OK || strings.HasPrefix(f.Subject, registrationSubject) // this mends it, or it is another's
	})
	r.Problems, r.Warnings = 0, 0
	r.count()
	if r.Problems == 0 && r.Warnings == 0 {
		return nil
	}
	a.printCheck(r)
	if r.Problems > 0 {
		return &exitError{exitNotSo, fmt.Errorf("%s; nothing is registered", r.summary())}
	}
	return nil
}
