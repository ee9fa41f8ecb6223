// Package postgres is the source for PostgreSQL 14 and newer: it streams the changes of a capture's tables from a logical
// replication slot with the pgoutput plugin.
//
// What lives here: the Config (config.go); how the server, the tables, the publication and the slot are verified and made
// (connect.go, server.go, tables.go, publication.go, slot.go); the position and what counts as a gap (position.go,
// gaps.go); the goroutine that reads ahead and answers the server (reader.go, queue.go); the one that measures the lag and
// looks for tables that the capture lacks (meter.go); and what turns frames into changes (decode.go, relation.go,
// catalog.go, types.go, values.go). source.go puts them together. The frames of the protocol are decoded in the package
// pgoutput below this one. Reading the rows that a table already has is not done here.
//
// # The path of a change
//
// One goroutine, reader.run, owns the replication connection. It copies frames into a queue bounded in bytes and sends the
// server the position to confirm, also while the queue is full: a server that hears nothing for wal_sender_timeout ends
// the connection. Next takes frames from the queue and lets the decoder turn them into a batch. What Durable says is the
// only thing that is ever confirmed to the server.
//
// # Positions
//
// A position is the end of a transaction: Commit's end LSN, at which the server starts with the transaction after it; at
// the commit LSN it would send the transaction again. A position within a transaction is the end of the one before it, with the number of
// events to skip in the next and a hash of them. With no transaction open and nothing buffered, the LSN up to which the
// server has decoded is a position too, so that a quiet capture does not hold the server's log back.
package postgres
