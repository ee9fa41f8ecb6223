package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink"
	"weft/sink/embedded"
	"weft/sources"
)

// script is a datastore: transactions of n changes each, in a fixed order. Its position is the number of changes returned.
type script struct {
	transactions []int
	// batch is the most changes of a batch.
	batch int
	// fail is asked before each Next; an error that it gives is Next's.
	fail func(at int) error
	// openErr is Open's error, once.
	openErr error
	// alwaysMore: batches say that there are more, also the last.
	alwaysMore bool
	// pause is before each batch, which then says that there is no more, and behind what it says of itself.
	pause  time.Duration
	behind bool

	mu      sync.Mutex
	durable []int
	opened  []string
	closed  int
}

func (s *script) Connector() string { return "script" }
func (s *script) Validate() error   { return nil }

func (s *script) Open(_ context.Context, o sources.OpenOptions) (sources.Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened = append(s.opened, string(o.Position))
	if err := s.openErr; err != nil {
		s.openErr = nil
		return nil, err
	}
	at := 0
	if o.Position != nil {
		if err := json.Unmarshal(o.Position, &at); err != nil {
			return nil, err
		}
	}
	return &scripted{script: s, at: at}, nil
}

func (s *script) total() (n int) {
	for _, t := range s.transactions {
		n += t
	}
	return n
}

type scripted struct {
	*script
	at int
}

var table = &sources.Table{
	Name: "t", Key: []int{0},
	Columns: []sources.Column{{Name: "id", Type: sources.Type{Kind: sources.Int}}, {Name: "v", Type: sources.Type{Kind: sources.Int}}},
}

func (s *scripted) Next(ctx context.Context) (sources.Batch, error) {
	if s.fail != nil {
		if err := s.fail(s.at); err != nil {
			return sources.Batch{}, err
		}
	}
	end, total := 0, s.total()
	if s.at >= total {
		<-ctx.Done()
		return sources.Batch{}, ctx.Err()
	}
	for _, n := range s.transactions { // the end of the transaction that at is in
		if end += n; end > s.at {
			break
		}
	}
	select {
	case <-time.After(s.pause):
	case <-ctx.Done():
		return sources.Batch{}, ctx.Err()
	}
	var b sources.Batch
	for ; s.at < end && len(b.Changes) < s.batch; s.at++ {
		b.Changes = append(b.Changes, sources.Change{
			Op: sources.OpCreate, Table: table, Order: fmt.Appendf(nil, "%08d", s.at),
			After: []sources.Value{{State: sources.Present, Data: fmt.Appendf(nil, "%d", s.at%10)}, {State: sources.Present, Data: fmt.Appendf(nil, "%d", s.at)}},
		})
	}
	b.Partial, b.More, b.Behind = s.at < end, s.pause == 0 && s.at < total || s.alwaysMore, s.behind
	b.Position = fmt.Appendf(nil, "%d", s.at)
	return b, nil
}

func (s *scripted) Durable(p sources.Position) error {
	var at int
	if err := json.Unmarshal(p, &at); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = append(s.durable, at)
	return nil
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func fake(t *testing.T) *sink.Log {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &sink.Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}
}

func capture(s *script, l *sink.Log) *Capture {
	return &Capture{
		Name: "c", Source: s, BatchBytes: 1 << 20, ReadAheadBytes: 1 << 20, CommitBytes: l.CommitBytes, CommitInterval: time.Second,
		Logger: hclog.NewNullLogger(),
		Writer: sink.Options{
			Log: l, Capture: "c", Connector: "script", Version: "test",
			Topics: sink.Topics{Prefix: "p", Partitions: 2, Replication: -1, Cleanup: "delete", Create: true},
		},
	}
}

// delivered returns the values of the topic in order of their sequence, and fails on a sequence that is there twice.
func delivered(t *testing.T, l *sink.Log) []int {
	t.Helper()
	cl, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	bySeq := map[string]int{}
	last := map[string]string{}
	err = checkpoint.ScanAll(t.Context(), cl, "p.t", func(r *kgo.Record) error {
		seq := string(r.Headers[0].Value)
		if _, twice := bySeq[seq]; twice {
			return fmt.Errorf("sequence %s is there twice", seq)
		}
		if seq <= last[string(r.Key)] {
			return fmt.Errorf("key %s: %s after %s", r.Key, seq, last[string(r.Key)])
		}
		last[string(r.Key)] = seq
		var e struct{ After struct{ V int } }
		if err := json.Unmarshal(r.Value, &e); err != nil {
			return err
		}
		bySeq[seq] = e.After.V
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	values := make([]int, 0, len(bySeq))
	for _, v := range bySeq {
		values = append(values, v)
	}
	return values
}

// run runs the capture until done says so.
func run(t *testing.T, c *Capture, done func(Progress) bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := c.Run(ctx, func(p Progress) {
		if done(p) {
			cancel()
		}
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal("not done within 30 s")
	}
	return err
}

func at(n int) func(Progress) bool {
	return func(p Progress) bool { return string(p.Position) == fmt.Sprint(n) }
}

func TestDeliversAndResumes(t *testing.T) {
	l := fake(t)
	s := &script{transactions: []int{1, 5, 2}, batch: 3}
	c := capture(s, l)
	if err := run(t, c, at(8)); err != nil {
		t.Fatal(err)
	}
	s.transactions = append(s.transactions, 4)
	if err := run(t, c, at(12)); err != nil {
		t.Fatal(err)
	}
	if got := delivered(t, l); len(got) != 12 {
		t.Errorf("%d changes arrived, not 12", len(got))
	}
	if fmt.Sprintf("%q", s.opened) != `["" "8"]` || s.closed != 2 {
		t.Errorf("opened at %q, closed %d times", s.opened, s.closed)
	}
	// Nothing was ready behind changes 8 and 12, and no commit was due before.
	if fmt.Sprint(s.durable) != "[8 12]" {
		t.Errorf("told the source %v", s.durable)
	}
}

// A transaction is cut only when it alone is above the bound.
func TestCommitBounds(t *testing.T) {
	l := fake(t)
	l.CommitBytes = 4000 // about ten records
	s := &script{transactions: []int{4, 4, 4, 4, 4, 100, 1}, batch: 2}
	if err := run(t, capture(s, l), at(121)); err != nil {
		t.Fatal(err)
	}
	ends := map[int]bool{4: true, 8: true, 12: true, 16: true, 20: true, 120: true, 121: true}
	cut := 0
	for _, d := range s.durable {
		if !ends[d] && (d < 20 || d > 120) {
			t.Errorf("committed at %d, inside a transaction of 4 changes; all: %v", d, s.durable)
		}
		if !ends[d] {
			cut++
		}
	}
	if cut < 3 {
		t.Errorf("a transaction of 100 changes, bound at about 10, was committed in %d parts: %v", cut+1, s.durable)
	}
}

// Of a backlog that arrives bit by bit there are few commits, and its end is committed soon.
func TestBacklogIsGathered(t *testing.T) {
	for behind, want := range map[bool]func(commits int) bool{
		true: func(n int) bool { return n <= 4 }, false: func(n int) bool { return n >= 10 },
	} {
		l := fake(t)
		s := &script{transactions: slices.Repeat([]int{1}, 40), batch: 1, pause: 10 * time.Millisecond, behind: behind}
		c := capture(s, l)
		c.CommitInterval = 10 * time.Second
		if err := run(t, c, at(40)); err != nil {
			t.Fatal(err)
		}
		if !want(len(s.durable)) {
			t.Errorf("behind %t: %d commits: %v", behind, len(s.durable), s.durable)
		}
	}
}

// A source may say that it has more ready, and then find that nothing of it is for the capture.
func TestCommitIntervalWithoutMore(t *testing.T) {
	l := fake(t)
	s := &script{transactions: []int{1}, batch: 1, alwaysMore: true}
	c := capture(s, l)
	c.CommitInterval = 300 * time.Millisecond
	began := time.Now()
	if err := run(t, c, at(1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > openPartial/2 {
		t.Errorf("a whole transaction was committed after %s", took)
	}
}

func TestStopCommitsWhatIsWritten(t *testing.T) {
	l := fake(t)
	s := &script{transactions: []int{10}, batch: 3}
	ctx, cancel := context.WithCancel(t.Context())
	s.fail = func(at int) error {
		if at == 6 { // inside the transaction, nothing committed so far
			cancel()
			return ctx.Err()
		}
		return nil
	}
	if err := capture(s, l).Run(ctx, func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(s.durable) != "[6]" {
		t.Errorf("committed %v", s.durable)
	}
}

func TestGapStopsOrContinues(t *testing.T) {
	for _, opening := range []bool{true, false} {
		t.Run(fmt.Sprintf("opening=%v", opening), func(t *testing.T) {
			l := fake(t)
			s := &script{transactions: []int{10}, batch: 2}
			gap := &sources.GapError{Reason: "lost", Remedy: "look", Resume: sources.Position(`8`)}
			arm := func() {
				if opening {
					s.openErr = gap
					return
				}
				s.fail = func(at int) error {
					if at == 4 {
						return gap
					}
					return nil
				}
			}
			arm()
			c := capture(s, l)
			if err := run(t, c, at(10)); !needsSomebody(err) || !strings.Contains(err.Error(), "lost") {
				t.Fatalf("a gap gave %v", err)
			}
			arm()
			c.ContinueAfterGap = true
			if err := run(t, c, at(10)); err != nil {
				t.Fatal(err)
			}
			want := 2 // 8 and 9
			if !opening {
				want += 4 // what came before the gap is good
			}
			if got := delivered(t, l); len(got) != want {
				t.Errorf("delivered %v, want %d", got, want)
			}
		})
	}
}

// A source that reports the same gap again and again must not fill the log with epochs.
func TestGapAfterGapStops(t *testing.T) {
	l := fake(t)
	s := &script{transactions: []int{10}, batch: 2}
	s.fail = func(int) error {
		return &sources.GapError{Reason: "lost", Remedy: "look", Resume: sources.Position(`0`)}
	}
	c := capture(s, l)
	c.ContinueAfterGap = true
	if err := run(t, c, at(10)); !needsSomebody(err) || !strings.Contains(err.Error(), "gone over") {
		t.Fatalf("gap after gap gave %v", err)
	}
	if len(s.opened) != 2 {
		t.Errorf("the source was opened %d times", len(s.opened))
	}
}

// Whatever fails, and however often, each change is delivered once and in order.
func TestFailuresAtRandom(t *testing.T) {
	logs := map[string]func() *sink.Log{
		"transactions": func() *sink.Log { return fake(t) },
		"sequenced": func() *sink.Log {
			e, err := embedded.Open(embedded.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", MaxRecordBytes: 16 << 20})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			return &sink.Log{Brokers: []string{e.Addr}, Profile: "embedded"}
		},
	}
	for name, newLog := range logs {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			l := newLog()
			l.CommitBytes = 2000
			s := &script{batch: 7}
			for range 60 {
				s.transactions = append(s.transactions, 1+rnd.IntN(20))
			}
			failures := 0
			s.fail = func(int) error {
				if rnd.IntN(8) == 0 {
					failures++
					return errors.New("the connection is lost")
				}
				return nil
			}
			c := capture(s, l)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			for finished := false; !finished; {
				err := c.Run(ctx, func(p Progress) {
					if at(s.total())(p) {
						finished = true
						cancel()
					}
				})
				if !finished && (err == nil || !strings.Contains(err.Error(), "the connection is lost")) {
					t.Fatal(err)
				}
			}
			if got := delivered(t, l); len(got) != s.total() {
				t.Errorf("%d of %d changes arrived", len(got), s.total())
			}
			if failures < 5 {
				t.Errorf("only %d failures: the test shows nothing", failures)
			}
		})
	}
}

// Confirm is asked when nobody else can write for the capture any more, and nothing is opened if it refuses.
func TestConfirm(t *testing.T) {
	s := &script{transactions: []int{1}, batch: 1}
	c := capture(s, fake(t))
	former, err := sink.Open(t.Context(), c.Writer)
	if err != nil {
		t.Fatal(err)
	}
	defer former.Close()
	refused := errors.New("it is being removed")
	c.Confirm = func(ctx context.Context) error {
		if err := former.Commit(ctx, sources.Position("1"), true); !errors.Is(err, sink.ErrFenced) {
			t.Errorf("the former writer's commit gave %v", err)
		}
		return refused
	}
	if err := c.Run(t.Context(), func(Progress) {}); !errors.Is(err, refused) || len(s.opened) > 0 {
		t.Errorf("Run gave %v, having opened %v", err, s.opened)
	}
}
