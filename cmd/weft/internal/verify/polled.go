package verify

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"weft/sources"
)

// polled is what is known of a source that polls.
//
// Its topic has the versions of rows that polls saw, so that it is at no moment what a read saw. But a row that was the same in two
// reads was so in between, and if the capture's polls passed it in that time, the topic must have had that very row when it was
// folded: if it has not, that is a difference. A row that was written between every two reads is written to the topic again all the time
// too, whole; it is counted. So is one that was there in an earlier round and is deleted now, too late for a search to have found it.
type polled struct {
	reader sources.PolledReader
	// patience is how long a row may be only in the topic before it counts as a difference: for as long as two searches for
	// deleted rows, if that is no longer than anybody wants to wait.
	patience time.Duration
	began    time.Time // of the judging, once the whole table has been read
	awaited  bool      // such a row was found in this round
}

// deleteSlack is what a search for deleted rows may take.
const deleteSlack = 10 * time.Second

func newPolled(r sources.PolledReader, timeout time.Duration) *polled {
	p := &polled{reader: r}
	if two := 2*r.DeletesAfter() + deleteSlack; two > deleteSlack && two <= timeout {
		p.patience = two
	}
	return p
}

// undecided tells whether another round may show rows to be gone, and begins it.
func (p *polled) undecided() bool {
	wait := p != nil && p.awaited && time.Since(p.began) < p.patience
	if p != nil {
		p.awaited = false
	}
	return wait
}

// why says how a row is to be understood that only the topic has.
func (p *polled) why() string {
	if every := p.reader.DeletesAfter(); every > 0 {
		return fmt.Sprintf("deleted rows are looked for every %s", every)
	}
	return "deleted rows are not looked for: reconcile.off"
}

// judgePolled returns those of the open keys that are decided: with final all whose row is still as it was before. Keys of rows that
// were written meanwhile are done with.
func (c *comparison) judgePolled(ctx context.Context, open []openKey, findings map[string]Finding, before map[string]versioned, final bool) (rest []openKey, err error) {
	for _, k := range open {
		f := findings[string(k.json)]
		if f.Kind == Extra {
			c.polled.awaited = true
			f.Why = c.polled.why()
			findings[string(k.json)] = f
			continue
		}
		if final || k.seen {
			continue
		}
		k.seen = true
		if err := c.store.putOpen(k); err != nil {
			return nil, err
		}
	}
	if !final || len(open) == 0 {
		return open, nil
	}
	again, err := c.read(ctx, open)
	if err != nil {
		return nil, err
	}
	now, err := c.versions(again)
	if err != nil {
		return nil, err
	}
	for _, k := range open {
		was, is := before[string(k.json)], now[string(k.json)]
		late := findings[string(k.json)].Kind == Extra && k.seen
		if was.version == is.version && bytes.Equal(was.row, is.row) && !late {
			rest = append(rest, k)
			continue
		}
		c.result.Moving++
		if err := c.store.closeKey(k.json); err != nil {
			return nil, err
		}
	}
	return rest, nil
}
