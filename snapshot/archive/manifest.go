package archive

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"weft/sources"
)

// formatVersion of the manifest and of the parts. A reader refuses higher ones.
const formatVersion = 1

// manifestName is the object that makes an archive exist.
const manifestName = "manifest.json"

// Manifest says what an archive holds.
type Manifest struct {
	Format int `json:"format"`
	// ID is TOPIC/TIME-RANDOM, which is also where the archive's objects are.
	ID      string `json:"id"`
	Capture string `json:"capture"`
	Topic   string `json:"topic"`
	Table   string `json:"table"`
	Dialect string `json:"dialect"`
	// Columns in the parts' order; Key names those of the record key, none for a keyless table.
	Columns []Column `json:"columns"`
	Key     []Column `json:"key"`
	Rows    int64    `json:"rows"`
	Parts   []Part   `json:"parts"`
	// Epoch and Seq are of the newest record that is in the image; empty where there is none.
	Epoch uint32 `json:"epoch"`
	Seq   string `json:"seq"`
	// Below is the cut: the image holds the records whose sequences sort below it, and nothing of the others.
	Below string `json:"below"`
	// NewestChange is the latest commit time of a record in the image, of a datastore that tells none the time at which the
	// record was written.
	NewestChange time.Time `json:"newest_change"`
	// Position is the source's at the checkpoint that the image was cut at.
	Position sources.Position `json:"position"`
	// Offsets holds the first offset of each partition that is not in the image.
	Offsets   []int64   `json:"offsets"`
	CreatedAt time.Time `json:"created_at"`
	// Parent is the ID of the archive that this one was made from; empty for the log's start.
	Parent string `json:"parent,omitempty"`
	// Partial says that the log no longer had the table's first changes, so that rows may be missing.
	Partial bool `json:"partial,omitempty"`
	// Writer is the version of Weft.
	Writer string `json:"writer"`
}

// Column is a column of an archive.
type Column struct {
	Name string `json:"name"`
	// Kind is how its values are stored. The log's records tell no types, so it is found from all values of the column that
	// are in the image.
	Kind Kind `json:"kind"`
}

// Part is an object of rows.
type Part struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

const nameForm = `[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[0-9a-f]{8}`

// Name matches what tells archives of a topic apart: when one was begun, and a number at random.
var Name = regexp.MustCompile(nameForm)

var (
	idForm   = regexp.MustCompile(`^[a-zA-Z0-9._-]+/` + nameForm + `$`)
	partForm = regexp.MustCompile(`^part-[0-9]{5}\.parquet$`)
)

const timeForm = "20060102T150405.000Z"

// Bytes of all parts.
func (m *Manifest) Bytes() int64 {
	n := int64(0)
	for _, p := range m.Parts {
		n += p.Bytes
	}
	return n
}

// decodeManifest reads a manifest that is stored as id's.
func decodeManifest(id string, text []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, damaged(id, "its manifest cannot be read: %w", err)
	}
	if m.Format > formatVersion {
		return nil, sources.Fatal("run the version of Weft that wrote it, or a newer one",
			"archive %s has format %d, written by Weft %s; this Weft reads up to %d", id, m.Format, m.Writer, formatVersion)
	}
	if m.Format < 1 || m.ID != id || m.Capture == "" || m.Table == "" || len(m.Offsets) == 0 {
		return nil, damaged(id, "its manifest is not one of it: format %d, id %q, capture %q, table %q", m.Format, m.ID, m.Capture, m.Table)
	}
	rows := int64(0)
	for _, p := range m.Parts {
		if !partForm.MatchString(p.Name) {
			return nil, damaged(id, "its manifest names a part %q", p.Name)
		}
		rows += p.Rows
	}
	if rows != m.Rows {
		return nil, damaged(id, "its manifest counts %d rows, its parts %d", m.Rows, rows)
	}
	for _, c := range append(append([]Column(nil), m.Columns...), m.Key...) {
		if !c.Kind.valid() {
			return nil, damaged(id, "its manifest gives column %q the kind %q", c.Name, c.Kind)
		}
	}
	return &m, nil
}

// damaged is the error of an archive that is not as it was written.
func damaged(id, format string, args ...any) error {
	return sources.Fatal("use an older archive (weft archive list), and remove what is left of this one from the bucket",
		"archive %s is damaged: %w", id, fmt.Errorf(format, args...))
}
