package envelope

import (
	"errors"
	"strings"

	"weft/sources"
)

// ValueError says that a value cannot be carried by the dialect. It is fatal: errors.As also finds a
// *sources.FatalError in it. It names where the value is and never the value itself.
type ValueError struct {
	// Table is SCHEMA.NAME; Column is empty when the change as a whole is at fault.
	Table, Column string
	// Key is the JSON text of the row's key; empty for a keyless table, or when the key itself is at fault.
	Key            string
	Reason, Remedy string
}

func (e *ValueError) Error() string {
	var b strings.Builder
	b.WriteString("encode change")
	if e.Table != "" {
		b.WriteString(" of table " + e.Table)
	}
	if e.Column != "" {
		b.WriteString(", column " + e.Column)
	}
	if e.Key != "" {
		b.WriteString(", key " + e.Key)
	}
	b.WriteString(": " + e.Reason + "; to mend it: " + e.Remedy)
	return b.String()
}

// Unwrap gives the same fault as a *sources.FatalError.
func (e *ValueError) Unwrap() error {
	return &sources.FatalError{Err: errors.New(e.Reason), Remedy: e.Remedy}
}

// fault is a ValueError without its place, as the codecs return it.
type fault struct{ reason, remedy string }

func (f *fault) Error() string { return f.reason }

const (
	useJSON   = "use `dialect: json`, which carries it, or change the value at the source"
	excludeIt = "change the value at the source, or leave the table out of the capture"
	reportIt  = "the source delivered a text that its type does not allow: report it with the column's type, or leave the " +
		"table out of the capture"
)

// malformed are texts that a source must not deliver: to pass one on would be to guess what it means.
var (
	errUTF8      = &fault{"the text is not valid UTF-8, which JSON requires", excludeIt}
	errBool      = &fault{"the value is not a boolean (t or f)", reportIt}
	errInt       = &fault{"the value is not an integer", reportIt}
	errFloat     = &fault{"the value is not a floating-point number", reportIt}
	errDecimal   = &fault{"the value is not a decimal number", reportIt}
	errBits      = &fault{"the value is not a string of 0 and 1", reportIt}
	errDate      = &fault{"the value is not a date", reportIt}
	errTime      = &fault{"the value is not a time of day", reportIt}
	errTimestamp = &fault{"the value is not a timestamp", reportIt}
	errInterval  = &fault{"the value is not an interval", reportIt}
	errPoint     = &fault{"the value is not a point", reportIt}
	errMap       = &fault{"the value is not an hstore", reportIt}
	errArray     = &fault{"the value is not an array literal", reportIt}
	errHex       = &fault{"the array's element is not bytes in hex", reportIt}
)

// These values are sound, and the debezium dialect has no place for them.
var (
	errDecimalSpecial  = &fault{"the debezium dialect has no NaN or infinity for decimals", useJSON}
	errDecimalScale    = &fault{"the decimal does not fit the scale that its column declares", reportIt}
	errTimestampRange  = &fault{"the timestamp is beyond what the debezium dialect's 64-bit number holds", useJSON}
	errTimestampTwin   = &fault{"the timestamp is the very number by which the debezium dialect says infinity", useJSON}
	errTimePrecision   = &fault{"the value has a finer fraction of a second than its column declares", reportIt}
	errDateRange       = &fault{"the date is beyond what the debezium dialect's 32-bit number of days holds", useJSON}
	errIntervalRange   = &fault{"the interval is beyond what the debezium dialect's 64-bit number of microseconds holds", useJSON}
	errIntervalSpecial = &fault{"the debezium dialect has no infinite interval", useJSON}
	errBitsLength      = &fault{"the debezium dialect drops the leading zeros of a bit string of varying length", useJSON}
	errBounds          = &fault{"the array's lower bounds are not 1, and the debezium dialect has no place for them", useJSON}
)

var (
	errKeyUnknown = &fault{"the datastore did not send this key column's value",
		"make the column part of the table's replica identity: ALTER TABLE ... REPLICA IDENTITY FULL, or USING INDEX"}
	errColumns = &fault{"the change does not hold a value for each column of its table", reportIt}
	errNoRow   = &fault{"the change lacks the row that its op requires", reportIt}
	errOp      = &fault{"the change's op is unknown", reportIt}
)
