package configs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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

// CheckName refuses what is no capture's name.
func CheckName(name string) error {
	if !captureName.MatchString(name) {
		return fmt.Errorf("a capture's name is %s; %q is none", nameRule, name)
	}
	return nil
}

// CheckClash refuses a capture that would write tables to topics to which one of the others, by what is written, writes them.
// Patterns may still meet in a table that only the database knows.
func CheckClash(c Capture, others []Capture) error {
	var errs []error
	for _, other := range others {
		for _, table := range c.Tables {
			if other.Topics.Prefix == c.Topics.Prefix && slices.Contains(other.Tables, table) && !strings.ContainsAny(table, "*?") {
				errs = append(errs, fmt.Errorf("capture %s already writes a table of the name %s to the topics of prefix %s; leave the table to one capture, "+
					"or give this one a topics.prefix of its own", other.Name, table, c.Topics.Prefix))
			}
		}
	}
	return errors.Join(errs...)
}

// HasTable tells whether the capture's tables, or patterns, give this one.
func (c *Capture) HasTable(table string) bool {
	return slices.ContainsFunc(c.Tables, func(pattern string) bool { return sources.MatchTable(pattern, table) })
}
