package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Checker is optional for a Config: a source that can tell beforehand what a capture lacks. Check changes nothing at the
// datastore, and returns soon after ctx ends. What it could not find out is a Finding too.
type Checker interface {
	Check(ctx context.Context, o CheckOptions) []Finding
}

// CheckOptions is what a capture asks of its source; see OpenOptions.
type CheckOptions struct {
	Capture string
	Tables  []string
	Keys    map[string][]string
	// Position is that of the capture's checkpoint, nil where it has none. PositionUnknown says that the checkpoint was
	// not looked at.
	Position        Position
	PositionUnknown bool
	// Captures names all captures of the log, so that what one of them left at the datastore is not taken for forgotten.
	Captures []string
	// Snapshot says that the capture reads its tables too, beside their changes.
	Snapshot bool
}

// Finding is one thing that a check has looked at.
type Finding struct {
	Level Level `json:"level"`
	// Subject is what the finding is about, such as "role" or "table public.orders". Findings of one subject follow each
	// other.
	Subject string `json:"subject"`
	// Text says what was found and what it means.
	Text string `json:"text"`
	// Remedy is what mends it. Where statements or a command do, they come first, to be run as they are, and what else there
	// is to say follows as a comment: ALTER ROLE "weft" REPLICATION; -- on Amazon RDS: ...
	Remedy string `json:"remedy,omitempty"`
	// Blocks says that the capture must not run before a Problem is mended: it would fail with it, or harm the
	// datastore's other users. Without it a Problem is one that may pass, or that is there whether the capture runs or not.
	Blocks bool `json:"blocks,omitempty"`
	// Table is set where the finding is that a table is captured: its name and its key, so that its topic can be told.
	Table *Table `json:"-"`
}

// Level is how much a Finding matters.
type Level int

const (
	OK      Level = iota // as it should be
	Warning              // works, at a cost or a risk that somebody should know of
	Problem              // does not work until somebody mends it
)

var levels = [...]string{OK: "ok", Warning: "warning", Problem: "problem"}

func (l Level) String() string {
	if l < 0 || int(l) >= len(levels) {
		return fmt.Sprintf("Level(%d)", int(l))
	}
	return levels[l]
}

// MarshalJSON writes the level's name.
func (l Level) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// Found makes a Problem of an error that Open would return. Only a *FatalError blocks: a *GapError is for the capture to
// go over or to stop at, and any other error is worth a retry.
func Found(subject string, err error) Finding {
	f := Finding{Level: Problem, Subject: subject, Text: err.Error()}
	var fatal *FatalError
	var gap *GapError
	switch {
	case errors.As(err, &fatal):
		f.Text, f.Remedy, f.Blocks = fatal.Err.Error(), fatal.Remedy, true
	case errors.As(err, &gap):
		f.Text, f.Remedy = gap.Reason, gap.Remedy
	}
	for _, end := range []string{": ", " "} { // said once
		f.Text = strings.TrimPrefix(f.Text, subject+end)
	}
	return f
}
