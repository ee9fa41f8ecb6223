package configs

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"weft/sources"
)

// position is a place in the file, counted from 1.
type position struct{ line, column int }

func tokenPosition(tk *token.Token) position {
	return position{max(1, tk.Position.Line), max(1, tk.Position.Column)}
}

// nodePosition gives where a node starts; a mapping's own token is its first colon.
func nodePosition(n ast.Node) position {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return tokenPosition(m.Values[0].Key.GetToken())
	}
	return tokenPosition(n.GetToken())
}

// decoder reads the parsed file into Go values. goccy/go-yaml's own strict decoding ends at the first error; this one goes
// on, so that all mistakes are reported at once, and remembers where each field stands for the checks that follow.
type decoder struct {
	name  string
	lines []string
	env   func(string) (string, bool)
	known kinds
	errs  Errors

	at      map[string]position // where the value of a field path stands
	blocks  map[string]bool     // paths of structs that were read from a block
	failed  map[string]bool     // paths that have an error, at them or below
	types   map[string]string   // the type field of each source, by the source's path
	shown   map[position]bool   // scalars that an excerpt may show
	secrets []string            // texts of secret fields and of variables

	// literals are secrets that stand in the text themselves, with their paths.
	literals map[position]string
	unnamed  bool // that topics lack a prefix was reported
}

// value is what decode is told of the place of a value.
type value struct {
	path   string
	secret bool
}

func reflectOf(c *Config) reflect.Value { return reflect.ValueOf(c).Elem() }

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[Secret]()
	settingsType = reflect.TypeFor[Settings]()
	sourceType   = reflect.TypeFor[sources.Config]()
)

func (d *decoder) fail(path string, at position, format string, args ...any) {
	d.errs = append(d.errs, &Error{File: d.name, Line: at.line, Column: at.column, Path: path, Err: fmt.Errorf(format, args...)})
	for path != "" {
		d.failed[path] = true
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// decode reads n into v, which holds the default. A value with a mistake leaves it.
func (d *decoder) decode(n ast.Node, at value, v reflect.Value) {
	d.at[at.path] = nodePosition(n)
	switch n.Type() {
	case ast.NullType:
		d.fail(at.path, nodePosition(n), "there is no value; write one, or remove the line")
		return
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		d.fail(at.path, nodePosition(n), "anchors, aliases and tags are not read here; write the value itself")
		return
	}
	switch {
	case v.Type() == sourceType:
		d.decodeSource(n, at, v)
	case v.Kind() == reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		setDefault(target.Elem())
		d.decode(n, at, target.Elem())
		v.Set(target)
	case v.Type() == durationType || v.Addr().Type().Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		d.decodeScalar(n, at, v)
	case v.Kind() == reflect.Struct:
		d.decodeStruct(n, at, v)
	case v.Kind() == reflect.Slice:
		d.decodeList(n, at, v)
	case v.Kind() == reflect.Map:
		d.decodeMap(n, at, v)
	default:
		d.decodeScalar(n, at, v)
	}
}

func setDefault(v reflect.Value) {
	if initial, ok := defaultOf[v.Type()]; ok {
		v.Set(reflect.ValueOf(initial))
	}
}

// mapping gives the entries of a mapping by key, having reported duplicates and keys that are no text.
func (d *decoder) mapping(n ast.Node, at value, what string) (keys []*ast.MappingValueNode, ok bool) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		d.fail(at.path, nodePosition(n), "expected %s, found %s", what, describe(n))
		return nil, false
	}
	first := map[string]position{}
	for _, entry := range m.Values {
		where := tokenPosition(entry.Key.GetToken())
		if entry.Key.IsMergeKey() || entry.Key.Type() == ast.MappingKeyType || entry.Key.GetToken().Type == token.AnchorType {
			d.fail(at.path, where, "a field's name must be plain text; merge keys, anchors and complex keys are not read here")
			continue
		}
		key := keyText(entry)
		if earlier, seen := first[key]; seen {
			d.fail(at.path, where, "duplicate field %s, first set on line %d; keep one", quote(key), earlier.line)
			continue
		}
		first[key] = where
		keys = append(keys, entry)
	}
	return keys, true
}

func keyText(entry *ast.MappingValueNode) string { return entry.Key.GetToken().Value }

func (d *decoder) decodeStruct(n ast.Node, at value, v reflect.Value, alsoKnown ...string) {
	entries, ok := d.mapping(n, at, "a block of fields")
	if !ok {
		return
	}
	d.blocks[at.path] = true
	fields := fieldsOf(v)
	names := append([]string{}, alsoKnown...)
	for _, f := range fields {
		names = append(names, f.name)
	}
	byName := map[string]*ast.MappingValueNode{}
	for _, entry := range entries {
		key := keyText(entry)
		byName[key] = entry
		if !slices.Contains(names, key) {
			d.fail(at.path, tokenPosition(entry.Key.GetToken()), "unknown field %s; %s", quote(key), suggest(key, names))
			d.failed[join(at.path, nearest(key, names))] = true
		}
	}
	for _, f := range fields {
		if entry, set := byName[f.name]; set {
			d.decode(entry.Value, value{join(at.path, f.name), at.secret || secretField(f.name)}, f.value)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// field is a field of a struct as the file has it.
type field struct {
	name  string
	value reflect.Value
}

// fieldsOf lists the fields of a struct by their yaml tags, those of inlined structs included.
func fieldsOf(v reflect.Value) []field {
	var fields []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			fields = append(fields, fieldsOf(v.Field(i))...)
		case name == "-" || !f.IsExported():
		case name == "":
			fields = append(fields, field{strings.ToLower(f.Name), v.Field(i)})
		default:
			fields = append(fields, field{name, v.Field(i)})
		}
	}
	return fields
}

func (d *decoder) decodeList(n ast.Node, at value, v reflect.Value) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(at.path, nodePosition(n), "expected a list, found %s; write [...], or one entry a line after -", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values))
	for i, entry := range list.Values {
		setDefault(out.Index(i))
		d.decode(entry, value{fmt.Sprintf("%s[%d]", at.path, i), at.secret}, out.Index(i))
		if c, ok := out.Index(i).Addr().Interface().(*Capture); ok {
			d.describeCapture(entry, fmt.Sprintf("%s[%d]", at.path, i), c)
		}
	}
	v.Set(out)
}

func (d *decoder) decodeMap(n ast.Node, at value, v reflect.Value) {
	entries, ok := d.mapping(n, at, "a block of fields")
	if !ok {
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(entries))
	for _, entry := range entries {
		key := keyText(entry)
		below := value{fmt.Sprintf("%s[%s]", at.path, quote(key)), at.secret || secretField(key)}
		element := reflect.New(v.Type().Elem()).Elem()
		if s, isScalar := d.settingText(entry.Value, v.Type()); isScalar {
			d.at[below.path] = nodePosition(entry.Value)
			d.shown[nodePosition(entry.Value)] = !below.secret
			element.SetString(s)
		} else {
			d.decode(entry.Value, below, element)
		}
		out.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), element)
	}
	v.Set(out)
}

// settingText gives the text of a number or boolean that is a topic setting, where Kafka takes every value as text.
func (d *decoder) settingText(n ast.Node, target reflect.Type) (string, bool) {
	if target != settingsType {
		return "", false
	}
	switch n.Type() {
	case ast.IntegerType, ast.FloatType, ast.BoolType:
		return n.GetToken().Value, true
	}
	return "", false
}

// decodeSource reads a source's block into the struct that its type field names.
func (d *decoder) decodeSource(n ast.Node, at value, v reflect.Value) {
	block, ok := n.(*ast.MappingNode)
	if !ok {
		d.fail(at.path, nodePosition(n), "expected a block with the field type, found %s", describe(n))
		return
	}
	names := slices.Sorted(maps.Keys(d.known))
	path, before, kind := join(at.path, "type"), len(d.errs), ""
	for _, entry := range block.Values {
		if keyText(entry) == "type" {
			d.decode(entry.Value, value{path, false}, reflect.ValueOf(&kind).Elem())
			break
		}
	}
	if len(d.errs) > before {
		return
	}
	if _, found := d.at[path]; !found {
		d.fail(at.path, nodePosition(n), "the block that starts here lacks the required field \"type\"; write one of %s", strings.Join(names, ", "))
		return
	}
	newConfig, found := d.known[kind]
	if !found {
		d.fail(path, d.at[path], "there is no source %s; %s", quote(kind), suggest(kind, names))
		return
	}
	config := newConfig()
	d.types[at.path] = kind
	d.decodeStruct(n, at, reflect.ValueOf(config).Elem(), "type")
	v.Set(reflect.ValueOf(config))
	if len(d.errs) == before {
		d.validateSource(config, at)
	}
}

var leadingField = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*`)

// validateSource reports what the source finds wrong in its own block, at the field that the error's text begins with.
func (d *decoder) validateSource(config sources.Config, at value) {
	err := config.Validate()
	if err == nil {
		return
	}
	errs := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		errs = joined.Unwrap()
	}
	for _, err := range errs {
		text := d.redact(err.Error())
		where, path := d.at[at.path], at.path
		if name := leadingField.FindString(text); name != "" {
			if p, found := d.at[join(at.path, name)]; found {
				where, path = p, join(at.path, name)
				text = strings.TrimLeft(strings.TrimPrefix(text, name), ": ")
			}
		}
		d.fail(path, where, "%s", text)
	}
}

// scalar is a value's text after the expansion of variables.
type scalar struct {
	text string
	// form is how the value is written: "string" where it is quoted or like no other form.
	form string
	// variables that are part of the text.
	variables []string
}

// readScalar gives the text of n, or reports that it is no single value.
func (d *decoder) readScalar(n ast.Node, at value, expected string) (scalar, bool) {
	s := scalar{form: "string"}
	switch n := n.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		s.text = scalarText(n)
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar{text: n.GetToken().Value, form: "number"}, true
	case *ast.BoolNode:
		return scalar{text: n.GetToken().Value, form: "boolean"}, true
	default:
		d.fail(at.path, nodePosition(n), "expected %s, found %s", expected, describe(n))
		return s, false
	}
	text, names, errs := expand(s.text, d.env)
	for _, err := range errs {
		d.fail(at.path, nodePosition(n), "%w", err)
	}
	if len(errs) > 0 {
		return s, false
	}
	for _, name := range names {
		if v, _ := d.env(name); v != "" {
			d.secrets = append(d.secrets, v)
		}
	}
	s.text, s.variables = text, names
	return s, true
}

// written says what was found, without giving away a secret or a variable's value.
func (s scalar) written(secret bool) string {
	switch {
	case len(s.variables) > 0:
		return "the value of ${" + strings.Join(s.variables, "}, ${") + "}"
	case secret:
		return "a " + s.form
	case s.form == "string":
		return "the string " + quote(s.text)
	default:
		return "the " + s.form + " " + s.text
	}
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (d *decoder) decodeScalar(n ast.Node, at value, v reflect.Value) {
	secret := at.secret || v.Type() == secretType
	expected := expectation(v)
	s, ok := d.readScalar(n, at, expected)
	if !ok {
		return
	}
	if secret && s.text != "" {
		d.secrets = append(d.secrets, s.text)
		if holdsSecret(at.path, scalarText(n), v.Type() == secretType) {
			d.literals[nodePosition(n)] = at.path
		}
	}
	if !secret {
		d.shown[nodePosition(n)] = true
	}
	mismatch := func(remedy string) {
		d.fail(at.path, nodePosition(n), "expected %s, found %s%s", expected, s.written(secret), remedy)
	}
	if list, isEnum := v.Interface().(enum); isEnum {
		if !slices.Contains(list.values(), s.text) {
			hint := ""
			if len(s.variables) == 0 {
				if near := nearest(s.text, list.values()); near != "" {
					hint = fmt.Sprintf("; did you mean %q?", near)
				}
			}
			mismatch(hint)
			return
		}
		v.SetString(s.text)
		return
	}
	if v.Type() == durationType {
		duration, err := time.ParseDuration(s.text)
		if err != nil || s.form != "string" {
			mismatch("; the units are ms, s, m and h")
			return
		}
		v.SetInt(int64(duration))
		return
	}
	if u, isText := v.Addr().Interface().(encoding.TextUnmarshaler); isText {
		if err := u.UnmarshalText([]byte(s.text)); err != nil {
			d.fail(at.path, nodePosition(n), "%s, found %s", d.redact(err.Error()), s.written(secret))
		}
		return
	}
	// Quotes make a string, except of a variable, which in {...} and [...] cannot do without them.
	typed := s.form != "string" || len(s.variables) > 0
	unquote := ""
	if !typed && !secret && (decimal.MatchString(s.text) || s.text == "true" || s.text == "false") {
		unquote = "; remove the quotes"
	}
	switch v.Kind() {
	case reflect.String:
		if s.form != "string" {
			mismatch("; put it in quotes")
			return
		}
		v.SetString(s.text)
	case reflect.Bool:
		if !typed || s.text != "true" && s.text != "false" {
			mismatch(unquote)
			return
		}
		v.SetBool(s.text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number, err := strconv.ParseInt(s.text, 10, v.Type().Bits())
		if err != nil || !typed || !decimal.MatchString(s.text) {
			mismatch(unquote)
			return
		}
		v.SetInt(number)
	case reflect.Float32, reflect.Float64:
		number, err := strconv.ParseFloat(s.text, v.Type().Bits())
		if err != nil || !typed {
			mismatch(unquote)
			return
		}
		v.SetFloat(number)
	default:
		d.fail(at.path, nodePosition(n), "this version cannot read the field: it is a Go %s", v.Type())
	}
}

// expectation says what a scalar field takes.
func expectation(v reflect.Value) string {
	if list, ok := v.Interface().(enum); ok {
		if len(list.values()) == 1 {
			return list.values()[0]
		}
		return "one of " + strings.Join(list.values(), ", ")
	}
	switch {
	case v.Type() == durationType:
		return "a duration such as 500ms or 24h"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.CanInt() && v.Type().PkgPath() == "":
		return "a whole number"
	case v.CanFloat():
		return "a number"
	}
	return "a string"
}

// describe names what a node is.
func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a block of fields"
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "a number"
	case ast.BoolType:
		return "a boolean"
	case ast.NullType:
		return "no value"
	}
	return "a string"
}
