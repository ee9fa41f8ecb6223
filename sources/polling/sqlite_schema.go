package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"weft/sources"
)

// counterTable is the one-row table that numbers are drawn from, in each captured database.
const counterTable = "weft_counter"

// createCounter and fillCounter make it. The database column is the identity that tells one database from another.
const (
	createCounter = `CREATE TABLE IF NOT EXISTS weft_counter (id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL, ` +
		`"database" TEXT NOT NULL);`
	fillCounter = `INSERT OR IGNORE INTO weft_counter (id, value, "database") VALUES (1, 0, lower(hex(randomblob(16))));`
)

// SQLiteStatements returns what prepares a table that has the integer column watermark: the counter, which all tables
// of a database share, an index, the triggers that number each write, and an update that numbers the rows that
// are there. All of it may be run again without harm. Key is the primary key of a WITHOUT ROWID table, and empty for
// any other.
func SQLiteStatements(table, watermark string, key ...string) []string {
	row := "rowid = NEW.rowid"
	if len(key) > 0 {
		var terms []string
		for _, column := range key {
			terms = append(terms, quote(column)+" = NEW."+quote(column))
		}
		row = strings.Join(terms, " AND ")
	}
	t, w := quote(table), quote(watermark)
	name := func(kind string) string { return quote("weft_" + kind + "_" + table) }
	body := fmt.Sprintf("BEGIN UPDATE weft_counter SET value = value + 1; "+
		"UPDATE %s SET %s = (SELECT value FROM weft_counter) WHERE %s; END;", t, w, row)
	return []string{
		createCounter,
		fillCounter,
		fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (%s);", name("index"), t, w),
		fmt.Sprintf("CREATE TRIGGER IF NOT EXISTS %s AFTER INSERT ON %s %s", name("insert"), t, body),
		// The condition leaves out the update that the triggers themselves make, and nothing else: not a write that
		// keeps the number, and not one that sets a number of its own.
		fmt.Sprintf("CREATE TRIGGER IF NOT EXISTS %s AFTER UPDATE ON %s WHEN NEW.%s IS OLD.%s OR "+
			"NEW.%s IS NOT (SELECT value FROM weft_counter) %s", name("update"), t, w, w, w, body),
		fmt.Sprintf("UPDATE %s SET %s = NULL WHERE %s IS NULL;", t, w, w),
	}
}

// quote makes an SQL identifier of a name.
func quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func sameTable(a, b *table) bool {
	return a.name == b.name && a.identity == b.identity && a.query == b.query && slices.Equal(a.Key, b.Key) &&
		reflect.DeepEqual(a.Columns, b.Columns)
}

// match lists the tables that the patterns match.
func (v *sqliteView) match(ctx context.Context) ([]candidate, error) {
	d := v.dialect
	rows, err := v.tx.QueryContext(ctx, `SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var matched []candidate
	var all, views []string
	found := make([]bool, len(d.patterns))
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			return nil, errors.Join(fmt.Errorf("list tables: %w", err), rows.Close())
		}
		switch {
		case kind == "view":
			views = append(views, name)
			continue
		case strings.HasPrefix(name, "sqlite_") || name == counterTable:
			continue
		}
		all = append(all, name)
		captured := false
		for i, pattern := range d.patterns {
			if sources.MatchGlob(strings.ToLower(pattern), strings.ToLower(name)) {
				found[i], captured = true, true
			}
		}
		if captured {
			matched = append(matched, candidate{name, func(ctx context.Context) (*table, error) { return v.loadTable(ctx, name) }})
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for i, pattern := range d.patterns {
		switch {
		case found[i]:
		case slices.ContainsFunc(views, func(view string) bool { return strings.EqualFold(view, pattern) }):
			return nil, sources.Fatal("capture the tables that it reads", "tables: %s is a view, and a view has no changes",
				pattern)
		default:
			return nil, sources.Fatal(fmt.Sprintf("correct tables, or create the table; the database has: %s", strings.Join(all, ", ")),
				"tables: no table matches %s", pattern)
		}
	}
	return matched, nil
}

// loadTable reads a table's columns and verifies that it can be polled.
func (v *sqliteView) loadTable(ctx context.Context, name string) (*table, error) {
	t := &table{name: name, Table: sources.Table{Name: name}}
	primary, err := v.loadColumns(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := v.verifyWatermark(ctx, t, primary); err != nil {
		return nil, err
	}
	if err := v.setKey(t, primary); err != nil {
		return nil, err
	}
	w := quote(v.dialect.watermark)
	var columns strings.Builder
	for _, c := range t.Columns {
		// The plus takes the declared type away, by which the driver would make times of text.
		columns.WriteString(", +" + quote(c.Name))
	}
	t.query = fmt.Sprintf("SELECT +%s%s FROM %s", w, columns.String(), quote(name))
	return t, nil
}

// loadColumns sets t.Columns and t.scan, and returns the primary key's columns in order.
func (v *sqliteView) loadColumns(ctx context.Context, t *table) (primary []int, err error) {
	// Hidden columns of a virtual table are 1; generated ones are 2 and 3 and are part of the row.
	rows, err := v.tx.QueryContext(ctx, `SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid`, t.name)
	if err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	t.scan = []any{new(any)}
	inKey := map[int]int{}
	for rows.Next() {
		var name, declared string
		var pk int
		if err := rows.Scan(&name, &declared, &pk); err != nil {
			return nil, errors.Join(fmt.Errorf("read the columns of table %s: %w", t.name, err), rows.Close())
		}
		if pk > 0 {
			inKey[pk] = len(t.Columns)
		}
		kind, class := typeOf(declared)
		t.Columns = append(t.Columns, sources.Column{Name: name, Type: kind})
		t.scan = append(t.scan, &cell{class: class})
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", t.name, err)
	}
	for pk := 1; pk <= len(inKey); pk++ {
		primary = append(primary, inKey[pk])
	}
	return primary, nil
}

// setKey takes the configured key or the primary key.
func (v *sqliteView) setKey(t *table, primary []int) error {
	d := v.dialect
	t.Key = primary
	for name, columns := range d.keys {
		if !strings.EqualFold(name, t.name) {
			continue
		}
		t.Key = nil
		for _, column := range columns {
			i := columnIndex(t, column)
			if i < 0 {
				return sources.Fatal("correct keys", "keys: table %s has no column %s", t.name, column)
			}
			t.Key = append(t.Key, i)
		}
	}
	if len(t.Key) == 0 {
		return sources.Fatal(fmt.Sprintf("give it a PRIMARY KEY, or name columns that tell its rows apart: keys: {%s: [COLUMN, ...]}", t.name),
			"table %s has no primary key, so its changes have no key", t.name)
	}
	return nil
}

func columnIndex(t *table, name string) int {
	return slices.IndexFunc(t.Columns, func(c sources.Column) bool { return strings.EqualFold(c.Name, name) })
}

var (
	onInsert = regexp.MustCompile(`(?is)\bINSERT\s+ON\b`)
	onUpdate = regexp.MustCompile(`(?is)\bUPDATE\s+ON\b`) // not UPDATE OF: that leaves out other columns
)

// verifyWatermark verifies all that a table needs so that polling it loses nothing.
func (v *sqliteView) verifyWatermark(ctx context.Context, t *table, primary []int) error {
	d := v.dialect
	missing, err := v.missing(ctx, t)
	if err != nil || missing == "" {
		return err
	}
	var statements []string
	if columnIndex(t, d.watermark) < 0 {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s INTEGER;", quote(t.name), quote(d.watermark)))
	}
	var withoutRowid bool
	err = v.tx.QueryRowContext(ctx, `SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'`, t.name).Scan(&withoutRowid)
	if err != nil {
		return fmt.Errorf("read about table %s: %w", t.name, err)
	}
	var key []string
	if withoutRowid {
		for _, i := range primary {
			key = append(key, t.Columns[i].Name)
		}
	}
	statements = append(statements, SQLiteStatements(t.name, d.watermark, key...)...)
	return sources.Fatal(strings.Join(statements, "\n")+"\n-- in the database "+d.path, "table %s: %s", t.name, missing)
}

// missing says which part of what SQLiteStatements makes is not there, or "".
func (v *sqliteView) missing(ctx context.Context, t *table) (string, error) {
	d := v.dialect
	i := columnIndex(t, d.watermark)
	if i < 0 {
		return fmt.Sprintf("it has no column %s", d.watermark), nil
	}
	if t.Columns[i].Type.Kind != sources.Int {
		return "", sources.Fatal("name a column that is declared INTEGER in watermark", "table %s: the column %s is declared %q",
			t.name, d.watermark, t.Columns[i].Type.Name)
	}
	counter, err := v.hasCounter(ctx)
	if err != nil || !counter {
		return fmt.Sprintf("there is no table %s with one row", counterTable), err
	}
	index, err := v.exists(ctx, `SELECT 1 FROM pragma_index_list(?1) l WHERE NOT l.partial AND `+
		`(SELECT lower(name) = lower(?2) FROM pragma_index_info(l.name) WHERE seqno = 0)`, t.name, d.watermark)
	if err != nil || !index {
		return fmt.Sprintf("the column %s has no index", d.watermark), err
	}
	if missing, err := v.missingTrigger(ctx, t); err != nil || missing != "" {
		return missing, err
	}
	null, err := v.exists(ctx, fmt.Sprintf(`SELECT 1 FROM %s WHERE %s IS NULL`, quote(t.name), quote(d.watermark)))
	if err != nil || null {
		return fmt.Sprintf("the column %s is NULL in some row", d.watermark), err
	}
	return "", nil
}

// hasCounter tells whether there is a counter, with its row.
func (v *sqliteView) hasCounter(ctx context.Context) (bool, error) {
	there, err := v.exists(ctx, `SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?`, counterTable)
	if err != nil || !there {
		return false, err
	}
	return v.exists(ctx, `SELECT 1 FROM `+counterTable)
}

// missingTrigger says which trigger is not there, as far as their text tells.
func (v *sqliteView) missingTrigger(ctx context.Context, t *table) (string, error) {
	rows, err := v.tx.QueryContext(ctx, `SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE`, t.name)
	if err != nil {
		return "", fmt.Errorf("read the triggers of table %s: %w", t.name, err)
	}
	var insert, update bool
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return "", errors.Join(fmt.Errorf("read the triggers of table %s: %w", t.name, err), rows.Close())
		}
		lower := strings.ToLower(text)
		if strings.Contains(lower, counterTable) && strings.Contains(lower, strings.ToLower(v.dialect.watermark)) {
			insert = insert || onInsert.MatchString(text)
			update = update || onUpdate.MatchString(text)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return "", fmt.Errorf("read the triggers of table %s: %w", t.name, err)
	}
	switch {
	case !insert:
		return fmt.Sprintf("no trigger on INSERT sets %s from %s", v.dialect.watermark, counterTable), nil
	case !update:
		return fmt.Sprintf("no trigger on UPDATE sets %s from %s", v.dialect.watermark, counterTable), nil
	}
	return "", nil
}

// exists tells whether a query that returns 1 has a row.
func (v *sqliteView) exists(ctx context.Context, query string, args ...any) (bool, error) {
	var one int
	err := v.tx.QueryRowContext(ctx, query, args...).Scan(&one)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read the schema: %w", err)
	}
	return true, nil
}
