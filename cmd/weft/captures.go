package main

import (
	"context"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/cmd/weft/internal/fleet"
	"weft/configs"
	"weft/sink"
)

// known are the captures of a log by name: the config file's, and what is registered.
type known map[string]knownCapture

type knownCapture struct {
	// Capture is nil where it is not of this file and its registration cannot be used here; Err says why.
	*configs.Capture
	Err error
	// OfFile says that this command's config file has it, as its captures[index].
	OfFile bool
	index  int
	// Entry is what is registered, nil for nothing.
	Entry *fleet.Entry
}

// knownCaptures is what this command's config file and the log hold.
func knownCaptures(ctx context.Context, c *configs.Config, cl *kgo.Client) (known, error) {
	entries, err := fleet.Load(ctx, cl)
	if err != nil {
		return nil, err
	}
	all := ofFile(c)
	for name, e := range entries {
		k := all[name]
		k.Entry = &e
		switch {
		case k.OfFile:
		case e.Err != nil:
			k.Err = e.Err
		default:
			k.Capture, k.Err = registered(c, e.Registration)
		}
		all[name] = k
	}
	return all, nil
}

// ofFile is known where the log cannot be asked.
func ofFile(c *configs.Config) known {
	all := known{}
	for i := range c.Captures {
		all[c.Captures[i].Name] = knownCapture{Capture: &c.Captures[i], OfFile: true, index: i}
	}
	return all
}

// names are in the file's order, and after those by name.
func (k known) names() []string {
	return slices.SortedFunc(maps.Keys(k), func(a, b string) int {
		switch x, y := k[a], k[b]; {
		case x.OfFile && y.OfFile:
			return x.index - y.index
		case x.OfFile:
			return -1
		case y.OfFile:
			return 1
		}
		return strings.Compare(a, b)
	})
}

// runs says that a daemon with this config file runs the capture, or one that shares it with that.
func (k knownCapture) runs(c *configs.Config) bool {
	return k.OfFile || k.Err == nil && k.Entry.File == "" && k.Entry.Fleet == c.Fleet && !k.Entry.Removing
}

// mine says that the capture matters to who works with this config file: not so one of another's file or fleet.
func (k knownCapture) mine(c *configs.Config) bool {
	return k.OfFile || k.orphan(c) || k.Entry.Err != nil || k.Entry.Removing || k.Entry.File == "" && k.Entry.Fleet == c.Fleet
}

// mine are the names of the captures that matter to who works with this config file.
func (k known) mine(c *configs.Config) []string {
	return slices.DeleteFunc(k.names(), func(name string) bool { return !k[name].mine(c) })
}

// orphan says that the capture is from a config file that has it no more, as far as this command's can tell.
func (k knownCapture) orphan(c *configs.Config) bool {
	return !k.OfFile && k.Entry != nil && k.Entry.File != "" && k.Entry.File == fileName(c)
}

func namesOf(captures []configs.Capture) []string {
	names := make([]string, len(captures))
	for i := range captures {
		names[i] = captures[i].Name
	}
	return names
}

// registered reads what is registered as a capture of this file's log and topics.
func registered(c *configs.Config, r fleet.Registration) (*configs.Capture, error) {
	return c.ParseCapture("registration of "+r.Name, r.Name, r.Capture, os.LookupEnv)
}

// store is where captures are registered.
func store(c *configs.Config, log *sink.Log) *fleet.Store {
	by := hostname()
	if u, err := user.Current(); err == nil {
		by = u.Username + "@" + by
	}
	return &fleet.Store{Log: log, Replication: c.Topics.Replication, By: by, Version: buildVersion()}
}

// fileName names the config file to people on other machines.
func fileName(c *configs.Config) string {
	path, err := filepath.Abs(c.File)
	if err != nil {
		path = c.File
	}
	return hostname() + ":" + path
}
