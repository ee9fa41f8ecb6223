package polling

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// columnCursor is the place of the last row that was read by an xid8 column.
type columnCursor struct {
	Mark int64    `json:"mark"`
	Key  []string `json:"key"`
}

// scanCursor is where a scan of a whole table stands, for rows whose xmin is below Until. A row that moves meanwhile has a
// new xmin, which is not below it, so that a scan may be made in parts that do not share a snapshot.
type scanCursor struct {
	Until int64  `json:"until"`
	After string `json:"after"` // the ctid of the last row, (0,0) for none
	// File is the relation's file. In another the rows are elsewhere.
	File int64 `json:"file"`
}

// scanBlocks is how many blocks a statement scans at most, fewer where that finds more rows than a page, down to leastBlocks.
// scanTime is how long a poll goes on without a full batch: a snapshot that is held longer keeps the server from cleaning up.
const (
	scanBlocks  = 4096
	leastBlocks = 16
	scanTime    = 2 * time.Second
)

// read implements view.
func (v *postgresView) read(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	if at.Watermark > v.horizon() {
		return at, false, nil // a standby that lags
	}
	var next tablePosition
	var more bool
	var err error
	if v.dialect.watermark != "" {
		next, more, err = v.readColumn(ctx, t, at, b)
	} else {
		next, more, err = v.scan(ctx, t, at, b)
	}
	if err != nil {
		return at, false, v.dialect.explain(err)
	}
	next.Identity = at.Identity
	return next, more, nil
}

// readColumn reads in the order of (watermark, key), so that rows of one transaction are not cut.
func (v *postgresView) readColumn(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	var cursor *columnCursor
	if at.Cursor != nil {
		cursor = new(columnCursor)
		if err := json.Unmarshal(at.Cursor, cursor); err != nil || len(cursor.Key) != len(t.Key) {
			cursor = nil // the key is another one now: the rows above the watermark are read again
		}
	}
	for {
		limit := v.dialect.limits.of(t)
		query, params := v.columnQuery(t, at.Watermark, cursor)
		var last []byte
		taken, full, err := v.page(ctx, t, query, params, b, func(mark []byte) error {
			last = append(last[:0], mark...)
			return nil
		})
		if err != nil {
			return at, false, err
		}
		v.dialect.limits.learn(t, limit, taken, full)
		if taken > 0 {
			cursor = &columnCursor{}
			if cursor.Mark, err = parseInt(last); err != nil {
				return at, false, fmt.Errorf("read table %s: %w", t.name, err)
			}
			cursor.Key = keysOf(t, b.last())
		}
		if !full && taken < limit {
			return tablePosition{Watermark: v.horizon()}, false, nil
		}
		if full {
			place, err := json.Marshal(cursor)
			if err != nil {
				return at, false, fmt.Errorf("encode position: %w", err)
			}
			return tablePosition{Watermark: at.Watermark, Cursor: place}, true, nil
		}
	}
}

// columnQuery selects a page of the rows after the cursor, or above the watermark, as far as the horizon.
func (v *postgresView) columnQuery(t *table, after int64, cursor *columnCursor) (query string, params [][]byte) {
	w := "r." + quote(v.dialect.watermark)
	var where strings.Builder
	fmt.Fprintf(&where, "%s < '%d'::xid8", w, v.xmin)
	order := w
	switch {
	case cursor != nil:
		left, right := w, fmt.Sprintf("'%d'::xid8", cursor.Mark)
		for i, k := range t.Key {
			left += ", r." + quote(t.Columns[k].Name)
			right += fmt.Sprintf(", $%d::%s", i+1, t.Columns[k].Type.Name)
			params = append(params, []byte(cursor.Key[i]))
		}
		fmt.Fprintf(&where, " AND (%s) > (%s)", left, right)
	case after > 0:
		fmt.Fprintf(&where, " AND %s > '%d'::xid8", w, after)
	}
	for _, k := range t.Key {
		order += ", r." + quote(t.Columns[k].Name)
	}
	return fmt.Sprintf("%s WHERE %s ORDER BY %s LIMIT %d", t.query, &where, order, v.dialect.limits.of(t)), params
}

// keyOf is a key column's value as text.
func keyOf(t sources.Type, v sources.Value) string {
	if t.Kind == sources.Bytes {
		return `\x` + hex.EncodeToString(v.Data)
	}
	return string(v.Data)
}

// scan reads a whole table, block by block, for rows whose xmin is above the watermark.
func (v *postgresView) scan(ctx context.Context, t *table, at tablePosition, b *batch) (tablePosition, bool, error) {
	var file, blocks int64
	const query = `SELECT pg_relation_filenode(c.oid)::int8, pg_relation_size(c.oid) / current_setting('block_size')::int8
		FROM pg_class c WHERE c.oid = $1::oid`
	if err := v.tx.QueryRow(ctx, query, t.identity).Scan(&file, &blocks); err != nil {
		return at, false, fmt.Errorf("read the size of table %s: %w", t.name, err)
	}
	cursor := scanCursor{Until: v.xmin, After: "(0,0)", File: file}
	if at.Cursor != nil {
		var kept scanCursor
		// After a rewrite, such as VACUUM FULL, rows are elsewhere: the scan begins anew.
		if err := json.Unmarshal(at.Cursor, &kept); err == nil && kept.File == file && kept.Until <= v.xmin {
			cursor = kept
		}
	}
	began := time.Now()
	block, err := blockOf(cursor.After)
	if err != nil {
		return at, false, sources.Fatal("set the capture's checkpoint to a position that this source returned", "table %s: %w", t.name, err)
	}
	for {
		span := v.dialect.spans[t.name]
		if span == 0 {
			span = scanBlocks
		}
		end := block + span
		limit := v.dialect.limits.of(t)
		query := fmt.Sprintf("%s WHERE r.ctid > '%s' AND r.ctid < '(%d,0)' AND %s BETWEEN %d AND %d ORDER BY r.ctid LIMIT %d",
			t.query, cursor.After, min(end, 1<<32-1), widened(v.xmax), at.Watermark+1, cursor.Until-1, limit)
		var last []byte
		taken, full, err := v.page(ctx, t, query, nil, b, func(mark []byte) error {
			last = append(last[:0], mark...)
			return nil
		})
		if err != nil {
			return at, false, err
		}
		v.dialect.limits.learn(t, limit, taken, full)
		if full || taken == limit {
			v.dialect.spans[t.name] = max(span/2, leastBlocks)
			if taken > 0 {
				cursor.After = string(last)
				if block, err = blockOf(cursor.After); err != nil {
					return at, false, fmt.Errorf("read table %s: %w", t.name, err)
				}
			}
		} else {
			if taken < limit/4 {
				v.dialect.spans[t.name] = min(2*span, scanBlocks)
			}
			block = end
			cursor.After = fmt.Sprintf("(%d,0)", block)
			if block >= blocks {
				return tablePosition{Watermark: cursor.Until - 1}, cursor.Until < v.xmin, nil
			}
		}
		if full || time.Since(began) > scanTime {
			place, err := json.Marshal(cursor)
			if err != nil {
				return at, false, fmt.Errorf("encode position: %w", err)
			}
			return tablePosition{Watermark: at.Watermark, Cursor: place}, true, nil
		}
	}
}

// widened is an expression for a row's transaction as a number of 64 bits: the largest below xmax whose lower half is the row's
// xmin, since rows keep only that half.
func widened(xmax int64) string {
	return fmt.Sprintf("(%d - ((%[1]d - r.xmin::text::int8) & 4294967295))", xmax)
}

// blockOf is the block of a ctid.
func blockOf(ctid string) (int64, error) {
	block, offset, ok := strings.Cut(strings.Trim(ctid, "()"), ",")
	n, err := strconv.ParseInt(block, 10, 64)
	if _, oerr := strconv.ParseUint(offset, 10, 16); !ok || err != nil || oerr != nil {
		return 0, fmt.Errorf("%q is no row's place", ctid)
	}
	return n, nil
}

// page adds the rows of a query to b until it is full, and tells how many it has added. It calls each with the first column of each
// of them, which is an xid8 or a ctid.
func (v *postgresView) page(ctx context.Context, t *table, query string, params [][]byte, b *batch, each func(mark []byte) error) (taken int, full bool, err error) {
	rows := v.tx.Conn().PgConn().ExecParams(ctx, query, params, nil, nil, nil)
	for !full && rows.NextRow() {
		values, err := copyRow(t, rows.Values(), b)
		if err != nil {
			return 0, false, errors.Join(err, closeRows(rows))
		}
		if !b.add(t, values) {
			full = true
			continue
		}
		taken++
		if err := each(rows.Values()[0]); err != nil {
			return 0, false, errors.Join(err, closeRows(rows))
		}
	}
	if err := closeRows(rows); err != nil {
		return 0, false, fmt.Errorf("read table %s: %w", t.name, err)
	}
	return taken, full, nil
}

func closeRows(rows *pgconn.ResultReader) error {
	_, err := rows.Close()
	return err
}

// copyRow copies a row, whose first column is its mark, into a batch's memory.
func copyRow(t *table, row [][]byte, b *batch) ([]sources.Value, error) {
	values := b.row(len(t.Columns))
	for i := range values {
		data := row[i+1]
		values[i] = sources.Value{}
		switch {
		case data == nil:
		case t.Columns[i].Type.Kind == sources.Bytes:
			room := b.room(hex.DecodedLen(len(data)))
			decoded, err := hex.AppendDecode(room, data[min(2, len(data)):])
			if err != nil {
				return nil, sources.Fatal("see that the session keeps bytea_output = hex: a pooler must pass startup parameters on",
					"table %s, column %s: bytea value of %d bytes is not in hex: %w", t.name, t.Columns[i].Name, len(data), err)
			}
			values[i] = b.keep(decoded)
		default:
			values[i] = b.keep(append(b.room(len(data)), data...))
		}
	}
	for _, k := range t.Key {
		if values[k].State == sources.Null {
			return nil, sources.Fatal(fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL; -- after giving these rows a key",
				t.Table.String(), quote(t.Columns[k].Name)), "table %s: the key column %s is NULL in a row", t.name, t.Columns[k].Name)
		}
	}
	return values, nil
}
