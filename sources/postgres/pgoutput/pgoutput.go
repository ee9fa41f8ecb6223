// Package pgoutput decodes the messages of PostgreSQL's logical replication output plugin pgoutput, protocol version 1:
// the payload of an XLogData frame.
//
// A decoder here checks every length against the frame, copies no column value, and allocates no more than the frame's
// own size justifies. It knows bytes alone: what a relation or a type means, and the replication protocol around the
// frames, are the business of the package postgres. The messages of streamed and prepared transactions (protocol
// versions 2 and 3) are not known here; a stream that asks for version 1 does not get them.
//
// The format is described in https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html.
package pgoutput

import "fmt"

// Message kinds, the first byte of a frame.
const (
	KindBegin    byte = 'B'
	KindCommit   byte = 'C'
	KindOrigin   byte = 'O'
	KindRelation byte = 'R'
	KindType     byte = 'Y'
	KindInsert   byte = 'I'
	KindUpdate   byte = 'U'
	KindDelete   byte = 'D'
	KindTruncate byte = 'T'
	KindMessage  byte = 'M'
)

// Begin opens a transaction. Messages between it and its Commit belong to that transaction; none are interleaved.
type Begin struct {
	// FinalLSN is where the transaction's commit record begins; equal to the Commit's CommitLSN.
	FinalLSN uint64
	// CommitTime in microseconds since 1970.
	CommitTime int64
	// XID is the top-level transaction's 32-bit id.
	XID uint32
}

// Commit ends a transaction.
type Commit struct {
	// CommitLSN is where the commit record begins, EndLSN where it ends: starting at EndLSN does not resend it.
	CommitLSN, EndLSN uint64
	// CommitTime in microseconds since 1970.
	CommitTime int64
}

// Relation describes a table. It comes before the first row of a table in a session, and again after a change of it.
type Relation struct {
	OID uint32
	// Namespace is the schema's name, empty for pg_catalog.
	Namespace, Name string
	// Identity is the replica identity: d default, n nothing, f full, i index.
	Identity byte
	// Columns are the published ones, in the order of the values in a Row.
	Columns []RelationColumn
}

// RelationColumn is a column of a Relation.
type RelationColumn struct {
	Name string
	// Key says that the column is part of the replica identity; all columns are when that is full.
	Key     bool
	TypeOID uint32
	// TypeMod is pg_attribute.atttypmod, -1 for none.
	TypeMod int32
}

// Type names a type that is not built in. It comes before the Relation that uses it.
type Type struct {
	OID uint32
	// Namespace is the schema's name, empty for pg_catalog.
	Namespace, Name string
}

// LogicalMessage is what pg_logical_emit_message wrote.
type LogicalMessage struct {
	// Transactional messages come between a Begin and its Commit, others on their own.
	Transactional bool
	LSN           uint64
	Prefix        string
	// Content refers to the frame's memory.
	Content []byte
}

// Truncate empties tables. One message holds all tables of a TRUNCATE that are published.
type Truncate struct {
	Cascade, RestartIdentity bool
	RelationOIDs             []uint32
}

// Kind returns the kind of the message in frame. A kind that protocol version 1 does not have is an error.
func Kind(frame []byte) (byte, error) {
	if len(frame) == 0 {
		return 0, fmt.Errorf("pgoutput: empty frame: want a message kind at byte 0")
	}
	switch k := frame[0]; k {
	case KindBegin, KindCommit, KindOrigin, KindRelation, KindType,
		KindInsert, KindUpdate, KindDelete, KindTruncate, KindMessage:
		return k, nil
	default:
		return 0, fmt.Errorf("pgoutput: unknown message kind %q at byte 0", k)
	}
}

// postgresEpoch is 2000-01-01, from which PostgreSQL counts its timestamps, in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

// DecodeBegin decodes a frame of KindBegin.
func DecodeBegin(frame []byte) (Begin, error) {
	r := newReader(frame, KindBegin)
	b := Begin{
		FinalLSN:   r.uint64("final LSN"),
		CommitTime: int64(r.uint64("commit time")) + postgresEpoch,
		XID:        r.uint32("transaction id"),
	}
	if err := r.end(); err != nil {
		return Begin{}, err
	}
	return b, nil
}

// DecodeCommit decodes a frame of KindCommit.
func DecodeCommit(frame []byte) (Commit, error) {
	r := newReader(frame, KindCommit)
	r.flags("flags", 0)
	c := Commit{
		CommitLSN:  r.uint64("commit LSN"),
		EndLSN:     r.uint64("end LSN"),
		CommitTime: int64(r.uint64("commit time")) + postgresEpoch,
	}
	if err := r.end(); err != nil {
		return Commit{}, err
	}
	return c, nil
}

// minColumnBytes is the size of a Relation's column with an empty name: flags, the name's end, type, modifier.
const minColumnBytes = 1 + 1 + 4 + 4

// DecodeRelation decodes a frame of KindRelation. The result does not refer to the frame.
func DecodeRelation(frame []byte) (Relation, error) {
	r := newReader(frame, KindRelation)
	rel := Relation{
		OID:       r.uint32("relation id"),
		Namespace: r.string("namespace"),
		Name:      r.string("relation name"),
	}
	at := r.pos
	rel.Identity = r.uint8("replica identity")
	switch rel.Identity {
	case 'd', 'n', 'f', 'i':
	default:
		r.failf(at, "replica identity is %q, want one of d, n, f, i", rel.Identity)
	}
	at = r.pos
	n := int(r.uint16("column count"))
	if n*minColumnBytes > r.left() {
		r.failf(at, "column count is %d, which %d remaining bytes cannot hold", n, r.left())
	}
	if r.err != nil {
		return Relation{}, r.err
	}
	rel.Columns = make([]RelationColumn, n)
	for i := range rel.Columns {
		rel.Columns[i] = RelationColumn{
			Key:     r.flags("column flags", 1) != 0,
			Name:    r.string("column name"),
			TypeOID: r.uint32("type id"),
			TypeMod: int32(r.uint32("type modifier")),
		}
	}
	if err := r.end(); err != nil {
		return Relation{}, err
	}
	return rel, nil
}

// DecodeType decodes a frame of KindType. The result does not refer to the frame.
func DecodeType(frame []byte) (Type, error) {
	r := newReader(frame, KindType)
	t := Type{
		OID:       r.uint32("type id"),
		Namespace: r.string("namespace"),
		Name:      r.string("type name"),
	}
	if err := r.end(); err != nil {
		return Type{}, err
	}
	return t, nil
}

// DecodeMessage decodes a frame of KindMessage. Content refers to the frame's memory.
func DecodeMessage(frame []byte) (LogicalMessage, error) {
	r := newReader(frame, KindMessage)
	m := LogicalMessage{
		Transactional: r.flags("flags", 1) != 0,
		LSN:           r.uint64("LSN"),
		Prefix:        r.string("prefix"),
		Content:       r.bytes("content"),
	}
	if err := r.end(); err != nil {
		return LogicalMessage{}, err
	}
	return m, nil
}

// DecodeTruncate decodes a frame of KindTruncate. RelationOIDs takes the memory of oids where that suffices; what oids
// held is overwritten.
func DecodeTruncate(frame []byte, oids []uint32) (Truncate, error) {
	const cascade, restartIdentity = 1, 2
	r := newReader(frame, KindTruncate)
	at := r.pos
	n := r.uint32("relation count")
	options := r.flags("options", cascade|restartIdentity)
	if int64(n)*4 > int64(r.left()) {
		r.failf(at, "relation count is %d, which %d remaining bytes cannot hold", n, r.left())
	}
	if r.err != nil {
		return Truncate{}, r.err
	}
	oids = oids[:0]
	for range n {
		oids = append(oids, r.uint32("relation id"))
	}
	if err := r.end(); err != nil {
		return Truncate{}, err
	}
	return Truncate{
		Cascade:         options&cascade != 0,
		RestartIdentity: options&restartIdentity != 0,
		RelationOIDs:    oids,
	}, nil
}
