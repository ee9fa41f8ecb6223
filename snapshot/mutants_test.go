package snapshot

import (
	"slices"
	"testing"

	"weft/sources"
)

// mutant is a fault that is built into a simulation, which must then find that something is wrong.
type mutant int

const (
	none mutant = iota
	markBeforeRead
	markNotAwaited
	cursorOutside
	noDropping
	tokensReused
	truncateNotTracked
	keyChangeNotTracked
	ringNotRestored
	stampNotWidened
	incompleteNotReadAgain
	movedNotReadAgain
	overflowIgnored
	pruneForgetsReads
	keylessTruncateIgnored
	ordersRepeated
	absentNotDeleted
	insertNotTracked
	repairNotReadAgain
	mutants
)

func (m mutant) String() string {
	return [...]string{"none", "mark before the read", "mark not awaited", "cursor outside of the transaction", "no dropping", "reused tokens",
		"truncate not in the ring", "key change not in the ring", "ring not restored after a crash", "xid not widened",
		"no second read of incomplete rows", "no second read of moved rows", "overflow ignored", "pruned by the newest view alone",
		"truncate of a keyless table ignored", "orders repeated", "absent keys not deleted by a repair",
		"insert beside a repair not in the ring", "no second read of incomplete rows in a repair"}[m]
}

// track is the core's, as far as the fault lets it be.
func (s *simulation) track(batch []sources.Change) {
	if s.mutant == noDropping {
		return
	}
	for i := range batch {
		c := &batch[i]
		if s.mutant == incompleteNotReadAgain && c.After != nil && c.Before == nil && c.Table == keyed || s.mutant == movedNotReadAgain && c.Before != nil && c.After != nil {
			c.After[2].State = sources.Present
		}
		if s.mutant == repairNotReadAgain && c.After != nil && s.core.cause == sources.CauseRepair && c.Table == keyed {
			c.After[2].State = sources.Present
		}
		if s.mutant == keyChangeNotTracked && c.After != nil {
			c.Before = nil
		}
	}
	if s.mutant == truncateNotTracked {
		batch = slices.DeleteFunc(batch, func(c sources.Change) bool { return c.Op == sources.OpTruncate })
	}
	if s.mutant == insertNotTracked && s.core.cause == sources.CauseRepair {
		batch = slices.DeleteFunc(batch, func(c sources.Change) bool { return c.Op == sources.OpCreate })
	}
	s.core.track(batch)
	if s.mutant == keylessTruncateIgnored {
		for _, t := range s.core.tables {
			t.cut = false
		}
	}
	if s.mutant == overflowIgnored {
		s.core.ring.lost = 0
		for _, tx := range s.core.ring.txs {
			tx.all = false
		}
	}
}

// TestMutants: each fault is found, or the simulation shows nothing.
func TestMutants(t *testing.T) {
	for m := none + 1; m < mutants; m++ {
		t.Run(m.String(), func(t *testing.T) {
			for seed := range uint64(20_000) {
				if err := newSimulation(seed, m).run(); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("not found")
		})
	}
}
