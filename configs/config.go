// Package configs reads the daemon's config file: strict YAML, checked as a whole before anything runs.
//
// Here live the file's structs and their defaults, the decoder that reports every mistake with its place in the file, the
// checks that need no connection, and the JSON Schema for editors. Not here: a source's own fields, which its package
// defines and checks (sources.Config), and everything that opens a connection or reads a password file.
package configs

import (
	"encoding/json"
	"time"

	"weft/sources"
)

// Config is a whole, valid config file with all defaults filled in. Parse and Load make it.
type Config struct {
	// File is the path that Load read it from.
	File string `yaml:"-" json:"-"`

	Log      Log       `yaml:"log" json:"log" jsonschema:"The Kafka-compatible log that records and checkpoints are written to: embedded or brokers."`
	Topics   Topics    `yaml:"topics,omitempty" json:"topics,omitempty" jsonschema:"The topics that tables are written to."`
	Logging  Logging   `yaml:"logging,omitempty" json:"logging,omitempty" jsonschema:"The daemon's own messages, on standard error."`
	Admin    Admin     `yaml:"admin,omitempty" json:"admin,omitempty" jsonschema:"Where the daemon tells of itself: /metrics, /healthz and /readyz."`
	Fleet    string    `yaml:"fleet,omitempty" json:"fleet,omitempty" jsonschema:"Daemons of the same fleet share the captures that are registered for it. Default default."`
	Archives Archives  `yaml:"archives,omitempty" json:"archives,omitempty" jsonschema:"Images of tables in a bucket, made from the log."`
	State    State     `yaml:"state,omitempty" json:"state,omitempty" jsonschema:"What is kept on this machine of captures that poll: the rows that the log holds. It is a cache, and made anew from the log where it is lost."`
	Captures []Capture `yaml:"captures,omitempty" json:"captures,omitempty" jsonschema:"What is captured: one entry a database. More can be registered while the daemon runs."`
}

// Log says which log to write to. Exactly one of Embedded and Brokers is set.
type Log struct {
	Embedded    *Embedded   `yaml:"embedded,omitempty" json:"embedded,omitempty" jsonschema:"Keep the log inside this process, for one machine."`
	Brokers     []string    `yaml:"brokers,omitempty" json:"brokers,omitempty" jsonschema:"Bootstrap addresses of a Kafka-compatible log, each HOST:PORT."`
	Profile     Profile     `yaml:"profile,omitempty" json:"profile,omitempty" jsonschema:"Which kind of log the brokers are: kafka (default) or warpstream."`
	Zone        string      `yaml:"zone,omitempty" json:"zone,omitempty" jsonschema:"Availability zone of this daemon, so that WarpStream keeps traffic inside it."`
	ClientID    string      `yaml:"client_id,omitempty" json:"client_id,omitempty" jsonschema:"Client id shown by the brokers. Default weft."`
	TLS         *TLS        `yaml:"tls,omitempty" json:"tls,omitempty" jsonschema:"Connect with TLS. An empty block uses the system's root certificates."`
	SASL        *SASL       `yaml:"sasl,omitempty" json:"sasl,omitempty" jsonschema:"How to log in at the brokers."`
	Compression Compression `yaml:"compression,omitempty" json:"compression,omitempty" jsonschema:"Compression of record batches: lz4 (default), zstd, snappy or none."`
	MaxRecord   Bytes       `yaml:"max_record,omitempty" json:"max_record,omitempty" jsonschema:"Largest record, up to 64MiB; topics that are created take it. Default 1MiB; 16MiB for WarpStream and the embedded log."`
	Commit      Commit      `yaml:"commit,omitempty" json:"commit,omitempty" jsonschema:"Bounds of one transaction in the log."`
}

// Embedded configures the log inside the process.
type Embedded struct {
	Dir       string       `yaml:"dir,omitempty" json:"dir,omitempty" jsonschema:"Data directory, made when missing. Default data/log. A relative path starts at the working directory."`
	Listen    string       `yaml:"listen,omitempty" json:"listen,omitempty" jsonschema:"Loopback HOST:PORT where Kafka clients connect. Default 127.0.0.1:9092. Port 0 takes any free port."`
	Retention LogRetention `yaml:"retention,omitempty" json:"retention,omitempty" jsonschema:"How much history each partition keeps."`
}

// LogRetention bounds what a partition of the embedded log keeps; the bound that is reached first holds.
type LogRetention struct {
	Age   time.Duration `yaml:"age,omitempty" json:"age,omitempty" jsonschema:"Records older than this may be deleted. Default 24h."`
	Bytes Bytes         `yaml:"bytes,omitempty" json:"bytes,omitempty" jsonschema:"A partition's oldest records beyond this size may be deleted; what is kept is in memory too. Default 64MiB."`
}

// TLS configures the connection to the brokers. The files are PEM; their paths start at the working directory.
type TLS struct {
	Enabled    bool   `yaml:"enabled,omitempty" json:"enabled,omitempty" jsonschema:"false turns the block off. Default true."`
	CA         string `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"File with the root certificates to trust instead of the system's."`
	Cert       string `yaml:"cert,omitempty" json:"cert,omitempty" jsonschema:"File with the client certificate, for mutual TLS. Needs key."`
	Key        string `yaml:"key,omitempty" json:"key,omitempty" jsonschema:"File with the client certificate's key. Needs cert."`
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty" jsonschema:"Name to expect in the brokers' certificates. Default: the host that is dialled."`
}

// SASL configures the login. PLAIN and SCRAM use Username and one of Password and PasswordFile, OAUTHBEARER one of Token
// and TokenFile. A file is read at each connect, so that a rotated secret is taken up.
type SASL struct {
	Mechanism    Mechanism `yaml:"mechanism" json:"mechanism" jsonschema:"PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."`
	Username     string    `yaml:"username,omitempty" json:"username,omitempty" jsonschema:"User name for PLAIN and SCRAM."`
	Password     Secret    `yaml:"password,omitempty" json:"password,omitempty" jsonschema:"Password for PLAIN and SCRAM. Better a variable, or password_file."`
	PasswordFile string    `yaml:"password_file,omitempty" json:"password_file,omitempty" jsonschema:"File that holds the password, read at each connect."`
	Token        Secret    `yaml:"token,omitempty" json:"token,omitempty" jsonschema:"Token for OAUTHBEARER. Better a variable, or token_file."`
	TokenFile    string    `yaml:"token_file,omitempty" json:"token_file,omitempty" jsonschema:"File that holds the token, read at each connect."`
}

// Commit bounds a transaction in the log. It ends when either bound is reached, and at once when the source has nothing
// more ready.
type Commit struct {
	Bytes    Bytes         `yaml:"bytes,omitempty" json:"bytes,omitempty" jsonschema:"Most bytes of records in one transaction. Default 8MiB."`
	Interval time.Duration `yaml:"interval,omitempty" json:"interval,omitempty" jsonschema:"Longest time that a transaction stays open: 10ms to 30s. Default 1s."`
}

// Topics says how the topics of tables are named and made.
type Topics struct {
	Replication int  `yaml:"replication,omitempty" json:"replication,omitempty" jsonschema:"Replication factor of topics that are created. Default -1: the brokers' default."`
	Create      bool `yaml:"create,omitempty" json:"create,omitempty" jsonschema:"Create missing topics. Default true; with false a missing topic is an error."`

	TopicOptions `yaml:",inline"`
}

// TopicOptions are the settings of a topic that a capture may override.
type TopicOptions struct {
	Prefix     string        `yaml:"prefix,omitempty" json:"prefix,omitempty" jsonschema:"First part of every topic's name: PREFIX.SCHEMA.TABLE. Required here or in every capture."`
	Partitions int           `yaml:"partitions,omitempty" json:"partitions,omitempty" jsonschema:"Partitions of topics that are created. Default 6."`
	Dialect    Dialect       `yaml:"dialect,omitempty" json:"dialect,omitempty" jsonschema:"How values are written: json (default; exact strings) or debezium (as Debezium's defaults)."`
	Cleanup    Cleanup       `yaml:"cleanup,omitempty" json:"cleanup,omitempty" jsonschema:"The topic's cleanup.policy: delete (default) or compact."`
	Retention  time.Duration `yaml:"retention,omitempty" json:"retention,omitempty" jsonschema:"How long a topic with cleanup delete keeps records. Default: the brokers' default."`
	Settings   Settings      `yaml:"settings,omitempty" json:"settings,omitempty" jsonschema:"Other Kafka topic settings, by their Kafka names."`
}

// Settings are Kafka topic settings by name; numbers and booleans in the file are kept as they are written there.
type Settings map[string]string

// Logging says how the daemon writes its own messages.
type Logging struct {
	Level  Level  `yaml:"level,omitempty" json:"level,omitempty" jsonschema:"Least severe messages to write: trace, debug, info (default), warn or error."`
	Format Format `yaml:"format,omitempty" json:"format,omitempty" jsonschema:"text (default) or json, one object a line."`
}

// Archives says where images of tables are kept and when they are made.
type Archives struct {
	Bucket Secret        `yaml:"bucket,omitempty" json:"bucket,omitempty" jsonschema:"URL of the bucket: file:///DIR, s3://NAME, gs://NAME or azblob://NAME, each with ?prefix=weft/ and other parameters of gocloud.dev."`
	Every  time.Duration `yaml:"every,omitempty" json:"every,omitempty" jsonschema:"How often the daemon archives each table. Default: never, only on command."`
	Keep   int           `yaml:"keep,omitempty" json:"keep,omitempty" jsonschema:"How many archives of a table the daemon keeps. Default 28."`
	Memory Bytes         `yaml:"memory,omitempty" json:"memory,omitempty" jsonschema:"About how much memory the table takes that is being archived or replayed. Default 64MiB."`
}

// State says where the rows that the log holds are kept, by which changes of sources that poll are told to be creates, updates and
// deletes.
type State struct {
	Enabled bool   `yaml:"enabled,omitempty" json:"enabled,omitempty" jsonschema:"false turns it off: then each row that a poll finds is a create without before, and deleted rows are not found. Default true."`
	Dir     string `yaml:"dir,omitempty" json:"dir,omitempty" jsonschema:"Directory, made when missing, with one below it for each capture. Default state beside the embedded log's directory, and data/state with brokers. A relative path starts at the working directory."`
}

// Admin says where the daemon answers HTTP.
type Admin struct {
	Enabled bool   `yaml:"enabled,omitempty" json:"enabled,omitempty" jsonschema:"false turns it off. Default true."`
	Listen  string `yaml:"listen,omitempty" json:"listen,omitempty" jsonschema:"HOST:PORT. Default 127.0.0.1:9464; a host of its own address or none to be reached from elsewhere, without a password."`
}

// Capture is one database's tables.
type Capture struct {
	Name string `yaml:"name" json:"name" jsonschema:"Unique in the log, and never to be changed: checkpoints are kept under it."`
	// SourceType is the source's type field: its key in sources/all.
	SourceType string `yaml:"-" json:"-"`
	// Written is the capture as one JSON object with the fields of the file, as they are written there: variables are not
	// expanded. A secret that stands there itself is masked.
	Written  json.RawMessage     `yaml:"-" json:"-"`
	Source   sources.Config      `yaml:"source" json:"source" jsonschema:"The database to read; type says which kind."`
	Tables   []string            `yaml:"tables" json:"tables" jsonschema:"Tables as SCHEMA.TABLE, or NAME where the database has no schemas; * and ? match within a part."`
	Keys     map[string][]string `yaml:"keys,omitempty" json:"keys,omitempty" jsonschema:"Key columns, by table, of tables that have no primary key."`
	Snapshot Snapshot            `yaml:"snapshot,omitempty" json:"snapshot,omitempty" jsonschema:"Whether rows from before the capture are read: initial (default where the kind of database can) or never."`
	// SnapshotOptions holds for every snapshot of the capture.
	SnapshotOptions SnapshotOptions `yaml:"snapshot_options,omitempty" json:"snapshot_options,omitempty" jsonschema:"How fast tables are read."`
	OnGap           OnGap           `yaml:"on_gap,omitempty" json:"on_gap,omitempty" jsonschema:"When the database has lost changes: stop (default), or continue after a gap record."`
	// Topics is resolved: what the capture does not set is the file's topics block.
	Topics TopicOptions `yaml:"topics,omitempty" json:"topics,omitempty" jsonschema:"What differs from the topics block for this capture."`
	Buffer Buffer       `yaml:"buffer,omitempty" json:"buffer,omitempty" jsonschema:"Bounds of the memory that this capture uses."`
}

// SnapshotOptions says how tables are read beside the stream.
type SnapshotOptions struct {
	Parallel      int   `yaml:"parallel,omitempty" json:"parallel,omitempty" jsonschema:"Reads at a time, of several tables or parts of one: 1 to 32. Default 2."`
	RowsPerSecond int   `yaml:"rows_per_second,omitempty" json:"rows_per_second,omitempty" jsonschema:"Most rows read in a second. Default 0: no bound."`
	Chunk         Bytes `yaml:"chunk,omitempty" json:"chunk,omitempty" jsonschema:"Most bytes of one read; twice as many as there are reads are held. Default 4MiB."`
}

// Buffer bounds a capture's memory.
type Buffer struct {
	ReadAhead Bytes `yaml:"read_ahead,omitempty" json:"read_ahead,omitempty" jsonschema:"Most bytes read from the database ahead of the log. Default 8MiB."`
	Batch     Bytes `yaml:"batch,omitempty" json:"batch,omitempty" jsonschema:"Most bytes of changes handled at a time. Default 1MiB."`
}
