// Package sink lands changes in the log: it opens a capture's writer (which fences the former one and loads the
// checkpoint), routes each change to its topic and partition, and commits records and checkpoint together.
//
// How a change becomes bytes is sink/envelope; how records become a table again is sink/fold; the log that runs inside
// the process is sink/embedded. When to commit is the pipeline's decision, not this package's.
package sink
