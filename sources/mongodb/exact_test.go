package mongodb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

// hotDocuments are few, and each writer has its own, whose versions it counts.
const hotDocuments, hotWriters = 300, 4

// exactness judges each row of a chunk at the moment when it would be put into the stream.
type exactness struct {
	t        *testing.T
	versions map[string]int // as the stream has them
	stamps   map[string][]uint64
	waiting  []*sources.Chunk

	chunks, rows, dropped int
}

// version reads the document's counter.
func version(v sources.Value) (n int, err error) {
	_, text, _ := strings.Cut(string(v.Data), `"v":`)
	_, err = fmt.Sscanf(text, "%d", &n)
	return n, err
}

func (e *exactness) batch(b sources.Batch) {
	for _, c := range b.Changes {
		key := string(c.After[0].Data)
		v, err := version(c.After[1])
		if err != nil || v != e.versions[key]+1 {
			e.t.Fatalf("version %d of document %s comes after %d (%v)", v, key, e.versions[key], err)
		}
		e.versions[key] = v
		e.stamps[key] = append(e.stamps[key], c.Stamp)
	}
	for len(e.waiting) > 0 {
		passed, err := e.waiting[0].View.Passed(b.Position)
		if err != nil {
			e.t.Fatal(err)
		}
		if !passed {
			return
		}
		e.judge(e.waiting[0])
		e.waiting = e.waiting[1:]
	}
}

func (e *exactness) judge(c *sources.Chunk) {
	e.chunks++
	high := c.View.(view).high
	for _, row := range c.Rows {
		e.rows++
		key := string(row[0].Data)
		v, err := version(row[1])
		if err != nil {
			e.t.Fatal(err)
		}
		unseen, later := 0, 0
		for _, stamp := range e.stamps[key] {
			if !c.View.Sees(stamp) {
				unseen++
			}
			if stamp > high {
				later++
			}
		}
		switch newest := e.versions[key]; {
		case v < newest-unseen || v > newest-later:
			e.t.Errorf("document %s is read with version %d; the stream has %d, of which the view does not see %d, and %d came later", key, v, newest, unseen, later)
		case unseen > 0:
			e.dropped++
		}
	}
}

// TestChunkExact chunks documents that are written to all the time beside the stream: a row that is put into the stream, since no change
// of it is there that the view does not see, is the newest version there, also when the stream is opened anew.
func TestChunkExact(t *testing.T) {
	t.Parallel()
	url := testServer(t)
	db := testDatabase(t, url)
	items := db.Collection("items")
	if err := db.CreateCollection(t.Context(), "items"); err != nil {
		t.Fatal(err)
	}
	config := Config{URL: url, idle: time.Hour}
	f := fake{t: t}
	o := f.options()
	o.Tables = []string{db.Name() + ".items"}
	src, err := config.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.Position = f.next(src).Position

	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	failed := make(chan error, hotWriters)
	for w := range hotWriters {
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				id := n%(hotDocuments/hotWriters)*hotWriters + w
				v := n/(hotDocuments/hotWriters) + 1
				doc := bson.D{{Key: "_id", Value: id}, {Key: "v", Value: v}}
				var err error
				if v == 1 {
					_, err = items.InsertOne(context.WithoutCancel(ctx), doc)
				} else {
					_, err = items.ReplaceOne(context.WithoutCancel(ctx), doc[:1], doc)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	defer func() {
		stop()
		writing.Wait()
	}()
	e := &exactness{t: t, versions: map[string]int{}}
	for restart := range 3 {
		if restart > 0 {
			if err := src.Close(); err != nil {
				t.Fatal(err)
			}
			if src, err = config.Open(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		e.stamps, e.waiting = map[string][]uint64{}, nil
		r, err := config.OpenReader(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		chunks, ended := make(chan *sources.Chunk, 4), make(chan error, 1)
		reading, cancel := context.WithTimeout(t.Context(), time.Second)
		go func() { ended <- chunkAll(reading, r, o.Tables[0], chunks) }()
		for open := true; open || len(e.waiting) > 0; {
			next, done := context.WithTimeout(t.Context(), 20*time.Millisecond)
			b, err := src.Next(next)
			done()
			for more := true; more; { // those that are there before the batch is judged are of its time or later
				select {
				case c, ok := <-chunks:
					if open = ok; ok {
						e.waiting = append(e.waiting, c)
					}
					more = ok
				default:
					more = false
				}
			}
			switch {
			case err == nil:
				o.Position = append(sources.Position(nil), b.Position...)
				e.batch(b)
			case !errors.Is(err, context.DeadlineExceeded):
				t.Fatal(err)
			}
		}
		cancel()
		if err := errors.Join(<-ended, r.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	t.Logf("%d chunks of %d rows, of which the stream had newer versions of %d", e.chunks, e.rows, e.dropped)
	if e.rows == 0 || e.dropped == 0 {
		t.Error("no row was changed while it was read: the test shows nothing")
	}
}

// chunkAll reads the collection over and over until ctx ends.
func chunkAll(ctx context.Context, r sources.Reader, table string, to chan<- *sources.Chunk) error {
	defer close(to)
	q := sources.ChunkRequest{Table: table, Rows: 40, Bytes: 1 << 20}
	for {
		c, err := r.ReadChunk(ctx, q)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		q.After = c.Next
		to <- c
	}
}
