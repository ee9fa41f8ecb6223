package polling

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// MariaDBConfig is the mariadb source's part of the config file.
type MariaDBConfig struct {
	URL       string        `yaml:"url" json:"url" jsonschema:"connection: mariadb://USER:PASSWORD@HOST:PORT, or mysql:// for type: mysql, with ?tls=true or tls=skip-verify; the user needs SELECT on the tables and PROCESS"`
	Watermark string        `yaml:"watermark,omitempty" json:"watermark,omitempty" jsonschema:"name of the TIMESTAMP column that the server sets on every write (DEFAULT and ON UPDATE CURRENT_TIMESTAMP), in all captured tables; default updated_at"`
	Interval  time.Duration `yaml:"interval,omitempty" json:"interval,omitempty" jsonschema:"pause between two polls that find nothing, such as 1s, which is the default"`
	Deleted   string        `yaml:"deleted,omitempty" json:"deleted,omitempty" jsonschema:"name of a column that marks a row as deleted: true, a number other than 0, or, in a column of another type, any value; such a row is delivered as a delete"`
	Reconcile Reconcile     `yaml:"reconcile,omitempty" json:"reconcile,omitempty" jsonschema:"how deleted rows are found"`
}

const (
	mariadbWatermark = "updated_at"
	mariadbInterval  = time.Second
)

// Connector implements sources.Config.
func (c *MariaDBConfig) Connector() string { return mariaDB.kind }

// Polls implements sources.Poller.
func (c *MariaDBConfig) Polls() {}

// Validate implements sources.Config.
func (c *MariaDBConfig) Validate() error { return c.validate(mariaDB) }

func (c *MariaDBConfig) validate(f *flavour) error {
	if _, err := c.driverConfig(f); err != nil {
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

// driverConfig parses the url and pins the session. Its errors never hold a part of the url, which may hold a password.
func (c *MariaDBConfig) driverConfig(f *flavour) (*mysql.Config, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("url: it is no valid URL; special characters in the user and the password must be percent-encoded: " +
			"@ as %40, / as %2F, % as %25")
	}
	if u.Scheme != f.kind || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("url: it must be such as %s://USER:PASSWORD@HOST:3306, without a database: tables name theirs", f.kind)
	}
	port := u.Port()
	if port == "" {
		port = "3306"
	}
	m := mysql.NewConfig()
	m.Net, m.Addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	m.User = u.User.Username()
	m.Passwd, _ = u.User.Password()
	for name, values := range u.Query() {
		switch {
		case name == "tls" && values[0] == "true":
			m.TLS = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		case name == "tls" && values[0] == "skip-verify":
			m.TLS = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
		case name == "tls" && values[0] == "false":
		default:
			return nil, fmt.Errorf("url: %s is no parameter of it, or has a value that it cannot have; there is tls=true, skip-verify or false", name)
		}
	}
	m.Collation = "utf8mb4_general_ci"
	m.InterpolateParams = true // values as text, whatever their type
	m.Timeout, m.ReadTimeout, m.WriteTimeout = 10*time.Second, 70*time.Second, 10*time.Second
	m.Logger = &mysql.NopLogger{} // what it would say is in an error too
	m.Params = map[string]string{
		"sql_mode":  "''",
		"time_zone": "'+00:00'",
	}
	return m, nil
}

// Open implements sources.Config.
func (c *MariaDBConfig) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	return c.open(ctx, mariaDB, o)
}

func (c *MariaDBConfig) open(ctx context.Context, f *flavour, o sources.OpenOptions) (sources.Source, error) {
	d, err := c.dialect(ctx, f, o.Tables, o.Keys, o.Logger)
	if err != nil {
		return nil, err
	}
	if o.Position != nil {
		p, err := parsePosition(o.Position)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		// What is open now may be as old as the last look of the process before.
		d.looked.horizon, d.resumed = p.highest()+1, true
	}
	return start(ctx, d, d.place, c.Interval, mariadbInterval, c.Deleted, c.Reconcile, o)
}

// dialect connects for a capture.
func (c *MariaDBConfig) dialect(ctx context.Context, f *flavour, tables []string, keys map[string][]string, log hclog.Logger) (*mariadbDialect, error) {
	config, err := c.driverConfig(f)
	if err != nil {
		return nil, sources.Fatal("correct url", "%w", err)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, errors.New("url: the driver refuses it")
	}
	d := &mariadbDialect{
		flavour: f, place: f.place(config), user: config.User, watermark: c.Watermark, patterns: tables, keys: keys, log: log,
		db: sql.OpenDB(connector), limits: limits{},
	}
	if d.watermark == "" {
		d.watermark = mariadbWatermark
	}
	if d.conn, err = d.db.Conn(ctx); err != nil {
		return nil, errors.Join(d.explain(fmt.Errorf("connect: %w", err)), d.db.Close())
	}
	if err := d.verifyServer(ctx); err != nil {
		return nil, errors.Join(d.explain(err), d.close())
	}
	return d, nil
}

// mariadbDialect reads one server through one connection. Its watermark is the time of a TIMESTAMP column, in microseconds
// since 1970; see mariadb_look.go for the horizon.
type mariadbDialect struct {
	flavour     *flavour
	version     string
	place, user string
	watermark   string
	patterns    []string
	keys        map[string][]string
	log         hclog.Logger
	db          *sql.DB
	conn        *sql.Conn
	identity    string

	captured []*table
	limits   limits
	looked   look
	more     bool      // a table has rows below the horizon that were not read
	asked    time.Time // when open transactions were last asked for
	told     time.Time // when somebody was last told that looks fail
	resumed  bool      // looked.horizon is from a position, and nothing else was looked at
}

// verifyServer refuses servers whose timestamps tell nothing of the order in which rows become visible here, and pins the session.
func (d *mariadbDialect) verifyServer(ctx context.Context) error {
	f := d.flavour
	if err := d.conn.QueryRowContext(ctx, "SELECT VERSION()").Scan(&d.version); err != nil {
		return fmt.Errorf("read the version: %w", err)
	}
	wanted, other := f.kind == mariaDB.kind, mariaDB
	if wanted {
		other = mySQL
	}
	if strings.Contains(d.version, mariaDB.name) != wanted {
		return sources.Fatal(fmt.Sprintf("set type: %s in the source, and %[1]s:// in its url", other.kind),
			"the server is %s %s, not %s, and tells its open transactions in another way", other.name, d.version, f.name)
	}
	major, _, _ := strings.Cut(d.version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < f.oldest {
		return sources.Fatal(fmt.Sprintf("poll %s %d or newer", f.name, f.oldest), "the server is %s %s, which is too old", f.name, d.version)
	}
	var wsrep string
	if err := d.conn.QueryRowContext(ctx, f.variables).Scan(&wsrep, &d.identity); err != nil {
		return fmt.Errorf("read the server's variables: %w", err)
	}
	if wsrep == "ON" {
		return sources.Fatal("capture a server that does not replicate with Galera", "the server is a node of a Galera cluster, where other nodes' clocks set timestamps")
	}
	for _, statement := range []string{f.session, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ"} {
		if _, err := d.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// Error numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/
const (
	mariadbDenied      = 1045 // ER_ACCESS_DENIED_ERROR
	mariadbNoDatabase  = 1044 // ER_DBACCESS_DENIED_ERROR
	mariadbNoTable     = 1142 // ER_TABLEACCESS_DENIED_ERROR
	mariadbNoColumn    = 1143 // ER_COLUMNACCESS_DENIED_ERROR
	mariadbNoPrivilege = 1227 // ER_SPECIFIC_ACCESS_DENIED_ERROR
)

// explain adds the server's place to an error, and makes it fatal if only somebody else can mend it.
func (d *mariadbDialect) explain(err error) error {
	var server *mysql.MySQLError
	if errors.As(err, &server) {
		switch server.Number {
		case mariadbDenied:
			return sources.Fatal("check the user, the password and tls in url", "%s: %w", d.place, err)
		case mariadbNoDatabase, mariadbNoTable, mariadbNoColumn:
			return sources.Fatal(fmt.Sprintf("GRANT SELECT ON the captured tables TO '%s';", d.user), "%s: %w", d.place, err)
		case mariadbNoPrivilege:
			return sources.Fatal(fmt.Sprintf("GRANT PROCESS ON *.* TO '%s'; -- with it a user sees all open transactions", d.user), "%s: %w", d.place, err)
		}
	}
	return fmt.Errorf("%s: %w", d.place, err)
}

// changed implements dialect. The server has no cheap sign of a commit; an empty poll is one look and a range of an index.
func (d *mariadbDialect) changed(context.Context) (bool, error) { return true, nil }

func (d *mariadbDialect) close() error {
	return closeConn(d.conn, d.db)
}

// view implements dialect.
func (d *mariadbDialect) view(ctx context.Context) (view, error) {
	v, err := d.begin(ctx)
	if err != nil {
		return nil, err
	}
	return v.load(ctx)
}

// load reads which tables there are.
func (v *mariadbView) load(ctx context.Context) (*mariadbView, error) {
	tables, err := loadAll(ctx, v.match, v.dialect.captured)
	if err != nil {
		return nil, errors.Join(v.dialect.explain(err), v.close())
	}
	v.dialect.captured = tables
	return v, nil
}

// begin looks how far rows are complete, and then begins to read what was committed up to now, which is at least that.
func (d *mariadbDialect) begin(ctx context.Context) (*mariadbView, error) {
	var back int64
	if !d.more { // what is left below the horizon is read first: a look may have to wait
		var err error
		if back, err = d.look(ctx); err != nil {
			return nil, d.explain(err)
		}
	}
	d.more = false
	v, err := d.start(ctx)
	if err != nil {
		return nil, err
	}
	v.below, v.back = d.looked.horizon, back
	return v, nil
}

// start begins to read what was committed up to now.
func (d *mariadbDialect) start(ctx context.Context) (*mariadbView, error) {
	if _, err := d.conn.ExecContext(ctx, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"); err != nil {
		return nil, d.explain(fmt.Errorf("begin to read: %w", err))
	}
	return &mariadbView{dialect: d}, nil
}

// mariadbView is a transaction with one snapshot.
type mariadbView struct {
	dialect *mariadbDialect
	// below is the time before which every row is there, in microseconds since 1970.
	below int64
	// back is how far back the clock makes the reading go, 0 for not.
	back int64
}

func (v *mariadbView) database() string { return v.dialect.identity }
func (v *mariadbView) horizon() int64   { return v.below - 1 }
func (v *mariadbView) describe() string {
	d := v.dialect
	return fmt.Sprintf("exact as long as only the server sets %s: rows before the start of the oldest open transaction or statement, prepared ones included "+
		"(now %d, before %s); a change is captured once all older ones have ended; a poll is four queries and an index range",
		d.watermark, len(d.looked.transactions)+len(d.looked.statements), timeOf(v.below))
}
func (v *mariadbView) tables() []*table { return v.dialect.captured }
func (v *mariadbView) rewind() int64    { return v.back }

// older implements view.
func (v *mariadbView) older(highest int64) string {
	if d := v.dialect; d.looked.clock <= highest {
		return fmt.Sprintf("its clock is at %s and rows up to %s were captured, so that rows may have been written since with older times",
			timeOf(d.looked.clock), timeOf(highest))
	}
	return ""
}

func (v *mariadbView) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if _, err := v.dialect.conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		return v.dialect.explain(fmt.Errorf("end reading: %w", err))
	}
	return nil
}

// quoteMariaDB makes an identifier of a name.
func quoteMariaDB(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

// MariaDBStatements returns what prepares a table for polling: the column that the server sets on every write, and its index
// with the columns key, which tell the table's rows apart.
func MariaDBStatements(database, table, watermark string, key ...string) []string {
	return mariaDB.statements(database, table, watermark, key)
}

func (f *flavour) statements(database, table, watermark string, key []string) []string {
	w := quoteMariaDB(watermark)
	name := quoteMariaDB(database) + "." + quoteMariaDB(table)
	return []string{
		fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s%s TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6);", name, f.ifNotExists, w),
		fmt.Sprintf("ALTER TABLE %s ADD INDEX (%s);", name, quoted(quoteMariaDB, append([]string{watermark}, key...))),
	}
}

var _ sources.Poller = (*MariaDBConfig)(nil)
