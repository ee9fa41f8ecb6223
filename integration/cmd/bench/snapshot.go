package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// measureSnapshot reads the whole table, in turns: by COPY into nothing, and by the daemon into the log as its first snapshot.
func measureSnapshot(ctx context.Context, p plan) error {
	b, err := prepareTable(ctx, p)
	if err != nil {
		return err
	}
	defer b.close()
	if _, err := b.db.Exec(ctx, "CHECKPOINT"); err != nil { // its writes are not to fall into a round
		return err
	}
	fmt.Printf("orders: %d rows of about %d bytes\n", p.rows, b.rowBytes)

	copies, snapshots, err := inTurns(p.rounds, "row",
		way{"copy", func(int) (drain, error) { return b.copyOut(ctx) }},
		way{"snapshot", func(round int) (drain, error) { return b.snapshot(ctx, round) }})
	if err != nil {
		return err
	}
	fmt.Printf("median: copy %.0f rows/s, snapshot %.0f rows/s, %.1f CPU us/row, RSS at most %d MiB\n",
		copies.median(drain.rate), snapshots.median(drain.rate), snapshots.median(drain.cpuPerChange), snapshots.peakRSS()>>20)
	fmt.Printf("snapshot ratio %.2f\n", snapshots.median(drain.rate)/copies.median(drain.rate))
	return nil
}

// copyOut reads the table as fast as the connection gives it, and throws it away.
func (b *bench) copyOut(ctx context.Context) (drain, error) {
	began := time.Now()
	tag, err := b.db.PgConn().CopyTo(ctx, io.Discard, "COPY orders TO STDOUT")
	if err != nil {
		return drain{}, err
	}
	return drain{changes: int(tag.RowsAffected()), took: time.Since(began)}, nil
}

// snapshot runs a new capture from the moment that its slot is in use until the checkpoint that ends its snapshot can be read
// by a read_committed consumer: then so can all rows.
func (b *bench) snapshot(ctx context.Context, round int) (drain, error) {
	rows := int64(0)
	m, err := b.run(ctx, round, "initial", func(cp checkpoint) bool {
		rows = 0
		for _, t := range cp.Snapshot.Tables {
			rows += t.Rows
		}
		return cp.Snapshot.EndedAt != nil
	})
	if err == nil && rows != int64(b.rows) {
		err = fmt.Errorf("the table has %d rows, and the snapshot %d", b.rows, rows)
	}
	m.changes = int(rows)
	return m, err
}
