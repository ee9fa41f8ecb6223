package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"weft/configs"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

// Exit codes.
const (
	exitDone   = 0
	exitNotSo  = 1 // the thing asked for is not so
	exitUsage  = 2 // usage or configuration
	exitFailed = 3 // could not be done
)

// exitError carries an exit code up.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// app is what all subcommands share.
type app struct {
	configFlag     string
	stdout, stderr io.Writer
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:   "weft",
		Short: "Capture tables, and land every change once and in order in a Kafka-compatible log",
		Long: `Weft captures tables from datastores and lands every change, once and in order per key,
in a Kafka-compatible log, with its position checkpointed in that same log.

Exit codes: 0 done, 1 the thing asked for is not so, 2 usage or configuration,
3 could not be done.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	root.PersistentFlags().StringVarP(&a.configFlag, "config", "c", "", "config file (default ./weft.yaml, then $WEFT_CONFIG)")
	root.AddCommand(demoCommand(a), runCommand(a), checkCommand(a), tailCommand(a), statusCommand(a), verifyCommand(a), captureCommand(a),
		snapshotCommand(a), archiveCommand(a), replayCommand(a), checkpointCommand(a), versionCommand(a))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(stderr, "weft:", err)
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitUsage // cobra's own: unknown command, wrong number of arguments
}

// config loads the config file.
func (a *app) config() (*configs.Config, error) {
	path, err := configs.Find(a.configFlag)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	c, err := configs.Load(path)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return c, nil
}

func (a *app) logger(l configs.Logging) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: "weft", Level: hclog.LevelFromString(string(l.Level)), Output: a.stderr,
		JSONFormat: l.Format == configs.JSONFormat, TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
}

// takes is the check of a command's arguments, which have these names.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return &exitError{exitUsage, fmt.Errorf("%d arguments given; usage: %s", len(args), strings.Join(append([]string{cmd.CommandPath()}, names...), " "))}
	}
}

// printJSON prints one JSON document.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// failed marks an error as "could not be done".
func failed(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitFailed, err}
}

// buildVersion is the linker's version, else what the Go tool knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
