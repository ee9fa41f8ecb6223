package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/checkpoint"
	"weft/cmd/weft/internal/status"
	"weft/sources"
)

// captureStatus is one capture as `weft status` shows it: what the daemon last said, on top of what the log holds.
type captureStatus struct {
	Capture   string   `json:"capture"`
	Connector string   `json:"connector"`
	Tables    []string `json:"tables"`
	// State as reported, "not running" without a recent report, "new" without a checkpoint too.
	State    string           `json:"state"`
	Since    *time.Time       `json:"since,omitempty"`
	Error    string           `json:"error,omitempty"`
	Epoch    uint32           `json:"epoch"`
	Position sources.Position `json:"position"`
	// CheckpointAge in seconds since the last commit; a quiet capture commits every ten seconds.
	CheckpointAge *float64        `json:"checkpoint_age_seconds,omitempty"`
	Changes       int64           `json:"changes"`
	LagBytes      *int64          `json:"lag_bytes,omitempty"`
	Gap           *checkpoint.Gap `json:"last_gap,omitempty"`
	Daemon        string          `json:"daemon,omitempty"`
}

func statusCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show each capture's state, position and lag, from what the log holds",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := a.config()
			if err != nil {
				return err
			}
			cl, closeLog, err := a.reader(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer closing(closeLog, &err)
			checkpoints, err := loadCheckpoints(cmd.Context(), cl)
			if err != nil {
				return failed(err)
			}
			reports, err := status.Load(cmd.Context(), cl)
			if err != nil {
				return failed(err)
			}
			var all []captureStatus
			for _, cc := range c.Captures {
				s := captureStatus{Capture: cc.Name, Connector: cc.Source.Connector(), Tables: cc.Tables, State: "new"}
				if cp, ok := checkpoints[cc.Name]; ok {
					age := time.Since(cp.WrittenAt).Seconds()
					s.State, s.Epoch, s.Position, s.Changes, s.Gap, s.CheckpointAge = "not running", cp.Epoch, cp.Position, cp.Changes, cp.Gap, &age
				}
				if r, ok := reports[cc.Name]; ok && time.Since(r.At) < 3*status.Interval {
					s.State, s.Since, s.Error, s.Daemon = r.State, &r.Since, r.Error, r.Daemon
					if r.LagBytes >= 0 {
						s.LagBytes = &r.LagBytes
					}
				}
				all = append(all, s)
			}
			if asJSON {
				enc := json.NewEncoder(a.stdout)
				enc.SetIndent("", "  ")
				return failed(enc.Encode(all))
			}
			return a.printStatus(all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

func (a *app) printStatus(all []captureStatus) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CAPTURE\tSOURCE\tSTATE\tSINCE\tEPOCH\tCHANGES\tLAG\tCHECKPOINT\tTABLES")
	for _, s := range all {
		since, lag, age := "-", "-", "-"
		if s.Since != nil {
			since = s.Since.Local().Format("2006-01-02 15:04:05")
		}
		if s.LagBytes != nil {
			lag = fmt.Sprintf("%d B", *s.LagBytes)
		}
		if s.CheckpointAge != nil {
			age = (time.Duration(*s.CheckpointAge * float64(time.Second))).Round(100*time.Millisecond).String() + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n",
			s.Capture, s.Connector, s.State, since, s.Epoch, s.Changes, lag, age, strings.Join(s.Tables, " "))
	}
	if err := w.Flush(); err != nil {
		return failed(err)
	}
	for _, s := range all {
		if s.Position != nil {
			fmt.Fprintf(a.stdout, "\n%s is at %s\n", s.Capture, s.Position)
		}
		if s.Error != "" {
			fmt.Fprintf(a.stdout, "%s: %s\n", s.Capture, s.Error)
		}
		if s.Gap != nil {
			fmt.Fprintf(a.stdout, "%s: gap at %s, before epoch %d: %s\n", s.Capture, s.Gap.At.Format(time.RFC3339), s.Gap.Epoch, s.Gap.Reason)
		}
	}
	return nil
}

// closing joins the error of closing into a function's own.
func closing(closeLog func() error, err *error) {
	if e := closeLog(); e != nil && *err == nil {
		*err = failed(e)
	}
}
