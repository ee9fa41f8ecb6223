package polling

import (
	"strings"

	"weft/sources"
)

// keyset compares the columns with a row's, in their order, by >, <, >= or <=. It is spelt out, since not every server has comparisons of
// rows, and not every one that has them uses an index for them. value is called for each value in the order in which they stand in the text.
func keyset(columns []string, operator string, value func(i int) string) string {
	terms := make([]string, 0, len(columns))
	for i, column := range columns {
		term := ""
		for j := range i {
			term += columns[j] + " = " + value(j) + " AND "
		}
		by := operator
		if i < len(columns)-1 {
			by = operator[:1]
		}
		terms = append(terms, term+column+" "+by+" "+value(i))
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}

// keysOf is a row's key as text, for a cursor.
func keysOf(t *table, row []sources.Value) []string {
	key := make([]string, len(t.Key))
	for i, k := range t.Key {
		key[i] = keyOf(t.Columns[k].Type, row[k])
	}
	return key
}
