package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// hot is a small table whose rows count their versions, written by several writers at once. The commits of some wait for a
// standby that never comes, until they are released: the stream has them long before anybody can see them.
type hot struct {
	*database
	rows int
	errs chan error // of what runs beside
}

// newHot makes the table on a server of its own.
func newHot(t *testing.T, rows int) *hot {
	server := startServer(t, "synchronous_standby_names = 'absent'", "synchronous_commit = local")
	h := &hot{database: newDatabase(t, server.url), rows: rows, errs: make(chan error, 10)}
	h.exec("CREATE TABLE t (k int PRIMARY KEY, v int NOT NULL, pad text)",
		fmt.Sprintf("INSERT INTO t SELECT n, 0, repeat('x', 100) FROM generate_series(1, %d) n", rows))
	return h
}

// write starts writers, of which every other one waits, and stops them with the test. It releases those that wait until all
// have stopped.
func (h *hot) write(writers int) {
	stopped, stop := context.WithCancel(context.Background())
	released, release := context.WithCancel(context.Background())
	var writing, releasing sync.WaitGroup
	for n := range writers {
		writing.Go(func() { h.errs <- h.writer(stopped, n, n%2 == 0) })
	}
	releasing.Go(func() { h.errs <- h.release(released) })
	h.t.Cleanup(func() {
		stop()
		writing.Wait()
		release()
		releasing.Wait()
		for range writers + 1 {
			if err := <-h.errs; err != nil {
				h.t.Error(err)
			}
		}
	})
}

// writer updates rows that others update too.
func (h *hot) writer(ctx context.Context, seed int, waits bool) error {
	conn, err := pgx.Connect(context.Background(), h.url)
	if err != nil {
		return err
	}
	defer func() { _ = closeConn(conn) }()
	if waits {
		if _, err := conn.Exec(context.Background(), "SET synchronous_commit = on; SET client_min_messages = error"); err != nil {
			return err
		}
	}
	for n := seed; ctx.Err() == nil; n += 7 {
		// A release may hit what comes after the wait: then nothing has happened.
		_, err := conn.Exec(context.Background(), "UPDATE t SET v = v + 1 WHERE k = $1", n*31%h.rows+1)
		if err != nil && codeOf(err) != "57014" {
			return err
		}
	}
	return nil
}

// release ends the waits, each after some milliseconds.
func (h *hot) release(ctx context.Context) error {
	conn, err := pgx.Connect(context.Background(), h.url)
	if err != nil {
		return err
	}
	defer func() { _ = closeConn(conn) }()
	for ctx.Err() == nil {
		_, err := conn.Exec(context.Background(), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND random() < 0.2`)
		if err != nil {
			return err
		}
		time.Sleep(3 * time.Millisecond)
	}
	return nil
}

// pending is a chunk that the stream has yet to pass.
type pending struct {
	*sources.Chunk
	low lsn // of a mark before the read
}

// streamed is an update that the stream has brought.
type streamed struct {
	stamp uint64
	order string
}

// interleaving judges each row of a chunk at the moment when it would be put into the stream.
type interleaving struct {
	t        *testing.T
	versions map[string]int // as the stream has them
	ring     map[string][]streamed
	waiting  []pending

	chunks, rows, dropped, naive int
}

func (i *interleaving) batch(b sources.Batch) {
	for _, c := range b.Changes {
		key, v := i.row(c.After)
		if v != i.versions[key]+1 {
			i.t.Fatalf("version %d of row %s comes after %d", v, key, i.versions[key])
		}
		i.versions[key] = v
		i.ring[key] = append(i.ring[key], streamed{c.Stamp, string(c.Order)})
	}
	for len(i.waiting) > 0 {
		passed, err := i.waiting[0].View.Passed(b.Position)
		if err != nil {
			i.t.Fatal(err)
		}
		if !passed {
			return
		}
		i.judge(i.waiting[0])
		i.waiting = i.waiting[1:]
	}
}

func (i *interleaving) row(values []sources.Value) (key string, v int) {
	v, err := strconv.Atoi(string(values[1].Data))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(values[0].Data), v
}

func (i *interleaving) judge(p pending) {
	i.chunks++
	low := string(appendOrder(nil, p.low, 0))
	for _, row := range p.Rows {
		i.rows++
		key, v := i.row(row)
		unseen, dropNaive := 0, false
		for _, e := range i.ring[key] {
			if !p.View.Sees(e.stamp) {
				unseen++
			}
			dropNaive = dropNaive || e.order > low
		}
		switch {
		case v != i.versions[key]-unseen: // where it is dropped too, the row is what the view says
			i.t.Errorf("row %s is read with version %d, and the view sees all but %d of %d", key, v, unseen, i.versions[key])
		case unseen > 0:
			i.dropped++
		}
		if !dropNaive && v < i.versions[key] {
			i.naive++
		}
	}
}

// TestChunkExact chunks a hot table beside the stream. A row that is put into the stream when no change of it is there that
// the View does not see, is the newest version there. By low and high marks alone, which the same chunks are also judged by, some are older
// than what the stream has brought before: if none is, the test has not tested anything.
func TestChunkExact(t *testing.T) {
	seconds := 3
	if text := os.Getenv("WEFT_TEST_CHUNK_SECONDS"); text != "" {
		var err error
		if seconds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	h := newHot(t, 300)
	o := h.options("public.t")
	s := h.open(h.config(), o)
	h.write(6)
	i := &interleaving{t: t, versions: map[string]int{}}
	for restarts := range seconds {
		o.Position = s.position
		if restarts > 0 { // where nothing is left but what the position holds
			s.close()
			s = h.reopen(h.config(), o)
		}
		i.ring, i.waiting = map[string][]streamed{}, nil
		r := h.reader(h.config(), o)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		chunks, reading := make(chan pending, 4), make(chan error, 1)
		go func() { reading <- h.readAll(ctx, r, chunks) }()
		var err error
		for running := true; running || len(chunks)+len(i.waiting) > 0; {
			b := s.next()
			for len(chunks) > 0 {
				i.waiting = append(i.waiting, <-chunks)
			}
			i.batch(b)
			s.durable(b.Position)
			select {
			case err = <-reading:
				running = false
			default:
			}
		}
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d chunks of %d rows, %d dropped; stale by low and high marks alone: %d", i.chunks, i.rows, i.dropped, i.naive)
	if i.naive == 0 {
		t.Error("low and high marks alone would have been exact: the test is void")
	}
	if i.chunks < 10*seconds || i.dropped == 0 {
		t.Errorf("only %d chunks, %d rows dropped", i.chunks, i.dropped)
	}
}

// readAll reads the table again and again until ctx ends.
func (h *hot) readAll(ctx context.Context, r *rowReader, out chan<- pending) error {
	q := sources.ChunkRequest{Table: "public.t", Rows: h.rows / 4, Bytes: 1 << 20}
	for ctx.Err() == nil {
		low, err := r.mark(ctx)
		if err != nil {
			return ended(ctx, err)
		}
		c, err := r.ReadChunk(ctx, q)
		if err != nil {
			return ended(ctx, err)
		}
		q.After = c.Next
		select {
		case out <- pending{c, low}:
		case <-ctx.Done():
		}
	}
	return nil
}

// ended drops the error of a read that was stopped.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || codeOf(err) == "57014") {
		return nil
	}
	return err
}

// TestChunkAfterRestart: a commit is streamed and nobody can see it, since a standby is stalled. A reader that opens then,
// with the position alone, waits until it is visible rather than read the row that the stream has left behind.
func TestChunkAfterRestart(t *testing.T) {
	h := newHot(t, 3)
	o := h.options("public.t")
	s := h.open(h.config(), o)
	stalled, err := pgx.Connect(context.Background(), h.with("synchronous_commit", "on"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closeConn(stalled) }()
	committed := make(chan error, 1)
	go func() {
		_, err := stalled.Exec(context.Background(), "UPDATE t SET v = 7 WHERE k = 2")
		committed <- err
	}()
	equal(t, s.take(1), "u public.t [k] -> k=2 v=7 pad=xxxx...(100)")
	time.Sleep(2 * seenInterval) // a look does not clear what is not visible
	h.exec("UPDATE t SET v = 8 WHERE k = 3")
	equal(t, s.take(1), "u public.t [k] -> k=3 v=8 pad=xxxx...(100)")
	if v := h.one("SELECT v::text FROM t WHERE k = 2"); v != "0" {
		t.Fatalf("the stalled commit is visible: %s", v)
	}
	s.durable(s.position)
	s.close()
	o.Position = s.position
	s = h.reopen(h.config(), o)
	var log logBuffer
	o.Logger = log.logger()
	r := h.reader(h.config(), o)
	r.patience = 100 * time.Millisecond
	read := make(chan *sources.Chunk, 1)
	go func() {
		c, err := h.tryChunk(r, sources.ChunkRequest{Table: "public.t", Rows: 10, Bytes: 1 << 20})
		if err != nil {
			t.Error(err)
		}
		read <- c
	}()
	log.wait(t, "reading table public.t waits for transactions that were captured and are not visible yet")
	select {
	case c := <-read:
		t.Fatalf("the read did not wait: %s", rowLines(c))
	default:
	}
	h.exec("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	c := <-read
	equal(t, rowLines(c), "r public.t [k] -> k=1 v=0 pad=xxxx...(100)", "r public.t [k] -> k=2 v=7 pad=xxxx...(100)",
		"r public.t [k] -> k=3 v=8 pad=xxxx...(100)")
	// The stream comes to the mark at once, although nothing else is written.
	begun := time.Now()
	for {
		b := s.next()
		if len(b.Changes) > 0 || b.Partial {
			t.Errorf("a batch of %d changes", len(b.Changes))
		}
		passed, err := c.View.Passed(b.Position)
		if err != nil {
			t.Fatal(err)
		}
		if passed {
			break
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("the stream took %s to come to the mark", took)
	}
	// Once all is visible, positions say nothing of it.
	time.Sleep(2 * seenInterval)
	h.exec("INSERT INTO t VALUES (9, 9)")
	if b := s.next(); len(b.Changes) != 1 {
		t.Errorf("%d changes", len(b.Changes))
	}
	p, err := decodePosition(s.position)
	if err != nil || p.Unseen == nil || len(p.Unseen.Also) > 3 || p.Unseen.To != 0 || p.Since == 0 {
		t.Errorf("position %s: %v", s.position, err)
	}
}
