package admin

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"weft/checkpoint"
	"weft/cmd/weft/internal/pipeline"
	"weft/sources"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// healthy is a capture that delivered a moment ago and has nothing to do.
func healthy(name string) Capture {
	c := Capture{
		Status: pipeline.Status{Capture: name, State: pipeline.Running, Since: now.Add(-time.Hour), Progress: pipeline.Progress{Epoch: 1}},
		Figures: pipeline.Figures{
			Changes: 5, Bytes: 700, Commits: 3, Starts: 1, CommitTime: 1500 * time.Millisecond, Idle: true,
			Progressed: now.Add(-time.Minute), Complete: now.Add(-time.Minute), BufferedBytes: 1, BufferLimit: 100, Lag: sources.UnknownLag,
		},
	}
	c.CommitBuckets[0], c.CommitBuckets[7], c.CommitBuckets[len(c.CommitBuckets)-1] = 1, 1, 1
	return c
}

func TestReady(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *Capture)
		why    string // empty: ready
	}{
		"quiet":                  {func(*Capture) {}, ""},
		"never had anything":     {func(c *Capture) { c.Commits, c.Idle, c.Progressed = 0, false, now.Add(-time.Hour) }, ""},
		"busy":                   {func(c *Capture) { c.Idle, c.Progressed = false, now.Add(-time.Second) }, ""},
		"busy, nothing comes in": {func(c *Capture) { c.Idle = false }, "nothing was committed for 1m0s"},
		"commit under way":       {func(c *Capture) { c.Committing = now.Add(-20 * time.Second) }, ""},
		"log stands still":       {func(c *Capture) { c.Committing = now.Add(-40 * time.Second) }, "has not answered a commit for 40s"},
		"database says nothing":  {func(c *Capture) { c.Lag.Bytes = 1 << 30 }, "1024 MiB ahead"},
		"other tables written":   {func(c *Capture) { c.Lag.Bytes = 1 << 20 }, ""},
		"about to start":         {func(c *Capture) { c.State, c.Since = pipeline.Starting, time.Time{} }, "about to start"},
		"starting":               {func(c *Capture) { c.State = pipeline.Starting }, "starting since 2026-03-01T11:00:00Z"},
		"retrying":               {func(c *Capture) { c.State, c.Err = pipeline.Retrying, errors.New("no route") }, "no route"},
		"failed":                 {func(c *Capture) { c.State, c.Err = pipeline.Failed, errors.New("no rights") }, "failed since 2026-03-01T11:00:00Z: no rights"},
	} {
		t.Run(name, func(t *testing.T) {
			c := healthy("orders")
			test.change(&c)
			if why := obstacle(c, now); (why == "") != (test.why == "") || !strings.Contains(why, test.why) {
				t.Errorf("%q, want %q", why, test.why)
			}
		})
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServer(t *testing.T) {
	sick := healthy("sick")
	sick.State, sick.Err = pipeline.Failed, errors.New("no rights")
	var all []Capture
	known := false
	s, err := Listen("127.0.0.1:0", "v1", func() ([]Capture, bool) { return all, known })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(s.Addr(), "v1", nil); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "admin.listen") {
		t.Errorf("a port that is taken gave %v", err)
	}
	base := "http://" + s.Addr()
	const unread = `{"ready":false,"why":"which captures to run has not been read from the log yet","captures":[`
	for _, path := range []string{"/readyz", "/readyz?capture=orders"} {
		if code, body := get(t, base+path); code != 503 || !strings.Contains(body, unread+"]") {
			t.Errorf("%s before the captures are known: %d %s", path, code, body)
		}
	}
	all = []Capture{healthy("orders")}
	if code, body := get(t, base+"/readyz"); code != 503 || !strings.Contains(body, unread+`{"capture":"orders","ready":true}]`) {
		t.Errorf("before all captures are known: %d %s", code, body)
	}
	if code, body := get(t, base+"/readyz?capture=orders"); code != 200 {
		t.Errorf("one that is known and runs: %d %s", code, body)
	}
	all, known = append(all, sick), true
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/healthz":               {200, "ok"},
		"/readyz":                {503, `{"capture":"sick","ready":false,"why":"failed since 2026-03-01T11:00:00Z: no rights"}`},
		"/readyz?capture=orders": {200, `{"ready":true,"captures":[{"capture":"orders","ready":true}]}`},
		"/readyz?capture=sick":   {503, "no rights"},
		"/readyz?capture=none":   {404, `"ready":false`},
		"/metrics":               {200, `weft_capture_changes_total{capture="orders"} 5`},
	} {
		if code, body := get(t, base+path); code != want.code || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s, want %d %s", path, code, body, want.code, want.body)
		}
	}
	all = all[:1]
	if code, body := get(t, base+"/readyz"); code != 200 {
		t.Errorf("after the sick capture has gone: %d %s", code, body)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	idle, busy := healthy("idle"), healthy("busy")
	busy.Idle, busy.Complete, busy.Progressed = false, now.Add(-90*time.Second), now
	busy.Lag = sources.Lag{Bytes: 10, RetainedBytes: 20, SafeBytes: 600, GrowthRate: 3, ReadAheadBytes: 4, ReadAheadLimit: 5}
	busy.Rows = 700
	busy.Snapshot = &checkpoint.Snapshot{Tables: []checkpoint.TableSnapshot{{Done: true}, {}, {}}}
	idle.Snapshot = &checkpoint.Snapshot{EndedAt: &now, Tables: []checkpoint.TableSnapshot{{}}}
	c := &collector{version: "v1", captures: func() ([]Capture, bool) { return []Capture{idle, busy}, true }, now: func() time.Time { return now }}
	want := `
# HELP weft_capture_commit_duration_seconds How long the log took to commit.
# TYPE weft_capture_commit_duration_seconds histogram
` + histogram("busy") + histogram("idle") + `
# HELP weft_capture_lag_bytes Bytes of the datastore's own log that were not yet read.
# TYPE weft_capture_lag_bytes gauge
weft_capture_lag_bytes{capture="busy"} 10
# HELP weft_capture_lag_seconds The log holds all that the datastore committed until so many seconds ago. 0 while there is nothing more to read.
# TYPE weft_capture_lag_seconds gauge
weft_capture_lag_seconds{capture="busy"} 90
weft_capture_lag_seconds{capture="idle"} 0
# HELP weft_slot_seconds_until_invalidation How long weft_slot_safe_bytes last at the rate at which the database has lately written, if the capture stood still. Absent without a limit or a rate.
# TYPE weft_slot_seconds_until_invalidation gauge
weft_slot_seconds_until_invalidation{capture="busy"} 200
# HELP weft_snapshot_rows_total Rows that snapshots have committed to the log since the daemon's start.
# TYPE weft_snapshot_rows_total counter
weft_snapshot_rows_total{capture="busy"} 700
weft_snapshot_rows_total{capture="idle"} 0
# HELP weft_snapshot_tables_remaining Tables that the snapshot under way has not read to their ends; 0 without one.
# TYPE weft_snapshot_tables_remaining gauge
weft_snapshot_tables_remaining{capture="busy"} 2
weft_snapshot_tables_remaining{capture="idle"} 0
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "weft_capture_lag_seconds", "weft_capture_lag_bytes",
		"weft_slot_seconds_until_invalidation", "weft_snapshot_rows_total", "weft_snapshot_tables_remaining", "weft_capture_commit_duration_seconds"); err != nil {
		t.Error(err)
	}
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

func histogram(capture string) string {
	var b strings.Builder
	for _, bound := range strings.Fields("0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 +Inf") {
		n := "1"
		switch bound {
		case "1", "2.5", "5", "10", "30":
			n = "2"
		case "+Inf":
			n = "3"
		}
		b.WriteString(`weft_capture_commit_duration_seconds_bucket{capture="` + capture + `",le="` + bound + `"} ` + n + "\n")
	}
	b.WriteString(`weft_capture_commit_duration_seconds_sum{capture="` + capture + `"} 1.5` + "\n")
	b.WriteString(`weft_capture_commit_duration_seconds_count{capture="` + capture + `"} 3` + "\n")
	return b.String()
}

// What dashboards and alerts ask for must be there, and so must what they are described by.
func TestDashboardAndAlerts(t *testing.T) {
	c := healthy("orders")
	c.Lag = sources.Lag{SafeBytes: 1, GrowthRate: 1}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{version: "v1", captures: func() ([]Capture, bool) { return []Capture{c}, true }, now: time.Now})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, f := range families {
		there[f.GetName()] = true
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if f.GetMetric()[0].GetHistogram() != nil {
				there[f.GetName()+suffix] = true
			}
		}
	}
	name := regexp.MustCompile(`\bweft_[a-z_]+`)
	for _, file := range []string{"grafana/weft.json", "prometheus/alerts.yaml", "../docs/operations.md"} {
		text, err := os.ReadFile(filepath.Join("../../../../configs", file))
		if err != nil {
			t.Fatal(err)
		}
		used := name.FindAllString(string(text), -1)
		if len(used) == 0 {
			t.Errorf("%s: no metric", file)
		}
		for _, metric := range used {
			if !there[metric] {
				t.Errorf("%s: there is no metric %s", file, metric)
			}
		}
		if strings.HasSuffix(file, ".md") {
			for metric := range there {
				if !strings.Contains(string(text), "`"+metric+"`") && !regexp.MustCompile(`_(bucket|sum|count)$`).MatchString(metric) {
					t.Errorf("%s: lacks %s", file, metric)
				}
			}
		}
	}
	text, err := os.ReadFile("../../../../configs/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(text, &rules, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Expr == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %+v is not whole", r)
			}
		}
	}
}
