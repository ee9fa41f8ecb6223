package spanner

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// machine is what the simulation drives: the state machine, or a mutant of it.
type machine interface {
	startable() []*partition
	running() []*partition
	finish(one *partition, children []child) error
	watermark() (stamp, error)
	take(one *partition, id recordID, mods, total int)
	save(last *partition, before []byte) ([]byte, error)
}

// real is the machine as it is.
type real struct{ *partitions }

func (r real) take(one *partition, id recordID, mods, total int) { one.take(id, mods, total) }

func (r real) save(*partition, []byte) ([]byte, error) {
	b, err := (&encoder{stream: "s"}).encode(r.partitions)
	return slices.Clone(b), err
}

// childBeforeParent starts a child when one of its parents has told of it.
type childBeforeParent struct{ real }

func (m childBeforeParent) startable() []*partition {
	for _, one := range m.list {
		one.waits = nil
	}
	return m.real.startable()
}

// unknownParents takes a parent that it does not know for finished.
type unknownParents struct{ real }

func (m unknownParents) startable() []*partition {
	for _, one := range m.list {
		one.waits = slices.DeleteFunc(one.waits, func(token string) bool { return m.byToken[token] == nil })
	}
	return m.real.startable()
}

// runningOnly leaves created partitions out of the watermark.
type runningOnly struct{ real }

func (m runningOnly) watermark() (stamp, error) {
	low := m.low
	for i, one := range m.real.running() {
		if i == 0 || one.at < low {
			low = one.at
		}
	}
	return low, nil
}

// onePartition saves where one partition is, and leaves the others in the checkpoint as they were.
type onePartition struct{ real }

func (m onePartition) save(last *partition, before []byte) ([]byte, error) {
	if last == nil {
		return m.real.save(nil, nil)
	}
	old, err := decodePosition(before, "s")
	if err != nil {
		return nil, err
	}
	for i, one := range old.list {
		if one.token == last.token {
			old.list[i] = last
			if m.byToken[last.token] == nil { // finished: its children are for another checkpoint
				old.list = slices.Delete(old.list, i, i+1)
			}
			break
		}
	}
	old.low = 0
	return real{old}.save(nil, nil)
}

// duplicateChild inserts a child for each parent that tells of it.
type duplicateChild struct{ real }

func (m duplicateChild) finish(one *partition, children []child) error {
	for _, c := range children {
		delete(m.byToken, c.token)
	}
	return m.real.finish(one, children)
}

// noSkip forgets what it has taken of the timestamp that it resumes at.
type noSkip struct{ real }

func (m noSkip) save(*partition, []byte) ([]byte, error) {
	for _, one := range m.list {
		one.seen.reset()
	}
	return m.real.save(nil, nil)
}

// exclusive resumes after the timestamp that it has read up to.
type exclusive struct{ real }

func (m exclusive) take(one *partition, id recordID, mods, total int) {
	one.take(id, mods, total)
	if mods == total {
		one.heartbeat(id.at + 1)
	}
}

func (m exclusive) save(*partition, []byte) ([]byte, error) { return m.real.save(nil, nil) }

var mutants = map[string]func(*partitions) machine{
	"child before parent":              func(p *partitions) machine { return childBeforeParent{real{p}} },
	"unknown parent taken as finished": func(p *partitions) machine { return unknownParents{real{p}} },
	"watermark without created":        func(p *partitions) machine { return runningOnly{real{p}} },
	"checkpoint of one partition only": func(p *partitions) machine { return onePartition{real{p}} },
	"duplicate child":                  func(p *partitions) machine { return duplicateChild{real{p}} },
	"nothing skipped on resume":        func(p *partitions) machine { return noSkip{real{p}} },
	"start taken as exclusive":         func(p *partitions) machine { return exclusive{real{p}} },
}

// serverPartition is a partition of the simulated change stream: what a query of it returns.
type serverPartition struct {
	token    string
	keys     []int
	parents  []string
	start    stamp
	records  []serverRecord // in the order of their timestamps
	children []child        // none of one that lives on
}

type serverRecord struct {
	id   recordID
	keys []int // one for each mod
}

const keys = 6

// mod is one change of one key.
type mod struct {
	id    recordID
	index int
}

type world struct {
	byToken map[string]*serverPartition
	history [keys][]mod // of each key, in order
}

// newWorld makes a stream whose partitions have split and merged.
func newWorld(r *rand.Rand) *world {
	w := &world{byToken: map[string]*serverPartition{}}
	now, tokens, txs := stamp(100), 0, 0
	make1 := func(keys []int, parents []string) *serverPartition {
		tokens++
		p := &serverPartition{token: fmt.Sprintf("p%d", tokens), keys: keys, parents: parents, start: now}
		w.byToken[p.token] = p
		return p
	}
	live := []*serverPartition{make1([]int{0, 1, 2}, nil), make1([]int{3, 4, 5}, nil)}
	w.byToken[""] = &serverPartition{}
	for _, p := range live {
		w.byToken[""].children = append(w.byToken[""].children, child{token: p.token, start: now})
	}
	for range 4 + r.IntN(20) {
		now += stamp(1 + r.IntN(3))
		switch n := r.IntN(10); {
		case n < 6: // transactions of one timestamp, each over some partitions
			first := r.IntN(len(live)) // no two of them write to one partition's keys
			for range 1 + r.IntN(2) {
				txs++
				p := live[first%len(live)]
				first++
				for seq := range 1 + r.IntN(3) {
					rec := serverRecord{id: recordID{now, fmt.Sprintf("t%d", (txs*7919)%1000), uint64(seq)}}
					for i := range 1 + r.IntN(3) {
						key := p.keys[r.IntN(len(p.keys))]
						rec.keys = append(rec.keys, key)
						w.history[key] = append(w.history[key], mod{rec.id, i})
					}
					p.records = append(p.records, rec)
				}
				if len(live) == 1 {
					break
				}
			}
		case n < 8: // split
			at := r.IntN(len(live))
			p := live[at]
			if len(p.keys) == 1 { // moves
				live[at] = make1(p.keys, []string{p.token})
				p.tell(live[at])
				continue
			}
			cut := 1 + r.IntN(len(p.keys)-1)
			a, b := make1(p.keys[:cut], []string{p.token}), make1(p.keys[cut:], []string{p.token})
			p.tell(a, b)
			live = slices.Replace(live, at, at+1, a, b)
		default: // merge
			if len(live) < 2 {
				continue
			}
			n := 2 + r.IntN(len(live)-1)
			at := r.IntN(len(live) - n + 1)
			var all []int
			var parents []string
			for _, p := range live[at : at+n] {
				all = append(all, p.keys...)
				parents = append(parents, p.token)
			}
			c := make1(all, parents)
			for _, p := range live[at : at+n] {
				p.tell(c)
			}
			live = slices.Replace(live, at, at+n, c)
		}
	}
	return w
}

func (p *serverPartition) tell(children ...*serverPartition) {
	for _, c := range children {
		p.children = append(p.children, child{token: c.token, start: c.start, parents: c.parents})
	}
}

// query is an open query of a partition.
type query struct {
	one  *partition
	from *serverPartition
	next int
}

// simulate reads a world to its end with crashes, and returns what is wrong with what was committed.
func simulate(seed uint64, make func(*partitions) machine) error {
	r := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(r)
	var committed, pending [keys][]mod
	m := make(newPartitions(100))
	saved, err := m.save(nil, nil)
	if err != nil {
		return err
	}
	var open []*query
	ask := func(list []*partition) {
		for _, one := range list {
			from := w.byToken[one.token]
			q := &query{one: one, from: from}
			for q.next < len(from.records) && from.records[q.next].id.at < one.at {
				q.next++
			}
			open = append(open, q)
		}
	}
	ask(m.running())
	var low stamp
	verify := func() error {
		at, err := m.watermark()
		if err != nil {
			return err
		}
		if at < low {
			return fmt.Errorf("the watermark moved back from %d to %d", low, at)
		}
		low = at
		for key, history := range w.history {
			before := 0
			for before < len(history) && history[before].id.at < at {
				before++
			}
			if have := len(committed[key]) + len(pending[key]); have < before {
				return fmt.Errorf("at watermark %d key %d has %d of %d changes", at, key, have, before)
			}
		}
		return nil
	}
	var last *partition
	for step, ended := 0, false; !ended; step++ {
		if step > 5000 {
			return fmt.Errorf("no end after %d steps", step)
		}
		switch r.IntN(12) {
		case 0, 1: // commit
			if saved, err = m.save(last, saved); err != nil {
				return err
			}
			for key := range pending {
				committed[key] = append(committed[key], pending[key]...)
				pending[key] = nil
			}
			continue
		case 2: // crash
			if r.IntN(3) > 0 {
				continue
			}
			p, err := decodePosition(saved, "s")
			if err != nil {
				return err
			}
			m, open, last, pending, low = make(p), nil, nil, [keys][]mod{}, 0
			ask(m.running())
			continue
		case 3: // what waits for nothing may still have to wait for its turn
			ask(m.startable())
			continue
		}
		if len(open) == 0 {
			if ask(m.startable()); len(open) == 0 {
				ended = true
				continue
			}
		}
		q := open[r.IntN(len(open))]
		last = q.one
		if q.next == len(q.from.records) { // ended
			open = slices.DeleteFunc(open, func(o *query) bool { return o == q })
			if len(q.from.children) == 0 {
				continue // it lives on, and no more is written
			}
			if err := m.finish(q.one, q.from.children); err != nil {
				return err
			}
		} else if rec := q.from.records[q.next]; r.IntN(4) == 0 {
			q.one.heartbeat(rec.id.at - 1)
		} else if err := deliver(m, q, rec, r, &pending); err != nil {
			return err
		}
		if err := verify(); err != nil {
			return err
		}
	}
	for key, history := range w.history {
		if got := append(committed[key], pending[key]...); !slices.Equal(got, history) {
			return fmt.Errorf("key %d: %v was committed, %v written", key, got, history)
		}
	}
	return nil
}

// deliver takes a record, or the first mods of it.
func deliver(m machine, q *query, rec serverRecord, r *rand.Rand, pending *[keys][]mod) error {
	done, whole, err := q.one.done(rec.id)
	if err != nil || whole {
		q.next++
		return err
	}
	upTo := done + 1 + r.IntN(len(rec.keys)-done)
	for i := done; i < upTo; i++ {
		pending[rec.keys[i]] = append(pending[rec.keys[i]], mod{rec.id, i})
	}
	m.take(q.one, rec.id, upTo, len(rec.keys))
	if upTo == len(rec.keys) {
		q.next++
	}
	return nil
}

// histories is how many TestSimulation runs: WEFT_SIMULATIONS, or few enough for every day.
func histories(t *testing.T) uint64 {
	s := os.Getenv("WEFT_SIMULATIONS")
	if s == "" {
		return 20_000
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("WEFT_SIMULATIONS: %v", err)
	}
	return n
}

// TestSimulation reads seeded histories of splits and merges, with crashes, and finds every change once and in order. A
// seed that fails can be run alone.
func TestSimulation(t *testing.T) {
	for seed := range histories(t) {
		if err := simulate(seed, func(p *partitions) machine { return real{p} }); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// The simulation must find what is wrong with each mutant.
func TestSimulationMutants(t *testing.T) {
	for name, mutant := range mutants {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5000) {
				if err := simulate(seed, mutant); err != nil {
					t.Logf("caught by seed %d: %v", seed, err)
					return
				}
			}
			t.Fatal("not caught in 5000 histories")
		})
	}
}
