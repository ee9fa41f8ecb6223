// Package archive keeps images of tables in a bucket: what a table's topic folds to at a known place in the log, as Parquet
// parts and a manifest that is written last, so that half an archive does not exist.
//
// What lives here: making an archive from the log and the archive before it, without the datastore; listing, reading and
// removing archives; the place in the log at which they are cut. What does not: the rules of the fold (sink/fold), and what
// is made of an archive (snapshot/replay).
package archive
