package spanner

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cloud.google.com/go/spanner"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// maxStale is how often a read may be of a timestamp that the database no longer has.
const maxStale = 5

// ReadChunk reads rows in the order of the primary key. Where the database no longer has the rows of the chunk's timestamp, it is read at
// the present: nothing that was read before is read again, since each chunk tells for itself what it saw.
func (r *rowReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if q.Keys == nil && (q.Rows < 1 || q.Bytes < 1) {
		return nil, fmt.Errorf("read %s: a chunk of %d rows and %d bytes holds nothing", q.Table, q.Rows, q.Bytes)
	}
	for stale := 0; ; stale++ {
		at := r.timestamp()
		c, err := r.read(ctx, q, at)
		if err == nil {
			c.View = view{at, r}
			return c, nil
		}
		if stale >= maxStale || !tooOld(err) {
			return nil, r.explain(ctx, q, err)
		}
		r.logger.Warn("the database no longer has the rows of the timestamp that they are read at, and they are read at the present; "+
			"ALTER DATABASE ... SET OPTIONS (version_retention_period = '7d') has it keep them longer",
			"table", q.Table, "timestamp", at, "error", err)
		if _, err := r.renew(ctx); err != nil {
			return nil, r.explain(ctx, q, err)
		}
	}
}

// tooOld tells that a timestamp is before what the database's version_retention_period keeps.
func tooOld(err error) bool {
	code := codeOf(err)
	text := strings.ToLower(err.Error())
	return (code == codes.FailedPrecondition || code == codes.OutOfRange) &&
		(strings.Contains(text, "staleness") || strings.Contains(text, "garbage collection") || strings.Contains(text, "version_retention") ||
			strings.Contains(text, "read timestamp"))
}

// explain tells what only a person can mend from what may pass.
func (r *rowReader) explain(ctx context.Context, q sources.ChunkRequest, err error) error {
	var fatal *sources.FatalError
	code := codeOf(err)
	switch {
	case errors.As(err, &fatal):
		return err
	case code == codes.DeadlineExceeded || code == codes.Canceled:
		if _, limited := ctx.Deadline(); limited && code == codes.DeadlineExceeded {
			<-ctx.Done() // the server may be a moment ahead of it
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	case code == codes.NotFound:
		return errGone(q.Table, err)
	case code == codes.InvalidArgument && q.Where != "":
		return sources.Fatal("correct the condition: what may stand behind WHERE in the database's dialect",
			"the database refuses to read table %s with the condition %q: %w", q.Table, q.Where, err)
	case code == codes.PermissionDenied || code == codes.Unauthenticated:
		return r.config.explain(fmt.Errorf("read table %s: %w", q.Table, err))
	}
	return fmt.Errorf("read table %s: %w", q.Table, err)
}

func errGone(table string, err error) error {
	return sources.Fatal("take it out of the capture's tables, or create it again", "table %s is gone: %w", table, err)
}

// read reads a chunk at a timestamp.
func (r *rowReader) read(ctx context.Context, q sources.ChunkRequest, at stamp) (*sources.Chunk, error) {
	t, err := r.describe(ctx, at, q.Table)
	if err != nil {
		return nil, err
	}
	tx := singleAt(r.client, at)
	defer tx.Close()
	rows, err := t.find(ctx, tx, q)
	if err != nil {
		return nil, err
	}
	defer rows.Stop()
	b := &chunkBuffer{t: t, q: q, batch: batch{maxBytes: max(q.Bytes, byteBlock)}}
	for b.next == nil {
		row, err := rows.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := b.add(row); err != nil {
			return nil, err
		}
	}
	return &sources.Chunk{Table: t.table, Rows: b.rows, Bytes: b.bytes, Next: b.next}, nil
}

// find asks for the rows of a chunk, and for one more, which tells whether there are more.
func (t *rowTable) find(ctx context.Context, tx *spanner.ReadOnlyTransaction, q sources.ChunkRequest) (*spanner.RowIterator, error) {
	if q.Keys != nil {
		// The rows of a condition's chunks that the stream has changed in part: what the topic lacks of them is not the condition's to say.
		keys := make([]spanner.Key, len(q.Keys))
		for i, wire := range q.Keys {
			var err error
			if keys[i], err = wireKey(t.table, wire); err != nil {
				return nil, sources.Fatal("ask for keys as they are now", "table %s: %w", t.table, err)
			}
		}
		return tx.Read(ctx, t.table.String(), spanner.KeySetFromKeys(keys...), t.columns), nil
	}
	after, err := parseCursor(q.After, len(t.keys))
	if err != nil {
		return nil, err
	}
	until, err := parseCursor(q.Until, len(t.keys))
	if err != nil {
		return nil, err
	}
	if q.Where != "" {
		statement, err := t.statement(q.Where, after, until, q.Rows+1)
		if err != nil {
			return nil, err
		}
		return tx.Query(ctx, statement), nil
	}
	if after == nil && until == nil {
		return tx.ReadWithOptions(ctx, t.table.String(), spanner.AllKeys(), t.columns, &spanner.ReadOptions{Limit: q.Rows + 1}), nil
	}
	keys := spanner.KeyRange{Start: spanner.Key{}, End: spanner.Key{}, Kind: spanner.ClosedClosed} // an empty key is either end
	if after != nil {
		keys.Start, keys.Kind = after, spanner.OpenClosed
	}
	if until != nil {
		keys.End = until
	}
	return tx.ReadWithOptions(ctx, t.table.String(), keys, t.columns, &spanner.ReadOptions{Limit: q.Rows + 1}), nil
}

// chunkBuffer gathers the rows of a chunk.
type chunkBuffer struct {
	t     *rowTable
	q     sources.ChunkRequest
	batch batch // the rows' memory
	rows  [][]sources.Value
	bytes int
	next  sources.Cursor

	values []*structpb.Value // of the row at hand
	key    []*structpb.Value // of the last row
}

// add takes a row in, or where it does not fit notes that the chunk ends before it.
func (b *chunkBuffer) add(row *spanner.Row) error {
	var err error
	if b.values, err = valuesOf(row, b.values[:0]); err != nil {
		return err
	}
	size := 0
	for _, v := range b.values {
		size += len(v.GetStringValue()) + valueOverhead
	}
	if b.q.Keys == nil && (len(b.rows) >= b.q.Rows || len(b.rows) > 0 && b.bytes+size > b.q.Bytes) {
		b.next, err = cursorAt(b.key)
		return err
	}
	out := b.batch.row(len(b.t.columns), sources.Null)
	for i, v := range b.values {
		column := &b.t.table.Columns[i]
		if _, null := v.GetKind().(*structpb.Value_NullValue); null {
			continue
		}
		data, err := appendProto(b.batch.room(len(v.GetStringValue())+16), v, &column.Type)
		if err != nil {
			return sources.Fatal("report it with the column's type; until it is mended, leave the table out of the capture",
				"table %s: column %s of type %s: %w", b.t.table, column.Name, column.Type.Name, err)
		}
		out[i] = sources.Value{State: sources.Present, Data: b.batch.keep(data)}
		b.bytes += len(data)
	}
	b.bytes += len(out) * valueOverhead
	b.rows = append(b.rows, out)
	b.key = b.t.keyOf(b.values)
	return nil
}

// valuesOf appends a row's values, as the protocol has them.
func valuesOf(row *spanner.Row, dst []*structpb.Value) ([]*structpb.Value, error) {
	for i := range row.Size() {
		var v spanner.GenericColumnValue
		if err := row.Column(i, &v); err != nil {
			return dst, err
		}
		dst = append(dst, v.Value)
	}
	return dst, nil
}
