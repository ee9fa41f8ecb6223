package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink/fold"
	"weft/sources"
	"weft/sources/jsonscan"
)

// Options say what to archive.
type Options struct {
	Client         *kgo.Client
	Bucket         *Bucket
	Capture, Topic string
	Dialect        string
	// Dir is where the fold keeps its state, "" for the system's temporary directory.
	Dir string
	// Memory is how much the fold may take, in bytes.
	Memory int64
	// Partial makes an archive of what there is although the log's first records are gone and there is no older archive.
	Partial bool
	Version string
	Now     func() time.Time
	// Progress is told how many rows of how many are read or written; the number of all is 0 where unknown. May be nil.
	Progress func(what string, done, all int64)
}

// Create makes an archive of a table from its newest archive and the changes since, or from the topic's start.
func Create(ctx context.Context, o Options) (m *Manifest, err error) {
	topic, err := Look(ctx, o.Client, o.Capture, o.Topic)
	if err != nil {
		return nil, err
	}
	all, err := o.Bucket.List(ctx, o.Topic)
	if err != nil {
		return nil, err
	}
	var parent *Manifest
	if len(all) > 0 {
		parent = all[0]
		if err := parent.Belongs(o.Capture, o.Topic, o.Dialect); err != nil {
			return nil, err
		}
	}
	table, err := fold.NewOnDisk(o.Dir, o.Memory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	i := &Image{Topic: topic, Table: table, Bucket: o.Bucket, Dir: o.Dir, Progress: o.Progress}
	if err := i.Build(ctx, parent, CutOf(topic.Checkpoint)); err != nil {
		var lost *LostError
		switch {
		case !errors.As(err, &lost):
			return nil, err
		case parent != nil:
			lost.Remedy = fmt.Sprintf("archive %s can no longer be gone on from. Take a snapshot of the table, remove its archives, and make archives more often than the topic's retention", parent.ID)
			return nil, err
		case !o.Partial:
			lost.Remedy = "take a snapshot of the table and archive it before they are removed, or archive what there is with --partial"
			return nil, err
		}
		i.Partial = true
		if err := i.fold(ctx, topic.Starts, CutOf(topic.Checkpoint)); err != nil {
			return nil, err
		}
	}
	return o.save(ctx, i, parent)
}

// Belongs refuses an archive of something else.
func (m *Manifest) Belongs(capture, topic, dialect string) error {
	const remedy = "name one of weft archive list, or give each capture and dialect a bucket or prefix of its own"
	switch {
	case m.Topic != topic:
		return sources.Fatal(remedy, "archive %s is of topic %s, not of %s", m.ID, m.Topic, topic)
	case m.Capture != capture:
		return sources.Fatal(remedy, "archive %s is of capture %s, not of %s", m.ID, m.Capture, capture)
	case m.Dialect != dialect:
		return sources.Fatal(remedy, "archive %s has values in dialect %s, the topic now in %s", m.ID, m.Dialect, dialect)
	}
	return nil
}

// save writes the image of a table as a new archive.
func (o *Options) save(ctx context.Context, i *Image, parent *Manifest) (*Manifest, error) {
	m := &Manifest{
		Format: formatVersion, ID: newID(o.Topic, o.Now()), Capture: o.Capture, Topic: o.Topic, Dialect: o.Dialect,
		Seq: i.Seq, Below: i.Below, NewestChange: i.Newest, Position: i.Topic.Checkpoint.Position, Offsets: i.Next,
		CreatedAt: o.Now().UTC(), Writer: o.Version, Partial: i.Partial, Table: i.Name,
	}
	if parent != nil {
		m.Parent = parent.ID
		m.Partial = m.Partial || parent.Partial
	}
	if epoch, err := strconv.ParseUint(m.Seq[:min(8, len(m.Seq))], 16, 32); err == nil {
		m.Epoch = uint32(epoch)
	}
	if m.Table == "" {
		return nil, sources.Fatal("archive it when something has been captured", "topic %q holds nothing to archive yet", o.Topic)
	}
	var kinds kindsOf
	rows := int64(0)
	if err := i.Table.Each(func(image *fold.Image) error { rows += int64(image.Count); return kinds.add(image) }); err != nil {
		return nil, err
	}
	m.Columns, m.Key = kinds.columns()
	p := &parts{bucket: o.Bucket, id: m.ID, columns: m.Columns}
	defer p.abort()
	err := i.Table.Each(func(image *fold.Image) error {
		if m.Rows += int64(image.Count); m.Rows%1000 == 0 && o.Progress != nil {
			o.Progress("write", m.Rows, rows)
		}
		if m.Rows%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return p.write(ctx, image)
	})
	if err == nil {
		err = p.end()
	}
	if err != nil {
		p.abort()
		// What is there without a manifest is no archive; it is removed as far as that goes now, and by prune later.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = o.Bucket.Remove(clean, m.ID)
		return nil, fmt.Errorf("archive %s: %w", o.Topic, err)
	}
	m.Parts = p.done
	return m, o.Bucket.write(ctx, m)
}

// Image is a table that is folded at a cut.
type Image struct {
	Topic    *Topic
	Table    *fold.Table
	Bucket   *Bucket
	Dir      string
	Progress func(what string, done, all int64)

	// What Build found.
	Below   string
	Seq     string // of the newest record
	Newest  time.Time
	Next    []int64
	Name    string // of the table
	Changes int64  // records since the archive
	Partial bool

	parent *Manifest
}

// Build folds an archive, or none, and the topic's records since up to the cut. Its *LostError comes before anything else.
func (i *Image) Build(ctx context.Context, m *Manifest, below string) error {
	from, err := i.Topic.From(m)
	if err != nil {
		return err
	}
	if m != nil {
		i.parent, i.Seq, i.Newest, i.Name, i.Partial = m, m.Seq, m.NewestChange, m.Table, m.Partial
		done := int64(0)
		err := i.Table.Restore(func(put func(*fold.Image) error) error {
			return i.Bucket.Each(ctx, m, i.Dir, func(image *fold.Image) error {
				if done++; done%1000 == 0 && i.Progress != nil {
					i.Progress("load", done, m.Rows)
				}
				return put(image)
			})
		})
		if err != nil {
			return err
		}
	}
	return i.fold(ctx, from, below)
}

func (i *Image) fold(ctx context.Context, from []int64, below string) error {
	i.Below = below
	all := int64(0)
	for p := range from {
		all += i.Topic.Ends[p] - from[p]
	}
	var err error
	i.Next, err = i.Topic.Scan(ctx, from, below, func(r *Record) error {
		if i.parent != nil && i.Topic.perKey() && r.Seq < i.parent.Below {
			return nil // it is in the archive, which goes on at the first record that is not
		}
		if i.Changes++; i.Changes%1000 == 0 && i.Progress != nil {
			i.Progress("read", i.Changes, all)
		}
		i.note(r)
		if i.parent != nil && i.parent.Rows > 0 && !i.parent.takes(r.Kafka.Key) && !isTruncate(r.Kafka) {
			key, _ := json.Marshal(i.parent.Key) // a list of strings
			return sources.Fatal("take a snapshot of the table into a topic of its own (another topics.prefix), or remove its archives and the topic's records from before",
				"the key of the table has changed since archive %s: it was %s, and %s[%d] offset %d has %s, so that old rows would stay beside their new ones",
				i.parent.ID, key, i.Topic.Name, r.Kafka.Partition, r.Kafka.Offset, cmp.Or(string(r.Kafka.Key), "none"))
		}
		return i.Table.Apply(r.Kafka.Partition, r.Fold())
	})
	return err
}

// takes tells whether a record's key is one of the archive's: of the same columns, with values of their kinds.
func (m *Manifest) takes(key []byte) bool {
	if key == nil || len(m.Key) == 0 {
		return key == nil && len(m.Key) == 0
	}
	n, same := 0, true
	err := jsonscan.Members(key, func(name, raw []byte) error {
		same = same && n < len(m.Key) && m.Key[n].Name == string(name) && m.Key[n].Kind.takes(raw)
		n++
		return nil
	})
	return err == nil && same && n == len(m.Key)
}

// isTruncate tells whether a record without a key empties the table.
func isTruncate(r *kgo.Record) bool {
	if len(r.Key) > 0 || r.Value == nil {
		return false
	}
	op, err := fold.Op(r.Value)
	return err == nil && op == "t"
}

func (i *Image) note(r *Record) {
	if r.Seq > i.Seq {
		i.Seq = r.Seq
	}
	if r.Kafka.Value == nil {
		return
	}
	if t := CommitTime(r.Kafka); t.After(i.Newest) {
		i.Newest = t
	}
	if i.Name == "" {
		i.Name = tableOf(r.Kafka.Value)
	}
}

// tableOf is the table's name in a record's source block.
func tableOf(value []byte) string {
	var e struct {
		Source struct{ Schema, Table string }
	}
	if json.Unmarshal(value, &e) != nil {
		return ""
	}
	t := sources.Table{Schema: e.Source.Schema, Name: e.Source.Table}
	return t.String()
}
