package spanner

import (
	"fmt"
	"slices"
	"strconv"

	"weft/sources"
	"weft/sources/jsonscan"
)

// batch is the changes of one Next and their memory, which the next one uses again.
type batch struct {
	changes  []sources.Change
	maxBytes int
	size     int
	// Blocks that are full stay where they are, referred to by the values in them; only the newest is used again.
	bytes  []byte
	values []sources.Value
}

// What a change and a value are taken to add to the encoded size beside their data, and the sizes of the first blocks.
const (
	changeOverhead = 128
	valueOverhead  = 16
	byteBlock      = 16 << 10
	valueBlock     = 256
)

func (b *batch) reset() {
	clear(b.changes)
	b.changes = b.changes[:0]
	b.size = 0
	b.bytes = b.bytes[:0]
	b.values = b.values[:0]
}

// full tells that a change of about size bytes more must wait for the next batch.
func (b *batch) full(size int) bool { return len(b.changes) > 0 && b.size+size > b.maxBytes }

// room returns a slice to append n bytes to, which keep takes. More may be appended: it is then a block of its own.
func (b *batch) room(n int) []byte {
	if cap(b.bytes)-len(b.bytes) < n {
		b.bytes = make([]byte, 0, max(n, byteBlock, min(2*cap(b.bytes), b.maxBytes)))
	}
	return b.bytes[len(b.bytes):len(b.bytes):cap(b.bytes)]
}

// keep takes what was appended to the slice of room.
func (b *batch) keep(data []byte) []byte {
	if n := len(b.bytes) + len(data); n <= cap(b.bytes) && (len(data) == 0 || &data[0] == &b.bytes[:n][len(b.bytes)]) {
		b.bytes = b.bytes[:n]
	}
	return slices.Clip(data)
}

// row returns n values of a state.
func (b *batch) row(n int, state sources.State) []sources.Value {
	if cap(b.values)-len(b.values) < n {
		b.values = make([]sources.Value, 0, max(n, valueBlock, 2*cap(b.values)))
	}
	at := len(b.values)
	b.values = b.values[:at+n]
	row := b.values[at : at+n : at+n]
	for i := range row {
		row[i] = sources.Value{State: state}
	}
	return row
}

// add appends the change that a record's mod is. The values of a column that an update does not list, and in Before of every
// column that the value capture type leaves out, are unavailable.
func (b *batch) add(l *layout, r *dataRecord, index int) error {
	m := &r.mods[index]
	c := sources.Change{Table: l.table, Stamp: uint64(r.id.at), CommitTime: int64(r.id.at) / 1000}
	var err error
	switch r.modType {
	case "INSERT":
		c.Op = sources.OpCreate
		c.After, err = b.read(l, l.absent, m.keys, m.newValues)
	case "UPDATE":
		c.Op = sources.OpUpdate
		if c.After, err = b.read(l, l.absent, m.keys, m.newValues); err == nil && hasMembers(m.oldValues) {
			c.Before, err = b.read(l, sources.Unavailable, m.keys, m.oldValues)
			if r.capture == "NEW_ROW_AND_OLD_VALUES" { // old values of what changed; the rest is as it was
				for i := range c.Before {
					if c.Before[i].State == sources.Unavailable {
						c.Before[i] = c.After[i]
					}
				}
			}
		}
	default:
		c.Op = sources.OpDelete
		c.Before, err = b.read(l, sources.Unavailable, m.keys, m.oldValues)
	}
	if err != nil {
		return sources.Fatal("report it with the column's type; until it is mended, leave the table out of the capture",
			"table %s, key %s, commit timestamp %s: %w", l.table, m.keys, r.id.at, err)
	}
	for _, values := range [][]sources.Value{c.Before, c.After} {
		for i := range values {
			b.size += len(values[i].Data) + valueOverhead
		}
	}
	b.size += changeOverhead
	c.Order = b.keep(appendOrder(b.room(64), r.id, index))
	c.Meta = b.keep(appendMeta(b.room(256+len(r.id.tx)+len(r.tag)), r, index))
	b.changes = append(b.changes, c)
	return nil
}

// hasMembers tells whether a JSON object is there and not empty.
func hasMembers(object []byte) bool { return len(object) > len("{}") && string(object) != "null" }

// read makes a row of a mod's keys and its values.
func (b *batch) read(l *layout, absent sources.State, keys, values []byte) ([]sources.Value, error) {
	row := b.row(len(l.table.Columns), absent)
	for _, object := range [][]byte{keys, values} {
		if len(object) == 0 || string(object) == "null" {
			continue
		}
		hint := 0
		if err := jsonscan.Members(object, func(name, value []byte) error {
			at, next, ok := l.find(name, hint)
			if !ok {
				return fmt.Errorf("column %s is not among those that the record lists", name)
			}
			hint = next
			if string(value) == "null" {
				row[at] = sources.Value{}
				return nil
			}
			data, err := appendValue(b.room(len(value)+16), value, &l.table.Columns[at].Type)
			if err != nil {
				return fmt.Errorf("column %s of type %s: %w", name, l.table.Columns[at].Type.Name, err)
			}
			row[at] = sources.Value{State: sources.Present, Data: b.keep(data)}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	for _, k := range l.table.Key {
		if row[k].State == sources.Unavailable {
			return nil, fmt.Errorf("the key column %s is missing", l.table.Columns[k].Name)
		}
	}
	return row, nil
}

// appendMeta appends what Debezium's source block has of a Spanner change, under its names.
func appendMeta(dst []byte, r *dataRecord, index int) []byte {
	dst = append(dst, `"server_transaction_id":`...)
	dst = appendJSONString(dst, r.id.tx)
	dst = append(dst, `,"record_sequence":`...)
	dst = appendJSONString(dst, r.sequence)
	dst = append(dst, `,"mod_number":`...)
	dst = strconv.AppendInt(dst, int64(index), 10)
	dst = append(dst, `,"commit_timestamp":`...)
	dst = appendTime(dst, r.id.at)
	dst = append(dst, `,"value_capture_type":`...)
	dst = appendJSONString(dst, r.capture)
	dst = append(dst, `,"is_last_record_in_transaction_in_partition":`...)
	dst = strconv.AppendBool(dst, r.last)
	dst = append(dst, `,"number_of_records_in_transaction":`...)
	dst = strconv.AppendInt(dst, r.records, 10)
	dst = append(dst, `,"number_of_partitions_in_transaction":`...)
	dst = strconv.AppendInt(dst, r.partitions, 10)
	dst = append(dst, `,"transaction_tag":`...)
	dst = appendJSONString(dst, r.tag)
	dst = append(dst, `,"system_transaction":`...)
	return strconv.AppendBool(dst, r.system)
}
