package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/configs"
)

func captureListCommand(a *app) *cobra.Command {
	var asJSON, everything bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the captures of the config file and those that are registered",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.reading(func(r *reader) error {
				all, err := knownCaptures(cmd.Context(), r.config, r.cl)
				if err != nil {
					return failed(err)
				}
				list := []listedCapture{}
				names := all.mine(r.config)
				if everything {
					names = all.names()
				}
				for _, name := range names {
					list = append(list, all[name].listed(r.config, name))
				}
				if asJSON {
					return failed(a.printJSON(list))
				}
				return failed(a.printCaptures(list))
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	cmd.Flags().BoolVar(&everything, "all", false, "those of other config files and fleets too")
	return cmd
}

// listedCapture is a capture as `weft capture list` shows it.
type listedCapture struct {
	Capture string   `json:"capture"`
	Source  string   `json:"source"`
	Tables  []string `json:"tables"`
	// State is file, registered, removing, corrupt, or "left by file" for one that this config file has no more.
	State string `json:"state"`
	// File is where it is from, as HOST:PATH, unless a command registered it.
	File string     `json:"file,omitempty"`
	By   string     `json:"by,omitempty"`
	At   *time.Time `json:"at,omitempty"`
	// Registered is the capture as the log holds it.
	Registered json.RawMessage `json:"registered,omitempty"`
	Error      string          `json:"error,omitempty"`
}

func (k knownCapture) listed(c *configs.Config, name string) listedCapture {
	l := listedCapture{Capture: name, State: "registered", Tables: []string{}}
	if e := k.Entry; e != nil && e.Err == nil {
		l.Source, l.Tables = e.SourceAndTables()
		l.File, l.By, l.At, l.Registered = e.File, e.By, &e.At, e.Capture
	}
	if k.Err != nil && (k.Entry.File == "") {
		l.Error = k.Err.Error()
	}
	switch e := k.Entry; {
	case k.OfFile:
		l.State, l.Source, l.Tables, l.File, l.Error = "file", k.SourceType, k.Tables, fileName(c), ""
	case e.Err != nil:
		l.State = "corrupt"
	case e.Removing:
		l.State = "removing"
	case k.orphan(c):
		l.State = "left by file"
	case e.File != "":
		l.State = "file"
	}
	return l
}

func (a *app) printCaptures(all []listedCapture) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CAPTURE\tSOURCE\tSTATE\tFROM\tTABLES")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Capture, cmp.Or(l.Source, "-"), l.State, cmp.Or(l.File, l.By, "-"), strings.Join(l.Tables, " "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range all {
		if l.Error != "" {
			fmt.Fprintf(a.stdout, "%s: %s\n", l.Capture, l.Error)
		}
		if l.State == "left by file" || l.State == "removing" {
			fmt.Fprintf(a.stdout, "%s does not run; to remove it for good: weft capture remove %[1]s\n", l.Capture)
		}
	}
	return nil
}
