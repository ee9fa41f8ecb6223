package polling

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/sources"
)

// relation is what a server lists under a name that a pattern may match.
type relation struct {
	schema, name string
	// not says why it cannot be polled, such as "a view", and remedy what to do; "" where it can.
	not, remedy string
}

func (r relation) String() string { return r.schema + "." + r.name }

// matchRelations returns the indexes of those that the patterns SCHEMA.TABLE match. What cannot be polled is an error only
// where it is named without a * or ?.
func matchRelations(patterns []string, all []relation) ([]int, error) {
	matched := map[int]bool{}
	for _, pattern := range patterns {
		schema, name, ok := strings.Cut(pattern, ".")
		if !ok || schema == "" || name == "" {
			return nil, sources.Fatal("write it as SCHEMA.TABLE, such as public.orders", "tables: %q names no schema and table", pattern)
		}
		found := false
		for i, r := range all {
			if !sources.MatchGlob(schema, r.schema) || !sources.MatchGlob(name, r.name) {
				continue
			}
			if r.not != "" {
				if !strings.ContainsAny(pattern, "*?") {
					return nil, sources.Fatal(r.remedy, "tables: %s is %s", r, r.not)
				}
				continue
			}
			found, matched[i] = true, true
		}
		if !found {
			return nil, sources.Fatal("correct tables, create the table, or grant the right to see it", "tables: no table matches %s", pattern)
		}
	}
	return slices.Sorted(maps.Keys(matched)), nil
}

// candidate is a table that the patterns match, and how to read and verify it.
type candidate struct {
	name string
	load func(ctx context.Context) (*table, error)
}

func sortCandidates(c []candidate) {
	slices.SortFunc(c, func(a, b candidate) int { return strings.Compare(a.name, b.name) })
}

// loadAll reads and verifies the tables that match lists, and keeps those captured ones of which nothing has changed.
func loadAll(ctx context.Context, match func(ctx context.Context) ([]candidate, error), captured []*table) ([]*table, error) {
	candidates, err := match(ctx)
	if err != nil {
		return nil, err
	}
	tables := make([]*table, 0, len(candidates))
	for _, c := range candidates {
		t, err := c.load(ctx)
		if err != nil {
			return nil, err
		}
		tables = append(tables, keep(captured, t))
	}
	return tables, nil
}

// setKey takes the configured key or the primary key.
func setKey(t *table, keys map[string][]string, primary []string) error {
	columns, configured := keys[t.name]
	if !configured {
		columns = primary
	}
	t.Key = nil
	for _, column := range columns {
		i := slices.IndexFunc(t.Columns, func(c sources.Column) bool { return c.Name == column })
		if i < 0 {
			return sources.Fatal("correct keys", "keys: table %s has no column %s", t.name, column)
		}
		t.Key = append(t.Key, i)
	}
	if len(t.Key) == 0 {
		return sources.Fatal(fmt.Sprintf("give it a PRIMARY KEY, or name columns that tell its rows apart: keys: {%s: [COLUMN, ...]}", t.name),
			"table %s has no primary key, so its changes have no key", t.name)
	}
	return nil
}

// keyNames are the columns of a table's key.
func keyNames(t *table) []string {
	names := make([]string, 0, len(t.Key))
	for _, k := range t.Key {
		names = append(names, t.Columns[k].Name)
	}
	return names
}

// quoted lists names as identifiers.
func quoted(quote func(name string) string, names []string) string {
	list := make([]string, 0, len(names))
	for _, name := range names {
		list = append(list, quote(name))
	}
	return strings.Join(list, ", ")
}

// keep returns the table that was captured before if nothing about it has changed, and t otherwise.
func keep(captured []*table, t *table) *table {
	i := slices.IndexFunc(captured, func(old *table) bool { return sameTable(old, t) })
	if i < 0 {
		return t
	}
	return captured[i]
}

// limits hold how many rows of a table are asked for at once, by its name: about what a batch holds.
type limits map[string]int

const (
	firstRows = 1000
	mostRows  = 20_000
)

func (l limits) of(t *table) int {
	if n := l[t.name]; n > 0 {
		return n
	}
	return firstRows
}

// learn takes in how many of the rows that were asked for were taken before the batch was full, if it was.
func (l limits) learn(t *table, asked, taken int, full bool) {
	switch {
	case full:
		l[t.name] = max(16, taken+taken/8)
	case taken == asked:
		l[t.name] = min(2*asked, mostRows)
	}
}
