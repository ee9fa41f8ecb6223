package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/checkpoint"
	"weft/cmd/weft/internal/status"
	"weft/sources"
	"weft/sources/all"
)

// captureStatus is one capture as `weft status` shows it: what the daemon last said, on top of what the log holds.
type captureStatus struct {
	Capture   string   `json:"capture"`
	Connector string   `json:"connector"`
	Tables    []string `json:"tables"`
	// State as the daemon reports it; "not running" without a report of the last 25 s, "new" without a checkpoint too.
	State    string           `json:"state"`
	Since    *time.Time       `json:"since,omitempty"`
	Error    string           `json:"error,omitempty"`
	Epoch    uint32           `json:"epoch"`
	Position sources.Position `json:"position"`
	// CheckpointAge in seconds since the last commit; a quiet capture commits every ten seconds.
	CheckpointAge *float64        `json:"checkpoint_age_seconds,omitempty"`
	Changes       int64           `json:"changes"`
	LagBytes      *int64          `json:"lag_bytes,omitempty"`
	Horizon       string          `json:"horizon,omitempty"`
	Gap           *checkpoint.Gap `json:"last_gap,omitempty"`
	Snapshot      *snapshotStatus `json:"snapshot,omitempty"`
	Unarchived    []string        `json:"unarchived,omitempty"`
	Daemon        string          `json:"daemon,omitempty"`
	// Heard: seconds since the daemon last reported.
	Heard *float64 `json:"heard_seconds,omitempty"`
}

func statusCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show each capture's state, position and lag, from what the log holds",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.reading(func(r *reader) error {
				all, err := captureStatuses(cmd.Context(), r)
				if err != nil {
					return failed(err)
				}
				if asJSON {
					return failed(a.printJSON(all))
				}
				return failed(a.printStatus(all))
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

func captureStatuses(ctx context.Context, r *reader) ([]captureStatus, error) {
	checkpoints, corrupt, err := loadCheckpoints(ctx, r.cl)
	if err != nil {
		return nil, err
	}
	reports, err := status.Load(ctx, r.cl)
	if err != nil {
		return nil, err
	}
	list := []captureStatus{}
	known, err := knownCaptures(ctx, r.config, r.cl)
	if err != nil {
		return nil, err
	}
	for _, name := range known.mine(r.config) {
		cc := known[name]
		s := captureStatus{Capture: name, State: "new"}
		cc.describe(&s)
		if err := corrupt[name]; err != nil {
			s.State, s.Error = "not running", err.Error()
		} else if cp, ok := checkpoints[name]; ok {
			age := time.Since(cp.WrittenAt).Seconds()
			s.State, s.Epoch, s.Position, s.Changes, s.Gap, s.CheckpointAge = "not running", cp.Epoch, cp.Position, cp.Changes, cp.Gap, &age
			s.Snapshot = snapshotStatusOf(cp.Snapshot)
		}
		if cc.Entry != nil && cc.Entry.Removing {
			s.State = "removing"
		}
		if said, ok := reports[name]; ok && !r.alone && time.Since(said.At) < status.Fresh {
			heard := time.Since(said.At).Seconds()
			s.State, s.Since, s.Error, s.Daemon, s.Heard = said.State, &said.Since, said.Error, said.Daemon, &heard
			s.Horizon = said.Horizon
			s.Unarchived = said.Unarchived
			if said.LagBytes >= 0 {
				s.LagBytes = &said.LagBytes
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// describe fills in what the capture is, as far as that can be told here, and what is wrong with it.
func (k knownCapture) describe(s *captureStatus) {
	if k.Capture != nil {
		s.Connector, s.Tables = k.Source.Connector(), k.Tables
		return
	}
	s.Tables = []string{}
	if k.Entry.Err == nil {
		var source string
		source, s.Tables = k.Entry.SourceAndTables()
		if newConfig, ok := all.Kinds[source]; ok {
			s.Connector = newConfig().Connector()
		}
	}
	if k.Entry.File == "" {
		s.State, s.Error = "not running", k.Err.Error()
	}
}

func (a *app) printStatus(all []captureStatus) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CAPTURE\tSOURCE\tSTATE\tSINCE\tHEARD\tEPOCH\tCHANGES\tLAG\tCHECKPOINT\tTABLES")
	for _, s := range all {
		since, lag := "-", "-"
		if s.Since != nil {
			since = s.Since.Local().Format("2006-01-02 15:04:05")
		}
		if s.LagBytes != nil {
			lag = fmt.Sprintf("%d B", *s.LagBytes)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n",
			s.Capture, s.Connector, s.State, since, ago(s.Heard), s.Epoch, s.Changes, lag, ago(s.CheckpointAge), strings.Join(s.Tables, " "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range all {
		if s.Position != nil {
			fmt.Fprintf(a.stdout, "\n%s is at %s\n", s.Capture, s.Position)
		}
		if s.Horizon != "" {
			fmt.Fprintf(a.stdout, "%s: horizon %s\n", s.Capture, s.Horizon)
		}
		if s.Error != "" {
			fmt.Fprintf(a.stdout, "%s: %s\n", s.Capture, s.Error)
		}
		for _, text := range s.Unarchived {
			fmt.Fprintf(a.stdout, "%s: archives of %s\n", s.Capture, text)
		}
		a.printSnapshot(s.Capture, s.Snapshot)
		if s.Gap != nil {
			fmt.Fprintf(a.stdout, "%s: gap at %s, before epoch %d: %s\n", s.Capture, s.Gap.At.Format(time.RFC3339), s.Gap.Epoch, s.Gap.Reason)
		}
	}
	return nil
}

func ago(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return time.Duration(*seconds*float64(time.Second)).Round(100*time.Millisecond).String() + " ago"
}
