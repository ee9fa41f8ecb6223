package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"

	"weft/sources"
)

// SQLSTATE codes that decide what to do: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeInvalidAuthorization = "28000" // invalid_authorization_specification
	codeInvalidPassword      = "28P01" // invalid_password
	codeNoDatabase           = "3D000" // invalid_catalog_name
	codeNoRight              = "42501" // insufficient_privilege
	codeUndefinedObject      = "42704" // undefined_object: the publication, when decoding
	codeDuplicateObject      = "42710" // duplicate_object
	codeTooManySlots         = "53400" // configuration_limit_exceeded
	codeNotInState           = "55000" // object_not_in_prerequisite_state: an invalidated slot
	codeInUse                = "55006" // object_in_use
	codeUndefinedFile        = "58P01" // undefined_file: a WAL segment that was removed
)

// cancelWait is how long a cancelled statement may take to end at the server before the connection is given up.
const cancelWait = 5 * time.Second

// connectSQL opens a connection for queries. When a query's context ends, the query is cancelled at the server and waited
// for, so that a slot whose making is interrupted is gone when the call returns.
func connectSQL(ctx context.Context, c Config) (*pgx.Conn, error) {
	config, err := c.connConfig()
	if err != nil {
		return nil, err
	}
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelWait}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(err, config.User, config.Database)
	}
	return conn, nil
}

// readBufferBytes is what is read from the replication connection at once.
const readBufferBytes = 128 << 10

// connectReplication opens a connection that speaks the replication protocol.
func connectReplication(ctx context.Context, c Config) (*pgconn.PgConn, error) {
	config, err := c.connConfig()
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["replication"] = "database"
	// The frontend itself reads 8 KiB at a time.
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBufferBytes), w)
	}
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if codeOf(err) == codeNoRight {
		err = oneLine(err)
		return nil, sources.Fatal(fmt.Sprintf("ALTER ROLE %s REPLICATION; -- on Amazon RDS: GRANT rds_replication TO %[1]s;",
			quoteIdent(config.User)), "role %q has no right to replicate: %w", config.User, err)
	}
	if err != nil {
		return nil, connectError(err, config.User, config.Database)
	}
	return conn, nil
}

// connectError tells what only a person can mend from what may pass. pgconn's errors name host, user and database, and no
// password.
func connectError(err error, user, database string) error {
	err = oneLine(err)
	switch codeOf(err) {
	case codeInvalidPassword, codeInvalidAuthorization:
		return sources.Fatal("check the user, the password and sslmode in url, and the server's pg_hba.conf",
			"the server refuses user %q: %w", user, err)
	case codeNoDatabase:
		return sources.Fatal("name an existing database in url", "there is no database %q: %w", database, err)
	case codeNoRight:
		return sources.Fatal(fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s;", quoteIdent(database), quoteIdent(user)),
			"user %q may not connect to database %q: %w", user, database, err)
	}
	if codeOf(err) == "" { // no server has answered
		return fmt.Errorf("connect to PostgreSQL: %w; check host and port in url", err)
	}
	return fmt.Errorf("connect to PostgreSQL: %w", err)
}

// lineError has err's text on one line.
type lineError struct {
	text string
	err  error
}

func (e *lineError) Error() string { return e.text }
func (e *lineError) Unwrap() error { return e.err }

// oneLine joins the lines that pgconn makes of the addresses it has tried. It tries an address without TLS again, so that
// most come twice.
func oneLine(err error) error {
	first, rest, several := strings.Cut(err.Error(), "\n")
	if !several {
		return err
	}
	var causes []string
	for line := range strings.Lines(rest) {
		line = strings.TrimSpace(line)
		// The first of the names that cannot be resolved has a prefix.
		known := slices.ContainsFunc(causes, func(cause string) bool { return strings.HasSuffix(cause, line) })
		if line != "" && !known {
			causes = append(causes, line)
		}
	}
	return &lineError{text: first + " " + strings.Join(causes, "; "), err: err}
}

// codeOf is the SQLSTATE in err, or "".
func codeOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// closeConn ends a connection without waiting long for a server that may be gone.
func closeConn(conn interface{ Close(context.Context) error }) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return conn.Close(ctx)
}

func quoteIdent(name string) string { return pgx.Identifier{name}.Sanitize() }
