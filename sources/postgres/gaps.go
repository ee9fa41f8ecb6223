package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

// continuation is what the server has for a capture to go on from.
type continuation struct {
	server
	history     []timelineSwitch // of the server's timeline, where it differs from the position's
	slot        *slot            // nil: there is none
	slotName    string
	publication string
	published   bool // the publication exists
	// unseen are those of the position, where this is still the server that they ran on.
	unseen *visibility.Unseen
}

// readHistory reads where the server's timelines were left, if the position is of another.
func (c *continuation) readHistory(ctx context.Context, repl *pgconn.PgConn, p *position) (err error) {
	if p == nil || p.Timeline == c.timeline || c.timeline <= 1 {
		return nil
	}
	c.history, err = readTimelineHistory(ctx, repl, c.timeline)
	return err
}

// findGap compares a position with what the server has. The server itself tells nothing: asked to start before a slot's
// confirmed position it silently starts at that one. A nil position is a capture that has never run.
func findGap(p *position, c continuation) error {
	if p == nil {
		return c.findUnclaimed()
	}
	if p.Database != c.database {
		return sources.Fatal("let url lead to the former database, or make a capture of another name for this one",
			"the checkpoint is of database %q, and url leads to %q", p.Database, c.database)
	}
	if p.Slot != c.slotName {
		return sources.Fatal("name the former slot in the capture's source, or make a capture of another name",
			"the checkpoint is of slot %s, and the capture now has slot %s", p.Slot, c.slotName)
	}
	if p.System != c.system {
		return c.gap("the checkpoint is of the server with system identifier %s, and this one has %s: it is another server, "+
			"or was made anew", p.System, c.system)(c.resume(0))
	}
	if p.Creating {
		return c.findDead()
	}
	if c.slot == nil {
		return c.gap("slot %s is gone, and with it the changes after %s", c.slotName, p.LSN)(nil)
	}
	if err := c.findDead(); err != nil {
		return err
	}
	if c.slot.confirmed > p.LSN {
		return c.gap("slot %s is confirmed up to %s, beyond the checkpoint's %s: somebody else has read from it, or it "+
			"was made anew; %d bytes of log are skipped", c.slotName, c.slot.confirmed, p.LSN, c.slot.confirmed-p.LSN)(c.resume(0))
	}
	return c.findDivergence(p)
}

// findUnclaimed looks at a slot that no checkpoint speaks of.
func (c continuation) findUnclaimed() error {
	if c.slot == nil {
		return nil
	}
	if c.slot.dead() == "" && !c.published {
		return sources.Fatal(fmt.Sprintf("name another slot in the capture's source, or drop this one: "+
			"SELECT pg_drop_replication_slot('%s');", c.slotName),
			"slot %s exists, but neither a checkpoint nor publication %s: it is somebody else's", c.slotName, c.publication)
	}
	if err := c.findDead(); err != nil {
		return err
	}
	return &sources.GapError{
		Reason: fmt.Sprintf("slot %s exists, confirmed up to %s, and no checkpoint says whether somebody else has read from it",
			c.slotName, c.slot.confirmed),
		Remedy: fmt.Sprintf("set on_gap: continue to go on from %s in a new epoch, or name another slot in the capture's source, or "+
			"drop it: SELECT pg_drop_replication_slot('%s');", c.slot.confirmed, c.slotName),
		Resume: c.resume(0).encode(),
	}
}

// findDead looks for what makes an existing slot useless.
func (c continuation) findDead() error {
	if c.slot == nil {
		return nil
	}
	if why := c.slot.dead(); why != "" {
		return c.gap("slot %s cannot be read any more: %s; the changes after %s are lost to it", c.slotName, why,
			c.slot.confirmed)(c.replacement())
	}
	if !c.published {
		return c.gap("publication %s is gone: the server cannot decode what slot %s still holds, from %s on", c.publication,
			c.slotName, c.slot.confirmed)(c.replacement())
	}
	return nil
}

// findDivergence looks for changes that we have delivered and the server does not have: a standby was promoted before
// it had received them, or the server was restored to an earlier point.
func (c continuation) findDivergence(p *position) error {
	if p.Timeline != c.timeline {
		switched := lsn(0)
		found := false
		for _, s := range c.history {
			if s.timeline == p.Timeline {
				switched, found = s.at, true
			}
		}
		if !found {
			return c.gap("the checkpoint %s is on timeline %d, which is no part of the history of the server's timeline %d",
				p.LSN, p.Timeline, c.timeline)(c.resume(0))
		}
		if p.LSN > switched {
			return c.gap("the server left timeline %d at %s for timeline %d, and the checkpoint is beyond, at %s: %d bytes "+
				"of log that were delivered are not part of the server's history", p.Timeline, switched, c.timeline,
				p.LSN, p.LSN-switched)(c.resume(switched))
		}
	}
	if p.LSN > c.walEnd {
		return c.gap("the server's log ends at %s, before the checkpoint's %s: it was restored to an earlier point",
			c.walEnd, p.LSN)(c.resume(c.walEnd))
	}
	return nil
}

// resume is where to go on: the slot's confirmed position or at, whichever is later; with no slot anew, with a useless
// one with another in its place.
func (c continuation) resume(at lsn) *position {
	if c.slot == nil {
		return nil
	}
	if c.slot.dead() != "" || !c.published {
		return c.replacement()
	}
	p := c.position(max(at, c.slot.confirmed))
	if at == 0 { // else the server has gone back to before them
		p.Unseen = c.unseen
	}
	return &p
}

func (c continuation) replacement() *position {
	p := c.position(0)
	p.Creating, p.Replace = true, true
	return &p
}

func (c continuation) position(at lsn) position {
	return position{System: c.system, Timeline: c.timeline, Database: c.database, Slot: c.slotName, LSN: at}
}

// gap formats the reason; the function returned takes where to go on, nil for anew.
func (c continuation) gap(format string, args ...any) func(*position) error {
	return func(resume *position) error {
		gap := &sources.GapError{Reason: fmt.Sprintf(format, args...)}
		switch {
		case resume == nil:
			gap.Remedy = fmt.Sprintf("set on_gap: continue to make slot %s anew and go on from there in a new epoch, and reload the "+
				"tables downstream", c.slotName)
			return gap
		case resume.Replace:
			gap.Remedy = fmt.Sprintf("set on_gap: continue to drop slot %s, make it anew and go on from there in a new epoch, and "+
				"reload the tables downstream; so that it does not come again, keep the publication, let the daemon run, and raise "+
				"max_slot_wal_keep_size", c.slotName)
		default:
			gap.Remedy = fmt.Sprintf("set on_gap: continue to go on from %s in a new epoch, and compare or reload the tables "+
				"downstream", resume.LSN)
		}
		gap.Resume = resume.encode()
		return gap
	}
}
