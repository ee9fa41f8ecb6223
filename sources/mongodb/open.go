package mongodb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"weft/sources"
	"weft/sources/mongodb/extjson"
)

const (
	upgrade        = "upgrade the server to MongoDB 6.0.9 or newer"
	makeReplicaSet = "start mongod with --replSet NAME and run rs.initiate(), which makes a replica set of the one server"
)

// Open implements sources.Config.
func (c Config) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	d, err := c.dial(ctx, o.Tables, o.Keys)
	if err != nil {
		return nil, err
	}
	s, err := d.open(ctx, o)
	if err != nil {
		return nil, errors.Join(err, disconnect(d.client))
	}
	return s, nil
}

func disconnect(c *mongo.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := c.Disconnect(ctx); err != nil {
		return fmt.Errorf("disconnect: %w", err)
	}
	return nil
}

// deployment is a server that a capture is to be made of.
type deployment struct {
	config Config
	tables []pattern
	client *mongo.Client
	// name is the replica set's name, or "sharded".
	name    string
	version string
}

// dial connects and verifies what does not depend on collections.
func (c Config) dial(ctx context.Context, tables []string, keys map[string][]string) (*deployment, error) {
	patterns, err := parseTables(tables)
	if err != nil {
		return nil, err
	}
	for table := range keys {
		return nil, sources.Fatal("remove it", "keys: %s: a collection's key is _id", table)
	}
	d := &deployment{config: c.withDefaults(patterns), tables: patterns}
	if !d.config.Scope.covers(patterns) {
		return nil, sources.Fatal("set scope: "+string(narrowest(patterns))+", or leave it out",
			"scope: a stream on a %s does not show all of tables", d.config.Scope)
	}
	o, err := c.client()
	if err != nil {
		return nil, sources.Fatal("correct it", "%w", err)
	}
	if d.client, err = mongo.Connect(o); err != nil {
		return nil, errors.New("connect: the client cannot be made from url")
	}
	if err := d.greet(ctx); err != nil {
		return nil, errors.Join(err, disconnect(d.client))
	}
	return d, nil
}

// sharded is the name of a deployment that is reached by way of mongos.
const sharded = "sharded"

func (d *deployment) sharded() bool { return d.name == sharded }

// greet asks the server what it is.
func (d *deployment) greet(ctx context.Context) error {
	admin := d.client.Database("admin")
	var hello struct {
		SetName string `bson:"setName"`
		Msg     string `bson:"msg"`
	}
	if err := admin.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return classify("connect", err)
	}
	var build struct {
		Version      string  `bson:"version"`
		VersionArray []int32 `bson:"versionArray"`
	}
	if err := admin.RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&build); err != nil {
		return classify("ask for the server's version", err)
	}
	d.name, d.version = hello.SetName, build.Version
	if hello.Msg == "isdbgrid" {
		d.name = sharded
	}
	if d.name == "" {
		return sources.Fatal(makeReplicaSet, "the server is standalone, and has no change streams")
	}
	if slices.Compare(build.VersionArray, []int32{6, 0, 9}) < 0 {
		return sources.Fatal(upgrade, "the server is MongoDB %s, which cannot split large change events", build.Version)
	}
	return nil
}

// collection is what the server says of one.
type collection struct {
	db, name, kind string
	images         bool // pre-images and post-images are kept
}

func (c collection) String() string { return c.db + "." + c.name }

// collections lists those that a table pattern matches, whatever their kind.
func (d *deployment) collections(ctx context.Context, p pattern) ([]collection, error) {
	databases := []string{p.db}
	if !literal(p.db) {
		all, err := d.client.ListDatabaseNames(ctx, bson.D{})
		if err != nil {
			return nil, classify("list databases", err)
		}
		databases = slices.DeleteFunc(all, func(db string) bool {
			return db == "admin" || db == "local" || db == "config" || !sources.MatchGlob(p.db, db)
		})
	}
	var out []collection
	for _, db := range databases {
		specs, err := d.client.Database(db).ListCollectionSpecifications(ctx, bson.D{})
		if err != nil {
			return nil, classify("list the collections of "+db, err)
		}
		for _, spec := range specs {
			if !sources.MatchGlob(p.coll, spec.Name) || strings.HasPrefix(spec.Name, "system.") {
				continue
			}
			var o struct {
				Images struct {
					Enabled bool `bson:"enabled"`
				} `bson:"changeStreamPreAndPostImages"`
			}
			if spec.Options != nil {
				if err := bson.Unmarshal(spec.Options, &o); err != nil {
					return nil, fmt.Errorf("read the options of %s.%s: %w", db, spec.Name, err)
				}
			}
			out = append(out, collection{db: db, name: spec.Name, kind: spec.Type, images: o.Images.Enabled})
		}
	}
	slices.SortFunc(out, func(a, b collection) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// usable verifies a collection that pattern p matches. One that only a wildcard matches and that has no change events is
// passed over: skip.
func (d *deployment) usable(p pattern, c collection) (skip bool, err error) {
	if c.kind != "" && c.kind != "collection" {
		if !literal(p.coll) || !literal(p.db) {
			return true, nil
		}
		return false, sources.Fatal("take it out of tables, and capture the collections that it is made of",
			"table %s is a %s, which has no change events", c, c.kind)
	}
	if !c.images && (d.config.FullDocument == FullRequired || d.config.Before == BeforeRequired) {
		return false, sources.Fatal(turnOnImages(c), "table %s: the server keeps no pre-images and post-images of it, which "+
			"full_document or before requires", c)
	}
	return false, nil
}

func turnOnImages(c collection) string {
	return fmt.Sprintf(`db.getSiblingDB(%q).runCommand({collMod: %q, changeStreamPreAndPostImages: {enabled: true}})`, c.db, c.name)
}

// verify looks at the tables, and returns the first thing that is wrong.
func (d *deployment) verify(ctx context.Context) error {
	for _, p := range d.tables {
		found, err := d.collections(ctx, p)
		if err != nil {
			return err
		}
		n := 0
		for _, c := range found {
			skip, err := d.usable(p, c)
			if err != nil {
				return err
			}
			if !skip {
				n++
			}
		}
		if n == 0 {
			return noCollection(p)
		}
	}
	return nil
}

func noCollection(p pattern) error {
	return sources.Fatal(fmt.Sprintf(`correct tables, or db.getSiblingDB(%q).createCollection(%q)`, p.db, p.coll),
		"table %s: no collection matches", p)
}

// stream names what the change stream is opened on.
func (d *deployment) stream() string {
	switch d.config.Scope {
	case ScopeCollection:
		return "collection " + d.tables[0].String()
	case ScopeDatabase:
		return "database " + d.tables[0].db
	}
	return "deployment"
}

// open starts the stream.
func (d *deployment) open(ctx context.Context, o sources.OpenOptions) (*source, error) {
	if err := d.verify(ctx); err != nil {
		return nil, err
	}
	s := &source{
		config: d.config, tables: d.tables, client: d.client, queue: newQueue(o.ReadAheadBytes), batchBytes: o.BatchBytes,
		started: o.Position != nil, known: map[namespaceName]*captured{},
		writer: extjson.Writer{Canonical: d.config.JSON == JSONCanonical},
	}
	var after bson.Raw
	var err error
	if o.Position == nil {
		s.position, err = d.begin(ctx)
	} else {
		s.position, after, err = d.resume(o.Position)
	}
	if err != nil {
		return nil, err
	}
	if tx := s.position.TX; tx != nil {
		s.tx = &transaction{Transaction: sources.Transaction{ID: tx.ID}, txn: -1, changes: tx.Changes, tables: tx.Tables}
		if s.tx.tables == nil {
			s.tx.tables = map[string]int64{}
		}
	}
	s.passed = s.position.Passed.stamp()
	session, err := d.client.StartSession()
	if err != nil {
		return nil, classify("start a session", err)
	}
	stream, err := d.watch(mongo.NewSessionContext(ctx, session), after, s.position.StartAt)
	if err != nil {
		session.EndSession(context.WithoutCancel(ctx))
		return nil, err
	}
	s.reader = &reader{
		queue: s.queue, session: session, sharded: d.sharded(),
		watch: func(ctx context.Context, after bson.Raw) (*mongo.ChangeStream, error) {
			return d.watch(ctx, after, nil)
		},
	}
	s.reader.start(stream)
	return s, nil
}

// begin is the position of a capture that has never run: right after the server's newest operation.
func (d *deployment) begin(ctx context.Context) (position, error) {
	session, err := d.client.StartSession()
	if err != nil {
		return position{}, classify("start a session", err)
	}
	defer session.EndSession(ctx)
	if err := d.client.Ping(mongo.NewSessionContext(ctx, session), nil); err != nil {
		return position{}, classify("ask for the server's time", err)
	}
	now := session.OperationTime()
	if now == nil {
		return position{}, errors.New("the server does not tell its operation time")
	}
	return position{
		Deployment: d.name, Stream: d.stream(), StartAt: &timestamp{T: now.T, I: now.I + 1}, Passed: timestamp{T: now.T, I: now.I},
	}, nil
}

// resume reads a checkpoint's position.
func (d *deployment) resume(text sources.Position) (position, bson.Raw, error) {
	p, err := decodePosition(text)
	if err != nil {
		return p, nil, err
	}
	if p.Deployment != d.name {
		return p, nil, &sources.GapError{
			Reason: fmt.Sprintf("the server is another than the one captured so far: it is %q, the checkpoint is of %q", d.name, p.Deployment),
			Remedy: "look for what replaced it and correct url, or set on_gap: continue",
		}
	}
	p.Stream = d.stream()
	if p.Token == nil {
		return p, nil, nil
	}
	after, err := p.token()
	return p, after, err
}

// watch opens the change stream after a token or, with none, at a time.
func (d *deployment) watch(ctx context.Context, after bson.Raw, at *timestamp) (*mongo.ChangeStream, error) {
	o := options.ChangeStream().SetMaxAwaitTime(awaitTime).SetBatchSize(firstReply)
	switch d.config.FullDocument {
	case FullLookup:
		o.SetFullDocument(options.UpdateLookup)
	case FullRequired:
		o.SetFullDocument(options.Required)
	case FullWhenAvailable:
		o.SetFullDocument(options.WhenAvailable)
	}
	switch d.config.Before {
	case BeforeRequired:
		o.SetFullDocumentBeforeChange(options.Required)
	case BeforeWhenAvailable:
		o.SetFullDocumentBeforeChange(options.WhenAvailable)
	}
	// startAfter takes every token; resumeAfter refuses that of an invalidate event.
	if after != nil {
		o.SetStartAfter(after)
	} else {
		o.SetStartAtOperationTime(&bson.Timestamp{T: at.T, I: at.I})
	}
	pipeline := mongo.Pipeline{
		bson.D{{Key: "$match", Value: d.filter()}},
		bson.D{{Key: "$changeStreamSplitLargeEvent", Value: bson.D{}}},
	}
	var stream *mongo.ChangeStream
	var err error
	switch d.config.Scope {
	case ScopeCollection:
		stream, err = d.client.Database(d.tables[0].db).Collection(d.tables[0].coll).Watch(ctx, pipeline, o)
	case ScopeDatabase:
		stream, err = d.client.Database(d.tables[0].db).Watch(ctx, pipeline, o)
	default:
		stream, err = d.client.Watch(ctx, pipeline, o)
	}
	if err != nil {
		return nil, classify("open a change stream on "+d.stream(), err)
	}
	return stream, nil
}

// filter is the condition that spares the server sending what is not captured.
func (d *deployment) filter() bson.D {
	any := bson.A{bson.D{{Key: "operationType", Value: bson.D{{Key: "$in", Value: bson.A{"invalidate", "dropDatabase"}}}}}}
	for _, p := range d.tables {
		for _, field := range []string{"ns", "to"} {
			any = append(any, bson.D{
				{Key: field + ".db", Value: condition(p.db)}, {Key: field + ".coll", Value: condition(p.coll)},
			})
		}
	}
	return bson.D{{Key: "$or", Value: any}}
}

// condition is what MatchGlob does, as the server has it.
func condition(glob string) any {
	if literal(glob) {
		return glob
	}
	var b bytes.Buffer
	b.WriteByte('^')
	for _, r := range glob {
		switch r {
		case '*':
			b.WriteString("[\\s\\S]*")
		case '?':
			b.WriteString("[\\s\\S]")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	b.WriteByte('$')
	return bson.D{{Key: "$regex", Value: b.String()}}
}
