package spanner

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"

	"weft/sources"
	"weft/sources/sourcetest"
)

var dialects = map[string]struct {
	dialect databasepb.DatabaseDialect
	ddl     []string
}{
	"googlesql": {databasepb.DatabaseDialect_GOOGLE_STANDARD_SQL, []string{
		"CREATE TABLE items (id INT64 NOT NULL, body STRING(MAX)) PRIMARY KEY (id)",
		"CREATE CHANGE STREAM changes FOR items",
	}},
	"postgresql": {databasepb.DatabaseDialect_POSTGRESQL, []string{
		"CREATE TABLE items (id bigint PRIMARY KEY, body varchar)",
		"CREATE CHANGE STREAM changes FOR items",
	}},
}

func TestConformance(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, func(t *testing.T) *sourcetest.Harness {
				db := newTestDatabase(t, d.dialect, d.ddl...)
				return &sourcetest.Harness{
					Config: db.config("changes"),
					Tables: []string{"items"},
					Traits: sourcetest.Traits{
						Deletes: true, EveryChange: true, Reproducible: true, FirstBatches: 1, IdleWithin: 5 * time.Second,
					},
					Write: db.write,
					Idle:  func(context.Context) error { return nil }, // the time moves
				}
			})
		})
	}
}

// maxWritten bounds what write writes in one transaction: the emulator makes one record of it, however large.
const maxWritten = 128 << 10

// write writes rows in as few transactions as Spanner tells the rows' versions apart in: of a row that one transaction writes
// twice, only the last version is in the change stream.
func (d *testDatabase) write(ctx context.Context, rows ...sourcetest.Row) error {
	var mutations []*spanner.Mutation
	size, written := 0, map[int64]bool{}
	for _, r := range rows {
		if written[r.ID] || size > maxWritten {
			if err := d.apply(ctx, mutations); err != nil {
				return err
			}
			mutations, size = nil, 0
			clear(written)
		}
		written[r.ID] = true
		values := map[string]any{"id": r.ID, "body": r.Body}
		if r.Body != nil {
			size += len(*r.Body)
		}
		switch r.Op {
		case sources.OpCreate:
			mutations = append(mutations, spanner.InsertMap("items", values))
		case sources.OpUpdate:
			mutations = append(mutations, spanner.UpdateMap("items", values))
		case sources.OpDelete:
			mutations = append(mutations, spanner.Delete("items", spanner.Key{r.ID}))
		default:
			return fmt.Errorf("cannot write a row of op %c", r.Op)
		}
	}
	return d.apply(ctx, mutations)
}

func (d *testDatabase) apply(ctx context.Context, mutations []*spanner.Mutation) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	d.writing.Lock()
	defer d.writing.Unlock()
	_, err := d.client.Apply(ctx, mutations)
	d.writes.Add(1)
	return err
}
