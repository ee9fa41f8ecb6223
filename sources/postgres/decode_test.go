package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"weft/sources"
	"weft/sources/postgres/pgoutput"
)

// Frames, as the server makes them.

func beginFrame(final lsn, xid uint32) []byte {
	b := binary.BigEndian.AppendUint64([]byte{pgoutput.KindBegin}, uint64(final))
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, 0), xid)
}

func commitFrame(at, end lsn) []byte {
	b := binary.BigEndian.AppendUint64([]byte{pgoutput.KindCommit, 0}, uint64(at))
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(end)), 0)
}

func tuple(b []byte, kind byte, values ...string) []byte {
	b = binary.BigEndian.AppendUint16(append(b, kind), uint16(len(values)))
	for _, v := range values {
		switch v {
		case "NULL":
			b = append(b, 'n')
		case "?":
			b = append(b, 'u')
		default:
			b = append(binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v))), v...)
		}
	}
	return b
}

func rowFrame(kind byte, relation uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, relation)
}

func insertFrame(values ...string) []byte {
	return tuple(rowFrame(pgoutput.KindInsert, 1), 'N', values...)
}

// testDecoder knows relation 1, public.t with key a and columns b and c, of which c is bytea; and relation 2, which is not
// wanted.
func testDecoder() *decoder {
	t := &sources.Table{Schema: "public", Name: "t", Key: []int{0}, Columns: []sources.Column{
		{Name: "a", Type: sources.Type{Kind: sources.Int}}, {Name: "b"}, {Name: "c", Type: sources.Type{Kind: sources.Bytes}}}}
	return &decoder{batchBytes: 1 << 20, at: 0x100, slot: "s", unseen: &unseen{}, relations: relations{byOID: map[uint32]*relation{
		1: {oid: 1, table: t, identity: []bool{true, false, false}, normalize: []int{2}},
		2: {oid: 2},
	}}}
}

func apply(d *decoder, frames ...[]byte) error {
	for _, data := range frames {
		if err := d.apply(context.Background(), frame{walStart: 0x123, data: data}); err != nil {
			return err
		}
	}
	return nil
}

func TestDecodeErrors(t *testing.T) {
	begin := beginFrame(0x200, 7)
	tests := []struct {
		name   string
		frames [][]byte
		want   string
	}{
		{"begin in a transaction", [][]byte{begin, begin}, "begins inside transaction 7"},
		{"commit of nothing", [][]byte{commitFrame(0x200, 0x210)}, "that did not begin"},
		{"commit of another", [][]byte{begin, commitFrame(0x208, 0x210)}, "that did not begin"},
		{"row outside of a transaction", [][]byte{insertFrame("1", "x", `\x00`)}, "outside of a transaction"},
		{"row of an unknown relation", [][]byte{begin, tuple(rowFrame(pgoutput.KindInsert, 9), 'N', "1")}, "relation 9 came before its description"},
		{"too few columns", [][]byte{begin, insertFrame("1", "x")}, "has 2 columns, and its description 3"},
		{"too many columns", [][]byte{begin, insertFrame("1", "x", `\x00`, "y")}, "has 4 columns, and its description 3"},
		{"a key that was not sent", [][]byte{begin, tuple(rowFrame(pgoutput.KindUpdate, 1), 'N', "?", "x", `\x00`)}, `did not send key column "a"`},
		{"bytea in another form", [][]byte{begin, insertFrame("1", "x", `\000`)}, `column "c" of table public.t`},
		{"truncated frame", [][]byte{begin, insertFrame("1", "x", `\x00`)[:9]}, "pgoutput"},
		{"empty frame", [][]byte{{}}, "empty frame"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := testDecoder()
			last := len(tt.frames) - 1
			if err := apply(d, tt.frames[:last]...); err != nil {
				t.Fatal(err)
			}
			before := string(d.where(position{}).encode())
			err := apply(d, tt.frames[last])
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if after := string(d.where(position{}).encode()); after != before || len(d.changes) > 0 {
				t.Errorf("a frame that was refused moved the position from %s to %s, with %d changes", before, after, len(d.changes))
			}
		})
	}
}

// TestDecodeBehind: a transaction that the server sends long after its commit is of a backlog.
func TestDecodeBehind(t *testing.T) {
	d := testDecoder()
	data := beginFrame(0x200, 7)
	b, err := pgoutput.DecodeBegin(data)
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[int64]bool{-1: false, 0: false, behindAfter - 1: false, behindAfter: true} {
		d.tx.open = false
		if err := d.apply(t.Context(), frame{sent: b.CommitTime + after, data: data}); err != nil || d.tx.behind != want {
			t.Errorf("sent %d us after its commit: behind %t, %v", after, d.tx.behind, err)
		}
	}
}

// TestDecodePosition: a transaction of which something is done is in the position, with events that are filtered; when it
// ends, its end is.
func TestDecodePosition(t *testing.T) {
	d := testDecoder()
	where := func() string { return string(d.where(position{}).encode()) }
	if err := apply(d, beginFrame(0x200, 7)); err != nil {
		t.Fatal(err)
	}
	if w := where(); !strings.Contains(w, `"lsn":"0/100"`) || strings.Contains(w, "tx") {
		t.Errorf("after Begin: %s", w)
	}
	if err := apply(d, tuple(rowFrame(pgoutput.KindInsert, 2), 'N', "1"), insertFrame("1", "x", `\x00`)); err != nil {
		t.Fatal(err)
	}
	if w := where(); !strings.Contains(w, `"lsn":"0/100","tx":{"final_lsn":"0/200","xid":7,"events":2,"hash":"`) {
		t.Errorf("after two events: %s", w)
	}
	c := d.changes[0]
	if string(c.Order) != "0000000000000200.00000001" || c.TransactionOrder != 1 || c.TableOrder != 1 || c.Transaction.ID != "7:512" {
		t.Errorf("order %s, transaction %s %d %d", c.Order, c.Transaction.ID, c.TransactionOrder, c.TableOrder)
	}
	const meta = `"txId":7,"lsn":291,"sequence":"[\"256\",\"291\"]","xmin":null,"origin":null,"origin_lsn":null`
	if string(c.Meta) != meta {
		t.Errorf("meta %s, want %s", c.Meta, meta)
	}
	if err := apply(d, commitFrame(0x200, 0x230)); err != nil {
		t.Fatal(err)
	}
	if w := where(); !strings.Contains(w, `"lsn":"0/230"`) || strings.Contains(w, "tx") {
		t.Errorf("after Commit: %s", w)
	}
}

func TestTooManyEvents(t *testing.T) {
	d := testDecoder()
	if err := apply(d, beginFrame(0x200, 7)); err != nil {
		t.Fatal(err)
	}
	d.tx.events = maxEvents - 1
	if err := apply(d, insertFrame("1", "x", `\x00`)); err != nil {
		t.Fatal(err)
	}
	if got := string(d.changes[0].Order); got != "0000000000000200.ffffffff" {
		t.Errorf("the last order is %s", got)
	}
	isFatal(t, apply(d, insertFrame("1", "x", `\x00`)), "more than 4294967296 events")
}

// TestResumeInTruncate: a position that would split a truncate of several tables is not taken.
func TestResumeInTruncate(t *testing.T) {
	d := testDecoder()
	d.resume = &txPosition{FinalLSN: 0x200, XID: 7, Events: 1, Hash: "0000000000000000"}
	truncate := binary.BigEndian.AppendUint32([]byte{pgoutput.KindTruncate}, 2)
	truncate = binary.BigEndian.AppendUint32(append(truncate, 0), 1)
	truncate = binary.BigEndian.AppendUint32(truncate, 2)
	err := apply(d, beginFrame(0x200, 7), truncate)
	var resume *errResume
	if !errors.As(err, &resume) || !strings.Contains(err.Error(), "within a truncate") {
		t.Errorf("error %v", err)
	}
}

func BenchmarkRow(b *testing.B) {
	d := testDecoder()
	data := insertFrame("1", strings.Repeat("x", 100), `\x`)
	if err := apply(d, beginFrame(0x200, 7)); err != nil {
		b.Fatal(err)
	}
	d.relations.byOID[1].normalize = nil // it would write into the frame, which is used again here
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			d.reset()
			d.tx.events = 0
		}
		if err := apply(d, data); err != nil {
			b.Fatal(err)
		}
	}
}
