package polling

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// shop is a database with what a test captures of it.
type shop struct {
	t      *testing.T
	path   string
	db     *sql.DB
	config *SQLiteConfig
	opts   sources.OpenOptions
}

func newShop(t *testing.T, tables ...string) *shop {
	path := filepath.Join(t.TempDir(), "shop.db")
	return &shop{
		t: t, path: path, db: openWriter(t, path, "wal"),
		config: &SQLiteConfig{Path: path, Interval: time.Millisecond},
		opts: sources.OpenOptions{
			Capture: "shop", Tables: tables, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10, Logger: hclog.NewNullLogger(),
		},
	}
}

func (s *shop) execute(statements ...string) {
	s.t.Helper()
	execute(s.t, s.db, statements...)
}

// open opens the source; it is closed with the test unless it was before.
func (s *shop) open() sources.Source {
	s.t.Helper()
	src, err := s.config.Open(s.t.Context(), s.opts)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := src.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return src
}

// openError opens the source, which must fail.
func (s *shop) openError() error {
	s.t.Helper()
	src, err := s.config.Open(s.t.Context(), s.opts)
	if err == nil {
		src.Close()
		s.t.Fatal("open succeeded")
	}
	return err
}

// start opens the source and takes the first, empty batch.
func (s *shop) start() sources.Source {
	s.t.Helper()
	src := s.open()
	b := next(s.t, src)
	if len(b.Changes) > 0 || b.Position == nil {
		s.t.Fatalf("the first batch holds %d changes at %s", len(b.Changes), b.Position)
	}
	return src
}

func next(t *testing.T, src sources.Source) sources.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := src.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nextError calls Next, which must fail by itself.
func nextError(t *testing.T, src sources.Source) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := src.Next(ctx)
	if err == nil || ctx.Err() != nil {
		t.Fatalf("next returned %d changes and error %v", len(b.Changes), err)
	}
	return err
}

// nothing verifies that Next stays blocked.
func nothing(t *testing.T, src sources.Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	b, err := src.Next(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("next returned %s and error %v", show(b), err)
	}
}

// show writes a batch's changes without the watermark: "orders 1 paid; orders 2 NULL".
func show(b sources.Batch) string {
	var out []string
	for _, c := range b.Changes {
		text := c.Table.Name
		for i, v := range c.After {
			switch {
			case c.Table.Columns[i].Name == "weft_version":
			case v.State == sources.Null:
				text += " NULL"
			default:
				text += " " + string(v.Data)
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func wantShown(t *testing.T, b sources.Batch, want string) {
	t.Helper()
	if got := show(b); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// wantFatal verifies a *FatalError that says all of parts.
func wantFatal(t *testing.T, err error, parts ...string) {
	t.Helper()
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) || fatal.Remedy == "" {
		t.Fatalf("%v is not fatal with a remedy", err)
	}
	wantParts(t, err, parts...)
}

func wantParts(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("the error does not say %q: %v", part, err)
		}
	}
}

func wantGap(t *testing.T, err error, parts ...string) *sources.GapError {
	t.Helper()
	var gap *sources.GapError
	if !errors.As(err, &gap) || gap.Remedy == "" {
		t.Fatalf("%v is not a gap with a remedy", err)
	}
	wantParts(t, fmt.Errorf("%s", gap.Reason), parts...)
	return gap
}
