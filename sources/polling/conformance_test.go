package polling

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/sources"
	"weft/sources/sourcetest"
)

func TestConformance(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run("journal_mode "+mode, func(t *testing.T) {
			sourcetest.RunParallel(t, func(t *testing.T) *sourcetest.Harness { return newHarness(t, mode) })
		})
	}
}

func newHarness(t *testing.T, mode string) *sourcetest.Harness {
	path := filepath.Join(t.TempDir(), "shop.db")
	db := openWriter(t, path, mode)
	createTable(t, db, "items", "id INTEGER PRIMARY KEY, body TEXT")
	backup := filepath.Join(t.TempDir(), "backup.db")
	execute(t, db, "VACUUM INTO '"+backup+"'")
	return &sourcetest.Harness{
		Config: &SQLiteConfig{Path: path, Interval: 2 * time.Millisecond},
		Tables: []string{"items"},
		Traits: sourcetest.Traits{TotalOrder: true, FirstBatches: 1},
		Write:  func(ctx context.Context, rows ...sourcetest.Row) error { return write(ctx, db, rows) },
		Break: func(context.Context) error {
			// An older copy is put back, as from a backup.
			if err := db.Close(); err != nil {
				return err
			}
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
					return err
				}
			}
			if err := os.Rename(backup, path); err != nil {
				return err
			}
			db = openWriter(t, path, mode)
			return nil
		},
	}
}

// openWriter opens a database as an application does.
func openWriter(t testing.TB, path, mode string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(20000)&_pragma=journal_mode("+mode+")&_pragma=synchronous(off)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func execute(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// createTable creates a table with all that its capture needs.
func createTable(t testing.TB, db *sql.DB, name, columns string) {
	t.Helper()
	execute(t, db, fmt.Sprintf("CREATE TABLE %s (%s, weft_version INTEGER)", quote(name), columns))
	execute(t, db, SQLiteStatements(name, "weft_version")...)
}

func write(ctx context.Context, db *sql.DB, rows []sourcetest.Row) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, r := range rows {
		statement := "INSERT INTO items (body, id) VALUES (?, ?)"
		if r.Op == sources.OpUpdate {
			statement = "UPDATE items SET body = ? WHERE id = ?"
		}
		result, err := tx.ExecContext(ctx, statement, r.Body, r.ID)
		if err == nil {
			var n int64
			if n, err = result.RowsAffected(); n != 1 && err == nil {
				err = fmt.Errorf("%s with %d touched %d rows", strings.Fields(statement)[0], r.ID, n)
			}
		}
		if err != nil {
			tx.Rollback()
			return err
		}
	}
	return tx.Commit()
}
