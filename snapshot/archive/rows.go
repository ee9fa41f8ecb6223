package archive

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/parquet-go/parquet-go"

	"weft/sink/fold"
	"weft/sources/jsonscan"
)

// Columns of a part that are not the table's.
const (
	keyColumn       = "__weft_key"       // the record key's JSON, null for a keyless table
	seqColumn       = "__weft_seq"       // source.seq of the record that told the row last
	partitionColumn = "__weft_partition" // that the row's records are in
	unknownColumn   = "__weft_unknown"   // JSON list of columns whose values are not known, null where all are
	ownColumns      = 4
)

// ordered is a group whose fields keep the order that they are given in.
type ordered struct {
	parquet.Group
	names []string
}

func (o ordered) Fields() []parquet.Field {
	fields := o.Group.Fields()
	slices.SortFunc(fields, func(a, b parquet.Field) int { return slices.Index(o.names, a.Name()) - slices.Index(o.names, b.Name()) })
	return fields
}

// schemaOf is the parts' schema. own says that Weft's own columns are among them.
func schemaOf(columns []Column, own bool) *parquet.Schema {
	o := ordered{Group: parquet.Group{}}
	add := func(name string, n parquet.Node) {
		o.Group[name], o.names = n, append(o.names, name)
	}
	for _, c := range columns {
		add(c.Name, c.Kind.node())
	}
	if own {
		add(keyColumn, parquet.Optional(plainJSON()))
		add(seqColumn, parquet.Optional(plainString()))
		add(partitionColumn, parquet.Optional(parquet.Encoded(parquet.Leaf(parquet.Int32Type), &parquet.RLEDictionary)))
		add(unknownColumn, parquet.Optional(plainJSON()))
	}
	return parquet.NewSchema("row", o)
}

// places finds columns by their names. Rows have theirs in the same order as a rule, so the one that followed the last one asked
// for is tried first.
type places struct {
	names []string
	index map[string]int
	next  int
}

func (p *places) of(name []byte) (int, bool) {
	i, ok := p.next, p.next < len(p.names) && p.names[p.next] == string(name)
	if !ok {
		i, ok = p.index[string(name)]
	}
	if p.next = i + 1; p.next >= len(p.names) {
		p.next = 0
	}
	return i, ok
}

func (p *places) add(name string) int {
	if p.index == nil {
		p.index = make(map[string]int)
	}
	i := len(p.names)
	p.index[name], p.names = i, append(p.names, name)
	return i
}

// shape makes Parquet rows of images and back.
type shape struct {
	columns []Column
	places  places
	own     bool
}

func newShape(columns []Column, own bool) *shape {
	s := &shape{columns: columns, own: own}
	for _, c := range columns {
		s.places.add(c.Name)
	}
	return s
}

// row makes a row; its values refer to the image.
func (s *shape) row(into parquet.Row, image *fold.Image) (parquet.Row, error) {
	width := len(s.columns)
	if s.own {
		width += ownColumns
	}
	into = slices.Grow(into[:0], width)[:width]
	told := 0
	for i := range into {
		into[i] = parquet.NullValue().Level(0, 0, i)
	}
	err := jsonscan.Members(image.Columns, func(name, raw []byte) error {
		i, ok := s.places.of(name)
		if !ok {
			return fmt.Errorf("column %q is not among the columns found", name)
		}
		told++
		v, err := s.columns[i].Kind.value(raw)
		if err != nil {
			return fmt.Errorf("column %q: %s is no %s: %w", name, raw, s.columns[i].Kind, err)
		}
		if !v.IsNull() {
			into[i] = v.Level(0, 1, i)
		}
		return nil
	})
	if err != nil || !s.own {
		return into, err
	}
	n := len(s.columns)
	if image.Key != nil {
		into[n] = parquet.ByteArrayValue(image.Key).Level(0, 1, n)
	}
	if len(image.Seq) > 0 {
		into[n+1] = parquet.ByteArrayValue(image.Seq).Level(0, 1, n+1)
	}
	into[n+2] = parquet.Int32Value(image.Partition).Level(0, 1, n+2)
	if told < len(s.columns) {
		list, err := json.Marshal(s.missing(image))
		if err != nil {
			return into, err
		}
		into[n+3] = parquet.ByteArrayValue(list).Level(0, 1, n+3)
	}
	return into, nil
}

// missing are the columns that an image does not tell: those that are not known, and those that the table did not have when
// the row was written last.
func (s *shape) missing(image *fold.Image) []string {
	told := make(map[string]bool, len(s.columns))
	_ = jsonscan.Members(image.Columns, func(name, _ []byte) error { // row has read it
		told[string(name)] = true
		return nil
	})
	var names []string
	for _, c := range s.columns {
		if !told[c.Name] {
			names = append(names, c.Name)
		}
	}
	return names
}

// image makes an image of a row; it refers to the row, and to its own former memory.
func (s *shape) image(into *fold.Image, row parquet.Row) error {
	n := len(s.columns)
	if len(row) != n+ownColumns {
		return fmt.Errorf("a row has %d columns instead of %d", len(row), n+ownColumns)
	}
	into.Key, into.Seq, into.Unknown, into.Count = nil, nil, into.Unknown[:0], 1
	if v := row[n]; !v.IsNull() {
		into.Key = v.ByteArray()
	}
	if v := row[n+1]; !v.IsNull() {
		into.Seq = v.ByteArray()
	}
	into.Partition = row[n+2].Int32()
	if v := row[n+3]; !v.IsNull() {
		if err := json.Unmarshal(v.ByteArray(), &into.Unknown); err != nil {
			return fmt.Errorf("its list of unknown columns: %w", err)
		}
	}
	out := append(into.Columns[:0], '{')
	for i, v := range row[:n] {
		c := &s.columns[i]
		if len(into.Unknown) > 0 && slices.Contains(into.Unknown, c.Name) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(jsonscan.AppendQuoted(out, []byte(c.Name)), ':')
		var err error
		if out, err = c.Kind.append(out, v); err != nil {
			return err
		}
	}
	into.Columns = append(out, '}')
	return nil
}

// kindsOf finds the columns of all images, in the order in which they come up, and their kinds.
type kindsOf struct {
	places places
	forms  []seen
	key    []string
}

func (k *kindsOf) add(image *fold.Image) error {
	if k.key == nil && image.Key != nil {
		_ = jsonscan.Members(image.Key, func(name, _ []byte) error { // a key that is no object has no columns
			k.key = append(k.key, string(name))
			return nil
		})
	}
	return jsonscan.Members(image.Columns, func(name, raw []byte) error {
		i, ok := k.places.of(name)
		if !ok {
			i = k.places.add(string(name))
			k.forms = append(k.forms, 0)
		}
		if string(raw) != "null" {
			k.forms[i].add(raw)
		}
		return nil
	})
}

func (k *kindsOf) columns() (all, key []Column) {
	all, key = []Column{}, []Column{}
	for i, name := range k.places.names {
		all = append(all, Column{name, k.forms[i].kind()})
	}
	for _, name := range k.key {
		c := Column{Name: name, Kind: JSON}
		if i, ok := k.places.index[name]; ok {
			c = all[i]
		}
		key = append(key, c)
	}
	return all, key
}

// Kinds finds the columns of all images that each gives, and how their values can be stored.
func Kinds(each func(func(*fold.Image) error) error) ([]Column, error) {
	var k kindsOf
	if err := each(k.add); err != nil {
		return nil, err
	}
	all, _ := k.columns()
	return all, nil
}
