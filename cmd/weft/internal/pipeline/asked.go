package pipeline

import (
	"slices"
	"sync"

	"weft/checkpoint"
	"weft/snapshot"
)

// asked holds requests for snapshots until the checkpoint tells what became of them: a run that fails before that would
// otherwise take them along.
type asked struct {
	mu       sync.Mutex
	requests []snapshot.Request
	given    int                   // how many of them, the first ones, in has
	in       *snapshot.Interleaver // while the capture runs
}

func (a *asked) add(r snapshot.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.ContainsFunc(a.requests, func(o snapshot.Request) bool { return o.ID == r.ID && o.Cancel == r.Cancel }) {
		return
	}
	a.requests = append(a.requests, r)
	if a.in != nil {
		a.in.Wake()
	}
}

// attach is called when a run begins, and with nil when it ends.
func (a *asked) attach(in *snapshot.Interleaver) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.in, a.given = in, 0
}

// give returns what the interleaver does not have yet.
func (a *asked) give() []snapshot.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	ungiven := slices.Clone(a.requests[a.given:])
	a.given = len(a.requests)
	return ungiven
}

// settle drops the requests that a committed state has done with. To cancel is done at once.
func (a *asked) settle(s *checkpoint.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s == nil || a.given == 0 {
		return
	}
	left := slices.DeleteFunc(slices.Clone(a.requests[:a.given]), func(r snapshot.Request) bool {
		return r.Cancel || slices.ContainsFunc(s.Handled, func(h checkpoint.Handled) bool { return h.Request == r.ID })
	})
	a.requests, a.given = slices.Concat(left, a.requests[a.given:]), len(left)
}
