package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// bench is a database with a backlog that nothing has drained so far: each round of each reader has a slot of its own,
// which was made before the backlog.
type bench struct {
	plan
	name   string // of the database, and the beginning of everything's
	url    string // of the database
	server *pgx.Conn
	db     *pgx.Conn
	kafka  string
	binary string
	dir    string
	// Of the daemon's config: further settings as lines, and the capture's source and tables.
	settings, source, tables string

	rowBytes int
	changes  int
	walBytes int64
	target   uint64 // the end of the backlog in the server's log
}

const table = `
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	ref uuid NOT NULL,
	amount numeric(12,2) NOT NULL,
	note text NOT NULL,
	doc jsonb NOT NULL,
	at timestamptz NOT NULL
);
CREATE FUNCTION doc(n bigint) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('customer', n % 1000, 'city', 'Utrecht', 'tags', jsonb_build_array('new', 'web', 'eu'),
		'lines', jsonb_build_array(
			jsonb_build_object('sku', 'sku-' || n, 'count', n % 7, 'price', (n % 9999) / 100.0),
			jsonb_build_object('sku', 'sku-' || n + 1, 'count', n % 5, 'price', (n % 7777) / 100.0)),
		'text', repeat(md5(n::text), 3))
$$;
CREATE FUNCTION add(first bigint, last bigint) RETURNS void LANGUAGE sql AS $$
	INSERT INTO orders SELECT n, gen_random_uuid(), (n % 100000) / 7.0, 'note of order ' || n, doc(n), clock_timestamp()
	FROM generate_series(first, last) n
$$;
-- One transaction of 100 changes a turn: 70 updates, 20 inserts, 10 deletes.
CREATE PROCEDURE backlog(turns int, rows bigint) LANGUAGE plpgsql AS $$
DECLARE stride bigint := rows / turns;
BEGIN
	FOR i IN 0 .. turns - 1 LOOP
		UPDATE orders SET amount = amount + 1, at = clock_timestamp() WHERE id > i * stride AND id <= i * stride + 70;
		PERFORM add(rows + i * 20 + 1, rows + i * 20 + 20);
		DELETE FROM orders WHERE id > rows + i * 20 AND id <= rows + i * 20 + 10;
		COMMIT;
	END LOOP;
END $$;
CREATE PUBLICATION bare FOR TABLE orders;
`

// prepare makes the table, the slots, and then the backlog.
func prepare(ctx context.Context, p plan) (*bench, error) {
	if p.rows < p.changes/100*70 {
		return nil, fmt.Errorf("-rows must be %d or more, so that every update finds a row", p.changes/100*70)
	}
	b, err := prepareTable(ctx, p)
	if err != nil {
		return nil, err
	}
	if err = b.makeSlots(ctx); err == nil {
		err = b.makeBacklog(ctx)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// prepareTable makes the database with the table, and the daemon.
func prepareTable(ctx context.Context, p plan) (_ *bench, err error) {
	server, kafka := os.Getenv("WEFT_TEST_POSTGRES_NEWEST"), os.Getenv("WEFT_TEST_KAFKA")
	if server == "" || kafka == "" {
		return nil, errors.New("no servers in the environment; use make bench, or services run -- bench")
	}
	b := &bench{plan: p, name: fmt.Sprintf("bench_%x", rand.Uint32()), kafka: kafka}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.dir, err = os.MkdirTemp("", "weft-bench-"); err != nil {
		return nil, err
	}
	if b.binary, err = build(ctx, b.dir, p.profile != ""); err != nil {
		return nil, err
	}
	if b.server, err = pgx.Connect(ctx, server); err != nil {
		return nil, err
	}
	if _, err := b.server.Exec(ctx, "CREATE DATABASE "+b.name); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(server)
	if err != nil {
		return nil, err
	}
	b.url = fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", config.User, config.Password, config.Host, config.Port, b.name)
	b.source, b.tables = fmt.Sprintf("{type: postgres, url: %q}", b.url), "[public.orders]"
	if b.db, err = pgx.Connect(ctx, b.url); err != nil {
		return nil, err
	}
	for _, sql := range []string{
		table,
		"SET synchronous_commit = off",
		fmt.Sprintf("SELECT add(1, %d)", p.rows),
		"VACUUM ANALYZE orders",
	} {
		if _, err := b.db.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return nil, fmt.Errorf("prepare the table: %w", err)
		}
	}
	if err := b.db.QueryRow(ctx, "SELECT avg(pg_column_size(o))::int FROM (SELECT * FROM orders LIMIT 1000) o").Scan(&b.rowBytes); err != nil {
		return nil, err
	}
	return b, nil
}

// makeSlots makes the bare reader's itself, and lets the daemon make its own, with topics and a first checkpoint.
func (b *bench) makeSlots(ctx context.Context) error {
	for round := range b.rounds {
		if _, err := b.db.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", b.bareSlot(round)); err != nil {
			return err
		}
		d, err := b.start(ctx, b.capture(round), "never", "")
		if err != nil {
			return err
		}
		if _, err := b.db.Exec(ctx, "UPDATE orders SET note = $1 WHERE id = 1", "round "+fmt.Sprint(round)); err != nil {
			return err
		}
		if err := b.caughtUp(ctx, d); err != nil {
			return err
		}
		if err := d.stop(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) makeBacklog(ctx context.Context) error {
	var from, to string
	position := "SELECT pg_current_wal_insert_lsn()::text"
	if err := b.db.QueryRow(ctx, position).Scan(&from); err != nil {
		return err
	}
	b.changes = b.plan.changes / 100 * 100
	if _, err := b.db.Exec(ctx, fmt.Sprintf("CALL backlog(%d, %d)", b.changes/100, b.rows), pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("make the backlog: %w", err)
	}
	if err := b.db.QueryRow(ctx, position).Scan(&to); err != nil {
		return err
	}
	if err := b.db.QueryRow(ctx, "SELECT pg_wal_lsn_diff($1::pg_lsn, $2::pg_lsn)::bigint, pg_wal_lsn_diff($1::pg_lsn, '0/0')::bigint", to, from).
		Scan(&b.walBytes, &b.target); err != nil {
		return err
	}
	_, err := b.db.Exec(ctx, "CHECKPOINT") // its writes are not to fall into a round
	return err
}

func (b *bench) bareSlot(round int) string { return fmt.Sprintf("%s_bare_%d", b.name, round) }

func (b *bench) capture(round int) string { return fmt.Sprintf("%s_weft_%d", b.name, round) }

// close drops what prepare made; what is left in spite of an error ends with the servers.
func (b *bench) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if b.db != nil {
		_ = b.db.Close(ctx)
	}
	if b.server != nil {
		for range 50 { // a walsender takes a moment to see that its client has gone
			_, err := b.server.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", b.name)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		_, _ = b.server.Exec(ctx, "DROP DATABASE IF EXISTS "+b.name+" WITH (FORCE)")
		_ = b.server.Close(ctx)
	}
	if cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka)); err == nil {
		adm := kadm.NewClient(cl)
		if topics, err := adm.ListTopics(ctx); err == nil {
			for _, t := range topics.Names() {
				if len(t) > len(b.name) && t[:len(b.name)] == b.name {
					_, _ = adm.DeleteTopics(ctx, t)
				}
			}
		}
		cl.Close()
	}
	_ = os.RemoveAll(b.dir)
}
