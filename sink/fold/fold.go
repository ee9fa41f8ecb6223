// Package fold turns a topic's records back into the table that they came from: the fold that docs/records.md asks of
// consumers, in code. It reads both dialects, and compares and returns values as the JSON that the records hold.
//
// What lives here: the rules, in memory. What does not: reading a topic, and decoding values.
package fold

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Record is one record of a table's topic.
type Record struct {
	// Key and Value as the log holds them: a nil Value is a tombstone, a nil Key a row of a keyless table.
	Key, Value []byte
	// OldKey and NewKey are the headers __debezium.oldkey and __debezium.newkey, or nil.
	OldKey, NewKey []byte
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

// Table is a table being folded. It is not safe for concurrent use.
type Table struct {
	partitions map[int32]*partition
	// moves holds the key changes of which only one half has been applied, by the text of seq before its ordinal. The
	// halves are in the partitions of two keys, so either may be read first.
	moves map[string]*move
}

type partition struct {
	rows map[string]row
	// bag counts the rows of a keyless table. The delete of a row may be in another partition than its insert, so a count
	// may be below zero here; the sum over all partitions is what counts.
	bag map[string]int
}

type row map[string]*cell

// cell is a column's value. A value that another half of a key change is to tell is a link to that half's cell; a cell
// with neither is not known.
type cell struct {
	raw  json.RawMessage
	link *cell
}

func (c *cell) value() json.RawMessage {
	for c.raw == nil && c.link != nil {
		c = c.link
	}
	return c.raw
}

// move is one half of a key change.
type move struct {
	// old is the row that was deleted, where the delete came first; a row that was not there is empty.
	old row
	// wanted are the cells that the create left open, where the create came first.
	wanted row
}

// New returns an empty table.
func New() *Table {
	return &Table{partitions: make(map[int32]*partition), moves: make(map[string]*move)}
}

// body is what the fold reads of a record's value.
type body struct {
	Op            string
	Before, After map[string]json.RawMessage
	Source        struct {
		Seq         string
		Unavailable []string
	}
}

// Apply folds one record in. The records of one partition must come in their order; partitions may be interleaved in any
// way. An error says that the record is not one of a table's topic, and leaves the table as it was.
func (t *Table) Apply(partition int32, r Record) error {
	p := t.partition(partition)
	if r.Value == nil {
		if r.Key == nil {
			return fmt.Errorf("fold record of partition %d: neither key nor value", partition)
		}
		delete(p.rows, string(r.Key))
		return nil
	}
	var e body
	if err := json.Unmarshal(r.Value, &e); err != nil {
		return fmt.Errorf("fold record of partition %d, key %s: %w", partition, r.Key, err)
	}
	apply := t.applyKeyed
	if r.Key == nil {
		apply = applyKeyless
	}
	if e.Op == "t" {
		clear(p.rows)
		clear(p.bag)
		return nil
	}
	if err := apply(p, &r, &e); err != nil {
		return fmt.Errorf("fold record of partition %d, key %s, seq %s: %w", partition, r.Key, e.Source.Seq, err)
	}
	return nil
}

func (t *Table) partition(n int32) *partition {
	p := t.partitions[n]
	if p == nil {
		p = &partition{rows: make(map[string]row), bag: make(map[string]int)}
		t.partitions[n] = p
	}
	return p
}

func (t *Table) applyKeyed(p *partition, r *Record, e *body) error {
	key := string(r.Key)
	change := ""
	if r.OldKey != nil || r.NewKey != nil {
		if e.Source.Seq == "" {
			return fmt.Errorf("a key change without source.seq")
		}
		change = e.Source.Seq[:len(e.Source.Seq)-1]
	}
	switch e.Op {
	case "c", "r", "u":
		if e.After == nil {
			return fmt.Errorf("op %s without after", e.Op)
		}
		previous := p.rows[key]
		if r.OldKey != nil {
			previous = nil
		}
		now, open := newRow(e, previous)
		if r.OldKey != nil {
			t.arrive(change, open)
		}
		p.rows[key] = now
	case "d":
		if r.NewKey != nil {
			t.leave(change, p.rows[key])
		}
		delete(p.rows, key)
	default:
		return fmt.Errorf("op %q is not one of a row", e.Op)
	}
	return nil
}

// newRow is the row after a change: its columns, and for those that the record does not tell the ones that the row had.
// open are the cells that remain not known.
func newRow(e *body, previous row) (now, open row) {
	now = make(row, len(e.After)+len(e.Source.Unavailable))
	for name, raw := range e.After {
		now[name] = &cell{raw: raw}
	}
	for _, name := range e.Source.Unavailable {
		c := previous[name]
		if c == nil {
			if open == nil {
				open = make(row)
			}
			c = &cell{}
			open[name] = c
		}
		now[name] = c
	}
	return now, open
}

// arrive folds in a key change's create, whose open cells are the old row's.
func (t *Table) arrive(change string, open row) {
	m := t.moves[change]
	if m == nil {
		t.moves[change] = &move{wanted: open}
		return
	}
	delete(t.moves, change)
	join(open, m.old)
}

// leave folds in a key change's delete.
func (t *Table) leave(change string, old row) {
	m := t.moves[change]
	if m == nil {
		t.moves[change] = &move{old: old}
		return
	}
	delete(t.moves, change)
	join(m.wanted, old)
}

// join lets the open cells of a row be those of the row that it was.
func join(open, old row) {
	for name, c := range open {
		was := old[name]
		if was == nil {
			continue
		}
		if c.raw = was.value(); c.raw == nil {
			c.link = was // itself still open: a key changed twice
		}
	}
}

// applyKeyless counts rows: a keyless table's rows are told apart by nothing but their values.
func applyKeyless(p *partition, _ *Record, e *body) error {
	if len(e.Source.Unavailable) > 0 {
		return fmt.Errorf("a row without a key has columns that are not known: %s", strings.Join(e.Source.Unavailable, ", "))
	}
	before, after := e.Op == "u" || e.Op == "d", e.Op != "d"
	switch {
	case !strings.Contains("crud", e.Op) || len(e.Op) != 1:
		return fmt.Errorf("op %q is not one of a row", e.Op)
	case before && e.Before == nil || after && e.After == nil:
		return fmt.Errorf("op %s of a row without a key lacks before or after", e.Op)
	}
	if before {
		if err := p.count(e.Before, -1); err != nil {
			return err
		}
	}
	if after {
		return p.count(e.After, 1)
	}
	return nil
}

func (p *partition) count(columns map[string]json.RawMessage, by int) error {
	text, err := json.Marshal(columns) // sorted by name
	if err != nil {
		return err
	}
	if p.bag[string(text)] += by; p.bag[string(text)] == 0 {
		delete(p.bag, string(text))
	}
	return nil
}

// Len is the number of rows.
func (t *Table) Len() int {
	n := 0
	for _, p := range t.partitions {
		n += len(p.rows)
		for _, count := range p.bag {
			n += count
		}
	}
	return n
}

// Rows returns the rows in the order of their keys; those of a keyless table in the order of their JSON. It is an error if
// a keyless table has seen more deletes of a row than inserts: its columns have changed, or its records are not complete.
func (t *Table) Rows() ([]Row, error) {
	var rows []Row
	bag := make(map[string]int)
	for _, p := range t.partitions {
		for key, r := range p.rows {
			rows = append(rows, r.out(key))
		}
		for text, n := range p.bag {
			bag[text] += n
		}
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Key, b.Key) })
	for _, text := range slices.Sorted(maps.Keys(bag)) {
		n := bag[text]
		if n == 0 {
			continue
		}
		if n < 0 {
			return nil, fmt.Errorf("fold keyless table: a row was deleted %d times more than inserted", -n)
		}
		r := Row{Count: n}
		if err := json.Unmarshal([]byte(text), &r.Columns); err != nil {
			return nil, fmt.Errorf("fold keyless table: %w", err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func (r row) out(key string) Row {
	out := Row{Key: key, Columns: make(map[string]json.RawMessage, len(r)), Count: 1}
	for name, c := range r {
		if raw := c.value(); raw != nil {
			out.Columns[name] = raw
		} else {
			out.Unknown = append(out.Unknown, name)
		}
	}
	slices.Sort(out.Unknown)
	return out
}
