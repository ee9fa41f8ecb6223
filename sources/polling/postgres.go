package polling

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
	"weft/sources/pgurl"
)

// PostgresConfig is the postgres-poll source's part of the config file.
type PostgresConfig struct {
	URL       string        `yaml:"url" json:"url" jsonschema:"PostgreSQL connection: postgres://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs, of a primary or a standby; the role needs SELECT"`
	Watermark string        `yaml:"watermark,omitempty" json:"watermark,omitempty" jsonschema:"name of an xid8 column that a trigger sets on every write, in all captured tables; without it the rows' own xmin is used and each look reads whole tables"`
	Interval  time.Duration `yaml:"interval,omitempty" json:"interval,omitempty" jsonschema:"pause between two polls that find nothing, such as 1s, which is the default; never shorter than what the last poll took"`
	Deleted   string        `yaml:"deleted,omitempty" json:"deleted,omitempty" jsonschema:"name of a column that marks a row as deleted: true, a number other than 0, or, in a column of another type, any value; such a row is delivered as a delete"`
	Reconcile Reconcile     `yaml:"reconcile,omitempty" json:"reconcile,omitempty" jsonschema:"how deleted rows are found"`
}

const (
	postgresInterval = time.Second
	// oldestPostgres is the first version that scans a range of blocks, as server_version_num.
	oldestPostgres = 140000
	// heldAfter is how long a transaction may keep the horizon before somebody is told.
	heldAfter = time.Minute
)

// postgresSession pins what values look like, and lets a policy on rows be an error rather than a filter. lc_monetary is left
// as the database has it, since money is read as numeric.
var postgresSession = map[string]string{
	"application_name":                    "weft",
	"bytea_output":                        "hex",
	"client_encoding":                     "UTF8",
	"client_min_messages":                 "warning",
	"datestyle":                           "ISO, YMD",
	"default_transaction_read_only":       "on",
	"extra_float_digits":                  "3",
	"idle_in_transaction_session_timeout": "60s",
	"intervalstyle":                       "postgres",
	"lock_timeout":                        "10s",
	"row_security":                        "off",
	"search_path":                         "pg_catalog",
	"statement_timeout":                   "60s",
	"timezone":                            "UTC",
}

// Connector implements sources.Config.
func (c *PostgresConfig) Connector() string { return "postgresql-poll" }

// Polls implements sources.Poller.
func (c *PostgresConfig) Polls() {}

// Validate implements sources.Config.
func (c *PostgresConfig) Validate() error {
	if _, err := c.connConfig(); err != nil {
		return err
	}
	switch {
	case strings.ContainsRune(c.Watermark, 0):
		return errors.New("watermark: it holds a NUL")
	case c.Interval != 0 && c.Interval < time.Millisecond:
		return fmt.Errorf("interval: %s is shorter than 1ms", c.Interval)
	}
	return c.Reconcile.validate()
}

// connConfig parses the url and pins the session.
func (c *PostgresConfig) connConfig() (*pgx.ConnConfig, error) {
	return pgurl.Parse(c.URL, postgresSession)
}

// Open implements sources.Config.
func (c *PostgresConfig) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	d, err := c.dialect(ctx, o.Tables, o.Keys, o.Logger)
	if err != nil {
		return nil, err
	}
	return start(ctx, d, d.place, c.Interval, postgresInterval, c.Deleted, c.Reconcile, o)
}

// dialect connects for a capture.
func (c *PostgresConfig) dialect(ctx context.Context, tables []string, keys map[string][]string, log hclog.Logger) (*postgresDialect, error) {
	config, err := c.connConfig()
	if err != nil {
		return nil, sources.Fatal("correct url", "%w", err)
	}
	d := &postgresDialect{
		place: postgresPlace(config), user: config.User, watermark: c.Watermark, patterns: tables, keys: keys, log: log, limits: limits{}, spans: map[string]int64{},
	}
	if d.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return nil, d.explain(fmt.Errorf("connect: %w", err))
	}
	const query = `SELECT current_setting('server_version_num')::int4, current_setting('server_version')`
	var version int
	var name string
	err = d.conn.QueryRow(ctx, query).Scan(&version, &name)
	if err == nil && version < oldestPostgres {
		err = sources.Fatal("poll PostgreSQL 14 or newer", "the server is PostgreSQL %s, which is too old", name)
	}
	if err != nil {
		return nil, errors.Join(d.explain(err), d.close())
	}
	return d, nil
}

// postgresPlace names the database in messages.
func postgresPlace(config *pgx.ConnConfig) string {
	return fmt.Sprintf("the PostgreSQL database %s at %s:%d", config.Database, config.Host, config.Port)
}

// postgresDialect reads one database through one connection. Its watermark is a transaction id, widened to 64 bits: that of a
// column, or of the row version itself (xmin). The horizon is the id below which every transaction has ended.
type postgresDialect struct {
	place, user string
	watermark   string // "" for xmin
	patterns    []string
	keys        map[string][]string
	log         hclog.Logger
	conn        *pgx.Conn

	captured []*table
	limits   limits
	// spans hold how many blocks of a table a statement scans, by its name.
	spans map[string]int64

	xmin   int64     // as of the last call of changed
	since  time.Time // when xmin was first seen
	told   bool      // that something keeps it
	lagged bool      // a standby's horizon was below the position
}

// SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	pgNoAuthorization = "28000" // invalid_authorization_specification
	pgWrongPassword   = "28P01" // invalid_password
	pgNoDatabase      = "3D000" // invalid_catalog_name
	pgNoRight         = "42501" // insufficient_privilege
	pgSyntax          = "42601" // syntax_error
	pgUnsupported     = "0A000" // feature_not_supported
)

// explain adds the database's place to an error, and makes it fatal if only somebody else can mend it.
func (d *postgresDialect) explain(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case pgNoAuthorization, pgWrongPassword:
			return sources.Fatal("check the user, the password and sslmode in url, and the server's pg_hba.conf", "%s: %w", d.place, err)
		case pgNoDatabase:
			return sources.Fatal("name an existing database in url", "%s: %w", d.place, err)
		case pgNoRight:
			return sources.Fatal(fmt.Sprintf("GRANT SELECT ON the captured tables and USAGE ON their schemas TO %s; "+
				"-- and BYPASSRLS where a table has policies", quote(d.user)), "%s: %w", d.place, err)
		}
	}
	return fmt.Errorf("%s: %w", d.place, err)
}

// changed implements dialect: no row that was not yet complete can be so before the oldest running transaction is another.
func (d *postgresDialect) changed(ctx context.Context) (bool, error) {
	var xmin, xmax int64
	const query = `SELECT pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8 FROM pg_current_snapshot() s`
	if err := d.conn.QueryRow(ctx, query).Scan(&xmin, &xmax); err != nil {
		return false, d.explain(fmt.Errorf("read the current snapshot: %w", err))
	}
	if xmin != d.xmin {
		d.xmin, d.since, d.told = xmin, time.Now(), false
		return true, nil
	}
	if xmax > xmin && !d.told && time.Since(d.since) > heldAfter {
		d.told = true
		who, err := d.holder(ctx)
		if err != nil {
			return false, err
		}
		d.log.Warn("an open transaction keeps later changes from being captured", "since", time.Since(d.since).Round(time.Second), "transaction", who)
	}
	return false, nil
}

// holder names the transaction that keeps the horizon, for people; "" where there is none or the server does not tell.
func (d *postgresDialect) holder(ctx context.Context) (string, error) {
	const query = `SELECT who FROM (
		SELECT age(backend_xid) AS age, format('of process %s, user %s, since %s', pid, coalesce(usename, 'unknown'), coalesce(xact_start::text, 'unknown')) AS who
			FROM pg_stat_activity WHERE backend_xid IS NOT NULL
		UNION ALL SELECT age(transaction), format('prepared as %L, in database %s, since %s', gid, database, prepared) FROM pg_prepared_xacts
		) t ORDER BY age DESC LIMIT 1`
	var who string
	err := d.conn.QueryRow(ctx, query).Scan(&who)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", d.explain(fmt.Errorf("look for the oldest transaction: %w", err))
	}
	return who, nil
}

func (d *postgresDialect) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return d.conn.Close(ctx)
}

// view implements dialect.
func (d *postgresDialect) view(ctx context.Context) (view, error) { return d.load(ctx) }

// load begins to read, and looks which tables there are.
func (d *postgresDialect) load(ctx context.Context) (*postgresView, error) {
	v, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	tables, err := loadAll(ctx, v.match, d.captured)
	if err != nil {
		return nil, errors.Join(d.explain(err), v.close())
	}
	d.captured = tables
	return v, nil
}

// begin begins to read, without having looked at the tables.
func (d *postgresDialect) begin(ctx context.Context) (*postgresView, error) {
	tx, err := d.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, d.explain(fmt.Errorf("begin to read: %w", err))
	}
	v := &postgresView{dialect: d, tx: tx}
	// The system identifier is the same on a standby and after a failover to it.
	const query = `SELECT pg_snapshot_xmin(s)::text::int8, pg_snapshot_xmax(s)::text::int8, pg_is_in_recovery(),
		(SELECT system_identifier::text FROM pg_control_system()) || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
		FROM pg_current_snapshot() s`
	if err := tx.QueryRow(ctx, query).Scan(&v.xmin, &v.xmax, &v.standby, &v.identity); err != nil {
		return nil, errors.Join(d.explain(fmt.Errorf("read the snapshot: %w", err)), v.close())
	}
	return v, nil
}

// postgresView is a transaction with one snapshot.
type postgresView struct {
	dialect    *postgresDialect
	tx         pgx.Tx
	xmin, xmax int64
	standby    bool
	identity   string
}

func (v *postgresView) database() string { return v.identity }
func (v *postgresView) horizon() int64   { return v.xmin - 1 }
func (v *postgresView) describe() string {
	by, cost := "the rows' own xmin", "a poll that finds a transaction ended reads whole tables"
	if w := v.dialect.watermark; w != "" {
		by, cost = "the column "+w, "a poll reads an index range"
	}
	return fmt.Sprintf("exact: by %s, below the oldest running transaction (now %d); a change is captured once every transaction that is older has ended; %s",
		by, v.xmin, cost)
}
func (v *postgresView) tables() []*table { return v.dialect.captured }

// older implements view. A standby may only lag behind the server that was read before; it is waited for.
func (v *postgresView) older(highest int64) string {
	d := v.dialect
	if v.horizon() >= highest {
		d.lagged = false
		return ""
	}
	if !v.standby {
		return fmt.Sprintf("its oldest transaction is %d, and those up to %d were captured, so that some of these are no longer in it",
			v.xmin, highest)
	}
	if !d.lagged {
		d.lagged = true
		d.log.Warn("the standby lags behind what was captured already, and is waited for", "transaction", v.xmin, "captured", highest)
	}
	return ""
}

func (v *postgresView) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := v.tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return v.dialect.explain(fmt.Errorf("end reading: %w", err))
	}
	return nil
}

// PostgresStatements returns what prepares a table for polling by an xid8 column: the column, a trigger that sets it to the
// writing transaction's id, and an index for the columns key that tell its rows apart. Rows that are there get an id that
// is older than any transaction. All of it but the index may be run again without harm.
func PostgresStatements(schema, table, watermark string, key ...string) []string {
	t, w := quote(schema)+"."+quote(table), quote(watermark)
	function := quote(schema) + "." + quote("weft_stamp_"+watermark)
	columns := []string{w}
	for _, column := range key {
		columns = append(columns, quote(column))
	}
	return []string{
		fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s xid8 NOT NULL DEFAULT '1';", t, w),
		fmt.Sprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS "+
			"'BEGIN NEW.%s := pg_catalog.pg_current_xact_id(); RETURN NEW; END';", function, strings.ReplaceAll(w, "'", "''")),
		fmt.Sprintf("CREATE OR REPLACE TRIGGER weft_stamp BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION %s();", t, function),
		// Also for rows that replication applies.
		fmt.Sprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER weft_stamp;", t),
		fmt.Sprintf("CREATE INDEX ON %s (%s);", t, strings.Join(columns, ", ")),
	}
}

func parseInt(text []byte) (int64, error) { return strconv.ParseInt(string(text), 10, 64) }

var _ sources.Poller = (*PostgresConfig)(nil)
