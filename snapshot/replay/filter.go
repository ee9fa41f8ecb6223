package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"weft/sources"
	"weft/sources/jsonscan"
)

// Filter tells which rows to replay. The zero Filter takes all.
type Filter struct {
	keys  map[string]bool
	where *vm.Program
	text  string
}

// NewFilter compiles a filter. A key is the record key's JSON, or the bare value of a key with one column; where is an
// expression over the row's columns, in the language of github.com/expr-lang/expr. Errors point into it.
func NewFilter(keys []string, where string) (*Filter, error) {
	f := &Filter{text: where}
	for _, k := range keys {
		canonical, err := canonicalKey([]byte(k))
		if err != nil {
			return nil, fmt.Errorf(`--key %s is not JSON (%w); write the key as weft tail prints it, such as --key '{"id":17}', or its value, --key 17 or --key '"text"'`, k, err)
		}
		if f.keys == nil {
			f.keys = map[string]bool{}
		}
		f.keys[canonical] = true
	}
	if where != "" {
		var err error
		f.where, err = expr.Compile(where, expr.AsBool(), expr.Env(map[string]any{}), expr.AllowUndefinedVariables())
		if err != nil {
			return nil, fmt.Errorf("--where does not compile: %w", err)
		}
	}
	return f, nil
}

// canonicalKey has the members in the order of their names and no space.
func canonicalKey(key []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(key))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	if d.More() {
		return "", fmt.Errorf("there is more behind it")
	}
	text, err := json.Marshal(v)
	return string(text), err
}

// Takes tells whether the filter lets a row through: by the JSON of its key, and that of its columns if there is a where.
func (f *Filter) Takes(key, columns []byte) (bool, error) {
	if f.keys != nil {
		ok, err := f.hasKey(key)
		if !ok || err != nil {
			return false, err
		}
	}
	if f.where == nil {
		return true, nil
	}
	env := map[string]any{}
	err := jsonscan.Members(columns, func(name, raw []byte) error {
		v, err := typed(raw)
		env[string(name)] = v
		return err
	})
	if err != nil {
		return false, err
	}
	out, err := expr.Run(f.where, env)
	if err != nil {
		return false, sources.Fatal("compare a column with a value of its type; decimals and times are strings in the records, and float(total) makes a number of one",
			"--where %q cannot be applied to the row with key %s: %w", f.text, key, err)
	}
	return out.(bool), nil // AsBool
}

func (f *Filter) hasKey(key []byte) (bool, error) {
	if key == nil {
		return false, sources.Fatal("use --where", "the table has no key")
	}
	canonical, err := canonicalKey(key)
	if err != nil {
		return false, err
	}
	if f.keys[canonical] {
		return true, nil
	}
	n, bare := 0, ""
	err = jsonscan.Members(key, func(_, raw []byte) error {
		n++
		var err error
		bare, err = canonicalKey(raw)
		return err
	})
	return err == nil && n == 1 && f.keys[bare], err
}

// typed is a column's value as the filter's language has it: integers as int, other numbers as float64.
func typed(raw []byte) (any, error) {
	if raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
		if n, err := strconv.Atoi(string(raw)); err == nil {
			return n, nil
		}
	}
	var v any
	err := json.Unmarshal(raw, &v)
	return v, err
}
