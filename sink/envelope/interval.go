package envelope

import (
	"bytes"
	"strconv"
)

// interval is one in the parts that PostgreSQL keeps apart, since no one of them is a fixed number of another.
type interval struct {
	months, days int64
	// The time is negative as a whole or not at all.
	negative                bool
	hours, minutes, seconds int64
	fraction                []byte // the digits of a second's fraction
}

// parseInterval reads PostgreSQL's own style: 1 year 2 mons 3 days 04:05:06.789, -1 mons +2 days -00:00:01
// (https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-INTERVAL-OUTPUT).
func parseInterval(s []byte) (v interval, ok bool) {
	if len(s) == 0 {
		return v, false
	}
	for rank := 0; len(s) > 0; {
		word := s
		if i := bytes.IndexByte(s, ' '); i >= 0 {
			word, s = s[:i], s[i+1:]
			if len(s) == 0 {
				return v, false
			}
		} else {
			s = nil
		}
		negative := false
		text := word
		if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
			negative, text = text[0] == '-', text[1:]
		}
		if s == nil {
			v.negative = negative
			return v, v.parseClock(text)
		}
		n, ok := number(text)
		if !ok || n > 1<<31 {
			return v, false
		}
		if negative {
			n = -n
		}
		unit := s
		if i := bytes.IndexByte(s, ' '); i >= 0 {
			unit, s = s[:i], s[i+1:]
			if len(s) == 0 {
				return v, false
			}
		} else {
			s = nil
		}
		var at int
		switch string(unit) {
		case "year", "years":
			at, v.months = 1, n*12
		case "mon", "mons":
			at, v.months = 2, v.months+n
		case "day", "days":
			at, v.days = 3, n
		default:
			return v, false
		}
		if at <= rank {
			return v, false
		}
		rank = at
	}
	return v, true
}

// parseClock reads 04:05:06.789, with any number of hours.
func (v *interval) parseClock(s []byte) bool {
	n := digits(s)
	if n < 2 || n > 10 || len(s) < n+6 || s[n] != ':' || s[n+3] != ':' {
		return false
	}
	var ok1, ok2, ok3 bool
	v.hours, ok1 = number(s[:n])
	v.minutes, ok2 = number(s[n+1 : n+3])
	v.seconds, ok3 = number(s[n+4 : n+6])
	if s = s[n+6:]; len(s) > 0 {
		n = digits(s[1:])
		if s[0] != '.' || n == 0 || n > 6 || n != len(s)-1 {
			return false
		}
		v.fraction = s[1:]
	}
	return ok1 && ok2 && ok3 && v.minutes < 60 && v.seconds < 60
}

// micros is the time alone; false where it is beyond 64 bits.
func (v *interval) micros() (int64, bool) {
	fraction, _ := number(v.fraction)
	for range 6 - len(v.fraction) {
		fraction *= 10
	}
	n, ok := mulAdd(v.hours, 3_600_000_000, (v.minutes*60+v.seconds)*1_000_000+fraction)
	if v.negative {
		n = -n
	}
	return n, ok
}

// appendIntervalText appends an interval as ISO 8601 with a sign for each part, which is what PostgreSQL itself writes with
// IntervalStyle iso_8601, and reads.
func appendIntervalText(_ *codec, dst, data []byte) ([]byte, error) {
	if infinite(data) {
		return appendPlain(dst, data), nil
	}
	v, ok := parseInterval(data)
	if !ok {
		return dst, errInterval
	}
	dst = append(dst, '"', 'P')
	start := len(dst)
	dst = appendPart(dst, v.months/12, 'Y')
	dst = appendPart(dst, v.months%12, 'M')
	dst = appendPart(dst, v.days, 'D')
	hasFraction := len(bytes.Trim(v.fraction, "0")) > 0
	if v.hours != 0 || v.minutes != 0 || v.seconds != 0 || hasFraction {
		sign := int64(1)
		if v.negative {
			sign = -1
		}
		dst = append(dst, 'T')
		dst = appendPart(dst, sign*v.hours, 'H')
		dst = appendPart(dst, sign*v.minutes, 'M')
		switch {
		case hasFraction:
			if v.negative {
				dst = append(dst, '-')
			}
			dst = strconv.AppendInt(dst, v.seconds, 10)
			dst = append(append(dst, '.'), v.fraction...)
			dst = append(dst, 'S')
		default:
			dst = appendPart(dst, sign*v.seconds, 'S')
		}
	}
	if len(dst) == start {
		dst = append(dst, "T0S"...)
	}
	return append(dst, '"'), nil
}

func appendPart(dst []byte, n int64, unit byte) []byte {
	if n == 0 {
		return dst
	}
	return append(strconv.AppendInt(dst, n, 10), unit)
}
