package configs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/sources/all"
)

const smallest = `
log: {embedded: {}}
topics: {prefix: shop}
captures:
  - name: orders
    source: {type: fake, url: u}
    tables: [public.orders]
`

// unwritten drops what TestWritten looks at.
func unwritten(c *Config) {
	for i := range c.Captures {
		c.Captures[i].Written = nil
	}
}

func TestDefaults(t *testing.T) {
	got, err := parse("weft.yaml", []byte(smallest), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	topics := TopicOptions{Prefix: "shop", Partitions: 6, Dialect: JSONDialect, Cleanup: Delete}
	want := &Config{
		Log: Log{
			Embedded: &Embedded{
				Dir: "data/log", Listen: "127.0.0.1:9092", Retention: LogRetention{Age: 24 * time.Hour, Bytes: 64 * MiB},
			},
			Profile: Kafka, ClientID: "weft", Compression: LZ4, Commit: Commit{Bytes: 8 * MiB, Interval: time.Second},
		},
		Topics:   Topics{Replication: -1, Create: true, TopicOptions: topics},
		Logging:  Logging{Level: "info", Format: TextFormat},
		Admin:    Admin{Enabled: true, Listen: "127.0.0.1:9464"},
		Archives: Archives{Keep: 28, Memory: 64 * MiB},
		State:    State{Enabled: true, Dir: "data/state"},
		Fleet:    "default",
		Captures: []Capture{{
			Name: "orders", SourceType: "fake", Source: &fakeSource{URL: "u", Slot: "weft", Poll: time.Second},
			Tables: []string{"public.orders"}, Snapshot: SnapshotNever, SnapshotOptions: SnapshotOptions{Parallel: 2, Chunk: 4 * MiB}, OnGap: StopOnGap,
			Topics: topics, Buffer: Buffer{ReadAhead: 8 * MiB, Batch: MiB},
		}},
	}
	unwritten(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryField(t *testing.T) {
	text, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse("full.yaml", text, lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	settings := Settings{"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "segment.bytes": "1000"}
	topics := TopicOptions{
		Prefix: "shop", Partitions: 12, Dialect: DebeziumDialect, Cleanup: Delete, Retention: 36 * time.Hour, Settings: settings,
	}
	want := &Config{
		Log: Log{
			Brokers: []string{"10.0.0.1:9092", "[::1]:9093"}, Profile: WarpStream, Zone: "use1-az1", ClientID: "weft-blue",
			TLS:         &TLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem", ServerName: "kafka"},
			SASL:        &SASL{Mechanism: ScramSHA512, Username: "weft", Password: "hunter2word"},
			Compression: Zstd, MaxRecord: 2 * MiB, Commit: Commit{Bytes: 4 * MiB, Interval: 250 * time.Millisecond},
		},
		Topics:   Topics{Replication: 3, TopicOptions: topics},
		Logging:  Logging{Level: "debug", Format: JSONFormat},
		Admin:    Admin{Listen: ":9000"},
		Archives: Archives{Bucket: "s3://backups?region=eu-central-1", Every: 6 * time.Hour, Keep: 7, Memory: 32 * MiB},
		State:    State{Dir: "/var/lib/weft/state"},
		Fleet:    "shop",
		Captures: []Capture{{
			Name: "orders", SourceType: "fake",
			Source: &fakeSource{
				URL: "postgres://weft:hunter2@db/shop", Slot: "price_${x}_$y", Poll: 100 * time.Millisecond, Limit: 5, Ratio: 0.5,
				Temp: true, Columns: map[string]string{"a": "b"}, TLS: fakeTLS{CA: "x"},
			},
			Tables: []string{"public.orders", "public.*", "public.log"},
			Keys:   map[string][]string{"public.log": {"id", "at"}}, Snapshot: SnapshotNever,
			SnapshotOptions: SnapshotOptions{Parallel: 4, RowsPerSecond: 5000, Chunk: MiB}, OnGap: ContinueOnGap,
			// A compacted topic does not take the retention of the topics block.
			Topics: TopicOptions{Prefix: "orders", Partitions: 1, Dialect: DebeziumDialect, Cleanup: Compact, Settings: Settings{
				"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "segment.bytes": "2000",
			}},
			Buffer: Buffer{ReadAhead: 1e6, Batch: 4096},
		}, {
			Name: "billing_2", SourceType: "sqlite", Source: &fakeSource{URL: "file:a.dbx"}, Tables: []string{"invoice"},
			Snapshot: SnapshotNever, SnapshotOptions: SnapshotOptions{Parallel: 2, Chunk: 4 * MiB}, OnGap: StopOnGap, Topics: topics, Buffer: Buffer{ReadAhead: 8 * MiB, Batch: MiB},
		}},
	}
	unwritten(got)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Secret) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEveryFieldIsTested holds testdata/full.yaml to its first line.
func TestEveryFieldIsTested(t *testing.T) {
	text, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// These cannot stand beside the others; TestDefaults and TestEmbedded have them.
	elsewhere := "embedded dir listen age bytes password_file token token_file password"
	names := fieldNames(reflect.TypeFor[Config]())
	if len(names) < 40 {
		t.Fatalf("found only %d fields", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(text), name+":") && !strings.Contains(" "+elsewhere+" ", " "+name+" ") {
			t.Errorf("full.yaml lacks %s", name)
		}
	}
}

// fieldNames lists the names of all fields of a type and of those below it.
func fieldNames(of reflect.Type) (names []string) {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return fieldNames(of.Elem())
	case reflect.Struct:
		for _, f := range fieldsOf(reflect.New(of).Elem()) {
			names = append(append(names, f.name), fieldNames(f.value.Type())...)
		}
	}
	return names
}

// TestDocumented: docs/configuration.md has every field, those of the sources too.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	names := fieldNames(reflect.TypeFor[Config]())
	for _, newConfig := range all.Kinds {
		names = append(names, fieldNames(reflect.TypeOf(newConfig()))...)
	}
	for _, name := range names {
		if !strings.Contains(string(text), name+"`") && !strings.Contains(string(text), "`"+name+".") && !strings.Contains(string(text), "\n## "+name+"\n") {
			t.Errorf("docs/configuration.md lacks %s", name)
		}
	}
}

func TestEmbedded(t *testing.T) {
	text := strings.Replace(smallest, "{embedded: {}}",
		`{embedded: {dir: /var/lib/weft, listen: "[::1]:0", retention: {age: 1h, bytes: 10GB}}}`, 1)
	c, err := parse("weft.yaml", []byte(text), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	want := &Embedded{Dir: "/var/lib/weft", Listen: "[::1]:0", Retention: LogRetention{Age: time.Hour, Bytes: 10e9}}
	if diff := cmp.Diff(want, c.Log.Embedded); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAccepted parses variations of a log block that are right.
func TestAccepted(t *testing.T) {
	for _, log := range []string{
		`{embedded: {listen: "localhost:9092"}, client_id: x, compression: none}`,
		`{brokers: ["a:1"], tls: {}}`,
		`{brokers: ["a:1"], profile: warpstream}`,
		`{brokers: ["a:1"], sasl: {mechanism: PLAIN, username: u, password_file: /run/secrets/p}}`,
		`{brokers: ["a:1"], sasl: {mechanism: OAUTHBEARER, token_file: /run/secrets/t}}`,
		`{brokers: ["a:1"], sasl: {mechanism: OAUTHBEARER, token: t}, commit: {interval: 10ms}}`,
		`{brokers: ["a:1"], commit: {interval: 30s, bytes: 1GiB}}`,
	} {
		if _, err := parse("weft.yaml", []byte(strings.Replace(smallest, "{embedded: {}}", log, 1)), lookup, fakeKinds()); err != nil {
			t.Errorf("%s: %v", log, err)
		}
	}
}

func TestDefaultsAreNotShared(t *testing.T) {
	a, err := parse("a", []byte(smallest), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	a.Log.Embedded.Dir, a.Captures[0].Buffer.Batch = "changed", 1
	b, err := parse("b", []byte(smallest), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	if b.Log.Embedded.Dir != "data/log" || b.Captures[0].Buffer.Batch != MiB {
		t.Errorf("a changed config changed the defaults: %+v", b)
	}
}

func TestSettingsAreNotShared(t *testing.T) {
	text := strings.Replace(smallest, "prefix: shop", "prefix: shop, settings: {a: 1}", 1) + "    topics: {settings: {b: 2}}\n"
	c, err := parse("a", []byte(text), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Settings{"a": "1"}, c.Topics.Settings); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Settings{"a": "1", "b": "2"}, c.Captures[0].Topics.Settings); diff != "" {
		t.Error(diff)
	}
}

func TestErrorKinds(t *testing.T) {
	_, err := parse("weft.yaml", []byte(strings.Replace(smallest, "url: u", `url: "${NOT_SET}"`, 1)), lookup, fakeKinds())
	var unset *UnsetVariableError
	if !errors.As(err, &unset) || unset.Name != "NOT_SET" {
		t.Errorf("no UnsetVariableError in %v", err)
	}
	var list Errors
	if !errors.As(err, &list) || len(list) != 1 {
		t.Fatalf("not one error: %v", err)
	}
	if e := list[0]; e.File != "weft.yaml" || e.Line != 6 || e.Column != 31 || e.Path != "captures[0].source.url" {
		t.Errorf("wrong place: %+v", e)
	}
}

func TestByteOrderMark(t *testing.T) {
	if _, err := parse("weft.yaml", []byte("\ufeff"+strings.TrimSpace(smallest)), lookup, fakeKinds()); err != nil {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("WEFT_CONFIG", "")
	_, err := Find("")
	if err == nil || !strings.Contains(err.Error(), "-c") || !strings.Contains(err.Error(), "./weft.yaml") || !strings.Contains(err.Error(), "WEFT_CONFIG") {
		t.Errorf("the error does not say where it looked: %v", err)
	}
	expect := func(flag, want string) {
		t.Helper()
		if got, err := Find(flag); err != nil || got != want {
			t.Errorf("Find(%q) = %q, %v; want %q", flag, got, err, want)
		}
	}
	t.Setenv("WEFT_CONFIG", "/etc/weft.yaml")
	expect("", "/etc/weft.yaml")
	if err := os.WriteFile("weft.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("", "weft.yaml")
	expect("other.yaml", "other.yaml")
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ path, want string }{
		{filepath.Join(dir, "none.yaml"), "no such file"},
		{dir, "is a directory"},
		{write("large.yaml", strings.Repeat("#", maxSize+1)), "larger than 1 MiB"},
		{write("empty.yaml", ""), "empty.yaml:1:1: the file is empty"},
	} {
		if _, err := Load(test.path); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Load(%s) = %v; want %q", test.path, err, test.want)
		}
	}
	t.Setenv("WEFT_TEST_DIR", "from-the-environment")
	path := write("good.yaml", "log: {embedded: {dir: \"${WEFT_TEST_DIR}\"}}\nlogging: {levle: info}\n")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), `did you mean "level"?`) || strings.Contains(err.Error(), "is not set") {
		t.Errorf("Load(%s) = %v", path, err)
	}
}

func TestExcerpt(t *testing.T) {
	for _, test := range []struct {
		line string
		at   position
		want string
	}{
		{"a: b", position{7, 4}, "   7 | a: b\n     |    ^"},
		{"\ta: b", position{12345, 2}, "12345 | \ta: b\n      | \t^"},
		{"a:", position{1, 3}, "   1 | a:\n     |   ^"},
		{"a:", position{1, 9}, "   1 | a:"},
		{"  ", position{1, 1}, ""},
		{strings.Repeat("é", 130), position{1, 120}, "   1 | " + strings.Repeat("é", 120) + "…\n     | " + strings.Repeat(" ", 119) + "^"},
		{strings.Repeat("é", 130), position{1, 130}, "   1 | " + strings.Repeat("é", 120) + "…"},
	} {
		if got := excerpt(test.line, test.at); got != test.want {
			t.Errorf("%q at %v gives\n%s\nwant\n%s", test.line, test.at, got, test.want)
		}
	}
}

func TestMasked(t *testing.T) {
	line, at := masked("é: abcdef, x: y # c\r", []span{{3, 9, mask}, {16, -1, ""}}, position{1, 12})
	if line != "é: ***, x: y" || at != (position{1, 9}) {
		t.Errorf("gives %q, %v", line, at)
	}
}

// TestRedact: a source's error does not give away a password in any form that it may take there.
func TestRedact(t *testing.T) {
	d := &decoder{secrets: []string{`postgres://weft:hun%2Fter2@db/shop`, "short", "shorter"}}
	for text, want := range map[string]string{
		`parse "postgres://weft:hun%2Fter2@db/shop": bad`: `parse "***": bad`,
		`password hun/ter2 is wrong`:                      `password *** is wrong`,
		`password hun%2Fter2 is wrong`:                    `password *** is wrong`,
		`shorter`:                                         `***`,
	} {
		if got := d.redact(text); got != want {
			t.Errorf("%s gives %s, want %s", text, got, want)
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := SASL{Password: "hunter2", Token: "hunter2"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, s); strings.Contains(text, "hunter2") {
			t.Errorf("%s prints %s", format, text)
		}
	}
}

// FuzzParse looks for panics and for secrets in errors.
func FuzzParse(f *testing.F) {
	f.Add([]byte(smallest))
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("weft.yaml", text, lookup, fakeKinds())
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err == nil {
			return
		}
		var list Errors
		if !errors.As(err, &list) || len(list) == 0 {
			t.Fatalf("not Errors: %v", err)
		}
		for i, e := range list {
			if e.Line < 1 || e.Column < 1 || e.Err == nil {
				t.Errorf("no place or message: %+v", e)
			}
			if i > 0 && list[i-1].Line > e.Line {
				t.Errorf("line %d is reported after %d", e.Line, list[i-1].Line)
			}
		}
		// The texts of variables are not in the file, so no error can have them from there.
		if strings.Contains(err.Error(), "hunter2word") && !strings.Contains(string(text), "hunter2word") {
			t.Errorf("an error shows a variable's value: %v", err)
		}
	})
}
