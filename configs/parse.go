package configs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// parse reads a config file. Its error is Errors.
func parse(name string, text []byte, env func(string) (string, bool), known kinds) (*Config, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	d := newDecoder(name, text, env, known)
	root := d.root(text, "the file is empty; it needs at least the field log")
	if root == nil {
		return nil, d.errs
	}
	c := defaults()
	d.decode(root, value{"", false}, reflectOf(c))
	d.check(c)
	if len(d.errs) > 0 {
		d.errs.sort()
		d.excerpts(root, text)
		return nil, d.errs
	}
	return c, nil
}

func newDecoder(name string, text []byte, env func(string) (string, bool), known kinds) *decoder {
	return &decoder{
		name:     name,
		lines:    strings.Split(string(text), "\n"),
		env:      env,
		known:    known,
		at:       map[string]position{},
		blocks:   map[string]bool{},
		failed:   map[string]bool{},
		types:    map[string]string{},
		shown:    map[position]bool{},
		literals: map[position]string{},
	}
}

// root gives the only document of the file, or nil and an error in d, which is empty's where there is nothing in it.
func (d *decoder) root(text []byte, empty string) ast.Node {
	if line, column, ok := invalidUTF8(text); ok {
		d.fail("", position{line, column}, "the file is not UTF-8 text")
		return nil
	}
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntaxError(err)
		return nil
	}
	var root ast.Node
	for i, doc := range file.Docs {
		if i > 0 && (doc.Body != nil || doc.Start != nil) {
			at := position{1, 1}
			if doc.Start != nil {
				at = tokenPosition(doc.Start)
			}
			d.fail("", at, "a second YAML document begins here; keep one document in a file and remove the ---")
			return nil
		}
		if doc.Body != nil {
			root = doc.Body
		}
	}
	if root == nil || root.Type() == ast.NullType {
		d.fail("", position{1, 1}, "%s", empty)
		return nil
	}
	return root
}

// syntaxError reports what the YAML parser could not read. What stands after a key may be a secret, and where it ends
// cannot be told, so it is left out of the excerpt.
func (d *decoder) syntaxError(err error) {
	at, message := position{1, 1}, "the text cannot be read"
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		message = strings.ReplaceAll(syntax.Message, "'\t'", "tab")
		if syntax.Token != nil && syntax.Token.Position != nil {
			at = tokenPosition(syntax.Token)
		}
	}
	var line string
	if at.line <= len(d.lines) {
		line = strings.TrimRight(d.lines[at.line-1], "\r")
	}
	hint := ""
	switch {
	case strings.HasPrefix(line, "\t"):
		hint = "; indent with spaces, not tabs"
	case strings.Contains(line, "${"):
		hint = `; inside {...} and [...] a variable stands in quotes: "${NAME}"`
	}
	d.fail("", at, "this is not YAML: %s%s", message, hint)
	if key, rest, found := strings.Cut(line, ":"); found && strings.TrimSpace(rest) != "" {
		line = key + ": …"
	} else if !found && strings.TrimSpace(line) != "" {
		return
	}
	d.errs[0].Excerpt = excerpt(line, at)
}

// invalidUTF8 finds the first byte that is not UTF-8 text. YAML allows no control characters either.
func invalidUTF8(text []byte) (line, column int, found bool) {
	line, column = 1, 1
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' {
			return line, column, true
		}
		if r == '\n' {
			line, column = line+1, 0
		}
		column++
		text = text[n:]
	}
	return 0, 0, false
}

// excerpt gives the line with its number and a caret below the column.
func excerpt(line string, at position) string {
	const limit = 120
	if strings.TrimSpace(line) == "" {
		return ""
	}
	runes := []rune(line)
	if len(runes) > limit {
		runes = append(runes[:limit:limit], '…')
	}
	number := fmt.Sprintf("%4d", at.line)
	shown := number + " | " + string(runes)
	if at.column > len(runes)+1 {
		return shown
	}
	indent := []rune(strings.Repeat(" ", at.column-1))
	for i := range indent {
		if i < len(runes) && runes[i] == '\t' {
			indent[i] = '\t'
		}
	}
	return shown + "\n" + strings.Repeat(" ", len(number)) + " | " + string(indent) + "^"
}
