package configs

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// enum is a text type with a closed list of values.
type enum interface{ values() []string }

// Profile is a kind of Kafka-compatible log.
type Profile string

const (
	Kafka      Profile = "kafka"
	WarpStream Profile = "warpstream"
)

func (Profile) values() []string { return []string{"kafka", "warpstream"} }

// Mechanism is a SASL mechanism, by its registered name.
type Mechanism string

const (
	Plain       Mechanism = "PLAIN"
	ScramSHA256 Mechanism = "SCRAM-SHA-256"
	ScramSHA512 Mechanism = "SCRAM-SHA-512"
	OAuthBearer Mechanism = "OAUTHBEARER"
)

func (Mechanism) values() []string {
	return []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}
}

// Compression is a codec of Kafka record batches.
type Compression string

const (
	LZ4           Compression = "lz4"
	Zstd          Compression = "zstd"
	Snappy        Compression = "snappy"
	NoCompression Compression = "none"
)

func (Compression) values() []string { return []string{"lz4", "zstd", "snappy", "none"} }

// Dialect is a way of writing values into the envelope.
type Dialect string

const (
	JSONDialect     Dialect = "json"
	DebeziumDialect Dialect = "debezium"
)

func (Dialect) values() []string { return []string{"json", "debezium"} }

// Cleanup is a topic's cleanup.policy.
type Cleanup string

const (
	Delete  Cleanup = "delete"
	Compact Cleanup = "compact"
)

func (Cleanup) values() []string { return []string{"delete", "compact"} }

// Level is a log level, by hclog's name.
type Level string

func (Level) values() []string { return []string{"trace", "debug", "info", "warn", "error"} }

// Format is a form of log lines.
type Format string

const (
	TextFormat Format = "text"
	JSONFormat Format = "json"
)

func (Format) values() []string { return []string{"text", "json"} }

// Snapshot says whether rows that are older than the capture are read.
type Snapshot string

const (
	// SnapshotInitial reads the tables when the capture begins, those that are added later, and all of them after a gap.
	SnapshotInitial Snapshot = "initial"
	// SnapshotNever captures changes only, but for snapshots that somebody asks for.
	SnapshotNever Snapshot = "never"
)

func (Snapshot) values() []string { return []string{"initial", "never"} }

// OnGap says what to do when the datastore no longer has every change since the checkpoint.
type OnGap string

const (
	StopOnGap     OnGap = "stop"
	ContinueOnGap OnGap = "continue"
)

func (OnGap) values() []string { return []string{"stop", "continue"} }

// Secret is a text that is never printed: every form of formatting and marshalling gives ***.
type Secret string

func (Secret) String() string               { return mask }
func (Secret) GoString() string             { return mask }
func (Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// Bytes is a size. In text it is a whole number and an optional unit: B, KB, MB, GB, TB (powers of 1000) or KiB, MiB,
// GiB, TiB (powers of 1024), in upper or lower case.
type Bytes int64

const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

var units = []struct {
	suffix string
	size   Bytes
}{
	// Longest suffix first: every other one ends in b.
	{"kib", KiB}, {"mib", MiB}, {"gib", GiB}, {"tib", TiB},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"b", 1},
}

// UnmarshalText reads the text form.
func (b *Bytes) UnmarshalText(text []byte) error {
	number, size := strings.ToLower(string(text)), Bytes(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, size = strings.TrimRight(n, " "), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/size) {
		return errors.New("expected a size such as 16MiB, 1GB or 4096")
	}
	*b = Bytes(n) * size
	return nil
}

// MarshalText gives the text form that String gives.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// String gives the size in the largest unit that is exact: 16MiB, 1500B.
func (b Bytes) String() string {
	if b > 0 {
		for _, u := range []struct {
			name string
			size Bytes
		}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}} {
			if b%u.size == 0 {
				return strconv.FormatInt(int64(b/u.size), 10) + u.name
			}
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}
