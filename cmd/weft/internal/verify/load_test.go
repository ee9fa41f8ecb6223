package verify

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

// TestUnderLoad: a table that is written to all the time, whose log lags, and whose transactions are streamed before they are
// visible, verifies clean, and one that differs in one row is found to.
func TestUnderLoad(t *testing.T) {
	const rows = 200
	for _, c := range []struct {
		name string
		lose bool
	}{{"clean", false}, {"one row is lost", true}} {
		t.Run(c.name, func(t *testing.T) {
			db, l := newFake(t, newTable(0))
			db.create(ids(1, rows)...)
			if c.lose {
				l.mutate = func(all []*kgo.Record) []*kgo.Record {
					return slices.DeleteFunc(all, func(r *kgo.Record) bool { return string(r.Key) == `{"id":77}` })
				}
			}
			l.write()
			w := &writer{db: db, random: rand.New(rand.NewPCG(1, 2)), busy: map[int]bool{77: true}, rows: rows}
			for id := range rows + 1 {
				w.live = append(w.live, id > 0)
			}
			stop := l.beside(func() {
				w.step()
				if w.random.IntN(4) == 0 {
					l.write()
				}
			})
			defer stop()
			for range 8 {
				r := must(t, l)
				want := []string{}
				if c.lose {
					want = []string{`missing {"id":77}`}
				}
				if got := findings(r); !slices.Equal(got, want) {
					t.Fatalf("found %q, want %q", got, want)
				}
			}
			stop()
			if w.n < 100 {
				t.Errorf("only %d transactions ran beside it", w.n)
			}
		})
	}
}

// writer runs transactions, some of which become visible later. What is not visible is locked.
type writer struct {
	db     *fakeDB
	random *rand.Rand
	rows   int
	live   []bool
	n      int

	busy map[int]bool
	late []lateTx
}

type lateTx struct {
	id   int
	rows []int
	at   time.Time
}

func (w *writer) step() {
	w.late = slices.DeleteFunc(w.late, func(l lateTx) bool {
		if time.Now().Before(l.at) {
			return false
		}
		w.db.show(l.id)
		for _, id := range l.rows {
			delete(w.busy, id)
		}
		return true
	})
	var changes []sources.Change
	var touched []int
	for range 1 + w.random.IntN(5) {
		id := 1 + w.random.IntN(w.rows)
		if w.random.IntN(3) > 0 {
			id = 1 + w.random.IntN(10) // hot
		}
		if w.busy[id] {
			continue
		}
		w.busy[id] = true
		touched = append(touched, id)
		text := strings.Repeat("x", w.random.IntN(20))
		switch {
		case !w.live[id]:
			w.live[id] = true
			changes = append(changes, sources.Change{Op: sources.OpCreate, After: row(id, text, text)})
		case w.random.IntN(4) == 0:
			w.live[id] = false
			changes = append(changes, remove(id))
		default:
			changes = append(changes, update(id, text, text))
		}
	}
	if len(changes) == 0 {
		return
	}
	w.n++
	if w.random.IntN(3) > 0 {
		w.db.commit(true, changes...)
		for _, id := range touched {
			delete(w.busy, id)
		}
		return
	}
	tx := w.db.commit(false, changes...)
	w.late = append(w.late, lateTx{tx, touched, time.Now().Add(time.Duration(w.random.IntN(30)) * time.Millisecond)})
}
