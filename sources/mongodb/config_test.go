package mongodb

import (
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	const url = "mongodb://weft:hunter2@127.0.0.1:27017/?replicaSet=rs0"
	for name, c := range map[string]struct {
		config Config
		want   string // a part of the error, empty for none
	}{
		"minimal":        {Config{URL: url}, ""},
		"srv, no lookup": {Config{URL: "mongodb+srv://weft:hunter2@no.such.host.invalid/"}, ""},
		"all": {Config{URL: url, Scope: ScopeDatabase, FullDocument: FullOff, Before: BeforeOff, JSON: JSONCanonical,
			Invalid: InvalidBase64}, ""},
		"no url":        {Config{}, "url: it must be set"},
		"other scheme":  {Config{URL: "postgres://weft:hunter2@db/shop"}, "url: it must begin with"},
		"broken url":    {Config{URL: "mongodb://weft:hunter2@:x@host/"}, "percent-encoded"},
		"scope":         {Config{URL: url, Scope: "table"}, `scope: "table" must be one of collection, database, deployment`},
		"full_document": {Config{URL: url, FullDocument: "x"}, "full_document:"},
		"before":        {Config{URL: url, Before: "x"}, "before:"},
		"json":          {Config{URL: url, JSON: "x"}, "json:"},
		"invalid":       {Config{URL: url, Invalid: "x"}, "invalid_documents:"},
	} {
		err := c.config.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the password is in %v", name, err)
		}
	}
}

func TestNarrowest(t *testing.T) {
	for tables, want := range map[string]Scope{
		"shop.orders": ScopeCollection, "shop.a.b": ScopeCollection, "shop.orders shop.lines": ScopeDatabase,
		"shop.*": ScopeDatabase, "shop.orders hr.people": ScopeDeployment, "s*.orders": ScopeDeployment,
	} {
		patterns, err := parseTables(strings.Fields(tables))
		if err != nil || narrowest(patterns) != want {
			t.Errorf("%s: %s, %v; want %s", tables, narrowest(patterns), err, want)
		}
	}
	if _, err := parseTables([]string{"orders"}); err == nil {
		t.Error("a table without a database is taken")
	}
}
