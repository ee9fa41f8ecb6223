package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/hashicorp/go-hclog"

	"weft/checkpoint"
	"weft/sources"
	"weft/sources/postgres/visibility"
)

// simulation is a database, the core of an Interleaver between its stream and a log, and crashes.
type simulation struct {
	mutant mutant
	random *rand.Rand
	db     database
	bag    bool // there is a table without a key

	// The stream: what of the database's log was returned, and the tables as that leaves them.
	at, done  int
	tracker   visibility.Tracker
	streamed  tables
	positions []position

	core    *core
	state   *checkpoint.Snapshot
	unseen  *visibility.Unseen // of the position that the reader was opened at
	settled bool
	reads   []*reading
	held    *heldRows
	tokens  map[int]int // mark of a token
	token   int

	repairs  int // that are still to be made
	busyTill int

	committed commit
	buffer    []record // of the open transaction
	records   []record
}

// position is where the stream stands: in front of the log's entry at, done changes of which are returned.
type position struct {
	at, done int
	unseen   *visibility.Unseen
}

// commit is what survives a crash.
type commit struct {
	position int
	state    []byte
	streamed tables
}

type record struct {
	op         sources.Op
	bag        bool
	key, from  int
	row        row
	part       bool
	value      int64
	order      []byte
	bySnapshot bool
	spoilt     bool // somebody else wrote it: it is wrong
}

// reading is a read that is under way.
type reading struct {
	r     *read
	chunk *sources.Chunk
	view  *modelView
}

type heldRows struct {
	values []int64
	view   *modelView
}

type modelView struct {
	snapshot visibility.Snapshot
	mark     int // entry of the database's log
	sim      *simulation
}

func (v *modelView) Sees(stamp uint64) bool                   { return v.snapshot.Sees(stamp) }
func (v *modelView) SeesSource(json.RawMessage) (bool, error) { return false, errors.New("not used") }
func (v *modelView) Horizon() uint64                          { return v.snapshot.Xmin }
func (v *modelView) Passed(p sources.Position) (bool, error) {
	return v.sim.mutant == markNotAwaited || v.sim.positionOf(p).at > v.mark, nil
}

func (s *simulation) positionOf(p sources.Position) position {
	n, err := strconv.Atoi(string(p))
	if err != nil {
		panic(err) // the simulation's own
	}
	return s.positions[n]
}

// here encodes where the stream stands.
func (s *simulation) here() sources.Position {
	s.positions = append(s.positions, position{at: s.at, done: s.done, unseen: s.tracker.Unseen()})
	return strconv.AppendInt(nil, int64(len(s.positions)-1), 10)
}

// AppendOrder is all that the core asks of a Reader.
func (s *simulation) AppendOrder(dst []byte, p sources.Position, i int) ([]byte, error) {
	return appendOrder(dst, 2*s.positionOf(p).at, i), nil
}
func (s *simulation) Tables(context.Context) ([]string, error) { return nil, nil }
func (s *simulation) Split(context.Context, string, int) ([]sources.Cursor, error) {
	return nil, nil
}
func (s *simulation) ReadChunk(context.Context, sources.ChunkRequest) (*sources.Chunk, error) {
	return nil, nil
}
func (s *simulation) Close() error { return nil }

func newSimulation(seed uint64, m mutant) *simulation {
	random := rand.New(rand.NewPCG(seed, 5))
	s := &simulation{mutant: m, random: random, bag: random.IntN(3) == 0, tokens: map[int]int{}, repairs: random.IntN(3), busyTill: 120}
	s.db = database{random: random, next: 5<<32 + random.Uint64N(100)}
	if random.IntN(3) == 0 {
		s.db.next = 6<<32 - random.Uint64N(20) // the low half wraps
	}
	s.db.tip = tables{bag: map[int64]bool{}}
	s.db.visible = s.db.tip.clone()
	for range 30 {
		s.work()
	}
	// The slot is made: the stream begins here, and what has committed may still not be visible.
	s.at = len(s.db.log)
	s.tracker.AddRunning(s.db.snapshot(), s.db.next)
	s.streamed = s.db.tip.clone()
	s.state = &checkpoint.Snapshot{ID: 1, Tables: []checkpoint.TableSnapshot{{Table: "keyed"}}}
	if s.bag {
		s.state.Tables = append(s.state.Tables, checkpoint.TableSnapshot{Table: "bag"})
	}
	s.open(s.here())
	if err := s.commit(); err != nil {
		panic(err) // the simulation's own
	}
	return s
}

func (s *simulation) work() {
	db := &s.db
	switch n := s.random.IntN(10); {
	case n < 4 || len(db.running)+len(db.waiting) == 0:
		db.begin()
	case n < 8 && len(db.running) > 0:
		i := s.random.IntN(len(db.running))
		x := db.running[i]
		db.running = slices.Delete(db.running, i, i+1)
		if s.random.IntN(10) > 0 { // else it is rolled back
			db.commit(x, s.bag)
		}
	case len(db.waiting) > 0:
		db.show(s.random.IntN(len(db.waiting)))
	}
}

// open begins where a checkpoint left off, or at first.
func (s *simulation) open(p sources.Position) {
	at := s.positionOf(p)
	s.at, s.done, s.unseen, s.settled = at.at, at.done, at.unseen, false
	s.tracker = visibility.Tracker{}
	if at.unseen != nil {
		s.tracker.Resume(*at.unseen)
	}
	if s.mutant == ringNotRestored {
		s.unseen = nil
	}
	s.reads, s.held = nil, nil
	bound := 1 << 20
	if s.random.IntN(3) == 0 || s.mutant == overflowIgnored {
		bound = 2 * (transactionBytes + touchBytes)
	}
	s.core = newCore(s.state, Options{Parallel: 2, ChunkBytes: 1 + s.random.IntN(5), RingBytes: bound, Logger: hclog.NewNullLogger()})
}

// repair spoils rows in the log, and asks for them and others: it begins where the stream stands.
func (s *simulation) repair() {
	s.repairs--
	var again [][][]byte
	for key := range keys {
		if s.random.IntN(2) == 0 {
			continue
		}
		again = append(again, [][]byte{strconv.AppendInt(nil, int64(key), 10)})
		wrong := record{op: sources.OpDelete, key: key, from: key, spoilt: true}
		if s.random.IntN(3) > 0 {
			s.db.version++
			wrong.op, wrong.row = sources.OpUpdate, row{version: s.db.version, big: s.db.version}
		}
		if s.random.IntN(4) > 0 {
			s.buffer = append(s.buffer, wrong)
		}
	}
	was := *s.state
	s.core.save(&was)
	s.state = &checkpoint.Snapshot{ID: was.ID + 1, Reason: checkpoint.ReasonRepair, Order: was.Order, Index: was.Index,
		Tables: []checkpoint.TableSnapshot{{Table: "keyed", Begun: true, Again: again}}}
	s.open(s.here())
}

func (s *simulation) crash() error {
	s.buffer, s.state = nil, &checkpoint.Snapshot{}
	if err := json.Unmarshal(s.committed.state, s.state); err != nil {
		return err
	}
	s.streamed = s.committed.streamed.clone()
	s.token = 0
	s.open(strconv.AppendInt(nil, int64(s.committed.position), 10))
	return nil
}

func (s *simulation) commit() error {
	s.records = append(s.records, s.buffer...)
	s.buffer = nil
	s.committed.position = len(s.positions) - 1
	s.committed.streamed = s.streamed.clone()
	s.core.committed()
	return s.saveState()
}

func (s *simulation) saveState() (err error) {
	state := *s.state
	s.core.save(&state)
	s.committed.state, err = json.Marshal(&state)
	return err
}

// deliver is a batch of the stream: some entries of the log, or a part of one.
func (s *simulation) deliver() (partial bool) {
	var batch []sources.Change
	for range 1 + s.random.IntN(3) {
		if s.at == len(s.db.log) {
			break
		}
		x := s.db.log[s.at]
		if x == nil { // a mark ends the batch
			s.at++
			break
		}
		n := len(x.effects)
		if n > 1 && s.random.IntN(4) == 0 {
			n = s.done + s.random.IntN(n-s.done)
		}
		stamp := x.xid
		if s.mutant == stampNotWidened {
			stamp = uint64(uint32(x.xid))
		}
		for i := s.done; i < n; i++ {
			e := &x.effects[i]
			s.streamed.apply(e)
			s.buffer = append(s.buffer, record{op: e.op, bag: e.bag, key: e.key, from: e.from, row: e.row, part: e.part, value: e.value,
				order: appendOrder(nil, 2*s.at+1, i)})
			batch = append(batch, e.change(stamp))
		}
		if s.tracker.Add(x.xid); n < len(x.effects) {
			s.done, partial = n, true
			break
		}
		s.at, s.done = s.at+1, 0
	}
	s.track(batch)
	return partial
}

// step brings one read on: its snapshot and rows, then its mark, then its arrival.
func (s *simulation) step(g *reading) {
	switch {
	case g.r.kind == readSplit:
		var cuts []sources.Cursor
		if g.r.t.name == "keyed" && s.random.IntN(2) == 0 {
			cuts = []sources.Cursor{cursor(s.random.IntN(keys))}
		}
		s.core.split(g.r, cuts)
		s.drop(g)
	case g.chunk == nil:
		s.look(g)
	case g.view.mark < 0:
		s.mark(g.view)
	default:
		s.core.arrived(g.r, g.chunk, 0)
		s.drop(g)
	}
}

func (s *simulation) drop(g *reading) {
	s.reads = slices.DeleteFunc(s.reads, func(o *reading) bool { return o == g })
}

// mark writes one behind what the read saw.
func (s *simulation) mark(v *modelView) {
	s.token++
	at, known := s.tokens[s.token]
	if s.mutant != tokensReused || !known {
		at = len(s.db.log)
		s.tokens[s.token] = at
		s.db.log = append(s.db.log, nil)
	}
	v.mark = at
}

// look reads, if the snapshot that it would have sees all that it must.
func (s *simulation) look(g *reading) {
	if s.mutant == markBeforeRead && g.view == nil {
		g.view = &modelView{mark: -1, sim: s}
		s.mark(g.view)
		return
	}
	q := &g.r.q
	if q.Table == "bag" && q.After != nil {
		s.lookOn(g)
		return
	}
	snapshot := s.db.snapshot()
	if !s.settled && s.unseen != nil && !s.unseen.Settled(&snapshot) {
		return
	}
	s.settled = true
	if g.view == nil {
		g.view = &modelView{mark: -1, sim: s}
	}
	g.view.snapshot = snapshot
	if q.Table == "bag" {
		s.held = &heldRows{values: slices.Sorted(maps.Keys(s.db.visible.bag)), view: g.view}
		s.lookOn(g)
		return
	}
	g.chunk = &sources.Chunk{Table: keyed, View: g.view}
	limit := 1 + s.random.IntN(3)
	for key, r := range s.db.visible.keyed {
		switch {
		case q.Keys != nil:
			if !slices.ContainsFunc(q.Keys, func(k [][]byte) bool { return string(k[0]) == strconv.Itoa(key) }) {
				continue
			}
		case q.After != nil && key <= keyOf(q.After) || q.Until != nil && key > keyOf(q.Until):
			continue
		}
		if r.version == 0 {
			continue
		}
		if q.Keys == nil && len(g.chunk.Rows) == limit {
			last := g.chunk.Rows[limit-1]
			g.chunk.Next = cursor(int(number(last[0])))
			break
		}
		g.chunk.Rows = append(g.chunk.Rows, r.values(key))
		g.chunk.Bytes++
	}
}

// lookOn takes the next rows of the held read.
func (s *simulation) lookOn(g *reading) {
	from := 0
	if g.r.q.After != nil {
		from = keyOf(g.r.q.After)
	}
	g.view = s.held.view
	g.chunk = &sources.Chunk{Table: bag, View: g.view}
	for n, v := range s.held.values[from:] {
		if n == 1 {
			g.chunk.Next = cursor(from + n)
			break
		}
		g.chunk.Rows = append(g.chunk.Rows, []sources.Value{present(v)})
		g.chunk.Bytes++
	}
}

func cursor(n int) sources.Cursor { return strconv.AppendInt(nil, int64(n), 10) }

func keyOf(c sources.Cursor) int {
	n, err := strconv.Atoi(string(c))
	if err != nil {
		panic(err) // the simulation's own
	}
	return n
}

// Write takes a row in, and refuses one that is not exactly what the stream has made of it so far.
func (s *simulation) Write(_ context.Context, c *sources.Change) error {
	r := record{op: c.Op, bag: c.Table == bag, order: bytes.Clone(c.Order), bySnapshot: true}
	switch {
	case c.Op == sources.OpTruncate:
	case c.Op == sources.OpDelete:
		r.key = int(number(c.Before[0]))
		r.from = r.key
		if is := s.streamed.keyed[r.key]; is != (row{}) {
			return fmt.Errorf("key %d is deleted, and the stream has come to %v", r.key, is)
		}
		if s.mutant == absentNotDeleted {
			return nil
		}
	case r.bag:
		r.value = number(c.After[0])
	default:
		r.key = int(number(c.After[0]))
		r.from = r.key
		r.row = row{version: number(c.After[1]), big: number(c.After[2])}
		if is := s.streamed.keyed[r.key]; is != r.row {
			return fmt.Errorf("key %d goes back in time: row %v is written, and the stream has come to %v", r.key, r.row, is)
		}
	}
	s.buffer = append(s.buffer, r)
	return nil
}

func (s *simulation) pass() error {
	if s.mutant == ordersRepeated {
		s.core.order, s.core.index = nil, 0
	}
	if s.mutant == pruneForgetsReads && s.core.latest != nil {
		s.core.ring.prune([]sources.View{s.core.latest})
	}
	err := s.core.pass(&place{ctx: context.Background(), position: s.here(), reader: s, w: s})
	if err == nil && s.mutant == cursorOutside {
		return s.saveState()
	}
	return err
}

// run goes through one history, to the end of the snapshot and of the stream.
func (s *simulation) run() error {
	partial := false
	for n := 0; ; n++ {
		if n == 3000 {
			return errors.New("the snapshot does not come to its end")
		}
		if s.core.finished() && s.repairs > 0 && s.random.IntN(5) == 0 {
			s.repair()
			s.busyTill = max(s.busyTill, n+40)
		}
		busy := n < s.busyTill
		switch k := s.random.IntN(20); {
		case k < 7 && busy:
			s.work()
		case k < 7 && len(s.db.waiting) > 0 && len(s.db.running) == 0:
			s.db.show(0)
		case k < 7 && !busy && len(s.db.running) > 0:
			s.db.running = s.db.running[1:]
		case k < 9:
			if r := s.core.next(); r != nil {
				s.reads = append(s.reads, &reading{r: r})
			}
		case k < 13 && len(s.reads) > 0:
			s.step(s.reads[s.random.IntN(len(s.reads))])
		case k < 16:
			partial = s.deliver()
		case k < 18 && !partial:
			if err := s.pass(); err != nil {
				return err
			}
		case k < 19:
			s.here()
			if err := s.commit(); err != nil {
				return err
			}
			if s.random.IntN(2) == 0 {
				s.tracker.Learn(s.db.snapshot())
			}
		case busy && s.random.IntN(4) == 0:
			if err := s.crash(); err != nil {
				return err
			}
			partial = s.done > 0
		}
		if !busy && s.core.finished() && s.repairs == 0 && s.at == len(s.db.log) && len(s.db.running) == 0 {
			s.here()
			if err := s.commit(); err != nil {
				return err
			}
			return s.judge()
		}
	}
}

// judge folds the log and compares it with the database.
func (s *simulation) judge() error {
	var folded tables
	counts := map[int64]int{}
	known := [keys]bool{}
	var last []byte
	for i := range s.records {
		r := &s.records[i]
		if !r.spoilt {
			if bytes.Compare(r.order, last) <= 0 {
				return fmt.Errorf("order %s comes after %s", r.order, last)
			}
			last = r.order
		}
		switch {
		case r.bag && r.op == sources.OpTruncate:
			clear(counts)
		case r.bag && r.op == sources.OpDelete:
			counts[r.value]--
		case r.bag:
			counts[r.value]++
		case r.op == sources.OpTruncate:
			folded.keyed, known = [keys]row{}, [keys]bool{}
		case r.op == sources.OpDelete:
			folded.keyed[r.key], known[r.key] = row{}, false
		default:
			is := r.row
			told := true
			if r.part {
				is.big, told = folded.keyed[r.from].big, known[r.from]
			}
			folded.keyed[r.from], known[r.from] = row{}, false
			folded.keyed[r.key], known[r.key] = is, told
		}
	}
	for key, is := range folded.keyed {
		if want := s.db.tip.keyed[key]; is != want {
			return fmt.Errorf("key %d folds to %v, and is %v", key, is, want)
		}
	}
	for v, n := range counts {
		if n != 0 && (n != 1 || !s.db.tip.bag[v]) {
			return fmt.Errorf("the bag folds to %d of %d", n, v)
		}
	}
	for v := range s.db.tip.bag {
		if s.bag && counts[v] != 1 {
			return fmt.Errorf("the bag lacks %d", v)
		}
	}
	return nil
}

// runs is how many histories are gone through: WEFT_SIMULATIONS, or few enough for every day.
func runs(t *testing.T) uint64 {
	text := os.Getenv("WEFT_SIMULATIONS")
	if text == "" {
		return 5000
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSimulation(t *testing.T) {
	for seed := range runs(t) {
		if err := newSimulation(seed, none).run(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
