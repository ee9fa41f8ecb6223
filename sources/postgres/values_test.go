package postgres

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"weft/sources"
)

var (
	byteaType = sources.Type{Kind: sources.Bytes, Name: "bytea"}
	moneyType = sources.Type{Kind: sources.Decimal, Name: "money", Precision: 19, Scale: 2}
)

func TestNormalize(t *testing.T) {
	tests := []struct {
		name string
		typ  sources.Type
		text string
		want string
	}{
		{"bytea", byteaType, `\xdeadbeef`, "\xde\xad\xbe\xef"},
		{"bytea in capitals", byteaType, `\xDEADBEEF`, "\xde\xad\xbe\xef"},
		{"bytea empty", byteaType, `\x`, ""},
		{"bytea with zero bytes", byteaType, `\x000000`, "\x00\x00\x00"},
		{"bytea that looks like hex text", byteaType, `\x5c7864`, `\xd`},
		{"money", moneyType, "$1,234.56", "1234.56"},
		{"money without thousands", moneyType, "$0.50", "0.50"},
		{"money negative", moneyType, "-$1,234.56", "-1234.56"},
		{"money in parentheses", moneyType, "($1,234.56)", "-1234.56"},
		{"money at its most", moneyType, "$92,233,720,368,547,758.07", "92233720368547758.07"},
		{"money at its least", moneyType, "-$92,233,720,368,547,758.08", "-92233720368547758.08"},
		{"numeric(19,2)", moneyType, "-1234.56", "-1234.56"},
		{"numeric(19,2) NaN", moneyType, "NaN", "NaN"},
		{"numeric", sources.Type{Kind: sources.Decimal, Precision: 12, Scale: 2}, "1.50", "1.50"},
		{"text that looks like bytea", sources.Type{Kind: sources.String}, `\xdead`, `\xdead`},
		{"array of bytea", sources.Type{Kind: sources.Array, Elem: &byteaType}, `{"\\xdead"}`, `{"\\xdead"}`},
		{"array of money", typeOf(791, -1, testCatalog), `{"$1,234.56",$2.00}`, `{"$1,234.56",$2.00}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			memory := []byte(test.text)
			v := sources.Value{Data: memory, State: sources.Present}
			if err := normalize(&test.typ, &v); err != nil {
				t.Fatal(err)
			}
			if string(v.Data) != test.want || v.State != sources.Present || v.Data == nil {
				t.Errorf("got %q, state %d, want %q", v.Data, v.State, test.want)
			}
			if len(v.Data) > 0 && &v.Data[0] != &memory[0] {
				t.Error("the value moved to other memory")
			}
		})
	}
}

func TestNormalizeErrors(t *testing.T) {
	tests := []struct {
		name   string
		typ    sources.Type
		text   string
		want   string
		remedy string
	}{
		{"bytea in escape format", byteaType, `\336\255secret`, `bytea value of 14 bytes does not begin with \x`, "bytea_output = hex"},
		{"bytea in escape format, plain", byteaType, "secret", `bytea value of 6 bytes does not begin with \x`, "bytea_output = hex"},
		{"bytea empty text", byteaType, "", `bytea value of 0 bytes does not begin with \x`, "bytea_output = hex"},
		{"bytea with half a byte", byteaType, `\xabc`, "bytea value of 5 bytes: after byte 4: encoding/hex: odd length hex string", "bytea_output = hex"},
		{"bytea with no hex digit", byteaType, `\xabzz`, "bytea value of 6 bytes: after byte 4: encoding/hex: invalid byte", "bytea_output = hex"},
		{"money of another locale", moneyType, "1.234,56 \u20ac", "money value of 12 bytes is not of the form -$1,234.56", "lc_monetary = C"},
		{"money with a decimal comma", moneyType, "$1.234,56", "money value of 9 bytes", "lc_monetary = C"},
		{"money without fraction", moneyType, "$1,234", "money value of 6 bytes", "lc_monetary = C"},
		{"money with three decimals", moneyType, "$1.234", "money value of 6 bytes", "lc_monetary = C"},
		{"money without digits", moneyType, "$.00", "money value of 4 bytes", "lc_monetary = C"},
		{"money with a comma first", moneyType, "$,1.00", "money value of 6 bytes", "lc_monetary = C"},
		{"money with a digit for its point", moneyType, "$12345", "money value of 6 bytes", "lc_monetary = C"},
		{"money with two points", moneyType, "$1.0.00", "money value of 7 bytes", "lc_monetary = C"},
		{"money with an open parenthesis", moneyType, "($1.00", "money value of 6 bytes", "lc_monetary = C"},
		{"money with a sign only", moneyType, "-$", "money value of 2 bytes", "lc_monetary = C"},
		{"money in empty parentheses", moneyType, "($)", "money value of 3 bytes", "lc_monetary = C"},
		{"money empty", moneyType, "", "money value of 0 bytes", "lc_monetary = C"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := sources.Value{Data: []byte(test.text), State: sources.Present}
			err := normalize(&test.typ, &v)
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) {
				t.Fatalf("error %v, want a *sources.FatalError", err)
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(fatal.Remedy, test.remedy) {
				t.Errorf("error %v\nwant %s and %s", err, test.want, test.remedy)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error tells the value: %v", err)
			}
		})
	}
}

// Null and unavailable values have no text.
func TestNormalizeWithoutData(t *testing.T) {
	for _, typ := range []sources.Type{byteaType, moneyType} {
		for _, state := range []sources.State{sources.Null, sources.Unavailable} {
			v := sources.Value{State: state}
			if err := normalize(&typ, &v); err != nil || v.State != state || v.Data != nil {
				t.Errorf("%s in state %d: %+v, %v", typ.Name, state, v, err)
			}
		}
	}
}

func TestNeedsNormalize(t *testing.T) {
	for oid, typ := range builtinTypes {
		if got, want := needsNormalize(&typ), oid == moneyOID || typ.Kind == sources.Bytes; got != want {
			t.Errorf("%s: %v", typ.Name, got)
		}
	}
	if overMoney := typeOf(20004, -1, testCatalog); !needsNormalize(&overMoney) {
		t.Errorf("%s: values would stay as they are", overMoney.Name)
	}
	for _, oid := range []uint32{791, 1001, 20005} {
		if typ := typeOf(oid, -1, testCatalog); needsNormalize(&typ) {
			t.Errorf("%s: arrays are not normalized", typ.Name)
		}
	}
}

// A value's neighbours in the frame stay as they are, and no memory is allocated.
func TestNormalizeStaysInItsMemory(t *testing.T) {
	for _, test := range []struct {
		typ  sources.Type
		text string
	}{{byteaType, `\x0102030405`}, {moneyType, "($1,234.56)"}, {moneyType, "-$92,233,720,368,547,758.08"}} {
		frame := []byte("before" + test.text + "after")
		end := len("before") + len(test.text)
		v := sources.Value{Data: frame[len("before"):end:end], State: sources.Present}
		if err := normalize(&test.typ, &v); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(frame, []byte("before")) || !bytes.HasSuffix(frame, []byte("after")) {
			t.Errorf("%s: wrote beside the value: %q", test.text, frame)
		}
		if cap(v.Data) != len(v.Data) {
			t.Errorf("%s: the value has room to append", test.text)
		}
		memory := make([]byte, len(test.text))
		if n := testing.AllocsPerRun(100, func() {
			copy(memory, test.text)
			v := sources.Value{Data: memory, State: sources.Present}
			if err := normalize(&test.typ, &v); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", test.text, n)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, text := range []string{`\xdeadbeef`, `\x`, `\xabc`, `\336\255`, "$1,234.56", "-$0.50", "($1,234.56)", "($)", "-1234.56", "NaN", "1.234,56 \u20ac", ""} {
		f.Add(true, []byte(text))
		f.Add(false, []byte(text))
	}
	f.Fuzz(func(t *testing.T, isBytea bool, text []byte) {
		typ := moneyType
		if isBytea {
			typ = byteaType
		}
		frame := append(append([]byte{'<'}, text...), '>')
		v := sources.Value{Data: frame[1 : 1+len(text) : 1+len(text)], State: sources.Present}
		err := normalize(&typ, &v)
		if frame[0] != '<' || frame[len(frame)-1] != '>' {
			t.Fatal("wrote beside the value")
		}
		if err != nil {
			return
		}
		if isBytea {
			if want := `\x` + hex.EncodeToString(v.Data); want != strings.ToLower(string(text)) {
				t.Fatalf("%q became %q", text, v.Data)
			}
			return
		}
		// All digits are there in their order, and nothing that is not a numeric's.
		digits := func(b []byte) string {
			return strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' || r == '.' {
					return r
				}
				return -1
			}, string(b))
		}
		if digits(v.Data) != digits(text) || !isNumeric(v.Data) {
			t.Fatalf("%q became %q", text, v.Data)
		}
		if negative := bytes.ContainsAny(text, "-("); negative != bytes.ContainsAny(v.Data, "-") {
			t.Fatalf("%q became %q: another sign", text, v.Data)
		}
	})
}
