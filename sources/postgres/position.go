package postgres

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

// lsn is a place in the server's write-ahead log; as text 16/B374D848.
type lsn uint64

func (l lsn) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

func (l lsn) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l *lsn) UnmarshalText(text []byte) error {
	high, low, ok := strings.Cut(string(text), "/")
	if !ok {
		return fmt.Errorf("%q is no LSN such as 16/B374D848", text)
	}
	h, err := strconv.ParseUint(high, 16, 32)
	if err != nil {
		return fmt.Errorf("%q is no LSN such as 16/B374D848", text)
	}
	w, err := strconv.ParseUint(low, 16, 32)
	if err != nil {
		return fmt.Errorf("%q is no LSN such as 16/B374D848", text)
	}
	*l = lsn(h<<32 | w)
	return nil
}

func parseLSN(text string) (lsn, error) {
	var l lsn
	err := l.UnmarshalText([]byte(text))
	return l, err
}

// position is what a sources.Position of this source holds.
type position struct {
	// System is the cluster's system identifier, Timeline its timeline when the position was made.
	System   string `json:"system"`
	Timeline int32  `json:"timeline"`
	Database string `json:"database"`
	Slot     string `json:"slot"`
	// LSN is where the server starts again: what ends at or before it is done. Zero only while Creating.
	LSN lsn         `json:"lsn,omitempty"`
	TX  *txPosition `json:"tx,omitempty"`
	// Creating: the slot is about to be made. A slot that exists is then ours and still at its creation point, since the
	// next position is written before anything of it is confirmed.
	Creating bool `json:"creating,omitempty"`
	// Replace comes with Creating: the slot of this name is useless and is to be dropped first.
	Replace bool `json:"replace,omitempty"`
	// Unseen are transactions that were returned, or could have been, and that were not yet known to be visible.
	Unseen *visibility.Unseen `json:"unseen,omitempty"`
	// Since is a transaction that had ended when the slot was made: what has got into the publication by a later one is not
	// in the stream from its beginning. Zero where that is not known.
	Since uint64 `json:"since,omitempty"`
}

// txPosition says how much of the transaction that follows position.LSN is done.
type txPosition struct {
	FinalLSN lsn    `json:"final_lsn"`
	XID      uint32 `json:"xid"`
	// Events counts the row changes, the relations of truncates and the messages that are done, filtered ones included.
	Events int64 `json:"events"`
	// Hash is the xxhash64 of those events' frames, as 16 hex digits.
	Hash string `json:"hash"`
}

func (p position) encode() sources.Position {
	text, err := json.Marshal(p)
	if err != nil {
		// Strings, integers and LSNs always marshal.
		return nil
	}
	return text
}

func decodePosition(text sources.Position) (position, error) {
	var p position
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&p)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = fmt.Errorf("something follows the JSON value")
		}
	}
	if err != nil && strings.Contains(err.Error(), "unknown field") {
		return p, sources.Fatal("run the version of Weft that wrote the checkpoint, or a newer one",
			"the position %s was written by a newer Weft: %w", text, err)
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return p, sources.Fatal("set a position that this capture's checkpoint held before (weft checkpoint set)",
			"the position %s is none of the PostgreSQL source: %w", text, err)
	}
	return p, nil
}

func (p position) check() error {
	switch {
	case p.System == "" || p.Database == "" || p.Slot == "":
		return fmt.Errorf("system, database and slot must be set")
	case p.Replace && !p.Creating:
		return fmt.Errorf("replace comes only with creating")
	case p.Creating != (p.LSN == 0):
		return fmt.Errorf("exactly one of lsn and creating must be set")
	case p.Unseen != nil && p.Unseen.Check() != nil:
		return p.Unseen.Check()
	case p.TX == nil:
		return nil
	case p.Creating:
		return fmt.Errorf("creating and tx exclude each other")
	case p.TX.Events <= 0 || p.TX.FinalLSN == 0:
		return fmt.Errorf("tx.events and tx.final_lsn must be above zero")
	}
	if _, err := strconv.ParseUint(p.TX.Hash, 16, 64); err != nil || len(p.TX.Hash) != 16 {
		return fmt.Errorf("tx.hash must be 16 hex digits")
	}
	return nil
}
