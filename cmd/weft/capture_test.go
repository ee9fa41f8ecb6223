package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/fleet"
	"weft/cmd/weft/internal/pipeline"
	"weft/configs"
	"weft/sources/polling"
)

// emptyShop has a daemon's config file without captures.
func emptyShop(t *testing.T) *shop {
	t.Helper()
	s := newShop(t, "")
	s.write(t, fmt.Sprintf("log: {embedded: {dir: %q, listen: \"127.0.0.1:0\"}}\ntopics: {prefix: shop, partitions: 2}\nadmin: {enabled: false}\n",
		filepath.Join(s.dir, "log")))
	t.Setenv("SHOP_PATH", filepath.Join(s.dir, "shop.db"))
	return s
}

// table makes another table that can be captured.
func (s *shop) table(t *testing.T, name string) {
	t.Helper()
	s.exec(t, "CREATE TABLE "+name+" (id INTEGER PRIMARY KEY, name TEXT, weft_version INTEGER)")
	for _, statement := range polling.SQLiteStatements(name, "weft_version") {
		s.exec(t, statement)
	}
}

// run runs the daemon without waiting for a capture.
func (s *shop) run(t *testing.T) *daemon {
	t.Helper()
	d := s.background(t)
	eventually(t, "the daemon has the log", func() bool {
		log, err := s.open(t)
		if err != nil {
			return false
		}
		defer log.close()
		return !log.own
	})
	return d
}

// open opens the log as a command does.
func (s *shop) open(t *testing.T) (*logHandle, error) {
	t.Helper()
	c, err := configs.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	return openLogToRead(c.Log, (&app{stderr: os.Stderr}).logger(c.Logging))
}

func (s *shop) add(t *testing.T, name string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return weft(t, append([]string{"capture", "add", name, "-c", s.config}, args...)...)
}

func (s *shop) arrives(t *testing.T, table, value string) {
	t.Helper()
	eventually(t, "a row of "+table+" is in the topic", func() bool {
		s.exec(t, "INSERT INTO "+table+" (name) VALUES (?)", value)
		_, out, _ := weft(t, "tail", "-c", s.config, "shop."+table, "--from", "start", "--exit-at-end")
		return strings.Contains(out, value)
	})
}

// produce writes a record while no daemon runs.
func (s *shop) produce(t *testing.T, r *kgo.Record) {
	t.Helper()
	log, err := s.open(t)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	cl, err := log.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) client(t *testing.T) *kgo.Client {
	t.Helper()
	log, err := s.open(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.close() })
	cl, err := log.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// TestCaptureAddExtendRemove, as somebody types it while the daemon runs, and once more after it has ended.
func TestCaptureAddExtendRemove(t *testing.T) {
	s := emptyShop(t)
	s.table(t, "more")
	d := s.run(t)
	code, out, errs := s.add(t, "items", "--source", "sqlite", "--set", "path=${SHOP_PATH}", "--set", "interval=10ms", "--table", "item")
	if code != exitDone || !strings.Contains(out, "capture items is registered: sqlite, tables item, topics shop.*") {
		t.Fatalf("%d, %s%s", code, out, errs)
	}
	s.arrives(t, "item", "first")
	if code, out, errs = s.add(t, "items", "--table", "more"); code != exitDone || !strings.Contains(out, "capture items is extended: sqlite, tables item more") {
		t.Fatalf("%d, %s%s", code, out, errs)
	}
	s.arrives(t, "more", "second")

	// What is registered holds no value of a variable.
	e, err := fleet.LoadOne(t.Context(), s.client(t), "items")
	if err != nil || e == nil {
		t.Fatal(e, err)
	}
	if text := string(e.Capture); !strings.Contains(text, `"path":"${SHOP_PATH}"`) || strings.Contains(text, s.dir) {
		t.Errorf("registered is %s", text)
	}
	_, out, _ = weft(t, "capture", "list", "-c", s.config)
	if !strings.Contains(out, "items") || !strings.Contains(out, "registered") || strings.Contains(out, s.dir+"/shop.db") {
		t.Errorf("list printed:\n%s", out)
	}
	if code, out, _ = weft(t, "status", "-c", s.config); code != exitDone || !strings.Contains(out, "running") {
		t.Errorf("status printed:\n%s", out)
	}
	if code, out, _ = weft(t, "check", "-c", s.config); code != exitDone || !strings.Contains(out, "capture items (sqlite)") {
		t.Errorf("check printed:\n%s", out)
	}
	if code, _, errs = weft(t, "capture", "remove", "items", "-c", s.config); code != exitUsage || !strings.Contains(errs, "--yes") {
		t.Errorf("unasked: %d, %s", code, errs)
	}
	d.end(t)

	// The next daemon takes it up where it was.
	d = s.start(t)
	s.arrives(t, "item", "third")
	state := filepath.Join(s.dir, "state", "items")
	if _, err := os.Stat(state); err != nil {
		t.Errorf("what the log holds is not kept where this test looks: %v", err)
	}
	if code, out, errs = weft(t, "capture", "remove", "items", "-c", s.config, "--yes"); code != exitDone ||
		!strings.Contains(out, "removed "+state) || !strings.Contains(out, "capture items is removed") {
		t.Fatalf("%d, %s%s", code, out, errs)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", state, err)
	}
	if _, out, _ = weft(t, "status", "-c", s.config, "--json"); strings.TrimSpace(out) != "null" && strings.TrimSpace(out) != "[]" {
		t.Errorf("after it is removed, status printed %s", out)
	}
	if all, err := checkpoint.Load(t.Context(), s.client(t)); err != nil || len(all) != 0 {
		t.Errorf("checkpoints are left: %v, %v", all, err)
	}
	if code, _, errs = weft(t, "capture", "remove", "items", "-c", s.config, "--yes"); code != exitUsage || !strings.Contains(errs, `no capture "items"`) {
		t.Errorf("removed twice: %d, %s", code, errs)
	}
	d.end(t)
}

func TestCaptureAddRefuses(t *testing.T) {
	s := emptyShop(t)
	d := s.run(t)
	defer d.end(t)
	item := []string{"--source", "sqlite", "--set", "path=${SHOP_PATH}", "--table", "item"}
	if code, out, errs := s.add(t, "items", item...); code != exitDone {
		t.Fatalf("%d, %s%s", code, out, errs)
	}
	file := filepath.Join(s.dir, "capture.yaml")
	if err := os.WriteFile(file, []byte("source:\n  type: sqlite\n  paht: x\ntables: [item]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		capture string
		args    []string
		code    int
		want    string
	}{
		"unknown source":    {"a", []string{"--source", "sqlit", "--table", "item"}, exitUsage, `there is no source "sqlit"; did you mean "sqlite"?`},
		"unknown option":    {"a", append(item, "--set", "paht=x"), exitUsage, `unknown field "paht"; did you mean "path"?`},
		"unknown in a file": {"a", []string{"--file", file}, exitUsage, file + `:3:3: source: unknown field "paht"`},
		"no file":           {"a", []string{"--file", file + "x"}, exitUsage, "no such file"},
		"file and flags":    {"a", []string{"--file", file, "--table", "item"}, exitUsage, "exclude each other"},
		"unknown table":     {"a", []string{"--source", "sqlite", "--set", "path=${SHOP_PATH}", "--table", "itme"}, exitNotSo, "nothing is registered"},
		"unset variable":    {"a", []string{"--source", "sqlite", "--set", "path=${NOT_SET_HERE}", "--table", "item"}, exitUsage, "NOT_SET_HERE is not set"},
		"an inline secret": {"a", []string{"--source", "postgres", "--set", "url=postgres://weft:hunter2@127.0.0.1:1/shop", "--table", "public.a"}, exitUsage,
			"a secret stands here"},
		"characters":         {"A b", item, exitUsage, "1 to 50 of a-z"},
		"a slot's":           {"a", []string{"--source", "postgres", "--set", "url=${SHOP_PATH}", "--set", "slot=a-b", "--table", "a.b"}, exitUsage, "source"},
		"prefix":             {"a", append(item, "--prefix", "a/b"), exitUsage, "as Kafka's topic names are"},
		"name in use":        {"items", item, exitUsage, "is registered already; to add tables give only --table"},
		"another's topic":    {"a", item, exitUsage, "capture items already writes a table of the name item"},
		"another's, pattern": {"a", []string{"--source", "sqlite", "--set", "path=${SHOP_PATH}", "--table", "it*"}, exitNotSo, "topic shop.item: capture items writes to it too"},
		"a table twice":      {"items", []string{"--table", "item"}, exitUsage, "the table is listed twice"},
		"nothing to add to":  {"a", []string{"--table", "item"}, exitUsage, `there is no registered capture "a" to add tables to`},
		"nothing to add":     {"items", nil, exitUsage, "nothing is given to add"},
		"half a key":         {"items", []string{"--key", "item"}, exitUsage, "--key takes"},
		"half a field":       {"a", append(item, "--set", "path"), exitUsage, "--set takes"},
		"no tables":          {"a", item[:4], exitUsage, "--table is not given"},
		"no database": {"a", []string{"--source", "sqlite", "--set", "path=" + filepath.Join(s.dir, "none.db"), "--table", "x"}, exitNotSo,
			"nothing is registered"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := s.add(t, c.capture, c.args...)
			if code != c.code || !strings.Contains(out+errs, c.want) {
				t.Errorf("%d, want %d with %q:\n%s%s", code, c.code, c.want, out, errs)
			}
			if strings.Contains(out+errs, "hunter2") {
				t.Errorf("a secret is printed:\n%s%s", out, errs)
			}
		})
	}
	found, err := fleet.Load(t.Context(), s.client(t))
	if err != nil || len(found) != 1 || found["items"].Err != nil {
		t.Errorf("what was refused has left something: %v, %v", found, err)
	}
}

// TestCorruptRecords: a record that cannot be read stops its own capture, which says where it is; the others go on.
func TestCorruptRecords(t *testing.T) {
	s := newShop(t, "")
	d := s.start(t)
	s.arrives(t, "item", "before")
	cl := s.client(t)
	for topic, record := range map[string]*kgo.Record{
		"registration": {Topic: fleet.Topic.Name, Partition: fleet.PartitionOf("broken"), Key: []byte("broken"), Value: []byte("{")},
		"checkpoint":   {Topic: checkpoint.Topic, Key: []byte("torn"), Value: []byte("?")},
	} {
		if err := cl.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(topic, err)
		}
	}
	s.table(t, "other")
	if code, out, errs := s.add(t, "torn", "--source", "sqlite", "--set", "path="+filepath.Join(s.dir, "shop.db"), "--table", "other"); code != exitNotSo ||
		!strings.Contains(out, "weft checkpoint set torn") {
		t.Errorf("registering over a checkpoint that cannot be read: %d, %s%s", code, out, errs)
	}
	var out string
	eventually(t, "the broken one is shown as failed", func() bool {
		_, out, _ = weft(t, "status", "-c", s.config)
		return strings.Contains(out, "failed")
	})
	if !strings.Contains(out, "broken: the registration of capture \"broken\" (__weft.captures[") || !strings.Contains(out, "weft capture add broken") {
		t.Errorf("status printed:\n%s", out)
	}
	s.arrives(t, "item", "beside it")
	if code, out, _ := weft(t, "check", "-c", s.config); code != exitNotSo || !strings.Contains(out, "problem  registration broken") {
		t.Errorf("check: %d\n%s", code, out)
	}
	// As its remedy says.
	if code, out, errs := s.add(t, "broken", "--source", "sqlite", "--set", "path="+filepath.Join(s.dir, "shop.db"), "--table", "other"); code != exitDone {
		t.Errorf("%d, %s%s", code, out, errs)
	}
	s.arrives(t, "other", "mended")
	d.end(t)
}

// TestCheckpointThatCannotBeRead fails its capture alone, and can be replaced.
func TestCheckpointThatCannotBeRead(t *testing.T) {
	s := newShop(t, "")
	s.table(t, "other")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, string(text)+fmt.Sprintf("  - {name: others, source: {type: sqlite, path: %q, interval: 10ms}, tables: [other]}\n", filepath.Join(s.dir, "shop.db")))
	d := s.start(t)
	s.arrives(t, "item", "a")
	s.arrives(t, "other", "b")
	d.end(t)
	s.produce(t, &kgo.Record{Topic: checkpoint.Topic, Key: []byte("others"), Value: []byte(`{"version":1}`)})

	d = s.start(t)
	s.arrives(t, "item", "c")
	var out string
	eventually(t, "the other one has failed", func() bool {
		_, out, _ = weft(t, "status", "-c", s.config)
		return strings.Contains(out, "failed")
	})
	if !strings.Contains(out, "others: ") || !strings.Contains(out, "__weft.checkpoints offset ") || !strings.Contains(out, "weft checkpoint set others POSITION --epoch N") {
		t.Errorf("status printed:\n%s", out)
	}
	if code, _, errs := weft(t, "checkpoint", "get", "others", "-c", s.config); code != exitFailed || !strings.Contains(errs, "--epoch N") {
		t.Errorf("get: %d, %s", code, errs)
	}
	if code, out, _ := weft(t, "checkpoint", "get", "items", "-c", s.config); code != exitDone || !strings.Contains(out, `"capture": "items"`) {
		t.Errorf("get of the sound one: %d, %s", code, out)
	}
	d.stop()
	<-d.done
	if code, out, errs := weft(t, "checkpoint", "set", "others", "null", "--epoch", "2", "-c", s.config); code != exitDone || !strings.Contains(out, "epoch 2 at null") {
		t.Errorf("set: %d, %s%s", code, out, errs)
	}
	d = s.start(t)
	s.arrives(t, "other", "again")
	d.end(t)
}

// TestCaptureOfFile: the file's captures hold, are shown, and are changed in the file alone; one that has left it is shown until
// it is removed.
func TestCaptureOfFile(t *testing.T) {
	s := newShop(t, "")
	s.table(t, "more")
	d := s.start(t)
	s.arrives(t, "item", "a")
	const inUse = "capture items is in the config file "
	if code, out, errs := s.add(t, "items", "--table", "more"); code != exitUsage || !strings.Contains(errs, inUse) || !strings.Contains(errs, "start weft run again") {
		t.Errorf("add: %d, %s%s", code, out, errs)
	}
	if code, out, errs := weft(t, "capture", "remove", "items", "--yes", "-c", s.config); code != exitUsage || !strings.Contains(errs, inUse) {
		t.Errorf("remove: %d, %s%s", code, out, errs)
	}
	if _, out, _ := weft(t, "capture", "list", "-c", s.config); !strings.Contains(out, "items") || !strings.Contains(out, s.config) {
		t.Errorf("list printed:\n%s", out)
	}
	// Another config file for the same log, while the daemon runs.
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(s.dir, "other.yaml")
	without := string(text[:strings.Index(string(text), "captures:")])
	if err := os.WriteFile(other, []byte(without), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file's capture is known in the log", func() bool {
		_, out, _ := weft(t, "capture", "list", "--all", "-c", other)
		return strings.Contains(out, "items")
	})
	if _, out, _ := weft(t, "capture", "list", "-c", other); strings.Contains(out, "items") {
		t.Errorf("another file's capture is listed:\n%s", out)
	}
	if _, out, _ := weft(t, "status", "-c", other); strings.Contains(out, "items") {
		t.Errorf("another file's capture is shown:\n%s", out)
	}
	if code, _, errs := weft(t, "capture", "remove", "items", "--yes", "-c", other); code != exitUsage || !strings.Contains(errs, "runs it; take it out there") {
		t.Errorf("remove with another file: %d, %s", code, errs)
	}
	if code, _, errs := weft(t, "capture", "add", "items", "--source", "sqlite", "--set", "path=x", "--table", "item", "-c", other); code != exitUsage ||
		!strings.Contains(errs, "runs it; change it there") {
		t.Errorf("add with another file: %d, %s", code, errs)
	}
	d.end(t)

	s.write(t, without)
	d = s.run(t)
	eventually(t, "it is shown as left", func() bool {
		_, out, _ := weft(t, "capture", "list", "-c", s.config)
		return strings.Contains(out, "left by file") && strings.Contains(out, "weft capture remove items")
	})
	if _, out, _ := weft(t, "status", "-c", s.config); !strings.Contains(out, "not running") {
		t.Errorf("status printed:\n%s", out)
	}
	if code, out, _ := weft(t, "check", "-c", s.config); code != exitDone || !strings.Contains(out, "warning  registration items: the config file had this capture") {
		t.Errorf("check printed %d\n%s", code, out)
	}
	if code, out, errs := s.add(t, "others", "--source", "sqlite", "--set", "path="+filepath.Join(s.dir, "shop.db"), "--table", "more"); code != exitDone {
		t.Fatalf("add: %d, %s%s", code, out, errs)
	}
	s.arrives(t, "more", "b") // so the daemon has seen what is registered
	if code, out, errs := weft(t, "capture", "remove", "items", "--yes", "-c", s.config); code != exitDone || !strings.Contains(out, "is removed") {
		t.Errorf("remove: %d, %s%s", code, out, errs)
	}
	d.end(t)
	if !strings.Contains(d.log.String(), "the config file had this capture and has it no more") {
		t.Errorf("the daemon does not say so:\n%s", d.log)
	}
}

// A capture that is wanted again while it ends is not forgotten.
func TestBoardForgetsTheOneThatLeft(t *testing.T) {
	b := newBoard("test")
	was, is := &pipeline.Capture{Name: "a"}, &pipeline.Capture{Name: "a"}
	b.add(was, configs.Capture{Name: "a"})
	b.set(pipeline.Status{Capture: "a", State: pipeline.Stopped})
	b.add(is, configs.Capture{Name: "a"})
	b.drop(was)
	if all, known := b.figures(); len(all) != 1 || all[0].State != pipeline.Starting || known || len(b.running()) != 0 {
		t.Errorf("shown are %+v, known %t: the one that left is not to be, and the next has yet to start", all, known)
	}
	b.set(pipeline.Status{Capture: "a", State: pipeline.Running})
	b.complete()
	if all, known := b.figures(); len(all) != 1 || all[0].State != pipeline.Running || !known || len(b.reports()) != 1 || len(b.running()) != 1 {
		t.Errorf("shown are %+v, known %t", all, known)
	}
	b.drop(is)
	if len(b.captures) != 0 || len(b.configs) != 0 {
		t.Error("captures are kept for ever")
	}
}
