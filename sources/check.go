package sources

import (
	"context"
	"encoding/json"
	"fmt"
)

// Checker is optional for a Config: a source that can tell beforehand what a capture lacks. Check changes nothing at the
// datastore. It returns within the time that ctx gives, and what it could not find out is a Finding too. A Problem is what
// would make Open fail, or make the application's own writes fail; what merely costs something, or may pass by itself, is a
// Warning.
type Checker interface {
	Check(ctx context.Context, o CheckOptions) []Finding
}

// CheckOptions is what a capture asks of its source; see OpenOptions.
type CheckOptions struct {
	Capture string
	Tables  []string
	Keys    map[string][]string
	// Position is that of the capture's checkpoint; nil if it has none, or if it is not known.
	Position Position
}

// Finding is one thing that a check has looked at.
type Finding struct {
	Level Level `json:"level"`
	// Subject is what the finding is about: "server", "role", "table public.orders". Findings of one subject follow each
	// other.
	Subject string `json:"subject"`
	// Text says what was found and what it means, in one sentence.
	Text string `json:"text"`
	// Remedy is what mends it: statements to run, else settings or a sentence. An OK needs none.
	Remedy string `json:"remedy,omitempty"`
	// Table is set where the finding is that a table is captured, so that others can tell its topic.
	Table *Table `json:"-"`
	// Unreachable says that the server did not answer, so that nothing is known; a retry may mend it.
	Unreachable bool `json:"unreachable,omitempty"`
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
