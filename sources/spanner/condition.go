package spanner

import (
	"fmt"
	"strconv"
	"strings"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// statement is the query for rows that a condition holds for, behind one key and up to another, in key order. Spanner's reads by
// key, which order keys by themselves, take no condition.
func (t *rowTable) statement(where string, after, until spanner.Key, limit int) (spanner.Statement, error) {
	for _, k := range t.keys {
		// NaN is not even equal to itself.
		if (after != nil || until != nil) && (k.typ.Code == spannerpb.TypeCode_FLOAT64 || k.typ.Code == spannerpb.TypeCode_FLOAT32) {
			return spanner.Statement{}, sources.Fatal("read the table whole", "table %s: its key has the column %s of a floating point type, "+
				"by which it cannot be read in parts with a condition", t.table, k.name)
		}
	}
	s := &selection{t: t, params: map[string]any{}}
	var columns, order []string
	for _, name := range t.columns {
		columns = append(columns, t.quoted(name))
	}
	for _, k := range t.keys {
		order = append(order, t.quoted(k.name)+map[bool]string{false: " ASC", true: " DESC"}[k.desc])
	}
	conditions := []string{"(" + where + "\n)"} // a comment may end it
	if after != nil {
		conditions = append(conditions, s.seek(after), s.behind(after))
	}
	if until != nil {
		conditions = append(conditions, "NOT "+s.behind(until))
	}
	text := "SELECT " + strings.Join(columns, ", ") + " FROM " + t.from + " WHERE " + strings.Join(conditions, " AND ")
	if len(order) > 0 {
		text += " ORDER BY " + strings.Join(order, ", ")
	}
	return spanner.Statement{SQL: text + " LIMIT " + strconv.Itoa(limit), Params: s.params}, nil
}

// selection gathers the parameters of a statement.
type selection struct {
	t      *rowTable
	params map[string]any
}

// behind holds for the rows that come after a key: of the columns before some column they have the key's values, and in it one that comes
// after the key's. It is never NULL.
func (s *selection) behind(key spanner.Key) string {
	var any []string
	for i := range key {
		var all []string
		for j := range i {
			all = append(all, s.equal(j, key[j]))
		}
		any = append(any, "("+strings.Join(append(all, s.after(i, key[i], "")), " AND ")+")")
	}
	return "COALESCE(" + strings.Join(any, " OR ") + ", FALSE)"
}

// seek says of the first column alone what behind says of all, in a form by which the database finds where to begin.
func (s *selection) seek(key spanner.Key) string {
	if isNull(key[0]) {
		return "TRUE"
	}
	return s.after(0, key[0], "=")
}

func (s *selection) equal(i int, part any) string {
	if isNull(part) {
		return s.name(i) + " IS NULL"
	}
	return s.name(i) + " = " + s.param(i, part)
}

// after holds for the values of a column that come after one, or with orEqual "=" for that one too.
func (s *selection) after(i int, part any, orEqual string) string {
	k := s.t.keys[i]
	last := s.t.nullsLast != k.desc
	switch {
	case isNull(part) && last:
		return "FALSE"
	case isNull(part):
		return s.name(i) + " IS NOT NULL"
	}
	is := s.name(i) + map[bool]string{false: " >", true: " <"}[k.desc] + orEqual + " " + s.param(i, part)
	if last {
		is = "(" + is + " OR " + s.name(i) + " IS NULL)"
	}
	return is
}

func (s *selection) name(i int) string { return s.t.quoted(s.t.keys[i].name) }

// param adds a value as the protocol has it.
func (s *selection) param(i int, part any) string {
	name := fmt.Sprintf("p%d", len(s.params)+1)
	v := structpb.NewStringValue(fmt.Sprint(part))
	if b, ok := part.(bool); ok {
		v = structpb.NewBoolValue(b)
	}
	s.params[name] = spanner.GenericColumnValue{Type: s.t.keys[i].typ, Value: v}
	if s.t.nullsLast { // PostgreSQL
		return "$" + name[1:]
	}
	return "@" + name
}

func isNull(part any) bool {
	_, null := part.(spanner.NullString)
	return null
}
