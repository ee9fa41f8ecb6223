// Package demo is a small shop on SQLite that weft demo captures: its database, the writes that customers make, and the
// comparison of its table with what arrived in the log.
package demo

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	_ "modernc.org/sqlite" // the driver

	"weft/sources/polling"
)

// Table is the table that the shop writes to; Watermark its column of versions.
const (
	Table     = "orders"
	Watermark = "weft_version"
)

// Shop is the database and its writer.
type Shop struct {
	db     *sql.DB
	rnd    *rand.Rand
	orders int64 // made so far
	Writes int
}

// Open makes the database in a file that does not exist.
func Open(ctx context.Context, path string) (*Shop, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(wal)&_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open the demo's database: %w", err)
	}
	db.SetMaxOpenConns(1)
	statements := append([]string{`CREATE TABLE orders (
		id INTEGER PRIMARY KEY, customer TEXT NOT NULL, total DECIMAL(10,2) NOT NULL, status TEXT NOT NULL,
		deleted BOOLEAN NOT NULL DEFAULT 0, weft_version INTEGER)`},
		polling.SQLiteStatements(Table, Watermark)...)
	for _, s := range statements {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return nil, errors.Join(fmt.Errorf("set up the demo's database: %w", err), db.Close())
		}
	}
	return &Shop{db: db, rnd: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))}, nil
}

// Close closes the database.
func (s *Shop) Close() error { return s.db.Close() }

// Run writes until ctx ends: a transaction of one to three writes every pause.
func (s *Shop) Run(ctx context.Context, pause time.Duration) error {
	for {
		if err := s.transaction(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("write to the demo's database: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

var (
	customers = []string{"Ada", "Grace", "Edsger", "Barbara", "Donald", "Zoë", "李", `O'Neil "Bob"`}
	states    = []string{"packed", "paid", "shipped", "returned"}
)

func (s *Shop) transaction(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing; otherwise the transaction's own error counts
	made := s.orders
	n := 1 + s.rnd.IntN(3)
	for range n {
		switch kind := s.rnd.IntN(10); {
		case kind < 4 || made == 0:
			made++
			_, err = tx.ExecContext(ctx, `INSERT INTO orders (id, customer, total, status) VALUES (?, ?, ?, 'new')`,
				made, customers[s.rnd.IntN(len(customers))], float64(s.rnd.IntN(100000))/100)
		case kind < 9:
			_, err = tx.ExecContext(ctx, `UPDATE orders SET status = ? WHERE id = ?`, states[s.rnd.IntN(len(states))], 1+s.rnd.Int64N(made))
		default: // polling sees no deletes, so the shop marks them
			_, err = tx.ExecContext(ctx, `UPDATE orders SET deleted = 1 WHERE id = ?`, 1+s.rnd.Int64N(made))
		}
		if err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.orders = made
	s.Writes += n
	return nil
}

// Rows returns the table as SQLite itself writes it in JSON, by order id.
func (s *Shop) Rows(ctx context.Context) (map[int64]map[string]any, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, json_object('id', id, 'customer', customer, 'total', CAST(total AS TEXT), 'status', status,
		'deleted', json(iif(deleted, 'true', 'false')), 'weft_version', weft_version) FROM orders`)
	if err != nil {
		return nil, fmt.Errorf("read the demo's table: %w", err)
	}
	defer rows.Close()
	all := map[int64]map[string]any{}
	for rows.Next() {
		var id int64
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return nil, fmt.Errorf("read the demo's table: %w", err)
		}
		var row map[string]any
		if err := json.Unmarshal([]byte(text), &row); err != nil {
			return nil, fmt.Errorf("read the demo's table: %w", err)
		}
		all[id] = row
	}
	return all, rows.Err()
}
