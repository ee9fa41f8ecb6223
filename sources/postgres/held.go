package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// heldRead is the one read of a keyless table: a statement in a transaction of its own, whose rows are taken chunk by chunk.
// Without a key nothing tells where a read has stopped but the read itself, so it is of one moment. It holds the server's
// horizon back for as long as it takes.
type heldRead struct {
	t      *rowTable
	where  string
	conn   *pgx.Conn
	cancel context.CancelFunc
	result *pgconn.ResultReader
	view   *view
	taken  int64
	peeked bool // a row has been received that no chunk holds
}

// readHeld reads the next chunk of a keyless table. Its cursor is how many rows came before.
func (r *rowReader) readHeld(ctx context.Context, t *rowTable, q sources.ChunkRequest) (*sources.Chunk, error) {
	if q.Keys != nil || q.Until != nil {
		return nil, sources.Fatal("read all of it: weft snapshot start", "table %s has no key by which to read a part of it", t.table)
	}
	r.mu.Lock()
	h := r.held[q.Table]
	delete(r.held, q.Table)
	r.mu.Unlock()
	if q.After == nil {
		if h != nil {
			h.release()
		}
		var err error
		if h, err = r.hold(ctx, t, q.Where); err != nil {
			return nil, err
		}
	} else {
		var at int64
		if err := json.Unmarshal(q.After, &at); err != nil || h == nil || at != h.taken || q.Where != h.where {
			if h != nil {
				h.release()
			}
			return nil, fmt.Errorf("the read of table %s, which has no key, does not go on from %s: it must begin anew", t.table, q.After)
		}
	}
	stop := context.AfterFunc(ctx, h.cancel)
	c, err := h.chunk(q)
	if !stop() || err != nil {
		h.release()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	if c.Next == nil {
		if _, err := h.conn.PgConn().Exec(ctx, "COMMIT").ReadAll(); err != nil {
			h.release()
			return nil, err
		}
		h.cancel()
		r.give(h.conn)
		return c, nil
	}
	r.mu.Lock()
	r.held[q.Table] = h
	r.mu.Unlock()
	return c, nil
}

// hold begins a read. The mark is written before the first row is read, so that the stream can pass it meanwhile.
func (r *rowReader) hold(ctx context.Context, t *rowTable, where string) (*heldRead, error) {
	conn, snapshot, err := r.beginNew(ctx, t, "")
	if err != nil {
		return nil, err
	}
	at, err := r.mark(ctx)
	if err != nil {
		_ = closeConn(conn) // the first error is what matters
		return nil, err
	}
	h := &heldRead{t: t, where: where, conn: conn, view: &view{snapshot: snapshot, mark: at}}
	statement := "SELECT " + t.columns + " FROM " + t.from
	if where != "" {
		statement += " WHERE (" + where + "\n)"
	}
	var held context.Context
	held, h.cancel = context.WithCancel(context.Background())
	h.result = conn.PgConn().ExecParams(held, statement, nil, nil, nil, nil)
	return h, nil
}

func (h *heldRead) chunk(q sources.ChunkRequest) (*sources.Chunk, error) {
	b := newRowBuffer(h.t, q)
	for h.peeked || h.result.NextRow() {
		h.peeked = true
		if len(b.rows) >= q.Rows || !b.fits(h.result.Values()) {
			b.more = true
			break
		}
		h.peeked = false
		if err := b.add(h.result.Values()); err != nil {
			return nil, err
		}
	}
	c := &sources.Chunk{Table: h.t.table, Rows: b.rows, Bytes: b.bytes, View: h.view}
	h.taken += int64(len(b.rows))
	if b.more {
		c.Next = strconv.AppendInt(nil, h.taken, 10)
		return c, nil
	}
	if _, err := h.result.Close(); err != nil {
		return nil, err
	}
	return c, nil
}

// release gives the read up. The server notices that nobody listens.
func (h *heldRead) release() {
	_ = h.conn.PgConn().Conn().Close() // what is left to come is of no use
	h.cancel()
	_ = closeConn(h.conn)
}
