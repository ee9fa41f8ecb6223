package polling

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// Check implements sources.Checker. It looks with the same eyes as Open, which would stop at the first thing that it refuses.
func (c *PostgresConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys, hclog.NewNullLogger())
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	k := &checker{}
	if err := k.postgres(ctx, d, o); err != nil {
		k.refuse("server", d.explain(err))
	}
	if err := d.close(); err != nil {
		k.refuse("server", err)
	}
	return k.findings
}

// checker gathers the findings of one capture of a server.
type checker struct {
	findings []sources.Finding
}

func (k *checker) add(level sources.Level, subject, text, remedy string) {
	k.findings = append(k.findings, sources.Finding{Level: level, Subject: subject, Text: text, Remedy: remedy})
}

func (k *checker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, err))
}

// position compares the checkpoint with what a view shows.
func (k *checker) position(o sources.CheckOptions, place string, v view) {
	if o.Position == nil {
		return
	}
	p, err := parsePosition(o.Position)
	if err == nil {
		err = (&source{position: p, place: place}).verify(v)
	}
	if err != nil {
		k.refuse("checkpoint", err)
	}
}

func (k *checker) postgres(ctx context.Context, d *postgresDialect, o sources.CheckOptions) (err error) {
	v, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := v.close(); err == nil {
			err = e
		}
	}()
	role := "a primary"
	if v.standby {
		role = "a standby, whose rows come as it replays them"
	}
	k.add(sources.OK, "server", role, "")
	if err := k.postgresHorizon(ctx, v); err != nil {
		return err
	}
	relations, err := v.match(ctx)
	if err != nil {
		k.refuse("tables", d.explain(err))
		return nil
	}
	whole := true
	for _, r := range relations {
		t, err := v.loadTable(ctx, r)
		if err != nil {
			k.refuse("table "+r.String(), d.explain(err))
			whole = false
			continue
		}
		d.captured = append(d.captured, t)
		how := "read by the index on " + d.watermark
		if d.watermark == "" {
			how = "read whole by each poll that finds a transaction ended"
		}
		k.findings = append(k.findings, sources.Finding{Subject: "table " + t.name, Table: &t.Table,
			Text: fmt.Sprintf("key (%s), %s", strings.Join(keyNames(t), ", "), how)})
		if d.watermark == "" && r.bytes > largeTable {
			k.add(sources.Warning, "table "+t.name, fmt.Sprintf("it has %d MiB, all of which each such poll reads", r.bytes>>20),
				strings.Join(PostgresStatements(t.Schema, t.Name, "weft_xid", keyNames(t)...), "\n")+
					"\n-- in all captured tables, and watermark: weft_xid in the source; then only what has changed is read")
		}
	}
	if whole {
		k.position(o, d.place, v)
	}
	return nil
}

// largeTable is the size from which reading a whole table at each poll is worth a warning.
const largeTable = 256 << 20

// postgresHorizon tells up to where rows are complete, how exact that is, and who keeps it back.
func (k *checker) postgresHorizon(ctx context.Context, v *postgresView) error {
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

var _ sources.Checker = (*PostgresConfig)(nil)
