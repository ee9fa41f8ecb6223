package configs

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// parseCapture is ParseCapture with these sources.
func (c *Config) parseCapture(name, capture string, text []byte, env func(string) (string, bool), known kinds) (*Capture, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	d := newDecoder(name, text, env, known)
	root := d.root(text, "there is nothing in it; write a capture's fields, such as source and tables")
	if root == nil {
		return nil, d.errs
	}
	var one Capture
	setDefault(reflect.ValueOf(&one).Elem())
	d.decode(root, value{"", false}, reflect.ValueOf(&one).Elem())
	if !d.set("name") && d.blocks[""] {
		one.Name, d.at["name"] = capture, d.at[""]
	}
	if d.good("name") && one.Name != capture {
		d.wrong("name", "the capture is to be called %s; write that, or remove the line", quote(capture))
	}
	d.checkCaptureIn(c, "", &one)
	d.checkOverlaps([]Capture{one})
	for at, path := range d.literals {
		d.fail(path, at, "a secret stands here, and the log would hold it for all its readers; name a variable, such as \"${%s}\", that is set "+
			"where weft run and this command run", variableFor(path))
	}
	if len(d.errs) > 0 {
		d.errs.sort()
		d.excerpts(root, text)
		return nil, d.errs
	}
	d.describeCapture(root, "", &one)
	return &one, nil
}

// variableFor suggests the name of a variable.
func variableFor(path string) string {
	return strings.ToUpper(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(strings.TrimPrefix(path, "source."), "_"))
}

// describeCapture sets what a capture knows of how it is written.
func (d *decoder) describeCapture(n ast.Node, path string, c *Capture) {
	c.SourceType = d.types[join(path, "source")]
	written, isBlock := d.written(n).(map[string]any)
	if !isBlock {
		return // which has been reported
	}
	written["name"] = c.Name
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(written); err != nil {
		d.fail(path, nodePosition(n), "write it as JSON: %w", err)
		return
	}
	c.Written = bytes.TrimSpace(b.Bytes())
}

// written is a value as JSON would have it, with variables as they are and secrets masked.
func (d *decoder) written(n ast.Node) any {
	switch n := n.(type) {
	case *ast.MappingNode:
		fields := make(map[string]any, len(n.Values))
		for _, entry := range n.Values {
			fields[keyText(entry)] = d.written(entry.Value)
		}
		return fields
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, entry := range n.Values {
			list[i] = d.written(entry)
		}
		return list
	case nil, *ast.NullNode:
		return nil
	}
	if _, secret := d.literals[nodePosition(n)]; secret {
		return mask
	}
	text := scalarText(n)
	switch n := n.(type) {
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode, *ast.FloatNode:
		if json.Valid([]byte(text)) {
			return json.RawMessage(text)
		}
	}
	return text
}

// scalarText is a scalar as it is written, without quotes.
func scalarText(n ast.Node) string {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	}
	return n.GetToken().Value
}

// reference stands in for a variable where a text is searched for secrets.
const reference = "WEFTVARIABLE"

var (
	references = regexp.MustCompile(`\$\{[^}]*\}`)
	only       = regexp.MustCompile(`^(` + reference + `)+$`)
	// assigned finds the secrets of key=value pairs and of a URL's query.
	assigned = regexp.MustCompile(`(?i)(?:password|passwd|pwd|token|secret)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s;&]*)`)
)

// holdsSecret tells whether the text of a secret field, as it is written, holds a secret itself. An address may stand there, but
// no password in it; of another field nothing but variables. In doubt there is one: a variable can always be named.
func holdsSecret(path, written string, whole bool) bool {
	text := references.ReplaceAllStringFunc(written, func(v string) string {
		if _, fallback, found := strings.Cut(v, ":-"); found {
			return reference + strings.TrimSuffix(fallback, "}") // the default stands there itself
		}
		return reference
	})
	if only.MatchString(text) {
		return false
	}
	field := path[strings.LastIndex(path, ".")+1:]
	address := false
	for _, word := range []string{"url", "uri", "dsn"} {
		address = address || field == word || strings.HasSuffix(field, "_"+word)
	}
	if whole || !address {
		return true
	}
	for _, found := range assigned.FindAllStringSubmatch(text, -1) {
		if !only.MatchString(strings.Trim(found[1], "'")) {
			return true
		}
	}
	if _, after, found := strings.Cut(text, "://"); found {
		text = after
	}
	at := strings.LastIndexByte(text, '@')
	_, password, found := strings.Cut(text[:max(0, at)], ":")
	return found && !only.MatchString(password)
}
