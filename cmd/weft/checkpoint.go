package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/configs"
	"weft/sink"
	"weft/sink/embedded"
	"weft/sources"
)

func checkpointCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "checkpoint", Short: "Show or set where a capture resumes"}
	cmd.AddCommand(checkpointGetCommand(a), checkpointSetCommand(a))
	return cmd
}

func checkpointGetCommand(a *app) *cobra.Command {
	var positionOnly bool
	cmd := &cobra.Command{
		Use:   "get CAPTURE",
		Short: "Print a capture's checkpoint as JSON; exit code 1 if it has none",
		Args:  takes("CAPTURE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reading(func(r *reader) error {
				all, corrupt, err := loadCheckpoints(cmd.Context(), r.cl)
				if err == nil {
					err = corrupt[args[0]]
				}
				if err != nil {
					return failed(err)
				}
				cp, ok := all[args[0]]
				if !ok {
					return &exitError{exitNotSo, fmt.Errorf("capture %q has no checkpoint in the log", args[0])}
				}
				if positionOnly {
					_, err := fmt.Fprintln(a.stdout, orNull(cp.Position))
					return failed(err)
				}
				return failed(a.printJSON(cp))
			})
		},
	}
	cmd.Flags().BoolVar(&positionOnly, "position", false, "only the position, in one line, as set takes it")
	return cmd
}

func checkpointSetCommand(a *app) *cobra.Command {
	var epoch uint32
	cmd := &cobra.Command{
		Use:   "set CAPTURE POSITION",
		Short: "Set where a capture resumes; POSITION is the JSON that get shows, or null for anew",
		Long: `Set where a capture resumes. POSITION is the JSON that "checkpoint get --position" prints, or null for anew.

The capture goes on in a new epoch, and the log's topic PREFIX.__gaps gets a record of it: changes that are passed over
are lost to consumers, and changes from before are delivered again with higher sequences. A daemon that runs the capture
on brokers is interrupted and resumes at the new position; with the embedded log the daemon must be stopped first.

A checkpoint that cannot be read is replaced with --epoch N, the epoch in which the capture is to go on.`,
		Args: takes("CAPTURE", "POSITION"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			c, err := a.config()
			if err != nil {
				return err
			}
			if epoch == 1 {
				return &exitError{exitUsage, errors.New("--epoch 1 is the first one; give one that is above the epoch of all records")}
			}
			var position sources.Position
			if args[1] != "null" {
				if !json.Valid([]byte(args[1])) {
					return &exitError{exitUsage, fmt.Errorf("position %q is not JSON; take the form that `weft checkpoint get --position %s` prints", args[1], args[0])}
				}
				position = sources.Position(args[1])
			}
			log, err := openLog(cmd.Context(), c.Log, a.logger(c.Logging))
			var inUse *embedded.ErrInUse
			if errors.As(err, &inUse) {
				return failed(fmt.Errorf("process %d has the embedded log open; stop it first", inUse.PID))
			}
			if err != nil {
				return failed(err)
			}
			defer closing(log.close, &err)
			cl, err := log.Client()
			if err != nil {
				return failed(err)
			}
			defer cl.Close()
			cc, err := findCapture(cmd.Context(), c, cl, args[0])
			if err != nil {
				return err
			}
			options := writerOptions(c, *cc, log.Log)
			if epoch > 0 {
				options.Epoch = epoch - 1
			}
			w, err := sink.Open(cmd.Context(), options)
			if err != nil {
				return failed(err)
			}
			defer closing(w.Close, &err)
			was := w.Checkpoint()
			err = w.NextEpoch(cmd.Context(), &sources.GapError{Reason: "checkpoint set by hand", Resume: position})
			if err != nil {
				return failed(err)
			}
			fmt.Fprintf(a.stdout, "capture %s: epoch %d at %s -> epoch %d at %s\n", cc.Name, was.Epoch, orNull(was.Position), w.Checkpoint().Epoch, orNull(position))
			return nil
		},
	}
	cmd.Flags().Uint32Var(&epoch, "epoch", 0, "do not read the checkpoint that is there, and go on in this epoch")
	return cmd
}

func orNull(p sources.Position) string {
	if p == nil {
		return "null"
	}
	return string(p)
}

// findCapture returns a capture of the config file, for which cl may be nil, else one that is registered in the log.
func findCapture(ctx context.Context, c *configs.Config, cl *kgo.Client, name string) (*configs.Capture, error) {
	all := ofFile(c)
	if !all[name].OfFile {
		var err error
		if all, err = knownCaptures(ctx, c, cl); err != nil {
			return nil, failed(err)
		}
	}
	chosen, err := all.choose(c, []string{name})
	if err != nil {
		return nil, err
	}
	return &chosen[0], nil
}
