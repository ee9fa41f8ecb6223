package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"weft/sources"
	"weft/sources/pgurl"
)

// sqlDriver is what the sql source must know of a database/sql driver and the databases behind it. A driver is added by an entry in
// sqlDrivers, which names its package in open, and by a run of TestSQLConformance on a server of its kind.
type sqlDriver struct {
	// open reads a dsn without connecting, and pins sessions to UTC, and to reading where that can be. place names the database, without
	// a secret. Errors begin with "dsn:" and hold no part of it.
	open func(dsn string) (db *sql.DB, place string, err error)
	// quote makes an identifier of a name, parameter writes the n-th of a statement, from 1, and limit cuts a statement off.
	quote     func(name string) string
	parameter func(n int) string
	limit     string
	// clock is an expression for the time, with a fraction of a second, as an application's time zone does not change it.
	clock string
	// read is an expression for a column's value as it is to be read.
	read func(column string) string
	// typeOf is how a column's values are read.
	typeOf func(c *sql.ColumnType) sources.Type
	// textTimes says that times are texts in the database, and compare as such.
	textTimes bool
	// access asks for the plan of a query of one table.
	access func(ctx context.Context, conn *sql.Conn, t *table, query string, args ...any) (access, error)
	// enforce is how the database is made to end what takes longer than a limit, and exact what captures it exactly.
	enforce func(limit time.Duration) string
	exact   string
}

var sqlDrivers = map[string]*sqlDriver{
	"pgx": {
		open: openPgx, quote: quote, parameter: func(n int) string { return fmt.Sprintf("$%d", n) }, limit: " LIMIT %d",
		clock: "CURRENT_TIMESTAMP", read: asItIs,
		typeOf: func(c *sql.ColumnType) sources.Type {
			t := postgresKinds[strings.ToLower(c.DatabaseTypeName())]
			t.Name = strings.ToLower(c.DatabaseTypeName())
			return t
		},
		access: pgxAccess,
		enforce: func(limit time.Duration) string {
			return fmt.Sprintf("ALTER DATABASE NAME SET transaction_timeout = '%dms'; -- from PostgreSQL 17 on, in the database's name; before, "+
				"statement_timeout and idle_in_transaction_session_timeout bound each statement and each pause, not their sum; nothing bounds prepared "+
				"transactions, which max_prepared_transactions = 0 refuses", limit.Milliseconds())
		},
		exact: "type: postgres-poll",
	},
	"mysql": {
		open: openMySQL, quote: quoteMariaDB, parameter: questionMark, limit: " LIMIT %d",
		clock: "CURRENT_TIMESTAMP(6)", read: asItIs,
		typeOf: func(c *sql.ColumnType) sources.Type {
			full := strings.ToLower(c.DatabaseTypeName())
			m := mariadbColumn{data: strings.TrimPrefix(full, "unsigned "), full: full}
			if precision, scale, ok := c.DecimalSize(); ok {
				m.precision, m.scale, m.digits = int(precision), int(scale), int(scale)
			}
			t := mariadbType(m)
			if t.Kind == sources.Bits { // whose width the driver does not tell
				t = sources.Type{Kind: sources.Bytes, Name: full}
			}
			return t
		},
		access: func(ctx context.Context, conn *sql.Conn, _ *table, query string, args ...any) (access, error) {
			return mariadbAccess(ctx, conn, query, args...)
		},
		enforce: func(limit time.Duration) string {
			seconds := max(1, int(limit.Seconds()))
			return fmt.Sprintf("SET GLOBAL idle_transaction_timeout = %d; SET GLOBAL max_statement_time = %[1]d; -- on MariaDB, where they bound each pause and "+
				"each statement, not their sum; MySQL bounds neither. A job does that ends (KILL) every trx_mysql_thread_id in information_schema.innodb_trx "+
				"whose trx_started is longer ago; nothing bounds prepared XA transactions", seconds)
		},
		exact: "type: mariadb or type: mysql",
	},
	"sqlite": {
		open: openPlainSQLite, quote: quote, parameter: questionMark, limit: " LIMIT %d",
		clock: "strftime('%Y-%m-%d %H:%M:%f', 'now')",
		// The plus takes the declared type away, by which the driver would make times of text.
		read: func(column string) string { return "+" + column },
		typeOf: func(c *sql.ColumnType) sources.Type {
			t, _ := typeOf(c.DatabaseTypeName())
			return t
		},
		textTimes: true,
		access: func(ctx context.Context, conn *sql.Conn, t *table, query string, args ...any) (access, error) {
			return sqliteAccess(ctx, conn, t.Name, query, args...)
		},
		enforce: func(time.Duration) string {
			return "-- SQLite ends no transaction: the applications that write must, and a time that is taken before BEGIN IMMEDIATE counts from then"
		},
		exact: "type: sqlite",
	},
}

func questionMark(int) string { return "?" }

func asItIs(column string) string { return column }

func openPgx(dsn string) (*sql.DB, string, error) {
	config, err := pgurl.Parse(dsn, postgresSession)
	if err != nil {
		return nil, "", errors.New("dsn" + strings.TrimPrefix(err.Error(), "url"))
	}
	// Statements are described anew each time, since columns may change and a pooler may change the session.
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	return stdlib.OpenDB(*config), fmt.Sprintf("the database %s at %s:%d", config.Database, config.Host, config.Port), nil
}

func openMySQL(dsn string) (*sql.DB, string, error) {
	// The driver's errors quote parts of it.
	m, err := mysql.ParseDSN(dsn)
	if dsn == "" || err != nil {
		return nil, "", errors.New("dsn: it must be such as USER:PASSWORD@tcp(HOST:3306)/DATABASE, or without DATABASE, where tables name theirs")
	}
	m.ParseTime, m.InterpolateParams = false, false // values in binary form, which cuts no digits of a FLOAT
	m.Logger = &mysql.NopLogger{}
	if m.Params == nil {
		m.Params = map[string]string{}
	}
	m.Params["sql_mode"], m.Params["time_zone"] = "''", "'+00:00'"
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return nil, "", errors.New("dsn: the driver refuses it")
	}
	return sql.OpenDB(connector), fmt.Sprintf("the database %s at %s", m.DBName, m.Addr), nil
}

func openPlainSQLite(dsn string) (*sql.DB, string, error) {
	if dsn == "" || strings.HasPrefix(dsn, "file:") || strings.HasPrefix(dsn, ":memory:") {
		return nil, "", errors.New("dsn: it must be the plain path of a file")
	}
	absolute, err := filepath.Abs(dsn)
	if err != nil {
		return nil, "", fmt.Errorf("dsn: %w", err)
	}
	db, err := sql.Open("sqlite", sqliteURI(absolute))
	if err != nil {
		return nil, "", fmt.Errorf("dsn: %w", err)
	}
	return db, "the SQLite database " + dsn, nil
}

// pgxAccess asks a PostgreSQL server. Others that speak its protocol may not understand.
func pgxAccess(ctx context.Context, conn *sql.Conn, t *table, query string, args ...any) (access, error) {
	found, err := postgresAccess(postgresPlanner{
		explain: func() (plan []byte, err error) {
			err = conn.QueryRowContext(ctx, "EXPLAIN (FORMAT JSON) "+query, args...).Scan(&plan)
			return plan, err
		},
		leading: func(index string) (column string, err error) {
			err = conn.QueryRowContext(ctx, leadingColumn, t.Schema, index).Scan(&column)
			return column, err
		},
		run: func(statement string) error {
			_, err := conn.ExecContext(ctx, statement)
			return err
		},
	})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code == pgSyntax || refused.Code == pgUnsupported) {
		return unknownAccess, nil
	}
	return found, err
}
