// Package checkpoint holds what a capture is resumed from: the checkpoint record and its codec, loading the newest one
// from the log, and scanning a partition of the log up to its end.
//
// Writing a checkpoint is not here: there is deliberately no way to save one but together with the records that it
// covers, which is package sink's work.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"weft/sources"
)

// Topic is the compacted topic of all captures' checkpoints, keyed by capture name. It has one partition: a checkpoint
// is a few hundred bytes a second and capture, and one partition is one place to read.
const Topic = "__weft.checkpoints"

// version of the record's form. A reader refuses higher ones; a field may be added without raising it only if an older
// Weft may drop it.
const version = 1

// Checkpoint is what is known to be in the log for one capture. The zero Checkpoint with an epoch of 1 is that of a
// capture that never ran.
type Checkpoint struct {
	Version   int    `json:"version"`
	Capture   string `json:"capture"`
	Connector string `json:"connector"`
	// Epoch grows by one at each gap; it begins every sequence, so that sequences grow although a datastore's own
	// positions may restart.
	Epoch    uint32           `json:"epoch"`
	Position sources.Position `json:"position"`
	// Offsets holds the next offset of each partition by topic, in sequenced delivery: records from there on may have
	// been written after this checkpoint.
	Offsets map[string][]int64 `json:"offsets,omitempty"`
	// Seq is the sequence, up to its ordinal, of the last change that was written before this checkpoint: what the log holds
	// of the capture up to here are the records whose sequences are not above it. Empty before the first change.
	Seq string `json:"seq,omitempty"`
	// Below is set where changes have an order per key only, so that the log may hold some that are above others which are still to
	// come: every record of the capture whose sequence is below it is in the log.
	Below string `json:"below,omitempty"`
	// Partial says that the source transaction of Seq is not complete.
	Partial bool `json:"partial,omitempty"`
	// Gap is the last one that the capture went over, if any.
	Gap *Gap `json:"gap,omitempty"`
	// Snapshot is the one that is under way, or the last one; nil before the first.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Changes counts those delivered since the capture's first start.
	Changes int64 `json:"changes"`
	// WrittenAt is the writer's clock, for people.
	WrittenAt time.Time `json:"written_at"`
	// Writer is the version of Weft that wrote it.
	Writer string `json:"writer"`
}

// Gap tells where changes were lost to a capture.
type Gap struct {
	Epoch  uint32           `json:"epoch"` // the one that began after it
	Reason string           `json:"reason"`
	From   sources.Position `json:"from"` // the last position before it
	To     sources.Position `json:"to"`   // where the capture went on; null for anew
	At     time.Time        `json:"at"`
}

// Encode returns the record value of c.
func Encode(c Checkpoint) ([]byte, error) {
	c.Version = version
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode checkpoint of capture %q: %w", c.Capture, err)
	}
	return value, nil
}

// Decode reads a record value that Encode of this or an older version made.
func Decode(value []byte) (Checkpoint, error) {
	var c Checkpoint
	if err := json.Unmarshal(value, &c); err != nil {
		return Checkpoint{}, fmt.Errorf("decode checkpoint: %w", err)
	}
	if c.Version > version {
		return Checkpoint{}, sources.Fatal(
			"run the version of Weft that wrote it, or a newer one",
			"checkpoint of capture %q has form %d, written by Weft %s; this Weft reads up to %d", c.Capture, c.Version, c.Writer, version)
	}
	if c.Version < 1 || c.Capture == "" || c.Epoch == 0 {
		return Checkpoint{}, fmt.Errorf("decode checkpoint: not one: version %d, capture %q, epoch %d", c.Version, c.Capture, c.Epoch)
	}
	if bytes.Equal(c.Position, []byte("null")) {
		c.Position = nil
	}
	return c, nil
}
