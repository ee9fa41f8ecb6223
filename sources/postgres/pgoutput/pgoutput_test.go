package pgoutput

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// commitTime is the timestamp of beginFrame and commitFrame: 2000-01-01 00:00:01.
const commitTime = 946_684_801_000_000

func TestDecode(t *testing.T) {
	tests := []struct {
		name  string
		frame frame
		want  any
	}{
		{"begin", beginFrame(), Begin{FinalLSN: 0x16B3748, CommitTime: commitTime, XID: 820}},
		{"commit", commitFrame(), Commit{CommitLSN: 0x16B3748, EndLSN: 0x16B3778, CommitTime: commitTime}},
		{"relation", relationFrame(), Relation{
			OID: 16390, Namespace: "public", Name: "Näme", Identity: 'd',
			Columns: []RelationColumn{
				{Name: "id", Key: true, TypeOID: 23, TypeMod: -1},
				{Name: "price", TypeOID: 1700, TypeMod: 786438},
			},
		}},
		{"relation without columns", newFrame('R').u32(1).str("s").str("t").u8('f').u16(0),
			Relation{OID: 1, Namespace: "s", Name: "t", Identity: 'f', Columns: []RelationColumn{}}},
		{"relation of pg_catalog", newFrame('R').u32(1).str("").str("t").u8('n').u16(1).column("c"),
			Relation{OID: 1, Name: "t", Identity: 'n', Columns: []RelationColumn{{Name: "c", TypeOID: 25, TypeMod: -1}}}},
		{"type", typeFrame(), Type{OID: 16385, Namespace: "inv", Name: "mood"}},
		{"message", messageFrame(), LogicalMessage{Transactional: true, LSN: 0x16B3748, Prefix: "weft", Content: []byte("a\x00b")}},
		{"message outside of transactions, empty", newFrame('M').u8(0).u64(1).str("").u32(0), LogicalMessage{LSN: 1, Content: []byte{}}},
		{"truncate", truncateFrame(), Truncate{Cascade: true, RestartIdentity: true, RelationOIDs: []uint32{16390, 16391}}},
		{"truncate cascade", newFrame('T').u32(1).u8(1).u32(9), Truncate{Cascade: true, RelationOIDs: []uint32{9}}},
		{"truncate restart identity", newFrame('T').u32(1).u8(2).u32(9), Truncate{RestartIdentity: true, RelationOIDs: []uint32{9}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := decode(test.frame)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %#v\nwant %#v", got, test.want)
			}
		})
	}
}

func TestKind(t *testing.T) {
	for _, f := range handBuilt {
		if kind, err := Kind(f); err != nil || kind != f[0] {
			t.Errorf("Kind of a %c frame: %q, %v", f[0], kind, err)
		}
	}
	if _, err := Kind(nil); err == nil || !strings.Contains(err.Error(), "empty frame") {
		t.Errorf("empty frame: error %v", err)
	}
	for _, kind := range "SEcAbPKrp\x00" { // streamed and prepared transactions, of later protocol versions
		if _, err := Kind([]byte{byte(kind), 0, 0}); err == nil || !strings.Contains(err.Error(), "unknown message kind") {
			t.Errorf("kind %q: error %v", kind, err)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	tests := []struct {
		name  string
		frame frame
		want  string
	}{
		{"begin short", beginFrame()[:12], "Begin message: byte 9: want commit time (8 bytes), but only 3 remain"},
		{"commit flags", newFrame('C').u8(4).u64(1).u64(2).u64(3), "Commit message: byte 1: flags are 0x04, of which only 0x00 are known"},
		{"relation identity", newFrame('R').u32(1).str("s").str("t").u8('x').u16(0),
			"Relation message: byte 9: replica identity is 'x', want one of d, n, f, i"},
		{"relation with more columns than bytes", newFrame('R').u32(1).str("s").str("t").u8('d').u16(65535).column("c"),
			"Relation message: byte 10: column count is 65535, which 11 remaining bytes cannot hold"},
		{"relation name without end", append(newFrame('R').u32(1).str("s"), "table"...),
			"Relation message: byte 7: want relation name (text up to a zero byte), but no zero byte in the remaining 5"},
		{"relation column flags", newFrame('R').u32(1).str("s").str("t").u8('d').u16(1).u8(2).str("c").u32(1).u32(1),
			"Relation message: byte 12: column flags are 0x02, of which only 0x01 are known"},
		{"type short", newFrame('Y').u16(1), "Type message: byte 1: want type id (4 bytes), but only 2 remain"},
		{"message longer than the frame", newFrame('M').u8(0).u64(1).str("").u32(0xffffffff).u8(0),
			"Message message: byte 11: content is 4294967295 bytes long, but only 1 remain"},
		{"message flags", newFrame('M').u8(3).u64(1).str("").u32(0), "Message message: byte 1: flags are 0x03, of which only 0x01 are known"},
		{"truncate with more relations than bytes", newFrame('T').u32(0xffffffff).u8(0).u32(1),
			"Truncate message: byte 1: relation count is 4294967295, which 4 remaining bytes cannot hold"},
		{"truncate options", newFrame('T').u32(1).u8(4).u32(1), "Truncate message: byte 5: options are 0x04, of which only 0x03 are known"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := decode(test.frame)
			if want := "pgoutput: " + test.want; err == nil || err.Error() != want {
				t.Fatalf("\n got %v\nwant %s", err, want)
			}
			if v := reflect.ValueOf(got); !v.IsZero() {
				t.Errorf("result beside the error: %+v", got)
			}
		})
	}
}

// Each decoder refuses the frames of all others.
func TestDecodeWrongKind(t *testing.T) {
	decoders := map[string]func([]byte) error{
		"B":   func(f []byte) error { _, err := DecodeBegin(f); return err },
		"C":   func(f []byte) error { _, err := DecodeCommit(f); return err },
		"R":   func(f []byte) error { _, err := DecodeRelation(f); return err },
		"Y":   func(f []byte) error { _, err := DecodeType(f); return err },
		"M":   func(f []byte) error { _, err := DecodeMessage(f); return err },
		"T":   func(f []byte) error { _, err := DecodeTruncate(f, nil); return err },
		"IUD": func(f []byte) error { _, _, err := DecodeRow(f, nil); return err },
	}
	for kinds, decode := range decoders {
		for _, f := range handBuilt {
			err := decode(f)
			if own := strings.IndexByte(kinds, f[0]) >= 0; own != (err == nil) {
				t.Errorf("decoder of %s, %c frame: error %v", kinds, f[0], err)
			}
		}
		if decode(nil) == nil {
			t.Errorf("decoder of %s: no error for an empty frame", kinds)
		}
	}
}

func TestDecodeTruncateReusesMemory(t *testing.T) {
	f := truncateFrame()
	oids := make([]uint32, 0, 8)
	got, err := DecodeTruncate(f, oids)
	if err != nil || &got.RelationOIDs[0] != &oids[:1][0] {
		t.Errorf("relation ids are in other memory (error %v)", err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = DecodeTruncate(f, oids) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// What outlives a frame does not refer to it.
func TestRelationSurvivesItsFrame(t *testing.T) {
	f := relationFrame()
	rel, err := DecodeRelation(f)
	if err != nil {
		t.Fatal(err)
	}
	clear(f)
	if rel.Namespace != "public" || rel.Name != "Näme" || rel.Columns[1].Name != "price" {
		t.Errorf("relation changed with its frame: %+v", rel)
	}
}

func TestMessageContentIsNotCopied(t *testing.T) {
	f := append(newFrame('M').u8(0).u64(1).str("p"), bytes.Repeat([]byte{0}, 4)...)
	f[len(f)-1] = 100
	f = append(f, make([]byte, 100)...)
	m, err := DecodeMessage(f)
	if err != nil {
		t.Fatal(err)
	}
	if &m.Content[0] != &f[len(f)-100] || cap(m.Content) != 100 {
		t.Error("content is not the frame's own memory")
	}
}
