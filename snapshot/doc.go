// Package snapshot is the place of the interleaver, which will read tables in chunks of keys between the batches of the
// stream; the pipeline's loop says where it comes in. This version reads no rows from before a capture's first start, so
// there is nothing here yet.
package snapshot
