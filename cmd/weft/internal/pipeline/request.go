package pipeline

// SnapshotRequest asks a capture for a snapshot of tables while it runs.
type SnapshotRequest struct {
	// ID tells requests from each other; it is kept in the checkpoint of the snapshot that it leads to.
	ID string
	// Tables are SCHEMA.TABLE; none for all of the capture's. Where is a condition in the datastore's own language.
	Tables []string
	Where  string
	// Cancel ends the snapshot that ID asked for, or that of the number ID, instead of asking for one.
	Cancel bool
}

// Ask hands the capture a request. Any goroutine may call it, and ask twice.
func (c *Capture) Ask(r SnapshotRequest) { c.asked.Store(&r) }

// Asked is the newest request, or nil.
func (c *Capture) Asked() *SnapshotRequest { return c.asked.Load() }
