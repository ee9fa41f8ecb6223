package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/sources"
)

func snapshotCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Ask a running capture for a snapshot of tables, list and cancel snapshots"}
	cmd.AddCommand(snapshotStartCommand(a), snapshotListCommand(a), snapshotCancelCommand(a))
	return cmd
}

func snapshotStartCommand(a *app) *cobra.Command {
	var where string
	cmd := &cobra.Command{
		Use:   "start CAPTURE [TABLE...]",
		Short: "Read tables anew beside the capture's stream; all of its tables where none is named",
		Long: `Read tables anew beside the capture's stream; all of its tables where none is named. The request is kept in the log: the
daemon that runs the capture takes it up at once, or when it starts, and after a restart it goes on where it was.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.request(cmd.Context(), args[0], func(k knownCapture, cp *checkpoint.Snapshot) (*fleet.SnapshotRequest, string, error) {
				if err := k.hasTables(args[1:]); err != nil {
					return nil, "", &exitError{exitUsage, err}
				}
				if err := k.busy(args[0], cp); err != nil {
					return nil, "", &exitError{exitNotSo, err}
				}
				r := &fleet.SnapshotRequest{ID: rand.Text(), Tables: args[1:], Where: where}
				return r, fmt.Sprintf("requested %s; weft snapshot list shows how far it is", r.ID), nil
			})
		},
	}
	cmd.Flags().StringVar(&where, "where", "", "only rows for which this condition holds, in the database's language")
	return cmd
}

func snapshotCancelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel CAPTURE",
		Short: "End the snapshot that is under way, or take back the request for one",
		Args:  takes("CAPTURE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.request(cmd.Context(), args[0], func(k knownCapture, cp *checkpoint.Snapshot) (*fleet.SnapshotRequest, string, error) {
				name := ""
				if pending := k.pending(cp); pending != nil {
					name = pending.ID
				} else if cp.Running() {
					name = cp.Name()
				} else {
					return nil, "", &exitError{exitNotSo, fmt.Errorf("capture %s has no snapshot under way and no request for one", args[0])}
				}
				return &fleet.SnapshotRequest{ID: name, Cancel: true}, "snapshot " + name + " is to end; what it has written stays", nil
			})
		},
	}
}

// request registers what ask returns for a capture, and prints the text beside it.
func (a *app) request(ctx context.Context, name string, ask func(knownCapture, *checkpoint.Snapshot) (*fleet.SnapshotRequest, string, error)) error {
	return a.reading(func(r *reader) error {
		text, err := r.request(ctx, name, ask)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, text)
		return nil
	})
}

func (r *reader) request(ctx context.Context, name string, ask func(knownCapture, *checkpoint.Snapshot) (*fleet.SnapshotRequest, string, error)) (said string, err error) {
	all, err := knownCaptures(ctx, r.config, r.cl)
	if err != nil {
		return "", failed(err)
	}
	k, ok := all[name]
	switch {
	case !ok:
		return "", &exitError{exitUsage, fmt.Errorf("there is no capture %q, in the config file or registered", name)}
	case k.Capture == nil:
		return "", failed(k.Err)
	case k.Entry == nil:
		return "", failed(fmt.Errorf("capture %s has not run yet; weft run makes it known in the log", name))
	}
	if _, ok := k.Source.(sources.Snapshotter); !ok {
		err := fmt.Errorf("capture %s: a source of type %s makes no snapshots", name, k.SourceType)
		if _, polls := k.Source.(sources.Poller); polls {
			err = fmt.Errorf("%w; to read its tables again, which writes the rows that are not in the topic: weft checkpoint set %s null", err, name)
		}
		return "", &exitError{exitUsage, err}
	}
	checkpoints, corrupt, err := loadCheckpoints(ctx, r.cl)
	if err == nil {
		err = corrupt[name]
	}
	if err != nil {
		return "", failed(err)
	}
	err = store(r.config, r.log).Update(ctx, name, func(now *fleet.Entry) (*fleet.Registration, error) {
		if now == nil || now.Err != nil || now.Removing {
			return nil, fmt.Errorf("capture %s is being removed", name)
		}
		k.Entry = now
		asked, text, err := ask(k, checkpoints[name].Snapshot)
		if err != nil {
			return nil, err
		}
		asked.At = time.Now().UTC()
		reg := now.Registration
		reg.Snapshot, said = asked, text
		return &reg, nil
	})
	var coded *exitError
	if errors.As(err, &coded) {
		return "", coded
	}
	return said, failed(err)
}

// hasTables refuses tables that the capture does not have.
func (k knownCapture) hasTables(tables []string) error {
	for _, table := range tables {
		if !k.HasTable(table) {
			return fmt.Errorf("capture %s has no table %s; it captures %s", k.Name, table, strings.Join(k.Tables, " "))
		}
	}
	return nil
}

// pending is the request that nothing has come of yet, or nil. s is the capture's newest snapshot.
func (k knownCapture) pending(s *checkpoint.Snapshot) *fleet.SnapshotRequest {
	if k.Entry == nil || k.Entry.Snapshot == nil || k.Entry.Snapshot.Cancel {
		return nil
	}
	if s != nil && (s.Request == k.Entry.Snapshot.ID || handled(s, k.Entry.Snapshot.ID) != nil) {
		return nil
	}
	return k.Entry.Snapshot
}

// busy is why the capture can take no request now, nil for nothing. s is its newest snapshot.
func (k knownCapture) busy(name string, s *checkpoint.Snapshot) error {
	if pending := k.pending(s); pending != nil {
		return fmt.Errorf("request %s of %s is still to be taken up; cancel it first: weft snapshot cancel %s", pending.ID, pending.At.Format(time.RFC3339), name)
	}
	if s.Running() {
		return fmt.Errorf("a snapshot (%s) is under way since %s; cancel it first: weft snapshot cancel %s", s.Reason, s.StartedAt.Format(time.RFC3339), name)
	}
	return nil
}

// handled is what became of a request that is done with, or nil.
func handled(s *checkpoint.Snapshot, request string) *checkpoint.Handled {
	i := slices.IndexFunc(s.Handled, func(h checkpoint.Handled) bool { return h.Request == request })
	if i < 0 {
		return nil
	}
	return &s.Handled[i]
}

// listedSnapshot is a snapshot, or a request for one, as `weft snapshot list` shows it.
type listedSnapshot struct {
	Capture string `json:"capture"`
	// Snapshot is its request, or its number where none asked for it.
	Snapshot string `json:"snapshot"`
	// State is requested, running, done, cancelled or failed.
	State  string     `json:"state"`
	Reason string     `json:"reason"`
	Error  string     `json:"error,omitempty"`
	Since  time.Time  `json:"since"`
	Ended  *time.Time `json:"ended,omitempty"`
	Rows   int64      `json:"rows"`
	// Done and Of count tables; Of is 0 while they are not known.
	Done   int                        `json:"tables_done"`
	Of     int                        `json:"tables"`
	Tables []checkpoint.TableSnapshot `json:"progress"`
}

func snapshotListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List each capture's newest snapshot and what is requested",
		Args:  takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.reading(func(r *reader) error {
				all, err := knownCaptures(cmd.Context(), r.config, r.cl)
				if err != nil {
					return failed(err)
				}
				checkpoints, _, err := loadCheckpoints(cmd.Context(), r.cl) // weft status tells of those that cannot be read
				if err != nil {
					return failed(err)
				}
				list := []listedSnapshot{}
				for _, name := range all.mine(r.config) {
					list = append(list, all[name].snapshots(name, checkpoints[name].Snapshot)...)
				}
				if asJSON {
					return failed(a.printJSON(list))
				}
				return failed(a.printSnapshots(list))
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	return cmd
}

func (k knownCapture) snapshots(name string, s *checkpoint.Snapshot) (list []listedSnapshot) {
	if s != nil && s.Reason != checkpoint.ReasonBefore {
		l := listedSnapshot{
			Capture: name, Snapshot: s.Name(), State: "running", Reason: s.Reason, Error: s.Error, Since: s.StartedAt, Ended: s.EndedAt,
			Rows: s.Rows(), Of: len(s.Tables), Tables: s.Tables,
		}
		switch {
		case s.Error != "":
			l.State = "failed"
		case s.Cancelled:
			l.State = "cancelled"
		case !s.Running():
			l.State = "done"
		}
		for _, t := range s.Tables {
			if t.Done {
				l.Done++
			}
		}
		list = append(list, l)
	}
	if s != nil && k.Entry != nil && k.Entry.Snapshot != nil && s.Request != k.Entry.Snapshot.ID {
		if h := handled(s, k.Entry.Snapshot.ID); h != nil && h.Error != "" { // refused before anything was read
			list = append(list, listedSnapshot{
				Capture: name, Snapshot: h.Request, State: "failed", Reason: checkpoint.ReasonRequested, Error: h.Error, Since: k.Entry.Snapshot.At, Ended: &h.At, Rows: h.Rows,
			})
		}
	}
	if r := k.pending(s); r != nil {
		l := listedSnapshot{Capture: name, Snapshot: r.ID, State: "requested", Reason: checkpoint.ReasonRequested, Since: r.At, Of: len(r.Tables)}
		if r.Keys != nil {
			l.Reason = checkpoint.ReasonRepair
		}
		for _, table := range r.Tables {
			l.Tables = append(l.Tables, checkpoint.TableSnapshot{Table: table, Where: r.Where})
		}
		list = append(list, l)
	}
	return list
}

func (a *app) printSnapshots(list []listedSnapshot) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CAPTURE\tSNAPSHOT\tSTATE\tREASON\tSINCE\tTABLES DONE\tROWS")
	for _, l := range list {
		tables := "-"
		if l.Of > 0 {
			tables = fmt.Sprintf("%d of %d", l.Done, l.Of)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", l.Capture, l.Snapshot, l.State, l.Reason, l.Since.Local().Format("2006-01-02 15:04:05"), tables, l.Rows)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range list {
		if l.Error != "" {
			fmt.Fprintf(a.stdout, "\n%s, snapshot %s: %s\n", l.Capture, l.Snapshot, l.Error)
		}
		if i := slices.IndexFunc(l.Tables, func(t checkpoint.TableSnapshot) bool { return !t.Done }); l.State == "running" && i >= 0 {
			fmt.Fprintf(a.stdout, "\n%s reads table %s: %d rows so far\n", l.Capture, l.Tables[i].Table, l.Tables[i].Rows)
		}
	}
	return nil
}
