package envelope

import (
	"bytes"
	"math/bits"
	"strconv"
)

// date is a day of the proleptic Gregorian calendar, with the astronomical year: 1 BC is 0.
type date struct{ year, month, day int64 }

// parseDate reads the date that s starts with, 2026-02-28 or 5874897-12-31, and returns what follows it. The BC that
// PostgreSQL writes at the very end, after a time, is for the caller to cut off and to tell.
func parseDate(s []byte, bc bool) (d date, rest []byte, ok bool) {
	n := digits(s)
	if n < 4 || n > 9 || len(s) < n+6 || s[n] != '-' || s[n+3] != '-' {
		return d, nil, false
	}
	year, ok1 := number(s[:n])
	month, ok2 := number(s[n+1 : n+3])
	day, ok3 := number(s[n+4 : n+6])
	if bc {
		if year == 0 {
			return d, nil, false
		}
		year = 1 - year
	}
	d = date{year, month, day}
	if !ok1 || !ok2 || !ok3 || month < 1 || month > 12 || day < 1 || day > d.monthDays() {
		return d, nil, false
	}
	return d, s[n+6:], true
}

func (d date) monthDays() int64 {
	switch d.month {
	case 2:
		if d.year%4 == 0 && (d.year%100 != 0 || d.year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// days counts from 1970-01-01 (https://howardhinnant.github.io/date_algorithms.html#days_from_civil).
func (d date) days() int64 {
	y := d.year
	if d.month <= 2 {
		y--
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	ofEra := y - era*400
	ofYear := (153*((d.month+9)%12)+2)/5 + d.day - 1
	return era*146097 + ofEra*365 + ofEra/4 - ofEra/100 + ofYear - 719468
}

// append writes the date as ISO 8601 does: a year outside of 0..9999 has a sign.
func (d date) append(dst []byte) []byte {
	year := d.year
	if year < 0 {
		dst, year = append(dst, '-'), -year
	} else if year > 9999 {
		dst = append(dst, '+')
	}
	for limit := int64(1000); limit > 1 && year < limit; limit /= 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendInt(dst, year, 10)
	return append(dst, '-', byte('0'+d.month/10), byte('0'+d.month%10), '-', byte('0'+d.day/10), byte('0'+d.day%10))
}

// cutBC cuts off the BC that ends a date or timestamp.
func cutBC(s []byte) ([]byte, bool) { return bytes.CutSuffix(s, bc) }

var bc = []byte(" BC")

// infinite tells the two dates and timestamps that are no dates.
func infinite(s []byte) bool { return string(s) == "infinity" || string(s) == "-infinity" }

const (
	second = 1_000_000_000
	day    = 24 * 3600 * second
)

// parseClock reads the time of day that s starts with, 23:59:59.123456 or 24:00:00, in nanoseconds. length is that of its
// text; what follows is the caller's.
func parseClock(s []byte) (nanos int64, length int, ok bool) {
	if len(s) < 8 || s[2] != ':' || s[5] != ':' {
		return 0, 0, false
	}
	h, ok1 := number(s[:2])
	m, ok2 := number(s[3:5])
	sec, ok3 := number(s[6:8])
	if !ok1 || !ok2 || !ok3 || m > 59 || sec > 59 {
		return 0, 0, false
	}
	nanos, length = ((h*60+m)*60+sec)*second, 8
	if len(s) > 8 && s[8] == '.' {
		n := digits(s[9:])
		if n == 0 || n > 9 {
			return 0, 0, false
		}
		fraction, _ := number(s[9 : 9+n])
		for range 9 - n {
			fraction *= 10
		}
		nanos, length = nanos+fraction, 9+n
	}
	return nanos, length, nanos <= day
}

// parseOffset reads all of +02, +05:30 or -01:02:03, in seconds.
func parseOffset(s []byte) (seconds int64, ok bool) {
	if len(s) != 3 && len(s) != 6 && len(s) != 9 || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	unit := int64(3600)
	for i := 1; i < len(s); i += 3 {
		n, ok := number(s[i : i+2])
		if !ok || i > 1 && (s[i-1] != ':' || n > 59) {
			return 0, false
		}
		seconds, unit = seconds+n*unit, unit/60
	}
	if s[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

// appendOffset appends an offset that parseOffset has accepted: Z for none, hours and minutes otherwise.
func appendOffset(dst, s []byte, seconds int64) []byte {
	if seconds == 0 {
		return append(dst, 'Z')
	}
	dst = append(dst, s...)
	if len(s) == 3 {
		dst = append(dst, ":00"...)
	}
	return dst
}

func appendDateText(_ *codec, dst, data []byte) ([]byte, error) {
	if infinite(data) {
		return appendPlain(dst, data), nil
	}
	s, bc := cutBC(data)
	d, rest, ok := parseDate(s, bc)
	if !ok || len(rest) > 0 {
		return dst, errDate
	}
	return append(d.append(append(dst, '"')), '"'), nil
}

func appendTimeText(_ *codec, dst, data []byte) ([]byte, error) {
	if _, n, ok := parseClock(data); !ok || n != len(data) {
		return dst, errTime
	}
	return appendPlain(dst, data), nil
}

func appendTimeTZText(_ *codec, dst, data []byte) ([]byte, error) {
	_, n, ok := parseClock(data)
	if !ok {
		return dst, errTime
	}
	offset, ok := parseOffset(data[n:])
	if !ok {
		return dst, errTime
	}
	dst = append(dst, '"')
	dst = append(dst, data[:n]...)
	return append(appendOffset(dst, data[n:], offset), '"'), nil
}

// timestamp is one taken apart. clock is the text of its time of day, zone that of its offset.
type timestamp struct {
	date        date
	clock, zone []byte
	nanos       int64 // of the day
}

func parseTimestamp(data []byte) (t timestamp, ok bool) {
	s, bc := cutBC(data)
	var rest []byte
	if t.date, rest, ok = parseDate(s, bc); !ok || len(rest) == 0 || rest[0] != ' ' && rest[0] != 'T' {
		return t, false
	}
	rest = rest[1:]
	var n int
	if t.nanos, n, ok = parseClock(rest); !ok || t.nanos == day {
		return t, false
	}
	t.clock, t.zone = rest[:n], rest[n:]
	return t, true
}

func appendTimestampText(_ *codec, dst, data []byte) ([]byte, error) {
	if infinite(data) {
		return appendPlain(dst, data), nil
	}
	t, ok := parseTimestamp(data)
	if !ok || len(t.zone) > 0 {
		return dst, errTimestamp
	}
	dst = append(t.date.append(append(dst, '"')), 'T')
	dst = append(dst, t.clock...)
	return append(dst, '"'), nil
}

func appendTimestampTZText(_ *codec, dst, data []byte) ([]byte, error) {
	return appendZoned(dst, data, -1)
}

// appendZoned appends an ISO 8601 string with this many digits of a second; below 0: with those that there are.
func appendZoned(dst, data []byte, digits int) ([]byte, error) {
	if infinite(data) {
		return appendPlain(dst, data), nil
	}
	t, ok := parseTimestamp(data)
	if !ok {
		return dst, errTimestamp
	}
	offset, ok := parseOffset(t.zone)
	if !ok {
		return dst, errTimestamp
	}
	dst = append(t.date.append(append(dst, '"')), 'T')
	dst = append(dst, t.clock...)
	have := max(len(t.clock)-len("00:00:00."), 0)
	switch {
	case digits >= 0 && have > digits:
		return dst, errTimePrecision
	case have == 0 && digits > 0:
		dst = append(dst, '.')
	}
	for range digits - have {
		dst = append(dst, '0')
	}
	return append(appendOffset(dst, t.zone, offset), '"'), nil
}

// mulAdd returns a*b+c, for b above zero, or false where that is beyond 64 bits.
func mulAdd(a, b, c int64) (int64, bool) {
	magnitude := uint64(a)
	if a < 0 {
		magnitude = -magnitude
	}
	hi, lo := bits.Mul64(magnitude, uint64(b))
	if a < 0 {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	lo, carry := bits.Add64(lo, uint64(c), 0)
	hi, _ = bits.Add64(hi, uint64(c>>63), carry)
	return int64(lo), hi == uint64(int64(lo)>>63)
}
