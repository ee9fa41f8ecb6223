package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/status"
	"weft/configs"
	"weft/sink/held"
	"weft/sources"
)

func captureRemoveCommand(a *app) *cobra.Command {
	var keepSource, yes bool
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "End a registered capture for good, and drop what it made at its source",
		Long: `End a registered capture for good. The daemon that runs it stops it; then what it made at its source is dropped (for
PostgreSQL its slot, and its publication if it made that), and its checkpoint and its registration are removed, and of a
capture that polls its folder in state.dir, if it is on this machine. Its topics stay.

If the source does not answer, the capture stays registered as one that is being removed: it does not run, and the same
command finishes the removal. With --keep-source nothing is dropped there.`,
		Args: takes("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.removeCapture(cmd.Context(), args[0], keepSource, yes)
		},
	}
	cmd.Flags().BoolVar(&keepSource, "keep-source", false, "drop nothing at the source")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// removal is what removing a capture works with.
type removal struct {
	*reader
	store      *fleet.Store
	name       string
	keepSource bool
	capture    *configs.Capture // nil with keepSource, where the registration cannot be used
}

// removeTime is how long a datastore has to answer all that a removal asks.
const removeTime = 40 * time.Second

// stopWait is how long to wait for a daemon to say that it has stopped the capture; a stop takes five seconds at most. One that
// does not is fenced.
const stopWait = 10 * time.Second

func (a *app) removeCapture(ctx context.Context, name string, keepSource, yes bool) error {
	return a.reading(func(reads *reader) error {
		r := &removal{reader: reads, store: store(reads.config, reads.log), name: name, keepSource: keepSource}
		if err := r.find(ctx); err != nil {
			return err
		}
		if !yes {
			if err := a.confirm(r.question(), "nothing is removed"); err != nil {
				return err
			}
		}
		return a.remove(ctx, r)
	})
}

// find refuses a capture that is not this command's to remove.
func (r *removal) find(ctx context.Context) error {
	all, err := knownCaptures(ctx, r.config, r.cl)
	if err != nil {
		return failed(err)
	}
	reports, err := status.Load(ctx, r.cl)
	if err != nil {
		return failed(err)
	}
	one, ok := all[r.name]
	said, reported := reports[r.name]
	switch {
	case !ok:
		return &exitError{exitUsage, fmt.Errorf("there is no capture %q, in the config file or registered", r.name)}
	case one.OfFile && one.Entry == nil:
		return &exitError{exitUsage, fmt.Errorf("capture %s is in the config file %s and was never run; take it out there", r.name, r.config.File)}
	case one.OfFile:
		return &exitError{exitUsage, fmt.Errorf("capture %s is in the config file %s; take it out there, start weft run again, and then remove it", r.name, r.config.File)}
	case one.Entry.File != "" && !one.Entry.Removing && reported && !r.alone && time.Since(said.At) < status.Fresh:
		return &exitError{exitUsage, fmt.Errorf("capture %s is in the config file %s, and daemon %s runs it; take it out there, start that daemon again, "+
			"and then remove it", r.name, one.Entry.File, said.Daemon)}
	case one.Capture == nil && !r.keepSource:
		return failed(fmt.Errorf("what capture %s made at its source cannot be dropped from here: %w (or remove it with --keep-source, and drop it there by hand)",
			r.name, one.Err))
	}
	r.capture = one.Capture
	return nil
}

func (r *removal) question() string {
	at := "nothing is dropped at its source"
	if !r.keepSource {
		if at = "what it made at its source is dropped"; r.capture.SourceType == "postgres" {
			at = "its slot is dropped, and its publication if it made that"
		}
	}
	what := "its checkpoint is"
	if dir := r.heldDir(); dir != "" {
		what = "its checkpoint and its folder " + dir + " are"
	}
	return fmt.Sprintf("Remove capture %s for good? It stops, %s, and %s removed; its topics stay. [y/N] ", r.name, at, what)
}

// heldDir is the folder that a capture which polls has on this machine, "" for none. What is registered may have any name.
func (r *removal) heldDir() string {
	dir := heldDir(r.config, r.name)
	if _, err := os.Stat(dir); err != nil || configs.CheckName(r.name) != nil {
		return ""
	}
	return dir
}

// terminal tells whether somebody can be asked.
func terminal() bool { return isatty.IsTerminal(os.Stdin.Fd()) }

func errUnasked(nothing string) error {
	return &exitError{exitUsage, fmt.Errorf("%s without an answer; give --yes where nobody can be asked", nothing)}
}

// confirm asks on the terminal. nothing says what does not happen without a yes.
func (a *app) confirm(question, nothing string) error {
	if !terminal() {
		return errUnasked(nothing)
	}
	fmt.Fprint(a.stderr, question)
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return failed(fmt.Errorf("read the answer: %w", err))
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errUnasked(nothing)
	}
	return nil
}

// remove does it in an order in which each step can be repeated, and none can be undone by a daemon that has not heard of it:
// the registration says that the capture is being removed before its writer is fenced; who takes that place back looks there
// again (pipeline.Capture.Confirm). The source comes before the checkpoint, which tells what was made there.
func (a *app) remove(ctx context.Context, r *removal) error {
	unfinished := func(err error) error {
		return failed(fmt.Errorf("capture %s runs no more, but is not removed yet: %w\nwhat is done stays done; run the same command again to finish", r.name, err))
	}
	err := r.store.Update(ctx, r.name, func(stands *fleet.Entry) (*fleet.Registration, error) {
		if stands == nil {
			return nil, fmt.Errorf("capture %s has just been removed", r.name)
		}
		reg := stands.Registration
		if stands.Err != nil {
			reg.Capture = []byte("{}")
		}
		reg.Removing = true
		return &reg, nil
	})
	if err != nil {
		return failed(err)
	}
	if err := r.stopped(ctx); err != nil {
		return unfinished(err)
	}
	place, err := r.log.OpenCapture(ctx, r.name)
	if err != nil {
		return unfinished(fmt.Errorf("fence its writer: %w", err))
	}
	defer place.Close()
	if err := a.removeAtSource(ctx, r, place.Client()); err != nil {
		return unfinished(err)
	}
	if err := place.Forget(ctx, r.name); err != nil {
		return unfinished(fmt.Errorf("remove its checkpoint: %w", err))
	}
	if dir := r.heldDir(); dir != "" {
		if err := held.Remove(dir); err != nil {
			return unfinished(err)
		}
		fmt.Fprintf(a.stdout, "removed %s, the rows that the log holds\n", dir)
	}
	if err := r.store.Update(ctx, r.name, func(*fleet.Entry) (*fleet.Registration, error) { return nil, nil }); err != nil {
		return unfinished(err)
	}
	fmt.Fprintf(a.stdout, "capture %s is removed; its topics are still there\n", r.name)
	return nil
}

// stopped waits until no daemon says that it runs the capture.
func (r *removal) stopped(ctx context.Context) error {
	if r.alone { // the embedded log, which no daemon has open
		return nil
	}
	err := await(ctx, stopWait, func() (bool, error) {
		reports, err := status.Load(ctx, r.cl)
		said, ok := reports[r.name]
		return err == nil && (!ok || time.Since(said.At) >= status.Fresh), err
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		if r.config.Log.Embedded != nil { // which fences nobody
			return errors.New("the daemon has not stopped it")
		}
		return nil // it is fenced, and the source is asked whether something still reads
	}
	return err
}

func (a *app) removeAtSource(ctx context.Context, r *removal, cl *kgo.Client) error {
	if r.keepSource {
		fmt.Fprintln(a.stdout, "nothing is dropped at its source; what it made there is still there")
		return nil
	}
	remover, ok := r.capture.Source.(sources.Remover)
	if !ok {
		return nil
	}
	cp, _, err := checkpoint.LoadOne(ctx, cl, r.name)
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("%w (or remove it with --keep-source, and drop by hand what it made)", err)
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	done, err := remover.Remove(ctx, sources.RemoveOptions{Capture: r.name, Position: cp.Position})
	for _, what := range done.Dropped {
		fmt.Fprintln(a.stdout, "dropped "+what)
	}
	for _, what := range done.Left {
		fmt.Fprintln(a.stdout, "left "+what)
	}
	if err != nil {
		return fmt.Errorf("drop what it made at its source: %w", err)
	}
	return nil
}
