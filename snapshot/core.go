package snapshot

import (
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
)

const (
	// aim is how long the read of one chunk should take.
	aim = 500 * time.Millisecond
	// firstRows is a table's first chunk's bound, minRows and maxRows those of the later ones'.
	firstRows, minRows, maxRows = 1000, 100, 1 << 20
	// maxAgain bounds the keys that a table holds for being read again, and so a checkpoint's size; beyond it the chunk, or the
	// table, is read again instead. readAgain is how many suffice to read them before the table's end.
	maxAgain, readAgain = 1024, 256
	// maxAgainBytes bounds them too.
	maxAgainBytes = 128 << 10
)

// core is one snapshot: what of it is read, under way, and left. It does no I/O and starts nothing, so that a simulation can run it step by
// step. It is not safe for concurrent use.
type core struct {
	tables   []*table
	byName   map[string]*table
	names    map[*sources.Table]string
	ring     ring
	reads    map[*read]struct{} // under way, or waiting for the stream, and still wanted
	latest   sources.View       // of a read that is done: those of later ones see what it sees
	written  written            // since the last commit
	turn     int                // of the spans, whose chunk comes first
	cause    sources.Cause      // of what it writes
	parallel int
	bytes    int    // bound of a chunk
	perRead  int    // bound of a chunk in rows, for the rate; 0 for none
	order    []byte // checkpoint.Snapshot.Order
	index    int
	key      []byte // scratch
	changed  bool   // since save
	logger   hclog.Logger
	now      func() time.Time
}

// written is what a crash would have written for nothing: no more than one read may return.
type written struct {
	chunks, rows, bytes int
	full                bool // a chunk waits for the commit
}

// table is one table's part of it.
type table struct {
	name, where string
	spans       []*span // what is not written to its end; nil before it is split
	splitting   *read
	again       map[string][][]byte // by their bytes
	againBytes  int
	fetching    *read          // of keys in again
	of          *sources.Table // as the last chunk had it
	describing  *read
	sweeping    *sweeping
	rows        int64
	sweep, done bool
	chunkRows   int
	began       time.Time
	held        bool // the table has no key, and rows of its one read are being written
	cut         bool // and the stream has truncated the table since
	gone        int  // reads that are under way and no longer wanted
	overflown   bool // of a repair: more keys are to be read again than can be held
}

// span is a run of keys.
type span struct {
	after, until sources.Cursor // after: behind the last row written
	next         sources.Cursor // behind the last row read
	ended        bool           // all of it is read
	reads        []*read        // in key order
}

// read is one call of a Reader.
type read struct {
	t    *table
	s    *span
	kind readKind
	q    sources.ChunkRequest
	// base is of a read that was done when this one began, nil where there was none.
	base  sources.View
	chunk *sources.Chunk // once it is done
	void  bool           // nobody wants it any more
	sweep Sweep          // of readSweep
}

type readKind uint8

const (
	readRows readKind = iota
	readKeys
	readSplit
	readTable
	readSweep
)

// view is one that sees no more than the read does, nil where none is known.
func (r *read) view() sources.View {
	if r.chunk != nil {
		return r.chunk.View
	}
	return r.base
}

// newCore goes on with a snapshot.
func newCore(s *checkpoint.Snapshot, o Options) *core {
	c := &core{
		byName: map[string]*table{}, names: map[*sources.Table]string{}, reads: map[*read]struct{}{}, ring: ring{limit: o.RingBytes},
		parallel: max(1, o.Parallel), bytes: o.ChunkBytes, perRead: o.RowsPerSecond, order: []byte(s.Order), index: s.Index,
		logger: o.Logger, now: time.Now, cause: sources.CauseSnapshot,
	}
	if s.Reason == checkpoint.ReasonRepair {
		c.cause = sources.CauseRepair
	}
	for i := range s.Tables {
		from := &s.Tables[i]
		t := &table{name: from.Table, where: from.Where, rows: from.Rows, done: from.Done, sweep: from.Sweep, chunkRows: firstRows, again: map[string][][]byte{}}
		for _, r := range from.Ranges {
			t.spans = append(t.spans, &span{after: r.After, until: r.Until, next: r.After})
		}
		if t.spans == nil && from.Begun { // all but what is to be read again
			t.spans = []*span{}
		}
		for _, key := range from.Again {
			t.addAgain(key) // there were no more when they were saved
		}
		c.tables = append(c.tables, t)
		c.byName[t.name] = t
	}
	return c
}

// save writes how far it has come into s.
func (c *core) save(s *checkpoint.Snapshot) {
	s.Order, s.Index = string(c.order), c.index
	s.Tables = make([]checkpoint.TableSnapshot, len(c.tables))
	for i, t := range c.tables {
		to := &s.Tables[i]
		*to = checkpoint.TableSnapshot{Table: t.name, Where: t.where, Begun: t.spans != nil, Rows: t.rows, Done: t.done, Sweep: t.sweep}
		for _, p := range t.spans {
			to.Ranges = append(to.Ranges, checkpoint.Range{After: p.after, Until: p.until})
		}
		for _, key := range t.again {
			to.Again = append(to.Again, key)
		}
		slices.SortFunc(to.Again, func(a, b [][]byte) int { return slices.CompareFunc(a, b, slices.Compare[[]byte]) })
	}
	c.changed = false
}

// finished tells whether all tables are done.
func (c *core) finished() bool {
	for _, t := range c.tables {
		if !t.done {
			return false
		}
	}
	return true
}

// next is a read to make, nil for none at the moment. arrived or split tells how it went.
func (c *core) next() *read {
	if len(c.reads)+c.written.chunks >= 2*c.parallel {
		return nil
	}
	busy := 0
	for _, t := range c.tables {
		if t.done {
			continue
		}
		if r := c.nextOf(t); r != nil {
			r.base = c.latest
			c.reads[r] = struct{}{}
			return r
		}
		if busy++; busy >= c.parallel {
			break
		}
	}
	return nil
}

func (c *core) nextOf(t *table) *read {
	if t.began.IsZero() {
		t.began = c.now()
	}
	if t.spans == nil {
		if t.splitting != nil || t.gone > 0 {
			return nil
		}
		t.splitting = &read{t: t, kind: readSplit}
		return t.splitting
	}
	for _, s := range t.spans {
		n := len(s.reads)
		if s.ended || n >= 2 || n > 0 && s.reads[n-1].chunk == nil || t.gone > 0 {
			continue
		}
		r := &read{t: t, s: s, q: sources.ChunkRequest{
			Table: t.name, After: s.next, Until: s.until, Where: t.where, Rows: c.rowsOf(t), Bytes: c.bytes,
		}}
		s.reads = append(s.reads, r)
		return r
	}
	if len(t.again) > 0 && t.fetching == nil && (len(t.spans) == 0 || len(t.again) >= readAgain) {
		q := sources.ChunkRequest{Table: t.name, Where: t.where, Rows: len(t.again), Bytes: c.bytes}
		for _, key := range t.again {
			q.Keys = append(q.Keys, key)
		}
		t.fetching = &read{t: t, kind: readKeys, q: q}
		return t.fetching
	}
	return c.nextSweep(t)
}

func (c *core) rowsOf(t *table) int {
	if c.perRead > 0 {
		return min(t.chunkRows, c.perRead)
	}
	return t.chunkRows
}

// arrived takes a chunk in.
func (c *core) arrived(r *read, chunk *sources.Chunk, took time.Duration) {
	if c.abandoned(r) {
		return
	}
	r.chunk, r.t.of = chunk, chunk.Table
	if c.latest == nil || chunk.View.Horizon() >= c.latest.Horizon() {
		c.latest = chunk.View
	}
	if r.kind == readKeys {
		return
	}
	if chunk.Next == nil {
		r.s.ended = true
	} else {
		r.s.next = chunk.Next
	}
	if n := len(chunk.Rows); n > 0 && took > 0 && chunk.Next != nil {
		scale := min(2, max(0.5, float64(aim)/float64(took)))
		r.t.chunkRows = min(maxRows, max(minRows, int(scale*float64(n))))
	}
}

// split takes in where to cut a table.
func (c *core) split(r *read, cuts []sources.Cursor) {
	if c.abandoned(r) {
		return
	}
	delete(c.reads, r)
	t := r.t
	t.splitting, t.spans = nil, []*span{{}}
	for _, at := range cuts {
		t.spans[len(t.spans)-1].until = at
		t.spans = append(t.spans, &span{after: at, next: at})
	}
}

// abandoned tells whether a read that has ended is no longer wanted.
func (c *core) abandoned(r *read) bool {
	if r.void {
		r.t.gone--
	}
	return r.void
}

// void gives reads up, whether they are under way or waiting.
func (c *core) void(reads ...*read) {
	for _, r := range reads {
		if r == nil || r.void {
			continue
		}
		delete(c.reads, r)
		if r.chunk == nil {
			r.void = true
			r.t.gone++
		}
	}
}

// restart reads the rest of a span anew.
func (c *core) restart(s *span) {
	c.void(s.reads...)
	s.reads, s.next, s.ended = nil, s.after, false
}

// restartTable reads all of a table anew.
func (c *core) restartTable(t *table) {
	for _, s := range t.spans {
		c.restart(s)
	}
	c.void(t.fetching, t.splitting, t.describing)
	t.fetching, t.splitting, t.describing = nil, nil, nil
	c.stopSweep(t)
	t.spans, t.again, t.againBytes, t.rows, t.held, t.cut = nil, map[string][][]byte{}, 0, 0, false, false
	c.changed = true
}

// addAgain tells whether there is room for one more key.
func (t *table) addAgain(key [][]byte) bool {
	id := bytesOf(key)
	if _, ok := t.again[id]; ok {
		return true
	}
	if len(t.again) >= maxAgain || t.againBytes+len(id) > maxAgainBytes {
		return false
	}
	t.again[id] = key
	t.againBytes += len(id)
	return true
}

func (t *table) dropAgain(id string) {
	if _, ok := t.again[id]; ok {
		delete(t.again, id)
		t.againBytes -= len(id)
	}
}

// track notes what the stream has changed.
func (c *core) track(changes []sources.Change) {
	for i := range changes {
		ch := &changes[i]
		if ch.Table == nil || ch.Op == sources.OpRead {
			continue
		}
		name, ok := c.names[ch.Table]
		if !ok {
			if len(c.names) > 1000 { // a table's every schema change makes a new one
				clear(c.names)
			}
			name = ch.Table.String()
			c.names[ch.Table] = name
		}
		t := c.byName[name]
		if t == nil || t.done {
			continue
		}
		c.touch(t, ch)
	}
}

func (c *core) touch(t *table, ch *sources.Change) {
	switch {
	case ch.Op == sources.OpTruncate:
		t.cut = true
		c.ring.add(ch.Stamp, t.name, nil, truncated)
		return
	case len(ch.Table.Key) == 0:
		// One note a transaction says that something has changed. A read whose rows are being written needs none, but the next one
		// does, should a truncate undo this one.
		c.ring.add(ch.Stamp, t.name, nil, whole)
		return
	}
	var old []byte
	if ch.Before != nil {
		key, ok := appendKey(c.key[:0], ch.Table, ch.Before, nil)
		c.key = key
		if ok {
			c.ring.add(ch.Stamp, t.name, key, whole)
			old = key
		} else if ch.After == nil {
			c.ring.addAll(ch.Stamp)
			return
		}
	}
	if ch.After == nil {
		return
	}
	oldLen := len(old)
	key, ok := appendKey(c.key[:oldLen], ch.Table, ch.After, ch.Before)
	c.key = key
	if !ok {
		c.ring.addAll(ch.Stamp)
		return
	}
	kind := whole
	if incomplete(ch.After, ch.Before) {
		kind = part
	}
	moved := oldLen > 0 && string(key[:oldLen]) != string(key[oldLen:])
	c.ring.add(ch.Stamp, t.name, key[oldLen:], kind)
	if c.cause == sources.CauseRepair { // other rows are in the topic as they were
		_, repaired := t.again[string(key[:oldLen])]
		moved = moved && repaired
	}
	if moved && kind == part {
		// What it leaves out is in the old key's row, which the topic may not have yet; and no chunk need have a row of the new
		// key to tell that it must be read.
		c.changed = true
		switch {
		case t.addAgain(wireKey(ch.Table, ch.After, ch.Before)):
		case c.cause == sources.CauseRepair: // which is not to become a snapshot of the table
			t.overflown = true
		default:
			c.restartTable(t)
		}
	}
}
