package polling

import (
	"context"
	"fmt"
	"strings"

	"weft/sources"
)

// Check implements sources.Checker. It looks with the same eyes as Open, which would stop at the first thing that it
// refuses.
func (c *SQLiteConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys)
	if err != nil {
		return []sources.Finding{sources.Found("database", err)}
	}
	k := &sqliteChecker{dialect: d, place: c.place()}
	if err := k.run(ctx, o); err != nil {
		k.refuse("database", d.explain(err))
	}
	if err := d.close(); err != nil {
		k.refuse("database", err)
	}
	return k.findings
}

// sqliteChecker gathers the findings of one capture.
type sqliteChecker struct {
	dialect  *sqliteDialect
	place    string
	findings []sources.Finding
}

func (k *sqliteChecker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, err))
}

func (k *sqliteChecker) run(ctx context.Context, o sources.CheckOptions) (err error) {
	v, err := k.dialect.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := v.close(); err == nil {
			err = e
		}
	}()
	if err := k.journal(ctx, v); err != nil {
		return err
	}
	names, err := v.match(ctx)
	if err != nil {
		k.refuse("tables", k.dialect.explain(err))
		return nil
	}
	whole := true
	for _, name := range names {
		t, err := v.loadTable(ctx, name)
		if err != nil {
			k.refuse("table "+name, k.dialect.explain(err))
			whole = false
			continue
		}
		var key []string
		for _, i := range t.Key {
			key = append(key, t.Columns[i].Name)
		}
		k.findings = append(k.findings, sources.Finding{
			Subject: "table " + name, Table: &t.Table,
			Text: fmt.Sprintf("key (%s), numbered by triggers in %s", strings.Join(key, ", "), k.dialect.watermark),
		})
	}
	if whole {
		return k.position(ctx, v, o)
	}
	return nil
}

// journal warns of the one thing by which a reader may make the application's writes fail.
func (k *sqliteChecker) journal(ctx context.Context, v *sqliteView) error {
	var mode string
	if err := v.tx.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return fmt.Errorf("read journal_mode: %w", err)
	}
	f := sources.Finding{Subject: "database", Text: "journal mode wal: polls and writes do not wait for each other"}
	if mode != "wal" {
		f.Level, f.Remedy = sources.Warning, "PRAGMA journal_mode = wal;"
		f.Text = fmt.Sprintf("journal mode %s: a write of the application fails as busy, or waits, while a poll reads, and the other way round", mode)
	}
	k.findings = append(k.findings, f)
	return nil
}

// position compares the checkpoint with the database.
func (k *sqliteChecker) position(ctx context.Context, v *sqliteView, o sources.CheckOptions) error {
	if err := v.load(ctx); err != nil {
		return err
	}
	k.findings = append(k.findings, sources.Finding{Subject: "horizon", Text: v.describe()})
	if o.Position == nil {
		return nil
	}
	p, err := parsePosition(o.Position)
	if err == nil {
		err = (&source{position: p, place: k.place}).verify(v)
	}
	if err != nil {
		k.refuse("checkpoint", err)
	}
	return nil
}

var _ sources.Checker = (*SQLiteConfig)(nil)
