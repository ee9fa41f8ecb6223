package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
)

// oldestServer is the first version whose pgoutput sends logical messages, as server_version_num.
const oldestServer = 140000

// server is what a capture needs to know of the server as a whole.
type server struct {
	version       int    // server_version_num
	versionName   string // server_version
	walLevel      string
	standby       bool
	database      string
	user          string
	senderTimeout time.Duration // wal_sender_timeout; 0 for none

	system   string
	timeline int32
	walEnd   lsn // flushed to disk
}

func readServer(ctx context.Context, conn *pgx.Conn) (server, error) {
	var s server
	var timeout int64
	err := conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int4, current_setting('server_version'), current_setting('wal_level'),
			pg_is_in_recovery(), current_database()::text, current_user::text,
			(SELECT setting::int8 FROM pg_settings WHERE name = 'wal_sender_timeout')`).
		Scan(&s.version, &s.versionName, &s.walLevel, &s.standby, &s.database, &s.user, &timeout)
	if err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	s.senderTimeout = time.Duration(timeout) * time.Millisecond
	return s, nil
}

// check refuses a server that cannot be streamed from.
func (s server) check() error {
	switch {
	case s.version < oldestServer:
		return sources.Fatal("capture from PostgreSQL 14 or newer", "the server is PostgreSQL %s, which is too old", s.versionName)
	case s.standby:
		return sources.Fatal("let url lead to the primary", "the server is a standby (pg_is_in_recovery() is true)")
	case s.walLevel != "logical":
		return sources.Fatal("ALTER SYSTEM SET wal_level = logical; -- and restart the server (a managed one: set its parameter "+
			"for logical replication)", "the server's wal_level is %s, not logical", s.walLevel)
	}
	return nil
}

// identify adds what only the replication protocol tells.
func (s *server) identify(ctx context.Context, conn *pgconn.PgConn) error {
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fmt.Errorf("identify the system: %w", err)
	}
	s.system, s.timeline, s.walEnd = id.SystemID, id.Timeline, lsn(id.XLogPos)
	return nil
}

// timelineSwitch says where a timeline was left for the next one.
type timelineSwitch struct {
	timeline int32
	at       lsn
}

func readTimelineHistory(ctx context.Context, conn *pgconn.PgConn, timeline int32) ([]timelineSwitch, error) {
	history, err := pglogrepl.TimelineHistory(ctx, conn, timeline)
	if err != nil {
		return nil, fmt.Errorf("read the history of timeline %d: %w", timeline, err)
	}
	return parseTimelineHistory(string(history.Content))
}

// parseTimelineHistory reads a history file: a line for each former timeline, of its number, the LSN of the switch
// and a reason. Lines that begin with # are comments.
func parseTimelineHistory(content string) ([]timelineSwitch, error) {
	var switches []timelineSwitch
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("timeline history: line %q has no LSN", line)
		}
		timeline, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("timeline history: line %q does not begin with a timeline", line)
		}
		at, err := parseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("timeline history: line %q: %w", line, err)
		}
		switches = append(switches, timelineSwitch{timeline: int32(timeline), at: at})
	}
	return switches, nil
}
