package postgres

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/jsonschema-go/jsonschema"
)

func TestValidate(t *testing.T) {
	const url = "postgres://u:p@h/d"
	tests := []struct {
		config Config
		want   string // "" for none
	}{
		{Config{URL: url}, ""},
		{Config{URL: "host=h user=u password='s p' dbname=d sslmode=require"}, ""},
		{Config{URL: url, Slot: "a_1", Publication: "Any, \"thing\"", Partitions: PartitionsLeaves}, ""},
		{Config{}, "url: it must be set"},
		{Config{URL: "postgres://u:se/cr@t@h/d"}, "percent-encoded"},
		{Config{URL: "postgres://u:secret@h:port/d"}, "percent-encoded"},
		{Config{URL: "postgres://u:secret@h/d?sslmode=maybe"}, "url:"},
		{Config{URL: "password=secret nonsense"}, "url:"},
		{Config{URL: "host=h password=secret port=x"}, "url:"},
		{Config{URL: url, Slot: "Orders"}, "slot:"},
		{Config{URL: url, Slot: "a-b"}, "slot:"},
		{Config{URL: url, Slot: strings.Repeat("a", 64)}, "slot:"},
		{Config{URL: url, Publication: strings.Repeat("a", 64)}, "publication:"},
		{Config{URL: url, Partitions: "branches"}, "partitions:"},
	}
	for _, tt := range tests {
		err := tt.config.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt.config, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%+v: %v; want %q", tt.config, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cr@t")) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestDefaults(t *testing.T) {
	c := Config{URL: "postgres://h/d"}.withDefaults("shop-orders")
	if c.Slot != "weft_shop_orders" || c.Publication != "weft_shop_orders" || c.Partitions != PartitionsRoot {
		t.Errorf("defaults are %+v", c)
	}
	if c := (Config{Slot: "s"}).withDefaults("orders"); c.Publication != "s" {
		t.Errorf("publication is %q", c.Publication)
	}
}

func TestConfigForms(t *testing.T) {
	var c Config
	text := "url: postgres://h/d\nslot: s\npublication: p\nmessages: true\npartitions: leaves\n"
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if want := (Config{"postgres://h/d", "s", "p", true, "leaves"}); c != want {
		t.Errorf("decoded %+v", c)
	}
	schema, err := jsonschema.For[Config](nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(schema.Properties) != 5 || len(schema.Required) != 1 || schema.Required[0] != "url" {
		t.Errorf("schema has %d properties and requires %v", len(schema.Properties), schema.Required)
	}
	for name, property := range schema.Properties {
		if property.Description == "" {
			t.Errorf("%s has no description", name)
		}
	}
}
