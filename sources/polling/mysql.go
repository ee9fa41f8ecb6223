package polling

import (
	"context"

	"github.com/go-sql-driver/mysql"

	"weft/sources"
)

// flavour is what MariaDB and MySQL each do in a way of their own. All else the dialect asks both in the same words.
type flavour struct {
	// kind is the source's type, and the scheme of its url.
	kind, name string
	// oldest is the first major version that is polled.
	oldest int
	// session pins what a session cannot be given when it connects: a statement that reads is ended after a minute.
	session string
	// variables selects whether the server is a node of Galera, ON or OFF, and what identifies it.
	variables string
	// started is the time in microseconds since 1970 before which no statement in information_schema.PROCESSLIST began, and applies
	// tells those that apply another server's changes.
	started, applies string
	// usable tells the indexes in information_schema.STATISTICS that the server uses.
	usable string
	// tables is where InnoDB tells its tables' numbers.
	tables string
	// ifNotExists stands in ADD COLUMN.
	ifNotExists string
	// recoverRight is what XA RECOVER needs, for people.
	recoverRight string
}

var mariaDB = &flavour{
	kind: "mariadb", name: "MariaDB", oldest: 10,
	session: "SET SESSION max_statement_time = 60",
	variables: `SELECT COALESCE((SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME = 'WSREP_ON'), 'OFF'),
		COALESCE((SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME = 'SERVER_UID'), CONCAT(@@hostname, ':', @@port))`,
	started:     "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 - TIME_MS * 1000 AS SIGNED)",
	applies:     "COMMAND LIKE 'Slave%'",
	usable:      "IGNORED = 'NO'",
	tables:      "INNODB_SYS_TABLES",
	ifNotExists: "IF NOT EXISTS ",
}

var mySQL = &flavour{
	kind: "mysql", name: "MySQL", oldest: 8,
	session:   "SET SESSION max_execution_time = 60000",
	variables: `SELECT COALESCE((SELECT VARIABLE_VALUE FROM performance_schema.global_variables WHERE VARIABLE_NAME = 'wsrep_on'), 'OFF'), @@server_uuid`,
	// TIME is the difference of two times that are cut to seconds.
	started: "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) - (TIME + 1) * 1000000",
	// Replication's and group replication's threads.
	applies:      "USER = 'system user' AND COMMAND IN ('Connect', 'Query')",
	usable:       "IS_VISIBLE = 'YES'",
	tables:       "INNODB_TABLES",
	recoverRight: " to who has XA_RECOVER_ADMIN",
}

// place names the server in messages.
func (f *flavour) place(config *mysql.Config) string {
	return "the " + f.name + " server at " + config.Addr
}

// MySQLConfig is the mysql source's part of the config file. It is that of MariaDB, whose dialect asks both servers.
type MySQLConfig MariaDBConfig

// Connector implements sources.Config.
func (c *MySQLConfig) Connector() string { return mySQL.kind }

// Polls implements sources.Poller.
func (c *MySQLConfig) Polls() {}

// Validate implements sources.Config.
func (c *MySQLConfig) Validate() error { return (*MariaDBConfig)(c).validate(mySQL) }

// Open implements sources.Config.
func (c *MySQLConfig) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	return (*MariaDBConfig)(c).open(ctx, mySQL, o)
}

// OpenReader implements sources.Snapshotter.
func (c *MySQLConfig) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	return (*MariaDBConfig)(c).openReader(ctx, mySQL, o)
}

// Check implements sources.Checker.
func (c *MySQLConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	return (*MariaDBConfig)(c).check(ctx, mySQL, o)
}

var (
	_ sources.Poller      = (*MySQLConfig)(nil)
	_ sources.Checker     = (*MySQLConfig)(nil)
	_ sources.Snapshotter = (*MySQLConfig)(nil)
)
