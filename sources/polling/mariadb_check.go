package polling

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// Check implements sources.Checker. It looks with the same eyes as Open, which would stop at the first thing that it refuses.
func (c *MariaDBConfig) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dialect(ctx, o.Tables, o.Keys, hclog.NewNullLogger())
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	k := &checker{}
	if err := k.mariadb(ctx, d, o); err != nil {
		k.refuse("server", d.explain(err))
	}
	if err := d.close(); err != nil {
		k.refuse("server", err)
	}
	return k.findings
}

func (k *checker) mariadb(ctx context.Context, d *mariadbDialect, o sources.CheckOptions) (err error) {
	v, err := d.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := v.close(); err == nil {
			err = e
		}
	}()
	k.add(sources.OK, "horizon", v.describe(), "")
	for id := range d.looked.transactions {
		var since int64
		err := d.conn.QueryRowContext(ctx, "SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, TRX_STARTED, NOW())), 0) FROM information_schema.INNODB_TRX WHERE TRX_ID = ?", id).Scan(&since)
		if err != nil {
			return fmt.Errorf("look for old transactions: %w", err)
		}
		if since > int64(heldAfter.Seconds()) {
			k.add(sources.Warning, "horizon", fmt.Sprintf("transaction %d has been open for %d seconds: what is written after it began is not captured before it ends", id, since),
				"end it; a prepared one, which XA RECOVER lists, with XA COMMIT or XA ROLLBACK")
		}
	}
	relations, err := v.match(ctx)
	if err != nil {
		k.refuse("tables", d.explain(err))
		return nil
	}
	whole := true
	for _, r := range relations {
		t, columns, err := v.loadTable(ctx, r)
		if err != nil {
			k.refuse("table "+r.String(), d.explain(err))
			whole = false
			continue
		}
		d.captured = append(d.captured, t)
		k.findings = append(k.findings, sources.Finding{Subject: "table " + t.name, Table: &t.Table,
			Text: fmt.Sprintf("key (%s), read by the index on %s", strings.Join(keyNames(t), ", "), d.watermark)})
		if err := k.mariadbTable(ctx, v, t, columns); err != nil {
			return err
		}
	}
	if whole {
		k.position(o, d.place, v)
	}
	return nil
}

// mariadbTable warns of what the server does to a table that polling does not see, or sees as something else.
func (k *checker) mariadbTable(ctx context.Context, v *mariadbView, t *table, columns []mariadbColumn) error {
	for _, i := range t.Key {
		if c := columns[i]; c.collation != "" && !strings.HasSuffix(c.collation, "_bin") {
			k.add(sources.Warning, "table "+t.name, fmt.Sprintf("the key column %s has the collation %s, for which texts are equal that differ, such as in case: "+
				"changing one into the other leaves the old key's record in the topic", c.name, c.collation),
				fmt.Sprintf("ALTER TABLE %s.%s MODIFY COLUMN %s %s COLLATE utf8mb4_bin NOT NULL;", quoteMariaDB(t.Schema), quoteMariaDB(t.Name), quoteMariaDB(c.name), c.full))
		}
	}
	var cascades int
	err := v.dialect.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ?
		AND (UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT') OR DELETE_RULE IN ('SET NULL', 'SET DEFAULT'))`, t.Schema, t.Name).Scan(&cascades)
	if err != nil {
		return fmt.Errorf("read the foreign keys of table %s: %w", t.name, err)
	}
	if cascades > 0 {
		k.add(sources.Warning, "table "+t.name, fmt.Sprintf("%d of its foreign keys change its rows when another table's change, and do not set %s: such changes are not captured",
			cascades, v.dialect.watermark), "declare the foreign keys ON UPDATE RESTRICT, and ON DELETE RESTRICT or CASCADE")
	}
	return nil
}

var _ sources.Checker = (*MariaDBConfig)(nil)
