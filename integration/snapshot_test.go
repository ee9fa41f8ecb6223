package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// filled is a PostgreSQL database with rows from before the capture.
type filled struct {
	*pgOrigin
	options string
}

// fill puts rows into the tables, which no trigger notes: some that the load will touch, and more that it will not.
const fill = `
	INSERT INTO orders SELECT g, nextval('n'), 'c ' || g, 1.5 * g, false, clock_timestamp(), NULL FROM generate_series(1, 20000) g;
	INSERT INTO lines SELECT o, p, nextval('n'), 'sku ' || p FROM generate_series(1, 40) o, generate_series(1, 250) p;
	INSERT INTO docs SELECT format('doc %s "q" \ ключ', g), nextval('n'), 'old', repeat(md5(g::text), 200) FROM generate_series(0, 999) g;
	INSERT INTO counters SELECT g, nextval('n'), 0 FROM generate_series(1, 400) g;
	TRUNCATE audit;
	ANALYZE`

// filledRows is about how many that are.
const filledRows = 31_000

func newFilled(t testing.TB, name, options string) *filled {
	t.Helper()
	o := &filled{newPGOrigin(t, name), options}
	if err := o.exec(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *filled) capture() string {
	return strings.Replace(o.pgOrigin.capture(), "snapshot: never", "snapshot: initial, snapshot_options: "+o.options, 1)
}

func (o *filled) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	tables, err := o.pgOrigin.tables(ctx, partitions)
	for name, one := range tables {
		one.snapshot = true
		tables[name] = one
	}
	return tables, err
}

// snapshotState is the part of a checkpoint that tells of the snapshot.
type snapshotState struct {
	ID      int64
	Reason  string
	EndedAt *time.Time `json:"ended_at"`
	Error   string
	Tables  []struct {
		Table string
		Rows  int64
		Done  bool
	}
}

func (s *snapshotState) rows() (n int64) {
	for _, t := range s.Tables {
		n += t.Rows
	}
	return n
}

func snapshotOf(t testing.TB, config, capture string) (*snapshotState, error) {
	t.Helper()
	var cp struct{ Snapshot *snapshotState }
	if err := json.Unmarshal([]byte(weft(t, "checkpoint", "get", "-c", config, capture)), &cp); err != nil {
		return nil, err
	}
	if cp.Snapshot == nil {
		return nil, errors.New("there is no snapshot")
	}
	return cp.Snapshot, nil
}

// awaitSnapshot waits for a snapshot's end.
func awaitSnapshot(t testing.TB, d *daemon, config, capture string, limit time.Duration) *snapshotState {
	t.Helper()
	var s *snapshotState
	eventually(t, d, limit, "the snapshot's end", func(context.Context) (bool, error) {
		var err error
		if s, err = snapshotOf(t, config, capture); err != nil {
			return false, err
		}
		if s.EndedAt == nil {
			return false, fmt.Errorf("so far: %+v", *s)
		}
		return true, nil
	})
	return s
}

// TestSnapshotKill is TestKill with tables that hold rows before the capture begins, and are read so slowly that the kills come in the
// middle: every row is in its topic, none is older than the changes before it, and what a kill has read for nothing is
// bounded.
func TestSnapshotKill(t *testing.T) {
	for source, from := range map[string]struct {
		rows, kills int
		origin      func(t testing.TB, name, options string) origin
	}{
		"mongodb":  {filledDocuments, 3, newFilledMongo},
		"spanner":  {filledSpanner, 3, newFilledSpanner},
		"postgres": {filledRows, 6, func(t testing.TB, name, options string) origin { return newFilled(t, name, options) }},
	} {
		for log, to := range map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog} {
			t.Run(source+" into "+log, func(t *testing.T) {
				t.Parallel()
				kills, seed := killsAndSeed(t, from.kills)
				name := fmt.Sprintf("snapshot_%x", rand.Uint32())
				to := to(t)
				if log == "kafka" {
					t.Cleanup(func() { deleteTopics(t, to.broker, name) })
				}
				rate, chunk := max(1000, from.rows*8/5/kills), 16<<10
				origin := from.origin(t, name, fmt.Sprintf("{parallel: 2, rows_per_second: %d, chunk: %d}", rate, chunk))
				run := killRun{T: t, name: name, origin: origin, to: to}
				var s *snapshotState
				run.during = func(d *daemon) { s = awaitSnapshot(t, d, run.config, name, 3*time.Minute) }
				run.after = func() {
					written, repeated := countRows(t, to.broker, name)
					t.Logf("%d rows counted, %d written, %d of them again", s.rows(), written, repeated)
					if s.rows() < int64(from.rows*9/10) {
						t.Errorf("only %d rows were read: the test shows nothing", s.rows())
					}
					if log == "kafka" && int64(written) != s.rows() {
						t.Errorf("%d rows are in the log, the checkpoint counts %d", written, s.rows())
					}
					// At most one chunk is written and not committed, which only the embedded log keeps: as many rows as one read may
					// return, and a row has 8 bytes or more.
					if bound := kills * min(rate, chunk/8); int64(written)-s.rows() > int64(bound) {
						t.Errorf("%d rows were written for nothing by %d kills, want at most %d", int64(written)-s.rows(), kills, bound)
					}
				}
				run.run(kills, seed)
			})
		}
	}
}

// countRows counts the records of op r in a capture's topics, and those of a key that had one before.
func countRows(t testing.TB, broker, prefix string) (written, repeated int) {
	t.Helper()
	records, err := readTopics(t.Context(), broker, prefix)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range records {
		var e struct{ Op string }
		if r.value == nil || json.Unmarshal(r.value, &e) != nil || e.Op != "r" {
			continue
		}
		written++
		if id := r.topic + string(r.key); seen[id] {
			repeated++
		} else {
			seen[id] = true
		}
	}
	return written, repeated
}

// TestSnapshotUnderLoad reads 200,000 rows beside a load on them, and a table without a key.
func TestSnapshotUnderLoad(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("whole_%x", rand.Uint32())
	to := kafkaLog(t)
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	origin := newFilled(t, name, "{parallel: 2}")
	if err := origin.exec(t.Context(), `
		INSERT INTO orders SELECT g, nextval('n'), 'c ' || g, 1.5 * g, false, clock_timestamp(), NULL FROM generate_series(20001, 200000) g;
		CREATE TABLE bag(v int, t text); ALTER TABLE bag REPLICA IDENTITY FULL;
		INSERT INTO bag SELECT g, 'x' FROM generate_series(1, 20000) g;
		TRUNCATE audit; ANALYZE`); err != nil {
		t.Fatal(err)
	}
	run := killRun{T: t, name: name, origin: withBag{origin}, to: to, other: "bag"}
	began := time.Now()
	run.during = func(d *daemon) {
		s := awaitSnapshot(t, d, run.config, name, 2*time.Minute)
		t.Logf("%d rows were read; %s after the daemon's start", s.rows(), s.EndedAt.Sub(began).Round(time.Millisecond))
	}
	run.after = func() { judgeBag(t, origin, to.broker, name) }
	run.run(0, 1)
}

// withBag captures the table bag too, and writes to it.
type withBag struct{ *filled }

func (o withBag) capture() string {
	return strings.Replace(o.filled.capture(), "tables: [", "tables: [public.bag, ", 1)
}

func (o withBag) load(ctx context.Context, seed uint64) error {
	done := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			err := o.exec(context.WithoutCancel(ctx), fmt.Sprintf(
				"UPDATE bag SET t = t || 'y' WHERE v = %d; INSERT INTO bag VALUES (%d, 'new'); DELETE FROM bag WHERE v = %d", 1+i, 20001+i%10, 19000-i))
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return errors.Join(o.filled.load(ctx, seed), <-done)
}

// judgeBag folds the topic of the table bag and compares it.
func judgeBag(t testing.TB, o *filled, broker, prefix string) {
	t.Helper()
	records, err := readTopics(t.Context(), broker, prefix)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range records {
		if !strings.HasSuffix(r.topic, ".bag") || r.partition != 0 {
			continue
		}
		var e struct {
			Op            string
			Before, After *struct {
				V int
				T string
			}
		}
		if err := json.Unmarshal(r.value, &e); err != nil {
			t.Fatal(err)
		}
		if e.Op == "t" {
			clear(count)
			continue
		}
		if e.Before != nil {
			count[fmt.Sprint(*e.Before)]--
		}
		if e.After != nil {
			count[fmt.Sprint(*e.After)]++
		}
	}
	c, err := pgx.Connect(t.Context(), o.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	rows, err := c.Query(t.Context(), "SELECT v, t FROM bag")
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var text string
	if _, err = pgx.ForEachRow(rows, []any{&v, &text}, func() error {
		count[fmt.Sprintf("{%d %s}", v, text)]--
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for value, n := range count {
		if n != 0 {
			if wrong++; wrong < 10 {
				t.Errorf("row %s is %d times more in the topic than in the table", value, n)
			}
		}
	}
}
