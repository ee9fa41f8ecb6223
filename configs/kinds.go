package configs

import (
	"weft/sources"
	"weft/sources/all"
)

// kinds are the sources by the name that a source's type field has. Each gives a pointer to a struct with its defaults.
type kinds map[string]func() sources.Config

// Parse reads a config file from text; name is what errors call it, and env looks up a variable. Its error is Errors.
func Parse(name string, text []byte, env func(string) (string, bool)) (*Config, error) {
	return parse(name, text, env, all.Kinds)
}
