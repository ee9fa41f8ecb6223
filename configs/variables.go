package configs

import (
	"errors"
	"regexp"
	"strings"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${NAME} by the variable's value and ${NAME:-DEFAULT} by DEFAULT where the variable is unset or empty;
// $${ stands for ${. It gives the names it replaced. Values are not expanded again.
func expand(text string, env func(string) (string, bool)) (expanded string, names []string, errs []error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		if !found {
			b.WriteString(text)
			return b.String(), names, errs
		}
		if literal, escaped := strings.CutSuffix(before, "$"); escaped {
			b.WriteString(literal + "${")
			text = rest
			continue
		}
		b.WriteString(before)
		inside, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", names, append(errs, errors.New("${ without }; write ${NAME}, or $${ for the characters themselves"))
		}
		text = after
		name, fallback, hasFallback := strings.Cut(inside, ":-")
		if !variableName.MatchString(name) {
			errs = append(errs, errors.New("between ${ and } stands no name of an environment variable; write ${NAME}, or $${ for the characters themselves"))
			continue
		}
		value, set := env(name)
		switch {
		case hasFallback && (!set || value == ""):
			value = fallback
		case !set:
			errs = append(errs, &UnsetVariableError{Name: name})
		}
		names = append(names, name)
		b.WriteString(value)
	}
}
