package configs

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/jsonschema-go/jsonschema"

	"weft/sources"
	"weft/sources/all"
)

// TestSchema holds weft.schema.json to the structs. go test ./configs -update writes it.
func TestSchema(t *testing.T) {
	text, err := json.MarshalIndent(schema(t, all.Kinds), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "weft.schema.json", string(text)+"\n")
}

// variable is a value that a ${NAME} may stand for, where the field itself is no text.
const variable = `\$\{.*\}`

// schema makes the JSON Schema of the config file.
func schema(t *testing.T, known kinds) *jsonschema.Schema {
	t.Helper()
	options := &jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Duration](): {
			Type: "string", Pattern: `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|` + variable,
		},
		reflect.TypeFor[Bytes](): {
			Types: []string{"string", "integer"}, Minimum: jsonschema.Ptr(0.0),
			Pattern: `^[0-9]+ *([KMGTkmgt]?[Ii]?[Bb])?$|` + variable,
		},
		reflect.TypeFor[int]():     {Types: []string{"integer", "string"}, Pattern: variable},
		reflect.TypeFor[bool]():    {Types: []string{"boolean", "string"}, Pattern: variable},
		reflect.TypeFor[float64](): {Types: []string{"number", "string"}, Pattern: variable},
		settingsType:               {Type: "object", AdditionalProperties: &jsonschema.Schema{Types: []string{"string", "number", "boolean"}}},
	}}
	for _, e := range []enum{Profile(""), Mechanism(""), Compression(""), Dialect(""), Cleanup(""), Level(""), Format(""), OnGap(""), Snapshot("")} {
		list := &jsonschema.Schema{Type: "string"}
		for _, v := range e.values() {
			list.Enum = append(list.Enum, v)
		}
		options.TypeSchemas[reflect.TypeOf(e)] = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{list, {Type: "string", Pattern: variable}}}
	}
	var blocks []*jsonschema.Schema
	for _, kind := range slices.Sorted(maps.Keys(known)) {
		block := structSchema(t, reflect.TypeOf(known[kind]()).Elem(), options)
		block.Title = kind
		block.Properties["type"] = &jsonschema.Schema{Const: jsonschema.Ptr[any](kind), Description: "Kind of database."}
		block.Required = append([]string{"type"}, block.Required...)
		block.PropertyOrder = append([]string{"type"}, block.PropertyOrder...)
		blocks = append(blocks, block)
	}
	options.TypeSchemas[reflect.TypeFor[sources.Config]()] = &jsonschema.Schema{OneOf: blocks}

	root := structSchema(t, reflect.TypeFor[Config](), options)
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "Weft's config file"
	root.Properties["log"].OneOf = []*jsonschema.Schema{{Required: []string{"embedded"}}, {Required: []string{"brokers"}}}
	capture := root.Properties["captures"].Items
	capture.Properties["name"].Pattern = captureName.String() + "|" + variable
	capture.Properties["tables"].MinItems = jsonschema.Ptr(1)
	return root
}

// structSchema is the schema of a struct in the form that the file has: an absent list is left out, not null.
func structSchema(t *testing.T, of reflect.Type, options *jsonschema.ForOptions) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.ForType(of, options)
	if err != nil {
		t.Fatal(err)
	}
	withoutNull(s)
	return s
}

func withoutNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if len(s.Types) == 2 && s.Types[0] == "null" {
		s.Type, s.Types = s.Types[1], nil
	}
	withoutNull(s.Items)
	withoutNull(s.AdditionalProperties)
	for _, p := range s.Properties {
		withoutNull(p)
	}
}

// validate checks a YAML text against the schema.
func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	resolved, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	var instance any
	if err := json.Unmarshal(asJSON, &instance); err != nil {
		t.Fatal(err)
	}
	return resolved.Validate(instance)
}

// TestSchemaAgrees holds the schema to the decoder: what one accepts, the other does, as far as a schema can tell.
func TestSchemaAgrees(t *testing.T) {
	s := schema(t, fakeKinds())
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"full": full, "smallest": []byte(smallest)} {
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{
		"both-logs", "capture", "comments-only", "enumerations", "missing", "missing-below",
		"null-values", "source-type", "suggest-prefix", "top-types", "types", "unknown-source-field", "unknown-field-holds-secret",
	} {
		text, err := os.ReadFile("testdata/" + bad + ".bad.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, text); err == nil {
			t.Errorf("the schema accepts %s", bad)
		}
	}
}

// TestExamples parses each example and validates it against the schema file.
func TestExamples(t *testing.T) {
	text, err := os.ReadFile("weft.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(text, s); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %d examples: %v", len(files), err)
	}
	// Passwords come from the environment, as the examples' comments say.
	env := func(name string) (string, bool) {
		if name == "SHOP_URL" {
			return "postgres://weft:secret@127.0.0.1:5432/shop", true
		}
		if name == "MONGODB_URL" {
			return "mongodb://weft:secret@127.0.0.1:27017/?replicaSet=rs0", true
		}
		if name == "SALES_URL" {
			return "mariadb://weft:secret@127.0.0.1:3306", true
		}
		if name == "MYSQL_URL" {
			return "mysql://weft:secret@127.0.0.1:3306", true
		}
		if name == "SALES_DSN" {
			return "postgres://weft:secret@127.0.0.1:5432/shop", true
		}
		return "secret", strings.HasSuffix(name, "_PASSWORD")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# yaml-language-server: $schema=../weft.schema.json\n") {
			t.Errorf("%s does not name its schema in the first line", file)
		}
		if _, err := Parse(file, text, env); err != nil {
			t.Error(err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestBuiltinSources: the decoder fills in what the kinds give, so each must be a pointer to a struct, whose fields the
// decoder can read and the schema describes.
func TestBuiltinSources(t *testing.T) {
	if len(all.Kinds) == 0 {
		t.Fatal("no sources")
	}
	for kind, newConfig := range all.Kinds {
		v := reflect.ValueOf(newConfig())
		if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			t.Errorf("%s is a %T, not a pointer to a struct", kind, newConfig())
			continue
		}
		for i := range v.Elem().NumField() {
			f := v.Elem().Type().Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			inJSON, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || name != inJSON || f.Tag.Get("jsonschema") == "" {
				t.Errorf("%s: the field %s lacks a yaml, json or jsonschema tag, or they differ", kind, f.Name)
			}
		}
	}
}
