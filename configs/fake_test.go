package configs

import (
	"context"
	"errors"
	"time"

	"weft/sources"
)

// fakeSource has a field of each form that a source's block may have.
type fakeSource struct {
	URL      string            `yaml:"url" json:"url" jsonschema:"Where the database is."`
	Slot     string            `yaml:"slot,omitempty" json:"slot,omitempty" jsonschema:"Name of the slot."`
	Poll     time.Duration     `yaml:"poll,omitempty" json:"poll,omitempty" jsonschema:"How often to look."`
	Limit    int               `yaml:"limit,omitempty" json:"limit,omitempty" jsonschema:"Rows at a time."`
	Ratio    float64           `yaml:"ratio,omitempty" json:"ratio,omitempty" jsonschema:"A share."`
	Temp     bool              `yaml:"temporary,omitempty" json:"temporary,omitempty" jsonschema:"Drop the slot at the end."`
	Columns  map[string]string `yaml:"columns,omitempty" json:"columns,omitempty" jsonschema:"Columns by table."`
	Password string            `yaml:"password,omitempty" json:"password,omitempty" jsonschema:"Password."`
	TLS      fakeTLS           `yaml:"tls,omitempty" json:"tls,omitempty" jsonschema:"TLS."`
}

type fakeTLS struct {
	CA string `yaml:"ca,omitempty" json:"ca,omitempty" jsonschema:"File."`
}

func (*fakeSource) Connector() string { return "fake" }

func (s *fakeSource) Open(context.Context, sources.OpenOptions) (sources.Source, error) {
	return nil, errors.New("not in this test")
}

func (s *fakeSource) Validate() error {
	var errs []error
	if s.URL == "" {
		errs = append(errs, errors.New("url: is required"))
	} else if s.URL == "leak" || s.URL == "postgres://weft:hunter2@db/shop?bad" {
		errs = append(errs, errors.New("url: cannot parse "+s.URL+" with hunter2"))
	}
	if s.Limit < 0 {
		errs = append(errs, errors.New("limit must not be negative"))
	}
	if s.TLS.CA == "missing" {
		errs = append(errs, errors.New("tls.ca: is missing"))
	}
	return errors.Join(errs...)
}

func fakeKinds() kinds {
	return kinds{
		"fake":   func() sources.Config { return &fakeSource{Slot: "weft", Poll: time.Second} },
		"sqlite": func() sources.Config { return &fakeSource{} },
	}
}

// testEnv is the environment of the tests. No value of it may turn up in an error.
var testEnv = map[string]string{
	"SHOP_URL":   "postgres://weft:hunter2@db/shop",
	"BAD_URL":    "postgres://weft:hunter2@db/shop?bad",
	"PARTITIONS": "12",
	"WORD":       "hunter2word",
	"ON":         "true",
	"EMPTY":      "",
	"AGE":        "36h",
}

func lookup(name string) (string, bool) {
	v, ok := testEnv[name]
	return v, ok
}
