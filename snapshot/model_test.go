package snapshot

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

// database is a model of PostgreSQL: transactions get their ids when they begin and commit in another order; a commit is in the
// log, and so in the stream, before snapshots see it, and until they do it keeps its locks.
type database struct {
	random  *rand.Rand
	next    uint64 // transaction id
	running []*txn
	waiting []*txn // committed and not visible
	log     []*txn // what the log holds; nil is a mark
	version int64

	// The tables as the log's end has them, and as snapshots see them.
	tip, visible tables
}

const keys = 8

// row of the table with a key; version is 0 where there is none. big is what an update may leave out.
type row struct{ version, big int64 }

// tables are "keyed", and "bag", which has no key and whose rows are told from each other only by their value.
type tables struct {
	keyed [keys]row
	bag   map[int64]bool
}

func (t *tables) clone() tables {
	c := tables{keyed: t.keyed, bag: make(map[int64]bool, len(t.bag))}
	for v := range t.bag {
		c.bag[v] = true
	}
	return c
}

type txn struct {
	xid     uint64
	ops     int
	effects []effect
}

// effect is one change.
type effect struct {
	op        sources.Op
	bag       bool
	key, from int // from is the old key of a key change, else the same
	row       row
	part      bool // the stream leaves row.big out
	value     int64
}

func (t *tables) apply(e *effect) {
	switch {
	case e.op == sources.OpTruncate && e.bag:
		t.bag = map[int64]bool{}
	case e.op == sources.OpTruncate:
		t.keyed = [keys]row{}
	case e.bag && e.op == sources.OpDelete:
		delete(t.bag, e.value)
	case e.bag:
		t.bag[e.value] = true
	case e.op == sources.OpDelete:
		t.keyed[e.key] = row{}
	default:
		t.keyed[e.from] = row{}
		t.keyed[e.key] = e.row
	}
}

// locked tells whether a transaction that is not visible holds a lock on a key, or on a row of the bag.
func (d *database) locked(bag bool, key int, value int64) bool {
	for _, x := range d.waiting {
		for i := range x.effects {
			e := &x.effects[i]
			if e.bag == bag && (e.op == sources.OpTruncate || !bag && (e.key == key || e.from == key) || bag && e.value == value) {
				return true
			}
		}
	}
	return false
}

func (d *database) begin() {
	d.running = append(d.running, &txn{xid: d.next, ops: 1 + d.random.IntN(3)})
	d.next += 1 + d.random.Uint64N(2) // some only ever read
}

// commit ends a transaction: what it does is worked out now, as its locks would have it.
func (d *database) commit(x *txn, bag bool) {
	for range x.ops {
		if e, ok := d.change(bag); ok {
			x.effects = append(x.effects, e)
			d.tip.apply(&e)
		}
	}
	d.log = append(d.log, x)
	d.waiting = append(d.waiting, x)
}

func (d *database) change(bag bool) (effect, bool) {
	d.version++
	if bag && d.random.IntN(2) == 0 {
		switch n := d.random.IntN(12); {
		case n < 2:
			for _, x := range d.waiting {
				if slices.ContainsFunc(x.effects, func(e effect) bool { return e.bag }) {
					return effect{}, false
				}
			}
			return effect{op: sources.OpTruncate, bag: true}, true
		case n < 5 && len(d.tip.bag) > 0:
			all := make([]int64, 0, len(d.tip.bag))
			for v := range d.tip.bag {
				all = append(all, v)
			}
			v := slices.Min(all)
			return effect{op: sources.OpDelete, bag: true, value: v}, !d.locked(true, 0, v)
		}
		return effect{op: sources.OpCreate, bag: true, value: d.version}, !d.locked(true, 0, d.version)
	}
	key := d.random.IntN(keys)
	if d.locked(false, key, 0) {
		return effect{}, false
	}
	was := d.tip.keyed[key]
	e := effect{op: sources.OpUpdate, key: key, from: key, row: row{version: d.version, big: d.version}}
	switch n := d.random.IntN(20); {
	case n == 0:
		for _, x := range d.waiting {
			if slices.ContainsFunc(x.effects, func(e effect) bool { return !e.bag }) {
				return effect{}, false
			}
		}
		e.op = sources.OpTruncate
	case was.version == 0:
		e.op = sources.OpCreate
	case n < 4:
		e.op = sources.OpDelete
	case n < 8: // another key
		to := d.random.IntN(keys)
		if to == key || d.tip.keyed[to].version != 0 || d.locked(false, to, 0) {
			return effect{}, false
		}
		e.key = to
		fallthrough
	case n < 15:
		e.part, e.row.big = true, was.big
	}
	return e, true
}

// show makes a committed transaction visible.
func (d *database) show(i int) {
	x := d.waiting[i]
	d.waiting = slices.Delete(d.waiting, i, i+1)
	for j := range x.effects {
		d.visible.apply(&x.effects[j])
	}
}

func (d *database) snapshot() visibility.Snapshot {
	var all []uint64
	for _, x := range d.running {
		all = append(all, x.xid)
	}
	for _, x := range d.waiting {
		all = append(all, x.xid)
	}
	slices.Sort(all)
	s := visibility.Snapshot{Xmax: d.next}
	for len(all) > 0 && all[len(all)-1] == s.Xmax-1 {
		s.Xmax--
		all = all[:len(all)-1]
	}
	s.Xmin, s.Xip = s.Xmax, all
	if len(all) > 0 {
		s.Xmin = all[0]
	}
	return s
}

var keyed = &sources.Table{Name: "keyed", Key: []int{0}, Columns: []sources.Column{{Name: "id"}, {Name: "version"}, {Name: "big"}}}
var bag = &sources.Table{Name: "bag", Columns: []sources.Column{{Name: "value"}}}

func present(n int64) sources.Value {
	return sources.Value{State: sources.Present, Data: strconv.AppendInt(nil, n, 10)}
}

func number(v sources.Value) int64 {
	n, err := strconv.ParseInt(string(v.Data), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (r row) values(key int) []sources.Value {
	return []sources.Value{present(int64(key)), present(r.version), present(r.big)}
}

// change is what the stream tells of an effect.
func (e *effect) change(stamp uint64) sources.Change {
	c := sources.Change{Op: e.op, Table: keyed, Stamp: stamp}
	if e.bag {
		c.Table = bag
		switch e.op {
		case sources.OpCreate:
			c.After = []sources.Value{present(e.value)}
		case sources.OpDelete:
			c.Before = []sources.Value{present(e.value)}
		}
		return c
	}
	unknown := sources.Value{State: sources.Unavailable}
	switch e.op {
	case sources.OpCreate, sources.OpUpdate:
		c.After = e.row.values(e.key)
		if e.part {
			c.After[2] = unknown
		}
		if e.key != e.from {
			c.Before = []sources.Value{present(int64(e.from)), unknown, unknown}
		}
	case sources.OpDelete:
		c.Before = []sources.Value{present(int64(e.key)), unknown, unknown}
	}
	return c
}

// appendOrder is the order of the i-th change at a place of the log; the rows before it have even places.
func appendOrder(dst []byte, place, i int) []byte {
	return fmt.Appendf(dst, "%08d.%06d", place, i)
}
