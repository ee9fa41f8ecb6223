package configs

import (
	"strings"
	"testing"
)

func parseOne(t *testing.T, text string) (*Capture, error) {
	t.Helper()
	file, err := parse("weft.yaml", []byte("log: {embedded: {}}\ntopics: {prefix: shop, retention: 1h}\n"), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	return file.parseCapture("orders.yaml", "orders", []byte(text), lookup, fakeKinds())
}

// TestWritten: what is registered is what was written: no variable is expanded, and no secret is in it.
func TestWritten(t *testing.T) {
	c, err := parse("weft.yaml", []byte(`
log: {embedded: {}}
topics: {prefix: shop}
captures:
  - name: orders
    source: {type: fake, url: "${SHOP_URL}", password: hunter2, limit: 5, ratio: 0.5, temporary: true}
    tables: ["public.<a>"]
    buffer: {batch: 4096}
    topics: {settings: {segment.bytes: 0x10}}
`), lookup, fakeKinds())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"buffer":{"batch":4096},"name":"orders","source":{"limit":5,"password":"***","ratio":0.5,"temporary":true,"type":"fake",` +
		`"url":"${SHOP_URL}"},"tables":["public.<a>"],"topics":{"settings":{"segment.bytes":"0x10"}}}`
	if got := string(c.Captures[0].Written); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestParseCapture: what was written is read again to the same capture, with what it takes from the file.
func TestParseCapture(t *testing.T) {
	first, err := parseOne(t, "source: {type: fake, url: \"${SHOP_URL}\", poll: 2s}\ntables: [a.b]\nkeys: {a.b: [id]}\nbuffer: {batch: 4096}\n")
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseOne(t, string(first.Written))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Capture{first, again} {
		s := c.Source.(*fakeSource)
		if c.Name != "orders" || c.SourceType != "fake" || s.URL != testEnv["SHOP_URL"] || c.Topics.Prefix != "shop" || c.Topics.Retention == 0 ||
			c.Buffer.Batch != 4096 || c.Buffer.ReadAhead != 8*MiB || c.Keys["a.b"][0] != "id" || string(c.Written) != string(first.Written) {
			t.Errorf("got %+v", c)
		}
	}
}

func TestParseCaptureRefuses(t *testing.T) {
	const source = "source: {type: fake, url: u}\n"
	for text, want := range map[string]string{
		"":                                       "orders.yaml:1:1: there is nothing in it",
		"[]":                                     "orders.yaml:1:1: expected a block of fields",
		"name: other\n" + source + "tables: [a]": `orders.yaml:1:7: name: the capture is to be called "orders"`,
		source:                                   `lacks the required field "tables"`,
		source + "tables: [a, a]":                "orders.yaml:2:13: tables[1]: the table is listed twice",
		source + "tables: [a]\ntopics: {prefix: __a}":                    "topics.prefix: must not begin with __",
		source + "tables: [a]\ntopics: {cleanup: compact}":               "topics.cleanup: the embedded log cannot hold",
		source + "tables: [a]\nkeys: {b: [id]}":                          "keys[\"b\"]: the table is not among",
		source + "tables: [a]\nbuffer: {batch: 32MiB}":                   "must not exceed read_ahead",
		"source: {type: fake, url: u, password: hunter2}\ntables: [a]":   `orders.yaml:1:40: source.password: a secret stands here, and the log would hold it for all its readers; name a variable, such as "${PASSWORD}"`,
		"source: {type: fake, url: \"http://a:hunter2@b\"}\ntables: [a]": "source.url: a secret stands here",
		"source: {type: nope, url: u}\ntables: [a]":                      `there is no source "nope"`,
		"source: {type: fake, url: u, sloot: x}\ntables: [a]":            `unknown field "sloot"; did you mean`,
		"source: {type: fake, url: \"${NOT_SET}\"}\ntables: [a]":         "NOT_SET is not set",
		"source: {type: fake, url: u}\ntables: [a]\ncaptures: []":        `unknown field "captures"`,
	} {
		_, err := parseOne(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gave %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q gives a secret away: %v", text, err)
		}
	}
}

func TestHoldsSecret(t *testing.T) {
	for text, want := range map[string]bool{
		"${URL}":                                 false,
		"${A}${B}":                               false,
		"${URL:-postgres://h/d}":                 false,
		"${URL:-postgres://u:hunter2@h/d}":       true,
		"postgres://u@h/d":                       false,
		"postgres://u:${PASSWORD}@h:5432/d":      false,
		"postgres://u:x${PASSWORD}@h/d":          true,
		"postgres://u:hunter2@h/d":               true,
		"mongodb://u:hunter2@a:1,b:2/d":          true,
		"mongodb://a:1,b:2/d":                    false,
		"u:hunter2@tcp(h:3306)/d":                true,
		"u:${PASSWORD}@tcp(h:3306)/d":            false,
		"host=h user=u password=hunter2":         true,
		"host=h password = 'hunter 2'":           true,
		"host=h user=u password=${PASSWORD} a=b": false,
		"host=h user=u password='${PASSWORD}'":   false,
		"postgres://u@h/d?sslpassword=hunter2":   true,
		"postgres://u@h/d?sslpassword=${P}&a=b":  false,
		"file:a.db":                              false,
	} {
		if got := holdsSecret("source.url", text, false); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
	for text, want := range map[string]bool{"hunter2": true, "${P}": false, "${P:-hunter2}": true, "a${P}": true} {
		if got := holdsSecret("source.password", text, false); got != want {
			t.Errorf("password %s: %t", text, got)
		}
	}
}
