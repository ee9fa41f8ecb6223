package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// removeWait is how long Remove waits for the slot's reader to end. A daemon that has lost its place finds out with its next
// commit, ten seconds later when nothing is written.
const removeWait = 20 * time.Second

// Remove implements sources.Remover: it drops the slot if there is a position, which is there before the slot is made, and the
// publication if it has the capture's mark.
func (c Config) Remove(ctx context.Context, o sources.RemoveOptions) (sources.Removed, error) {
	if err := c.Validate(); err != nil {
		return sources.Removed{}, sources.Fatal("correct the capture's source", "%w", err)
	}
	c = c.withDefaults(o.Capture)
	made := false
	if len(o.Position) > 0 {
		p, err := decodePosition(o.Position)
		if err != nil {
			return sources.Removed{}, err
		}
		made, c.Slot = true, p.Slot
	}
	conn, err := connectSQL(ctx, c)
	if err != nil {
		return sources.Removed{}, err
	}
	defer func() { _ = closeConn(conn) }() // what was dropped is dropped
	var done sources.Removed
	if err := c.removeSlot(ctx, conn, made, &done); err != nil {
		return done, err
	}
	return done, c.removePublication(ctx, conn, o.Capture, &done)
}

func (c Config) removeSlot(ctx context.Context, conn *pgx.Conn, made bool, done *sources.Removed) error {
	found, err := readServer(ctx, conn)
	if err != nil {
		return err
	}
	s, err := readSlot(ctx, conn, c.Slot)
	if err != nil || s == nil {
		return err
	}
	drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s');", s.name)
	if !made || s.check(found.database) != nil {
		done.Left = append(done.Left, fmt.Sprintf("slot %s, which this capture did not make: %s", s.name, drop))
		return nil
	}
	for deadline := time.Now().Add(removeWait); ; {
		err := dropSlot(ctx, conn, s.name)
		switch {
		case err == nil:
			done.Dropped = append(done.Dropped, "slot "+s.name)
			return nil
		case codeOf(err) == codeUndefinedObject: // another was faster
			return nil
		case codeOf(err) == codeNoRight:
			return sources.Fatal(drop+" -- as a superuser; then remove the capture again", "role %q may not drop slot %s: %w", conn.Config().User, s.name, err)
		case codeOf(err) != codeInUse || time.Now().After(deadline):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c Config) removePublication(ctx context.Context, conn *pgx.Conn, capture string, done *sources.Removed) error {
	var comment string
	drop := "DROP PUBLICATION " + quoteIdent(c.Publication) + ";"
	rows, err := conn.Query(ctx, "SELECT coalesce(obj_description(oid, 'pg_publication'), '') FROM pg_publication WHERE pubname = $1", c.Publication)
	if err != nil {
		return fmt.Errorf("read publication %s: %w", c.Publication, err)
	}
	there := false
	if _, err := pgx.ForEachRow(rows, []any{&comment}, func() error { there = true; return nil }); err != nil {
		return fmt.Errorf("read publication %s: %w", c.Publication, err)
	}
	switch {
	case !there:
		return nil
	case comment != mark(capture):
		done.Left = append(done.Left, fmt.Sprintf("publication %s, which this capture did not make: %s", c.Publication, drop))
		return nil
	}
	_, err = conn.Exec(ctx, drop)
	if codeOf(err) == codeNoRight {
		return sources.Fatal(drop+" -- as its owner or a superuser; then remove the capture again", "role %q may not drop publication %s: %w",
			conn.Config().User, c.Publication, err)
	}
	if err != nil {
		return fmt.Errorf("drop publication %s: %w", c.Publication, err)
	}
	done.Dropped = append(done.Dropped, "publication "+c.Publication)
	return nil
}

var _ sources.Remover = Config{}
