package polling

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"weft/sources"
)

// checkable is a dialect that a check can look at.
type checkable interface {
	// inspect opens a view without having looked at the tables.
	inspect(ctx context.Context) (inspected, error)
	explain(err error) error
	close() error
}

// inspected is a view that a check looks at piece by piece, where Open would stop at the first thing that it refuses.
type inspected interface {
	view
	// match lists the captured tables in the order of their names.
	match(ctx context.Context) ([]candidate, error)
	// server adds what there is to say of the server, and of how far its rows are complete.
	server(ctx context.Context, k *checker) error
	// reading says how polls read a table, and adds what else there is to say of it.
	reading(ctx context.Context, k *checker, t *table) (how string, err error)
	// pollAccess tells how the datastore finds the rows that a poll asks for, and rangeAccess those of a range of keys, which is
	// asked only where they are ordered.
	pollAccess(ctx context.Context, t *table) (access, error)
	rangeAccess(ctx context.Context, t *table) (access, error)
	// createIndex is the statement that makes an index on columns of a table.
	createIndex(t *table, columns ...string) string
}

// access is how a datastore finds the rows that a statement asks for, by its own plan of that statement.
type access int

const (
	unknownAccess access = iota
	byIndex              // by a range of an index
	byChoice             // by reading the whole table, though an index would do, as servers do with small ones
	byScan               // by reading the whole table, or a whole index, since no index would do
)

// check looks at a capture with the eyes of Open. It closes d. watermark is the column by which polls find rows, "" for none.
func check(ctx context.Context, d checkable, subject, place, watermark string, r Reconcile, o sources.CheckOptions) []sources.Finding {
	k := &checker{dialect: d, place: place, watermark: watermark, reconciles: !r.Off}
	v, err := d.inspect(ctx)
	if err == nil {
		err = k.run(ctx, v, o)
		if cerr := v.close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		k.refuse(subject, d.explain(err))
	}
	if err := d.close(); err != nil {
		k.refuse(subject, err)
	}
	return k.findings
}

// checker gathers the findings of one capture.
type checker struct {
	dialect          checkable
	place, watermark string
	reconciles       bool
	findings         []sources.Finding
}

func (k *checker) add(level sources.Level, subject, text, remedy string) {
	k.findings = append(k.findings, sources.Finding{Level: level, Subject: subject, Text: text, Remedy: remedy})
}

func (k *checker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, err))
}

func (k *checker) run(ctx context.Context, v inspected, o sources.CheckOptions) error {
	if err := v.server(ctx, k); err != nil {
		return err
	}
	candidates, err := v.match(ctx)
	if err != nil {
		k.refuse("tables", k.dialect.explain(err))
		return nil
	}
	whole := true
	for _, c := range candidates {
		t, err := c.load(ctx)
		if err != nil {
			k.refuse("table "+c.name, k.dialect.explain(err))
			whole = false
			continue
		}
		if err := k.table(ctx, v, t); err != nil {
			return fmt.Errorf("look at table %s: %w", t.name, err)
		}
	}
	if whole {
		k.position(o, v)
	}
	return nil
}

// table tells how a table is captured, and what that costs its server.
func (k *checker) table(ctx context.Context, v inspected, t *table) error {
	at := len(k.findings)
	how, err := v.reading(ctx, k, t)
	if err != nil {
		return err
	}
	k.findings = slices.Insert(k.findings, at, sources.Finding{Subject: "table " + t.name, Table: &t.Table,
		Text: fmt.Sprintf("key (%s), %s", strings.Join(keyNames(t), ", "), how)})
	if k.watermark != "" {
		poll, err := v.pollAccess(ctx, t)
		if err != nil {
			return fmt.Errorf("ask for the plan of a poll: %w", err)
		}
		if poll == byScan {
			k.add(sources.Warning, "table "+t.name, fmt.Sprintf("no index leads a poll to the rows with a new %s: by the server's plan each poll reads the whole table", k.watermark),
				v.createIndex(t, append([]string{k.watermark}, keyNames(t)...)...))
		}
	}
	if !k.reconciles || !v.keysOrdered(t) {
		return nil
	}
	keys, err := v.rangeAccess(ctx, t)
	if err != nil {
		return fmt.Errorf("ask for the plan of a range of keys: %w", err)
	}
	if keys == byScan {
		k.add(sources.Warning, "table "+t.name, fmt.Sprintf("no index leads to a range of its keys (%s): by the server's plan each step of the search for deleted rows reads the whole table",
			strings.Join(keyNames(t), ", ")), v.createIndex(t, keyNames(t)...))
	}
	return nil
}

// position compares the checkpoint with what a view shows.
func (k *checker) position(o sources.CheckOptions, v view) {
	if o.Position == nil {
		return
	}
	p, err := parsePosition(o.Position)
	if err == nil {
		err = (&source{position: p, place: k.place}).verify(v)
	}
	if err != nil {
		k.refuse("checkpoint", err)
	}
}

// sampleRange is a range of keys to ask for a plan with.
func sampleRange(t *table) (first, last [][]byte) {
	for _, k := range t.Key {
		from, to := "1", "10000"
		if t.Columns[k].Type.Kind == sources.UUID {
			from, to = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000010000"
		}
		first, last = append(first, []byte(from)), append(last, []byte(to))
	}
	return first, last
}
