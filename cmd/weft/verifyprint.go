package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"weft/cmd/weft/internal/verify"
)

// printResult prints a table's keys, one a line, and then a line that counts them.
func printResult(w io.Writer, r *verify.Result) error {
	var b strings.Builder
	for _, f := range r.Findings {
		writeFinding(&b, r.Table, f, "")
	}
	if r.LeftOff > 0 {
		fmt.Fprintf(&b, "%s and %d more, which --keys left off\n", r.Table, r.LeftOff)
	}
	for _, column := range slices.Sorted(maps.Keys(r.Unknown)) {
		fmt.Fprintf(&b, "%s: the topic does not tell %s of %d rows: they were compared without it\n", r.Table, column, r.Unknown[column])
	}
	if r.Moving > 0 {
		fmt.Fprintf(&b, "%s: %d rows were written between every two looks: they were compared without their values\n", r.Table, r.Moving)
	}
	if len(r.Gone) > 0 {
		fmt.Fprintf(&b, "%s: rows in the topic have columns that the table no longer has: %s\n", r.Table, strings.Join(r.Gone, ", "))
	}
	verdict := "the same"
	if !r.Clean() {
		verdict = fmt.Sprintf("%d missing, %d extra, %d differing, %d undecided", r.Missing, r.Extra, r.Differing, r.Undecided)
	}
	fmt.Fprintf(&b, "%s: %s; %d rows compared with topic %s\n", r.Table, verdict, r.Rows, r.Topic)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFinding(b *strings.Builder, table string, f verify.Finding, still string) {
	fmt.Fprintf(b, "%s %s%s %s", table, still, f.Kind, rowOrKey(f))
	if f.Count > 1 {
		fmt.Fprintf(b, " %d times", f.Count)
	}
	if len(f.Columns) > 0 {
		fmt.Fprintf(b, " in %s", strings.Join(f.Columns, ", "))
	}
	if f.Why != "" {
		fmt.Fprintf(b, " (%s)", f.Why)
	}
	b.WriteByte('\n')
}

// printRepair prints what a table's repair has come to, or with wanted why there was none.
func printRepair(w io.Writer, capture string, r *verify.Result, wanted bool) error {
	var b strings.Builder
	switch {
	case r.Repair != nil:
		for _, f := range r.Repair.Findings {
			writeFinding(&b, r.Table, f, "still ")
		}
		fmt.Fprintf(&b, "%s: repaired %d, still different %d\n", r.Table, r.Repair.Keys, r.Repair.Left)
	case wanted && r.Keyless && !r.Clean():
		fmt.Fprintf(&b, "%s has no key to repair rows by; weft snapshot start %s %[1]s reads all of it anew, behind a truncate\n", r.Table, capture)
	}
	if wanted && r.Undecided > 0 {
		fmt.Fprintf(&b, "%s: what is undecided is not repaired; weft snapshot start %s %[1]s reads all rows anew\n", r.Table, capture)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func rowOrKey(f verify.Finding) json.RawMessage {
	if f.Key == nil {
		return f.Row
	}
	return f.Key
}
