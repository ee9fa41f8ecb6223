package envelope

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"weft/sources"
)

// fuzzKinds holds every type that has a form of its own to be read, and decimals and bits in each of their shapes.
var fuzzKinds = func() (all []sources.Type) {
	for k := sources.String; k <= sources.Map; k++ {
		all = append(all, sources.Type{Kind: k, Precision: 6})
	}
	all = append(all, sources.Type{Kind: sources.Decimal}, sources.Type{Kind: sources.Decimal, Precision: 9, Scale: 4},
		sources.Type{Kind: sources.Decimal, Precision: 9, Scale: -4}, sources.Type{Kind: sources.Bits},
		sources.Type{Kind: sources.Bits, Precision: 1}, sources.Type{Kind: sources.Timestamp, Precision: 9})
	for _, t := range all {
		all = append(all, arrayOf(t))
	}
	return all
}()

// FuzzValues: whatever a source sends, both dialects write one JSON value or refuse it, and leave what precedes it alone.
func FuzzValues(f *testing.F) {
	for i := range fuzzKinds {
		for _, c := range allTypes {
			if fuzzKinds[i].Kind == c.typ.Kind {
				f.Add(uint8(i), []byte(c.value))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, wire []byte) {
		typ := fuzzKinds[int(which)%len(fuzzKinds)]
		for _, d := range []Dialect{JSON, Debezium} {
			c, err := newCodec(d, &typ, false)
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(wire)
			got, err := c.append(c, []byte("before"), wire)
			if !bytes.Equal(before, wire) {
				t.Fatalf("changed the source's memory: %q to %q", before, wire)
			}
			if err != nil {
				continue
			}
			value, ok := bytes.CutPrefix(got, []byte("before"))
			if !ok || !json.Valid(value) {
				t.Fatalf("%s, %+v, %q: %s", d, typ, wire, got)
			}
		}
	})
}

// FuzzStrings: a string that is accepted reads back the same.
func FuzzStrings(f *testing.F) {
	f.Add("a\"b\\c\n\u2028\U0001F600\x00")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := one(t, JSON, sources.Type{}, s)
		if err != nil {
			return
		}
		var back string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back != s {
			t.Fatalf("%q came back as %q from %s (%v)", s, back, got, err)
		}
	})
}

// FuzzArrays: an array of strings reads back the same from the literal that PostgreSQL would write of it.
func FuzzArrays(f *testing.F) {
	f.Add("a,b", `q"x\`, "NULL", uint8(2))
	f.Fuzz(func(t *testing.T, a, b, c string, nulls uint8) {
		elements := []*string{&a, &b, &c}
		var literal strings.Builder
		for i, e := range elements {
			if nulls&(1<<i) != 0 {
				elements[i] = nil
				literal.WriteString(",NULL")
				continue
			}
			literal.WriteString(`,"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(*e) + `"`)
		}
		got, err := one(t, JSON, arrayOf(sources.Type{}), "{"+literal.String()[1:]+"}")
		if err != nil {
			return
		}
		var back []*string
		if err := json.Unmarshal([]byte(got), &back); err != nil || len(back) != 3 {
			t.Fatalf("%s: %v", got, err)
		}
		for i := range back {
			if (back[i] == nil) != (elements[i] == nil) || back[i] != nil && *back[i] != *elements[i] {
				t.Fatalf("element %d of %s came back as %s", i, literal.String(), got)
			}
		}
	})
}

// FuzzMaps: an hstore reads back the same.
func FuzzMaps(f *testing.F) {
	f.Add(`k"=>`, `v\`, "other")
	f.Fuzz(func(t *testing.T, key, value, other string) {
		if key == other {
			return
		}
		quote := func(s string) string { return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(s) + `"` }
		got, err := one(t, JSON, sources.Type{Kind: sources.Map}, quote(key)+"=>"+quote(value)+", "+quote(other)+"=>NULL")
		if err != nil {
			return
		}
		var back map[string]*string
		if err := json.Unmarshal([]byte(got), &back); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if len(back) != 2 || back[key] == nil || *back[key] != value || back[other] != nil {
			t.Fatalf("%q=>%q came back as %s", key, value, got)
		}
	})
}

// FuzzDecimals: a decimal of the debezium dialect reads back the same, digit by digit.
func FuzzDecimals(f *testing.F) {
	f.Add("-123.4567890")
	f.Add(strings.Repeat("9", 39))
	f.Fuzz(func(t *testing.T, s string) {
		got, err := one(t, Debezium, sources.Type{Kind: sources.Decimal}, s)
		if err != nil {
			return
		}
		var v struct {
			Scale int
			Value json.RawMessage
		}
		if err := json.Unmarshal([]byte(got), &v); err != nil {
			t.Fatal(err)
		}
		_, fraction, _ := strings.Cut(s, ".")
		want, _ := new(big.Int).SetString(strings.Replace(s, ".", "", 1), 10)
		if v.Scale != len(fraction) || unscaled(t, string(v.Value)).Cmp(want) != 0 {
			t.Fatalf("%s came back as %s", s, got)
		}
	})
}

// FuzzTimestamps: the microseconds of the debezium dialect and the text of the json dialect say the same, and the text
// reads back as PostgreSQL's own.
func FuzzTimestamps(f *testing.F) {
	f.Add(int64(0))
	f.Add(int64(-63517780800000000))
	f.Add(int64(9223372036854775807))
	f.Add(int64(-210866803200000000)) // 4714-11-24 BC, PostgreSQL's first day
	typ := sources.Type{Kind: sources.Timestamp, Precision: 6}
	f.Fuzz(func(t *testing.T, micros int64) {
		if micros < -210866803200000000 || micros == timestampInfinity {
			return
		}
		wire := postgresTimestamp(micros)
		number, err := one(t, Debezium, typ, wire)
		if err != nil || number != strconv.FormatInt(micros, 10) {
			t.Fatalf("%s: got %s (%v), want %d", wire, number, err, micros)
		}
		iso, err := one(t, JSON, typ, wire)
		if err != nil {
			t.Fatal(err)
		}
		if back := postgresForm(strings.Trim(iso, `"`)); back != wire {
			t.Fatalf("%s came back as %s", wire, back)
		}
	})
}

// postgresTimestamp is a timestamp as PostgreSQL prints it, found by counting years: it shares nothing with the encoder.
func postgresTimestamp(micros int64) string {
	days, rest := micros/86_400_000_000, micros%86_400_000_000
	if rest < 0 {
		days, rest = days-1, rest+86_400_000_000
	}
	year := 1970 + 400*(days/146097)
	for days %= 146097; days < 0; days += yearDays(year) {
		year--
	}
	for days >= yearDays(year) {
		days -= yearDays(year)
		year++
	}
	month := int64(1)
	for days >= (date{year: year, month: month}).monthDays() {
		days -= (date{year: year, month: month}).monthDays()
		month++
	}
	suffix := ""
	if year <= 0 {
		year, suffix = 1-year, " BC"
	}
	pad := func(n int64, width int) string {
		s := strconv.FormatInt(n, 10)
		return strings.Repeat("0", max(width-len(s), 0)) + s
	}
	seconds := rest / 1_000_000
	text := pad(year, 4) + "-" + pad(month, 2) + "-" + pad(days+1, 2) + " " + pad(seconds/3600, 2) + ":" + pad(seconds/60%60, 2) + ":" +
		pad(seconds%60, 2)
	if fraction := rest % 1_000_000; fraction > 0 {
		text += "." + strings.TrimRight(pad(fraction, 6), "0")
	}
	return text + suffix
}

func yearDays(year int64) (n int64) {
	for m := int64(1); m <= 12; m++ {
		n += date{year: year, month: m}.monthDays()
	}
	return n
}

// postgresForm turns an ISO 8601 timestamp back into PostgreSQL's.
func postgresForm(iso string) string {
	day, clock, _ := strings.Cut(iso, "T")
	negative := strings.HasPrefix(day, "-")
	yearText, rest, _ := strings.Cut(strings.TrimLeft(day, "+-"), "-")
	year, _ := strconv.ParseInt(yearText, 10, 64)
	if negative {
		year = -year
	}
	suffix := ""
	if year <= 0 {
		year, suffix = 1-year, " BC"
	}
	s := strconv.FormatInt(year, 10)
	return strings.Repeat("0", max(4-len(s), 0)) + s + "-" + rest + " " + clock + suffix
}

// FuzzIntervals: an interval's parts read back the same from its ISO 8601 form.
func FuzzIntervals(f *testing.F) {
	f.Add(int32(14), int32(3), int64(14706789000))
	f.Add(int32(-2147483648), int32(-2147483648), int64(-9223372036854775807))
	f.Fuzz(func(t *testing.T, months, days int32, micros int64) {
		if micros == -1<<63 {
			return
		}
		got, err := one(t, JSON, sources.Type{Kind: sources.Interval}, postgresInterval(int64(months), int64(days), micros))
		if err != nil {
			t.Fatalf("%d %d %d: %v", months, days, micros, err)
		}
		m, d, us := readISO(t, strings.Trim(got, `"`))
		if m != int64(months) || d != int64(days) || us != micros {
			t.Fatalf("%d %d %d came back as %d %d %d from %s", months, days, micros, m, d, us, got)
		}
	})
}

// postgresInterval is an interval as PostgreSQL prints it in its own style.
func postgresInterval(months, days, micros int64) string {
	var parts []string
	negative := false
	add := func(n int64, unit string) {
		if n == 0 {
			return
		}
		s := strconv.FormatInt(n, 10)
		if negative && n > 0 {
			s = "+" + s
		}
		if n != 1 {
			unit += "s"
		}
		parts = append(parts, s+" "+unit)
		negative = n < 0
	}
	add(months/12, "year")
	add(months%12, "mon")
	add(days, "day")
	if micros != 0 || len(parts) == 0 {
		sign := ""
		if micros < 0 {
			sign, micros = "-", -micros
		} else if negative {
			sign = "+"
		}
		two := func(n int64) string {
			if n < 10 {
				return "0" + strconv.FormatInt(n, 10)
			}
			return strconv.FormatInt(n, 10)
		}
		seconds := micros / 1_000_000
		s := sign + two(seconds/3600) + ":" + two(seconds/60%60) + ":" + two(seconds%60)
		if fraction := micros % 1_000_000; fraction > 0 {
			s += "." + strings.TrimRight(strconv.FormatInt(1_000_000+fraction, 10)[1:], "0")
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// readISO reads an ISO 8601 duration with a sign for each part.
func readISO(t *testing.T, s string) (months, days, micros int64) {
	t.Helper()
	inTime := false
	for s = strings.TrimPrefix(s, "P"); s != ""; {
		if s[0] == 'T' {
			inTime, s = true, s[1:]
			continue
		}
		end := strings.IndexAny(s, "YMDHS")
		if end < 0 {
			t.Fatalf("no unit in %s", s)
		}
		whole, fraction, _ := strings.Cut(s[:end], ".")
		n, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch unit := s[end]; {
		case unit == 'Y':
			months += 12 * n
		case unit == 'M' && !inTime:
			months += n
		case unit == 'D':
			days = n
		case unit == 'H':
			micros += n * 3_600_000_000
		case unit == 'M':
			micros += n * 60_000_000
		default:
			part, _ := strconv.ParseInt((fraction + "000000")[:6], 10, 64)
			if strings.HasPrefix(whole, "-") {
				part = -part
			}
			micros += n*1_000_000 + part
		}
		s = s[end+1:]
	}
	return months, days, micros
}
