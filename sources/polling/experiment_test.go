package polling

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/sources"
)

// The experiment: writers whose transactions commit in another order than they began, some of them long, some prepared, some
// with savepoints, many of several rows. The source must fold to the table; a poller that asks for `updated_at > last`
// runs beside it and must not, or the load shows nothing.
type experiment struct {
	source sources.Source
	// dial opens a connection of a writer: a function that runs a statement.
	dial func(ctx context.Context) (exec func(statement string) error, close func(), err error)
	// begin, prepare and commitPrepared are the statements of a transaction by name; upsert writes a row.
	upsert                                   func(id int, body string) string
	begin, prepare, prepared, commitPrepared func(name string) []string
	// naive returns the rows that were updated after a time, and the newest time.
	naive func(ctx context.Context, after string) (rows map[string]string, last string, err error)
	table func(ctx context.Context) (map[string]string, error)
}

const experimentWriters = 8

// experimentChanges is how many rows are written: few, unless WEFT_EXPERIMENT_CHANGES says otherwise.
func experimentChanges(t *testing.T) int64 {
	text := os.Getenv("WEFT_EXPERIMENT_CHANGES")
	if text == "" {
		return 2000
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("WEFT_EXPERIMENT_CHANGES: %v", err)
	}
	return n
}

// run expects that no key is wrong, and nothing read more often than it was written.
func (e *experiment) run(t *testing.T) {
	if got := e.measure(t); got.wrong > 0 || got.read > got.written {
		t.Errorf("%d keys are wrong, and %d rows were read for %d written", got.wrong, got.read, got.written)
	}
}

// measured is what an experiment has found. Keys are wrong that the source folds to another row than the table has.
type measured struct {
	written, read int64
	wrong         int
	longest       time.Duration // of the transactions
}

func (e *experiment) measure(t *testing.T) measured {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	limit := experimentChanges(t)
	var written, names, longest atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, experimentWriters+1)
	for i := range experimentWriters {
		wg.Go(func() { errs[i] = e.write(ctx, i, limit, &written, &names, &longest) })
	}
	stop := make(chan struct{})
	naive := map[string]string{}
	var other sync.WaitGroup
	other.Go(func() { errs[experimentWriters] = e.pollNaively(ctx, naive, stop) })
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	folded := map[string]string{}
	var read int64
	// At the end it waits for what others, who use the server too, may hold back. What is lost does not come.
	behind := func() bool {
		table, err := e.table(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return differing(table, folded) > 0
	}
	for ended, quiet := false, 0; !ended || quiet < 3 || quiet < 100 && behind(); {
		polled := e.source.(*source)
		polled.pollAt = time.Time{} // each poll looks, however soon after the last
		b, err := polled.poll(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			folded[string(c.After[0].Data)] = string(c.After[1].Data)
			read++
		}
		quiet++
		if len(b.Changes) > 0 {
			quiet = 0
		} else {
			time.Sleep(100 * time.Millisecond)
		}
		select {
		case <-done:
			ended = true
		default:
		}
	}
	close(stop)
	other.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	table, err := e.table(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wrong, lost := differing(table, folded), differing(table, naive)
	t.Logf("%d rows written to %d keys in transactions of up to %s; wrong keys: %d, %.2f rows read a row written; `updated_at > last`: %d wrong keys",
		written.Load(), len(table), time.Duration(longest.Load()).Round(time.Millisecond), wrong, float64(read)/float64(written.Load()), lost)
	if lost == 0 {
		t.Error("naive polling has lost nothing, so this run shows nothing")
	}
	return measured{written: written.Load(), read: read, wrong: wrong, longest: time.Duration(longest.Load())}
}

func differing(table, folded map[string]string) int {
	n := 0
	for id, body := range table {
		if folded[id] != body {
			n++
		}
	}
	for id := range folded {
		if _, ok := table[id]; !ok {
			n++
		}
	}
	return n
}

// write is one writer. Its rows are its own, so that nobody waits for a lock.
func (e *experiment) write(ctx context.Context, writer int, limit int64, written, names, longest *atomic.Int64) error {
	exec, closeConn, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer closeConn()
	r := rand.New(rand.NewPCG(uint64(writer), uint64(limit)))
	for written.Load() < limit {
		rows := func(n int) []string {
			var statements []string
			for range n {
				id := writer + experimentWriters*r.IntN(int(limit/experimentWriters))
				statements = append(statements, e.upsert(id, fmt.Sprintf("w%d %d", writer, written.Add(1))))
			}
			return statements
		}
		name := fmt.Sprintf("weft-%d", names.Add(1))
		var first, second []string
		pause := time.Duration(0)
		kind := r.IntN(100)
		switch {
		case kind < 2:
			first = append(append(e.prepare(name), rows(1+r.IntN(4))...), e.prepared(name)...)
			second, pause = e.commitPrepared(name), time.Duration(300+r.IntN(700))*time.Millisecond
		case kind < 7:
			first, second = append(e.begin(name), rows(1+r.IntN(4))...), append(rows(1), "COMMIT")
			pause = time.Duration(500+r.IntN(1000)) * time.Millisecond
		case kind < 15:
			first = append(append(e.begin(name), rows(1)...), "SAVEPOINT a")
			first = append(append(first, rows(1)...), "RELEASE SAVEPOINT a", "SAVEPOINT b")
			second = append(rows(2), "COMMIT")
		case kind < 50:
			first, second = append(e.begin(name), rows(2+r.IntN(6))...), []string{"COMMIT"}
		default:
			first = rows(1)
		}
		began := time.Now()
		for _, statement := range first {
			if err := exec(statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		time.Sleep(pause)
		for _, statement := range second {
			if err := exec(statement); err != nil {
				return fmt.Errorf("%s: %w", statement, err)
			}
		}
		for took := int64(time.Since(began)); ; {
			if before := longest.Load(); took <= before || longest.CompareAndSwap(before, took) {
				break
			}
		}
	}
	return nil
}

func (e *experiment) pollNaively(ctx context.Context, folded map[string]string, stop chan struct{}) error {
	last := ""
	for last2 := false; ; {
		rows, newest, err := e.naive(ctx, last)
		if err != nil {
			return err
		}
		for id, body := range rows {
			folded[id] = body
		}
		if newest != "" {
			last = newest
		}
		if last2 {
			return nil
		}
		select {
		case <-stop:
			last2 = true
		case <-time.After(20 * time.Millisecond):
		}
	}
}
