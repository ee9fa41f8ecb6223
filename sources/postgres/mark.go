package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// markPrefix is that of the messages by which a reader marks the place in the log that a read has seen. They are never
// delivered as changes.
const markPrefix = "weft.mark"

// The name of the slot is the message: the stream of that slot ends a batch there. What tells one mark from another is its
// place in the log, which no restart repeats. It is transactional since the server sends a committed transaction at once, and
// anything else when it next flushes its log.
const emitMark = "SELECT pg_logical_emit_message(true, '" + markPrefix + "', $1)::text"

// writeMark writes one and returns its place: all that was visible before is in the log before it. The connection's
// synchronous_commit must be local, since the commit would otherwise wait for a standby.
func writeMark(ctx context.Context, conn *pgx.Conn, slot string, version int) (lsn, error) {
	var at string
	err := conn.QueryRow(ctx, emitMark, slot).Scan(&at)
	if err != nil {
		return 0, markError(err, conn.Config().User, version)
	}
	return parseLSN(at)
}

func markError(err error, user string, version int) error {
	if codeOf(err) == codeNoRight {
		return sources.Fatal(grantMark(user, version), "role %q may not mark a place in the log: %w", user, err)
	}
	return fmt.Errorf("mark the log: %w", err)
}

func grantMark(user string, version int) string {
	arguments := "boolean, text, text"
	if version >= 170000 {
		arguments += ", boolean"
	}
	return fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_catalog.pg_logical_emit_message(%s) TO %s;", arguments, quoteIdent(user))
}
