package checkpoint

import (
	"slices"
	"strconv"
	"time"

	"weft/sources"
)

// Snapshot is how far the reading of tables beside the stream has come. It is part of the checkpoint, so that it moves in the
// same transaction as the rows that it covers.
type Snapshot struct {
	// ID tells snapshots of a capture from each other: 1 is the first.
	ID int64 `json:"id"`
	// Request is the id of the request that asked for it; empty where the capture began it itself.
	Request string `json:"request,omitempty"`
	// Reason says why it was begun, for people: one of the Reason constants.
	Reason    string     `json:"reason"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	Cancelled bool       `json:"cancelled,omitempty"`
	// Error says why it ended before its time.
	Error string `json:"error,omitempty"`
	// Tables are all of the capture's where it is nil; they are listed once the datastore has told them.
	Tables []TableSnapshot `json:"tables"`

	// What follows is carried from one snapshot to the next.

	// Covered are the captured tables that need not be read for having been added: a snapshot has read them whole, or they
	// were captured before the capture made snapshots.
	Covered []string `json:"covered,omitempty"`
	// Handled are the newest requests that are done with, oldest first.
	Handled []Handled `json:"handled,omitempty"`
	// Order is the highest Change.Order of a row that a snapshot wrote, and Index its number among those at one position.
	Order string `json:"order,omitempty"`
	Index int    `json:"index,omitempty"`
}

// Reasons of a Snapshot.
const (
	ReasonInitial    = "initial"
	ReasonRequested  = "requested"
	ReasonTableAdded = "table added"
	ReasonGap        = "gap"
	// ReasonRepair is that of rows that somebody asked for by their keys, which Again of the tables holds: the topic has them wrong.
	ReasonRepair = "repair"
	// ReasonBefore is that of the entry, with nothing to read, of a capture that had run before it made snapshots.
	ReasonBefore = "captured before"
)

// Handled is a request that is done with.
type Handled struct {
	Request   string    `json:"request"`
	At        time.Time `json:"at"`
	Rows      int64     `json:"rows"`
	Cancelled bool      `json:"cancelled,omitempty"`
	// Error says why it was refused, or ended before its time.
	Error string `json:"error,omitempty"`
}

// TableSnapshot is one table's part of a Snapshot.
type TableSnapshot struct {
	Table string `json:"table"`
	Where string `json:"where,omitempty"`
	// Begun says that Ranges are set: those parts of the table that are not read to their ends.
	Begun  bool    `json:"begun,omitempty"`
	Ranges []Range `json:"ranges,omitempty"`
	// Again are keys whose rows must be read again, since a change that came meanwhile told only a part of the row, or since
	// they are to be repaired. Each holds the wire forms of the key columns.
	Again [][][]byte `json:"again,omitempty"`
	Rows  int64      `json:"rows"`
	Done  bool       `json:"done,omitempty"`
	// Sweep says that after the rows those that are gone from the datastore are looked for in the topic: they were deleted
	// while a gap hid it.
	Sweep bool `json:"sweep,omitempty"`
}

// Range is a part of a table in key order: rows after After, up to Until; nil for the table's ends.
type Range struct {
	After sources.Cursor `json:"after,omitempty"`
	Until sources.Cursor `json:"until,omitempty"`
}

// Running tells whether there is a snapshot that has not ended. s may be nil.
func (s *Snapshot) Running() bool { return s != nil && s.EndedAt == nil }

// Name is what the snapshot is called by where it is to be cancelled: its request, or its number.
func (s *Snapshot) Name() string {
	if s.Request != "" {
		return s.Request
	}
	return strconv.FormatInt(s.ID, 10)
}

// Rows is how many rows it has written.
func (s *Snapshot) Rows() int64 {
	n := int64(0)
	for i := range s.Tables {
		n += s.Tables[i].Rows
	}
	return n
}

// Clone copies what a later change of s would change. s may be nil.
func (s *Snapshot) Clone() *Snapshot {
	if s == nil {
		return nil
	}
	c := *s
	c.Tables, c.Covered, c.Handled = slices.Clone(s.Tables), slices.Clone(s.Covered), slices.Clone(s.Handled)
	for i := range c.Tables {
		t := &c.Tables[i]
		t.Ranges, t.Again = slices.Clone(t.Ranges), slices.Clone(t.Again)
	}
	return &c
}
