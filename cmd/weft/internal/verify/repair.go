package verify

import (
	"context"

	"weft/snapshot"
)

// Repairer mends what differs.
type Repairer interface {
	// Wanted is told what was found in a table, and how many keys of that can be repaired; false leaves it at that.
	Wanted(r *Result, keys int64) (bool, error)
	// Repair has the rows with these keys written into the topic as they are at the source, and returns when that is committed. A key
	// holds the wire forms of the key columns, as sources.ChunkRequest has them. There are no more than a repair takes at a time.
	Repair(ctx context.Context, table string, keys [][][]byte) error
}

// Repair is what was done about a table's findings.
type Repair struct {
	// Keys is how many were repaired. What a Finding says another remedy of is not among them, nor what is undecided.
	Keys int64 `json:"keys"`
	// Left is how many of them are not equal for all that.
	Left int64 `json:"left"`
	// Findings are those, as far as they are listed.
	Findings []Finding `json:"still"`
}

// repair has all keys repaired that are open, and compares them again.
func (c *comparison) repair(ctx context.Context) error {
	total := int64(0)
	err := c.store.scan([]byte{inOpen}, []byte{inOpen + 1}, func(_, _ []byte) (bool, error) {
		total++
		return true, nil
	})
	if err != nil || total == 0 {
		return err
	}
	wanted, err := c.o.Repair.Wanted(&c.result, total)
	if err != nil || !wanted {
		return err
	}
	r := &Repair{Findings: []Finding{}}
	var after []byte
	for {
		keys, err := c.store.nextOpen(after, snapshot.MaxRepairKeys)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		var wire [][][]byte
		bytes := 0
		for _, k := range keys {
			if bytes += snapshot.KeyBytes(k.wire); bytes > snapshot.MaxRepairBytes && len(wire) > 0 {
				break
			}
			wire = append(wire, k.wire)
		}
		if err := c.o.Repair.Repair(ctx, c.result.Table, wire); err != nil {
			return err
		}
		after = keys[len(wire)-1].json
		r.Keys += int64(len(wire))
		c.o.Progress(Progress{c.result.Table, "repair", r.Keys, total})
	}
	c.result.Repair = r
	c.found = func(f Finding) {
		r.Left++
		if len(r.Findings) < c.o.Keys {
			r.Findings = append(r.Findings, f)
		}
	}
	return c.judgeRounds(ctx)
}
