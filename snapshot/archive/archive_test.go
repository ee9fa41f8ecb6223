package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/checkpoint"
	"weft/sink/fold"
	"weft/sources"
)

func bucket(t *testing.T) *Bucket {
	t.Helper()
	b, err := Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestKinds(t *testing.T) {
	tests := []struct {
		values string
		want   Kind
	}{
		{`null`, String},
		{`1 -5 null`, Int64},
		{`9223372036854775807`, Int64},
		{`9223372036854775808`, JSON},
		{`1 1.5 1e+20`, Double},
		{`9007199254740993 1.5`, JSON}, // float64 has only the one below
		{`1.5 "NaN" "-Infinity"`, Double},
		{`"NaN"`, String},
		{`0.1234567890123456789`, JSON},
		{`true false`, Bool},
		{`"a" "NaN"`, String},
		{`"a" 1`, JSON},
		{`true 1`, JSON},
		{`{"x":1}`, JSON},
		{`[1]`, JSON},
	}
	for _, test := range tests {
		var s seen
		values := strings.Fields(test.values)
		for _, v := range values {
			if v != "null" {
				s.add([]byte(v))
			}
		}
		k := s.kind()
		if k != test.want {
			t.Errorf("%s: %s, want %s", test.values, k, test.want)
			continue
		}
		for _, raw := range values {
			if !k.takes([]byte(raw)) {
				t.Errorf("%s does not take %s", k, raw)
			}
			v, err := k.value([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			if back, err := k.append(nil, v); err != nil || string(back) != raw {
				t.Errorf("%s as %s comes back as %s, %v", raw, k, back, err)
			}
		}
	}
}

// An archive takes keys of its own columns and kinds alone.
func TestManifestTakesKeys(t *testing.T) {
	m := &Manifest{Key: []Column{{"region", String}, {"id", Int64}}}
	for key, want := range map[string]bool{
		`{"region":"eu","id":1}`: true, `{"region":null,"id":1}`: true, `{"region":"eu","id":"1"}`: false, `{"region":1,"id":1}`: false,
		`{"region":"eu","id":1.5}`: false, `{"id":1,"region":"eu"}`: false, `{"region":"eu"}`: false, `{"region":"eu","id":1,"x":1}`: false, ``: false,
	} {
		raw := []byte(key)
		if key == "" {
			raw = nil
		}
		if got := m.takes(raw); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
	if keyless := (&Manifest{}); !keyless.takes(nil) || keyless.takes([]byte(`{"id":1}`)) {
		t.Error("a keyless table's")
	}
}

// What is written is read back the same, over several row groups and with columns that some rows lack.
func TestPartsRoundTrip(t *testing.T) {
	b := bucket(t)
	var images []*fold.Image
	for i := range 2000 {
		image := &fold.Image{
			Key: fmt.Appendf(nil, `{"id":%d}`, i), Seq: fmt.Appendf(nil, "00000001.%016x.00000000.2", i), Partition: int32(i % 3), Count: 1,
			Columns: fmt.Appendf(nil, `{"id":%d,"text":%q,"n":%v}`, i, strings.Repeat("é\n\"", rand.IntN(4)), float64(i)/4),
		}
		if i%7 == 0 {
			image.Columns, image.Unknown = fmt.Appendf(nil, `{"id":%d,"n":null}`, i), []string{"text"}
		}
		images = append(images, image)
	}
	images = append(images, &fold.Image{Columns: []byte(`{"id":1,"text":"x","n":1}`), Count: 3})
	var k kindsOf
	for _, image := range images {
		if err := k.add(image); err != nil {
			t.Fatal(err)
		}
	}
	m := &Manifest{Format: 1, ID: newID("t", time.Now()), Capture: "c", Topic: "t", Table: "t", Offsets: []int64{0}, Dialect: "json"}
	m.Columns, m.Key = k.columns()
	p := &parts{bucket: b, id: m.ID, columns: m.Columns}
	for _, image := range images {
		if err := p.write(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		m.Rows += int64(image.Count)
		if len(p.done) < 1 && m.Rows == 1000 {
			if err := p.end(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	m.Parts = p.done
	if found, err := b.List(t.Context(), "t"); err != nil || len(found) != 0 {
		t.Errorf("without its manifest: %v, %v", found, err)
	}
	if err := b.write(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := b.write(t.Context(), m); err == nil {
		t.Error("a manifest was written twice")
	}
	read, err := b.Manifest(t.Context(), m.ID)
	if err != nil || len(read.Parts) != 2 || read.Columns[0] != (Column{"id", Int64}) || read.Columns[1] != (Column{"n", Double}) || read.Key[0].Name != "id" {
		t.Fatalf("manifest %+v, %v", read, err)
	}
	i := 0
	err = b.Each(t.Context(), read, t.TempDir(), func(got *fold.Image) error {
		want := images[min(i, 2000)]
		if i++; string(got.Key) != string(want.Key) || string(got.Seq) != string(want.Seq) || got.Partition != want.Partition ||
			fmt.Sprint(got.Unknown) != fmt.Sprint(want.Unknown) || plain(t, got.Columns) != plain(t, want.Columns) {
			return fmt.Errorf("row %d: got %s %s, want %s %s", i, got.Key, got.Columns, want.Key, want.Columns)
		}
		return nil
	})
	if err != nil || i != 2003 {
		t.Errorf("%d rows, %v", i, err)
	}
}

func plain(t *testing.T, object []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(object, &v); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(v)
	return string(text)
}

func TestManifestRefuses(t *testing.T) {
	id := newID("t", time.Now())
	for text, want := range map[string]string{
		`{`:             "cannot be read",
		`{"format":99}`: "has format 99",
		`{"format":1}`:  "not one of it",
		fmt.Sprintf(`{"format":1,"id":%q,"capture":"c","table":"t","offsets":[1],"rows":2}`, id):                                 "counts 2 rows, its parts 0",
		fmt.Sprintf(`{"format":1,"id":%q,"capture":"c","table":"t","offsets":[1],"parts":[{"name":"../x"}]}`, id):                `names a part "../x"`,
		fmt.Sprintf(`{"format":1,"id":%q,"capture":"c","table":"t","offsets":[1],"columns":[{"name":"a","kind":"int128"}]}`, id): `the kind "int128"`,
	} {
		if _, err := decodeManifest(id, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestCuts(t *testing.T) {
	const seq = "00000001.00000000016a5d48.00000003."
	if got := CutOf(checkpoint.Checkpoint{Seq: seq}); got != seq+"~" {
		t.Errorf("behind a checkpoint: %s", got)
	}
	if got := CutOf(checkpoint.Checkpoint{Seq: seq, Partial: true}); got != "00000001.00000000016a5d48." {
		t.Errorf("inside a transaction: %s", got)
	}
	if b, a := Before(seq+"2"), Behind(seq+"2"); b >= seq || a <= seq || a >= "00000001.00000000016a5d49" {
		t.Errorf("around: %s, %s", b, a)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	b := bucket(t)
	now := time.Now().UTC()
	var ids []string
	for i := range 5 {
		m := &Manifest{Format: 1, ID: newID("t", now.Add(time.Duration(i-9)*time.Hour)), Capture: "c", Topic: "t", Table: "t", Offsets: []int64{1}}
		if err := b.write(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	old, fresh := newID("t", now.Add(-48*time.Hour)), newID("t", now)
	for _, id := range []string{old, fresh} { // without a manifest
		if err := b.b.WriteAll(t.Context(), id+"/part-00000.parquet", []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
	}
	removed, err := b.Prune(t.Context(), "t", 2, now)
	if err != nil || fmt.Sprint(removed) != fmt.Sprint([]string{old, ids[2], ids[1], ids[0]}) {
		t.Errorf("removed %v, %v", removed, err)
	}
	left, err := b.List(t.Context(), "t")
	if err != nil || len(left) != 2 || left[0].ID != ids[4] {
		t.Errorf("left %v, %v", left, err)
	}
	if ok, err := b.b.Exists(t.Context(), fresh+"/part-00000.parquet"); !ok || err != nil {
		t.Errorf("one under way is gone: %v", err)
	}
}

// A bucket that is not there, full or forbidden says what to do; so does the URL of none.
func TestFullOrForbiddenBucket(t *testing.T) {
	remedy := func(err error) string {
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) {
			t.Errorf("%v tells no remedy", err)
			return ""
		}
		return fatal.Remedy
	}
	if _, err := Open(t.Context(), "somewhere"); !strings.Contains(remedy(err), "file:///DIR") {
		t.Errorf("no URL: %v", err)
	}
	if _, err := Open(t.Context(), "ftp://somewhere"); err == nil {
		t.Error("a bucket of an unknown kind was opened")
	}
	occupied := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(occupied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), "file://"+occupied+"/below"); err == nil {
		t.Error("a bucket below a file was opened")
	}
	for err, want := range map[error]string{
		&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}:  "the rights to list",
		&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}: "make room there",
		errors.New("api error AccessDenied: Access Denied"):        "the rights to list",
	} {
		got := explain("file:///b", "write to", err)
		if !strings.Contains(remedy(got), want) || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	forbidden := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
	}))
	t.Cleanup(forbidden.Close)
	s3, err := Open(t.Context(), "s3://backups?region=eu-north-1&use_path_style=true&endpoint="+forbidden.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s3.Close() })
	p := &parts{bucket: s3, id: newID("t", time.Now()), columns: []Column{{"id", Int64}}}
	err = p.write(t.Context(), &fold.Image{Key: []byte(`{"id":1}`), Columns: []byte(`{"id":1}`), Count: 1})
	if err = errors.Join(err, p.end()); !strings.Contains(remedy(err), "the rights to list") || len(p.done) > 0 {
		t.Errorf("a part in a forbidden bucket: %v", err)
	}
	p.abort()
	if _, err := s3.List(t.Context(), "t"); !strings.Contains(remedy(err), "the rights to list") {
		t.Errorf("a list of a forbidden bucket: %v", err)
	}
	b := bucket(t)
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(t.Context()); err == nil {
		t.Error("a closed bucket is in order")
	}
}
