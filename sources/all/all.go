// Package all lists the sources. A new one is one line here; nothing else of the core names it.
package all

import (
	"weft/sources"
	"weft/sources/mongodb"
	"weft/sources/polling"
	"weft/sources/postgres"
	"weft/sources/spanner"
)

// Kinds makes an empty config for each value that a source's type field may have.
var Kinds = map[string]func() sources.Config{
	"mongodb":       func() sources.Config { return &mongodb.Config{} },
	"mariadb":       func() sources.Config { return &polling.MariaDBConfig{} },
	"mysql":         func() sources.Config { return &polling.MySQLConfig{} },
	"postgres":      func() sources.Config { return &postgres.Config{} },
	"postgres-poll": func() sources.Config { return &polling.PostgresConfig{} },
	"spanner":       func() sources.Config { return &spanner.Config{} },
	"sql":           func() sources.Config { return &polling.SQLConfig{} },
	"sqlite":        func() sources.Config { return &polling.SQLiteConfig{} },
}
