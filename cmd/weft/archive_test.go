package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"weft/snapshot/archive"
	"weft/snapshot/replay"
)

// ok runs a command that must succeed.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := weft(t, args...)
	if code != exitDone {
		t.Fatalf("weft %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// refused runs a command that must fail, with this exit code and text.
func refused(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	got, out, errs := weft(t, args...)
	if got != code || !strings.Contains(errs, want) {
		t.Errorf("weft %s: exit %d, want %d with %q\n%s%s", strings.Join(args, " "), got, code, want, out, errs)
	}
}

// captured waits until the log has the table's row with this id.
func captured(t *testing.T, s *shop, id int) {
	t.Helper()
	eventually(t, fmt.Sprintf("row %d is in the topic", id), func() bool {
		_, out, _ := weft(t, "tail", "shop.item", "--exit-at-end", "-c", s.config)
		return strings.Contains(out, fmt.Sprintf(`"key":{"id":%d}`, id))
	})
}

// The way of an incident: archives are made, rows are lost, and the table comes back as it was before, as lines, as Parquet
// and in a topic of its own.
func TestArchiveAndReplay(t *testing.T) {
	s := newShop(t, "")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	bucket := filepath.Join(s.dir, "archives")
	s.write(t, strings.Replace(string(text), "captures:", fmt.Sprintf("archives: {bucket: %q}\ncaptures:", "file://"+bucket), 1))
	d := s.start(t)
	for i := 1; i <= 20; i++ {
		s.exec(t, `INSERT INTO item (id, name) VALUES (?, ?)`, i, fmt.Sprintf("item %d", i))
	}
	captured(t, s, 20)
	c := []string{"-c", s.config}
	run := func(args ...string) string { return ok(t, append(args, c...)...) }
	var first []archive.Manifest
	if err := json.Unmarshal([]byte(run("archive", "create", "items", "--json")), &first); err != nil || len(first) != 1 || first[0].Rows != 20 {
		t.Fatalf("made %+v, %v", first, err)
	}
	s.exec(t, `UPDATE item SET name = 'gone' WHERE id <= 10`)
	s.exec(t, `INSERT INTO item (id, name) VALUES (21, 'after')`)
	captured(t, s, 21)
	eventually(t, "the updates are captured", func() bool {
		_, out, _ := weft(t, "tail", "shop.item", "--exit-at-end", "-c", s.config)
		return strings.Count(out, `"gone"`) == 10
	})
	run("archive", "create", "items", "item")

	if lines := run("replay", "items", "item", "--until", first[0].Seq, "--to", "-"); strings.Count(lines, "\n") != 20 || strings.Contains(lines, "gone") || !strings.Contains(lines, `"name":"item 7"`) {
		t.Errorf("before the incident:\n%s", lines)
	}
	if lines := run("replay", "items", "item", "--to", "-", "--where", `name == "gone" and id > 8`); strings.Count(lines, "\n") != 2 {
		t.Errorf("a filter:\n%s", lines)
	}
	if lines := run("replay", "items", "item", "--to", "-", "--key", "21", "--key", `{"id": 3}`); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, `"id":3`) {
		t.Errorf("keys:\n%s", lines)
	}
	if out := run("replay", "items", "item", "--dry-run"); !strings.Contains(out, "21 rows of shop.item would be written") {
		t.Errorf("dry run: %s", out)
	}
	parquet := filepath.Join(s.dir, "item.parquet")
	run("replay", "items", "item", "--from", first[0].ID, "--to", parquet)
	if left, err := filepath.Glob(filepath.Join(s.dir, "*.parquet*")); err != nil || len(left) != 1 {
		t.Errorf("files %v, %v", left, err)
	}

	// A topic: twice is once.
	for range 2 {
		run("replay", "items", "item", "--until", first[0].Seq, "--to", "restored")
	}
	out := run("tail", "restored", "--exit-at-end")
	if n := strings.Count(out, "\n"); n != 20 || strings.Count(out, `"`+replay.Header+`"`) != 20 || strings.Count(out, `\"op\":\"r\"`)+strings.Count(out, `"op":"r"`) != 20 {
		t.Errorf("the topic has %d records:\n%s", n, out)
	}
	refuse := func(code int, want string, args ...string) { t.Helper(); refused(t, code, want, append(args, c...)...) }
	refuse(exitFailed, "holds records that are not of this replay", "replay", "items", "item", "--to", "restored")
	if err := kadmCreate(t, s, "other", 5); err != nil {
		t.Fatal(err)
	}
	refuse(exitFailed, "replay to a topic that does not exist yet", "replay", "items", "item", "--to", "other")
	compact := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
	if _, err := kadm.NewClient(s.client(t)).CreateTopic(t.Context(), 2, 1, compact, "compacted"); err != nil {
		t.Fatal(err)
	}
	refuse(exitFailed, "cleanup.policy", "replay", "items", "item", "--to", "compacted")
	refuse(exitUsage, "--to-live-topic", "replay", "items", "item", "--to", "shop.item")
	refuse(exitUsage, `has no table "nothing"`, "replay", "items", "nothing", "--to", "-")
	refuse(exitUsage, "does not compile", "replay", "items", "item", "--to", "-", "--where", "id >")
	refuse(exitUsage, "is no time", "replay", "items", "item", "--to", "-", "--until", "yesterday")
	refuse(exitUsage, "is not JSON", "replay", "items", "item", "--to", "-", "--key", "{id")
	refuse(exitFailed, "float(total)", "replay", "items", "item", "--to", "-", "--where", "name > 5")
	refuse(exitNotSo, "has no archive", "replay", "items", "item", "--to", "-", "--from", "shop.item/20260101T000000.000Z-00000000")
	refuse(exitNotSo, "has no archive", "archive", "inspect", "../../etc")
	refuse(exitUsage, `capture "other"`, "archive", "list", "other")

	if out := run("archive", "inspect", first[0].ID); !strings.Contains(out, "checksums agree") || !strings.Contains(out, "id: int64, key") {
		t.Errorf("inspect:\n%s", out)
	}
	manifest := filepath.Join(bucket, filepath.FromSlash(first[0].ID), "manifest.json")
	if err := os.Rename(manifest, manifest+".gone"); err != nil {
		t.Fatal(err)
	}
	refuse(exitNotSo, "has no archive", "archive", "inspect", first[0].ID)
	refuse(exitNotSo, "has no archive", "replay", "items", "item", "--to", "-", "--from", first[0].ID)
	if err := os.Rename(manifest+".gone", manifest); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(bucket, filepath.FromSlash(first[0].ID), "part-00000.parquet")
	whole, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	damage := append([]byte(nil), whole...)
	damage[len(damage)/2] ^= 1
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{"corrupt": {damage, "another SHA-256"}, "truncated": {whole[:len(whole)-1], "bytes, its manifest says"}} {
		if err := os.WriteFile(part, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		refuse(exitFailed, c.want, "archive", "inspect", first[0].ID)
		to := filepath.Join(s.dir, name+".ndjson")
		refuse(exitFailed, c.want, "replay", "items", "item", "--until", first[0].Seq, "--to", to)
		if _, err := os.Stat(to); err == nil {
			t.Errorf("%s: a file was left", name)
		}
	}
	if err := os.Remove(part); err != nil {
		t.Fatal(err)
	}
	refuse(exitFailed, "part-00000.parquet is missing", "archive", "inspect", first[0].ID)
	if out := run("archive", "prune", "items", "--keep", "1"); !strings.Contains(out, first[0].ID) {
		t.Errorf("prune: %s", out)
	}
	if out := run("archive", "list", "items"); strings.Count(out, "shop.item/") != 1 {
		t.Errorf("list:\n%s", out)
	}
	d.end(t)
	if out := run("check"); !strings.Contains(out, "can be listed, written and read") {
		t.Errorf("check:\n%s", out)
	}
}
