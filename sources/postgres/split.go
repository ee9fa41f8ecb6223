package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

const (
	// minSplitPages is the size of a table, in blocks of 8 KiB, below which it is not worth splitting.
	minSplitPages = 2000
	// samplePages are read for each range, and minSampled rows at least must be found for each.
	samplePages = 20
	minSampled  = 5
)

// Split cuts the keys of some blocks, drawn at random, into parts of the same number.
func (r *rowReader) Split(ctx context.Context, table string, n int) ([]sources.Cursor, error) {
	t, err := r.described(ctx, table)
	if err != nil {
		return nil, err
	}
	if n < 2 || len(t.table.Key) == 0 || !t.key.indexed {
		return nil, nil
	}
	var rows [][]sources.Value
	err = r.catalog.do(ctx, func(conn *pgx.Conn) error {
		var pages int64
		err := conn.QueryRow(ctx, "SELECT coalesce(sum(pg_relation_size(relid)), 0)::int8 / 8192 FROM pg_partition_tree($1::oid) WHERE isleaf", t.oid).
			Scan(&pages)
		if err == nil && pages == 0 { // a table that is no partition has no tree
			err = conn.QueryRow(ctx, "SELECT coalesce(pg_relation_size($1::oid), 0) / 8192", t.oid).Scan(&pages)
		}
		if err != nil || pages < minSplitPages {
			return err
		}
		rows, err = t.sample(ctx, conn, min(100, 100*float64(samplePages*n)/float64(pages)))
		return err
	})
	if err != nil {
		return nil, r.readError(t, "", err)
	}
	if len(rows) < minSampled*n {
		return nil, nil
	}
	var cursors []sources.Cursor
	for i := 1; i < n; i++ {
		c, err := t.cursor(rows[i*len(rows)/n])
		if err != nil {
			return nil, err
		}
		if len(cursors) == 0 || string(cursors[len(cursors)-1]) != string(c) {
			cursors = append(cursors, c)
		}
	}
	return cursors, nil
}

// sample returns rows of which only the key columns are there, in key order.
func (t *rowTable) sample(ctx context.Context, conn *pgx.Conn, percent float64) ([][]sources.Value, error) {
	s := &query{}
	names := make([]string, len(t.key.columns))
	for i, c := range t.key.columns {
		names[i] = quoteIdent(c.name)
	}
	s.add("SELECT ", strings.Join(names, ", "), " FROM ", t.from, " TABLESAMPLE SYSTEM (", strconv.FormatFloat(percent, 'f', 6, 64), ")")
	s.orderBy(t.key) // a sort, which rowSession only makes expensive
	result := conn.PgConn().ExecParams(ctx, string(s.text), nil, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	rows := make([][]sources.Value, len(result.Rows))
	for n, key := range result.Rows {
		row := make([]sources.Value, len(t.table.Columns))
		for i, c := range t.key.columns {
			if key[i] == nil {
				continue
			}
			row[c.index] = sources.Value{Data: key[i], State: sources.Present}
			if err := normalize(&t.table.Columns[c.index].Type, &row[c.index]); err != nil {
				return nil, fmt.Errorf("column %q of table %s: %w", c.name, t.table, err)
			}
		}
		rows[n] = row
	}
	return rows, nil
}
