package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kadm"

	"weft/checkpoint"
	"weft/configs"
)

// kadmCreate makes a topic by hand.
func kadmCreate(t *testing.T, s *shop, topic string, partitions int32) error {
	t.Helper()
	_, err := kadm.NewClient(s.client(t)).CreateTopic(t.Context(), partitions, 1, nil, topic)
	return err
}

// with adds lines to the config file.
func (s *shop) with(t *testing.T, more string) {
	t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, string(text)+more)
}

// The daemon archives what it captures, also what was registered while it runs, and once for each period.
func TestDaemonArchives(t *testing.T) {
	s := emptyShop(t)
	s.with(t, fmt.Sprintf("archives: {bucket: %q, every: 1h, keep: 2}\n", "file://"+filepath.Join(s.dir, "archives")))
	d := s.run(t)
	if code, out, errs := s.add(t, "items", "--source", "sqlite", "--set", "path=${SHOP_PATH}", "--set", "interval=10ms", "--table", "item"); code != exitDone {
		t.Fatalf("%d\n%s%s", code, out, errs)
	}
	s.arrives(t, "item", "first")
	manifests := func() []string {
		found, err := filepath.Glob(filepath.Join(s.dir, "archives", "shop.item", "*", "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	eventually(t, "the registered capture's table is archived", func() bool { return len(manifests()) > 0 })
	refused(t, exitUsage, "--to-live-topic", "replay", "items", "item", "--to", "shop.item", "-c", s.config)
	time.Sleep(lookEvery + time.Second)
	d.end(t)
	if n := len(manifests()); n != 1 {
		t.Errorf("%d archives in one period", n)
	}
	if said := strings.Count(d.log.String(), "archived"); said != 1 {
		t.Errorf("%d archives in the daemon's messages:\n%s", said, d.log)
	}
}

// A table is not archived before its snapshot has read it whole.
func TestBeingRead(t *testing.T) {
	cc := &configs.Capture{}
	cc.Topics.Prefix = "shop"
	now := time.Now()
	tables := []checkpoint.TableSnapshot{{Table: "public.done", Done: true}, {Table: "public.open"}}
	for name, c := range map[string]struct {
		s     *checkpoint.Snapshot
		topic string
		want  bool
	}{
		"no snapshot":          {nil, "shop.public.open", false},
		"tables not known yet": {&checkpoint.Snapshot{}, "shop.public.done", true},
		"not read yet":         {&checkpoint.Snapshot{Tables: tables}, "shop.public.open", true},
		"read":                 {&checkpoint.Snapshot{Tables: tables}, "shop.public.done", false},
		"not in it":            {&checkpoint.Snapshot{Tables: tables}, "shop.public.other", false},
		"ended":                {&checkpoint.Snapshot{Tables: tables, EndedAt: &now}, "shop.public.open", false},
		"ended before any":     {&checkpoint.Snapshot{EndedAt: &now}, "shop.public.open", false},
	} {
		if got := beingRead(c.s, cc, c.topic); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Archives that are rarer than a topic's retention would lose changes; the check says so, of what is configured and of what the
// topic has.
func TestCheckRefusesRareArchives(t *testing.T) {
	s := newShop(t, "")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	config := func(topics, every string) {
		t.Helper()
		s.write(t, strings.Replace(string(text), "tables: [item]", "tables: [item]"+topics, 1)+
			fmt.Sprintf("archives: {bucket: %q, every: %s}\n", "file://"+filepath.Join(s.dir, "archives"), every))
	}
	const hour = ", topics: {retention: 1h}"
	config(hour, "30m")
	d := s.start(t)
	s.arrives(t, "item", "x")
	d.end(t)
	for name, c := range map[string]struct{ topics, every, want string }{
		"in order":     {hour, "30m", ""},
		"configured":   {hour, "2h", "archives.every is 2h0m0s, and topics.retention keeps records for 1h0m0s"},
		"of the topic": {"", "2h", "archives.every is 2h0m0s, and topic shop.item keeps records for 1h0m0s"},
	} {
		config(c.topics, c.every)
		code, out, _ := weft(t, "check", "-c", s.config)
		if refuses := code == exitNotSo; refuses != (c.want != "") || !strings.Contains(out, c.want) {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
}

// What fails for good is tried ever more rarely, and said once; so is its end.
func TestArchiveFailuresAreSaidOnce(t *testing.T) {
	var out bytes.Buffer
	var last error
	s := &archiver{logger: hclog.New(&hclog.LoggerOptions{Output: &out}), failing: map[string]*failing{}, observe: func(_, _ string, err error) { last = err }}
	now, tries := time.Now(), 0
	var err error
	tick := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(lookEvery) {
			s.attempt(t.Context(), now, "items", "topic shop.item", func() error { tries++; return err })
		}
	}
	err = errors.New("write 20261125T003242.105Z-36530b8d/part-00000.parquet: the bucket is full")
	tick(time.Hour)
	err = errors.New("write 20261125T013242.106Z-19a0c6ca/part-00000.parquet: the bucket is full")
	tick(time.Hour)
	if said := strings.Count(out.String(), "is full"); said != 1 || tries < 12 || tries > 25 {
		t.Errorf("tried %d times, said %d times", tries, said)
	}
	err = errors.New("no rights")
	tick(time.Hour)
	if said := strings.Count(out.String(), "no rights"); said != 1 {
		t.Errorf("another error was said %d times", said)
	}
	if last != err {
		t.Errorf("observed %v", last)
	}
	err = nil
	tick(time.Hour)
	tries = 0
	tick(time.Minute)
	if said := strings.Count(out.String(), "made again"); said != 1 || tries < 11 {
		t.Errorf("its end was said %d times, and then there were %d tries in a minute", said, tries)
	}
}

// weft status says why archives fail, as long as they do.
func TestStatusOfFailingArchives(t *testing.T) {
	s := newShop(t, "")
	bucket := filepath.Join(s.dir, "archives")
	if err := os.Mkdir(bucket, 0o755); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(bucket, "shop.item")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.with(t, fmt.Sprintf("archives: {bucket: %q, every: 1h}\n", "file://"+bucket))
	d := s.run(t)
	s.arrives(t, "item", "first")
	said := func() bool {
		_, out, _ := weft(t, "status", "-c", s.config)
		return strings.Contains(out, "items: archives of topic shop.item: ")
	}
	eventually(t, "the failure is in weft status", said)
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	// By now there may have been three attempts, and the fourth comes 20 s after the third.
	within(t, time.Minute, "the failure is no more in weft status", func() bool { return !said() })
	d.end(t)
	if text := d.log.String(); strings.Count(text, "archives are not made") != 1 || !strings.Contains(text, "made again") {
		t.Errorf("the daemon's messages:\n%s", text)
	}
}
