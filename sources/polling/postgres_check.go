package polling

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// Check implements sources.Checker.
func (c *PostgresConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys, hclog.NewNullLogger())
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	return check(ctx, d, "server", d.place, d.watermark, c.Reconcile, o)
}

// inspect implements checkable.
func (d *postgresDialect) inspect(ctx context.Context) (inspected, error) { return d.begin(ctx) }

// server implements inspected: it tells up to where rows are complete, how exact that is, and who keeps it back.
func (v *postgresView) server(ctx context.Context, k *checker) error {
	role := "a primary"
	if v.standby {
		role = "a standby, whose rows come as it replays them"
	}
	k.add(sources.OK, "server", role, "")
	k.add(sources.OK, "horizon", v.describe(), "")
	const query = `SELECT count(*) FROM (
		SELECT xact_start AS since FROM pg_stat_activity WHERE backend_xid IS NOT NULL
		UNION ALL SELECT prepared FROM pg_prepared_xacts) t WHERE since < now() - interval '1 minute'`
	var old int
	if err := v.tx.QueryRow(ctx, query).Scan(&old); err != nil {
		return fmt.Errorf("look for old transactions: %w", err)
	}
	if old > 0 {
		who, err := v.dialect.holder(ctx)
		if err != nil {
			return err
		}
		k.add(sources.Warning, "horizon", fmt.Sprintf("%d transactions have been open for over a minute; the oldest is that %s: what is written "+
			"after it is not captured before it ends", old, who), "end it; a prepared one with COMMIT PREPARED or ROLLBACK PREPARED")
	}
	return nil
}

// largeTable is the size from which reading a whole table at each poll is worth a warning.
const largeTable = 256 << 20

// reading implements inspected.
func (v *postgresView) reading(ctx context.Context, k *checker, t *table) (string, error) {
	if w := v.dialect.watermark; w != "" {
		return "read by the index on " + w, nil
	}
	var bytes int64
	if err := v.tx.QueryRow(ctx, "SELECT pg_relation_size($1::oid)", t.identity).Scan(&bytes); err != nil {
		return "", fmt.Errorf("read its size: %w", err)
	}
	if bytes > largeTable {
		k.add(sources.Warning, "table "+t.name, fmt.Sprintf("it has %d MiB, all of which each such poll reads", bytes>>20),
			strings.Join(PostgresStatements(t.Schema, t.Name, "weft_xid", keyNames(t)...), "\n")+
				"\n-- in all captured tables, and watermark: weft_xid in the source; then only what has changed is read")
	}
	return "read whole by each poll that finds a transaction ended", nil
}

// pollAccess implements inspected.
func (v *postgresView) pollAccess(ctx context.Context, t *table) (access, error) {
	query, params := v.columnQuery(t, v.horizon()-1, nil)
	return v.access(ctx, query, params)
}

// rangeAccess implements inspected.
func (v *postgresView) rangeAccess(ctx context.Context, t *table) (access, error) {
	first, last := sampleRange(t)
	from, params := postgresRange(t, first, last)
	return v.access(ctx, "SELECT count(*) "+from, params)
}

func (v *postgresView) access(ctx context.Context, query string, params [][]byte) (access, error) {
	explain := func() (indexed bool, err error) {
		err = v.eachRow(ctx, "EXPLAIN (FORMAT JSON) "+query, params, func(row [][]byte) (err error) {
			indexed, err = searchesIndex(row[0])
			return err
		})
		return indexed, err
	}
	return postgresAccess(explain, func(statement string) error {
		_, err := v.tx.Exec(ctx, statement)
		return err
	})
}

// postgresAccess asks for the plan of a query, and, where that reads a whole table, for the one with which the server would avoid it.
func postgresAccess(explain func() (indexed bool, err error), run func(statement string) error) (access, error) {
	indexed, err := explain()
	if indexed || err != nil {
		return byIndex, err
	}
	if err := run("SET enable_seqscan = off"); err != nil {
		return unknownAccess, err
	}
	if indexed, err = explain(); err != nil {
		return unknownAccess, err
	}
	if err := run("RESET enable_seqscan"); err != nil {
		return unknownAccess, err
	}
	if indexed {
		return byChoice, nil
	}
	return byScan, nil
}

// postgresPlan is a node of a plan in JSON.
type postgresPlan struct {
	IndexCond string         `json:"Index Cond"`
	Plans     []postgresPlan `json:"Plans"`
}

func (p *postgresPlan) searchesIndex() bool {
	return p.IndexCond != "" || slices.ContainsFunc(p.Plans, func(p postgresPlan) bool { return p.searchesIndex() })
}

// searchesIndex tells whether an index is searched by a plan, not only walked from its beginning.
func searchesIndex(plan []byte) (bool, error) {
	var explained []struct{ Plan postgresPlan }
	if err := json.Unmarshal(plan, &explained); err != nil || len(explained) == 0 {
		return false, fmt.Errorf("read the plan: %w", err)
	}
	return explained[0].Plan.searchesIndex(), nil
}

// createIndex implements inspected.
func (v *postgresView) createIndex(t *table, columns ...string) string {
	return fmt.Sprintf("CREATE INDEX ON %s.%s (%s);", quote(t.Schema), quote(t.Name), quoted(quote, columns))
}

var _ sources.Checker = (*PostgresConfig)(nil)
