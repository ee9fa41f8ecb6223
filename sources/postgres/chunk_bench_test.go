package postgres

import (
	"io"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"weft/sources"
)

// BenchmarkChunks reads a table of WEFT_BENCH_ROWS rows (100,000) of about 450 bytes in chunks, and by COPY for comparison.
// Each iteration is the whole table.
func BenchmarkChunks(b *testing.B) {
	admin := os.Getenv("WEFT_TEST_POSTGRES_NEWEST")
	if admin == "" {
		b.Skip("WEFT_TEST_POSTGRES_NEWEST is not set: no PostgreSQL to measure with")
	}
	rows := 100_000
	if text := os.Getenv("WEFT_BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	db := newDatabase(b, admin)
	db.exec(`CREATE TABLE orders (id bigint PRIMARY KEY, ref uuid NOT NULL, amount numeric(12,2) NOT NULL, note text NOT NULL,
		doc jsonb NOT NULL, at timestamptz NOT NULL)`,
		`INSERT INTO orders SELECT n, gen_random_uuid(), (n % 100000) / 7.0, 'note of order ' || n,
			jsonb_build_object('customer', n % 1000, 'city', 'Utrecht', 'tags', jsonb_build_array('new', 'web', 'eu'),
			'lines', jsonb_build_array(jsonb_build_object('sku', 'sku-' || n, 'count', n % 7, 'price', (n % 9999) / 100.0),
			jsonb_build_object('sku', 'sku-' || n + 1, 'count', n % 5, 'price', (n % 7777) / 100.0)), 'text', repeat(md5(n::text), 3)),
			clock_timestamp() FROM generate_series(1, `+strconv.Itoa(rows)+`) n`, "VACUUM ANALYZE orders")
	measure := func(b *testing.B, fn func()) {
		begun, cpu := time.Now(), cpuTime(b)
		n := 0
		for b.Loop() {
			fn()
			n++
		}
		total := float64(n * rows)
		b.ReportMetric(total/time.Since(begun).Seconds(), "rows/s")
		b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/1000/total, "cpu-us/row")
	}
	b.Run("copy", func(b *testing.B) {
		measure(b, func() {
			if _, err := db.conn.PgConn().CopyTo(b.Context(), io.Discard, "COPY orders TO STDOUT"); err != nil {
				b.Fatal(err)
			}
		})
	})
	r := db.reader(db.config(), db.options("public.orders"))
	b.Run("chunks", func(b *testing.B) {
		measure(b, func() {
			q := sources.ChunkRequest{Table: "public.orders", Rows: 20_000, Bytes: 4 << 20}
			read := 0
			for {
				c := db.chunk(r, q)
				read += len(c.Rows)
				if q.After = c.Next; c.Next == nil {
					break
				}
			}
			if read != rows {
				b.Fatalf("%d rows of %d", read, rows)
			}
		})
	})
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
