package mongodb

import (
	"errors"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

// What Open refuses, by name and with what mends it, the check finds too.
func TestRefused(t *testing.T) {
	kind := func(kind string) func(*fake, *Config, *sources.OpenOptions) {
		return func(f *fake, _ *Config, _ *sources.OpenOptions) {
			f.collections = []bson.D{{{Key: "name", Value: "orders"}, {Key: "type", Value: kind}}}
		}
	}
	for name, c := range map[string]struct {
		change func(f *fake, c *Config, o *sources.OpenOptions)
		want   []string
	}{
		"standalone": {func(f *fake, c *Config, _ *sources.OpenOptions) {
			f.hello, c.URL = nil, strings.TrimSuffix(c.URL, "?replicaSet=rs0")
		}, []string{"standalone", "rs.initiate()"}},
		"old":         {func(f *fake, _ *Config, _ *sources.OpenOptions) { f.version = []int32{6, 0, 8, 0} }, []string{"6.0.8", "6.0.9 or newer"}},
		"time-series": {kind("timeseries"), []string{"shop.orders is a timeseries"}},
		"view":        {kind("view"), []string{"shop.orders is a view"}},
		"missing": {func(f *fake, _ *Config, _ *sources.OpenOptions) { f.collections = []bson.D{} }, []string{
			"shop.orders: no collection matches", "createCollection"}},
		"no images": {func(_ *fake, c *Config, _ *sources.OpenOptions) { c.FullDocument = FullRequired }, []string{
			`runCommand({collMod: "orders", changeStreamPreAndPostImages: {enabled: true}})`}},
		"keys": {func(_ *fake, _ *Config, o *sources.OpenOptions) {
			o.Keys = map[string][]string{"shop.orders": {"x"}}
		}, []string{"a collection's key is _id"}},
		"scope": {func(_ *fake, c *Config, o *sources.OpenOptions) {
			c.Scope, o.Tables = ScopeCollection, []string{"shop.*"}
		}, []string{"scope: database"}},
		"rights": {func(f *fake, _ *Config, _ *sources.OpenOptions) { f.refuse = &refusal{code: codeUnauthorized} }, []string{"grantRolesToUser"}},
		"position": {func(_ *fake, _ *Config, o *sources.OpenOptions) { o.Position = sources.Position(`{"lsn":1}`) }, []string{
			"checkpoint get"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			config, o := f.config(), f.options()
			c.change(f, &config, &o)
			_, err := config.Open(t.Context(), o)
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) {
				t.Fatalf("open: %v", err)
			}
			c.change(f, &config, &o)
			found := config.Check(t.Context(), sources.CheckOptions{Tables: o.Tables, Keys: o.Keys, Position: o.Position})
			text := ""
			for _, finding := range found {
				if finding.Blocks {
					text += finding.Subject + " " + finding.Text + "; " + finding.Remedy + "\n"
				}
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("open: %q is not in %v", part, err)
				}
				if !strings.Contains(text, strings.TrimPrefix(part, "shop.orders ")) {
					t.Errorf("check: %q is not in %s", part, text)
				}
			}
		})
	}
}

// A user who lacks a right is told so, and how to grant it, whatever the command that needs it.
func TestRights(t *testing.T) {
	for _, command := range []string{"listDatabases", "listCollections", "aggregate"} {
		f := newFake(t)
		f.forbidden = command
		o := f.options()
		o.Tables = []string{"s*.orders"}
		_, err := f.config().Open(t.Context(), o)
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) || !strings.Contains(fatal.Remedy, "grantRolesToUser") {
			t.Errorf("%s: open: %v", command, err)
		}
		said := false
		for _, finding := range f.config().Check(t.Context(), sources.CheckOptions{Tables: o.Tables}) {
			said = said || finding.Blocks && strings.Contains(finding.Remedy, "grantRolesToUser")
		}
		if !said {
			t.Errorf("%s: check does not say it", command)
		}
	}
}

func TestOtherDeployment(t *testing.T) {
	f := newFake(t)
	o := f.options()
	o.Position = sources.Position(`{"deployment":"rs9","stream":"x","start_at":{"t":1,"i":1},"cluster_time":{"t":0,"i":0},"ordinal":0}`)
	_, err := f.config().Open(t.Context(), o)
	var gap *sources.GapError
	if !errors.As(err, &gap) || !strings.Contains(gap.Reason, "rs9") {
		t.Errorf("%v", err)
	}
}

// A good deployment's findings, and what a wildcard passes over.
func TestCheck(t *testing.T) {
	f := newFake(t)
	images := bson.E{Key: "options", Value: bson.D{{Key: "changeStreamPreAndPostImages", Value: bson.D{{Key: "enabled", Value: true}}}}}
	f.collections = append(f.collections, bson.D{{Key: "name", Value: "lines"}, {Key: "type", Value: "collection"}, images},
		bson.D{{Key: "name", Value: "metrics"}, {Key: "type", Value: "timeseries"}}, bson.D{{Key: "name", Value: "totals"}, {Key: "type", Value: "view"}}, bson.D{{Key: "name", Value: "system.views"}, {Key: "type", Value: "collection"}})
	found := f.config().Check(t.Context(), sources.CheckOptions{Tables: []string{"s*.*"}})
	got := []string{}
	for _, finding := range found {
		text, _, _ := strings.Cut(finding.Text, ",")
		got = append(got, finding.Level.String()+" "+finding.Subject+": "+text)
		if (finding.Table != nil) != (finding.Subject == "table shop.lines" || finding.Subject == "table shop.orders") {
			t.Errorf("%s: table %v", finding.Subject, finding.Table)
		}
	}
	same(t, got, []string{
		"ok server: MongoDB 7.0.5",
		"ok table shop.lines: captured",
		"warning table shop.metrics: it is a timeseries",
		"warning table shop.orders: captured; documents after updates are looked up",
		"warning table shop.totals: it is a view",
		"ok change stream: can be opened on deployment",
		"warning oplog: reaches back 1h0m0s: a longer outage of the capture loses changes; a young oplog may grow to reach further",
	})
	if s := f.opened()[0]; s.database != "admin" || !s.options.All {
		t.Errorf("the stream was opened with %+v", s)
	}
	o := f.options()
	o.Tables = []string{"s*.*"}
	f.open(f.config(), o)
}

// What a snapshot needs and what it cannot do there.
func TestCheckSnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f *fake)
		reads  []read // after one of a document
		want   string
	}{
		"good":     {func(*fake) {}, []read{{}, {at: at(100, 7)}, {at: at(100, 6)}}, "ok snapshot: documents from before can be read as of a cluster time"},
		"no times": {func(*fake) {}, []read{{}, {at: at(100, 7)}, {at: at(100, 7)}}, "warning snapshot: documents from before are read, though not as of one cluster time"},
		"rights":   {func(*fake) {}, []read{{refuse: &refusal{code: codeUnauthorized}}}, "problem table shop.orders: read shop.orders: the user may not"},
		"sharded": {func(f *fake) { f.hello = bson.D{{Key: "msg", Value: "isdbgrid"}} }, []read{{}, {at: at(100, 7)}, {at: at(100, 6)}},
			"warning snapshot: documents from before are read; of a sharded cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.change(f)
			f.found(c.reads...)
			config := f.config()
			config.URL = strings.TrimSuffix(config.URL, "?replicaSet=rs0")
			text := ""
			for _, finding := range config.Check(t.Context(), sources.CheckOptions{Tables: []string{"shop.orders"}, Snapshot: true}) {
				text += finding.Level.String() + " " + finding.Subject + ": " + finding.Text + "\n"
			}
			if !strings.Contains(text, c.want) {
				t.Errorf("%q is not in\n%s", c.want, text)
			}
		})
	}
}
