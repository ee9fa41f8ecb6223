// Package mongodb captures collections of a MongoDB replica set or sharded cluster, 6.0.9 or newer, from a change stream.
//
//	config.go    the source's part of the config file
//	open.go      what a capture needs, verified; the start of the stream
//	check.go     the same as findings, and what Open does not look at
//	reader.go    the goroutine that owns the stream and reads ahead
//	queue.go     what it has read, bounded in bytes
//	event.go     an event's BSON, cut into its fields; fragments joined
//	source.go    Next: events into changes
//	decode.go    one event into one change
//	document.go  documents as JSON, and back
//	rows.go      reading collections beside the stream
//	chunk.go     a chunk of one
//	view.go      what a chunk saw
//	position.go  where to resume
//	errors.go    which of the server's errors are gaps, and which need a person
//	extjson      BSON as Extended JSON
//
// A document is a row of two JSON columns, _id and document. The server's resume tokens are opaque: they are stored and
// handed back, never looked into or compared. What orders changes is their cluster time, and their ordinal among those
// of the same one.
package mongodb
