package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// drainBare reads the backlog as fast as the connection gives it, and does nothing with it but count.
// https://www.postgresql.org/docs/current/protocol-replication.html
func (b *bench) drainBare(ctx context.Context, round int) (drain, error) {
	conn, err := pgconn.Connect(ctx, b.url+"&replication=database")
	if err != nil {
		return drain{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	began := time.Now()
	conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf(
		`START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names 'bare')`, b.bareSlot(round))})
	if err := conn.Frontend().Flush(); err != nil {
		return drain{}, err
	}
	// A context that can end would cost a goroutine's work a message; ending the connection does as well.
	stop := context.AfterFunc(ctx, func() { _ = conn.Conn().Close() })
	defer stop()
	changes, want := 0, b.changes+b.rounds-round // makeSlots has changed a row for each slot
	for {
		msg, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return drain{}, err
		}
		switch msg := msg.(type) {
		case *pgproto3.ErrorResponse:
			return drain{}, pgconn.ErrorResponseToPgError(msg)
		case *pgproto3.CopyData:
			const header = 1 + 8 + 8 + 8 // w, start, end, time
			if len(msg.Data) > header && msg.Data[0] == 'w' {
				switch msg.Data[header] {
				case 'I', 'U', 'D':
					changes++
				}
			}
			if changes == want {
				return drain{changes: changes, took: time.Since(began)}, nil
			}
		case *pgproto3.CopyDone:
			return drain{}, errors.New("the server ended the stream")
		}
	}
}
