package spanner

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"cloud.google.com/go/spanner"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// A cursor is the key of the row behind which it stands, each column as Spanner's protocol writes it:
//
//	{"after":["17","a line",null,true,2.5]}
//
// The protocol tells types by the column: integers, times and bytes are strings, and NULL is null.

// cursorAt stands behind a row with this key.
func cursorAt(key []*structpb.Value) (sources.Cursor, error) {
	parts := make([]any, len(key))
	for i, v := range key {
		parts[i] = v.AsInterface()
	}
	c, err := json.Marshal(map[string]any{"after": parts})
	if err != nil {
		return nil, fmt.Errorf("make a cursor: %w", err)
	}
	return c, nil
}

// parseCursor reads the key of a cursor of a table with a key of so many columns; nil is none.
func parseCursor(c sources.Cursor, columns int) (spanner.Key, error) {
	if c == nil {
		return nil, nil
	}
	var place struct {
		After []any `json:"after"`
	}
	err := json.Unmarshal(c, &place)
	if err == nil && len(place.After) != columns {
		err = fmt.Errorf("it has %d columns, the key %d", len(place.After), columns)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cursor %s: %w", c, err)
	}
	key := make(spanner.Key, len(place.After))
	for i, part := range place.After {
		switch part.(type) {
		case string, bool, float64:
			key[i] = part
		case nil:
			key[i] = spanner.NullString{}
		default:
			return nil, fmt.Errorf("read the cursor %s: %v is no value of a key column", c, part)
		}
	}
	return key, nil
}

// wireKey makes a key of the wire forms of its columns, nil for null.
func wireKey(t *sources.Table, wire [][]byte) (spanner.Key, error) {
	if len(wire) != len(t.Key) {
		return nil, fmt.Errorf("the key has %d columns, and %d are asked for", len(t.Key), len(wire))
	}
	key := make(spanner.Key, len(wire))
	for i, text := range wire {
		column := &t.Columns[t.Key[i]]
		if text == nil {
			key[i] = spanner.NullString{}
			continue
		}
		var err error
		if key[i], err = keyPart(text, column.Type.Kind); err != nil {
			return nil, fmt.Errorf("column %s of the key holds %q: %w", column.Name, text, err)
		}
	}
	return key, nil
}

// keyPart is a wire form as the protocol writes it.
func keyPart(text []byte, kind sources.Kind) (any, error) {
	switch kind {
	case sources.Bool:
		if s := string(text); s != "t" && s != "f" {
			return nil, errValue
		}
		return text[0] == 't', nil
	case sources.Float:
		switch s := string(text); s {
		case "NaN", "Infinity", "-Infinity":
			return s, nil
		default:
			return strconv.ParseFloat(s, 64)
		}
	case sources.Bytes:
		return base64.StdEncoding.EncodeToString(text), nil
	case sources.TimestampTZ: // 2026-01-02 03:04:05.123456789+00
		const date, zone = len("2006-01-02"), len("+00")
		if len(text) < date+1+zone || text[date] != ' ' || string(text[len(text)-zone:]) != "+00" {
			return nil, errValue
		}
		return string(text[:date]) + "T" + string(text[date+1:len(text)-zone]) + "Z", nil
	}
	return string(text), nil
}
