package sources

import "context"

// Remover is optional for a Config: a source whose captures leave something behind at the datastore when they end for good.
type Remover interface {
	// Remove drops what the capture made at the datastore, and only that. The capture must not run any more; Remove waits
	// a little for one that just ends. After an error it may be called again and finds what is left. What it returns
	// holds beside an error too.
	Remove(ctx context.Context, o RemoveOptions) (Removed, error)
}

// RemoveOptions says which capture is removed; see OpenOptions.
type RemoveOptions struct {
	Capture string
	// Position is that of the capture's checkpoint, nil where it has none.
	Position Position
}

// Removed is what a Remover did, for people.
type Removed struct {
	Dropped []string
	// Left was not made by the capture, as far as can be known; each with the statement that drops it.
	Left []string
}
