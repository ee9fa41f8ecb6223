package pgoutput

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"weft/sources"
)

var update = flag.Bool("update", false, "write testdata/frames.golden anew")

// frame builds a frame by hand, independent of what decodes it.
type frame []byte

func newFrame(kind byte) frame            { return frame{kind} }
func (f frame) u8(v byte) frame           { return append(f, v) }
func (f frame) u16(v uint16) frame        { return binary.BigEndian.AppendUint16(f, v) }
func (f frame) u32(v uint32) frame        { return binary.BigEndian.AppendUint32(f, v) }
func (f frame) u64(v uint64) frame        { return binary.BigEndian.AppendUint64(f, v) }
func (f frame) str(s string) frame        { return append(append(f, s...), 0) }
func (f frame) value(s string) frame      { return append(f.u8('t').u32(uint32(len(s))), s...) }
func (f frame) bytes(s string) frame      { return append(f.u32(uint32(len(s))), s...) }
func (f frame) column(name string) frame  { return f.u8(0).str(name).u32(25).u32(0xffffffff) }
func (f frame) tuple(k byte, n int) frame { return f.u8(k).u16(uint16(n)) }

func beginFrame() frame  { return newFrame('B').u64(0x16B3748).u64(1_000_000).u32(820) }
func commitFrame() frame { return newFrame('C').u8(0).u64(0x16B3748).u64(0x16B3778).u64(1_000_000) }
func relationFrame() frame {
	return newFrame('R').u32(16390).str("public").str("Näme").u8('d').u16(2).
		u8(1).str("id").u32(23).u32(0xffffffff).
		u8(0).str("price").u32(1700).u32(786438)
}
func typeFrame() frame    { return newFrame('Y').u32(16385).str("inv").str("mood") }
func messageFrame() frame { return newFrame('M').u8(1).u64(0x16B3748).str("weft").bytes("a\x00b") }
func truncateFrame() frame {
	return newFrame('T').u32(2).u8(3).u32(16390).u32(16391)
}
func originFrame() frame { return newFrame('O').u64(1).str("elsewhere") }
func insertFrame() frame {
	return newFrame('I').u32(16390).tuple('N', 4).value("1").u8('n').value("").value("Zoë")
}
func updateFrame() frame { return newFrame('U').u32(16390).tuple('N', 2).value("1").u8('u') }
func updateKeyFrame() frame {
	return newFrame('U').u32(16390).tuple('K', 2).value("1").u8('n').tuple('N', 2).value("2").u8('u')
}
func updateFullFrame() frame {
	return newFrame('U').u32(16390).tuple('O', 1).value("a").tuple('N', 1).value("b")
}
func deleteKeyFrame() frame  { return newFrame('D').u32(16390).tuple('K', 2).value("1").u8('n') }
func deleteFullFrame() frame { return newFrame('D').u32(16390).tuple('O', 1).value("a") }

// handBuilt is one frame at least of each kind.
var handBuilt = []frame{
	beginFrame(), commitFrame(), relationFrame(), typeFrame(), messageFrame(), truncateFrame(), originFrame(),
	insertFrame(), updateFrame(), updateKeyFrame(), updateFullFrame(), deleteKeyFrame(), deleteFullFrame(),
}

// captured returns the frames of a real server: testdata/capture.sql says how they were made.
func captured(t testing.TB) [][]byte {
	t.Helper()
	file, err := os.Open("testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var frames [][]byte
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f, err := hex.DecodeString(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return frames
}

// decode decodes a frame of any kind that has a decoder; an Origin's content has none.
func decode(f []byte) (any, error) {
	kind, err := Kind(f)
	if err != nil {
		return nil, err
	}
	switch kind {
	case KindBegin:
		return DecodeBegin(f)
	case KindCommit:
		return DecodeCommit(f)
	case KindRelation:
		return DecodeRelation(f)
	case KindType:
		return DecodeType(f)
	case KindMessage:
		return DecodeMessage(f)
	case KindTruncate:
		return DecodeTruncate(f, nil)
	case KindOrigin:
		return nil, nil
	default:
		row, _, err := DecodeRow(f, nil)
		return row, err
	}
}

// describe writes a decoded message as a line for people.
func describe(message any) string {
	switch m := message.(type) {
	case nil:
		return "Origin"
	case Row:
		kind := ""
		if m.OldKind != 0 {
			kind = string(m.OldKind)
		}
		return fmt.Sprintf("Row %d old%s%s new%s", m.RelationOID, kind, describeTuple(m.Old), describeTuple(m.New))
	default:
		return strings.TrimPrefix(fmt.Sprintf("%T%+v", m, m), "pgoutput.")
	}
}

func describeTuple(values []sources.Value) string {
	if values == nil {
		return "(-)"
	}
	var text []string
	for _, v := range values {
		switch v.State {
		case sources.Null:
			text = append(text, "null")
		case sources.Unavailable:
			text = append(text, "unavailable")
		case sources.Present:
			s := string(v.Data)
			if len(s) > 40 {
				s = fmt.Sprintf("%s... %d bytes", s[:10], len(s))
			}
			text = append(text, fmt.Sprintf("%q", s))
		}
	}
	return "(" + strings.Join(text, " ") + ")"
}

func TestCapturedFrames(t *testing.T) {
	var got bytes.Buffer
	for i, f := range captured(t) {
		m, err := decode(f)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		fmt.Fprintln(&got, describe(m))
	}
	if *update {
		if err := os.WriteFile("testdata/frames.golden", got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/frames.golden")
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w string
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g != w {
			t.Errorf("frame %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

// A frame that ends too early, or too late, is an error of every decoder, and none panics.
func TestEveryTruncation(t *testing.T) {
	frames := captured(t)
	for _, f := range handBuilt {
		frames = append(frames, f)
	}
	for i, f := range frames {
		if f[0] == KindOrigin {
			continue
		}
		if _, err := decode(f); err != nil {
			t.Errorf("frame %d: whole: %v", i, err)
		}
		for n := range f {
			if _, err := decode(f[:n:n]); err == nil {
				t.Errorf("frame %d (%c): no error for the first %d of %d bytes", i, f[0], n, len(f))
			} else if !strings.Contains(err.Error(), "byte ") {
				t.Errorf("frame %d (%c): first %d bytes: error tells no offset: %v", i, f[0], n, err)
			}
		}
		_, err := decode(append(bytes.Clone(f), 0))
		if want := fmt.Sprintf("byte %d: want the end, but 1 bytes remain", len(f)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("frame %d (%c): trailing byte: error %v, want %q in it", i, f[0], err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range handBuilt {
		f.Add([]byte(b))
	}
	for _, b := range captured(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		m, err := decode(b)
		if !bytes.Equal(b, before) {
			t.Fatal("decoding wrote to the frame")
		}
		if err != nil {
			if !strings.Contains(err.Error(), "byte 0") && !strings.Contains(err.Error(), " message: byte ") {
				t.Fatalf("error tells no place: %v", err)
			}
			return
		}
		// What was decoded fits into the frame.
		size := 0
		switch m := m.(type) {
		case Relation:
			size = len(m.Namespace) + len(m.Name) + minColumnBytes*cap(m.Columns)
		case Truncate:
			size = 4 * len(m.RelationOIDs)
		case LogicalMessage:
			size = len(m.Prefix) + len(m.Content)
		case Row:
			for _, v := range append(m.Old[:len(m.Old):len(m.Old)], m.New...) {
				size += 1 + len(v.Data)
				if (v.State == sources.Present) != (v.Data != nil) {
					t.Fatalf("value of state %d has data %q", v.State, v.Data)
				}
				if cap(v.Data) != len(v.Data) {
					t.Fatal("appending to a value would write into the frame")
				}
			}
		}
		if size > len(b) {
			t.Fatalf("decoded %d bytes out of %d", size, len(b))
		}
	})
}
