// Package replay brings a table back as it was at a place in the log: from an archive and the changes since, to a topic, a
// Parquet file or lines of JSON; whole, or by keys and by a filter.
//
// What lives here: finding the cut and the archive, filters, and the targets. What does not: archives (snapshot/archive)
// and the fold (sink/fold).
package replay
