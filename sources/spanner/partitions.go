package spanner

import (
	"fmt"
	"slices"
	"time"
)

// stamp is a commit timestamp in nanoseconds since 1970, of which Spanner's range for commits needs no more.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixNano()) }

func (s stamp) time() time.Time { return time.Unix(0, int64(s)).UTC() }

func (s stamp) String() string { return s.time().Format(time.RFC3339Nano) }

// state is where an unfinished partition is. A finished one is forgotten.
type state uint8

const (
	created state = iota // waits for its parents
	running              // is read
)

// partition is an unfinished partition of the change stream. The root, whose token is empty, is the query that lists the
// partitions there are at the capture's start.
type partition struct {
	token string
	state state
	// at is how far the partition has been read: all that was committed before it, and seen of what was committed at it.
	at   stamp
	seen seen
	// waits holds the tokens of the parents that are not finished, known or not. A parent that is not known yet is waited
	// for as well: had it finished, it would itself have told of this child.
	waits []string
}

// partitions is the state machine of a change stream's partitions. It does no I/O: what is read goes in, and what is to be
// read comes out. The whole of it is a position.
type partitions struct {
	list    []*partition // in the order of their creation
	byToken map[string]*partition
	low     stamp // the watermark last given, which must not move back
}

// newPartitions begins a stream at a timestamp.
func newPartitions(start stamp) *partitions {
	p := &partitions{byToken: map[string]*partition{}, low: start}
	p.insert(&partition{state: running, at: start})
	return p
}

func (p *partitions) insert(one *partition) {
	p.list = append(p.list, one)
	p.byToken[one.token] = one
}

// startable turns the created partitions with no unfinished parent into running ones and returns them.
func (p *partitions) startable() []*partition {
	var out []*partition
	for _, one := range p.list {
		if one.state == created && len(one.waits) == 0 {
			one.state = running
			out = append(out, one)
		}
	}
	return out
}

// running lists the partitions that are to be read.
func (p *partitions) running() []*partition {
	var out []*partition
	for _, one := range p.list {
		if one.state == running {
			out = append(out, one)
		}
	}
	return out
}

// stuck tells that partitions are left of which none can ever run. A stream that keeps its rules has no such moment.
func (p *partitions) stuck() error {
	for _, one := range p.list {
		if one.state == running || len(one.waits) == 0 {
			return nil
		}
	}
	if len(p.list) == 0 {
		return fmt.Errorf("the change stream has no partition left")
	}
	return fmt.Errorf("%d partitions wait for parents of which the change stream never told, such as %.20s", len(p.list), p.list[0].waits[0])
}

// recordID tells a record from the others of its commit timestamp.
type recordID struct {
	at  stamp
	tx  string // server_transaction_id
	seq uint64 // record_sequence
}

// done tells how many mods of a record were taken before, all of them where whole is true.
func (one *partition) done(id recordID) (mods int, whole bool, err error) {
	switch {
	case id.at < one.at:
		return 0, false, fmt.Errorf("partition %.20s gives a record of %s after it was read up to %s", one.token, id.at, one.at)
	case id.at > one.at:
		return 0, false, nil
	}
	if one.seen.has(id.tx, id.seq) {
		return 0, true, nil
	}
	if part := one.seen.part; part.mods > 0 && part.tx == id.tx && part.seq == id.seq {
		return part.mods, false, nil
	}
	return 0, false, nil
}

// take notes that mods of a record's total are taken. The record is one that done has not refused.
func (one *partition) take(id recordID, mods, total int) {
	if id.at > one.at {
		one.at = id.at
		one.seen.reset()
	}
	if mods < total {
		one.seen.part = partial{tx: id.tx, seq: id.seq, mods: mods}
		return
	}
	if one.seen.part.tx == id.tx && one.seen.part.seq == id.seq {
		one.seen.part = partial{}
	}
	one.seen.add(id.tx, id.seq)
}

// heartbeat notes that all that was committed up to a timestamp has come.
func (one *partition) heartbeat(at stamp) {
	if at > one.at {
		one.at = at
		one.seen.reset()
	}
}

// child is a partition as its parents tell of it.
type child struct {
	token   string
	start   stamp
	parents []string
}

// finish ends a running partition and brings in its children in the same step, so that no position holds one without the
// other.
func (p *partitions) finish(one *partition, children []child) error {
	if len(children) == 0 {
		return fmt.Errorf("the query of partition %.20s ended without telling of a child: it is not known where the changes go on", one.token)
	}
	for _, c := range children {
		if c.token == "" {
			return fmt.Errorf("partition %.20s tells of a child without a token", one.token)
		}
		if c.start < one.at {
			return fmt.Errorf("partition %.20s, read up to %s, tells of a child that begins at %s", one.token, one.at, c.start)
		}
		if p.byToken[c.token] != nil {
			continue // the other parent of a merge told of it
		}
		p.insert(&partition{token: c.token, at: c.start, waits: slices.Clone(c.parents)})
	}
	p.list = slices.DeleteFunc(p.list, func(q *partition) bool { return q == one })
	delete(p.byToken, one.token)
	for _, q := range p.list {
		q.waits = slices.DeleteFunc(q.waits, func(token string) bool { return token == one.token })
	}
	return nil
}

// watermark is the timestamp before which every change has been taken. It never moves back.
func (p *partitions) watermark() (stamp, error) {
	if len(p.list) == 0 {
		return p.low, nil
	}
	low := p.list[0].at
	for _, one := range p.list[1:] {
		low = min(low, one.at)
	}
	if low < p.low {
		return p.low, fmt.Errorf("the watermark would move back from %s to %s", p.low, low)
	}
	p.low = low
	return low, nil
}

// seen is the set of records taken at one commit timestamp. Within a partition a transaction's records come in runs of
// consecutive sequence numbers, so that it stays small.
type seen struct {
	txs  []seenTx
	part partial
}

type seenTx struct {
	tx   string
	runs []run
}

// run is a range of record sequences, both ends included.
type run struct{ first, last uint64 }

// partial is a record of which only the first mods are taken.
type partial struct {
	tx   string
	seq  uint64
	mods int
}

func (s *seen) reset() {
	clear(s.txs) // the strings are not kept alive
	s.txs = s.txs[:0]
	s.part = partial{}
}

func (s *seen) find(tx string) *seenTx {
	for i := len(s.txs) - 1; i >= 0; i-- { // the newest is the likeliest
		if s.txs[i].tx == tx {
			return &s.txs[i]
		}
	}
	return nil
}

func (s *seen) has(tx string, seq uint64) bool {
	t := s.find(tx)
	return t != nil && slices.ContainsFunc(t.runs, func(r run) bool { return r.first <= seq && seq <= r.last })
}

func (s *seen) add(tx string, seq uint64) {
	t := s.find(tx)
	if t == nil {
		s.txs = append(s.txs, seenTx{tx: tx, runs: []run{{seq, seq}}})
		return
	}
	if last := &t.runs[len(t.runs)-1]; seq == last.last+1 {
		last.last = seq
		return
	}
	t.runs = append(t.runs, run{seq, seq})
}
