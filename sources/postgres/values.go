package postgres

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"weft/sources"
)

// needsNormalize says whether values of the type are sent in another form than the Kind's, so that normalize must see
// them: bytea and money. A numeric(19,2), which looks like money, is seen too and stays as it is.
func needsNormalize(t *sources.Type) bool {
	return t.Kind == sources.Bytes || t.Kind == sources.Decimal && t.Precision == moneyPrecision && t.Scale == moneyScale
}

// normalize turns a value that the server sent into the wire form of its Kind. It writes into the value's own memory, so
// it must be called once a value, and a value is lost by an error. Types for which needsNormalize is false stay as they
// are. Errors are *sources.FatalError: the session's settings are not those that the source asked for.
func normalize(t *sources.Type, v *sources.Value) error {
	if v.State != sources.Present || !needsNormalize(t) {
		return nil
	}
	if t.Kind == sources.Bytes {
		return decodeBytea(v)
	}
	return decodeMoney(v)
}

// decodeBytea turns \xdeadbeef into four bytes.
func decodeBytea(v *sources.Value) error {
	text := v.Data
	if len(text) < 2 || text[0] != '\\' || text[1] != 'x' {
		return badSetting("bytea_output", "hex", `bytea value of %d bytes does not begin with \x`, len(text))
	}
	// Decode reads a pair of digits before it writes their byte, and is always ahead of what it writes.
	n, err := hex.Decode(text, text[2:])
	if err != nil {
		return badSetting("bytea_output", "hex", "bytea value of %d bytes: after byte %d: %w", len(text), 2+2*n, err)
	}
	v.Data = text[:n:n]
	return nil
}

// decodeMoney turns $1,234.56 into 1234.56, and -$1,234.56 and ($1,234.56) into -1234.56. A numeric's text stays as it
// is. The server stores a count of the smallest unit, which lc_monetary C shows as hundredths; in a database whose own
// lc_monetary has another number of decimals, such as that of the yen, the same count means another amount: checkMoney
// refuses that.
func decodeMoney(v *sources.Value) error {
	text := v.Data
	if isNumeric(text) {
		return nil
	}
	var amount []byte
	negative := false
	switch {
	case bytes.HasPrefix(text, []byte("$")):
		amount = text[1:]
	case bytes.HasPrefix(text, []byte("-$")):
		amount, negative = text[2:], true
	case bytes.HasPrefix(text, []byte("($")) && bytes.HasSuffix(text, []byte(")")):
		amount, negative = text[2:len(text)-1], true
	}
	point := len(amount) - 3
	if point < 1 {
		return badMoney(text)
	}
	// What is written is never longer than what has been read, the currency sign included.
	out := text[:0]
	if negative {
		out = append(out, '-')
	}
	for i, c := range amount {
		switch {
		case i == point && c == '.', i != point && c >= '0' && c <= '9':
			out = append(out, c)
		case i > 0 && i < point && c == ',':
		default:
			return badMoney(text)
		}
	}
	v.Data = out[:len(out):len(out)]
	return nil
}

// isNumeric says whether text may be a numeric's: digits with a sign and a point, or NaN. In no locale is that money's
// text, which has a currency sign.
func isNumeric(text []byte) bool {
	for _, c := range text {
		if (c < '0' || c > '9') && c != '-' && c != '.' {
			return string(text) == "NaN"
		}
	}
	return len(text) > 0
}

func badMoney(text []byte) error {
	return badSetting("lc_monetary", "C", "money value of %d bytes is not of the form -$1,234.56", len(text))
}

// badSetting is the error for a value that shows that the session has not the setting that the source asked for. The
// value itself is somebody's data and is not told.
func badSetting(setting, want, format string, args ...any) error {
	remedy := fmt.Sprintf("see that the session keeps %s = %s, which is asked for when it starts: a pooler or proxy in "+
		"front of the server must pass startup parameters on", setting, want)
	return sources.Fatal(remedy, format, args...)
}
