// Package verify compares a table at its datastore with what its topic folds to, row by row, while both go on changing.
//
// How it is decided. The topic is folded into a store on disk that holds a checksum for each column of each row, up to where
// the topic ends. Then the table is read in chunks, and each row's checksums are compared with the store's. A row that is
// equal is done. What is not, and what only the topic has, may just be on its way: those keys are read again by name, and
// each read's View then says exactly which of the log's records it saw, so that the topic is folded to that moment, and
// compared once more. A difference that is still there after several such rounds is one. A source that polls has no such View:
// polled.go tells how its keys are judged.
//
// What lives here: reading records and rows into checksums, the store, following the topic, the rounds. What does not:
// reading the datastore (sources.Reader), and what is printed.
package verify
