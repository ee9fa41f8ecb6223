package polling

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

func TestPostgresExperiment(t *testing.T) {
	t.Parallel() // it waits for its own long transactions
	onPostgresModes(t, true, func(t *testing.T, db *pgDatabase, c *PostgresConfig) {
		db.prepare(c, "items", "id int8 PRIMARY KEY, body text, updated_at timestamptz NOT NULL", "id")
		db.exec("CREATE INDEX ON items (updated_at)")
		pgExperiment(db, db.start(c)).run(t)
	})
}

func pgExperiment(db *pgDatabase, src sources.Source) *experiment {
	reader, checker := db.connect(), db.connect()
	return &experiment{
		source: src,
		dial: func(ctx context.Context) (func(string) error, func(), error) {
			conn, err := pgx.Connect(ctx, db.url())
			if err != nil {
				return nil, nil, err
			}
			return func(statement string) error {
				_, err := conn.Exec(ctx, statement)
				return err
			}, func() { conn.Close(context.Background()) }, nil
		},
		upsert: func(id int, body string) string {
			return fmt.Sprintf("INSERT INTO items (id, body, updated_at) VALUES (%d, '%s', now()) "+
				"ON CONFLICT (id) DO UPDATE SET body = EXCLUDED.body, updated_at = EXCLUDED.updated_at", id, body)
		},
		begin:          func(string) []string { return []string{"BEGIN"} },
		prepare:        func(string) []string { return []string{"BEGIN"} },
		prepared:       func(name string) []string { return []string{"PREPARE TRANSACTION '" + db.name + name + "'"} },
		commitPrepared: func(name string) []string { return []string{"COMMIT PREPARED '" + db.name + name + "'"} },
		naive: func(ctx context.Context, after string) (map[string]string, string, error) {
			if after == "" {
				after = "-infinity"
			}
			return pgRows(ctx, reader, "SELECT id::text, body, updated_at::text FROM items WHERE updated_at > $1::text::timestamptz ORDER BY updated_at", after)
		},
		table: func(ctx context.Context) (map[string]string, error) {
			rows, _, err := pgRows(ctx, checker, "SELECT id::text, body, '' FROM items")
			return rows, err
		},
	}
}

func pgRows(ctx context.Context, conn *pgx.Conn, query string, args ...any) (map[string]string, string, error) {
	rows, err := conn.Query(ctx, query, args...)
	if err != nil {
		return nil, "", err
	}
	found := map[string]string{}
	var id, body, last string
	_, err = pgx.ForEachRow(rows, []any{&id, &body, &last}, func() error {
		found[id] = body
		return nil
	})
	return found, last, err
}
