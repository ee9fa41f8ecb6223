package sink

import (
	"fmt"
	"strings"
	"testing"

	"weft/sources"
)

// Rows of an earlier epoch that nothing was written of since are deleted, however few keys fit into memory.
func TestSweep(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		for name, limit := range map[string]int{"in one round": sweepBytes, "in many": 5 * (keyBytes + 10)} {
			t.Run(name, func(t *testing.T) {
				o := options(l)
				w := open(t, o)
				n := 0
				put := func(op sources.Op, id int) {
					n++
					c := create(n, fmt.Sprint(id), "old")
					if c.Op = op; op == sources.OpDelete {
						c.Before, c.After = c.After, nil
					}
					write(t, w, c)
				}
				for id := range 40 {
					put(sources.OpCreate, id)
				}
				put(sources.OpDelete, 3)
				commit(t, w, `1`, true)
				if err := w.NextEpoch(t.Context(), &sources.GapError{Reason: "lost", Resume: sources.Position(`2`)}); err != nil {
					t.Fatal(err)
				}
				for id := range 20 { // the others were deleted behind the gap
					if id != 3 && id != 5 {
						put(sources.OpRead, id)
					}
				}
				commit(t, w, `3`, true)
				s := w.NewSweep(items)
				s.limit = limit
				removed, rounds := 0, 0
				for done := false; !done; rounds++ {
					s.Watch()
					commit(t, w, `4`, true)
					keys, full, err := s.Find(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if rounds == 0 {
						put(sources.OpCreate, 30) // meanwhile
					}
					var count int
					count, done, err = s.Remove(t.Context(), keys, full, func() ([]byte, error) {
						n++
						return fmt.Appendf(nil, "%08d", n), nil
					})
					if err != nil {
						t.Fatal(err)
					}
					removed += count
				}
				commit(t, w, `5`, true)
				if removed != 20 || len(w.sweeps) > 0 || (rounds > 1) != (limit < sweepBytes) {
					t.Errorf("%d rows are removed in %d rounds, want 20", removed, rounds)
				}
				var live []string
				last := map[string]seen{}
				for _, r := range records(t, l, o.Topics.Prefix+".public.items") {
					last[r.key] = r
				}
				for id := range 40 {
					if key := fmt.Sprintf(`{"id":%d}`, id); last[key].value != "" {
						live = append(live, fmt.Sprint(id))
					}
				}
				if got := strings.Join(live, " "); got != "0 1 2 4 6 7 8 9 10 11 12 13 14 15 16 17 18 19 30" {
					t.Errorf("what is left is %s", got)
				}
			})
		}
	})
}
