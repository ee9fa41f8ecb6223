package sources

import "context"

// Holder tells which rows the log holds of a capture's tables. A source that finds rows instead of changes may ask it, in Next,
// which of them are gone. All that Next returned before is part of the answer.
type Holder interface {
	// HeldKeys returns the keys of at most limit rows of t after the cursor, nil for the first: for each the wire forms of the key
	// columns, in Table.Key's order. They come in the order of their values in the log: integers by size, UUIDs and texts by their
	// bytes. next is where to go on, nil at the end.
	HeldKeys(ctx context.Context, t *Table, after []byte, limit int) (keys [][][]byte, next []byte, err error)
}
