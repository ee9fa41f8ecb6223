package services

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
)

// Services are the servers that the tests share.
type Services struct {
	PostgresOldest, PostgresNewest *Postgres
	Kafka                          *Kafka
	MongoDB                        *MongoDB
	MariaDB                        *MariaDB
	Spanner                        *Spanner // nil where there is no emulator

	libs, duckDB, dir string
}

// Start starts all servers, side by side; Spanner's emulator only where FindSpanner finds one. On an error nothing is left
// running.
func Start(ctx context.Context, b Binaries) (*Services, error) {
	dir, err := os.MkdirTemp("", "weft-services-")
	if err != nil {
		return nil, err
	}
	s := &Services{libs: b.Kafka, duckDB: b.DuckDB, dir: dir}
	// A server's own user must be able to enter.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	var wg sync.WaitGroup
	var errs [6]error
	wg.Go(func() {
		s.PostgresOldest, errs[0] = StartPostgres(ctx, b.PostgresOldest, filepath.Join(dir, "postgres-oldest"))
	})
	wg.Go(func() {
		s.PostgresNewest, errs[1] = StartPostgres(ctx, b.PostgresNewest, filepath.Join(dir, "postgres-newest"))
	})
	wg.Go(func() {
		s.Kafka, errs[2] = StartKafka(ctx, b.Kafka, filepath.Join(dir, "kafka"))
	})
	wg.Go(func() {
		s.MongoDB, errs[3] = StartMongoDB(ctx, b.MongoDB, filepath.Join(dir, "mongodb"), shortOplog)
	})
	wg.Go(func() {
		s.MariaDB, errs[4] = StartMariaDB(ctx, filepath.Join(dir, "mariadb"))
	})
	if bin := FindSpanner(); bin != "" {
		wg.Go(func() {
			s.Spanner, errs[5] = StartSpanner(ctx, bin, filepath.Join(dir, "spanner"))
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Env is how the tests find the servers: NAME=value.
func (s *Services) Env() []string {
	env := []string{
		"WEFT_TEST_POSTGRES_OLDEST=" + s.PostgresOldest.URL,
		"WEFT_TEST_POSTGRES_NEWEST=" + s.PostgresNewest.URL,
		"WEFT_TEST_POSTGRES_BIN=" + s.PostgresNewest.Bin,
		"WEFT_TEST_KAFKA=" + s.Kafka.Address,
		"WEFT_TEST_KAFKA_LIBS=" + s.libs,
		"WEFT_TEST_MONGODB=" + s.MongoDB.URL,
		"WEFT_TEST_MARIADB=" + s.MariaDB.URL,
		"WEFT_TEST_DUCKDB=" + filepath.Join(s.duckDB, "bin", "python3"),
	}
	if s.Spanner != nil {
		env = append(env, "WEFT_TEST_SPANNER="+s.Spanner.Host)
	}
	return env
}

// Stop ends all servers and removes their data.
func (s *Services) Stop() error {
	var wg sync.WaitGroup
	for _, p := range []*Postgres{s.PostgresOldest, s.PostgresNewest} {
		if p != nil {
			wg.Go(p.Stop)
		}
	}
	if s.Kafka != nil {
		wg.Go(s.Kafka.Stop)
	}
	if s.MongoDB != nil {
		wg.Go(s.MongoDB.Stop)
	}
	if s.MariaDB != nil {
		wg.Go(s.MariaDB.Stop)
	}
	if s.Spanner != nil {
		wg.Go(s.Spanner.Stop)
	}
	wg.Wait()
	return os.RemoveAll(s.dir)
}
