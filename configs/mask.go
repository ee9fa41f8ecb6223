package configs

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// secretField tells whether a field of this name may hold a secret itself, rather than the name of a file with it.
func secretField(name string) bool {
	for _, word := range []string{"password", "passwd", "token", "secret", "url", "uri", "dsn", "credentials"} {
		if name == word || strings.HasSuffix(name, "_"+word) {
			return true
		}
	}
	return false
}

// span is a part of a line, in characters from 0, and what stands there instead; to is -1 for the line's end.
type span struct {
	from, to int
	with     string
}

// excerpts fills in the lines that the errors are about. A scalar is left readable only where it was read into a known
// field that is not secret; comments are cut off.
func (d *decoder) excerpts(root ast.Node, text []byte) {
	spans := map[int][]span{}
	for _, err := range d.errs {
		spans[err.Line] = []span{}
	}
	d.hide(root, spans)
	for _, tk := range lexer.Tokenize(string(text)) {
		if at := tokenPosition(tk); tk.Type == token.CommentType {
			addSpan(spans, at.line, span{at.column - 1, -1, ""})
		}
	}
	for _, err := range d.errs {
		if err.Line <= len(d.lines) {
			err.Excerpt = excerpt(masked(d.lines[err.Line-1], spans[err.Line], position{err.Line, err.Column}))
		}
	}
}

// addSpan notes a span on a line that is to be shown.
func addSpan(spans map[int][]span, line int, s span) {
	if list, wanted := spans[line]; wanted {
		spans[line] = append(list, s)
	}
}

// masked gives the line with its spans replaced, and the place where what was at is now.
func masked(line string, spans []span, at position) (string, position) {
	runes, column := []rune(strings.TrimRight(line, "\r")), at.column
	// From the right, so that the columns to the left stay true.
	slices.SortStableFunc(spans, func(a, b span) int { return b.from - a.from })
	for _, s := range spans {
		from, to := min(s.from, len(runes)), len(runes)
		if s.to >= 0 {
			to = max(from, min(s.to, to))
		}
		if to < at.column {
			column += len(s.with) - (to - from)
		}
		runes = slices.Replace(runes, from, to, []rune(s.with)...)
	}
	return strings.TrimRight(string(runes), " "), position{at.line, max(1, column)}
}

// hide collects the places of scalar values that were not read into a field that may be shown.
func (d *decoder) hide(n ast.Node, spans map[int][]span) {
	switch n := n.(type) {
	case nil:
	case *ast.MappingNode:
		for _, entry := range n.Values {
			d.hide(entry.Value, spans)
		}
	case *ast.SequenceNode:
		for _, entry := range n.Values {
			d.hide(entry, spans)
		}
	case *ast.NullNode:
	default:
		at := nodePosition(n)
		for i := range continuationLines(n) {
			addSpan(spans, at.line+1+i, span{0, -1, ""})
		}
		if !d.shown[at] && at.line <= len(d.lines) {
			addSpan(spans, at.line, span{at.column - 1, scalarEnd(n, d.lines[at.line-1], at.column-1), mask})
		}
	}
}

// continuationLines counts the lines after its first that a scalar takes.
func continuationLines(n ast.Node) int {
	tk := n.GetToken()
	if literal, ok := n.(*ast.LiteralNode); ok && literal.Value != nil {
		return strings.Count(literal.Value.GetToken().Origin, "\n")
	}
	return strings.Count(strings.TrimSpace(tk.Origin), "\n")
}

// scalarEnd gives where in the line the scalar that starts at from ends, or -1 for the line's end.
func scalarEnd(n ast.Node, line string, from int) int {
	runes := []rune(line)
	tk := n.GetToken()
	switch {
	case from >= len(runes):
		return -1
	case tk.Type == token.DoubleQuoteType || tk.Type == token.SingleQuoteType:
		for i := from + 1; i < len(runes); i++ {
			switch {
			case runes[i] == '\\' && tk.Type == token.DoubleQuoteType:
				i++
			case runes[i] == runes[from]:
				return i + 1
			}
		}
		return -1
	case tk.Type == token.StringType && !strings.Contains(tk.Value, " ") || n.Type() != ast.StringType && isNumberOrBool(n):
		return from + len([]rune(tk.Value))
	}
	return -1
}

// isNumberOrBool tells whether n is a number or boolean.
func isNumberOrBool(n ast.Node) bool {
	switch n.Type() {
	case ast.IntegerType, ast.FloatType, ast.BoolType, ast.InfinityType, ast.NanType:
		return true
	}
	return false
}

// redact takes the secrets that were read out of a text that a source made. Sources must not write them; this is the
// second lock on that door.
func (d *decoder) redact(text string) string {
	var forms []string
	for _, secret := range d.secrets {
		forms = append(forms, secretForms(secret)...)
	}
	slices.SortStableFunc(forms, func(a, b string) int { return len(b) - len(a) })
	for _, form := range forms {
		text = strings.ReplaceAll(text, form, mask)
	}
	return text
}

// secretForms gives the forms in which a secret may turn up in an error.
func secretForms(secret string) []string {
	forms := []string{secret}
	if u, err := url.Parse(secret); err == nil && u.User != nil {
		if password, set := u.User.Password(); set {
			forms = append(forms, password, url.QueryEscape(password), url.PathEscape(password))
		}
	}
	for _, f := range slices.Clone(forms) {
		quoted := strconv.Quote(f)
		forms = append(forms, quoted[1:len(quoted)-1])
	}
	return slices.DeleteFunc(forms, func(f string) bool { return f == "" })
}
