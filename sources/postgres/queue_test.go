package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weft/sources/postgres/pgoutput"
)

// TestQueue puts and takes at random: every frame arrives once and in order, what was taken stays as it is until release,
// and what is not taken stays within the bound.
func TestQueue(t *testing.T) {
	const bound, frames = 64 << 10, 20_000
	q := newQueue(bound)
	random := rand.New(rand.NewPCG(1, 2))
	data := func(i int) []byte {
		size := i * 7919 % 700
		if i%1000 == 999 {
			size = 3 * bound // beyond every bound
		}
		return bytes.Repeat([]byte{byte(i)}, size+1)
	}
	type taken struct {
		frame frame
		i     int
	}
	var held []taken
	put, got := 0, 0
	for got < frames {
		for range random.IntN(100) {
			if put == frames || !q.put(frame{walStart: lsn(put), data: data(put)}, 'I') {
				break
			}
			put++
		}
		if q.unread > bound && q.unread > len(data(got))+frameOverhead {
			t.Fatalf("%d bytes are waiting", q.unread)
		}
		for range random.IntN(100) {
			f, ok, err := q.peek()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			q.advance()
			held = append(held, taken{f, got})
			got++
		}
		if random.IntN(3) == 0 {
			for _, h := range held {
				if h.frame.walStart != lsn(h.i) || !bytes.Equal(h.frame.data, data(h.i)) {
					t.Fatalf("frame %d was changed while it was in use", h.i)
				}
			}
			held = held[:0]
			q.release()
		}
	}
	memory := 0
	for _, s := range append(q.free, q.segments...) {
		memory += cap(s.buf)
	}
	if memory > 2*bound+3*bound+q.segmentSize {
		t.Errorf("the queue keeps %d bytes", memory)
	}
}

// take takes the next frame, which must be there.
func take(t *testing.T, q *queue) {
	t.Helper()
	if _, ok, err := q.peek(); !ok || err != nil {
		t.Fatalf("no frame: %v", err)
	}
	q.advance()
}

func TestQueueBound(t *testing.T) {
	q := newQueue(1000)
	if !q.put(frame{data: make([]byte, 5000)}, 'I') {
		t.Fatal("an empty queue refuses a frame")
	}
	if q.put(frame{data: []byte("x")}, 'I') {
		t.Fatal("a full queue takes a frame")
	}
	if end, _ := q.idleAt(); end != 0 {
		t.Errorf("idle at %s while a frame waits", end)
	}
	q.keepalive(77, true)
	if end, pressed := q.idleAt(); end != 0 || pressed {
		t.Errorf("idle at %s, pressed %t, while a frame waits", end, pressed)
	}
	take(t, q)
	if !q.put(frame{data: []byte("x")}, 'I') {
		t.Error("a queue refuses a frame after the one that filled it was taken")
	}
	take(t, q)
	if end, pressed := q.idleAt(); end != 77 || !pressed {
		t.Errorf("idle at %s, pressed %t", end, pressed)
	}
}

// TestQueueTransactionSize: a Begin tells its transaction's size once the Commit is there.
func TestQueueTransactionSize(t *testing.T) {
	q := newQueue(1 << 20)
	size := func() int {
		f, ok, _ := q.peek()
		if !ok || f.data[0] != pgoutput.KindBegin {
			t.Fatal("the next frame is no Begin")
		}
		return f.txSize
	}
	put := func(kind byte, n int) { q.put(frame{data: append([]byte{kind}, make([]byte, n-1)...)}, kind) }
	put(pgoutput.KindBegin, 21)
	put(pgoutput.KindInsert, 100)
	if n := size(); n != 0 {
		t.Errorf("size %d before the Commit is there", n)
	}
	put(pgoutput.KindCommit, 26)
	if n := size(); n != 101 {
		t.Errorf("size %d", n)
	}
	for range 3 {
		take(t, q)
	}
	// A Begin that was taken before its Commit came must not change another frame.
	put(pgoutput.KindBegin, 21)
	take(t, q)
	q.release()
	put(pgoutput.KindInsert, 100)
	put(pgoutput.KindCommit, 26)
	for f, ok, _ := q.peek(); ok; f, ok, _ = q.peek() {
		if f.txSize != 0 {
			t.Errorf("frame %c has size %d", f.data[0], f.txSize)
		}
		q.advance()
	}
}

// TestQueueWakes: whoever waits is woken by what it can go on with: the end of a transaction, much of one, a queue that is full, and
// what is in none.
func TestQueueWakes(t *testing.T) {
	const bound = 64 << 10 // a segment is an eighth
	type put struct {
		kind  byte
		size  int
		wakes bool
	}
	for name, puts := range map[string][]put{
		"transaction": {{pgoutput.KindBegin, 21, false}, {pgoutput.KindInsert, 100, false}, {pgoutput.KindCommit, 26, true}, {pgoutput.KindBegin, 21, false}},
		"large":       {{pgoutput.KindBegin, 21, false}, {pgoutput.KindInsert, bound / 8, true}},
		"full":        {{pgoutput.KindBegin, 21, false}, {pgoutput.KindInsert, bound, true}},
		"message":     {{pgoutput.KindMessage, 21, true}},
	} {
		q := newQueue(bound)
		for i, p := range puts {
			q.put(frame{data: append([]byte{p.kind}, make([]byte, p.size-1)...)}, p.kind)
			select {
			case <-q.ready:
				if !p.wakes {
					t.Errorf("%s: frame %d wakes", name, i)
				}
			default:
				if p.wakes {
					t.Errorf("%s: frame %d does not wake", name, i)
				}
			}
		}
	}
}

func TestQueueClose(t *testing.T) {
	q := newQueue(1000)
	why := errors.New("why")
	q.put(frame{walStart: 1, data: []byte("x")}, 'I')
	q.close(why)
	if _, ok, err := q.peek(); !ok || err != nil {
		t.Errorf("the frame before the close: %t, %v", ok, err)
	}
	q.advance()
	if _, ok, err := q.peek(); ok || !errors.Is(err, why) {
		t.Errorf("after it: %t, %v", ok, err)
	}
	stop := make(chan struct{})
	close(stop)
	began := time.Now()
	<-q.space
	q.awaitSpace(time.Minute, stop)
	if time.Since(began) > time.Second {
		t.Error("a wait for space outlives its stop")
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, size := range []int{50, 500} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			q := newQueue(1 << 20)
			data := make([]byte, size)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				q.put(frame{data: data}, 'I')
				if _, ok, _ := q.peek(); ok {
					q.advance()
				}
				if i%1000 == 0 {
					q.release()
				}
			}
		})
	}
}
