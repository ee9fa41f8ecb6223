package polling

import (
	"context"
	"fmt"

	"weft/sources"
)

// inspect implements checkable.
func (d *sqlDialect) inspect(ctx context.Context) (inspected, error) { return d.begin(ctx) }

// server implements inspected: it says what the horizon rests on, which nobody here can verify.
func (v *sqlView) server(_ context.Context, k *checker) error {
	d := v.dialect
	k.add(sources.OK, "server", d.place, "")
	k.add(sources.Warning, "horizon", v.describe(), d.driver.enforce(d.maxTransaction))
	return nil
}

// reading implements inspected: it warns of what would make times of rows and the clock two different things.
func (v *sqlView) reading(ctx context.Context, k *checker, t *table) (string, error) {
	d := v.dialect
	w := d.driver.quote(d.watermark)
	for _, c := range t.Columns {
		if c.Name == d.watermark && c.Type.Kind != sources.TimestampTZ {
			k.add(sources.Warning, "table "+t.name, fmt.Sprintf("the column %s has no time zone: rows are overlooked, or come hours late, if it is not written in UTC", d.watermark),
				"-- let all that write to the table write it in UTC, or make it a timestamp with a time zone")
		}
	}
	ahead, err := v.exists(ctx, fmt.Sprintf("SELECT 1 FROM %s WHERE %s > %s", d.nameOf(t), w, d.driver.parameter(1))+fmt.Sprintf(d.driver.limit, 1), timeOf(v.clock+clockAhead))
	if err != nil {
		return "", fmt.Errorf("look for rows from the future: %w", err)
	}
	if ahead {
		k.add(sources.Warning, "table "+t.name, fmt.Sprintf("a row's %s is ahead of the database's clock, which is at %s: it is not read before then, and it was not written by that clock in UTC",
			d.watermark, timeOf(v.clock)), "-- let the database write the column: DEFAULT CURRENT_TIMESTAMP, and a trigger or ON UPDATE for later writes")
	}
	return "read by " + d.watermark, nil
}

// clockAhead, in microseconds, is how far ahead of the clock a row may be that was written since the clock was read.
const clockAhead = 60_000_000

// pollAccess implements inspected.
func (v *sqlView) pollAccess(ctx context.Context, t *table) (access, error) {
	query, args := v.pageQuery(t, v.below-1_000_000, sqlCursor{Until: v.below}, firstRows)
	return v.dialect.driver.access(ctx, v.dialect.conn, t, query, args...)
}

// rangeAccess implements inspected.
func (v *sqlView) rangeAccess(ctx context.Context, t *table) (access, error) {
	first, last := sampleRange(t)
	return v.dialect.driver.access(ctx, v.dialect.conn, t, fmt.Sprintf("SELECT 1 FROM %s WHERE %s", v.dialect.nameOf(t), v.rangeOf(t, first, last)))
}

// createIndex implements inspected.
func (v *sqlView) createIndex(t *table, columns ...string) string {
	quote := v.dialect.driver.quote
	name := "weft_" + t.Name
	for _, column := range columns {
		name += "_" + column
	}
	return fmt.Sprintf("CREATE INDEX %s ON %s (%s);", quote(name), v.dialect.nameOf(t), quoted(quote, columns))
}
