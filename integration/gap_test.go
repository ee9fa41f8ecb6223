package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSnapshotAfterGap loses the slot while the daemon is down: what was written, changed and deleted meanwhile is found by reading the
// tables again and sweeping the topics.
func TestSnapshotAfterGap(t *testing.T) {
	for log, to := range map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog} {
		t.Run(log, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("gap_%x", rand.Uint32())
			to := to(t)
			if log == "kafka" {
				t.Cleanup(func() { deleteTopics(t, to.broker, name) })
			}
			origin := newFilled(t, name, "{parallel: 2}, on_gap: continue")
			run := killRun{T: t, name: name, origin: ungraded{origin}, to: to}
			run.config = writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d, dialect: json}\ncaptures:\n  - {name: %s, %s}\n",
				to.config, name, partitions, name, origin.capture())
			d := startDaemon(t, run.config)
			pulse := pulse{insert: origin.pgOrigin.pulse, broker: to.broker, topic: name + ".public.pulse"}
			pulse.await(t, d, time.Minute)
			awaitSnapshot(t, d, run.config, name, time.Minute)
			d.stop()
			if err := origin.exec(t.Context(), fmt.Sprintf(`
				DELETE FROM orders WHERE id %% 4 = 0; UPDATE orders SET note = 'unseen' WHERE id %% 4 = 1;
				UPDATE orders SET id = id + 1000000 WHERE id %% 1000 = 7; INSERT INTO orders(id) VALUES (-1);
				DELETE FROM docs WHERE n %% 3 = 0; TRUNCATE counters; DELETE FROM lines WHERE pos > 100;
				SELECT pg_drop_replication_slot('weft_%s')`, name)); err != nil {
				t.Fatal(err)
			}
			d = startDaemon(t, run.config)
			pulse.await(t, d, time.Minute)
			eventually(t, d, 2*time.Minute, "the snapshot after the gap", func(context.Context) (bool, error) {
				s, err := snapshotOf(t, run.config, name)
				if err != nil || s.ID != 2 || s.Reason != "gap" || s.EndedAt == nil {
					return false, errors.Join(err, fmt.Errorf("so far: %+v", s))
				}
				return true, nil
			})
			run.judge()
			d.stop()
		})
	}
}

// ungraded tells what the tables hold, and not what was done to them: a gap hides a part of that.
type ungraded struct{ origin }

func (o ungraded) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	tables, err := o.origin.tables(ctx, partitions)
	for name, one := range tables {
		one.changes = nil
		tables[name] = one
	}
	return tables, err
}
