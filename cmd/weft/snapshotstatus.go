package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"weft/checkpoint"
)

// snapshotStatus is a capture's last snapshot as `weft status` shows it: the checkpoint's, without cursors and keys.
type snapshotStatus struct {
	// Name is what it is cancelled by.
	Name   string `json:"name"`
	Reason string `json:"reason"`
	// State is running, done, cancelled or failed.
	State     string                `json:"state"`
	StartedAt time.Time             `json:"started_at"`
	EndedAt   *time.Time            `json:"ended_at,omitempty"`
	Error     string                `json:"error,omitempty"`
	Rows      int64                 `json:"rows"`
	Done      int                   `json:"tables_done"`
	Tables    []snapshotTableStatus `json:"tables"`
	Handled   []checkpoint.Handled  `json:"handled_requests,omitempty"`
}

type snapshotTableStatus struct {
	Table string `json:"table"`
	Where string `json:"where,omitempty"`
	// State is waiting, reading or done.
	State string `json:"state"`
	Rows  int64  `json:"rows"`
}

// snapshotStatusOf is nil for a capture that has made none.
func snapshotStatusOf(from *checkpoint.Snapshot) *snapshotStatus {
	if from == nil {
		return nil
	}
	s := &snapshotStatus{
		Name: from.Name(), Reason: from.Reason, State: "running", StartedAt: from.StartedAt, EndedAt: from.EndedAt, Error: from.Error,
		Rows: from.Rows(), Tables: []snapshotTableStatus{}, Handled: from.Handled,
	}
	switch {
	case from.Error != "":
		s.State = "failed"
	case from.Cancelled:
		s.State = "cancelled"
	case from.EndedAt != nil:
		s.State = "done"
	}
	for _, t := range from.Tables {
		one := snapshotTableStatus{Table: t.Table, Where: t.Where, State: "waiting", Rows: t.Rows}
		switch {
		case t.Done:
			one.State = "done"
			s.Done++
		case t.Begun:
			one.State = "reading"
		}
		s.Tables = append(s.Tables, one)
	}
	return s
}

// printSnapshot tells of the one that runs or has failed, and of requests that were refused.
func (a *app) printSnapshot(capture string, s *snapshotStatus) {
	if s == nil {
		return
	}
	fmt.Fprintf(a.stdout, "%s: snapshot %s (%s) is %s: %d of %d tables, %d rows\n", capture, s.Name, s.Reason, s.State, s.Done, len(s.Tables), s.Rows)
	if s.State == "running" {
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		for _, t := range s.Tables {
			fmt.Fprintf(w, "  %s\t%s\t%d rows\n", t.Table, t.State, t.Rows)
		}
		_ = w.Flush() // standard output; the next line would fail as well
	}
	for _, h := range s.Handled {
		if h.Error != "" {
			fmt.Fprintf(a.stdout, "%s: snapshot request %s of %s failed: %s\n", capture, h.Request, h.At.Format(time.RFC3339), h.Error)
		}
	}
}
