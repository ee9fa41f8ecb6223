package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/checkpoint"
)

// maxHandled bounds the requests that the state remembers.
const maxHandled = 50

// Initial is the state of a capture that has not run before, and whose tables are to be read.
func Initial() *checkpoint.Snapshot {
	return &checkpoint.Snapshot{ID: 1, Reason: checkpoint.ReasonInitial, StartedAt: time.Now().UTC()}
}

// AfterGap is the state that follows was when changes are lost: all tables are read again, and what is gone from them is removed from
// their topics.
func AfterGap(was *checkpoint.Snapshot) *checkpoint.Snapshot {
	s := follow(was, checkpoint.Snapshot{Reason: checkpoint.ReasonGap})
	s.Order, s.Index = "", 0 // the epoch begins every sequence
	return s
}

// follow makes the snapshot that comes after was, which may be nil.
func follow(was *checkpoint.Snapshot, s checkpoint.Snapshot) *checkpoint.Snapshot {
	s.ID, s.StartedAt = 1, time.Now().UTC()
	if was != nil {
		s.ID, s.Covered, s.Handled = was.ID+1, slices.Clone(was.Covered), slices.Clone(was.Handled)
		s.Order, s.Index = was.Order, was.Index
	}
	return &s
}

// cancels carries out the requests to end something.
func (i *Interleaver) cancels() {
	for n := 0; n < len(i.waiting); {
		r := i.waiting[n]
		if !r.Cancel {
			n++
			continue
		}
		i.waiting = slices.Delete(i.waiting, n, n+1)
		n = 0
		if i.state.Running() && i.state.Name() == r.ID {
			i.end("", true)
			continue
		}
		was := len(i.waiting)
		i.waiting = slices.DeleteFunc(i.waiting, func(o Request) bool { return o.ID == r.ID })
		if len(i.waiting) < was {
			i.handled(checkpoint.Handled{Request: r.ID, At: time.Now().UTC(), Cancelled: true})
		}
	}
}

// choose brings the state together with the tables that there are now, and makes it that of the snapshot to begin, if any.
func (i *Interleaver) choose() {
	i.checked = true
	if i.state == nil {
		i.before()
	}
	i.forget()
	for !i.state.Running() {
		if len(i.waiting) > 0 {
			r := i.waiting[0]
			i.waiting = i.waiting[1:]
			i.take(r)
			continue
		}
		added := i.added()
		if !i.o.Added || len(added) == 0 {
			return
		}
		i.set(checkpoint.Snapshot{Reason: checkpoint.ReasonTableAdded}, added, "")
	}
	if s := i.state; s.Tables == nil {
		i.fill(s, i.names, "")
		i.changed = true
	}
}

// before is for a capture that has run without making snapshots: what it captures is not read all of a sudden.
func (i *Interleaver) before() {
	i.state = follow(nil, checkpoint.Snapshot{Reason: checkpoint.ReasonBefore, Tables: []checkpoint.TableSnapshot{}, Covered: slices.Clone(i.names)})
	i.state.EndedAt = &i.state.StartedAt
	i.state.Handled, i.early = i.early, nil
	i.changed = true
	if !i.o.Added {
		return
	}
	i.o.Logger.Info("rows from before the capture began are not read, since it has run already; weft snapshot start reads them", "tables", len(i.names))
}

// forget drops tables that are no longer captured: should they be so again, they have changed meanwhile.
func (i *Interleaver) forget() {
	s := i.state
	gone := func(name string) bool { return !slices.Contains(i.names, name) }
	if n := len(s.Covered); true {
		s.Covered = slices.DeleteFunc(s.Covered, gone)
		i.changed = i.changed || len(s.Covered) < n
	}
	if !s.Running() || s.Tables == nil {
		return
	}
	n := len(s.Tables)
	s.Tables = slices.DeleteFunc(s.Tables, func(t checkpoint.TableSnapshot) bool { return gone(t.Table) && !t.Done })
	i.changed = i.changed || len(s.Tables) < n
}

// take makes a request the state's snapshot, unless it is done with or cannot be had.
func (i *Interleaver) take(r Request) {
	if slices.ContainsFunc(i.state.Handled, func(h checkpoint.Handled) bool { return h.Request == r.ID }) {
		return
	}
	tables := slices.Compact(slices.Sorted(slices.Values(r.Tables)))
	if r.Keys != nil {
		tables = slices.Sorted(maps.Keys(r.Keys))
	}
	if why := i.refusal(r, tables); why != "" {
		i.o.Logger.Error("snapshot is refused", "request", r.ID, "error", why)
		i.handled(checkpoint.Handled{Request: r.ID, At: time.Now().UTC(), Error: why})
		return
	}
	if r.Keys != nil {
		i.set(checkpoint.Snapshot{Reason: checkpoint.ReasonRepair, Request: r.ID}, tables, "")
		for n := range i.state.Tables {
			t := &i.state.Tables[n]
			t.Begun, t.Again = true, r.Keys[t.Table]
		}
		return
	}
	if len(tables) == 0 {
		tables = i.names
	}
	i.set(checkpoint.Snapshot{Reason: checkpoint.ReasonRequested, Request: r.ID}, tables, r.Where)
}

// refusal is why a request cannot be had, or empty.
func (i *Interleaver) refusal(r Request, tables []string) string {
	var unknown []string
	for _, t := range tables {
		if !slices.Contains(i.names, t) {
			unknown = append(unknown, t)
		}
	}
	if len(unknown) > 0 {
		return fmt.Sprintf("not among the capture's tables: %s; they are %s", strings.Join(unknown, ", "), strings.Join(i.names, ", "))
	}
	for t, keys := range r.Keys {
		bytes := 0
		for _, key := range keys {
			bytes += KeyBytes(key)
		}
		if len(keys) > MaxRepairKeys || bytes > MaxRepairBytes {
			return fmt.Sprintf("%d keys of table %s with %d bytes are more than a repair takes at a time: %d with %d bytes", len(keys), t, bytes, MaxRepairKeys, MaxRepairBytes)
		}
	}
	return ""
}

// set makes s the state's snapshot.
func (i *Interleaver) set(s checkpoint.Snapshot, tables []string, where string) {
	i.state = follow(i.state, s)
	i.fill(i.state, tables, where)
	i.changed = true
}

func (i *Interleaver) fill(s *checkpoint.Snapshot, tables []string, where string) {
	s.Tables = []checkpoint.TableSnapshot{}
	for _, name := range tables {
		s.Tables = append(s.Tables, checkpoint.TableSnapshot{Table: name, Where: where, Sweep: s.Reason == checkpoint.ReasonGap})
	}
}

// added are the captured tables that no snapshot has covered.
func (i *Interleaver) added() []string {
	var added []string
	for _, name := range i.names {
		if !slices.Contains(i.state.Covered, name) {
			added = append(added, name)
		}
	}
	return added
}

func (i *Interleaver) cover(name string) {
	if !slices.Contains(i.state.Covered, name) {
		i.state.Covered = append(i.state.Covered, name)
	}
}

func (i *Interleaver) handled(h checkpoint.Handled) {
	if i.state == nil { // the capture has run without making snapshots
		i.early = append(i.early, h)
		return
	}
	i.state.Handled = append(i.state.Handled, h)
	if n := len(i.state.Handled); n > maxHandled {
		i.state.Handled = slices.Delete(i.state.Handled, 0, n-maxHandled)
	}
	i.changed = true
}
