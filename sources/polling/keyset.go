package polling

import "strings"

// keyset selects what comes after a row in the order of columns. It is spelt out, since not every server has comparisons of rows, and
// not every one that has them uses an index for them. value is called for each value in the order in which they stand in the text.
func keyset(columns []string, value func(i int) string) string {
	terms := make([]string, 0, len(columns))
	for i, column := range columns {
		term := ""
		for j := range i {
			term += columns[j] + " = " + value(j) + " AND "
		}
		terms = append(terms, term+column+" > "+value(i))
	}
	return "(" + strings.Join(terms, " OR ") + ")"
}
