package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/fold"
)

// Arrived is what a topic holds.
type Arrived struct {
	Rows    map[int64]map[string]any // folded, by order id
	Changes int                      // records with a value
	Twice   int                      // sequences that are there more than once
}

// Read folds a topic up to its present end. One that does not exist holds nothing.
func Read(ctx context.Context, cl *kgo.Client, topic string) (*Arrived, error) {
	a := &Arrived{Rows: map[int64]map[string]any{}}
	table := fold.New()
	seen := map[string]bool{}
	err := checkpoint.ScanAll(ctx, cl, topic, func(r *kgo.Record) error {
		if r.Value != nil {
			a.Changes++
		}
		for _, h := range r.Headers {
			if h.Key != "weft-seq" {
				continue
			}
			if seen[string(h.Value)] {
				a.Twice++
			}
			seen[string(h.Value)] = true
		}
		return table.Apply(r.Partition, fold.Record{Key: r.Key, Value: r.Value})
	})
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, err
	}
	rows, err := table.Rows()
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		row := make(map[string]any, len(r.Columns))
		for name, raw := range r.Columns {
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				return nil, fmt.Errorf("decode column %s of %s: %w", name, r.Key, err)
			}
			row[name] = v
		}
		id, ok := row["id"].(float64)
		if !ok {
			return nil, fmt.Errorf("row %s has id %v", r.Key, row["id"])
		}
		a.Rows[int64(id)] = row
	}
	return a, nil
}

// Difference tells the first order in which the rows differ from those of the table, or "".
func (a *Arrived) Difference(table map[int64]map[string]any) string {
	for _, id := range slices.Sorted(maps.Keys(table)) {
		if got, ok := a.Rows[id]; !ok {
			return fmt.Sprintf("order %d did not arrive", id)
		} else if !reflect.DeepEqual(got, table[id]) {
			return fmt.Sprintf("order %d arrived as %v, the table has %v", id, got, table[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(a.Rows)) {
		if _, ok := table[id]; !ok {
			return fmt.Sprintf("order %d arrived, the table has no such row", id)
		}
	}
	return ""
}

// Line tells a record's change in a few words.
func Line(value []byte) (string, error) {
	var e struct {
		Op    string
		After struct {
			Customer, Total, Status string
			Deleted                 bool
		}
	}
	if err := json.Unmarshal(value, &e); err != nil {
		return "", fmt.Errorf("decode record: %w", err)
	}
	if e.After.Deleted {
		e.After.Status += ", deleted"
	}
	return fmt.Sprintf("op=%s  %-14s %8s  %s", e.Op, e.After.Customer, e.After.Total, e.After.Status), nil
}
