package demo

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDifference(t *testing.T) {
	row := func(status string) map[string]any { return map[string]any{"id": 1.0, "status": status} }
	table := map[int64]map[string]any{1: row("new"), 2: row("paid")}
	for name, c := range map[string]struct {
		rows map[int64]map[string]any
		want string
	}{
		"equal":   {map[int64]map[string]any{1: row("new"), 2: row("paid")}, ""},
		"missing": {map[int64]map[string]any{1: row("new")}, "order 2 did not arrive"},
		"stale":   {map[int64]map[string]any{1: row("old"), 2: row("paid")}, "order 1 arrived as"},
		"extra":   {map[int64]map[string]any{1: row("new"), 2: row("paid"), 3: row("new")}, "order 3 arrived, the table has no such row"},
	} {
		if got := (&Arrived{Rows: c.rows}).Difference(table); !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestShopWrites(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Run(ctx, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 || int64(len(rows)) != s.orders || s.Writes < len(rows) {
		t.Errorf("%d rows after %d writes and %d orders", len(rows), s.Writes, s.orders)
	}
}
