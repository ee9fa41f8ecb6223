package spanner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"cloud.google.com/go/spanner"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/sources"
)

// Config is the spanner source's part of the config file.
type Config struct {
	Database        string        `yaml:"database" json:"database" jsonschema:"the database: projects/PROJECT/instances/INSTANCE/databases/DATABASE, of either dialect"`
	Stream          string        `yaml:"stream" json:"stream" jsonschema:"name of the change stream that watches the tables; it must exist"`
	Heartbeat       time.Duration `yaml:"heartbeat,omitempty" json:"heartbeat,omitempty" jsonschema:"how often a partition without changes says so, by which an idle capture's position moves: 100ms to 5m, default 5s"`
	Connections     int           `yaml:"connections,omitempty" json:"connections,omitempty" jsonschema:"gRPC connections, each of which reads up to 90 partitions at a time: 1 to 100, default 4"`
	CredentialsFile string        `yaml:"credentials_file,omitempty" json:"credentials_file,omitempty" jsonschema:"a service account's key file; default Google's Application Default Credentials"`
	EmulatorHost    string        `yaml:"emulator_host,omitempty" json:"emulator_host,omitempty" jsonschema:"HOST:PORT of a Spanner emulator, for tests; default $SPANNER_EMULATOR_HOST"`
}

const (
	defaultHeartbeat   = 5 * time.Second
	shortestHeartbeat  = 100 * time.Millisecond // Spanner's own bounds
	longestHeartbeat   = 5 * time.Minute
	defaultConnections = 4
	mostConnections    = 100
	// Spanner takes 100 calls a connection; some are left for the catalog.
	perConnection = 90
)

var (
	databaseName = regexp.MustCompile(`^projects/[^/]+/instances/[^/]+/databases/[^/]+$`)
	streamName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,127}$`)
)

// Connector is the name that Debezium gives this kind of datastore.
func (c *Config) Connector() string { return "spanner" }

// Validate implements sources.Config.
func (c *Config) Validate() error {
	switch {
	case !databaseName.MatchString(c.Database):
		return fmt.Errorf("database: %q must be projects/PROJECT/instances/INSTANCE/databases/DATABASE", c.Database)
	case c.Stream == "":
		return errors.New("stream: it must name the change stream")
	case !streamName.MatchString(c.Stream):
		return fmt.Errorf("stream: %q is not a name that a change stream can have", c.Stream)
	case c.Heartbeat != 0 && (c.Heartbeat < shortestHeartbeat || c.Heartbeat > longestHeartbeat):
		return fmt.Errorf("heartbeat: %s is not between %s and %s", c.Heartbeat, shortestHeartbeat, longestHeartbeat)
	case c.Connections < 0 || c.Connections > mostConnections:
		return fmt.Errorf("connections: %d is not between 1 and %d", c.Connections, mostConnections)
	}
	return nil
}

func (c *Config) heartbeat() time.Duration {
	if c.Heartbeat == 0 {
		return defaultHeartbeat
	}
	return c.Heartbeat
}

func (c *Config) connections() int {
	if c.Connections == 0 {
		return defaultConnections
	}
	return c.Connections
}

// Bounds of what a query may have in flight, so that many partitions do not take memory without bound before ReadAheadBytes
// counts it.
const (
	streamWindow     = 128 << 10
	connectionWindow = 1 << 20
)

// connect makes a client, which connects at its first call.
func (c *Config) connect(ctx context.Context, more ...option.ClientOption) (*spanner.Client, error) {
	options := []option.ClientOption{
		option.WithGRPCConnectionPool(c.connections()),
		option.WithGRPCDialOption(grpc.WithInitialWindowSize(streamWindow)),
		option.WithGRPCDialOption(grpc.WithInitialConnWindowSize(connectionWindow)),
	}
	emulator := c.EmulatorHost
	if emulator == "" {
		emulator = os.Getenv("SPANNER_EMULATOR_HOST")
	}
	switch {
	case emulator != "":
		options = append(options, option.WithEndpoint(emulator), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
			option.WithGRPCDialOption(grpc.WithChainStreamInterceptor(emulatorTokens)))
	case c.CredentialsFile != "":
		options = append(options, option.WithAuthCredentialsFile(option.ServiceAccount, c.CredentialsFile))
	}
	// Spanner's own metrics go to Google Cloud Monitoring with rights that a reader need not have.
	client, err := spanner.NewClientWithConfig(ctx, c.Database, spanner.ClientConfig{DisableNativeMetrics: true}, append(options, more...)...)
	if err != nil {
		return nil, c.explain(fmt.Errorf("connect to Spanner: %w", err))
	}
	return client, nil
}

// connectFor is connect for a capture. The client is the source's or the reader's, and outlives what ctx bounds.
func (c *Config) connectFor(ctx context.Context, o sources.OpenOptions, more ...option.ClientOption) (*spanner.Client, error) {
	if err := c.Validate(); err != nil {
		return nil, sources.Fatal("correct the capture's source", "%w", err)
	}
	if len(o.Keys) > 0 {
		return nil, errKeys()
	}
	return c.connect(context.WithoutCancel(ctx), more...)
}

// Open implements sources.Config.
func (c *Config) Open(ctx context.Context, o sources.OpenOptions) (sources.Source, error) {
	return c.open(ctx, o)
}

func (c *Config) open(ctx context.Context, o sources.OpenOptions, more ...option.ClientOption) (sources.Source, error) {
	client, err := c.connectFor(ctx, o, more...)
	if err != nil {
		return nil, err
	}
	s, err := c.openWith(ctx, client, o)
	if err != nil {
		client.Close()
		return nil, c.explain(err)
	}
	return s, nil
}

func (c *Config) openWith(ctx context.Context, client *spanner.Client, o sources.OpenOptions) (*source, error) {
	cat := &catalog{client: client, stream: c.Stream, patterns: o.Tables}
	now, err := cat.load(ctx)
	if err != nil {
		return nil, err
	}
	if err := cat.covered(); err != nil {
		return nil, err
	}
	parts := newPartitions(now)
	if o.Position != nil {
		if parts, err = parsePosition(o.Position, c.Stream); err != nil {
			return nil, err
		}
	}
	return newSource(c, cat, parts, o), nil
}

func errKeys() error {
	return sources.Fatal("remove the keys from the capture",
		"keys are set, but a Spanner table's key is its primary key, which cannot be another")
}

var _ sources.Config = (*Config)(nil)
