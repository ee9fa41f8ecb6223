package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
	"weft/sources/sourcetest"
)

// primed is a Config whose Open returns a source with a slot. What is written before there is a slot is not captured, and
// the slot is made by Next, after Durable. The position that those calls have taken is kept for a caller that opens anew
// since it has got none.
type primed struct {
	Config
	taken sources.Position
}

func (c *primed) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	if o.Position == nil {
		o.Position = c.taken
	}
	c.taken = nil
	src, err := c.Config.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	var p position
	if o.Position != nil {
		if err := json.Unmarshal(o.Position, &p); err != nil {
			return nil, errors.Join(err, src.Close())
		}
	}
	for p.LSN == 0 {
		b, err := src.Next(ctx)
		if err == nil {
			err = src.Durable(b.Position)
		}
		if err != nil {
			return nil, errors.Join(err, src.Close())
		}
		c.taken, p = b.Position, position{}
		if err := json.Unmarshal(b.Position, &p); err != nil {
			return nil, errors.Join(err, src.Close())
		}
	}
	return src, nil
}

func TestConformance(t *testing.T) {
	eachServerInTurn(t, func(t *testing.T, shared *database) {
		sourcetest.Run(t, func(t *testing.T) *sourcetest.Harness {
			db := newDatabase(t, shared.admin)
			db.exec("CREATE TABLE t (id int8 PRIMARY KEY, body text)", "CREATE TABLE other (id int8)")
			return &sourcetest.Harness{
				Config: &primed{Config: db.config()},
				Tables: []string{"public.t"},
				Traits: sourcetest.Traits{
					Deletes: true, EveryChange: true, Transactions: true, Reproducible: true, TotalOrder: true,
					IdleWithin: idleInterval + 5*time.Second,
				},
				Write: func(ctx context.Context, rows ...sourcetest.Row) error { return write(ctx, db.url, rows) },
				Idle: func(ctx context.Context) error {
					_, err := db.conn.Exec(ctx, "INSERT INTO other VALUES (1)")
					return err
				},
				Break: func(ctx context.Context) error {
					for {
						_, err := db.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", db.slot())
						if codeOf(err) != codeInUse {
							return err
						}
						time.Sleep(20 * time.Millisecond)
					}
				},
			}
		})
	})
}

// write has a connection of its own, since the suite writes from several goroutines.
func write(ctx context.Context, url string, rows []sourcetest.Row) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for _, row := range rows {
		switch row.Op {
		case sources.OpCreate:
			_, err = tx.Exec(ctx, "INSERT INTO t VALUES ($1, $2)", row.ID, row.Body)
		case sources.OpUpdate:
			_, err = tx.Exec(ctx, "UPDATE t SET body = $2 WHERE id = $1", row.ID, row.Body)
		case sources.OpDelete:
			_, err = tx.Exec(ctx, "DELETE FROM t WHERE id = $1", row.ID)
		default:
			err = fmt.Errorf("cannot write a row of op %c", row.Op)
		}
		if err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}
