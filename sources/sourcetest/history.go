package sourcetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"weft/sources"
)

// version is one state of a row. Bodies are kept as hashes, since the suite measures the heap.
type version struct {
	deleted bool
	null    bool
	sum     [16]byte
	label   string // the body's beginning, for messages
}

func versionOf(r Row) version {
	switch {
	case r.Op == sources.OpDelete:
		return version{deleted: true, label: "(deleted)"}
	case r.Body == nil:
		return version{null: true, label: "(null)"}
	}
	sum := sha256.Sum256([]byte(*r.Body))
	return version{sum: [16]byte(sum[:16]), label: strings.Clone((*r.Body)[:min(len(*r.Body), 32)])}
}

// history is what the suite wrote: each row's versions in order.
type history struct {
	h        *Harness
	mu       sync.Mutex
	versions map[int64][]version
	live     map[int64]bool
	written  int
}

func newHistory(h *Harness) *history {
	return &history{h: h, versions: map[int64][]version{}, live: map[int64]bool{}}
}

// put makes a row that creates or updates id, with a body of about size bytes that no other row has.
func (w *history) put(id int64, size int) Row {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written++
	body := fmt.Sprintf("row %d write %d ", id, w.written)
	if pad := size - len(body); pad > 0 {
		body += padding(pad)
	}
	op := sources.OpUpdate
	if !w.live[id] {
		op = sources.OpCreate
	}
	w.live[id] = true
	return Row{Op: op, ID: id, Body: &body}
}

// del makes a row that deletes id, or updates it where the source does not tell of deletes.
func (w *history) del(id int64) Row {
	if !w.h.Traits.Deletes {
		return w.put(id, 0)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[id] = false
	return Row{Op: sources.OpDelete, ID: id}
}

// write notes rows and writes them in one transaction. They are noted first, since a source may return them before the
// harness does.
func (w *history) write(ctx context.Context, rows ...Row) error {
	w.mu.Lock()
	for _, r := range rows {
		w.versions[r.ID] = append(w.versions[r.ID], versionOf(r))
	}
	w.mu.Unlock()
	if err := w.h.Write(ctx, rows...); err != nil {
		return fmt.Errorf("harness: write %d rows: %w", len(rows), err)
	}
	return nil
}

// progress follows how far the seen changes have got through a history.
type progress struct {
	history *history
	at      map[int64]int // versions of the row that are seen or passed over
}

func (w *history) start() *progress {
	return &progress{history: w, at: map[int64]int{}}
}

// add takes the next change seen and reports one that is lost, repeated, reordered or was never written.
func (p *progress) add(e event) error {
	p.history.mu.Lock()
	defer p.history.mu.Unlock()
	versions := p.history.versions[e.id]
	for i := p.at[e.id]; i < len(versions); i++ {
		if versions[i] == e.version {
			p.at[e.id] = i + 1
			return nil
		}
		if p.history.h.Traits.EveryChange {
			return fmt.Errorf("row %d: got %q where %q was to come: changes are lost, repeated or out of order",
				e.id, e.version.label, versions[i].label)
		}
	}
	return fmt.Errorf("row %d: got %q after its %d of %d versions: a change is repeated, out of order or invented",
		e.id, e.version.label, p.at[e.id], len(versions))
}

// behind names a row whose newest version has not been seen; ok if there is none.
func (p *progress) behind() (missing string, ok bool) {
	p.history.mu.Lock()
	defer p.history.mu.Unlock()
	for id, versions := range p.history.versions {
		if at := p.at[id]; at < len(versions) {
			return fmt.Sprintf("row %d: version %d of %d, %q", id, at+1, len(versions), versions[at].label), false
		}
	}
	return "", true
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// padding is n bytes of text that does not compress to nothing.
func padding(n int) string {
	var b strings.Builder
	b.Grow(n)
	for b.Len() < n {
		for bits, i := rand.Uint64(), 0; i < 10 && b.Len() < n; i++ {
			b.WriteByte(letters[bits&63])
			bits >>= 6
		}
	}
	return b.String()
}
