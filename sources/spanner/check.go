package spanner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/spanner"
	"google.golang.org/api/option"

	"weft/sources"
)

// Check implements sources.Checker. It looks with the same eyes as Open, which would stop at the first thing that it refuses.
func (c *Config) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	return c.check(ctx, o)
}

func (c *Config) check(ctx context.Context, o sources.CheckOptions, more ...option.ClientOption) []sources.Finding {
	if err := c.Validate(); err != nil {
		return []sources.Finding{sources.Found("source", sources.Fatal("correct the capture's source", "%w", err))}
	}
	if len(o.Keys) > 0 {
		return []sources.Finding{sources.Found("keys", errKeys())}
	}
	client, err := c.connect(ctx, more...)
	if err != nil {
		return []sources.Finding{sources.Found("database", err)}
	}
	defer client.Close()
	k := &checker{config: c, catalog: &catalog{client: client, stream: c.Stream, patterns: o.Tables}}
	now, err := k.catalog.load(ctx)
	if err != nil {
		k.refuse("database", err)
		return k.findings
	}
	dialect := "GoogleSQL"
	if k.catalog.postgres {
		dialect = "PostgreSQL"
	}
	k.add(sources.OK, "database", "", "%s, dialect %s", c.Database, dialect)
	k.stream(ctx, now)
	k.retention(now, o)
	k.tables(ctx, o)
	return k.findings
}

// checker gathers the findings of one capture.
type checker struct {
	config   *Config
	catalog  *catalog
	findings []sources.Finding
}

func (k *checker) add(level sources.Level, subject, remedy, format string, args ...any) {
	k.findings = append(k.findings, sources.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (k *checker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, k.config.explain(err)))
}

// stream reads the partitions of the present, by which the right to read the stream is tried.
func (k *checker) stream(ctx context.Context, now stamp) {
	const subject = "stream"
	statement := streamQuery(k.catalog.postgres, k.config.Stream, "", now, k.config.heartbeat())
	statement.SQL = strings.Replace(statement.SQL, "end_timestamp => NULL", "end_timestamp => @p1", 1)
	statement.SQL = strings.Replace(statement.SQL, "($1, null,", "($1, $1,", 1)
	one := k.catalog.client.Single().Query(ctx, statement)
	defer one.Stop()
	partitions := 0
	if err := one.Do(func(r *spanner.Row) error {
		records, err := decodeRow(r, k.catalog.postgres)
		for _, r := range records {
			partitions += len(r.children)
		}
		return err
	}); err != nil {
		k.refuse(subject, fmt.Errorf("read the change stream: %w", err))
		return
	}
	if most := k.config.connections() * perConnection; partitions > most {
		k.refuse(subject, sources.Fatal(fmt.Sprintf("set the source's connections to %d", partitions/perConnection+1),
			"%s has %d partitions to be read at a time, and %d connections read %d", k.config.Stream, partitions, k.config.connections(), most))
		return
	}
	capture := k.catalog.options["value_capture_type"]
	if capture == "" {
		capture = "OLD_AND_NEW_VALUES"
	}
	alter := fmt.Sprintf("ALTER CHANGE STREAM %s SET OPTIONS (value_capture_type = 'NEW_ROW_AND_OLD_VALUES');", k.config.Stream)
	if k.catalog.postgres {
		alter = fmt.Sprintf("ALTER CHANGE STREAM %s SET (value_capture_type = 'NEW_ROW_AND_OLD_VALUES');", k.config.Stream)
	}
	switch capture {
	case "NEW_ROW_AND_OLD_VALUES":
		k.add(sources.OK, subject, "", "%s can be read; value capture type %s: whole rows, and old values of what changed", k.config.Stream, capture)
	case "NEW_ROW":
		k.add(sources.Warning, subject, alter, "%s can be read; value capture type NEW_ROW: whole rows, but no before images", k.config.Stream)
	default:
		k.add(sources.Warning, subject, alter, "%s can be read; value capture type %s: an update holds only the columns that it changes, and the others "+
			"are unavailable in the topic", k.config.Stream, capture)
	}
}

// shortRetention is a retention period that a stop over a weekend would pass.
const shortRetention = 3 * 24 * time.Hour

// retention is about how long a stopped capture can go on.
func (k *checker) retention(now stamp, o sources.CheckOptions) {
	period, text := 24*time.Hour, k.catalog.options["retention_period"]
	if text != "" {
		if d, err := parsePeriod(text); err == nil {
			period = d
		}
	}
	set := "OPTIONS (retention_period = '7d')"
	if k.catalog.postgres {
		set = "(retention_period = '7d')"
	}
	level, remedy := sources.OK, ""
	if period < shortRetention {
		level, remedy = sources.Warning, fmt.Sprintf("ALTER CHANGE STREAM %s SET %s;", k.config.Stream, set)
	}
	k.add(level, "retention", remedy, "a capture that is stopped for longer than %s loses changes, and says so", period)
	if o.Position == nil {
		return
	}
	p, err := parsePosition(o.Position, k.config.Stream)
	if err == nil && p.low < now-stamp(period) {
		err = &sources.GapError{
			Reason: fmt.Sprintf("the checkpoint is of %s, and the change stream %s holds changes for %s", p.low, k.config.Stream, period),
			Remedy: "set on_gap: continue, which goes on from now in a new epoch",
		}
	}
	if err != nil {
		k.refuse("checkpoint", err)
	}
}

// parsePeriod reads 36h or 7d.
func parsePeriod(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

func (k *checker) tables(ctx context.Context, o sources.CheckOptions) {
	if err := k.catalog.covered(); err != nil {
		k.refuse("tables", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(k.catalog.tables)) {
		if o.Snapshot {
			if err := k.readable(ctx, k.catalog.tables[name]); err != nil {
				k.refuse("table "+name, err)
				continue
			}
		}
		table := k.catalog.table(k.catalog.tables[name])
		var key []string
		for _, i := range table.Key {
			key = append(key, table.Columns[i].Name)
		}
		k.findings = append(k.findings, sources.Finding{
			Subject: "table " + name, Table: table,
			Text: fmt.Sprintf("key (%s), %d columns watched", strings.Join(key, ", "), len(table.Columns)),
		})
	}
}

// readable tries the right to read a table's rows.
func (k *checker) readable(ctx context.Context, t *catalogTable) error {
	if _, err := columnsOf(ctx, k.catalog.client.Single(), newRowTable(k.catalog, t)); err != nil {
		return fmt.Errorf("read the table's rows: %w", err)
	}
	return nil
}

var _ sources.Checker = (*Config)(nil)
