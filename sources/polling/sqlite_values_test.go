package polling

import (
	"fmt"
	"strings"
	"testing"

	"weft/sources"
)

// Each value is written into a column of the declared type and arrives as the text of the kind, or as an error.
func TestValues(t *testing.T) {
	digits := "1" + strings.Repeat("0", 308)
	tests := []struct {
		declared string
		kind     sources.Kind
		values   []string // SQL literal, then what arrives, or "! " and a part of the error
	}{
		{"INTEGER", sources.Int, []string{"1", "1", "-9223372036854775808", "-9223372036854775808", "'12'", "12",
			"9223372036854775807", "9223372036854775807", "1.5", "! the real 1.5", "'x'", `! the text "x"`, "x'01'", "! a blob",
			"NULL", "NULL"}},
		{"UNSIGNED BIG INT", sources.Int, []string{"0", "0"}},
		{"REAL", sources.Float, []string{"1", "1", "0.1", "0.1", "-0.0", "0", "1e20", "1e+20", "5e-324", "5e-324",
			"0.30000000000000004", "0.30000000000000004", "9e999", "Infinity", "-9e999", "-Infinity", "9e999 - 9e999", "NULL",
			"'x'", `! the text "x"`, "x'01'", "! a blob"}},
		{"DOUBLE PRECISION", sources.Float, []string{"2.5", "2.5"}},
		{"TEXT", sources.String, []string{"'x'", "x", "''", "", "12", "12", "'2026-02-28'", "2026-02-28", "'a' || char(0) || 'b'", "a\x00b",
			"x'61'", "! a blob", "CAST(x'ff' AS TEXT)", "! not valid UTF-8"}},
		{"VARCHAR(2)", sources.String, []string{"'longer'", "longer"}},
		{"BLOB", sources.Bytes, []string{"x'00ff'", "\x00\xff", "x''", "", "'a'", `! the text "a"`, "1", "! the integer 1", "1.5", "! the real 1.5"}},
		{"BOOLEAN", sources.Bool, []string{"0", "f", "1", "t", "true", "t", "false", "f", "2", "! holds 2", "'true'", `! the text "true"`,
			"NULL", "NULL"}},
		{"DECIMAL(10,2)", sources.Decimal, []string{"12", "12", "12.50", "12.5", "'0.10'", "0.1", "1e20", "100000000000000000000",
			"1e-7", "0.0000001", "9e999", "Infinity", "1e308", digits, "'x'", `! the text "x"`}},
		{"NUMERIC", sources.Decimal, []string{"-3", "-3"}},
		{"DATE", sources.String, []string{"'2026-02-28'", "2026-02-28", "20260228", "20260228"}},
		{"DATETIME", sources.String, []string{"'2026-02-28 23:59:59'", "2026-02-28 23:59:59", "1772323199", "1772323199",
			"'2026-02-28T23:59:59Z'", "2026-02-28T23:59:59Z", "'no time'", "no time", "2461100.5", "2461100.5"}},
		{"TIMESTAMP", sources.String, []string{"'2026-02-28 23:59:59.123456789'", "2026-02-28 23:59:59.123456789", "1772323199000", "1772323199000",
			"x'01'", "! a blob"}},
		{"JSON", sources.JSON, []string{`'{"a": [1, 2.0]}'`, `{"a": [1, 2.0]}`, "'null'", "null", "'5'", "5", "1.5", "1.5", "'{'", "! not valid JSON",
			"9e999", "! infinity", "x'01'", "! a blob"}},
		{"UUID", sources.String, []string{"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}},
		{"", sources.String, []string{"'x'", "x", "1", "! the integer 1", "1.5", "! the real 1.5", "x'01'", "! a blob"}},
		{"ANY", sources.String, []string{"'x'", "x", "1", "! the integer 1"}},
	}
	for _, test := range tests {
		for i := 0; i < len(test.values); i += 2 {
			literal, want := test.values[i], test.values[i+1]
			t.Run(fmt.Sprintf("%s %s", test.declared, literal), func(t *testing.T) {
				s := newShop(t, "prices")
				createTable(t, s.db, "prices", "id INTEGER PRIMARY KEY, v "+test.declared)
				src := s.start()
				s.execute(fmt.Sprintf("INSERT INTO prices (id, v) VALUES (7, %s)", literal))
				if part, ok := strings.CutPrefix(want, "! "); ok {
					wantFatal(t, nextError(t, src), "prices", `id="7"`, "column v", part)
					return
				}
				b := next(t, src)
				c := b.Changes[0]
				if got := c.Table.Columns[1].Type; got.Kind != test.kind || got.Name != test.declared {
					t.Errorf("the type is %+v", got)
				}
				v := c.After[1]
				if want == "NULL" && v.State == sources.Null && v.Data == nil {
					return
				}
				if string(v.Data) != want || v.State != sources.Present {
					t.Errorf("got %q (state %d), want %q", v.Data, v.State, want)
				}
			})
		}
	}
}

// A value that an integer column of a real affinity cannot hold cannot be written through SQL; the conversion is exact
// at its bounds all the same.
func TestIntegerAsReal(t *testing.T) {
	tests := []struct {
		value int64
		want  string
	}{
		{maxExact, "9007199254740992"}, {-maxExact, "-9007199254740992"}, {maxExact + 1, ""}, {-maxExact - 1, ""},
	}
	for _, test := range tests {
		c := &cell{class: realClass, batch: newBatch(1024)}
		if err := c.Scan(test.value); err != nil {
			t.Fatal(err)
		}
		if (c.err != nil) != (test.want == "") || c.err == nil && string(c.value.Data) != test.want {
			t.Errorf("%d: got %q, error %v", test.value, c.value.Data, c.err)
		}
	}
}
