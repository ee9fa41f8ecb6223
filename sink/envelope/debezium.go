package envelope

import (
	"encoding/binary"
	"math"
	"strconv"

	"weft/sources"
)

// What the debezium dialect writes for a value that nobody knows: Debezium's default of unavailable.value.placeholder, its
// bytes in base64, and for an array of integers its bytes as integers (UnchangedToastedPlaceholder in Debezium's source).
const (
	placeholder      = `"__debezium_unavailable_value"`
	placeholderBytes = `"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="`
	placeholderInts  = `[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]`
)

// The numbers by which Debezium 3.6 says infinity. Those of a timestamp are the JDBC driver's milliseconds whatever the
// column's unit; those of a date are the ends of PostgreSQL's 32-bit days since 2000, shifted to 1970 and wrapped.
const (
	timestampInfinity      = 9223372036825200000
	timestampMinusInfinity = -9223372036832400000
	dateInfinity           = math.MinInt32 + 10956
	dateMinusInfinity      = math.MinInt32 + 10957
)

// debezium completes the codec of a kind that the two dialects write differently, for the debezium dialect.
func (c *codec) debezium(t *sources.Type) {
	switch t.Kind {
	case sources.Decimal:
		c.append, c.scale, c.variable = appendDecimalBytes, t.Scale, t.Precision == 0
	case sources.Bits:
		c.append, c.fixed = appendBitsBytes, t.Precision > 0
		if t.Precision == 1 {
			c.append = appendBit
		}
	case sources.Date:
		c.append = appendDays
	case sources.Time:
		c.append, c.unit = appendTimeNumber, timeUnit(t.Precision)
	case sources.TimeTZ:
		// Debezium moves the time to UTC, which loses the offset, and the day with it; ours keeps it.
		c.append = appendTimeTZText
	case sources.Timestamp:
		c.append, c.unit = appendTimestampNumber, timeUnit(t.Precision)
	case sources.TimestampTZ:
		c.append, c.fraction = appendZonedTimestamp, t.Precision
	case sources.Interval:
		c.append = appendIntervalMicros
	case sources.Point:
		c.append = appendPointWKB
	case sources.Map:
		c.append = appendMapString
	}
}

// timeUnit is Debezium's adaptive precision: milliseconds up to three digits, microseconds up to six, then nanoseconds.
func timeUnit(precision int) int64 {
	switch {
	case precision <= 3:
		return 1_000_000
	case precision <= 6:
		return 1_000
	}
	return 1
}

func appendDays(_ *codec, dst, data []byte) ([]byte, error) {
	switch string(data) {
	case "infinity":
		return strconv.AppendInt(dst, dateInfinity, 10), nil
	case "-infinity":
		return strconv.AppendInt(dst, dateMinusInfinity, 10), nil
	}
	s, bc := cutBC(data)
	d, rest, ok := parseDate(s, bc)
	if !ok || len(rest) > 0 {
		return dst, errDate
	}
	n := d.days()
	if n > math.MaxInt32 || n <= dateMinusInfinity {
		return dst, errDateRange
	}
	return strconv.AppendInt(dst, n, 10), nil
}

func appendTimeNumber(c *codec, dst, data []byte) ([]byte, error) {
	nanos, n, ok := parseClock(data)
	if !ok || n != len(data) {
		return dst, errTime
	}
	if nanos%c.unit != 0 {
		return dst, errTimePrecision
	}
	return strconv.AppendInt(dst, nanos/c.unit, 10), nil
}

func appendTimestampNumber(c *codec, dst, data []byte) ([]byte, error) {
	switch string(data) {
	case "infinity":
		return strconv.AppendInt(dst, timestampInfinity, 10), nil
	case "-infinity":
		return strconv.AppendInt(dst, timestampMinusInfinity, 10), nil
	}
	t, ok := parseTimestamp(data)
	if !ok || len(t.zone) > 0 {
		return dst, errTimestamp
	}
	if t.nanos%c.unit != 0 {
		return dst, errTimePrecision
	}
	n, ok := mulAdd(t.date.days(), day/c.unit, t.nanos/c.unit)
	if !ok {
		return dst, errTimestampRange
	}
	if n == timestampInfinity || n == timestampMinusInfinity {
		return dst, errTimestampTwin
	}
	return strconv.AppendInt(dst, n, 10), nil
}

// appendZonedTimestamp appends as many digits of a second as the column declares.
func appendZonedTimestamp(c *codec, dst, data []byte) ([]byte, error) {
	return appendZoned(dst, data, c.fraction)
}

// monthMicros is the length that Debezium gives to a month: a twelfth of 365.25 days.
const monthMicros = 2_629_800_000_000

func appendIntervalMicros(_ *codec, dst, data []byte) ([]byte, error) {
	if infinite(data) {
		return dst, errIntervalSpecial
	}
	v, ok := parseInterval(data)
	if !ok {
		return dst, errInterval
	}
	n, ok := v.micros()
	if ok {
		n, ok = mulAdd(v.days, day/1000, n)
	}
	if ok {
		n, ok = mulAdd(v.months, monthMicros, n)
	}
	if !ok {
		return dst, errIntervalRange
	}
	return strconv.AppendInt(dst, n, 10), nil
}

func appendBit(_ *codec, dst, data []byte) ([]byte, error) {
	if len(data) != 1 || !validBits(data) {
		return dst, errBits
	}
	if data[0] == '1' {
		return append(dst, "true"...), nil
	}
	return append(dst, "false"...), nil
}

// appendBitsBytes appends the base64 of the bits as a number in little-endian bytes: as many bytes as the column's length
// needs, or as the number needs where the length varies.
func appendBitsBytes(c *codec, dst, data []byte) ([]byte, error) {
	if !validBits(data) {
		return dst, errBits
	}
	if !c.fixed && len(data) > 1 && data[0] == '0' {
		return dst, errBitsLength
	}
	start := len(dst)
	for end := len(data); end > 0; end -= 8 {
		var b byte
		for _, bit := range data[max(end-8, 0):end] {
			b = b<<1 | (bit - '0')
		}
		dst = append(dst, b)
	}
	end := len(dst)
	dst = appendBase64(dst, dst[start:end])
	return cut(dst, start, end), nil
}

// appendPointWKB appends Debezium's point: the coordinates, and both once more as well-known binary.
func appendPointWKB(_ *codec, dst, data []byte) ([]byte, error) {
	x, y, ok := parsePoint(data)
	if !ok {
		return dst, errPoint
	}
	dst = appendXY(dst, x, y)
	var wkb [21]byte
	wkb[0] = 1                                // little-endian
	binary.LittleEndian.PutUint32(wkb[1:], 1) // a point
	for i, text := range [][]byte{x, y} {
		f, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return dst, errPoint
		}
		binary.LittleEndian.PutUint64(wkb[5+8*i:], math.Float64bits(f))
	}
	dst = append(dst, `,"wkb":`...)
	dst = appendBase64(dst, wkb[:])
	return append(dst, `,"srid":null}`...), nil
}
