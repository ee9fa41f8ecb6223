package envelope

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"weft/sources"
)

// one encodes a single value.
func one(t testing.TB, d Dialect, typ sources.Type, wire string) (string, error) {
	t.Helper()
	c, err := newCodec(d, &typ, false)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.append(c, []byte("#"), []byte(wire))
	return strings.TrimPrefix(string(got), "#"), err
}

func kind(k sources.Kind) sources.Type { return sources.Type{Kind: k, Precision: 6} }

func TestJSONValues(t *testing.T) {
	decimal := sources.Type{Kind: sources.Decimal}
	ints := arrayOf(sources.Type{Kind: sources.Int})
	tests := []struct {
		typ        sources.Type
		wire, want string
	}{
		{kind(sources.String), "", `""`},
		{kind(sources.String), "a\"b\\c\n\r\t\x00\x1f\u2028/<é😀>\x7f", `"a\"b\\c\n\r\t\u0000\u001f` + "\u2028/<é😀>\x7f" + `"`},
		{kind(sources.Bool), "t", "true"},
		{kind(sources.Bool), "f", "false"},
		{kind(sources.Int), "-9223372036854775808", "-9223372036854775808"},
		{kind(sources.Int), "18446744073709551615", "18446744073709551615"},
		{kind(sources.Int), "+007", "7"},
		{kind(sources.Int), "-0", "0"},
		{kind(sources.Float), "1e+20", "1e+20"},
		{kind(sources.Float), "-0", "-0"},
		{kind(sources.Float), "5e-324", "5e-324"},
		{kind(sources.Float), "0.30000000000000004", "0.30000000000000004"},
		{kind(sources.Float), "NaN", `"NaN"`},
		{kind(sources.Float), "-Infinity", `"-Infinity"`},
		{decimal, "123.4567890", `"123.4567890"`},
		{decimal, "-0.000001", `"-0.000001"`},
		{decimal, "NaN", `"NaN"`},
		{decimal, "Infinity", `"Infinity"`},
		{decimal, "1" + strings.Repeat("0", 1000), `"1` + strings.Repeat("0", 1000) + `"`},
		{kind(sources.Bytes), "\x00\xff\x10", `"AP8Q"`},
		{kind(sources.Bytes), "", `""`},
		{kind(sources.Bits), "00101", `"00101"`},
		{kind(sources.Date), "2026-02-28", `"2026-02-28"`},
		{kind(sources.Date), "2024-02-29", `"2024-02-29"`},
		{kind(sources.Date), "0044-03-15 BC", `"-0043-03-15"`},
		{kind(sources.Date), "0001-12-31 BC", `"0000-12-31"`},
		{kind(sources.Date), "4714-11-24 BC", `"-4713-11-24"`},
		{kind(sources.Date), "5874897-12-31", `"+5874897-12-31"`},
		{kind(sources.Date), "infinity", `"infinity"`},
		{kind(sources.Time), "23:59:59.123456", `"23:59:59.123456"`},
		{kind(sources.Time), "24:00:00", `"24:00:00"`},
		{kind(sources.TimeTZ), "12:34:56.123456+02", `"12:34:56.123456+02:00"`},
		{kind(sources.TimeTZ), "12:34:56-05:30", `"12:34:56-05:30"`},
		{kind(sources.TimeTZ), "12:34:56+01:02:03", `"12:34:56+01:02:03"`},
		{kind(sources.TimeTZ), "24:00:00+00", `"24:00:00Z"`},
		{kind(sources.Timestamp), "2026-11-22 12:34:56.123456", `"2026-11-22T12:34:56.123456"`},
		{kind(sources.Timestamp), "0044-03-15 12:00:00 BC", `"-0043-03-15T12:00:00"`},
		{kind(sources.Timestamp), "294276-12-31 23:59:59.999999", `"+294276-12-31T23:59:59.999999"`},
		{kind(sources.Timestamp), "-infinity", `"-infinity"`},
		{kind(sources.TimestampTZ), "2026-11-22 10:34:56.5+00", `"2026-11-22T10:34:56.5Z"`},
		{kind(sources.TimestampTZ), "2026-11-22 10:34:56+02", `"2026-11-22T10:34:56+02:00"`},
		{kind(sources.TimestampTZ), "0044-03-15 12:00:00+00 BC", `"-0043-03-15T12:00:00Z"`},
		{kind(sources.Interval), "1 year 2 mons 3 days 04:05:06.789", `"P1Y2M3DT4H5M6.789S"`},
		{kind(sources.Interval), "-1 mons +2 days -00:00:01", `"P-1M2DT-1S"`},
		{kind(sources.Interval), "-178000000 years -11 mons -30 days -23:59:59.999999", `"P-178000000Y-11M-30DT-23H-59M-59.999999S"`},
		{kind(sources.Interval), "00:00:00", `"PT0S"`},
		{kind(sources.Interval), "-00:00:00.5", `"PT-0.5S"`},
		{kind(sources.Interval), "1 day", `"P1D"`},
		{kind(sources.Interval), "2562047788:00:54.775807", `"PT2562047788H54.775807S"`},
		{kind(sources.Interval), "infinity", `"infinity"`},
		{kind(sources.UUID), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", `"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"`},
		{kind(sources.JSON), `{"a": 1,  "b":null}`, `"{\"a\": 1,  \"b\":null}"`},
		{kind(sources.JSON), `null`, `"null"`},
		{kind(sources.Point), "(1.5,-2e+20)", `{"x":1.5,"y":-2e+20}`},
		{kind(sources.Point), "(NaN,Infinity)", `{"x":"NaN","y":"Infinity"}`},
		{kind(sources.Map), ``, `{}`},
		{kind(sources.Map), `"k1"=>"v1", "k2"=>NULL`, `{"k1":"v1","k2":null}`},
		{kind(sources.Map), `"q\"=>, "=>"\\\"", ""=>""`, `{"q\"=>, ":"\\\"","":""}`},
		{ints, "{}", "[]"},
		{ints, "{{1,2},{NULL,4}}", "[[1,2],[null,4]]"},
		{ints, "[0:1]={7,8}", `{"lower_bounds":[0],"values":[7,8]}`},
		{ints, "[1:1][-2:-1]={{7,8}}", `{"lower_bounds":[1,-2],"values":[[7,8]]}`},
		{arrayOf(kind(sources.String)), `{"NULL",NULL,"","a\\b","{x}"," "}`, `["NULL",null,"","a\\b","{x}"," "]`},
		{arrayOf(kind(sources.Bytes)), `{"\\xdead","\\x"}`, `["3q0=",""]`},
		{arrayOf(kind(sources.Map)), `{"\"a\"=>\"b\"",""}`, `[{"a":"b"},{}]`},
		{arrayOf(kind(sources.Interval)), `{"1 mon","-00:00:01"}`, `["P1M","PT-1S"]`},
		{arrayOf(kind(sources.Point)), `{"(1,2)"}`, `[{"x":1,"y":2}]`},
		{arrayOf(decimal), `{NaN,1.0}`, `["NaN","1.0"]`},
		{arrayOf(ints), `{"{1,2}","{}"}`, `[[1,2],[]]`},
	}
	for _, test := range tests {
		got, err := one(t, JSON, test.typ, test.wire)
		if err != nil || got != test.want {
			t.Errorf("kind %d, %q:\n got %s (%v)\nwant %s", test.typ.Kind, test.wire, got, err, test.want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("kind %d, %q: not JSON: %s", test.typ.Kind, test.wire, got)
		}
	}
}

func TestDebeziumValues(t *testing.T) {
	decimal := func(precision, scale int) sources.Type {
		return sources.Type{Kind: sources.Decimal, Precision: precision, Scale: scale}
	}
	with := func(k sources.Kind, precision int) sources.Type { return sources.Type{Kind: k, Precision: precision} }
	tests := []struct {
		typ        sources.Type
		wire, want string
	}{
		{decimal(12, 2), "0.00", `"AA=="`},
		{decimal(12, 2), "-0.01", `"/w=="`},
		{decimal(12, 2), "1.28", `"AIA="`},
		{decimal(12, 2), "-1.28", `"gA=="`},
		{decimal(12, 2), "-1.29", `"/38="`},
		{decimal(12, 2), "5", `"AfQ="`},
		{decimal(5, -2), "12300", `"ew=="`},
		{decimal(5, -2), "0", `"AA=="`},
		{decimal(5, -2), "-100", `"/w=="`},
		{decimal(0, 0), "100", `{"scale":0,"value":"ZA=="}`},
		{decimal(0, 0), "1.00", `{"scale":2,"value":"ZA=="}`},
		{with(sources.Bits, 16), "0000000110101010", `"qgE="`},
		{with(sources.Bits, 9), "000000001", `"AQA="`},
		{with(sources.Bits, 0), "", `""`},
		{with(sources.Bits, 0), "0", `"AA=="`},
		{with(sources.Bits, 1), "0", `false`},
		{with(sources.Date, 0), "1970-01-01", "0"},
		{with(sources.Date, 0), "1969-12-31", "-1"},
		{with(sources.Date, 0), "2000-03-01", "11017"},
		{with(sources.Date, 0), "4714-11-24 BC", "-2440588"},
		{with(sources.Date, 0), "-infinity", "-2147472691"},
		{with(sources.Time, 3), "12:34:56.789", "45296789"},
		{with(sources.Time, 6), "12:34:56.789", "45296789000"},
		{with(sources.Timestamp, 6), "1969-12-31 23:59:59.999999", "-1"},
		{with(sources.Timestamp, 0), "1969-12-31 23:59:59", "-1000"},
		{with(sources.Timestamp, 9), "1970-01-01 00:00:00.000000001", "1"},
		{with(sources.Timestamp, 6), "294247-01-10 04:00:54.775807", "9223372036854775807"},
		{with(sources.Timestamp, 6), "-infinity", "-9223372036832400000"},
		{with(sources.TimestampTZ, 6), "2026-11-22 10:34:56+00", `"2026-11-22T10:34:56.000000Z"`},
		{with(sources.TimestampTZ, 3), "2026-11-22 10:34:56.1+00", `"2026-11-22T10:34:56.100Z"`},
		{with(sources.TimestampTZ, 0), "2026-11-22 10:34:56+00", `"2026-11-22T10:34:56Z"`},
		{with(sources.TimestampTZ, 6), "0044-03-15 12:00:00+00 BC", `"-0043-03-15T12:00:00.000000Z"`},
		{with(sources.Interval, 6), "1 mon", "2629800000000"},
		{with(sources.Interval, 6), "-1 mons +1 day -00:00:00.000001", "-2543400000001"},
		{with(sources.Point, 0), "(1.5,2.5)", `{"x":1.5,"y":2.5,"wkb":"AQEAAAAAAAAAAAD4PwAAAAAAAARA","srid":null}`},
		{with(sources.Map, 0), `"a"=>"\"", "b"=>NULL`, `"{\"a\":\"\\\"\",\"b\":null}"`},
	}
	for _, test := range tests {
		got, err := one(t, Debezium, test.typ, test.wire)
		if err != nil || got != test.want {
			t.Errorf("kind %d, %q: got %s (%v), want %s", test.typ.Kind, test.wire, got, err, test.want)
		}
	}
}

// Texts that no source may send are refused by both dialects: they are never passed on and never guessed at.
func TestMalformedValues(t *testing.T) {
	ints := arrayOf(kind(sources.Int))
	tests := []struct {
		typ  sources.Type
		want *fault
		wire []string
	}{
		{kind(sources.String), errUTF8, []string{"\xff", "a\xc3", "\xed\xa0\x80"}},
		{kind(sources.Bool), errBool, []string{"", "true", "1"}},
		{kind(sources.Int), errInt, []string{"", "-", "1.0", "1e3", " 1", "0x1", "--1"}},
		{kind(sources.Float), errFloat, []string{"", "1.", ".5", "01", "inf", "1e", "+1", "1e+", "nan"}},
		{kind(sources.Decimal), errDecimal, []string{"", ".5", "1.", "1e3", "+1", "-", "1.2.3"}},
		{kind(sources.Bits), errBits, []string{"2", "0b1", "1 "}},
		{kind(sources.Date), errDate, []string{"", "2026-2-28", "2026-02-29", "2026-13-01", "2026-00-01", "2026-01-00",
			"0000-01-01 BC", "026-01-01", "2026-01-01 AD", "2026-01-01 00:00:00", "Infinity"}},
		{kind(sources.Time), errTime, []string{"", "12:34", "24:00:01", "24:00:00.000001", "12:60:00", "12:00:60", "12:00:00.", "12:00:00+00"}},
		{kind(sources.TimeTZ), errTime, []string{"12:00:00", "12:00:00Z", "12:00:00+2", "12:00:00+02:", "12:00:00+02:60", "12:00:00 02"}},
		{kind(sources.Timestamp), errTimestamp, []string{"", "2026-01-01", "2026-01-01 00:00:00+00", "2026-01-01 24:00:00", "2026-01-01_00:00:00"}},
		{kind(sources.TimestampTZ), errTimestamp, []string{"2026-01-01 00:00:00", "2026-01-01 00:00:00 UTC"}},
		{kind(sources.Interval), errInterval, []string{"", "1", "1 fortnight", "00:00", "1 mon 1 year", "1 day 1 day", "00:00:00 1 day", "1 day ",
			"4294967296 days", "1:00:60", "00:00:00.", "00:00:00.1234567", "P1D"}},
		{kind(sources.Point), errPoint, []string{"", "(1)", "1,2", "(1,2,3)", "(a,b)", "(1, 2)"}},
		{kind(sources.Map), errMap, []string{`"a"`, `a=>b`, `"a"=>"b",`, `"a"=>"b","c"=>"d"`, `"a"=>"b`, `"a"=>nil`, `"a\`}},
		{ints, errArray, []string{"", "{", "}", "{1", "{1,", "{1,}", "{,1}", "{1}}", "{{1}", "{1}x", `{"1}`, `{"\`, "{1{2}}", strings.Repeat("{", 7) + strings.Repeat("}", 7)}},
		{ints, errInt, []string{"{a}", `{" "}`}},
		{arrayOf(kind(sources.Bytes)), errHex, []string{"{dead}", `{"\\xd"}`, `{"\\xzz"}`}},
	}
	for _, test := range tests {
		for _, wire := range test.wire {
			for _, d := range []Dialect{JSON, Debezium} {
				if got, err := one(t, d, test.typ, wire); !errors.Is(err, test.want) {
					t.Errorf("%s, kind %d, %q: got %s (%v), want error %q", d, test.typ.Kind, wire, got, err, test.want.reason)
				}
			}
		}
	}
	for _, wire := range []string{"[0:1]", "[0:1]{1,2}", "[x:1]={1}", "[0]={1}", "[0:1={1}", strings.Repeat("[1:1]", 7) + "={1}"} {
		if got, err := one(t, JSON, ints, wire); !errors.Is(err, errArray) {
			t.Errorf("%q: got %s (%v)", wire, got, err)
		}
	}
	for _, test := range []struct {
		typ  sources.Type
		wire string
		want *fault
	}{
		{sources.Type{Kind: sources.Decimal, Precision: 5, Scale: 2}, "1.234", errDecimalScale},
		{sources.Type{Kind: sources.Decimal, Precision: 5, Scale: -2}, "12345", errDecimalScale},
		{sources.Type{Kind: sources.Decimal, Precision: 5, Scale: -2}, "1", errDecimalScale},
		{sources.Type{Kind: sources.Time, Precision: 3}, "00:00:00.0001", errTimePrecision},
		{sources.Type{Kind: sources.Timestamp, Precision: 3}, "2026-01-01 00:00:00.0001", errTimePrecision},
		{sources.Type{Kind: sources.TimestampTZ, Precision: 3}, "2026-01-01 00:00:00.0001+00", errTimePrecision},
		{sources.Type{Kind: sources.Date}, "5883517-01-01", errDateRange},
	} {
		if got, err := one(t, Debezium, test.typ, test.wire); !errors.Is(err, test.want) {
			t.Errorf("%q: got %s (%v), want error %q", test.wire, got, err, test.want.reason)
		}
	}
}

// unscaled reads a decimal of the debezium dialect as Java does: new BigDecimal(new BigInteger(bytes), scale).
func unscaled(t testing.TB, text string) *big.Int {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.Trim(text, `"`))
	if err != nil || len(b) == 0 {
		t.Fatalf("%s: %v", text, err)
	}
	n := new(big.Int).SetBytes(b)
	if b[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}

// Decimals of every length up to beyond the fast path, at the powers where a byte more is needed, read back the same.
func TestDecimalsReadBack(t *testing.T) {
	for bit := range uint(300) {
		for add := int64(-2); add <= 2; add++ {
			for _, sign := range []int64{1, -1} {
				n := new(big.Int).Lsh(big.NewInt(1), bit)
				n.Add(n, big.NewInt(add)).Mul(n, big.NewInt(sign))
				got, err := one(t, Debezium, sources.Type{Kind: sources.Decimal, Precision: 1000}, n.String())
				if err != nil {
					t.Fatal(err)
				}
				if back := unscaled(t, got); back.Cmp(n) != 0 {
					t.Fatalf("%s came back as %s (%s)", n, back, got)
				}
				b, _ := base64.StdEncoding.DecodeString(strings.Trim(got, `"`))
				if len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
					t.Fatalf("%s is longer than need be: %x", n, b)
				}
			}
		}
	}
}
