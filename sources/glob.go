package sources

import (
	"slices"
	"strings"
)

// MatchGlob tells whether a pattern of OpenOptions.Tables matches the whole of one part of a table's name: * stands for
// any characters, ? for any one.
func MatchGlob(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	star, mark := -1, 0 // the last * and how much of name it has eaten up to
	i, j := 0, 0
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// MatchTable tells whether a table's name, SCHEMA.TABLE or NAME, matches a pattern, whose * and ? match within a part.
func MatchTable(pattern, table string) bool {
	return slices.EqualFunc(strings.Split(pattern, "."), strings.Split(table, "."), MatchGlob)
}
