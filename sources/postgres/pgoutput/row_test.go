package pgoutput

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"weft/sources"
)

var (
	null        = sources.Value{}
	unavailable = sources.Value{State: sources.Unavailable}
)

func text(s string) sources.Value { return sources.Value{Data: []byte(s), State: sources.Present} }

func TestDecodeRow(t *testing.T) {
	tests := []struct {
		name  string
		frame frame
		want  Row
	}{
		{"insert", insertFrame(), Row{RelationOID: 16390, New: []sources.Value{text("1"), null, text(""), text("Zoë")}}},
		{"insert without columns", newFrame('I').u32(7).tuple('N', 0), Row{RelationOID: 7, New: []sources.Value{}}},
		{"update", updateFrame(), Row{RelationOID: 16390, New: []sources.Value{text("1"), unavailable}}},
		{"update of the key", updateKeyFrame(), Row{
			RelationOID: 16390, OldKind: 'K', Old: []sources.Value{text("1"), null}, New: []sources.Value{text("2"), unavailable}}},
		{"update with identity full", updateFullFrame(), Row{
			RelationOID: 16390, OldKind: 'O', Old: []sources.Value{text("a")}, New: []sources.Value{text("b")}}},
		{"delete", deleteKeyFrame(), Row{RelationOID: 16390, OldKind: 'K', Old: []sources.Value{text("1"), null}}},
		{"delete with identity full", deleteFullFrame(), Row{RelationOID: 16390, OldKind: 'O', Old: []sources.Value{text("a")}}},
	}
	for _, test := range tests {
		for _, room := range []int{0, 1, 2, 3, 100} {
			t.Run(fmt.Sprintf("%s, room %d", test.name, room), func(t *testing.T) {
				slab := append(make([]sources.Value, 0, room+1), text("earlier"))
				got, out, err := DecodeRow(test.frame, slab)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, test.want) {
					t.Errorf("\n got %+v\nwant %+v", got, test.want)
				}
				want := append([]sources.Value{text("earlier")}, append(test.want.Old, test.want.New...)...)
				if !reflect.DeepEqual(out, want) {
					t.Errorf("slab\n got %+v\nwant %+v", out, want)
				}
				if cap(got.Old) != len(got.Old) || cap(got.New) != len(got.New) {
					t.Error("appending to a row would write into the slab")
				}
			})
		}
	}
}

func TestDecodeRowErrors(t *testing.T) {
	tests := []struct {
		name  string
		frame frame
		want  string
	}{
		{"binary value", newFrame('I').u32(1).tuple('N', 1).u8('b').bytes("x"),
			"Insert message: byte 8: column value is in binary form, want text"},
		{"unknown column state", newFrame('I').u32(1).tuple('N', 2).u8('n').u8('z'),
			"Insert message: byte 9: column state is 'z', want one of n, u, t"},
		{"more columns than bytes", newFrame('I').u32(1).tuple('N', 65535).value("12345678"),
			"Insert message: byte 6: column count is 65535, which 13 remaining bytes cannot hold"},
		{"value longer than the frame", newFrame('D').u32(1).tuple('K', 1).u8('t').u32(0x80000000),
			"Delete message: byte 9: column value is 2147483648 bytes long, but only 0 remain"},
		{"insert with an old row", newFrame('I').u32(1).tuple('K', 1).u8('n').tuple('N', 1).u8('n'),
			`Insert message: byte 5: tuple kind is 'K', want one of "N"`},
		{"update with two old rows", newFrame('U').u32(1).tuple('K', 1).u8('n').tuple('O', 1).u8('n'),
			`Update message: byte 9: tuple kind is 'O', want one of "N"`},
		{"delete with a new row", newFrame('D').u32(1).tuple('N', 1).u8('n'),
			`Delete message: byte 5: tuple kind is 'N', want one of "KO"`},
		{"update without its new row", newFrame('U').u32(1).tuple('K', 1).u8('n'),
			"Update message: byte 9: want tuple kind (1 bytes), but only 0 remain"},
		{"no row message", beginFrame(), "Begin message: byte 0: want a row message: I, U or D"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			slab := append(make([]sources.Value, 0, 8), text("earlier"))
			row, out, err := DecodeRow(test.frame, slab)
			if want := "pgoutput: " + test.want; err == nil || err.Error() != want {
				t.Fatalf("\n got %v\nwant %s", err, want)
			}
			if !reflect.DeepEqual(row, Row{}) || len(out) != 1 || &out[0] != &slab[0] {
				t.Errorf("row %+v or slab %+v beside the error", row, out)
			}
		})
	}
}

// Rows stay as they were while more rows are decoded into the same slab, however often it grows.
func TestRowsOutliveGrowth(t *testing.T) {
	var slab []sources.Value
	var rows []Row
	grown := 0
	for i := range 1000 {
		f := newFrame('U').u32(uint32(i)).tuple('O', 2).value(fmt.Sprint("old", i)).u8('n').tuple('N', 2).value(fmt.Sprint("new", i)).u8('u')
		before := cap(slab)
		row, out, err := DecodeRow(f, slab)
		if err != nil {
			t.Fatal(err)
		}
		if cap(out) != before {
			grown++
		}
		slab = out
		rows = append(rows, row)
	}
	if grown < 2 || grown > 50 {
		t.Errorf("slab grew %d times over 1000 rows, want a few", grown)
	}
	for i, row := range rows {
		want := Row{
			RelationOID: uint32(i), OldKind: 'O',
			Old: []sources.Value{text(fmt.Sprint("old", i)), null},
			New: []sources.Value{text(fmt.Sprint("new", i)), unavailable},
		}
		if !reflect.DeepEqual(row, want) {
			t.Fatalf("row %d became %+v", i, row)
		}
	}
	if len(slab) != 4000 {
		t.Errorf("slab holds %d values, want 4000", len(slab))
	}
}

func TestDecodeRowCopiesNoValue(t *testing.T) {
	f := insertFrame()
	row, _, err := DecodeRow(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	copy(f[len(f)-4:], "Anna")
	if got := string(row.New[3].Data); got != "Anna" {
		t.Errorf("value is %q: not the frame's own memory", got)
	}
}

func TestDecodeRowAllocatesNothing(t *testing.T) {
	slab := make([]sources.Value, 0, 16)
	for _, f := range []frame{insertFrame(), updateFrame(), updateKeyFrame(), updateFullFrame(), deleteKeyFrame(), deleteFullFrame()} {
		if n := testing.AllocsPerRun(100, func() {
			if _, _, err := DecodeRow(f, slab); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%c frame: %v allocations, want 0", f[0], n)
		}
	}
}

// Counts that the frame cannot hold cost nothing but the error.
func TestFalseCountsAllocateLittle(t *testing.T) {
	frames := map[string]frame{
		"row":      newFrame('I').u32(1).tuple('N', 65535).value("12345678"),
		"relation": newFrame('R').u32(1).str("s").str("t").u8('d').u16(65535).column("c"),
		"truncate": newFrame('T').u32(0xffffffff).u8(0).u32(1),
		"message":  newFrame('M').u8(0).u64(1).str("").u32(0x7fffffff).u8(0),
	}
	for name, f := range frames {
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := decode(f); err == nil {
				t.Fatalf("%s: no error", name)
			}
		}
		runtime.ReadMemStats(&after)
		if bytes := (after.TotalAlloc - before.TotalAlloc) / runs; bytes > 4096 {
			t.Errorf("%s: %d bytes allocated for a frame of %d", name, bytes, len(f))
		}
	}
}

func BenchmarkDecodeRow(b *testing.B) {
	f := newFrame('U').u32(16390).tuple('O', 20)
	for range 20 {
		f = f.value(strings.Repeat("x", 12))
	}
	f = f.tuple('N', 20)
	for range 20 {
		f = f.value(strings.Repeat("y", 12))
	}
	slab := make([]sources.Value, 0, 64)
	b.SetBytes(int64(len(f)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeRow(f, slab); err != nil {
			b.Fatal(err)
		}
	}
}
