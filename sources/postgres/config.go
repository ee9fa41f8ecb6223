package postgres

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"weft/sources"
	"weft/sources/pgurl"
)

// Config is the postgres source's part of the config file.
type Config struct {
	URL         string     `yaml:"url" json:"url" jsonschema:"PostgreSQL connection: postgres://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs; the role needs REPLICATION"`
	Slot        string     `yaml:"slot" json:"slot,omitempty" jsonschema:"name of the replication slot, [a-z0-9_]{1,63}; default weft_CAPTURE with - as _"`
	Publication string     `yaml:"publication" json:"publication,omitempty" jsonschema:"name of the publication; default the slot's name"`
	Messages    bool       `yaml:"messages" json:"messages,omitempty" jsonschema:"capture messages of pg_logical_emit_message too; default false"`
	Partitions  Partitions `yaml:"partitions" json:"partitions,omitempty" jsonschema:"a partitioned table's changes appear under its root (root, the default) or under its leaves (leaves)"`
}

// Partitions says under which name the changes of a partitioned table appear.
type Partitions string

const (
	PartitionsRoot   Partitions = "root" // under the partitioned table; the default
	PartitionsLeaves Partitions = "leaves"
)

// maxIdentifier is the longest name that the server keeps, in bytes (NAMEDATALEN - 1).
const maxIdentifier = 63

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// Connector is the name that Debezium gives this kind of datastore.
func (c Config) Connector() string { return "postgresql" }

// Validate reports what is wrong without connecting.
func (c Config) Validate() error {
	if _, err := c.connConfig(); err != nil {
		return err
	}
	if c.Slot != "" && !slotName.MatchString(c.Slot) {
		return fmt.Errorf("slot: %q must match [a-z0-9_]{1,63}", c.Slot)
	}
	if len(c.Publication) > maxIdentifier {
		return fmt.Errorf("publication: %q is longer than %d bytes", c.Publication, maxIdentifier)
	}
	switch c.Partitions {
	case "", PartitionsRoot, PartitionsLeaves:
		return nil
	}
	return fmt.Errorf("partitions: %q must be root or leaves", c.Partitions)
}

// withDefaults fills in what the capture's name decides.
func (c Config) withDefaults(capture string) Config {
	if c.Slot == "" {
		c.Slot = "weft_" + strings.ReplaceAll(capture, "-", "_")
	}
	if c.Publication == "" {
		c.Publication = c.Slot
	}
	if c.Partitions == "" {
		c.Partitions = PartitionsRoot
	}
	return c
}

// session is set on every connection, since a role's or a database's own settings otherwise change what values look like:
// extra_float_digits 0 makes 0.30000000000000004 a 0.3. With pg_catalog as the only schema in the search path, names of types
// and of relations (a regclass column) are always written with their schema, and no function of another schema is called
// by mistake.
var session = map[string]string{
	"application_name":    "weft",
	"bytea_output":        "hex",
	"client_min_messages": "warning",
	"client_encoding":     "UTF8",
	"datestyle":           "ISO, YMD",
	"extra_float_digits":  "3",
	"intervalstyle":       "postgres",
	"lc_monetary":         "C",
	"search_path":         "pg_catalog",
	"statement_timeout":   "0", // the making of a slot waits for running transactions
	"timezone":            "UTC",
}

// connConfig parses the url and pins the session.
func (c Config) connConfig() (*pgx.ConnConfig, error) { return pgurl.Parse(c.URL, session) }

var _ sources.Config = Config{}
