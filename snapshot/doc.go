// Package snapshot reads tables beside a capture's stream and puts their rows, chunk by chunk, between its changes, so that a
// topic folds to exactly the table: no row is lost, and none goes back in time.
//
// A chunk is a read that knows what it saw (sources.View). While reads are under way the stream's changes are tracked: which
// transaction changed which keys (ring). When the stream has passed a read, it has returned everything that the read saw; those of the
// chunk's rows whose keys were changed by a transaction that the read did not see are older than the topic, and are dropped; the
// others are the topic's newest, and are written. Watermarks alone could not tell the two apart: a datastore may stream a
// commit some time before its reads see it. The cursor moves in the same commit as the rows.
//
// What lives here: which rows to read next (core), which of them to write (pass), the goroutines that read (Interleaver), and which
// snapshots to make (requests and reasons). What does not: how a datastore reads and what a view is (package sources), and how rows and
// state get into the log (package sink).
package snapshot
