package polling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"weft/sources"
)

// position is the JSON of a sources.Position: {"database":"6f1c...","poll":12,"tables":{"orders":{"watermark":34}}}.
type position struct {
	Database string                   `json:"database"`
	Poll     uint64                   `json:"poll"` // the number of the last poll that found something
	Tables   map[string]tablePosition `json:"tables"`
	// Reconciled is when deleted rows were last looked for in all tables, in seconds since 1970.
	Reconciled int64 `json:"reconciled,omitempty"`
}

// tablePosition is how far a table has been read: all rows whose watermark is at most Watermark.
type tablePosition struct {
	Watermark int64 `json:"watermark"`
	// Cursor is where in the rows above Watermark reading goes on, nil for the first of them. It is the dialect's.
	Cursor json.RawMessage `json:"cursor,omitempty"`
	// Identity is the table's at that time; see table.
	Identity string `json:"identity,omitempty"`
}

func (t tablePosition) equal(o tablePosition) bool {
	return t.Watermark == o.Watermark && t.Identity == o.Identity && bytes.Equal(t.Cursor, o.Cursor)
}

func (p position) encode() (sources.Position, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode position: %w", err)
	}
	return b, nil
}

func parsePosition(b sources.Position) (position, error) {
	var p position
	err := json.Unmarshal(b, &p)
	if err == nil && (p.Database == "" || p.Tables == nil) {
		err = fmt.Errorf("database or tables is missing")
	}
	if err != nil {
		return p, sources.Fatal("set the capture's checkpoint to a position that this source returned",
			"position %s is not one of a polling source: %w", b, err)
	}
	return p, nil
}

// highest and lowest are over all tables' watermarks; 0 where there are none.
func (p position) highest() int64 {
	var highest int64
	for _, t := range p.Tables {
		highest = max(highest, t.Watermark)
	}
	return highest
}

func (p position) lowest() int64 {
	var lowest int64
	first := true
	for _, t := range p.Tables {
		if first || t.Watermark < lowest {
			lowest, first = t.Watermark, false
		}
	}
	return lowest
}

// An Order is the poll's number and the change's index in it, in hexadecimal: 000000000000000c.00000003.
const (
	pollDigits  = 16
	indexDigits = 8
	orderWidth  = pollDigits + 1 + indexDigits
)

func appendOrder(dst []byte, poll uint64, index int) []byte {
	dst = appendHex(dst, poll, pollDigits)
	dst = append(dst, '.')
	return appendHex(dst, uint64(index), indexDigits)
}

func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// pollOf is the poll of an Order, 0 of none.
func pollOf(order []byte) (uint64, error) {
	if order == nil {
		return 0, nil
	}
	if len(order) != orderWidth || order[pollDigits] != '.' {
		return 0, fmt.Errorf("order %q, above which to go on, is not one of a polling source", order)
	}
	poll, err := strconv.ParseUint(string(order[:pollDigits]), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("order %q, above which to go on, is not one of a polling source: %w", order, err)
	}
	return poll, nil
}
