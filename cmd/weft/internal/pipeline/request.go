package pipeline

// SnapshotRequest asks a capture for a snapshot of tables while it runs.
type SnapshotRequest struct {
	// ID tells requests from each other; it is kept in the checkpoint of the snapshot that it leads to.
	ID string
	// Tables are SCHEMA.TABLE; none for all of the capture's. Where is a condition in the datastore's own language.
	Tables []string
	Where  string
	// Cancel ends the snapshot that the request asked for, or that of the number CancelSnapshot, which none asked for.
	Cancel         bool
	CancelSnapshot int64
}

// RequestSnapshot hands the capture the newest request, which takes the place of the one before. Any goroutine may call it, and
// repeat a request.
func (c *Capture) RequestSnapshot(r SnapshotRequest) { c.requested.Store(&r) }

// Requested is the newest request, or nil.
func (c *Capture) Requested() *SnapshotRequest { return c.requested.Load() }
