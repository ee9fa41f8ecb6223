package postgres

import (
	"slices"
	"sync"
	"time"

	"weft/sources/postgres/pgoutput"
)

// frame is one XLogData payload. Its data is valid until the queue's release.
type frame struct {
	walStart lsn
	sent     int64 // by the server's clock, in microseconds since 1970
	data     []byte
	// txSize is set on a Begin once its Commit is buffered too: the size of the frames in between, and at least 1.
	txSize int
}

// frameOverhead is what a frame takes in the queue beside its data.
const frameOverhead = 64

// segment holds the data of consecutive frames in memory that never moves.
type segment struct {
	buf    []byte
	frames []frame
}

// queue hands frames from the goroutine that receives them to the one that decodes them. Frames that were taken stay valid
// until release, so that a batch may refer to them.
type queue struct {
	bound       int // bytes of frames not yet taken; one frame may exceed it
	segmentSize int

	mu       sync.Mutex
	segments []*segment // in use or not yet taken, the oldest first; frames are added to the last
	at       int        // the segment of the next frame to take
	next     int        // that frame's index in the segment
	unread   int
	free     []*segment
	closed   error // why there will be no more frames

	// The last Begin, while its Commit is not there.
	begin      *segment
	beginIndex int
	beginSize  int

	inside bool // the last frame was inside a transaction

	idle    lsn  // the server has nothing before it that it has not sent
	pressed bool // the server asked for a reply with idle, which is beyond what was confirmed

	ready chan struct{} // a transaction or much of one was put, there is no more room, or it is closed
	space chan struct{} // something was taken
}

func newQueue(bound int) *queue {
	return &queue{
		bound:       bound,
		segmentSize: min(max(bound/8, 4<<10), 256<<10),
		ready:       make(chan struct{}, 1),
		space:       make(chan struct{}, 1),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put takes a frame into the queue, with a copy of its data. It returns false when there is no room: space tells when to try again.
func (q *queue) put(f frame, kind byte) bool {
	data := f.data
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unread > 0 && q.unread+len(data)+frameOverhead > q.bound {
		signal(q.ready)
		return false
	}
	var s *segment
	if n := len(q.segments); n > 0 {
		s = q.segments[n-1]
	}
	if s == nil || cap(s.buf)-len(s.buf) < len(data) {
		s = q.newSegment(len(data))
		q.segments = append(q.segments, s)
	}
	first := len(s.buf)
	s.buf = append(s.buf, data...)
	f.data = s.buf[first:len(s.buf):len(s.buf)]
	s.frames = append(s.frames, f)
	q.unread += len(data) + frameOverhead
	switch kind {
	case pgoutput.KindBegin:
		q.inside = true
		q.begin, q.beginIndex, q.beginSize = s, len(s.frames)-1, 1
	case pgoutput.KindCommit:
		q.inside = false
		if q.begin != nil {
			q.begin.frames[q.beginIndex].txSize = q.beginSize
			q.begin = nil
		}
	default:
		q.beginSize += len(data)
	}
	if !q.inside || q.unread >= q.segmentSize { // nobody can do much with the beginning of a transaction, and waking costs more than a frame
		signal(q.ready)
	}
	return true
}

func (q *queue) newSegment(size int) *segment {
	if size > q.segmentSize {
		return &segment{buf: make([]byte, 0, size)}
	}
	if n := len(q.free); n > 0 {
		s := q.free[n-1]
		q.free = q.free[:n-1]
		return s
	}
	return &segment{buf: make([]byte, 0, q.segmentSize)}
}

// peek returns the next frame and whether there is one. Frames come before the reason why there will be no more.
func (q *queue) peek() (frame, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.at < len(q.segments) {
		if s := q.segments[q.at]; q.next < len(s.frames) {
			return s.frames[q.next], true, nil
		}
		if q.at == len(q.segments)-1 {
			break
		}
		q.at++
		q.next = 0
	}
	return frame{}, false, q.closed
}

// advance takes the frame that peek returned.
func (q *queue) advance() {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.segments[q.at]
	if q.begin == s && q.beginIndex == q.next {
		q.begin = nil // nobody asks for its size any more
	}
	q.unread -= len(s.frames[q.next].data) + frameOverhead
	q.next++
	signal(q.space)
}

// release lets the memory of the frames that were taken be used again.
func (q *queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	done := q.at
	if q.at < len(q.segments) && q.next == len(q.segments[q.at].frames) {
		done++
	}
	for _, s := range q.segments[:done] {
		if cap(s.buf) == q.segmentSize && len(q.free) <= q.bound/q.segmentSize {
			s.buf, s.frames = s.buf[:0], s.frames[:0]
			q.free = append(q.free, s)
		}
	}
	if done > q.at {
		q.next = 0
	}
	q.segments = slices.Delete(q.segments, 0, done)
	q.at = 0
}

// keepalive notes what the server says of itself: it has sent all that ends at or before end.
func (q *queue) keepalive(end lsn, pressed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.idle = max(q.idle, end)
	q.pressed = pressed
	signal(q.ready)
}

// idleAt returns what the last keepalive said, and zero while there are frames to take, which it may cover.
func (q *queue) idleAt() (end lsn, pressed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unread > 0 {
		return 0, false
	}
	return q.idle, q.pressed
}

// held returns how much is not yet taken, and the bound of that.
func (q *queue) held() (bytes, bound int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int64(q.unread), int64(q.bound)
}

// close says that no frames will follow, and why.
func (q *queue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	signal(q.ready)
}

// awaitSpace waits until something was taken, stop, or for d at most.
func (q *queue) awaitSpace(d time.Duration, stop <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-q.space:
	case <-stop:
	case <-timer.C:
	}
}
