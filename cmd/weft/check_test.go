package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/configs"
	"weft/sink"
	"weft/sources/postgres"
)

var update = flag.Bool("update", false, "write testdata")

// golden compares what a command printed, without what differs from run to run.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", file, got)
	}
}

// wrongShop has a table that is in order, one without a watermark and one without a key; a second capture writes to the
// first one's topic, and a third has no database.
func wrongShop(t *testing.T) *shop {
	t.Helper()
	s := newShop(t, "")
	s.exec(t, "CREATE TABLE bare (id INTEGER PRIMARY KEY)")
	s.exec(t, "CREATE TABLE keyless (a TEXT)")
	s.write(t, fmt.Sprintf(`
log: {embedded: {dir: %[1]q, listen: "127.0.0.1:0"}}
topics: {prefix: shop, partitions: 2}
captures:
  - {name: items, source: {type: sqlite, path: %[2]q}, tables: ["*"]}
  - {name: again, source: {type: sqlite, path: %[2]q}, tables: ["it*"]}
  - {name: gone, source: {type: sqlite, path: %[3]q}, tables: [item]}
`, filepath.Join(s.dir, "log"), filepath.Join(s.dir, "shop.db"), filepath.Join(s.dir, "none.db")))
	return s
}

func TestCheck(t *testing.T) {
	s := wrongShop(t)
	code, out, errs := weft(t, "check", "-c", s.config)
	if code != exitNotSo {
		t.Errorf("exit code %d", code)
	}
	golden(t, "check.txt", strings.ReplaceAll(out+errs, s.dir, "DIR"))
	if _, err := os.Stat(filepath.Join(s.dir, "log")); !os.IsNotExist(err) {
		t.Errorf("the check has made the log: %v", err)
	}

	// Only the captures that are named.
	code, out, _ = weft(t, "check", "-c", s.config, "gone", "--json")
	var r checkReport
	if err := json.Unmarshal([]byte(strings.ReplaceAll(out, `"level": "`, `"text": "`)), &r); err != nil || code != exitNotSo {
		t.Fatalf("%d, %v:\n%s", code, err, out)
	}
	if len(r.Captures) != 1 || r.Captures[0].Capture != "gone" || r.Problems != 1 || !strings.Contains(out, `"level": "problem"`) {
		t.Errorf("--json printed:\n%s", out)
	}
	if code, _, errs := weft(t, "check", "-c", s.config, "nobody"); code != exitUsage || !strings.Contains(errs, `no capture "nobody"`) {
		t.Errorf("%d, %s", code, errs)
	}
}

// TestCheckInOrder: before the first start, while the daemon runs, and after it.
func TestCheckInOrder(t *testing.T) {
	s := newShop(t, "")
	clean := func(parts ...string) {
		t.Helper()
		code, out, errs := weft(t, "check", "-c", s.config)
		if code != exitDone || !strings.HasSuffix(out, "\n0 problems, 0 warnings\n") {
			t.Errorf("%d, %s%s", code, out, errs)
		}
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("%q is not in:\n%s", part, out)
			}
		}
	}
	clean("log does not exist; weft run makes it", "table item: key (id)")
	d := s.start(t)
	s.exec(t, "INSERT INTO item (id) VALUES (1)")
	eventually(t, "the topic is there", func() bool {
		_, out, _ := weft(t, "check", "-c", s.config)
		return strings.Contains(out, "topic shop.item: 2 partitions, settings as configured")
	})
	clean("topic __weft.checkpoints: 1 partitions")
	d.end(t)
	clean("topic shop.item: 2 partitions")
}

func TestCheckLog(t *testing.T) {
	s := newShop(t, "")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, strings.Replace(string(config), "127.0.0.1:0", taken.Addr().String(), 1))
	if code, out, _ := weft(t, "check", "-c", s.config); code != exitNotSo || !strings.Contains(out, "problem  embedded: weft run could not listen") {
		t.Errorf("%d, %s", code, out)
	}
	// Brokers that do not answer are a problem, and the captures are looked at all the same.
	log, _, _ := strings.Cut(string(config[strings.Index(string(config), "log:"):]), "\n")
	s.write(t, strings.Replace(string(config), log, `log: {brokers: ["127.0.0.1:1"]}`, 1))
	began := time.Now()
	code, out, _ := weft(t, "check", "-c", s.config)
	if code != exitNotSo || !strings.Contains(out, "problem  brokers: the brokers do not answer") || !strings.Contains(out, "ok       table item") {
		t.Errorf("%d, %s", code, out)
	}
	if took := time.Since(began); took > 2*checkTime {
		t.Errorf("it took %s", took)
	}
}

// TestPreflight: what is wrong with one capture is told at once, stops that one, and no other.
func TestPreflight(t *testing.T) {
	s := wrongShop(t)
	s.exec(t, "PRAGMA journal_mode = delete")
	d := s.start(t) // one capture runs
	eventually(t, "the others have failed", func() bool {
		_, out, _ := weft(t, "status", "-c", s.config, "--json")
		return strings.Count(out, `"state": "failed"`) == 2 && strings.Count(out, `"state": "running"`) == 1
	})
	_, out, _ := weft(t, "status", "-c", s.config)
	for _, part := range []string{"table bare: it has no column weft_version", "table keyless: it has no column weft_version", "CREATE TRIGGER", "none.db"} {
		if !strings.Contains(out, part) {
			t.Errorf("%q is not in:\n%s", part, out)
		}
	}
	d.stop()
	<-d.done
	if n := strings.Count(d.log.String(), "weft.again: database: journal mode delete"); n != 1 {
		t.Errorf("the warning is there %d times:\n%s", n, d.log)
	}
}

// TestPreflightOutage: brokers or a database that do not answer do not fail a capture, which is looked at again at the next
// start.
func TestPreflightOutage(t *testing.T) {
	s := newShop(t, "")
	c, err := configs.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	warn := func(msg string, _ ...any) { said = append(said, msg) }
	writer := sink.Options{
		Log:    &sink.Log{Brokers: []string{"127.0.0.1:1"}, Profile: "kafka", CommitBytes: 1 << 20},
		Topics: sink.Topics{Prefix: "shop", Partitions: 1, Create: true},
	}
	for range 2 {
		began := time.Now()
		if err := preflight(c, c.Captures[0], writer, warn)(t.Context()); err != nil {
			t.Errorf("brokers that do not answer: %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %s", took)
		}
	}
	away := c.Captures[0]
	away.Source = &postgres.Config{URL: "postgres://weft:secret@127.0.0.1:1/shop?connect_timeout=2"}
	away.Tables = []string{"public.item"}
	if err := preflight(c, away, writer, warn)(t.Context()); err != nil {
		t.Errorf("a database that does not answer: %v", err)
	}
	if len(said) > 0 {
		t.Errorf("what the capture will tell is told twice: %q", said)
	}
	// The look that sees something wrong is not the last.
	look := preflight(c, c.Captures[0], writer, warn)
	s.exec(t, "DROP TRIGGER weft_update_item")
	for range 2 {
		if err := look(t.Context()); err == nil || !strings.Contains(err.Error(), "no trigger on UPDATE") {
			t.Errorf("a trigger that is missing: %v", err)
		}
	}
}
