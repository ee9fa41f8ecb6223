package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"weft/sources"
	"weft/sources/postgres/pgoutput"
)

// What a change is taken to need beside its frame's bytes when a batch is measured, once and for each value.
const (
	changeOverhead = 128
	valueOverhead  = 32
)

// maxEvents is how many events of a transaction 8 hex digits can number.
const maxEvents = 1 << 32

// decoder turns frames into the changes of a batch. A frame that it refuses leaves it as it was.
type decoder struct {
	relations  relations
	database   string
	messages   bool // deliver logical messages
	batchBytes int
	slot       string  // that marks are for
	unseen     *unseen // takes in each transaction

	at lsn // all that ends at or before it is done
	tx transaction
	// resume is what was delivered of the next transaction before the stream began; nil once it is skipped.
	resume *txPosition
	// marked: a transaction with a mark has just been committed; the batch is to end here.
	marked bool

	// The batch, in memory that is used again for the next.
	changes []sources.Change
	values  []sources.Value
	text    []byte // Order and Meta
	oids    []uint32
	size    int
}

// transaction is the one that the stream is in.
type transaction struct {
	open       bool
	number     uint64 // counts transactions, to tell one from another
	finalLSN   lsn
	xid        uint32
	stamp      uint64 // xid in 64 bits
	commitTime int64
	behind     bool // the server sent it long after
	marked     bool // it holds a mark
	// events were seen, filtered ones included; hash is of their frames. delivered counts the changes made of them.
	events, delivered int64
	hash              xxhash.Digest
	shared            *sources.Transaction
}

func (d *decoder) resumeGap(format string, args ...any) error {
	return &errResume{reason: fmt.Sprintf(format, args...)}
}

// errResume says that the transaction to resume in is not what it was. The source makes a gap of it.
type errResume struct{ reason string }

func (e *errResume) Error() string { return e.reason }

// reset begins a new batch.
func (d *decoder) reset() {
	clear(d.changes)
	d.changes, d.values, d.text, d.size = d.changes[:0], d.values[:0], d.text[:0], 0
}

// partial says that the stream is inside a transaction of which something is done.
func (d *decoder) partial() bool { return d.tx.open && d.tx.events > 0 && d.resume == nil }

// where completes a position by how far the stream is decoded.
func (d *decoder) where(p position) position {
	p.LSN = d.at
	switch {
	case d.resume != nil:
		p.TX = d.resume
	case d.partial():
		p.TX = &txPosition{FinalLSN: d.tx.finalLSN, XID: d.tx.xid, Events: d.tx.events, Hash: hashText(&d.tx.hash)}
	}
	return p
}

func hashText(h *xxhash.Digest) string { return fmt.Sprintf("%016x", h.Sum64()) }

// endsBefore says whether the batch is to end before the frame: it would be too big, or a transaction begins that is not
// known to fit.
func (d *decoder) endsBefore(f frame) bool {
	if len(d.changes) == 0 || len(f.data) == 0 {
		return false
	}
	switch f.data[0] {
	case pgoutput.KindBegin:
		return f.txSize == 0 || d.size+2*f.txSize > d.batchBytes
	case pgoutput.KindCommit:
		return false
	}
	return d.size+len(f.data)+changeOverhead > d.batchBytes
}

// full says that no change fits into the batch.
func (d *decoder) full() bool { return d.size >= d.batchBytes }

// apply takes in one frame.
func (d *decoder) apply(ctx context.Context, f frame) error {
	kind, err := pgoutput.Kind(f.data)
	if err != nil {
		return err
	}
	switch kind {
	case pgoutput.KindBegin:
		return d.begin(f)
	case pgoutput.KindCommit:
		return d.commit(f.data)
	case pgoutput.KindRelation:
		return d.relations.describe(ctx, f.data)
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete:
		return d.row(f, kind)
	case pgoutput.KindTruncate:
		return d.truncate(f)
	case pgoutput.KindMessage:
		return d.message(f)
	}
	return nil // Origin and Type say nothing that a change needs
}

// behindAfter is how many microseconds after its commit a transaction is sent when the stream is behind.
const behindAfter = 1e6

func (d *decoder) begin(f frame) error {
	b, err := pgoutput.DecodeBegin(f.data)
	if err != nil {
		return err
	}
	if d.tx.open {
		return fmt.Errorf("transaction %d begins inside transaction %d", b.XID, d.tx.xid)
	}
	if r := d.resume; r != nil && (lsn(b.FinalLSN) != r.FinalLSN || b.XID != r.XID) {
		return d.resumeGap("the checkpoint is inside transaction %d that commits at %s, and the server sends transaction %d that "+
			"commits at %s", r.XID, r.FinalLSN, b.XID, lsn(b.FinalLSN))
	}
	d.tx = transaction{open: true, number: d.tx.number + 1, finalLSN: lsn(b.FinalLSN), xid: b.XID, commitTime: b.CommitTime,
		behind: f.sent-b.CommitTime >= behindAfter, stamp: d.unseen.add(b.XID)}
	d.tx.hash.Reset()
	return nil
}

func (d *decoder) commit(data []byte) error {
	c, err := pgoutput.DecodeCommit(data)
	if err != nil {
		return err
	}
	if !d.tx.open || lsn(c.CommitLSN) != d.tx.finalLSN {
		return fmt.Errorf("a transaction commits at %s that did not begin", lsn(c.CommitLSN))
	}
	if d.resume != nil {
		return d.resumeGap("the checkpoint is after event %d of transaction %d, which now has only %d events",
			d.resume.Events, d.tx.xid, d.tx.events)
	}
	d.at = lsn(c.EndLSN)
	d.tx.open = false
	d.marked = d.marked || d.tx.marked
	return nil
}

// counted returns the transaction after n events of a frame. skip says that they were delivered before.
func (d *decoder) counted(data []byte, n int) (tx transaction, skip bool, err error) {
	tx = d.tx
	if !tx.open {
		return tx, false, fmt.Errorf("a change came outside of a transaction")
	}
	tx.events += int64(n)
	if tx.events > maxEvents {
		return tx, false, sources.Fatal("make smaller transactions", "transaction %d has more than %d events", tx.xid, int64(maxEvents))
	}
	if _, err := tx.hash.Write(data); err != nil {
		return tx, false, err
	}
	r := d.resume
	switch {
	case r == nil:
		return tx, false, nil
	case tx.events < r.Events:
		return tx, true, nil
	case tx.events > r.Events:
		return tx, false, d.resumeGap("the checkpoint is after event %d of transaction %d, which is now within a truncate",
			r.Events, tx.xid)
	}
	if got := hashText(&tx.hash); got != r.Hash {
		return tx, false, d.resumeGap("the first %d events of transaction %d are not those that were delivered: their hash is %s, "+
			"not %s", r.Events, tx.xid, got, r.Hash)
	}
	return tx, true, nil
}

// accept makes the transaction that counted returned the current one.
func (d *decoder) accept(tx transaction) {
	d.tx = tx
	if d.resume != nil && tx.events == d.resume.Events {
		d.resume = nil
	}
}

func (d *decoder) row(f frame, kind byte) error {
	row, values, err := pgoutput.DecodeRow(f.data, d.values)
	if err != nil {
		return err
	}
	rel, err := d.relations.find(row.RelationOID)
	if err != nil {
		return err
	}
	index := d.tx.events
	tx, skip, err := d.counted(f.data, 1)
	if err != nil {
		return err
	}
	if rel.table == nil {
		d.accept(tx)
		return nil
	}
	tx.delivered++
	if skip {
		rel.countIn(tx.number)
		d.accept(tx)
		return nil
	}
	if err := rel.finish(&row); err != nil {
		return fmt.Errorf("transaction %d: %w", tx.xid, err)
	}
	d.accept(tx)
	d.values = values
	c := d.add(f, index)
	c.Table = rel.table
	c.Before, c.After = row.Old, row.New
	c.TableOrder = rel.countIn(tx.number)
	switch kind {
	case pgoutput.KindInsert:
		c.Op = sources.OpCreate
	case pgoutput.KindUpdate:
		c.Op = sources.OpUpdate
	case pgoutput.KindDelete:
		c.Op = sources.OpDelete
	}
	d.size += len(f.data) + valueOverhead*(len(row.Old)+len(row.New))
	return nil
}

// finish makes of a row's values what they mean. It writes into the frame's memory, so it is called once a frame.
func (r *relation) finish(row *pgoutput.Row) error {
	t := r.table
	for _, values := range [][]sources.Value{row.Old, row.New} {
		if values != nil && len(values) != len(t.Columns) {
			return fmt.Errorf("a row of table %s has %d columns, and its description %d", t, len(values), len(t.Columns))
		}
		for _, i := range r.normalize {
			if values == nil {
				continue
			}
			if err := normalize(&t.Columns[i].Type, &values[i]); err != nil {
				return fmt.Errorf("column %q of table %s: %w", t.Columns[i].Name, t, err)
			}
		}
	}
	if row.OldKind == 'K' {
		for i := range row.Old {
			if !r.identity[i] {
				row.Old[i] = sources.Value{State: sources.Unavailable} // sent as null, whatever it was
			}
		}
	}
	missing := false
	for i := range row.New {
		if row.New[i].State != sources.Unavailable {
			continue
		}
		missing = true
		if row.Old != nil && row.Old[i].State == sources.Present {
			row.New[i] = row.Old[i]
		}
	}
	if missing {
		for _, i := range t.Key {
			if row.New[i].State == sources.Unavailable {
				return sources.Fatal(fmt.Sprintf("ALTER TABLE %q.%q REPLICA IDENTITY FULL;", t.Schema, t.Name),
					"the server did not send key column %q of a row of table %s", t.Columns[i].Name, t)
			}
		}
	}
	return nil
}

func (d *decoder) truncate(f frame) error {
	t, err := pgoutput.DecodeTruncate(f.data, d.oids[:0])
	if err != nil {
		return err
	}
	d.oids = t.RelationOIDs
	for _, oid := range t.RelationOIDs {
		if _, err := d.relations.find(oid); err != nil {
			return err
		}
	}
	index := d.tx.events
	tx, skip, err := d.counted(f.data, len(t.RelationOIDs))
	if err != nil {
		return err
	}
	d.accept(tx)
	for i, oid := range t.RelationOIDs {
		rel, err := d.relations.find(oid)
		if err != nil {
			return err
		}
		if rel.table == nil {
			continue
		}
		d.tx.delivered++
		order := rel.countIn(tx.number)
		if skip {
			continue
		}
		c := d.add(f, index+int64(i))
		c.Op, c.Table, c.TableOrder = sources.OpTruncate, rel.table, order
	}
	return nil
}

func (d *decoder) message(f frame) error {
	m, err := pgoutput.DecodeMessage(f.data)
	if err != nil {
		return err
	}
	if !m.Transactional {
		return d.looseMessage(f, m)
	}
	index := d.tx.events
	tx, skip, err := d.counted(f.data, 1)
	if err != nil {
		return err
	}
	if m.Prefix == markPrefix {
		tx.marked = tx.marked || string(m.Content) == d.slot
		d.accept(tx)
		return nil
	}
	if d.messages {
		tx.delivered++
	}
	d.accept(tx)
	if d.messages && !skip {
		d.addMessage(d.add(f, index), f, m)
	}
	return nil
}

// looseMessage is one outside of every transaction. Its LSN is where its record ends, which may be where a commit record begins: the
// byte before it belongs to it alone, and orders it.
func (d *decoder) looseMessage(f frame, m pgoutput.LogicalMessage) error {
	if d.tx.open {
		return fmt.Errorf("a message that is not transactional came inside transaction %d", d.tx.xid)
	}
	if d.messages && m.Prefix != markPrefix {
		first := len(d.text)
		d.text = appendOrder(d.text, lsn(m.LSN)-1, 0)
		order := d.text[first:len(d.text):len(d.text)]
		meta := d.meta(f, "null")
		d.changes = append(d.changes, sources.Change{Order: order, Meta: meta})
		d.size += changeOverhead
		d.addMessage(&d.changes[len(d.changes)-1], f, m)
	}
	d.at = max(d.at, lsn(m.LSN))
	return nil
}

func (d *decoder) addMessage(c *sources.Change, f frame, m pgoutput.LogicalMessage) {
	c.Op = sources.OpMessage
	c.Message = &sources.Message{Database: d.database, Prefix: m.Prefix, Content: m.Content}
	d.size += len(f.data)
}

// add appends a change of the open transaction, whose delivered counts it already.
func (d *decoder) add(f frame, index int64) *sources.Change {
	if d.tx.shared == nil {
		id := strconv.AppendUint(nil, uint64(d.tx.xid), 10)
		id = strconv.AppendUint(append(id, ':'), uint64(d.tx.finalLSN), 10)
		d.tx.shared = &sources.Transaction{ID: string(id)}
	}
	first := len(d.text)
	d.text = appendOrder(d.text, d.tx.finalLSN, index)
	order := d.text[first:len(d.text):len(d.text)]
	var xid [10]byte
	meta := d.meta(f, string(strconv.AppendUint(xid[:0], uint64(d.tx.xid), 10)))
	d.changes = append(d.changes, sources.Change{
		Order: order, Meta: meta, Stamp: d.tx.stamp, CommitTime: d.tx.commitTime, Transaction: d.tx.shared, TransactionOrder: d.tx.delivered,
	})
	d.size += changeOverhead
	return &d.changes[len(d.changes)-1]
}

// appendOrder: 16 hex digits of the LSN, a point, 8 of the index.
func appendOrder(b []byte, at lsn, index int64) []byte {
	b = appendHex(b, uint64(at), 16)
	return appendHex(append(b, '.'), uint64(index), 8)
}

func appendHex(b []byte, n uint64, digits int) []byte {
	const hex = "0123456789abcdef"
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, hex[n>>shift&0xf])
	}
	return b
}

// meta appends the members of the source block that Debezium's PostgreSQL connector has.
func (d *decoder) meta(f frame, xid string) []byte {
	b := d.text
	first := len(b)
	b = append(append(b, `"txId":`...), xid...)
	b = strconv.AppendUint(append(b, `,"lsn":`...), uint64(f.walStart), 10)
	b = strconv.AppendUint(append(b, `,"sequence":"[\"`...), uint64(d.at), 10)
	b = strconv.AppendUint(append(b, `\",\"`...), uint64(f.walStart), 10)
	b = append(b, `\"]","xmin":null,"origin":null,"origin_lsn":null`...)
	d.text = b
	return b[first:len(b):len(b)]
}
