// Package fold turns a topic's records back into the table that they came from: the fold that docs/records.md asks of
// consumers, in code. It reads both dialects, and returns values as the JSON that the records hold.
//
// What lives here: the rules. What does not: the store of the state (sink/scratch), reading a topic, and decoding values.
package fold

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"weft/sink/scratch"
	"weft/sources/jsonscan"
)

// Record is one record of a table's topic.
type Record struct {
	// Key and Value as the log holds them: a nil Value is a tombstone, a nil Key a row of a keyless table.
	Key, Value []byte
	// OldKey and NewKey are the headers __debezium.oldkey and __debezium.newkey, or nil.
	OldKey, NewKey []byte
}

// Table is a table being folded. It is not safe for concurrent use. After an error of its store it is of no more use but to
// be closed.
//
// Its store holds, by the first byte of a key:
//
//	r PARTITION ORDER KEY   a row, where ORDER sorts as the key's values do
//	b PARTITION ROW         how many such rows a keyless table has. The delete of a row may be in another partition than
//	                        its insert, so that a count may be below zero; the sum over all partitions is what counts
//	m CHANGE                a key change of which one half has been applied, by the text of seq before its ordinal: the
//	                        halves are in the partitions of two keys, so either may be read first
//	c CHANGE 0 COLUMN       a column's value that a key change's create left open and its delete has told since
type Table struct {
	store scratch.Map
	key   []byte // scratch
	row   row    // scratch
	value []byte // scratch
	parts map[int32]bool
}

// New returns an empty table that is folded in memory.
func New() *Table { return newTable(scratch.InMemory()) }

// NewOnDisk returns an empty table that is folded in a new directory under dir ("" for the system's temporary one), in about
// memory, in bytes, however many rows there are. Close removes the directory.
func NewOnDisk(dir string, memory int64) (*Table, error) {
	s, err := scratch.OnDisk(dir, memory)
	if err != nil {
		return nil, err
	}
	return newTable(s), nil
}

func newTable(s scratch.Map) *Table { return &Table{store: s, parts: make(map[int32]bool)} }

// Close gives the state up.
func (t *Table) Close() error { return t.store.Close() }

// body is what the fold reads of a record's value. Its parts refer to the value.
type body struct {
	op            string
	before, after []byte
	seq           string
	unavailable   []string
}

func (e *body) read(value []byte) error {
	*e = body{}
	return jsonscan.Members(value, func(name, raw []byte) error {
		switch string(name) {
		case "op":
			return text(&e.op, raw)
		case "before":
			e.before = object(raw)
		case "after":
			e.after = object(raw)
		case "source":
			if object(raw) == nil {
				return nil
			}
			return jsonscan.Members(raw, func(name, raw []byte) error {
				switch string(name) {
				case "seq":
					return text(&e.seq, raw)
				case "unavailable":
					return jsonscan.Elements(raw, func(raw []byte) error {
						var column string
						err := text(&column, raw)
						e.unavailable = append(e.unavailable, column)
						return err
					})
				}
				return nil
			})
		}
		return nil
	})
}

// object is raw, or nil for null.
func object(raw []byte) []byte {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

func text(dst *string, raw []byte) error {
	if len(raw) < 2 || raw[0] != '"' {
		return fmt.Errorf("JSON has %s instead of a string", raw)
	}
	s, err := jsonscan.Unquote(raw)
	*dst = string(s)
	return err
}

// Apply folds one record in. The records of one partition must come in their order; partitions may be interleaved in any
// way. It keeps nothing of r. An error says that the record is not one of a table's topic and leaves the table as it was, or
// that the store has failed.
func (t *Table) Apply(partition int32, r Record) error {
	t.parts[partition] = true
	if r.Value == nil {
		if r.Key == nil {
			return fmt.Errorf("fold record of partition %d: neither key nor value", partition)
		}
		return t.store.Delete(t.rowKey(partition, r.Key))
	}
	var e body
	if err := e.read(r.Value); err != nil {
		return fmt.Errorf("fold record of partition %d, key %s: %w", partition, r.Key, err)
	}
	if e.op == "t" {
		if err := t.removeAll(appendPartition([]byte{'r'}, partition)); err != nil {
			return err
		}
		return t.removeAll(appendPartition([]byte{'b'}, partition))
	}
	apply := t.applyKeyed
	if r.Key == nil {
		apply = t.applyKeyless
	}
	if err := apply(partition, &r, &e); err != nil {
		return fmt.Errorf("fold record of partition %d, key %s, seq %s: %w", partition, r.Key, e.seq, err)
	}
	return nil
}

func (t *Table) applyKeyed(partition int32, r *Record, e *body) error {
	change := ""
	if r.OldKey != nil || r.NewKey != nil {
		if e.seq == "" {
			return fmt.Errorf("a key change without source.seq")
		}
		change = e.seq[:len(e.seq)-1]
	}
	switch e.op {
	case "c", "r", "u":
		if e.after == nil {
			return fmt.Errorf("op %s without after", e.op)
		}
		now := &t.row
		now.reset(e)
		var err error
		switch {
		case r.OldKey != nil:
			err = t.arrive(change, now, e)
		case len(e.unavailable) > 0:
			var old row
			if _, err = t.load(partition, r.Key, &old); err == nil {
				err = now.complete(e, &old)
			}
		default: // the columns are as they came, which only a reading of them tells to be JSON
		}
		if err != nil {
			return err
		}
		return t.put(partition, r.Key, now)
	case "d":
		if r.NewKey != nil {
			if err := t.leave(change, partition, r.Key); err != nil {
				return err
			}
		}
		return t.store.Delete(t.rowKey(partition, r.Key))
	}
	return fmt.Errorf("op %q is not one of a row", e.op)
}

// arrive folds in a key change's create, whose open columns are the old row's.
func (t *Table) arrive(change string, now *row, e *body) error {
	key := append([]byte{'m'}, change...)
	half, err := t.store.Get(key)
	if err != nil {
		return err
	}
	if half == nil { // the create came first
		if err := now.complete(e, nil); err != nil {
			return err
		}
		half = []byte{'w'}
		for i := range now.open {
			now.open[i].change = change
			half = appendBytes(half, now.open[i].name)
		}
		return t.store.Set(key, half)
	}
	if half[0] == 'd' {
		var old row
		if err := old.decode(bytes.Clone(half[1:])); err != nil {
			return err
		}
		if err := now.complete(e, &old); err != nil {
			return err
		}
		return t.store.Delete(key)
	}
	return now.complete(e, nil)
}

// leave folds in a key change's delete.
func (t *Table) leave(change string, partition int32, rowKey []byte) error {
	var old row
	if _, err := t.load(partition, rowKey, &old); err != nil {
		return err
	}
	key := append([]byte{'m'}, change...)
	half, err := t.store.Get(key)
	if err != nil {
		return err
	}
	if half == nil { // the delete came first; a row that was not there is empty
		return t.store.Set(key, old.append([]byte{'d'}))
	}
	half = bytes.Clone(half[1:])
	for len(half) > 0 {
		var name []byte
		if name, half, err = cutBytes(half); err != nil {
			return err
		}
		raw, link, err := old.find(string(name))
		if err != nil {
			return err
		}
		var told []byte
		switch {
		case raw != nil:
			told = append([]byte{'v'}, raw...)
		case link != "": // itself still open: a key changed twice
			told = append([]byte{'l'}, link...)
		default:
			continue
		}
		if err := t.store.Set(cellKey(change, string(name)), told); err != nil {
			return err
		}
	}
	return t.store.Delete(key)
}

// cell is the value of a column that a key change left open, or nil as long as it is not known.
func (t *Table) cell(change, name string) ([]byte, error) {
	for change != "" {
		told, err := t.store.Get(cellKey(change, name))
		if err != nil || told == nil {
			return nil, err
		}
		if told[0] == 'v' {
			return bytes.Clone(told[1:]), nil
		}
		change = string(told[1:])
	}
	return nil, nil
}

func cellKey(change, name string) []byte {
	return append(append(append([]byte{'c'}, change...), 0), name...)
}

// applyKeyless counts rows: a keyless table's rows are told apart by nothing but their values.
func (t *Table) applyKeyless(partition int32, _ *Record, e *body) error {
	if len(e.unavailable) > 0 {
		return fmt.Errorf("a row without a key has columns that are not known: %s", strings.Join(e.unavailable, ", "))
	}
	before, after := e.op == "u" || e.op == "d", e.op != "d"
	switch {
	case !strings.Contains("crud", e.op) || len(e.op) != 1:
		return fmt.Errorf("op %q is not one of a row", e.op)
	case before && e.before == nil || after && e.after == nil:
		return fmt.Errorf("op %s of a row without a key lacks before or after", e.op)
	}
	var was, is []byte
	var err error
	if before {
		if was, err = canonical(e.before); err != nil {
			return err
		}
	}
	if after {
		if is, err = canonical(e.after); err != nil {
			return err
		}
	}
	if before {
		if err := t.count(partition, was, -1); err != nil {
			return err
		}
	}
	if after {
		return t.count(partition, is, 1)
	}
	return nil
}

func (t *Table) count(partition int32, columns []byte, by int64) error {
	key := append(appendPartition([]byte{'b'}, partition), columns...)
	had, err := t.store.Get(key)
	if err != nil {
		return err
	}
	n := by
	if had != nil {
		was, _ := binary.Varint(had)
		n += was
	}
	if n == 0 {
		return t.store.Delete(key)
	}
	return t.store.Set(key, binary.AppendVarint(nil, n))
}

// Restore brings back the rows of another table, which each gives in the order in which that table's Each gave them. It must
// come before Apply. Rows are of the partitions that their records are in.
func (t *Table) Restore(each func(func(*Image) error) error) (err error) {
	l := t.store.Load()
	defer func() { err = errors.Join(err, l.Close()) }()
	err = each(func(image *Image) error {
		t.parts[image.Partition] = true
		if image.Key == nil {
			columns, err := canonical(image.Columns)
			if err != nil {
				return fmt.Errorf("restore a row: %w", err)
			}
			return t.count(image.Partition, columns, int64(image.Count))
		}
		r := &t.row
		*r = row{seq: string(image.Seq), columns: image.Columns, open: r.open[:0]}
		for _, name := range image.Unknown {
			r.open = append(r.open, open{name: name})
		}
		t.value = r.append(t.value[:0])
		return l.Add(int(image.Partition), t.rowKey(image.Partition, image.Key), t.value)
	})
	if err != nil {
		return err
	}
	return l.Done()
}

func (t *Table) put(partition int32, key []byte, r *row) error {
	t.value = r.append(t.value[:0])
	return t.store.Set(t.rowKey(partition, key), t.value)
}

func (t *Table) load(partition int32, key []byte, into *row) (bool, error) {
	stored, err := t.store.Get(t.rowKey(partition, key))
	if err != nil || stored == nil {
		*into = row{}
		return false, err
	}
	return true, into.decode(bytes.Clone(stored))
}

// Has tells whether the table has the row of a record with this partition and key.
func (t *Table) Has(partition int32, key []byte) (bool, error) {
	stored, err := t.store.Get(t.rowKey(partition, key))
	return stored != nil, err
}

// Op is the op of a record's value.
func Op(value []byte) (string, error) {
	var e body
	err := e.read(value)
	return e.op, err
}

// rowKey is the store's key of a row, valid until the next call.
func (t *Table) rowKey(partition int32, key []byte) []byte {
	t.key = appendPartition(append(t.key[:0], 'r'), partition)
	t.key = AppendSortable(t.key, key)
	return t.key
}

// removeAll removes every entry whose key begins with prefix.
func (t *Table) removeAll(prefix []byte) error {
	return t.store.DeleteRange(prefix, scratch.After(prefix))
}

// entries returns a cursor over the entries whose keys begin with prefix.
func (t *Table) entries(prefix []byte) (scratch.Cursor, error) {
	return t.store.Each(prefix, scratch.After(prefix))
}

func appendPartition(dst []byte, partition int32) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(partition))
}

// Row is a row of the folded table.
type Row struct {
	// Key is the record key's JSON; empty for a keyless table.
	Key string
	// Columns holds each column's value as JSON.
	Columns map[string]json.RawMessage
	// Unknown names, in order, the columns whose values no record that was applied has told. They are not in Columns.
	Unknown []string
	// Count is how many such rows there are: above 1 in a keyless table alone.
	Count int
}

// Rows returns all rows at once, otherwise as Each.
func (t *Table) Rows() ([]Row, error) {
	var rows []Row
	err := t.Each(func(image *Image) error {
		r := Row{Key: string(image.Key), Count: image.Count, Unknown: append([]string(nil), image.Unknown...)}
		if err := json.Unmarshal(image.Columns, &r.Columns); err != nil {
			return fmt.Errorf("row with key %s: %w", image.Key, err)
		}
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

// Len is the number of rows.
func (t *Table) Len() (int, error) {
	n := 0
	rows, err := t.entries([]byte{'r'})
	if err != nil {
		return 0, err
	}
	for rows.Next() {
		n++
	}
	if err := rows.Close(); err != nil {
		return 0, err
	}
	bag, err := t.entries([]byte{'b'})
	if err != nil {
		return 0, err
	}
	for bag.Next() {
		_, value := bag.Entry()
		count, _ := binary.Varint(value)
		n += int(count)
	}
	return n, bag.Close()
}
