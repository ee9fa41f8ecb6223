package mongodb

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"weft/sources"
)

// Config is the mongodb source's part of the config file.
type Config struct {
	URL          string       `yaml:"url" json:"url" jsonschema:"MongoDB connection: mongodb://USER:PASSWORD@HOST:PORT/?replicaSet=NAME or mongodb+srv://...; the user needs the role read on the databases captured"`
	Scope        Scope        `yaml:"scope" json:"scope,omitempty" jsonschema:"what the change stream is opened on: collection, database or deployment; default the narrowest that covers tables"`
	FullDocument FullDocument `yaml:"full_document" json:"full_document,omitempty" jsonschema:"where an update's document comes from: lookup (as it is when the change is read; the default), required or when_available (as it was after the change, from post-images), off (only the fields that changed)"`
	Before       Before       `yaml:"before" json:"before,omitempty" jsonschema:"the document before an update or a delete, from pre-images: when_available (the default), required, off"`
	JSON         JSON         `yaml:"json" json:"json,omitempty" jsonschema:"how documents are written: relaxed (the default) or canonical Extended JSON v2"`
	Invalid      Invalid      `yaml:"invalid_documents" json:"invalid_documents,omitempty" jsonschema:"what to do with a document that has no JSON, such as one with a field twice: stop (the default), or base64, which carries its BSON"`

	// idle replaces idleEvery in tests.
	idle time.Duration
}

// Scope is what the stream is opened on.
type Scope string

const (
	ScopeCollection Scope = "collection"
	ScopeDatabase   Scope = "database"
	ScopeDeployment Scope = "deployment"
)

// FullDocument is where the document of an update comes from.
type FullDocument string

const (
	FullLookup        FullDocument = "lookup"
	FullRequired      FullDocument = "required"
	FullWhenAvailable FullDocument = "when_available"
	FullOff           FullDocument = "off"
)

// Before is where the document before a change comes from.
type Before string

const (
	BeforeWhenAvailable Before = "when_available"
	BeforeRequired      Before = "required"
	BeforeOff           Before = "off"
)

// JSON is a form of Extended JSON.
type JSON string

const (
	JSONRelaxed   JSON = "relaxed"
	JSONCanonical JSON = "canonical"
)

// Invalid says what happens to a document that has no Extended JSON.
type Invalid string

const (
	InvalidStop   Invalid = "stop"
	InvalidBase64 Invalid = "base64"
)

// Connector is the name that Debezium gives this kind of datastore.
func (c Config) Connector() string { return "mongodb" }

// Validate reports what is wrong without connecting.
func (c Config) Validate() error {
	if !strings.HasPrefix(c.URL, srvScheme) { // a name that is to be looked up is left to Open
		if _, err := c.client(); err != nil {
			return err
		}
	}
	return errors.Join(
		oneOf("scope", c.Scope, "", ScopeCollection, ScopeDatabase, ScopeDeployment),
		oneOf("full_document", c.FullDocument, "", FullLookup, FullRequired, FullWhenAvailable, FullOff),
		oneOf("before", c.Before, "", BeforeWhenAvailable, BeforeRequired, BeforeOff),
		oneOf("json", c.JSON, "", JSONRelaxed, JSONCanonical),
		oneOf("invalid_documents", c.Invalid, "", InvalidStop, InvalidBase64),
	)
}

func oneOf[T ~string](field string, v T, allowed ...T) error {
	names := make([]string, 0, len(allowed))
	for _, a := range allowed {
		if v == a {
			return nil
		}
		if a != "" {
			names = append(names, string(a))
		}
	}
	return fmt.Errorf("%s: %q must be one of %s", field, string(v), strings.Join(names, ", "))
}

// withDefaults fills in what is not set.
func (c Config) withDefaults(tables []pattern) Config {
	if c.Scope == "" {
		c.Scope = narrowest(tables)
	}
	if c.FullDocument == "" {
		c.FullDocument = FullLookup
	}
	if c.Before == "" {
		c.Before = BeforeWhenAvailable
	}
	if c.JSON == "" {
		c.JSON = JSONRelaxed
	}
	if c.Invalid == "" {
		c.Invalid = InvalidStop
	}
	if c.idle == 0 {
		c.idle = idleEvery
	}
	return c
}

// srvScheme begins a url whose hosts and options are in DNS.
const srvScheme = "mongodb+srv://"

// client is how to connect. Its errors never hold a part of the url, which may hold a password.
func (c Config) client() (*options.ClientOptions, error) {
	if c.URL == "" {
		return nil, errors.New("url: it must be set, such as mongodb://USER:PASSWORD@HOST:27017/?replicaSet=rs0")
	}
	if !strings.HasPrefix(c.URL, "mongodb://") && !strings.HasPrefix(c.URL, srvScheme) {
		return nil, errors.New("url: it must begin with mongodb:// or mongodb+srv://")
	}
	o := options.Client().ApplyURI(c.URL).SetAppName("weft").SetMaxPoolSize(4).SetReadConcern(readconcern.Majority())
	if err := o.Validate(); err != nil {
		// The reason is kept back: it may quote the url.
		return nil, errors.New("url: it is no valid MongoDB connection string, or its host cannot be resolved; special " +
			"characters in the user and the password must be percent-encoded: @ as %40, / as %2F, : as %3A, % as %25")
	}
	return o, nil
}

// pattern is one of OpenOptions.Tables.
type pattern struct{ db, coll string }

func (p pattern) String() string { return p.db + "." + p.coll }

func literal(glob string) bool { return !strings.ContainsAny(glob, "*?") }

func (p pattern) matches(db, coll string) bool {
	return sources.MatchGlob(p.db, db) && sources.MatchGlob(p.coll, coll)
}

// parseTables reads DATABASE.COLLECTION: a database's name has no dot, a collection's may.
func parseTables(tables []string) ([]pattern, error) {
	out := make([]pattern, 0, len(tables))
	for _, t := range tables {
		db, coll, ok := strings.Cut(t, ".")
		if !ok || db == "" || coll == "" {
			return nil, sources.Fatal("write it as DATABASE.COLLECTION", "tables: %q names no collection", t)
		}
		out = append(out, pattern{db, coll})
	}
	return out, nil
}

// narrowest is the smallest scope that covers all tables.
func narrowest(tables []pattern) Scope {
	for _, t := range tables {
		if !literal(t.db) || t.db != tables[0].db {
			return ScopeDeployment
		}
	}
	if len(tables) == 1 && literal(tables[0].coll) {
		return ScopeCollection
	}
	return ScopeDatabase
}

// covers tells whether a stream of the scope shows all tables.
func (s Scope) covers(tables []pattern) bool {
	rank := map[Scope]int{ScopeCollection: 0, ScopeDatabase: 1, ScopeDeployment: 2}
	return rank[s] >= rank[narrowest(tables)]
}

var (
	_ sources.Config  = Config{}
	_ sources.Checker = Config{}
)
