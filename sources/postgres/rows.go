package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"weft/sources"
)

// OpenReader connects for reading the tables of a capture. It needs SELECT on them; neither the publication nor the slot need
// be there, but without the stream nobody comes past a View.
func (c Config) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	if err := c.Validate(); err != nil {
		return nil, sources.Fatal("correct the capture's source", "%w", err)
	}
	c = c.withDefaults(o.Capture)
	var p position
	if len(o.Position) > 0 {
		var err error
		if p, err = decodePosition(o.Position); err != nil {
			return nil, err
		}
		if p.Creating { // what is not visible when the slot is made is not known yet
			return nil, sources.ErrNotBegun
		}
	}
	r := &rowReader{config: c, patterns: o.Tables, keys: o.Keys, log: o.Logger, position: p, patience: patience, tables: map[string]*rowTable{},
		held: map[string]*heldRead{}}
	conn, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx, conn); err != nil {
		_ = closeConn(conn) // the first error is what matters
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open: %w", ctx.Err())
		}
		return nil, err
	}
	return r, nil
}

func (r *rowReader) open(ctx context.Context, conn *pgx.Conn) error {
	s, err := readServer(ctx, conn)
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	all, err := readTables(ctx, conn)
	if err != nil {
		return err
	}
	set, err := resolveTables(all, r.patterns, r.keys, r.config.Partitions)
	if err != nil {
		return err
	}
	r.version = s.version
	r.catalog = newCatalog(r.config, conn)
	r.relations = relations{set: set, catalog: r.catalog, database: s.database}
	return nil
}

// rowReader implements sources.Reader.
type rowReader struct {
	config   Config
	patterns []string
	keys     map[string][]string
	log      hclog.Logger
	position position // that the capture's stream was at
	version  int      // of the server
	catalog  *catalog
	patience time.Duration                  // how long a read waits before that is said
	place    sources.LastPosition[position] // AppendOrder's

	describing sync.Mutex // held while a table is described
	relations  relations
	settled    atomic.Bool // all that the position holds as unseen is visible

	mu     sync.Mutex
	idle   []*pgx.Conn // as many as there were reads at once
	tables map[string]*rowTable
	held   map[string]*heldRead // reads of keyless tables that are not at their end
}

// rowSession is what the sessions that read rows have beside session. The commit of a mark must not wait for a standby; an
// error is better than rows that a policy hides; and a plan that does not follow the key's index reads the whole table for
// each chunk.
var rowSession = map[string]string{
	"default_transaction_read_only":       "off",
	"enable_sort":                         "off",
	"idle_in_transaction_session_timeout": "0",
	"jit":                                 "off",
	"lock_timeout":                        "0",
	"row_security":                        "off",
	"synchronous_commit":                  "local",
}

// connect opens a connection for reading rows.
func (r *rowReader) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := r.config.connConfig()
	if err != nil {
		return nil, err
	}
	for name, value := range rowSession {
		config.RuntimeParams[name] = value
	}
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelWait}
	}
	config.BuildFrontend = func(in io.Reader, out io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(in, readBufferBytes), out)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(err, config.User, config.Database)
	}
	// Since PostgreSQL 17; an older server would refuse it as a parameter of the session.
	_, err = conn.Exec(ctx, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout' AND setting <> '0'")
	if err != nil {
		_ = closeConn(conn) // the first error is what matters
		return nil, fmt.Errorf("set up the session: %w", err)
	}
	return conn, nil
}

// take returns a connection that nobody uses. reused says that it may have been dropped since.
func (r *rowReader) take(ctx context.Context) (conn *pgx.Conn, reused bool, err error) {
	r.mu.Lock()
	if n := len(r.idle); n > 0 {
		conn, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	r.mu.Unlock()
	if conn != nil {
		return conn, true, nil
	}
	conn, err = r.connect(ctx)
	return conn, false, err
}

// give takes a connection back. One that is not at the end of a transaction is of no more use.
func (r *rowReader) give(conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().IsBusy() || conn.PgConn().TxStatus() != 'I' {
		_ = closeConn(conn) // nothing hangs on how it ends
		return
	}
	r.mu.Lock()
	r.idle = append(r.idle, conn)
	r.mu.Unlock()
}

// Tables looks anew: partitions come and go.
func (r *rowReader) Tables(ctx context.Context) ([]string, error) {
	var set *tableSet
	err := r.catalog.do(ctx, func(conn *pgx.Conn) error {
		all, err := readTables(ctx, conn)
		if err != nil {
			return err
		}
		set, err = resolveTables(all, r.patterns, r.keys, r.config.Partitions)
		return err
	})
	if err != nil {
		return nil, err
	}
	names := make([]string, len(set.names))
	for i, t := range set.names {
		names[i] = t.String()
	}
	slices.Sort(names)
	return names, nil
}

// AppendOrder: the byte before a position belongs to no commit record, since what ends at the position is longer; a message
// that is not transactional takes the first index of it (see looseMessage).
func (r *rowReader) AppendOrder(dst []byte, text sources.Position, i int) ([]byte, error) {
	p, err := r.place.Decode(text, decodePosition)
	if err != nil {
		return nil, err
	}
	switch index := int64(i) + 1; {
	case p.Creating:
		return nil, errors.New("nothing can be put into a stream that has not begun")
	case p.TX != nil:
		return nil, fmt.Errorf("nothing can be put into the middle of transaction %d", p.TX.XID)
	case i < 0 || index >= maxEvents:
		return nil, fmt.Errorf("row %d after one position has no order: there are %d", i, int64(maxEvents)-1)
	default:
		return appendOrder(dst, p.LSN-1, index), nil
	}
}

// Close ends the reads that are held. No other call may be under way.
func (r *rowReader) Close() error {
	r.mu.Lock()
	idle, held := r.idle, r.held
	r.idle, r.held = nil, map[string]*heldRead{}
	r.mu.Unlock()
	for _, h := range held {
		h.release()
	}
	var err error
	for _, conn := range idle {
		err = errors.Join(err, closeConn(conn))
	}
	return errors.Join(err, r.catalog.close())
}

const patience = 5 * time.Second

// readError tells what only a person can mend from what may pass.
func (r *rowReader) readError(t *rowTable, where string, err error) error {
	name, code := t.table.String(), codeOf(err)
	user := ""
	if config, configErr := r.config.connConfig(); configErr == nil {
		user = config.User
	}
	switch {
	case code == codeNoRight:
		return sources.Fatal(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %[3]s; GRANT SELECT ON TABLE %[2]s TO %[3]s; -- and where a policy "+
			"hides rows from it: ALTER ROLE %[3]s BYPASSRLS;", quoteIdent(t.table.Schema), t.quoted, quoteIdent(user)),
			"role %q may not read all of table %s: %w", user, name, err)
	case where != "" && (strings.HasPrefix(code, "42") || strings.HasPrefix(code, "22")):
		return sources.Fatal("correct the condition; names outside of pg_catalog need their schema",
			"the server refuses to read table %s with the condition %q: %w", name, where, err)
	}
	return fmt.Errorf("read table %s: %w", name, err)
}

func errGone(name string) error {
	return sources.Fatal("cancel its snapshot, or take it out of the capture's tables", "table %s is gone", name)
}

var _ sources.Snapshotter = Config{}
