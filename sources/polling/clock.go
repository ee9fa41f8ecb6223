package polling

import "time"

const (
	// clockMargin, in microseconds, is kept below the server's clock: it covers rounding, and a clock that is being slowed down.
	clockMargin = 10_000
	// clockSlack is how much less than ours the server's clock may move between two looks before it counts as put back.
	clockSlack = 2 * time.Millisecond
)

// clockReading is what a server's clock showed, in microseconds since 1970, and when by ours it was asked and had answered.
type clockReading struct {
	clock          int64
	sent, received time.Time
}

// putBack tells from which time rows are to be read once more, 0 for none, since the clock was put back after the reading before.
func (now clockReading) putBack(before clockReading) (from int64, by time.Duration) {
	if before.received.IsZero() {
		return 0, 0
	}
	// At least that long must have passed at the server too, but for a clock that is slowed down.
	passed := now.sent.Sub(before.received)
	moved := time.Duration(now.clock-before.clock) * time.Microsecond
	if moved >= passed-passed/1000-clockSlack {
		return 0, 0
	}
	return now.clock - now.received.Sub(before.sent).Microseconds() - clockMargin, passed - moved
}

// timeOf writes a watermark as servers do in UTC.
func timeOf(micros int64) string {
	return time.UnixMicro(micros).UTC().Format("2006-01-02 15:04:05.000000")
}
