package mongodb

import (
	"fmt"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The memory of a run is used again, for one of the same size and once, and no more of it is kept than that.
func TestQueueMemory(t *testing.T) {
	q := newQueue(1 << 20)
	for range 2 * spareRuns {
		q.recycle(make([]byte, 0, runBytes))
	}
	q.recycle(make([]byte, 0, 100))
	if len(q.spare) != spareRuns {
		t.Errorf("%d runs are kept", len(q.spare))
	}
	first := q.memory(runBytes)
	if second := q.memory(runBytes); &first[:1][0] == &second[:1][0] || len(second) != 0 {
		t.Error("two runs have one memory")
	}
	if small := q.memory(100); cap(small) >= runBytes || len(q.spare) != spareRuns-2 {
		t.Errorf("a run of 100 bytes takes %d, and %d are left", cap(small), len(q.spare))
	}
}

// Events come whole and in order out of runs whose memory is used again, and each has its own token.
func TestRuns(t *testing.T) {
	const replies, events = 20, 300
	f := newFake(t)
	o := f.options()
	o.BatchBytes = 4 << 10
	src := f.open(f.config(), o)
	n := 0
	for range replies {
		var s step
		for range events {
			n++
			e := insert(fmt.Sprintf("82%06x", n), 100, uint32(10+n), int64(n))
			e[5].Value = bson.D{{Key: "_id", Value: int64(n)}, {Key: "text", Value: strings.Repeat(fmt.Sprint(n, ";"), 100)}}
			s.events = append(s.events, e)
		}
		f.play(s)
	}
	for seen := 0; seen < n; {
		b := f.next(src)
		for i := range b.Changes {
			seen++
			want := fmt.Sprintf(`{"_id":%d,"text":"%s"}`, seen, strings.Repeat(fmt.Sprint(seen, ";"), 100))
			if got := string(b.Changes[i].After[1].Data); got != want {
				t.Fatalf("change %d is %s", seen, got)
			}
		}
		if p, err := decodePosition(b.Position); len(b.Changes) > 0 && (err != nil || !strings.Contains(string(p.Token), fmt.Sprintf("82%06x", seen))) {
			t.Fatalf("behind change %d: %s, %v", seen, b.Position, err)
		}
	}
}
