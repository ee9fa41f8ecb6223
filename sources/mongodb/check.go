package mongodb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
)

// shortOplog is how far back the oplog should reach at least: a weekend is longer, a night is not.
const shortOplog = 24 * time.Hour

// oplogLimit is what looking at the oplog may take: it is not worth more.
const oplogLimit = 3 * time.Second

// Check implements sources.Checker.
func (c Config) Check(ctx context.Context, o sources.CheckOptions) []sources.Finding {
	d, err := c.dial(ctx, o.Tables, o.Keys)
	if err != nil {
		return []sources.Finding{sources.Found("server", err)}
	}
	found := []sources.Finding{{
		Subject: "server", Text: fmt.Sprintf("MongoDB %s, deployment %s", d.version, d.name),
	}}
	blocked := false
	for _, f := range d.checkTables(ctx) {
		found = append(found, f)
		blocked = blocked || f.Blocks
	}
	if !blocked {
		found = append(found, d.checkStream(ctx, o))
	}
	if !blocked && o.Snapshot {
		found = append(found, d.checkSnapshot(ctx)...)
	}
	found = append(found, d.checkOplog(ctx, o))
	if err := disconnect(d.client); err != nil {
		found = append(found, sources.Found("server", err))
	}
	return found
}

func (d *deployment) checkTables(ctx context.Context) (found []sources.Finding) {
	for _, p := range d.tables {
		all, err := d.collections(ctx, p)
		if err != nil {
			found = append(found, sources.Found("tables "+p.String(), err))
			continue
		}
		n := 0
		for _, c := range all {
			skip, err := d.usable(p, c)
			switch {
			case err != nil:
				found = append(found, sources.Found("table "+c.String(), err))
			case skip:
				found = append(found, sources.Finding{
					Level: sources.Warning, Subject: "table " + c.String(),
					Text: fmt.Sprintf("it is a %s, which has no change events, and is passed over", c.kind),
				})
				continue
			default:
				found = append(found, d.checkImages(c))
			}
			n++
		}
		if n == 0 {
			found = append(found, sources.Found("tables "+p.String(), noCollection(p)))
		}
	}
	return found
}

// checkImages says what the changes of a collection will hold.
func (d *deployment) checkImages(c collection) sources.Finding {
	f := sources.Finding{Subject: "table " + c.String(), Table: newTable(c.db, c.name)}
	switch {
	case c.images && d.config.FullDocument == FullLookup:
		f.Text = "captured, with the documents before changes; those after updates are looked up, and may be newer than the change: " +
			"full_document: required would take the post-images that the server keeps"
	case c.images:
		f.Text = "captured, with pre-images and post-images"
	case d.config.FullDocument == FullLookup:
		f.Level, f.Remedy = sources.Warning, turnOnImages(c)+" // then set full_document: required"
		f.Text = "captured; documents after updates are looked up, and may be newer than the change; none are there from before"
	default:
		f.Level, f.Remedy = sources.Warning, turnOnImages(c)
		f.Text = "captured; updates have only the fields that changed, since the server keeps no post-images"
	}
	return f
}

// checkStream opens the stream where the capture would, which shows whether the user may, and ends it.
func (d *deployment) checkStream(ctx context.Context, o sources.CheckOptions) sources.Finding {
	const subject = "change stream"
	p, err := d.begin(ctx)
	if err != nil {
		return sources.Found(subject, err)
	}
	var after bson.Raw
	text := "can be opened on " + d.stream()
	if o.Position != nil {
		if p, after, err = d.resume(o.Position); err != nil {
			return sources.Found("checkpoint", err)
		}
		text = "can be resumed at the checkpoint on " + d.stream()
	}
	stream, err := d.watch(ctx, after, p.StartAt)
	if err != nil {
		return sources.Found(subject, err)
	}
	if err := stream.Close(ctx); err != nil {
		return sources.Found(subject, classify("end the change stream", err))
	}
	return sources.Finding{Subject: subject, Text: text}
}

// checkSnapshot reads a document of each collection, which shows whether the user may, and says what the deployment cannot do.
func (d *deployment) checkSnapshot(ctx context.Context) (found []sources.Finding) {
	const subject = "snapshot"
	r := &rowReader{d: d}
	all, err := r.list(ctx)
	if err != nil {
		return []sources.Finding{sources.Found(subject, err)}
	}
	for _, c := range all {
		err := d.client.Database(c.db).Collection(c.name).FindOne(ctx, bson.D{}, options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
		if err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
			found = append(found, sources.Found("table "+c.String(), classify("read "+c.String(), err)))
		}
	}
	if len(found) > 0 {
		return found
	}
	exact, err := d.readsSnapshots(ctx, all[0])
	switch {
	case err != nil:
		return append(found, sources.Found(subject, err))
	case d.sharded():
		return append(found, sources.Finding{
			Level: sources.Warning, Subject: subject, Text: "documents from before are read; of a sharded cluster those of a chunk are written when the next change " +
				"comes, since nothing else tells that no shard still has an older one",
		})
	case !exact:
		return append(found, sources.Finding{
			Level: sources.Warning, Subject: subject, Text: "documents from before are read, though not as of one cluster time, which this server cannot do: those that " +
				"change meanwhile are left to the change stream",
		})
	}
	return append(found, sources.Finding{Subject: subject, Text: "documents from before can be read as of a cluster time"})
}

// checkOplog compares how far the oplog reaches back with the outage that it has to bridge.
func (d *deployment) checkOplog(ctx context.Context, o sources.CheckOptions) sources.Finding {
	f := sources.Finding{Subject: "oplog"}
	if d.sharded() {
		f.Level = sources.Warning
		f.Text = "each shard has its own, which cannot be seen through mongos: see to it that each reaches back at least " + shortOplog.String()
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, oplogLimit)
	defer cancel()
	first, err := d.oplogTime(ctx, 1)
	last := first
	if err == nil {
		last, err = d.oplogTime(ctx, -1)
	}
	if err != nil {
		f.Level = sources.Warning
		f.Text = "how far it reaches back could not be found out: " + classify("read local.oplog.rs", err).Error()
		f.Remedy = `db.getSiblingDB("admin").grantRolesToUser("weft", [{role: "read", db: "local"}]) // only for this check`
		return f
	}
	reach := time.Duration(last.T-first.T) * time.Second
	f.Text = fmt.Sprintf("reaches back %s: a longer outage of the capture loses changes", reach)
	if reach < shortOplog {
		f.Level, f.Remedy = sources.Warning, growOplog
		f.Text += "; a young oplog may grow to reach further"
	}
	if o.Position == nil {
		return f
	}
	if p, err := decodePosition(o.Position); err == nil && p.ClusterTime.T != 0 {
		f.Text += fmt.Sprintf("; the checkpoint's last change is %s old", time.Duration(int64(last.T)-int64(p.ClusterTime.T))*time.Second)
	}
	return f
}

// oplogTime is the time of the oplog's oldest entry (1) or its newest (-1).
func (d *deployment) oplogTime(ctx context.Context, order int) (bson.Timestamp, error) {
	var entry struct {
		TS bson.Timestamp `bson:"ts"`
	}
	err := d.client.Database("local").Collection("oplog.rs").FindOne(ctx, bson.D{},
		options.FindOne().SetSort(bson.D{{Key: "$natural", Value: order}}).SetProjection(bson.D{{Key: "ts", Value: 1}})).Decode(&entry)
	return entry.TS, err
}
