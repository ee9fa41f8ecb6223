package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
)

// TestSpannerTable: tables with rows from before, one of them added later, verify clean, are archived, replayed from the archive and by a
// key without the server, and a topic is mended where it is wrong.
func TestSpannerTable(t *testing.T) {
	name := fmt.Sprintf("spanner_%x", rand.Uint32())
	to := kafkaLog(t)
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	o := newFilledSpanner(t, name, "{chunk: 65536}").(*spannerOrigin)
	dir := t.TempDir()
	configFor := func(tables string) string {
		return writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: 3}\nadmin: {enabled: false}\narchives: {bucket: %q}\n"+
			"captures:\n  - {name: %[2]s, source: %[4]s, tables: [%s], snapshot: initial, snapshot_options: {chunk: 65536}}\n",
			to.config, name, "file://"+filepath.Join(dir, "archives"), o.source(), tables)
	}
	config := configFor("orders, pulse")
	d := startDaemon(t, config)
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + ".pulse"}
	pulse.await(t, d, time.Minute)
	if s := awaitSnapshot(t, d, config, name, time.Minute); s.rows() < filledSpanner/2 {
		t.Errorf("%d rows of %d were read", s.rows(), filledSpanner/2)
	}
	d.stop()

	config = configFor("orders, lines, pulse")
	d = startDaemon(t, config)
	pulse.await(t, d, time.Minute)
	eventuallySnapshot(t, d, config, name, "table added", 2)
	for i := range 100 {
		m := spanner.Update("lines", []string{"order_id", "sku", "body"}, []any{100 + i, `old "7"`, "changed"})
		if i%2 == 0 {
			m = spanner.Delete("lines", spanner.Key{100 + i/2, `old "8"`})
		}
		if _, err := o.apply(t.Context(), m); err != nil && spanner.ErrCode(err).String() != "NotFound" {
			t.Fatal(err)
		}
	}
	v, code, text := verify(t, config, name)
	if code != 0 || !v.Clean || len(v.Tables) != 3 {
		t.Fatalf("code %d:\n%s\nthe daemon's messages:\n%s", code, text, d.messages())
	}
	want, err := o.tables(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	o.replayed(t, config, name, dir, "lines", want["lines"])
	if one := weft(t, "replay", name, "lines", "--key", `{"order_id":101,"sku":"old \"7\""}`, "--to", "-", "-c", config); !strings.Contains(one, `changed`) || strings.Count(one, "\n") != 1 {
		t.Errorf("the line 101 is replayed as %s", one)
	}

	// A topic that lost a row, and has one too many.
	spoilKeys(t, to.broker, name, name+".lines", `{"order_id":102,"sku":"old \"9\""}`, `{"order_id":101,"sku":"old \"8\""}`) // which is deleted
	v, code, out := verify(t, config, name, "lines")
	found := ""
	for _, k := range v.Tables[0].Keys {
		found += k.Kind + compact(k.Key) + " "
	}
	if code != 1 || !strings.Contains(found, `missing{"order_id":102,"sku":"old \"9\""}`) || !strings.Contains(found, `extra{"order_id":101,"sku":"old \"8\""}`) {
		t.Errorf("code %d, found %s:\n%s", code, found, out)
	}
	verify(t, config, name, "lines", "--repair", "--yes")
	if v, code, text := verify(t, config, name, "lines"); code != 0 || !v.Clean {
		t.Errorf("after the repair: code %d:\n%s", code, text)
	}
	d.stop()
}

// replayed archives a table, and compares what is replayed from the archive with it.
func (o *spannerOrigin) replayed(t *testing.T, config, capture, dir, name string, want table) {
	t.Helper()
	var made []struct{ ID string }
	if err := json.Unmarshal([]byte(weft(t, "archive", "create", capture, name, "--json", "-c", config)), &made); err != nil || len(made) != 1 {
		t.Fatalf("made %+v, %v", made, err)
	}
	file := filepath.Join(dir, name+".ndjson")
	weft(t, "replay", capture, name, "--from", made[0].ID, "--to", file, "-c", config)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != len(want.rows) {
		t.Errorf("%d rows of %s are replayed, and the table has %d", len(lines), name, len(want.rows))
	}
	for _, line := range lines {
		var got row
		if err := decode([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		key, err := canonicalOf(map[string]any{"order_id": got["order_id"], "sku": got["sku"]})
		if err != nil {
			t.Fatal(err)
		}
		if r := want.rows[key]; r == nil || fmt.Sprint(r) != fmt.Sprint(got) {
			t.Errorf("%s is replayed, and the table has %v", line, r)
		}
	}
}

// eventuallySnapshot waits for the end of the capture's snapshot of that number.
func eventuallySnapshot(t *testing.T, d *daemon, config, capture, reason string, id int64) {
	t.Helper()
	eventually(t, d, 2*time.Minute, "the snapshot "+reason, func(context.Context) (bool, error) {
		s, err := snapshotOf(t, config, capture)
		if err != nil || s.ID != id || s.Reason != reason || s.EndedAt == nil {
			return false, errors.Join(err, fmt.Errorf("so far: %+v", s))
		}
		return true, nil
	})
}

// TestSpannerGap has the change stream dropped and made anew while the daemon is down: what was written, changed and deleted meanwhile is
// found by reading the tables again and sweeping the topics. Then the tables are read once more because somebody asks.
func TestSpannerGap(t *testing.T) {
	name := fmt.Sprintf("gap_%x", rand.Uint32())
	to := embeddedLog(t)
	o := newFilledSpanner(t, name, "{parallel: 2}, on_gap: continue").(*spannerOrigin)
	run := killRun{T: t, name: name, origin: ungraded{o}, to: to}
	run.config = writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d, dialect: json}\ncaptures:\n  - {name: %s, %s}\n",
		to.config, name, partitions, name, o.capture())
	d := startDaemon(t, run.config)
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + ".pulse"}
	pulse.await(t, d, time.Minute)
	awaitSnapshot(t, d, run.config, name, time.Minute)
	d.stop()
	var mutations []*spanner.Mutation
	for i := range 1000 {
		switch i % 3 {
		case 0:
			mutations = append(mutations, spanner.Delete("orders", spanner.Key{1000 + i}), spanner.Delete("lines", spanner.Key{100 + i/50, fmt.Sprintf("old \"%d\"", i%50)}))
		case 1:
			mutations = append(mutations, spanner.Update("orders", []string{"id", "name"}, []any{1000 + i, "unseen"}))
		case 2:
			mutations = append(mutations, spanner.Insert("orders", spannerTables["orders"], []any{100_000 + i, "unseen", 0}))
		}
	}
	if _, err := o.apply(t.Context(), mutations...); err != nil {
		t.Fatal(err)
	}
	o.ddl(t, "DROP CHANGE STREAM changes", "CREATE CHANGE STREAM changes FOR ALL OPTIONS (value_capture_type = 'NEW_ROW_AND_OLD_VALUES')")
	d = startDaemon(t, run.config)
	pulse.await(t, d, time.Minute)
	eventuallySnapshot(t, d, run.config, name, "gap", 2)
	run.judge()

	weft(t, "snapshot", "start", name, "orders", "--where", "id >= 100000", "-c", run.config)
	eventuallySnapshot(t, d, run.config, name, "requested", 3)
	if s, err := snapshotOf(t, run.config, name); err != nil || s.rows() != 333 || s.Error != "" {
		t.Errorf("the snapshot that was asked for: %+v, %v", s, err)
	}
	run.judge()
	d.stop()
}
