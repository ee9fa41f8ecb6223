package sourcetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The suite passes a source that keeps the contract.
func TestReference(t *testing.T) {
	for _, transactions := range []bool{true, false} {
		t.Run(fmt.Sprintf("transactions %t", transactions), func(t *testing.T) {
			Run(t, func(t *testing.T) *Harness { return newMemoryHarness(t, correct, transactions) })
		})
	}
}

// The suite catches each source that breaks it: one check at least fails, and says why.
func TestMutants(t *testing.T) {
	tests := []struct {
		name   string
		mutant mutant
		check  string
		want   string // in the message
		// transactions: the mutant tells of them, so that their counting may catch it first.
		transactions bool
	}{
		{"loses changes when Next is cancelled", losesOnCancel, "cancellation", "lost", false},
		{"fails after Next was cancelled", failsAfterCancel, "cancellation", "connection is closed", false},
		{"loses a change now and then", losesSilently, "order", "lost", false},
		{"repeats a change after a resume", repeatsAfterResume, "resume at every position", "repeated", false},
		{"repeats a change after downtime", repeatsAfterResume, "resume after downtime", "repeated", false},
		{"skips a change in mid-transaction after a resume", skipsAfterResume, "resume at every position", "lost", true},
		{"gives another Order after a resume", otherOrderAfterResume, "resume at every position", "Order", true},
		{"reorders changes", reorders, "order", "Order", true},
		{"gives Orders of several widths", orderOfOtherWidth, "order", "width", false},
		{"gives two changes one Order", sameOrderTwice, "order", "one Order", false},
		{"reuses a batch's memory early", reusesMemory, "batch memory", "memory", false},
		{"reads ahead without a bound", readsAheadWithoutBound, "back-pressure", "heap", false},
		{"ignores BatchBytes", overfillsBatches, "order", "BatchBytes", false},
		{"leaks a goroutine", leaksGoroutine, "close", "goroutine", false},
		{"fails to close after a cancelled Next", fillsClosed, "close", "already closed", false},
		{"makes no idle progress", noIdleProgress, "idle", "no newer position", false},
		{"returns empty batches all the time", spinsWhenIdle, "order", "must block", true},
		{"blocks in Durable", durableBlocks, "durable", "blocks", false},
		{"releases more than Durable told", durableMovesPosition, "durable", "gap", false},
		{"goes on silently after a gap", silentGap, "gap", "neither", false},
		{"reports a gap without a remedy", gapWithoutRemedy, "gap", "empty", false},
		{"loses a change of a transaction", losesSilently, "order", "TransactionOrder", true},
		{"ends a batch in mid-transaction without a word", cutsTransactions, "order", "Partial", true},
		{"makes null an empty text", nullBecomesEmpty, "values", "null", false},
		{"reads all but the first row", losesFirstRow, "chunks", "though it was asked for", true},
		{"reads the row at a cursor again", repeatsAtCursor, "chunks", "", true},
		{"reads beyond Until", ignoresUntil, "chunks", "up to the cursor", true},
		{"reads old rows", readsStale, "chunks", "", true},
		{"ignores a chunk's bounds", overfillsChunks, "chunks", "rows", false},
		{"makes a table for each chunk", newTableEachChunk, "chunks", "*Table", false},
		{"uses a chunk's memory again", reusesChunkMemory, "chunks", "memory", false},
		{"reports a cancelled read as another error", hidesCancel, "cancelled reads", "connection is closed", false},
		{"sees what came later", seesEverything, "views", "came later", true},
		{"does not see what it has read", seesNothing, "views", "", true},
		{"cannot read source blocks", misreadsBlocks, "views", "source block", true},
		{"is passed before the stream has come there", passedAtOnce, "views", "said to have passed", true},
		{"is not passed while nothing is written", writesNoMark, "views", "waiting for the stream", false},
		{"sorts rows among the changes before them", rowsSortLow, "order of rows", "not above the change", true},
		{"sorts rows among the changes after them", rowsSortHigh, "order of rows", "not above the row", true},
		{"has changes without a Stamp", noStamp, "views", "Stamp", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if raceDetector && test.mutant == reusesMemory {
				t.Skip("this fault is a data race, which the race detector reports as the test's own")
			}
			for _, c := range checks {
				if c.name != test.check {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err := c.run(ctx, newMemoryHarness(t, test.mutant, test.transactions))
				if err == nil {
					t.Fatalf("the check %q passes", c.name)
				}
				if !strings.Contains(err.Error(), test.want) {
					t.Fatalf("the check %q says %q, which does not mention %q", c.name, err, test.want)
				}
				return
			}
			t.Fatalf("there is no check %q", test.check)
		})
	}
}
