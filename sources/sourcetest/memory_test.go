package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"weft/sources"
)

// mutant is one way in which a source can be wrong.
type mutant int

const (
	correct mutant = iota
	losesOnCancel
	losesSilently
	repeatsAfterResume
	skipsAfterResume
	otherOrderAfterResume
	reorders
	orderOfOtherWidth
	sameOrderTwice
	reusesMemory
	readsAheadWithoutBound
	overfillsBatches
	leaksGoroutine
	noIdleProgress
	spinsWhenIdle
	durableBlocks
	durableMovesPosition
	silentGap
	gapWithoutRemedy
	cutsTransactions
	nullBecomesEmpty
	failsAfterCancel
	fillsClosed
	losesFirstRow
	repeatsAtCursor
	ignoresUntil
	readsStale
	overfillsChunks
	newTableEachChunk
	reusesChunkMemory
	hidesCancel
	seesEverything
	seesNothing
	misreadsBlocks
	passedAtOnce
	writesNoMark
	rowsSortLow
	rowsSortHigh
	noStamp
)

// memory is a datastore in the process: a log of transactions whose bodies are in a file, so that the suite's heap
// limit measures the source alone.
type memory struct {
	mu     sync.Mutex
	log    []entry
	bodies *os.File
	size   int64
	start  int // of what the log still has
	moved  chan struct{}
}

type entry struct {
	transaction, index int // index from 1; 0 for one that has no change
	last               bool
	op                 sources.Op
	id                 int64
	null               bool
	at                 int64
	length             int
}

func (m *memory) write(rows ...Row) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	transaction := 1
	if n := len(m.log); n > 0 {
		transaction = m.log[n-1].transaction + 1
	}
	for i, r := range rows {
		e := entry{transaction: transaction, index: i + 1, last: i == len(rows)-1, op: r.Op, id: r.ID, null: r.Body == nil}
		if r.Body != nil {
			if _, err := m.bodies.WriteAt([]byte(*r.Body), m.size); err != nil {
				return err
			}
			e.at, e.length = m.size, len(*r.Body)
			m.size += int64(e.length)
		}
		m.log = append(m.log, e)
	}
	if len(rows) == 0 {
		m.log = append(m.log, entry{transaction: transaction, last: true})
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return nil
}

// memoryConfig opens a memorySource; it is the sources.Config of the harness.
type memoryConfig struct {
	store        *memory
	mutant       mutant
	transactions bool // tell of them
}

// newMemoryHarness makes a harness around a mutant; one without transactions promises no order over all rows either.
func newMemoryHarness(t *testing.T, m mutant, transactions bool) *Harness {
	f, err := os.Create(filepath.Join(t.TempDir(), "bodies"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	store := &memory{bodies: f, moved: make(chan struct{})}
	return &Harness{
		Config: &memoryConfig{store: store, mutant: m, transactions: transactions},
		Tables: []string{"items"},
		Traits: Traits{
			Deletes: true, EveryChange: true, Transactions: transactions, Reproducible: true, TotalOrder: transactions,
			FirstBatches: firstBatches(transactions), IdleWithin: 200 * time.Millisecond,
		},
		Write: func(_ context.Context, rows ...Row) error { return store.write(rows...) },
		Idle:  func(context.Context) error { return store.write() },
		Break: func(context.Context) error {
			store.mu.Lock()
			defer store.mu.Unlock()
			store.start = len(store.log) - 1
			return nil
		},
	}
}

// firstBatches is 1 of a source with transactions, which says where it begins before the first change.
func firstBatches(transactions bool) int {
	if transactions {
		return 1
	}
	return 0
}

func (c *memoryConfig) Connector() string { return "memory" }
func (c *memoryConfig) Validate() error   { return nil }

func (c *memoryConfig) table() *sources.Table {
	return &sources.Table{
		Name: "items",
		Columns: []sources.Column{
			{Name: "id", Type: sources.Type{Kind: sources.Int, Precision: 64}}, {Name: "body", Type: sources.Type{Kind: sources.String}},
		},
		Key: []int{0},
	}
}

func (c *memoryConfig) Open(_ context.Context, o sources.OpenOptions) (sources.Source, error) {
	s := &memorySource{memoryConfig: c, opts: o, table: c.table()}
	c.store.mu.Lock()
	s.at = len(c.store.log)
	start := c.store.start
	c.store.mu.Unlock()
	if o.Position != nil {
		if err := json.Unmarshal(o.Position, &s.at); err != nil {
			return nil, err
		}
		switch {
		case c.mutant == repeatsAfterResume && s.at > 0:
			s.at--
		case c.mutant == skipsAfterResume && c.store.midTransaction(s.at):
			s.at++
		}
		if s.at < start && c.mutant != silentGap {
			gap := &sources.GapError{Reason: fmt.Sprintf("the log begins at %d", start), Remedy: "go on there",
				Resume: json.RawMessage(strconv.Itoa(start))}
			if c.mutant == gapWithoutRemedy {
				gap.Remedy = ""
			}
			return nil, gap
		}
		s.at = max(s.at, start)
	}
	s.begins = c.transactions && o.Position == nil
	s.buffered = s.at
	s.reader.Add(1)
	s.stop = make(chan struct{})
	s.ready = make(chan struct{}, 1)
	s.room = make(chan struct{}, 1)
	go s.readAhead()
	return s, nil
}

func (m *memory) midTransaction(at int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return at > 0 && at < len(m.log) && !m.log[at-1].last
}

// memorySource reads ahead in a goroutine of its own, as a source does that must answer keepalives.
type memorySource struct {
	*memoryConfig
	opts  sources.OpenOptions
	table *sources.Table

	mu          sync.Mutex
	buffer      []loaded
	bytes       int
	buffered    int // log index up to which buffer reaches
	err         error
	at          int
	begins      bool // Next has yet to say where
	memory      []byte
	calls       int
	canceled    bool
	reader      sync.WaitGroup
	stop        chan struct{}
	ready, room chan struct{}
}

type loaded struct {
	entry
	body []byte
}

func (s *memorySource) readAhead() {
	defer s.reader.Done()
	for {
		s.store.mu.Lock()
		moved := s.store.moved
		more := s.buffered < len(s.store.log)
		var e entry
		if more {
			e = s.store.log[s.buffered]
		}
		s.store.mu.Unlock()
		if !more {
			if s.mutant == leaksGoroutine {
				<-moved
				continue
			}
			select {
			case <-moved:
			case <-s.stop:
				return
			}
			continue
		}
		body := make([]byte, e.length)
		_, err := s.store.bodies.ReadAt(body, e.at)
		s.mu.Lock()
		s.err = errors.Join(s.err, err)
		s.buffer = append(s.buffer, loaded{entry: e, body: body})
		s.bytes += len(body)
		s.buffered++
		full := s.bytes > s.opts.ReadAheadBytes && s.mutant != readsAheadWithoutBound
		s.mu.Unlock()
		select {
		case s.ready <- struct{}{}:
		default:
		}
		for full {
			select {
			case <-s.room:
			case <-s.stop:
				return
			}
			s.mu.Lock()
			full = s.bytes > s.opts.ReadAheadBytes
			s.mu.Unlock()
		}
	}
}

func (s *memorySource) Next(ctx context.Context) (sources.Batch, error) {
	if s.mutant == failsAfterCancel && s.canceled {
		return sources.Batch{}, errors.New("the connection is closed")
	}
	if s.begins && ctx.Err() == nil {
		s.begins = false
		return sources.Batch{Position: s.position()}, nil
	}
	for {
		if ctx.Err() != nil {
			s.canceled = true
			if s.mutant == losesOnCancel {
				s.take()
			}
			return sources.Batch{}, ctx.Err()
		}
		if b, ok, err := s.take(); ok || err != nil {
			return b, err
		}
		if s.mutant == spinsWhenIdle && s.calls > 0 {
			return sources.Batch{Position: s.position()}, nil
		}
		select {
		case <-ctx.Done():
		case <-s.ready:
		}
	}
}

func (s *memorySource) position() sources.Position { return json.RawMessage(strconv.Itoa(s.at)) }

// take makes a batch of what is buffered.
func (s *memorySource) take() (sources.Batch, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || len(s.buffer) == 0 {
		return sources.Batch{}, false, s.err
	}
	s.calls++
	if s.mutant != reusesMemory {
		s.memory = nil
	}
	var b sources.Batch
	size := 0
	for len(s.buffer) > 0 {
		e := s.buffer[0]
		if len(b.Changes) > 0 && size+len(e.body)+8 > s.opts.BatchBytes && s.mutant != overfillsBatches {
			break
		}
		size += len(e.body) + 8
		s.buffer = s.buffer[1:]
		s.bytes -= len(e.body)
		s.at++
		b.Partial = s.transactions && !e.last
		if e.index > 0 && !(s.mutant == losesSilently && s.at%50 == 0) {
			b.Changes = append(b.Changes, s.change(e))
		}
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
	b.Position = s.position()
	b.More = len(s.buffer) > 0
	if s.mutant == reorders && len(b.Changes) > 3 {
		slices.Reverse(b.Changes[1:3])
	}
	if s.mutant == cutsTransactions {
		b.Partial = false
	}
	if s.mutant == reusesMemory && len(b.Changes) > 0 {
		c := &b.Changes[len(b.Changes)-1]
		shared := c.After
		if shared == nil {
			shared = c.Before
		}
		s.reader.Add(1)
		go func() {
			defer s.reader.Done()
			time.Sleep(5 * time.Millisecond)
			shared[0] = sources.Value{Data: []byte("0"), State: sources.Present}
		}()
	}
	return b, len(b.Changes) > 0 || s.mutant != noIdleProgress, nil
}

func (s *memorySource) change(e loaded) sources.Change {
	order := fmt.Sprintf("%016x.%08x", e.transaction, e.index)
	switch {
	case s.mutant == orderOfOtherWidth:
		order = fmt.Sprintf("%x.%x", e.transaction, e.index)
	case s.mutant == sameOrderTwice:
		order = fmt.Sprintf("%016x", e.transaction)
	case s.mutant == otherOrderAfterResume && s.opts.Position != nil:
		order = fmt.Sprintf("%016x.%08x", e.transaction, e.index+1)
	}
	body := sources.Value{Data: e.body, State: sources.Present}
	if e.null && (e.op == sources.OpDelete || s.mutant != nullBecomesEmpty) {
		body = sources.Value{}
	}
	values := []sources.Value{{Data: strconv.AppendInt(nil, e.id, 10), State: sources.Present}, body}
	c := sources.Change{Op: e.op, Table: s.table, After: values, Order: []byte(order), Stamp: uint64(e.transaction),
		Meta: fmt.Appendf(nil, `"transaction":%d`, e.transaction)}
	if s.mutant == noStamp {
		c.Stamp = 0
	}
	if s.transactions {
		c.Transaction = &sources.Transaction{ID: strconv.Itoa(e.transaction)}
		c.TransactionOrder, c.TableOrder = int64(e.index), int64(e.index)
	}
	if e.op == sources.OpDelete {
		c.Before, c.After = values, nil
	}
	return c
}

func (s *memorySource) Durable(p sources.Position) error {
	switch s.mutant {
	case durableBlocks:
		time.Sleep(300 * time.Millisecond)
	case durableMovesPosition:
		var at int
		if err := json.Unmarshal(p, &at); err != nil {
			return err
		}
		s.store.mu.Lock()
		s.store.start = at + 1 // releases one change too many
		s.store.mu.Unlock()
	}
	return nil
}

func (s *memorySource) Close() error {
	close(s.stop)
	if s.mutant != leaksGoroutine {
		s.reader.Wait()
	}
	if s.mutant == fillsClosed && s.canceled {
		return errors.New("already closed")
	}
	return nil
}
