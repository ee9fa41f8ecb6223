package integration

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	_ "modernc.org/sqlite"
)

// sqliteOrigin is a SQLite database with what `weft run` asks for where it is missing: triggers that give each written row the
// next version, in the write transaction.
type sqliteOrigin struct {
	path string
	db   *sql.DB
}

var sqliteTables = map[string]struct{ ddl, key, rows string }{
	"orders": {
		ddl:  `CREATE TABLE orders(id INTEGER PRIMARY KEY, name TEXT, amount TEXT, deleted INTEGER NOT NULL DEFAULT 0, version INTEGER)`,
		key:  `json_object('id', id)`,
		rows: `json_object('id', id, 'name', name, 'amount', amount, 'deleted', deleted, 'version', version)`,
	},
	"lines": {
		ddl:  `CREATE TABLE lines(order_id INTEGER, sku TEXT, amount INTEGER, version INTEGER, PRIMARY KEY (order_id, sku))`,
		key:  `json_object('order_id', order_id, 'sku', sku)`,
		rows: `json_object('order_id', order_id, 'sku', sku, 'amount', amount, 'version', version)`,
	},
	"pulse": {ddl: `CREATE TABLE pulse(id INTEGER PRIMARY KEY, version INTEGER)`},
}

func newSQLiteOrigin(t testing.TB) *sqliteOrigin {
	t.Helper()
	o := &sqliteOrigin{path: filepath.Join(t.TempDir(), "shop.db")}
	var err error
	o.db, err = sql.Open("sqlite", "file:"+o.path+"?_pragma=busy_timeout(30000)&_pragma=journal_mode(wal)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.db.Close() })
	schema := `CREATE TABLE weft_counter(id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL, "database" TEXT NOT NULL);
		INSERT INTO weft_counter(id, value, "database") VALUES (1, 0, lower(hex(randomblob(16))));`
	for name, s := range sqliteTables {
		schema += fmt.Sprintf(`%[2]s;
			CREATE INDEX weft_index_%[1]s ON %[1]s(version);
			CREATE TRIGGER weft_insert_%[1]s AFTER INSERT ON %[1]s BEGIN
				UPDATE weft_counter SET value = value + 1;
				UPDATE %[1]s SET version = (SELECT value FROM weft_counter) WHERE rowid = NEW.rowid;
			END;
			CREATE TRIGGER weft_update_%[1]s AFTER UPDATE ON %[1]s
			WHEN NEW.version IS OLD.version OR NEW.version IS NOT (SELECT value FROM weft_counter) BEGIN
				UPDATE weft_counter SET value = value + 1;
				UPDATE %[1]s SET version = (SELECT value FROM weft_counter) WHERE rowid = NEW.rowid;
			END;`, name, s.ddl)
	}
	if _, err := o.db.Exec(schema); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *sqliteOrigin) capture() string {
	return fmt.Sprintf(`source: {type: sqlite, path: %q, watermark: version}, tables: [%s]`, o.path,
		strings.Join(slices.Sorted(maps.Keys(sqliteTables)), ", "))
}

func (o *sqliteOrigin) topic(table string) string { return table }

func (o *sqliteOrigin) pulse(ctx context.Context, id int) error {
	_, err := o.db.ExecContext(ctx, "INSERT INTO pulse(id) VALUES (?)", id)
	return err
}

// tables gives what each table holds. Polling does not see every change, so these are not counted.
func (o *sqliteOrigin) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	tables := map[string]table{}
	for name, s := range sqliteTables {
		if name == "pulse" {
			continue
		}
		want := table{partitions: partitions, rows: map[string]row{}}
		rows, err := o.db.QueryContext(ctx, fmt.Sprintf("SELECT %s, %s FROM %s", s.key, s.rows, name))
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var key, value string
			if err := rows.Scan(&key, &value); err != nil {
				return nil, err
			}
			if err := want.addRow(key, value); err != nil {
				return nil, err
			}
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
		tables[name] = want
	}
	return tables, nil
}

// load writes from two connections until ctx ends.
func (o *sqliteOrigin) load(ctx context.Context, seed uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	for worker := range uint64(2) {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(seed, worker))
			for ctx.Err() == nil {
				if err := o.transaction(context.WithoutCancel(ctx), r); err != nil {
					return fmt.Errorf("load SQLite: %w", err)
				}
				time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
			}
			return nil
		})
	}
	return g.Wait()
}

func (o *sqliteOrigin) transaction(ctx context.Context, r *rand.Rand) error {
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	statements := 1 + r.IntN(10)
	if r.IntN(50) == 0 {
		statements = 1000 + r.IntN(4000)
	}
	for range statements {
		amount := fmt.Sprintf("%d.%02d", r.IntN(1e6), r.IntN(100))
		switch p := r.IntN(100); {
		case p < 40:
			_, err = tx.ExecContext(ctx, `INSERT INTO orders(id, name, amount) VALUES (?1, 'n ' || ?1, ?2)
				ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, deleted = 0`, 1+r.IntN(500), amount)
		case p < 55:
			_, err = tx.ExecContext(ctx, `UPDATE orders SET deleted = 1, amount = ?2 WHERE id = ?1`, 1+r.IntN(500), amount)
		default:
			_, err = tx.ExecContext(ctx, `INSERT INTO lines(order_id, sku, amount) VALUES (?1, ?2, 1)
				ON CONFLICT (order_id, sku) DO UPDATE SET amount = amount + 1`, 1+r.IntN(100), fmt.Sprintf("sku-%d", r.IntN(40)))
		}
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}
