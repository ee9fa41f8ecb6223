package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver

	"weft/sources"
	"weft/sources/all"
	"weft/sources/polling"
)

// weft runs a command line and returns what it printed.
func weft(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// shop is a directory with a database and a config file that captures it into an embedded log.
type shop struct {
	dir, config string
	db          *sql.DB
}

func newShop(t *testing.T, more string) *shop {
	t.Helper()
	dir := t.TempDir()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "shop.db")+"?_pragma=journal_mode(wal)&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &shop{dir: dir, config: filepath.Join(dir, "weft.yaml"), db: db}
	s.exec(t, `CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, weft_version INTEGER)`)
	for _, statement := range polling.SQLiteStatements("item", "weft_version") {
		s.exec(t, statement)
	}
	s.write(t, fmt.Sprintf(`
log: {embedded: {dir: %q, listen: "127.0.0.1:0"}}
topics: {prefix: shop, partitions: 2}
captures:
  - {name: items, source: {type: sqlite, path: %q, interval: 10ms}, tables: [item]}
%s`, filepath.Join(dir, "log"), filepath.Join(dir, "shop.db"), more))
	return s
}

func (s *shop) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := s.db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) write(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// daemon is `weft run` in the background.
type daemon struct {
	stop context.CancelFunc
	done chan struct{}
	code int // once done
	log  *bytes.Buffer
}

func (s *shop) start(t *testing.T) *daemon {
	t.Helper()
	d := s.background(t)
	eventually(t, "the capture runs", func() bool {
		_, out, _ := weft(t, "status", "-c", s.config, "--json")
		return strings.Contains(out, `"state": "running"`)
	})
	return d
}

// background is start without waiting for a capture.
func (s *shop) background(t *testing.T) *daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{stop: cancel, done: make(chan struct{}), log: &bytes.Buffer{}}
	go func() {
		defer close(d.done)
		d.code = execute(ctx, []string{"run", "-c", s.config}, d.log, d.log)
	}()
	t.Cleanup(cancel)
	t.Cleanup(func() {
		if t.Failed() {
			cancel()
			<-d.done
			t.Logf("the daemon said:\n%s", d.log)
		}
	})
	return d
}

func (d *daemon) end(t *testing.T) {
	t.Helper()
	d.stop()
	select {
	case <-d.done:
		if d.code != exitDone {
			t.Errorf("a stopped daemon ends with exit code %d", d.code)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon does not stop within 10 s")
	}
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	within(t, 20*time.Second, what, so)
}

func within(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatalf("not within %s: %s", limit, what)
}

func TestRunTailStatusCheckpoint(t *testing.T) {
	s := newShop(t, "")
	d := s.start(t)
	s.exec(t, `INSERT INTO item (id, name) VALUES (1, 'a <b>')`)
	var line struct {
		Topic, Timestamp string
		Key              struct{ ID int }
		Value            struct {
			Op    string
			After struct{ Name string }
		}
		Headers map[string]string
	}
	eventually(t, "the row is in the topic", func() bool {
		code, out, _ := weft(t, "tail", "-c", s.config, "shop.item", "--from", "start", "--exit-at-end")
		return code == exitDone && json.Unmarshal([]byte(out), &line) == nil
	})
	if line.Topic != "shop.item" || line.Key.ID != 1 || line.Value.Op != "c" || line.Value.After.Name != "a <b>" || line.Headers["weft-seq"] == "" || line.Timestamp == "" {
		t.Errorf("tail printed %+v", line)
	}
	d.end(t)

	// Without the daemon the same commands open the log themselves.
	var all []captureStatus
	if code, out, errs := weft(t, "status", "-c", s.config, "--json"); code != exitDone || json.Unmarshal([]byte(out), &all) != nil || len(all) != 1 {
		t.Fatalf("status: exit code %d\n%s%s", code, out, errs)
	}
	if got := all[0]; got.Capture != "items" || got.State != "not running" || got.Changes != 1 || got.Epoch != 1 {
		t.Errorf("status %+v", got)
	}
	if _, out, _ := weft(t, "status", "-c", s.config); !strings.Contains(out, "items") || !strings.Contains(out, "items is at {") {
		t.Errorf("status printed\n%s", out)
	}
	code, out, errs := weft(t, "checkpoint", "get", "-c", s.config, "items")
	var cp struct {
		Epoch    int
		Position json.RawMessage
	}
	if err := json.Unmarshal([]byte(out), &cp); code != exitDone || err != nil || cp.Epoch != 1 {
		t.Fatalf("checkpoint get: exit code %d, %v\n%s%s", code, err, out, errs)
	}
	_, position, _ := weft(t, "checkpoint", "get", "--position", "-c", s.config, "items")
	if code, out, errs := weft(t, "checkpoint", "set", "-c", s.config, "items", strings.TrimSpace(position)); code != exitDone || !strings.Contains(out, "epoch 2") {
		t.Errorf("checkpoint set: exit code %d\n%s%s", code, out, errs)
	}

	// It goes on in the new epoch.
	d = s.start(t)
	s.exec(t, `UPDATE item SET name = 'c' WHERE id = 1`)
	eventually(t, "the update is in the topic, in epoch 2", func() bool {
		_, out, _ := weft(t, "tail", "-c", s.config, "shop.item", "--from", "start", "--exit-at-end")
		return strings.Contains(out, `"weft-seq":"00000002.`)
	})
	s.exec(t, `INSERT INTO item (id, name) VALUES (2, 'other')`)
	eventually(t, "the other row is in the topic, and not among the first one's records", func() bool {
		_, other, _ := weft(t, "tail", "-c", s.config, "shop.item", "--exit-at-end", "--key", "2")
		_, first, _ := weft(t, "tail", "-c", s.config, "shop.item", "--exit-at-end", "--key", `{"id": 1}`)
		return strings.Count(other, "\n") == 1 && strings.Contains(other, `"other"`) && strings.Count(first, "\n") == 2 && !strings.Contains(first, `"other"`)
	})
	if code, _, errs := weft(t, "checkpoint", "set", "-c", s.config, "items", "null"); code != exitFailed || !strings.Contains(errs, "stop it first") {
		t.Errorf("checkpoint set beside a daemon: exit code %d, %s", code, errs)
	}
	if code, _, errs := weft(t, "run", "-c", s.config); code != exitFailed || !strings.Contains(errs, "in use by process") {
		t.Errorf("a second daemon: exit code %d, %s", code, errs)
	}
	d.end(t)
}

func TestExitCodes(t *testing.T) {
	s, empty := newShop(t, ""), newShop(t, "")
	if err := os.Mkdir(filepath.Join(s.dir, "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"version":               {[]string{"version"}, exitDone, ""},
		"unknown command":       {[]string{"rnu"}, exitUsage, `unknown command "rnu"`},
		"unknown flag":          {[]string{"run", "--fast"}, exitUsage, "--fast"},
		"no such config":        {[]string{"run", "-c", "/none.yaml"}, exitUsage, "/none.yaml"},
		"tail without a topic":  {[]string{"tail", "-c", s.config}, exitUsage, "usage: weft tail TOPIC"},
		"tail of no such topic": {[]string{"tail", "-c", s.config, "shop.none"}, exitNotSo, "shop.none"},
		"tail from nowhere":     {[]string{"tail", "-c", s.config, "shop.item", "--from", "x"}, exitUsage, "start or end"},
		"too many arguments":    {[]string{"status", "-c", s.config, "now"}, exitUsage, "usage: weft status"},
		"no checkpoint":         {[]string{"checkpoint", "get", "-c", s.config, "items"}, exitNotSo, "no checkpoint"},
		"no log":                {[]string{"status", "-c", empty.config}, exitFailed, "weft run makes it"},
		"no such capture":       {[]string{"checkpoint", "set", "-c", s.config, "itmes", "{}"}, exitUsage, "itmes"},
		"no JSON":               {[]string{"checkpoint", "set", "-c", s.config, "items", "{"}, exitUsage, "not JSON"},
		"demo for no time":      {[]string{"demo", "--for", "0s"}, exitUsage, "--for"},
		"demo in what exists":   {[]string{"demo", "--dir", s.dir}, exitFailed, "--dir"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := weft(t, c.args...)
			if code != c.code || !strings.Contains(errs, c.want) {
				t.Errorf("exit code %d, want %d; want %q in\n%s%s", code, c.code, c.want, out, errs)
			}
		})
	}
}

// A configuration or database that cannot work ends the daemon at once, with what to do.
func TestRunFailsForGood(t *testing.T) {
	s := newShop(t, "")
	s.exec(t, `DROP TRIGGER weft_insert_item`)
	code, _, errs := weft(t, "run", "-c", s.config)
	if code != exitFailed || !strings.Contains(errs, "CREATE TRIGGER") || !strings.Contains(errs, "items") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

func TestRunPortInUse(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	s := newShop(t, "")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, strings.Replace(string(text), "127.0.0.1:0", busy.Addr().String(), 1))
	if code, _, errs := weft(t, "run", "-c", s.config); code != exitFailed || !strings.Contains(errs, busy.Addr().String()+" is in use") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

// One capture that needs somebody does not stop the other.
func TestRunWithOneFailedCapture(t *testing.T) {
	s := newShop(t, `  - {name: broken, source: {type: sqlite, path: /none/x.db}, tables: [other]}`)
	d := s.start(t)
	s.exec(t, `INSERT INTO item (id, name) VALUES (1, 'a')`)
	eventually(t, "the row is in the topic", func() bool {
		code, _, _ := weft(t, "tail", "-c", s.config, "shop.item", "--from", "start", "--exit-at-end")
		return code == exitDone
	})
	eventually(t, "status shows the error", func() bool {
		_, out, _ := weft(t, "status", "-c", s.config)
		return strings.Contains(out, "broken: ") && strings.Contains(out, "/none/x.db")
	})
	d.stop()
	<-d.done
}

func TestDemo(t *testing.T) {
	code, out, errs := weft(t, "demo", "--for", "1s")
	if code != exitDone || !strings.Contains(out, "folds to exactly the table") || !strings.Contains(out, "op=c") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

// Without this a crash of the daemon would deliver rows twice on the embedded log.
func TestPollersSaySo(t *testing.T) {
	for kind, polls := range map[string]bool{"sqlite": true, "postgres-poll": true, "mariadb": true, "mysql": true, "sql": true, "postgres": false} {
		if _, ok := all.Kinds[kind]().(sources.Poller); ok != polls {
			t.Errorf("source type %s: polls = %v", kind, ok)
		}
	}
}
