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

// ParseCapture reads one capture, a block of the fields that an entry of captures has, for a log and topics as c has them.
// capture is its name where the block has none. No secret may stand in the text itself; a variable may name it. Otherwise it
// is as Parse.
func (c *Config) ParseCapture(name, capture string, text []byte, env func(string) (string, bool)) (*Capture, error) {
	return c.parseCapture(name, capture, text, env, all.Kinds)
}
