package envelope

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"weft/sources"
)

// ErrKeyForm says that a key's JSON does not tell its columns' wire forms.
var ErrKeyForm = errors.New("the key cannot be read back from the record")

// DecodeKey returns the wire forms of a record key's columns, in t.Key's order, nil for null. It is the inverse of what Encode
// writes: an error, which is ErrKeyForm, comes for a key that Encode would not write for them.
func (e *Encoder) DecodeKey(t *sources.Table, key []byte) ([][]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(key, &members); err != nil {
		return nil, fmt.Errorf("decode key %s of table %s: %w: %w", key, t, ErrKeyForm, err)
	}
	row := make([]sources.Value, len(t.Columns))
	wire := make([][]byte, 0, len(t.Key))
	for _, i := range t.Key {
		raw, ok := members[t.Columns[i].Name]
		if !ok {
			return nil, fmt.Errorf("decode key %s of table %s: %w: it lacks column %q", key, t, ErrKeyForm, t.Columns[i].Name)
		}
		if string(raw) == "null" {
			wire = append(wire, nil)
			continue
		}
		data, err := decodeValue(e.dialect, &t.Columns[i].Type, raw)
		if err != nil {
			return nil, fmt.Errorf("decode key %s of table %s, column %q: %w: %w", key, t, t.Columns[i].Name, ErrKeyForm, err)
		}
		row[i] = sources.Value{State: sources.Present, Data: data}
		wire = append(wire, data)
	}
	compiled, err := e.table(t)
	if err != nil {
		return nil, err
	}
	buf, at, err := compiled.appendKey(nil, row, nil)
	if err != nil {
		return nil, fmt.Errorf("decode key %s of table %s: %w: %w", key, t, ErrKeyForm, err)
	}
	if again := at.of(buf); string(again) != string(key) {
		return nil, fmt.Errorf("decode key %s of table %s: %w: it would be written as %s", key, t, ErrKeyForm, again)
	}
	return wire, nil
}

// decodeValue undoes the codec of a type. What it makes is checked by encoding it again.
func decodeValue(d Dialect, t *sources.Type, raw json.RawMessage) ([]byte, error) {
	if raw[0] != '"' {
		return decodePlain(d, t, raw)
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	switch {
	case t.Kind == sources.Bytes:
		return base64.StdEncoding.DecodeString(text)
	case t.Kind == sources.TimestampTZ, t.Kind == sources.Timestamp:
		return decodeTimestamp(t.Kind, text), nil
	case t.Kind == sources.Date:
		return decodeYear(text), nil
	case d == Debezium && t.Kind == sources.Decimal:
		return decodeUnscaled(text, t.Scale)
	}
	return []byte(text), nil
}

func decodePlain(d Dialect, t *sources.Type, raw json.RawMessage) ([]byte, error) {
	switch t.Kind {
	case sources.Bool:
		return raw[:1:1], nil
	case sources.Date, sources.Timestamp:
		if d != Debezium {
			break
		}
		n, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return nil, err
		}
		return decodeEpoch(t, n), nil
	}
	return raw, nil
}

// decodeEpoch is a debezium number of days, milliseconds or microseconds as the wire form. Years before 1 do not come back.
func decodeEpoch(t *sources.Type, n int64) []byte {
	if t.Kind == sources.Date {
		return []byte(time.Unix(0, 0).UTC().AddDate(0, 0, int(n)).Format("2006-01-02"))
	}
	at := time.UnixMicro(n).UTC()
	if t.Precision <= 3 {
		at = time.UnixMilli(n).UTC()
	}
	return []byte(at.Format("2006-01-02 15:04:05.999999"))
}

// decodeTimestamp is ISO 8601 as the wire form.
func decodeTimestamp(kind sources.Kind, text string) []byte {
	date, clock, ok := strings.Cut(text, "T")
	if !ok {
		return []byte(text) // infinity
	}
	year := string(decodeYear(date))
	date, era := year, ""
	if cut, isBC := strings.CutSuffix(year, " BC"); isBC {
		date, era = cut, " BC"
	}
	if kind == sources.TimestampTZ {
		clock = strings.TrimSuffix(clock, "Z")
		if strings.Contains(clock, ".") { // in the debezium dialect with all the digits that the column has
			clock = strings.TrimRight(strings.TrimRight(clock, "0"), ".")
		}
		clock += "+00"
	}
	return []byte(date + " " + clock + era)
}

// decodeYear is a date whose year may have a sign as the wire form.
func decodeYear(text string) []byte {
	if after, ok := strings.CutPrefix(text, "+"); ok {
		return []byte(after)
	}
	year, rest, ok := strings.Cut(strings.TrimPrefix(text, "-"), "-")
	n, err := strconv.Atoi(year)
	if !ok || err != nil || (n > 0 && text[0] != '-') {
		return []byte(text) // AD, or -infinity
	}
	return []byte(fmt.Sprintf("%04d-%s BC", n+1, rest))
}

// decodeUnscaled is a debezium decimal of a fixed scale as the wire form.
func decodeUnscaled(text string, scale int) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("decode an unscaled number of %d bytes: %w", len(raw), errors.Join(err, errDecimal))
	}
	n := new(big.Int).SetBytes(raw)
	if raw[0] >= 0x80 { // two's complement
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
	}
	return []byte(new(big.Rat).SetFrac(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).FloatString(scale)), nil
}
