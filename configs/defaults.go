package configs

import (
	"reflect"
	"time"
)

// DefaultAdminListen is where the daemon answers HTTP unless it is told otherwise.
const DefaultAdminListen = "127.0.0.1:9464"

// defaults is the config of an empty file; everything that has a default has it here.
func defaults() *Config {
	return &Config{
		Log: Log{
			Profile:     Kafka,
			ClientID:    "weft",
			Compression: LZ4,
			Commit:      Commit{Bytes: 8 * MiB, Interval: time.Second},
		},
		Topics: Topics{
			Replication:  -1,
			Create:       true,
			TopicOptions: TopicOptions{Partitions: 6, Dialect: JSONDialect, Cleanup: Delete},
		},
		Archives: Archives{Keep: 28, Memory: 64 * MiB},
		State:    State{Enabled: true},
		Logging:  Logging{Level: "info", Format: TextFormat},
		Admin:    Admin{Enabled: true, Listen: DefaultAdminListen},
		Fleet:    "default",
	}
}

// defaultOf gives the initial values of blocks that may be absent or may be there several times. A capture's topics have
// none: what is not set there comes from the topics block.
var defaultOf = map[reflect.Type]any{
	reflect.TypeFor[Embedded](): Embedded{
		Dir:       "data/log",
		Listen:    "127.0.0.1:9092",
		Retention: LogRetention{Age: 24 * time.Hour, Bytes: 64 * MiB},
	},
	reflect.TypeFor[TLS](): TLS{Enabled: true},
	reflect.TypeFor[Capture](): Capture{
		Snapshot:        SnapshotInitial,
		SnapshotOptions: SnapshotOptions{Parallel: 2, Chunk: 4 * MiB},
		OnGap:           StopOnGap,
		Buffer:          Buffer{ReadAhead: 8 * MiB, Batch: MiB},
	},
}
