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

	var copies, snapshots, cpu []float64
	var peak int64
	for round := range p.rounds {
		for turn := range 2 {
			if (turn+round)%2 == 0 { // each of the two is first as often as the other
				c, err := b.copyOut(ctx)
				if err != nil {
					return fmt.Errorf("copy: %w", err)
				}
				fmt.Printf("round %d  copy      %7.0f rows/s  (%.2f s)\n", round+1, c.rate(), c.took.Seconds())
				copies = append(copies, c.rate())
				continue
			}
			s, err := b.snapshot(ctx, round)
			if err != nil {
				return fmt.Errorf("snapshot: %w", err)
			}
			fmt.Printf("round %d  snapshot  %7.0f rows/s  (%.2f s)  %.1f CPU us/row  RSS at most %d MiB, %d of them the program\n",
				round+1, s.rate(), s.took.Seconds(), s.cpuPerChange(), s.peakRSS>>20, s.fileRSS>>20)
			snapshots, cpu, peak = append(snapshots, s.rate()), append(cpu, s.cpuPerChange()), max(peak, s.peakRSS)
		}
	}
	fmt.Printf("median: copy %.0f rows/s, snapshot %.0f rows/s, %.1f CPU us/row, RSS at most %d MiB\n",
		median(copies), median(snapshots), median(cpu), peak>>20)
	fmt.Printf("snapshot ratio %.2f\n", median(snapshots)/median(copies))
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
