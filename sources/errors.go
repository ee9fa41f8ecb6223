package sources

import "fmt"

// FatalError says that retrying is useless until somebody changes something: configuration, rights, the schema.
type FatalError struct {
	Err error
	// Remedy is what to do, as a sentence or a statement to run. It must not be empty.
	Remedy string
}

// Fatal makes a *FatalError of a formatted message and its remedy.
func Fatal(remedy, format string, args ...any) error {
	return &FatalError{Err: fmt.Errorf(format, args...), Remedy: remedy}
}

func (e *FatalError) Error() string { return e.Err.Error() + "; to mend it: " + e.Remedy }
func (e *FatalError) Unwrap() error { return e.Err }

// GapError says that the datastore no longer has every change after the capture's position: some are lost to the stream.
type GapError struct {
	// Reason says what was found and what it means, for people.
	Reason string
	// Remedy says what to do to avoid it, or how to go on.
	Remedy string
	// Resume is where the source can go on, nil for anew: Open with it, in a new epoch, continues after the gap.
	Resume Position
}

func (e *GapError) Error() string { return "gap: " + e.Reason + "; to go on: " + e.Remedy }
