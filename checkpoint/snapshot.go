package checkpoint

import (
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
	// Reason says why it was begun, for people: "initial", "requested", "table added", "gap".
	Reason    string          `json:"reason"`
	StartedAt time.Time       `json:"started_at"`
	EndedAt   *time.Time      `json:"ended_at,omitempty"`
	Cancelled bool            `json:"cancelled,omitempty"`
	Tables    []TableSnapshot `json:"tables"`
}

// TableSnapshot is one table's part of a Snapshot.
type TableSnapshot struct {
	Table string `json:"table"`
	Where string `json:"where,omitempty"`
	// Ranges are those parts of the table that are not read to their ends; nil before the table is begun.
	Ranges []Range `json:"ranges,omitempty"`
	// Again are keys whose rows must be read again, since a change that came meanwhile told only a part of the row. Each
	// holds the wire forms of the key columns.
	Again [][][]byte `json:"again,omitempty"`
	Rows  int64      `json:"rows"`
	// Estimate of the table's rows when it was begun, 0 where unknown.
	Estimate int64 `json:"estimate,omitempty"`
	Done     bool  `json:"done,omitempty"`
	// Sweep says that after the rows those that are gone from the datastore are looked for in the topic: they were deleted
	// while a gap hid it.
	Sweep bool `json:"sweep,omitempty"`
}

// Range is a part of a table in key order: rows after After, up to Until; nil for the table's ends.
type Range struct {
	After sources.Cursor `json:"after,omitempty"`
	Until sources.Cursor `json:"until,omitempty"`
}
