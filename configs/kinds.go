package configs

import "weft/sources"

// kinds are the sources by the name that a source's type field has.
type kinds map[string]func() sources.Config

var builtin = kinds{}

// Parse reads a config file from text; name is what errors call it, and env looks up a variable. Its error is Errors.
func Parse(name string, text []byte, env func(string) (string, bool)) (*Config, error) {
	return parse(name, text, env, builtin)
}
