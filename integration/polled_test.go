package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// polledOrigin is a server whose tables are polled: some transactions are long or prepared, so that they commit late.
type polledOrigin struct {
	source string // the capture's source and tables
	schema string
	// connect opens a connection to the origin's database.
	connect func(ctx context.Context) (polledConn, error)
	upsert  string // after an INSERT, to make it an update of a row that is there
	prepare func(name string) (begin, prepared, commit []string)
	row     string // a row of orders as JSON
}

// polledConn runs statements; query returns the first column's text.
type polledConn interface {
	exec(ctx context.Context, statement string) error
	query(ctx context.Context, statement string) ([]string, error)
	close()
}

type pgConn struct{ conn *pgx.Conn }

func (c pgConn) close() { c.conn.Close(context.Background()) }

func (c pgConn) exec(ctx context.Context, statement string) error {
	_, err := c.conn.Exec(ctx, statement)
	return err
}

func (c pgConn) query(ctx context.Context, statement string) ([]string, error) {
	rows, err := c.conn.Query(ctx, statement)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

type mariaConn struct {
	db   *sql.DB
	conn *sql.Conn
}

func (c mariaConn) close() {
	c.conn.Close()
	c.db.Close()
}

func (c mariaConn) exec(ctx context.Context, statement string) error {
	_, err := c.conn.ExecContext(ctx, statement)
	return err
}

func (c mariaConn) query(ctx context.Context, statement string) (found []string, err error) {
	rows, err := c.conn.QueryContext(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		found = append(found, text)
	}
	return found, rows.Err()
}

func (o *polledOrigin) setup(t testing.TB, remove string, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if err := o.once(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := o.once(ctx, remove); err != nil {
			t.Errorf("%s: %v", remove, err)
		}
	})
}

func (o *polledOrigin) once(ctx context.Context, statement string) error {
	conn, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.close()
	return conn.exec(ctx, statement)
}

// newPolledPostgres polls by the rows' own xmin.
func newPolledPostgres(t testing.TB, name string) *polledOrigin {
	t.Helper()
	address := server(t, "WEFT_TEST_POSTGRES_NEWEST")
	o := &polledOrigin{
		source: fmt.Sprintf(`source: {type: postgres-poll, url: %q, interval: 10ms, reconcile: {every: 1s, guard: 1}}, tables: ["%s.*"]`, address, name),
		schema: name,
		connect: func(ctx context.Context) (polledConn, error) {
			conn, err := pgx.Connect(ctx, address)
			return pgConn{conn}, err
		},
		upsert: "ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, amount = EXCLUDED.amount",
		prepare: func(gid string) (begin, prepared, commit []string) {
			return []string{"BEGIN"}, []string{"PREPARE TRANSACTION '" + gid + "'"}, []string{"COMMIT PREPARED '" + gid + "'"}
		},
		row: "json_build_object('id', id, 'name', name, 'amount', amount)::text",
	}
	o.setup(t, "DROP SCHEMA "+name+" CASCADE", "CREATE SCHEMA "+name,
		"CREATE TABLE "+name+".orders (id int8 PRIMARY KEY, name text, amount text)", "CREATE TABLE "+name+".pulse (id int8 PRIMARY KEY)")
	return o
}

func newPolledMariaDB(t testing.TB, name string) *polledOrigin {
	t.Helper()
	address := server(t, "WEFT_TEST_MARIADB")
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	o := &polledOrigin{
		source: fmt.Sprintf(`source: {type: mariadb, url: %q, interval: 10ms, reconcile: {every: 1s, guard: 1}}, tables: ["%s.*"]`, address, name),
		schema: name,
		connect: func(ctx context.Context) (polledConn, error) {
			db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/?time_zone='%%2B00:00'", u.User.Username(), password, u.Host))
			if err != nil {
				return nil, err
			}
			conn, err := db.Conn(ctx)
			if err != nil {
				db.Close()
				return nil, err
			}
			return mariaConn{db, conn}, nil
		},
		upsert: "ON DUPLICATE KEY UPDATE name = VALUES(name), amount = VALUES(amount)",
		prepare: func(gid string) (begin, prepared, commit []string) {
			return []string{"XA START '" + gid + "'"}, []string{"XA END '" + gid + "'", "XA PREPARE '" + gid + "'"}, []string{"XA COMMIT '" + gid + "'"}
		},
		row: `JSON_OBJECT('id', id, 'name', name, 'amount', amount, 'updated_at', DATE_FORMAT(updated_at, '%Y-%m-%dT%H:%i:%s.%fZ'))`,
	}
	stamp := "updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), INDEX (updated_at, id)"
	o.setup(t, "DROP DATABASE "+name, "CREATE DATABASE "+name,
		"CREATE TABLE "+name+".orders (id BIGINT PRIMARY KEY, name VARCHAR(100), amount VARCHAR(100), "+stamp+")",
		"CREATE TABLE "+name+".pulse (id BIGINT PRIMARY KEY, "+stamp+")")
	return o
}

// newPolledSQL polls the same server by nothing but SQL. With an overlap above what the load's longest transaction takes, each row comes many
// times; with a lag, few would ever be old enough while the load runs.
func newPolledSQL(t testing.TB, name string) *polledOrigin {
	t.Helper()
	o := newPolledMariaDB(t, name)
	u, err := url.Parse(server(t, "WEFT_TEST_MARIADB"))
	if err != nil {
		t.Fatal(err)
	}
	o.source = fmt.Sprintf(`source: {type: sql, driver: mysql, dsn: "%s@tcp(%s)/", max_transaction: 8s, overlap: 10s, interval: 200ms, reconcile: {every: 1s, guard: 1}}, `+
		`tables: [%[3]s.orders, %[3]s.pulse], keys: {%[3]s.orders: [id], %[3]s.pulse: [id]}`, u.User, u.Host, name)
	return o
}

// settles says that deleted rows are found some time after everything else.
func (o *polledOrigin) settles() {}

func (o *polledOrigin) capture() string           { return o.source }
func (o *polledOrigin) topic(table string) string { return o.schema + "." + table }

func (o *polledOrigin) pulse(ctx context.Context, id int) error {
	return o.once(ctx, fmt.Sprintf("INSERT INTO %s.pulse (id) VALUES (%d)", o.schema, id))
}

// tables gives what the table holds. Polling does not see every change, so these are not counted.
func (o *polledOrigin) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	conn, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	want := table{partitions: partitions, rows: map[string]row{}}
	rows, err := conn.query(ctx, "SELECT "+o.row+" FROM "+o.schema+".orders ORDER BY id")
	if err != nil {
		return nil, err
	}
	ids, err := conn.query(ctx, "SELECT concat('', id) FROM "+o.schema+".orders ORDER BY id")
	if err != nil {
		return nil, err
	}
	for i, row := range rows {
		if err := want.addRow(`{"id":`+ids[i]+`}`, row); err != nil {
			return nil, err
		}
	}
	return map[string]table{"orders": want}, nil
}

// writers each have rows of their own.
const writers = 4

// load writes from as many connections as there are writers until ctx ends.
func (o *polledOrigin) load(ctx context.Context, seed uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	for writer := range writers {
		g.Go(func() error {
			conn, err := o.connect(ctx)
			if err != nil {
				return err
			}
			defer func() { conn.close() }()
			r := rand.New(rand.NewPCG(seed, uint64(writer)))
			for n := 0; ctx.Err() == nil; n++ {
				work, pause, end := o.transaction(r, writer, n)
				err := run(conn, work)
				if deadlocked(err) { // the rows are the writer's own, but MariaDB locks the gaps between them too
					next, err := o.connect(context.WithoutCancel(ctx))
					if err != nil {
						return err
					}
					conn.close() // which rolls back
					conn = next
					continue
				}
				if err != nil {
					return err
				}
				time.Sleep(pause) // to its end, so that nothing is left prepared
				if err := run(conn, end); err != nil {
					return err
				}
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			}
			return nil
		})
	}
	return g.Wait()
}

// transaction makes a writer's n-th: what comes before the pause, and what ends it.
func (o *polledOrigin) transaction(r *rand.Rand, writer, n int) (work []string, pause time.Duration, end []string) {
	id := func() int { return writer + writers*r.IntN(500) }
	begin, prepared, end := []string{"BEGIN"}, []string(nil), []string{"COMMIT"}
	count := 1 + r.IntN(8)
	switch r.IntN(40) {
	case 0:
		begin, prepared, end = o.prepare(fmt.Sprintf("%s-%d-%d", o.schema, writer, n))
		pause = time.Duration(r.IntN(1000)) * time.Millisecond
	case 1, 2:
		pause = time.Duration(r.IntN(1500)) * time.Millisecond
	case 3:
		count = 2000
	}
	work = begin
	for range count {
		work = append(work, fmt.Sprintf("INSERT INTO %s.orders (id, name, amount) VALUES (%d, 'n', '%d') %s", o.schema, id(), r.IntN(1e6), o.upsert))
	}
	if prepared == nil && r.IntN(8) == 0 { // some of them come back soon
		work = append(work, fmt.Sprintf("DELETE FROM %s.orders WHERE id IN (%d, %d)", o.schema, id(), id()))
	}
	return append(work, prepared...), pause, end
}

// deadlocked tells whether the server gave up a transaction, or a lock, for the sake of another.
func deadlocked(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1213 || e.Number == 1205) // https://mariadb.com/docs/server/reference/error-codes
}

// run is not interrupted: a transaction that has begun ends.
func run(conn polledConn, statements []string) error {
	for _, s := range statements {
		if err := conn.exec(context.Background(), s); err != nil {
			return fmt.Errorf("%s: %w", strings.SplitN(s, "(", 2)[0], err)
		}
	}
	return nil
}
