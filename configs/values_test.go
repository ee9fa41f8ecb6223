package configs

import (
	"errors"
	"math"
	"strings"
	"testing"

	"weft/sources"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "4096": 4096, "7B": 7, "1kb": 1000, "1KB": 1000, "1KiB": 1024, "16MiB": 16 << 20, "16 MiB": 16 << 20,
		"1GB": 1e9, "1gib": 1 << 30, "2TB": 2e12, "2TiB": 2 << 40, "9223372036854775807": math.MaxInt64,
	} {
		var got Bytes
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, got, err, want)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%d prints as %s, which reads as %d, %v", got, got, again, err)
		}
	}
	for _, text := range []string{
		"", "B", "MiB", "-1", "+1", "1.5MiB", "1e3", "1_000", "0x10", "16M", "16 mebi", "9223372036854775808", "9007199254740993KiB", "٣", "1 ",
	} {
		got := Bytes(5)
		if err := got.UnmarshalText([]byte(text)); err == nil || got != 5 {
			t.Errorf("%q reads as %d, %v", text, got, err)
		}
	}
	for size, want := range map[Bytes]string{0: "0B", 1500: "1500B", KiB: "1KiB", 1536 * KiB: "1536KiB", 3 * GiB: "3GiB", 5 * TiB: "5TiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d prints as %s, want %s", int64(size), got, want)
		}
	}
}

func TestExpand(t *testing.T) {
	for text, want := range map[string]string{
		"plain":              "plain",
		"$WORD $":            "$WORD $",
		"${WORD}":            "hunter2word",
		"a${ON}b${ON}c":      "atruebtruec",
		"$${WORD}":           "${WORD}",
		"$$${WORD}":          "$${WORD}",
		"${EMPTY}":           "",
		"${EMPTY:-x}":        "x",
		"${NOT_SET:-}":       "",
		"${NOT_SET:-a:-b$c}": "a:-b$c",
		"${ON:-x}}":          "true}",
	} {
		if got, _, errs := expand(text, lookup); got != want || errs != nil {
			t.Errorf("%s gives %q, %v; want %q", text, got, errs, want)
		}
	}
	for _, text := range []string{"${", "${WORD", "${}", "${1A}", "${a b}", "${a-b}", "${:-x}", "${A.B}"} {
		if _, _, errs := expand(text, lookup); len(errs) != 1 || !strings.Contains(errs[0].Error(), "${") {
			t.Errorf("%s gives %v", text, errs)
		}
	}
	_, _, errs := expand("${ONE}${WORD}${TWO}", lookup)
	var unset *UnsetVariableError
	if len(errs) != 2 || !errors.As(errs[1], &unset) || unset.Name != "TWO" {
		t.Errorf("two unset variables give %v", errs)
	}
}

// TestExpandOnce: a value that looks like a variable is not expanded again.
func TestExpandOnce(t *testing.T) {
	env := func(string) (string, bool) { return "${WORD}", true }
	if got, _, errs := expand("${X}", env); got != "${WORD}" || errs != nil {
		t.Errorf("gives %q, %v", got, errs)
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"slot", "source", "snapshot", "partitions", "on_gap", "tls"}
	for word, want := range map[string]string{
		"slto": "slot", "sources": "source", "snapshots": "snapshot", "snap": "snapshot", "part": "partitions", "on-gap": "on_gap",
		"SLOT": "slot", "tsl": "tls", "ca": "", "publication": "", "": "", strings.Repeat("s", 100): "",
	} {
		if got := nearest(word, candidates); got != want {
			t.Errorf("%q suggests %q, want %q", word, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"slto", "slot", 1}, {"kitten", "sitting", 3}, {"é", "e", 1}, {"ca", "abc", 3}} {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q is %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		pattern, table string
		want           bool
	}{
		{"public.orders", "public.orders", true},
		{"public.*", "public.orders", true},
		{"public.*", "public.a.b", false},
		{"*", "public.orders", false},
		{"*.*", "public.orders", true},
		{"public.o?ders", "public.orders", true},
		{"public.o?ders", "public.oders", false},
		{"public[.]x", "public.x", false},
		{"publicXorders", "public.orders", false},
	} {
		if got := sources.MatchTable(test.pattern, test.table); got != test.want {
			t.Errorf("%s matches %s: %v", test.pattern, test.table, got)
		}
	}
}
