package spanner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/spanner"
	"google.golang.org/api/iterator"
)

// read is a partition's reader: it queries the partition from a timestamp on, inclusive, until the query ends.
func (s *source) read(ctx context.Context, one *partition, from stamp) {
	defer s.readers.Done()
	last := item{one: one, end: true, size: itemOverhead}
	if err := s.query(ctx, one, from); err != nil {
		last = item{one: one, err: err, size: itemOverhead}
	}
	_ = s.queue.put(last) // it fails when the source is closed, and then nobody asks
}

func (s *source) query(ctx context.Context, one *partition, from stamp) error {
	rows := s.catalog.client.Single().Query(ctx, streamQuery(s.catalog.postgres, s.config.Stream, one.token, from, s.config.heartbeat()))
	defer rows.Stop()
	for {
		row, err := rows.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the change stream %s: %w", s.config.Stream, err)
		}
		records, err := decodeRow(row, s.catalog.postgres)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := s.queue.put(item{one: one, rec: r, size: sizeOf(r)}); err != nil {
				return err
			}
		}
	}
}

// streamQuery is the query of a partition without an end.
func streamQuery(postgres bool, stream, token string, from stamp, heartbeat time.Duration) spanner.Statement {
	sql := "SELECT ChangeRecord FROM READ_" + stream +
		"(start_timestamp => @p1, end_timestamp => NULL, partition_token => @p2, heartbeat_milliseconds => @p3)"
	if postgres {
		sql = `SELECT * FROM "spanner"."read_json_` + stream + `"($1, null, $2, $3, null)`
	}
	return spanner.Statement{SQL: sql, Params: map[string]any{
		"p1": from.time(),
		"p2": spanner.NullString{StringVal: token, Valid: token != ""},
		"p3": heartbeat.Milliseconds(),
	}}
}

// decodeRow reads the one column that a row of a change stream has.
func decodeRow(row *spanner.Row, postgres bool) ([]record, error) {
	var v spanner.GenericColumnValue
	if row.Size() != 1 {
		return nil, fmt.Errorf("decode change record: a row has %d columns, not one", row.Size())
	}
	if err := row.Column(0, &v); err != nil {
		return nil, fmt.Errorf("decode change record: %w", err)
	}
	if postgres {
		return decodeJSON([]byte(v.Value.GetStringValue()))
	}
	return decodeGoogleSQL(v)
}
