package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"weft/sources"
)

func (db *database) remove(c Config, p sources.Position) (dropped, left string, err error) {
	done, err := c.Remove(db.t.Context(), sources.RemoveOptions{Capture: "orders", Position: p})
	return strings.Join(done.Dropped, "; "), strings.Join(done.Left, "; "), err
}

// TestRemove drops what the capture made, waits for a reader that just ends, and has nothing to do the second time.
func TestRemove(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		reading := make(chan struct{})
		go func() {
			defer close(reading)
			s.close()
		}()
		dropped, left, err := db.remove(db.config(), s.position)
		<-reading
		if want := "slot " + db.slot() + "; publication " + db.slot(); dropped != want || left != "" || err != nil {
			t.Errorf("dropped %q, left %q, %v", dropped, left, err)
		}
		if dropped, left, err = db.remove(db.config(), s.position); dropped != "" || left != "" || err != nil {
			t.Errorf("again: dropped %q, left %q, %v", dropped, left, err)
		}
	})
}

// TestRemoveOthers: what the capture did not make stays, and is named with what drops it.
func TestRemoveOthers(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE PUBLICATION "+db.slot()+" FOR TABLE t",
			"SELECT pg_create_logical_replication_slot('"+db.slot()+"', 'pgoutput')")
		dropped, left, err := db.remove(db.config(), nil) // it never ran
		if dropped != "" || err != nil || !strings.Contains(left, "SELECT pg_drop_replication_slot('"+db.slot()+"');") ||
			!strings.Contains(left, `DROP PUBLICATION "`+db.slot()+`";`) {
			t.Errorf("dropped %q, left %q, %v", dropped, left, err)
		}
	})
}

func TestRemoveRefused(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := db.config().Remove(ctx, sources.RemoveOptions{Capture: "orders", Position: s.position}); err == nil {
			t.Error("removed within no time")
		}
		s.close()
		// Somebody else's publication that has the mark all the same.
		name, address := db.role("REPLICATION")
		c := db.config()
		c.URL = address
		dropped, _, err := db.remove(c, s.position)
		if dropped != "slot "+db.slot() {
			t.Errorf("role %s dropped %q", name, dropped)
		}
		isFatal(t, err, fmt.Sprintf("role %q may not drop publication", name), `DROP PUBLICATION "`+db.slot()+`";`)
		if dropped, _, err = db.remove(db.config(), s.position); dropped != "publication "+db.slot() || err != nil {
			t.Errorf("afterwards: dropped %q, %v", dropped, err)
		}
	})
}
