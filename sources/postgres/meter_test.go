package postgres

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// logBuffer keeps a log for a test that reads it while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: b, Level: hclog.Info})
}

func (b *logBuffer) wait(t *testing.T, part string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(b.String(), part); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q:\n%s", part, b)
		}
	}
}

// openMeter opens a source that looks for new tables every few milliseconds.
func (db *database) openMeter(c Config, o sources.OpenOptions) *testStream {
	db.t.Helper()
	ctx := db.t.Context()
	c = c.withDefaults(o.Capture)
	conn, err := connectSQL(ctx, c)
	if err != nil {
		db.t.Fatal(err)
	}
	src, err := c.open(ctx, conn, nil, o)
	if err != nil {
		db.t.Fatal(err)
	}
	src.tablesInterval = 10 * time.Millisecond
	src.startMeter()
	s := &testStream{t: db.t, src: src}
	db.t.Cleanup(s.close)
	for range 2 {
		s.durable(s.next().Position)
	}
	return s
}

// TestNewTables: a table that is made while the capture runs is warned of, once, and again when Open adds it.
func TestNewTables(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE pat_a (a int PRIMARY KEY)", "CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY RANGE (a)",
			"CREATE TABLE renamed (a int PRIMARY KEY)")
		var log logBuffer
		o := db.options("public.pat_*", "public.parts")
		o.Logger = log.logger()
		s := db.openMeter(db.config(), o)
		log.wait(t, "[INFO]  made the replication slot; changes committed from here on are captured: slot="+db.slot()+" lsn=")
		log.wait(t, "[INFO]  made the publication: ")
		db.exec("CREATE VIEW pat_v AS SELECT 1 AS a", "CREATE TABLE other (a int PRIMARY KEY)", "CREATE TABLE pat_1 PARTITION OF parts DEFAULT",
			"CREATE TABLE pat_b (a int PRIMARY KEY)", "CREATE TABLE pat_n (a int)", "ALTER TABLE renamed RENAME TO pat_r")
		const warning = "[WARN]  table public.%s matches tables and is not captured; restart the capture to add it: what is written until then " +
			"is not captured%s"
		log.wait(t, fmt.Sprintf(warning, "pat_b", "\n"))
		log.wait(t, fmt.Sprintf(warning, "pat_r", "\n"))
		log.wait(t, fmt.Sprintf(warning, "pat_n", ": refused_until_mended="))
		db.exec("CREATE TABLE pat_z (a int PRIMARY KEY)") // several looks later, the others are not repeated
		log.wait(t, fmt.Sprintf(warning, "pat_z", "\n"))
		if n := strings.Count(log.String(), "[WARN]"); n != 4 {
			t.Errorf("%d warnings, want 4:\n%s", n, &log)
		}
		s.close()

		db.exec("DROP TABLE pat_n, pat_z, pat_r", "INSERT INTO pat_b VALUES (1)")
		log = logBuffer{}
		o.Position = s.position
		s = db.reopen(db.config(), o)
		added := regexp.MustCompile(`\[WARN\]  added table public\.pat_b to publication ` + db.slot() + `: what was written to it before ([0-9A-F]+/[0-9A-F]+) comes only with a snapshot\n`)
		found := added.FindStringSubmatch(log.String())
		if found == nil || strings.Count(log.String(), "[WARN]") != 1 || strings.Contains(log.String(), "made the publication") {
			t.Fatalf("the log says:\n%s", &log)
		}
		if ordered := db.one("SELECT ($1::pg_lsn <= pg_current_wal_insert_lsn())::text", found[1]); ordered != "true" {
			t.Errorf("the log says that the table was added at %s, which is yet to come", found[1])
		}
		db.exec("INSERT INTO pat_b VALUES (2)")
		equal(t, s.take(1), "c public.pat_b [a] -> a=2")
	})
}

// TestNewTablesPublished: a publication of somebody else's that holds all tables lacks none.
func TestNewTablesPublished(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE pat_a (a int PRIMARY KEY)", "CREATE PUBLICATION theirs FOR ALL TABLES WITH (publish_via_partition_root)")
		var log logBuffer
		c, o := db.config(), db.options("public.pat_*")
		c.Publication, o.Logger = "theirs", log.logger()
		s := db.openMeter(c, o)
		db.exec("CREATE TABLE pat_b (a int PRIMARY KEY)", "INSERT INTO pat_b VALUES (1)")
		equal(t, s.take(1), "c public.pat_b [a] -> a=1")
		time.Sleep(100 * time.Millisecond) // ten looks
		if strings.Contains(log.String(), "[WARN]") {
			t.Errorf("the log says:\n%s", &log)
		}
	})
}
