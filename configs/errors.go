package configs

import (
	"fmt"
	"slices"
	"strings"
)

// mask stands for a secret.
const mask = "***"

// Error is one mistake in a config file.
type Error struct {
	// File is the name that Parse was given. Line and Column count from 1; a column is a character.
	File         string
	Line, Column int
	// Path is the field, such as captures[0].source.url; empty for the file as a whole.
	Path string
	// Err says what is wrong and what to do.
	Err error
	// Excerpt is the line, with a caret under the column; values that may be secret are masked. It may be empty.
	Excerpt string
}

// Error gives FILE:LINE:COLUMN: PATH: MESSAGE, then the excerpt on lines of its own.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Err.Error())
	if e.Excerpt != "" {
		b.WriteString("\n" + e.Excerpt)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Errors are all mistakes of a config file, in the file's order.
type Errors []*Error

// Error gives each mistake on lines of its own.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// UnsetVariableError says that a value names an environment variable that is not set and has no default.
type UnsetVariableError struct{ Name string }

func (e *UnsetVariableError) Error() string {
	return fmt.Sprintf("the environment variable %s is not set; set it, or give a default: ${%[1]s:-VALUE}", e.Name)
}
