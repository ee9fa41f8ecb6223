package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

const (
	// firstPage is how many rows are asked for where nothing is known of their size.
	firstPage = 200
	// minSeenWait and maxSeenWait bound the time between two looks whether a snapshot sees what a read must see.
	minSeenWait = 5 * time.Millisecond
	maxSeenWait = 500 * time.Millisecond
)

// errChanged says that the table is not what it was described as.
var errChanged = errors.New("the table has changed")

// ReadChunk reads rows in one transaction, whose snapshot is the View's, and then marks the log.
func (r *rowReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if q.Keys == nil && (q.Rows < 1 || q.Bytes < 1) {
		return nil, fmt.Errorf("read table %s: a chunk of %d rows and %d bytes holds nothing", q.Table, q.Rows, q.Bytes)
	}
	t, err := r.described(ctx, q.Table)
	// A table that changes all the time is not read at its changes' pace.
	for range 20 {
		if err != nil {
			return nil, cmp.Or(endOf(ctx), err)
		}
		var c *sources.Chunk
		if len(t.table.Key) == 0 {
			c, err = r.readHeld(ctx, t, q)
		} else {
			c, err = r.readKeyed(ctx, t, q)
		}
		switch {
		case err == nil:
			return c, nil
		case endOf(ctx) != nil:
			return nil, ctx.Err()
		case errors.Is(err, errChanged):
			t, err = r.describe(ctx, q.Table, t)
		case strings.HasPrefix(codeOf(err), "42") && codeOf(err) != codeNoRight:
			// What the statement names may have been dropped or renamed since.
			again, describeErr := r.describe(ctx, q.Table, t)
			if describeErr == nil && again.signature == t.signature {
				return nil, r.readError(t, q.Where, err)
			}
			t, err = again, describeErr
		case q.Keys != nil && strings.HasPrefix(codeOf(err), "22"):
			return nil, sources.Fatal("ask for keys as they are now", "the server refuses keys of table %s, whose types may have changed: %w", t.table, err)
		default:
			return nil, r.readError(t, q.Where, err)
		}
	}
	return nil, fmt.Errorf("read table %s: it changes again and again", q.Table)
}

// endOf is ctx's error. The network gives up at the deadline, which may be a moment before ctx says so.
func endOf(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err()
}

// begin starts a transaction whose snapshot sees all that the table's reads must see.
func (r *rowReader) begin(ctx context.Context, conn *pgx.Conn, t *rowTable, settings string) (visibility.Snapshot, error) {
	wait, begun, said := minSeenWait, time.Now(), false
	say := func(why string, oldest uint64) {
		if !said && time.Since(begun) > r.patience {
			said = true
			r.log.Info("reading table "+t.table.String()+" waits for transactions "+why, "oldest_running", oldest)
		}
	}
	for {
		results, err := conn.PgConn().Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;"+settings+
			"SELECT pg_current_snapshot()::text, pg_is_in_recovery()::text, "+fmt.Sprintf(signatureOf, t.oid)).ReadAll()
		if err != nil {
			return visibility.Snapshot{}, err
		}
		row := results[len(results)-1].Rows[0]
		if string(row[1]) != "false" {
			return visibility.Snapshot{}, server{standby: true, version: oldestServer}.check()
		}
		if string(row[2]) != t.signature {
			return visibility.Snapshot{}, errChanged
		}
		s, err := visibility.Parse(string(row[0]))
		if err != nil {
			return visibility.Snapshot{}, err
		}
		switch unseen := r.position.Unseen; {
		case !r.settled.Load() && unseen != nil && !unseen.Settled(&s):
			say("that were captured and are not visible yet; a synchronous standby may be stalled", s.Xmin)
		case s.Xmin < t.joined:
			say("that may have written to it before it was published", s.Xmin)
		default:
			r.settled.Store(true)
			return s, nil
		}
		if _, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
			return visibility.Snapshot{}, err
		}
		select {
		case <-ctx.Done():
			return visibility.Snapshot{}, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, maxSeenWait)
	}
}

// beginNew is begin on a connection that it takes. One that was dropped while nobody used it is replaced.
func (r *rowReader) beginNew(ctx context.Context, t *rowTable, settings string) (*pgx.Conn, visibility.Snapshot, error) {
	for {
		conn, reused, err := r.take(ctx)
		if err != nil {
			return nil, visibility.Snapshot{}, err
		}
		s, err := r.begin(ctx, conn, t, settings)
		if err == nil {
			return conn, s, nil
		}
		lost := conn.IsClosed()
		_ = closeConn(conn) // the first error is what matters
		if !lost || !reused || ctx.Err() != nil {
			return nil, s, err
		}
	}
}

// readKeyed reads a chunk of a table with a key.
func (r *rowReader) readKeyed(ctx context.Context, t *rowTable, q sources.ChunkRequest) (*sources.Chunk, error) {
	after, until, keys, err := t.bounds(q)
	if err != nil {
		return nil, err
	}
	settings := ""
	if q.Keys != nil {
		settings = "SET LOCAL enable_sort = on;" // of few rows, and no index gives them in order
	}
	conn, snapshot, err := r.beginNew(ctx, t, settings)
	if err != nil {
		return nil, err
	}
	rows := newRowBuffer(t, q)
	err = rows.read(ctx, conn.PgConn(), after, until, keys)
	if err != nil {
		_ = closeConn(conn) // the first error is what matters
		return nil, err
	}
	mark, err := r.end(ctx, conn, rows.abandoned)
	if err != nil {
		return nil, err
	}
	c := &sources.Chunk{Table: t.table, Rows: rows.rows, Bytes: rows.bytes, View: &view{snapshot: snapshot, mark: mark}}
	if rows.more {
		if c.Next, err = t.cursor(c.Rows[len(c.Rows)-1]); err != nil {
			return nil, err
		}
	}
	if n := len(c.Rows); n > 0 {
		t.rowBytes.Store(int64(c.Bytes/n) + 1)
	}
	return c, nil
}

// end ends the transaction and marks the log, by another connection where this one was abandoned.
func (r *rowReader) end(ctx context.Context, conn *pgx.Conn, abandoned bool) (lsn, error) {
	if abandoned {
		_ = closeConn(conn) // it is closed already
		return r.mark(ctx)
	}
	defer r.give(conn)
	results, err := conn.PgConn().Exec(ctx, "COMMIT; SELECT pg_logical_emit_message(true, '"+markPrefix+"', '"+r.config.Slot+"')::text").ReadAll()
	if err != nil {
		return 0, markError(err, conn.Config().User, r.version)
	}
	return parseLSN(string(results[len(results)-1].Rows[0][0]))
}

// mark marks the log by a connection of its own.
func (r *rowReader) mark(ctx context.Context) (lsn, error) {
	for {
		conn, reused, err := r.take(ctx)
		if err != nil {
			return 0, err
		}
		at, err := writeMark(ctx, conn, r.config.Slot, r.version)
		lost := err != nil && conn.IsClosed()
		r.give(conn)
		if !lost || !reused || ctx.Err() != nil {
			return at, err
		}
	}
}

// bounds reads the keys of a request.
func (t *rowTable) bounds(q sources.ChunkRequest) (after, until [][]byte, keys [][][]byte, err error) {
	if q.After != nil {
		if after, err = t.parseCursor(q.After); err != nil {
			return nil, nil, nil, err
		}
	}
	if q.Until != nil {
		if until, err = t.parseCursor(q.Until); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, key := range q.Keys {
		if len(key) != len(t.table.Key) {
			return nil, nil, nil, sources.Fatal("ask for keys as they are now", "a key of %d columns was asked for, and table %s has %d", len(key), t.table, len(t.table.Key))
		}
		ordered := make([][]byte, len(key))
		for i, c := range t.key.columns {
			for n, index := range t.table.Key {
				if index == c.index {
					ordered[i] = keyText(&t.table.Columns[index].Type, key[n])
				}
			}
		}
		keys = append(keys, ordered)
	}
	return after, until, keys, nil
}

// rowBuffer gathers the rows of a chunk.
type rowBuffer struct {
	t         *rowTable
	q         sources.ChunkRequest
	rows      [][]sources.Value
	bytes     int
	more      bool // there are rows behind the last one
	full      bool // and the next one is too large for the chunk
	abandoned bool // the connection is closed
	slab      []byte
	values    []sources.Value
	slabBytes int
}

const (
	maxSlab = 1 << 20
	// leastDropped is how much a connection is worth.
	leastDropped = 1 << 20
	valueSlab    = 4096
)

func newRowBuffer(t *rowTable, q sources.ChunkRequest) *rowBuffer {
	b := &rowBuffer{t: t, q: q, slabBytes: maxSlab}
	if q.Keys == nil {
		b.slabBytes = min(b.slabBytes, q.Bytes)
	}
	if size := int(t.rowBytes.Load()); size > 0 {
		b.rows = make([][]sources.Value, 0, max(1, b.page(size)))
	}
	return b
}

// page is how many more rows fit.
func (b *rowBuffer) page(rowBytes int) int {
	if b.q.Keys != nil {
		return len(b.q.Keys)
	}
	left := b.q.Rows - len(b.rows)
	if rowBytes == 0 {
		return min(left, firstPage)
	}
	return min(left, (b.q.Bytes-b.bytes)/rowBytes+1)
}

// read runs as many statements as it takes: the first of a table asks for few rows, since it is not known how large they
// are, and later ones for what should fill the chunk.
func (b *rowBuffer) read(ctx context.Context, conn *pgconn.PgConn, after, until [][]byte, keys [][][]byte) error {
	size := int(b.t.rowBytes.Load())
	for {
		limit := b.page(size)
		s, err := b.statement(after, until, keys, limit)
		if err != nil {
			return err
		}
		if err := b.run(ctx, conn, s, limit); err != nil {
			return err
		}
		if keys != nil {
			b.more = false
		}
		if !b.more || b.full || len(b.rows) >= b.q.Rows || b.bytes >= b.q.Bytes-b.q.Bytes/8 {
			return nil
		}
		size = b.bytes/len(b.rows) + 1
		last := b.rows[len(b.rows)-1]
		after = make([][]byte, len(b.t.key.columns))
		for i, c := range b.t.key.columns {
			after[i] = keyText(&b.t.table.Columns[c.index].Type, last[c.index].Data)
		}
	}
}

func (b *rowBuffer) statement(after, until [][]byte, keys [][][]byte, limit int) (*query, error) {
	t, s := b.t, &query{}
	s.add("SELECT ", t.columns, " FROM ", t.from)
	glue := " WHERE "
	if after != nil {
		s.add(glue)
		s.after(t.key, after)
		glue = " AND "
	}
	if until != nil {
		s.add(glue)
		s.until(t.key, until)
		glue = " AND "
	}
	if keys != nil {
		s.add(glue)
		if err := s.in(t.key, keys); err != nil {
			return nil, err
		}
		glue = " AND "
	}
	if b.q.Where != "" {
		s.add(glue, "(", b.q.Where, "\n)") // which may end in a comment
	}
	s.orderBy(t.key)
	switch {
	case keys != nil:
	case t.key.unique:
		s.add(" LIMIT ", strconv.Itoa(limit+1)) // one more, to know whether there is one
	default:
		s.add(" FETCH FIRST ", strconv.Itoa(limit), " ROWS WITH TIES") // rows of one key stay together
	}
	return s, nil
}

// run takes in the rows of a statement. When the chunk is full it reads the rest and drops it, unless that is more than a
// chunk: then it gives the connection up.
func (b *rowBuffer) run(ctx context.Context, conn *pgconn.PgConn, s *query, limit int) error {
	result := conn.ExecParams(ctx, string(s.text), s.values, s.oids, nil, nil)
	whole := b.q.Keys != nil || !b.t.key.unique
	got, dropped := 0, 0
	b.more = false
	for result.NextRow() {
		values := result.Values()
		if !b.more && (whole || got < limit && b.fits(values)) {
			if err := b.add(values); err != nil {
				_, _ = result.Close() // the first error is what matters
				return err
			}
			got++
			continue
		}
		b.more = true
		b.full = b.full || got < limit
		for _, v := range values {
			dropped += len(v)
		}
		if dropped > max(b.q.Bytes, leastDropped) {
			b.abandoned = true
			_ = conn.Conn().Close() // what it would still send has no end in sight
			_, _ = result.Close()
			return nil
		}
	}
	if _, err := result.Close(); err != nil {
		return err
	}
	if whole && got >= limit {
		b.more = true
	}
	return nil
}

// fits tells whether a row has room in the chunk. A first one always has.
func (b *rowBuffer) fits(values [][]byte) bool {
	if len(b.rows) == 0 {
		return true
	}
	size := b.bytes
	for _, v := range values {
		size += len(v)
	}
	return len(b.rows) < b.q.Rows && size <= b.q.Bytes
}

// add copies a row.
func (b *rowBuffer) add(values [][]byte) error {
	columns := b.t.table.Columns
	if len(values) != len(columns) {
		return fmt.Errorf("a row of table %s has %d columns, and its description %d", b.t.table, len(values), len(columns))
	}
	size := 0
	for _, v := range values {
		size += len(v)
	}
	if cap(b.slab)-len(b.slab) < size || b.slab == nil { // an empty value is not nil
		b.slab = make([]byte, 0, max(size, b.slabBytes))
	}
	if cap(b.values)-len(b.values) < len(values) {
		b.values = make([]sources.Value, 0, max(len(values), valueSlab))
	}
	first := len(b.values)
	for _, v := range values {
		if v == nil {
			b.values = append(b.values, sources.Value{})
			continue
		}
		at := len(b.slab)
		b.slab = append(b.slab, v...)
		b.values = append(b.values, sources.Value{Data: b.slab[at:len(b.slab):len(b.slab)], State: sources.Present})
	}
	row := b.values[first:len(b.values):len(b.values)]
	for _, i := range b.t.normalize {
		if err := normalize(&columns[i].Type, &row[i]); err != nil {
			return fmt.Errorf("column %q of table %s: %w", columns[i].Name, b.t.table, err)
		}
	}
	b.rows = append(b.rows, row)
	b.bytes += size
	return nil
}
