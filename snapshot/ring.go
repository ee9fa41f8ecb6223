package snapshot

import (
	"encoding/binary"
	"math"

	"weft/sources"
)

// ring holds which keys the stream has changed, by transaction, for as long as a read may not have seen them. It is bounded in
// bytes: beyond that the oldest transactions keep no more than their stamps, and the oldest of those no more than the highest.
type ring struct {
	limit int
	bytes int
	txs   []*transaction // in the order of the stream
	// lost: transactions with stamps up to this one may have changed any key; 0 for none.
	lost uint64
}

// transaction is what one stamp has changed.
type transaction struct {
	stamp   uint64
	all     bool // and other keys, of any table, that are no longer held
	touches []touch
	keys    []byte
	bytes   int
}

// touch is one key that was changed, or a table that was truncated.
type touch struct {
	table    string
	from, to int // in transaction.keys
	kind     touchKind
}

type touchKind uint8

const (
	whole     touchKind = iota // the change told the row, or that it is gone
	part                       // the change left columns out
	truncated                  // all keys of the table
)

const (
	touchBytes       = 64  // about what a touch takes beside its key
	transactionBytes = 128 // and a transaction
)

// add notes that a transaction has changed a key, or truncated a table.
func (r *ring) add(stamp uint64, table string, key []byte, kind touchKind) {
	tx := r.last(stamp)
	if tx.all {
		return
	}
	if n := len(tx.touches); n > 0 {
		if l := &tx.touches[n-1]; l.table == table && l.kind == kind && string(tx.keys[l.from:l.to]) == string(key) {
			return
		}
	}
	from := len(tx.keys)
	tx.keys = append(tx.keys, key...)
	tx.touches = append(tx.touches, touch{table: table, from: from, to: len(tx.keys), kind: kind})
	n := touchBytes + len(key)
	tx.bytes += n
	r.bytes += n
	r.shrink()
}

// addAll notes that a transaction has changed what nobody can tell.
func (r *ring) addAll(stamp uint64) { r.collapse(r.last(stamp)) }

// last is the transaction that the stream is in.
func (r *ring) last(stamp uint64) *transaction {
	if n := len(r.txs); n > 0 && r.txs[n-1].stamp == stamp {
		return r.txs[n-1]
	}
	tx := &transaction{stamp: stamp, bytes: transactionBytes}
	r.txs = append(r.txs, tx)
	r.bytes += tx.bytes
	return tx
}

func (r *ring) collapse(tx *transaction) {
	r.bytes -= tx.bytes - transactionBytes
	tx.all, tx.touches, tx.keys, tx.bytes = true, nil, nil, transactionBytes
}

// shrink keeps the bound.
func (r *ring) shrink() {
	for i := 0; r.bytes > r.limit && i < len(r.txs); i++ {
		if !r.txs[i].all {
			r.collapse(r.txs[i])
		}
	}
	n := 0
	for r.bytes > r.limit && n < len(r.txs)-1 {
		r.lost = max(r.lost, r.txs[n].stamp)
		r.bytes -= r.txs[n].bytes
		n++
	}
	r.txs = r.txs[n:]
}

// unseen is what the stream has changed in a table that a read did not see.
type unseen struct {
	keys      map[string]touchKind
	truncated bool
	// unknown: the ring no longer holds all of it.
	unknown bool
}

func (u *unseen) empty() bool { return len(u.keys) == 0 && !u.truncated && !u.unknown }

// unseen looks through the ring. A key that one of several changes told only a part of is part.
func (r *ring) unseen(table string, v sources.View) unseen {
	var u unseen
	if r.lost >= v.Horizon() && r.lost > 0 {
		u.unknown = true
		return u
	}
	for _, tx := range r.txs {
		if v.Sees(tx.stamp) {
			continue
		}
		if tx.all {
			u.unknown = true
			return u
		}
		for _, t := range tx.touches {
			if t.table != table {
				continue
			}
			if t.kind == truncated {
				u.truncated = true
				continue
			}
			if u.keys == nil {
				u.keys = make(map[string]touchKind)
			}
			key := tx.keys[t.from:t.to]
			if was, ok := u.keys[string(key)]; !ok || t.kind > was {
				u.keys[string(key)] = t.kind
			}
		}
	}
	return u
}

// prune drops what all of the views see.
func (r *ring) prune(views []sources.View) {
	lowest := uint64(math.MaxUint64)
	for _, v := range views {
		lowest = min(lowest, v.Horizon())
	}
	if r.lost < lowest {
		r.lost = 0
	}
	kept := r.txs[:0]
	for _, tx := range r.txs {
		if tx.stamp < lowest || allSee(views, tx.stamp) {
			r.bytes -= tx.bytes
			continue
		}
		kept = append(kept, tx)
	}
	clear(r.txs[len(kept):])
	r.txs = kept
}

func allSee(views []sources.View, stamp uint64) bool {
	for _, v := range views {
		if !v.Sees(stamp) {
			return false
		}
	}
	return true
}

// appendKey appends a key such that different keys never have the same bytes. known, which may be nil, has what the row was
// sent without. ok is false where a key column's value is not known.
func appendKey(dst []byte, t *sources.Table, row, known []sources.Value) (key []byte, ok bool) {
	for _, i := range t.Key {
		v := pick(row, known, i)
		switch v.State {
		case sources.Present:
			dst = binary.AppendUvarint(dst, uint64(len(v.Data))+1)
			dst = append(dst, v.Data...)
		case sources.Null:
			dst = append(dst, 0)
		default:
			return dst, false
		}
	}
	return dst, true
}

// pick is a value after a change: one that was not sent is as it was before.
func pick(row, known []sources.Value, i int) sources.Value {
	if row[i].State == sources.Unavailable && known != nil && known[i].State == sources.Present {
		return known[i]
	}
	return row[i]
}

// incomplete tells whether a row after a change has columns that the change does not tell.
func incomplete(row, known []sources.Value) bool {
	for i := range row {
		if row[i].State == sources.Unavailable && pick(row, known, i).State == sources.Unavailable {
			return true
		}
	}
	return false
}

// wireKey is a key as ChunkRequest.Keys has it.
func wireKey(t *sources.Table, row, known []sources.Value) [][]byte {
	key := make([][]byte, 0, len(t.Key))
	for _, i := range t.Key {
		v := pick(row, known, i)
		if v.State != sources.Present {
			key = append(key, nil)
			continue
		}
		key = append(key, append([]byte{}, v.Data...))
	}
	return key
}

// keyAlone is a row of which nothing but its key, as wireKey has it, is known.
func keyAlone(t *sources.Table, key [][]byte) []sources.Value {
	row := make([]sources.Value, len(t.Columns))
	for i := range row {
		row[i].State = sources.Unavailable
	}
	for n, i := range t.Key {
		if row[i] = (sources.Value{}); key[n] != nil {
			row[i] = sources.Value{State: sources.Present, Data: key[n]}
		}
	}
	return row
}

// bytesOf is wireKey's key as appendKey has it.
func bytesOf(key [][]byte) string {
	var dst []byte
	for _, v := range key {
		if v == nil {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(v))+1)
		dst = append(dst, v...)
	}
	return string(dst)
}
