// Package envelope turns a change into the keys and values of its records: JSON in the Debezium envelope, in one of two
// dialects of column values. docs/records.md describes the result, docs/debezium.md where it differs from Debezium's.
//
// What lives here: the envelope and the two encodings of every sources.Kind. What does not: topics, partitions, headers
// and producing, which are the sink's; and folding records back to a table, which is sink/fold.
package envelope
