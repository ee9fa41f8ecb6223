package configs

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/sources"
)

var (
	captureName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,49}$`)
	topicPart   = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)
)

// nameRule is captureName in words. Slots, transactional ids and the keys of records are made of a capture's name.
const nameRule = "1 to 50 of a-z, 0-9, '_' and '-', and begin with a letter or digit"

// maxMemory bounds each setting that is an amount of memory; more is taken for a typing error.
const maxMemory = GiB

// check reports what is wrong between fields and in values, beyond their types. It only looks at fields that were read
// without an error, so that one mistake is reported once.
func (d *decoder) check(c *Config) {
	d.require("", "log")
	if d.set("log") {
		d.checkLog(&c.Log)
	}
	if p := "admin.listen"; d.set(p) && d.good(p) {
		if _, _, err := hostPort(c.Admin.Listen); err != nil {
			d.wrong(p, "%q is not HOST:PORT; write 127.0.0.1:9464, or :9464 for every address", c.Admin.Listen)
		}
	}
	if p := "fleet"; d.good(p) && !captureName.MatchString(c.Fleet) {
		d.wrong(p, "must be %s", nameRule)
	}
	d.checkArchives(&c.Archives)
	d.checkState(c)
	d.checkTopics("topics", &c.Topics)
	if p := "topics.replication"; d.good(p) && d.set("log.embedded") && c.Topics.Replication > 1 {
		d.wrong(p, "the embedded log keeps one copy; remove the line, or use brokers")
	}
	for i := range c.Captures {
		d.checkCaptureIn(c, fmt.Sprintf("captures[%d]", i), &c.Captures[i])
	}
	d.checkOverlaps(c.Captures)
	if c.Log.Profile == WarpStream {
		d.refuseRetentionBytes("topics", c.Topics.Settings)
	}
}

// checkCaptureIn fills in what the capture takes from the file's topics block, and checks the capture.
func (d *decoder) checkCaptureIn(c *Config, path string, capture *Capture) {
	topics := join(path, "topics")
	inherit(d, topics, &capture.Topics, c.Topics.TopicOptions)
	if capture.Topics.Prefix == "" && !d.unnamed && d.clean("topics") && d.clean(topics) {
		d.unnamed = true // once is enough: one line mends all
		where := "topics"
		if !d.set(where) {
			where = ""
		}
		d.fail(where, d.at[where], "topics need a prefix, for the file or for each capture; write topics: {prefix: NAME}")
	}
	d.checkCapture(path, capture, c.Log.Profile)
	if c.Log.Embedded != nil && capture.Topics.Cleanup == Compact {
		p := join(topics, "cleanup")
		if !d.set(p) {
			p = "topics.cleanup"
		}
		if d.clean(p) {
			d.wrong(p, "the embedded log cannot hold compaction back from records that are not checkpointed yet; write delete, or use brokers")
		}
	}
}

// set tells whether the file has the field.
func (d *decoder) set(path string) bool { _, ok := d.at[path]; return ok }

// clean tells whether the field and all below it are without an error so far.
func (d *decoder) clean(path string) bool { return !d.failed[path] }

// good tells whether the file has the field, without an error.
func (d *decoder) good(path string) bool { return d.set(path) && d.clean(path) }

// wrong reports a mistake at the field's value.
func (d *decoder) wrong(path, format string, args ...any) { d.fail(path, d.at[path], format, args...) }

// require reports the fields that a block lacks, at the block's start. It says nothing about a block that is absent or
// could not be read, nor about a field whose misspelt name has been reported.
func (d *decoder) require(path string, names ...string) {
	if !d.blocks[path] {
		return
	}
	block := "the block that starts here"
	if path == "" {
		block = "the file"
	}
	for _, name := range names {
		if p := join(path, name); !d.set(p) && d.clean(p) {
			d.fail(path, d.at[path], "%s lacks the required field %q", block, name)
		}
	}
}

// notEmpty reports text fields that are there with nothing in them.
func (d *decoder) notEmpty(path string, fields map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if p := join(path, name); d.good(p) && strings.TrimSpace(fields[name]) == "" {
			d.wrong(p, "the value is empty; write one, or remove the line")
		}
	}
}

// memory reports a size that is not in 1B to maxMemory.
func (d *decoder) memory(path string, size Bytes) {
	if d.good(path) && (size <= 0 || size > maxMemory) {
		d.wrong(path, "must be above 0 and at most %s", maxMemory)
	}
}

func (d *decoder) checkState(c *Config) {
	if p := "state.dir"; d.good(p) && c.State.Dir == "" {
		d.wrong(p, "it is empty; name a directory, or remove the line")
	}
	if c.State.Dir == "" {
		c.State.Dir = "data/state"
		if c.Log.Embedded != nil {
			c.State.Dir = filepath.Join(filepath.Dir(c.Log.Embedded.Dir), "state")
		}
	}
}

func (d *decoder) checkArchives(a *Archives) {
	d.require("archives", "bucket")
	if p := "archives.bucket"; d.good(p) {
		u, err := url.Parse(string(a.Bucket))
		if err != nil || !slices.Contains([]string{"file", "s3", "gs", "azblob"}, u.Scheme) {
			d.wrong(p, "must be the URL of a bucket: file:///DIR, s3://NAME, gs://NAME or azblob://NAME")
		}
	}
	if p := "archives.every"; d.good(p) && a.Every < time.Minute {
		d.wrong(p, "must be at least 1m; leave the field out for archives on command alone")
	}
	if p := "archives.keep"; d.good(p) && a.Keep < 1 {
		d.wrong(p, "must be at least 1")
	}
	if p := "archives.memory"; d.good(p) && (a.Memory < 16*MiB || a.Memory > maxMemory) {
		d.wrong(p, "must be at least 16MiB and at most %s", maxMemory)
	}
}

func (d *decoder) checkTopics(path string, t *Topics) {
	if p := join(path, "replication"); d.good(p) && (t.Replication != -1 && t.Replication < 1 || t.Replication > 32767) {
		d.wrong(p, "must be at least 1, or -1 for the brokers' default")
	}
	d.checkTopicOptions(path, &t.TopicOptions)
}

// ownSettings are topic settings that have a field of their own.
var ownSettings = map[string]string{"cleanup.policy": "cleanup", "retention.ms": "retention"}

func (d *decoder) checkTopicOptions(path string, o *TopicOptions) {
	if p := join(path, "prefix"); d.good(p) {
		switch {
		case !topicPart.MatchString(o.Prefix):
			d.wrong(p, "must be letters, digits, '.', '_' and '-', as Kafka's topic names are")
		case len(o.Prefix) > 100:
			d.wrong(p, "must have at most 100 characters, since a topic's name has at most 249")
		case strings.HasPrefix(o.Prefix, "__"):
			d.wrong(p, "must not begin with __, which marks Kafka's and Weft's own topics")
		}
	}
	if p := join(path, "partitions"); d.good(p) && (o.Partitions < 1 || o.Partitions > 100_000) {
		d.wrong(p, "must be at least 1 and at most 100000")
	}
	if p := join(path, "retention"); d.good(p) {
		switch {
		case o.Retention < time.Millisecond:
			d.wrong(p, "must be at least 1ms; leave the field out for the brokers' default")
		case o.Cleanup == Compact:
			d.wrong(p, "a compacted topic keeps the last record of each key for ever; remove retention, or write cleanup: delete")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		p := fmt.Sprintf("%s.settings[%s]", path, quote(name))
		if own, ok := ownSettings[name]; ok && d.good(p) {
			d.wrong(p, "this setting has a field of its own; write %s: instead, beside settings", own)
		}
	}
}

// refuseRetentionBytes reports a setting that WarpStream accepts and ignores
// (https://docs.warpstream.com/warpstream/reference/protocol-and-feature-support).
func (d *decoder) refuseRetentionBytes(path string, s Settings) {
	const name = "retention.bytes"
	if p := fmt.Sprintf("%s.settings[%q]", path, name); d.good(p) && s[name] != "" {
		d.wrong(p, "WarpStream has no retention by bytes; use retention")
	}
}

// inherit fills what a capture's topics do not set from the topics block. Settings are merged by name.
func inherit(d *decoder, path string, own *TopicOptions, from TopicOptions) {
	if !d.set(path + ".prefix") {
		own.Prefix = from.Prefix
	}
	if !d.set(path + ".partitions") {
		own.Partitions = from.Partitions
	}
	if !d.set(path + ".dialect") {
		own.Dialect = from.Dialect
	}
	if !d.set(path + ".cleanup") {
		own.Cleanup = from.Cleanup
	}
	if !d.set(path+".retention") && own.Cleanup != Compact {
		own.Retention = from.Retention
	}
	settings := maps.Clone(from.Settings)
	if settings == nil {
		settings = own.Settings
	}
	maps.Copy(settings, own.Settings)
	own.Settings = settings
}

func (d *decoder) checkCapture(path string, c *Capture, profile Profile) {
	d.require(path, "name", "source", "tables")
	if p := join(path, "name"); d.good(p) && !captureName.MatchString(c.Name) {
		d.wrong(p, "must be %s", nameRule)
	}
	if p := join(path, "tables"); d.good(p) {
		if len(c.Tables) == 0 {
			d.wrong(p, "the list is empty; name tables, such as [public.orders, \"public.invoice_*\"]")
		}
		d.checkTables(p, c.Tables)
	}
	d.checkKeys(path, c)
	d.checkSnapshot(path, c)
	d.checkTopicOptions(join(path, "topics"), &c.Topics)
	if profile == WarpStream {
		d.refuseRetentionBytes(join(path, "topics"), c.Topics.Settings)
	}
	d.memory(join(path, "buffer.read_ahead"), c.Buffer.ReadAhead)
	d.memory(join(path, "buffer.batch"), c.Buffer.Batch)
	if p := join(path, "buffer"); d.good(p) && c.Buffer.Batch > c.Buffer.ReadAhead {
		d.wrong(p, "batch (%s) must not exceed read_ahead (%s)", c.Buffer.Batch, c.Buffer.ReadAhead)
	}
}

// checkSnapshot refuses what the kind of database cannot do, where it is asked for.
func (d *decoder) checkSnapshot(path string, c *Capture) {
	_, can := c.Source.(sources.Snapshotter)
	if _, polls := c.Source.(sources.Poller); polls {
		can = true
	}
	if p := join(path, "snapshot"); !can && c.Source != nil {
		if d.good(p) && c.Snapshot == SnapshotInitial {
			d.wrong(p, "rows from before the capture cannot be read from a database of type %s; remove the line, or write never", c.SourceType)
		}
		c.Snapshot = SnapshotNever
	}
	if p := join(path, "snapshot_options.parallel"); d.good(p) && (c.SnapshotOptions.Parallel < 1 || c.SnapshotOptions.Parallel > 32) {
		d.wrong(p, "must be at least 1 and at most 32")
	}
	if p := join(path, "snapshot_options.rows_per_second"); d.good(p) && c.SnapshotOptions.RowsPerSecond < 0 {
		d.wrong(p, "must be above 0, or 0 for no bound")
	}
	d.memory(join(path, "snapshot_options.chunk"), c.SnapshotOptions.Chunk)
}

// checkTables reports names that are no table's and names that are there twice.
func (d *decoder) checkTables(path string, tables []string) {
	first := map[string]int{}
	for i, table := range tables {
		p := fmt.Sprintf("%s[%d]", path, i)
		if slices.Contains(strings.Split(table, "."), "") {
			d.wrong(p, "must be SCHEMA.TABLE, or NAME where the database has no schemas")
		}
		if earlier, seen := first[table]; seen {
			d.wrong(p, "the table is listed twice, first on line %d; keep one", d.at[fmt.Sprintf("%s[%d]", path, earlier)].line)
			continue
		}
		first[table] = i
	}
}

func (d *decoder) checkKeys(path string, c *Capture) {
	for _, table := range slices.Sorted(maps.Keys(c.Keys)) {
		p, columns := fmt.Sprintf("%s[%s]", join(path, "keys"), quote(table)), c.Keys[table]
		if !d.good(p) {
			continue
		}
		sorted := slices.Sorted(slices.Values(columns))
		switch {
		case strings.ContainsAny(table, "*?"):
			d.wrong(p, "a key belongs to one table; write its name without * and ?")
		case len(columns) == 0 || slices.Contains(columns, ""):
			d.wrong(p, "name at least one column, and no empty one, such as [id]")
		case len(slices.Compact(sorted)) < len(columns):
			d.wrong(p, "a column is listed twice; keep one")
		case d.good(join(path, "tables")) && !slices.ContainsFunc(c.Tables, func(pattern string) bool { return sources.MatchTable(pattern, table) }):
			d.wrong(p, "the table is not among the capture's tables; add it to tables, or remove the key")
		}
	}
}

// checkOverlaps reports captures that have the same name, and tables that two captures would write to the same topic. Two
// patterns may still meet in a table that only the database knows.
func (d *decoder) checkOverlaps(captures []Capture) {
	names, tables := map[string]string{}, map[string]string{}
	for i := range captures {
		p := fmt.Sprintf("captures[%d].name", i)
		if d.good(p) {
			if first, seen := names[captures[i].Name]; seen {
				d.wrong(p, "the name is already that of the capture on line %d; a capture's checkpoint is kept under its name, so each needs its own",
					d.at[first].line)
			} else {
				names[captures[i].Name] = p
			}
		}
		mine := map[string]string{}
		for j, table := range captures[i].Tables {
			p := fmt.Sprintf("captures[%d].tables[%d]", i, j)
			if !d.good(p) || strings.ContainsAny(table, "*?") {
				continue
			}
			topic := captures[i].Topics.Prefix + "." + table
			if first, seen := tables[topic]; seen {
				d.wrong(p, "the capture of line %d already writes a table of this name to the same topic; "+
					"leave the table to one capture, or give this one a topics.prefix of its own", d.at[first].line)
				continue
			}
			mine[topic] = p
		}
		maps.Copy(tables, mine)
	}
}

// hostPort splits HOST:PORT and reads the port.
func hostPort(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	if err == nil && (port < 0 || port > 65535 || strings.HasPrefix(text, "+")) {
		err = strconv.ErrRange
	}
	return host, port, err
}
