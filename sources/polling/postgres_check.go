package polling

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
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
	return v.access(ctx, t, query, params)
}

// rangeAccess implements inspected.
func (v *postgresView) rangeAccess(ctx context.Context, t *table) (access, error) {
	first, last := sampleRange(t)
	from, params := postgresRange(t, first, last)
	return v.access(ctx, t, "SELECT count(*) "+from, params)
}

func (v *postgresView) access(ctx context.Context, t *table, query string, params [][]byte) (access, error) {
	return postgresAccess(postgresPlanner{
		explain: func() (plan []byte, err error) {
			err = v.eachRow(ctx, "EXPLAIN (FORMAT JSON) "+query, params, func(row [][]byte) error {
				plan = bytes.Clone(row[0])
				return nil
			})
			return plan, err
		},
		leading: func(index string) (column string, err error) {
			err = v.tx.QueryRow(ctx, leadingColumn, t.Schema, index).Scan(&column)
			return column, err
		},
		run: func(statement string) error {
			_, err := v.tx.Exec(ctx, statement)
			return err
		},
	})
}

// postgresPlanner asks a server for the plan of one query, for the first column of an index of the query's table, and to change a setting.
type postgresPlanner struct {
	explain func() (plan []byte, err error)
	leading func(index string) (column string, err error)
	run     func(statement string) error
}

// leadingColumn selects the first column of an index, as plans write it.
const leadingColumn = `SELECT pg_get_indexdef(c.oid, 1, true) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`

// postgresAccess looks at the plan of a query, and, where that reads a whole table, at the one with which the server would avoid it.
func postgresAccess(p postgresPlanner) (access, error) {
	searched, err := p.searched()
	if searched || err != nil {
		return byIndex, err
	}
	if err := p.run("SET enable_seqscan = off"); err != nil {
		return unknownAccess, err
	}
	if searched, err = p.searched(); err != nil {
		return unknownAccess, err
	}
	if err := p.run("RESET enable_seqscan"); err != nil {
		return unknownAccess, err
	}
	if searched {
		return byChoice, nil
	}
	return byScan, nil
}

// postgresPlan is a node of a plan in JSON.
type postgresPlan struct {
	IndexName string `json:"Index Name"`
	IndexCond string `json:"Index Cond"`
	Plans     []postgresPlan
}

// searched tells whether the plan searches an index by its first column. Otherwise it walks along all of it.
func (p postgresPlanner) searched() (bool, error) {
	text, err := p.explain()
	if err != nil {
		return false, err
	}
	var explained []struct{ Plan postgresPlan }
	if err := json.Unmarshal(text, &explained); err != nil {
		return false, fmt.Errorf("read the plan: %w", err)
	}
	for _, e := range explained {
		if searched, err := p.searches(e.Plan); searched || err != nil {
			return searched, err
		}
	}
	return false, nil
}

func (p postgresPlanner) searches(node postgresPlan) (bool, error) {
	if node.IndexCond != "" {
		column, err := p.leading(node.IndexName)
		if err != nil {
			return false, fmt.Errorf("read about the index %s: %w", node.IndexName, err)
		}
		if regexp.MustCompile(`(^|[^\w"])` + regexp.QuoteMeta(column) + `($|[^\w"])`).MatchString(node.IndexCond) {
			return true, nil
		}
	}
	for _, below := range node.Plans {
		if searched, err := p.searches(below); searched || err != nil {
			return searched, err
		}
	}
	return false, nil
}

// createIndex implements inspected.
func (v *postgresView) createIndex(t *table, columns ...string) string {
	return fmt.Sprintf("CREATE INDEX ON %s.%s (%s);", quote(t.Schema), quote(t.Name), quoted(quote, columns))
}

var _ sources.Checker = (*PostgresConfig)(nil)
