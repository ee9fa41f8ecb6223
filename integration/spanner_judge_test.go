package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// What is lost is the emulator's fault only where the last query that it belonged into went beyond it without it.
func TestSpannerLost(t *testing.T) {
	at := time.Unix(1000, 0)
	row := spannerRow{at: at.UnixNano(), table: "orders", key: `{"id":"1"}`}
	query := func(from, upTo time.Duration, rows ...spannerRow) *sentQuery {
		q := &sentQuery{token: "a", from: at.Add(from), upTo: at.Add(upTo), sent: map[spannerRow]bool{}}
		for _, r := range rows {
			q.sent[r] = true
		}
		return q
	}
	other := query(-1, 1)
	other.token = "b"
	for name, c := range map[string]struct {
		queries []*sentQuery
		want    bool
	}{
		"passed over":                    {[]*sentQuery{query(-1, 1)}, true},
		"passed over from where it is":   {[]*sentQuery{query(0, 1)}, true},
		"had at first, then passed over": {[]*sentQuery{query(-2, 1, row), query(-1, 1)}, true},
		"asked for what is later":        {[]*sentQuery{query(-1, 1), query(1, 2)}, true},
		"never asked for":                {nil, false},
		"asked for from later on":        {[]*sentQuery{query(1, 2)}, false},
		"asked of another partition":     {[]*sentQuery{other}, false},
		"had":                            {[]*sentQuery{query(-1, 1, row)}, false},
		"had again":                      {[]*sentQuery{query(-2, 1), query(-1, 1, row)}, false},
		"not come to":                    {[]*sentQuery{query(-1, 0)}, false},
		"not come to again":              {[]*sentQuery{query(-2, 1), query(-1, 0)}, false},
	} {
		if got := (&spannerProxy{queries: c.queries}).lost("a", row); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestSpannerLosses loses a record on the way from the emulator: one that it seems not to have sent is excused and
// counted, one that the daemon was given is not.
func TestSpannerLosses(t *testing.T) {
	for name, fault := range map[string]proxyFault{"passed over": passedOver, "swallowed": swallowed} {
		t.Run(name, func(t *testing.T) {
			o := newSpannerOrigin(t, fmt.Sprintf("lost_%x", rand.Uint32()))
			k := killRun{T: t, name: "lost", origin: o, to: embeddedLog(t)}
			d, pulse := k.begin()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			loaded := make(chan error, 1)
			go func() { loaded <- o.load(ctx, 1) }()
			o.proxy.fault.Store(fault)
			eventually(t, d, time.Minute, "a record is lost", func(context.Context) (bool, error) {
				return o.proxy.fault.Load() == faithful, nil
			})
			stop()
			if err := <-loaded; err != nil {
				t.Fatal(err)
			}
			pulse.await(t, d, time.Minute)
			k.drained(d)
			problems := k.problems()
			d.stop()
			if fault == passedOver && (len(problems) > 0 || o.lost == 0) {
				t.Errorf("%d excused, yet %q", o.lost, problems)
			}
			if fault == swallowed && (len(problems) == 0 || o.lost > 0 || !strings.Contains(problems[0], "is missing")) {
				t.Errorf("%d excused; %q", o.lost, problems)
			}
		})
	}
}

func TestSpannerDescends(t *testing.T) {
	p := &spannerProxy{parents: map[string][]string{"b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": {"d"}}}
	for _, c := range []struct {
		token, from string
		want        bool
	}{{"a", "a", true}, {"e", "a", true}, {"d", "c", true}, {"b", "c", false}, {"a", "e", false}} {
		if got := p.descends(c.token, c.from); got != c.want {
			t.Errorf("%s from %s: %t", c.token, c.from, got)
		}
	}
}

// The examples of PartialResultSet.chunked_value.
func TestSpannerJoined(t *testing.T) {
	for _, c := range [][3]string{
		{`"foo"`, `"bar"`, `"foobar"`},
		{`["2","3"]`, `["4"]`, `["2","34"]`},
		{`["a",["b","c"]]`, `[["d"],"e"]`, `["a",["b","cd"],"e"]`},
		{`["a",true]`, `["b"]`, `["a",true,"b"]`},
		{`[]`, `["b"]`, `["b"]`},
	} {
		var a, b, want structpb.Value
		for i, into := range []*structpb.Value{&a, &b, &want} {
			if err := protojson.Unmarshal([]byte(c[i]), into); err != nil {
				t.Fatal(err)
			}
		}
		if got := joined(&a, &b); text(got.AsInterface()) != text(want.AsInterface()) {
			t.Errorf("%s and %s: %s", c[0], c[1], text(got.AsInterface()))
		}
	}
}

// Where a source orders the changes of a key only, records of other keys may stand between in any order.
func TestJudgeOrderOfKeys(t *testing.T) {
	records, want := history()
	byKey := want
	byKey.ordered = func(record, record) bool { return true }
	shuffled := slices.Clone(records)
	slices.SortStableFunc(shuffled, func(a, b record) int {
		if a.partition != b.partition || len(a.key) == 0 || len(b.key) == 0 {
			return int(a.partition - b.partition)
		}
		return strings.Compare(string(b.key), string(a.key))
	})
	if problems := judge(shuffled, want); len(problems) == 0 {
		t.Fatal("the records are in order: this test shows nothing")
	}
	if problems := judge(shuffled, byKey); len(problems) > 0 {
		t.Errorf("keys in order are judged wrong: %q", problems)
	}

	swapped := slices.Clone(records)
	i := slices.IndexFunc(swapped, func(r record) bool { return string(r.key) == `{"id":1}` })
	j := i + 1 + slices.IndexFunc(swapped[i+1:], func(r record) bool { return string(r.key) == `{"id":1}` })
	swapped[i], swapped[j] = swapped[j], swapped[i]
	if problems := judge(swapped, byKey); len(problems) == 0 {
		t.Error("two changes of a key in the wrong order are judged right")
	}
	byKey.ordered = func(first, second record) bool { return false }
	if problems := judge(swapped, byKey); len(problems) > 0 {
		t.Errorf("two changes that have no order are judged wrong: %q", problems)
	}
	repeated := append(slices.Clone(records), records[len(records)-1])
	if problems := judge(repeated, byKey); len(problems) == 0 {
		t.Error("a record that is there twice is judged right")
	}
}

// A key of which a change is excused is not compared, and no other is spared.
func TestJudgeExempt(t *testing.T) {
	records, want := history()
	last := slices.IndexFunc(records, func(r record) bool { return strings.Contains(string(r.value), `"n":7`) })
	records = slices.Delete(records, last, last+1)
	delete(want.changes, `c {"id":1} n 7`)
	want.exempt = map[string]bool{`{"id":3}`: true}
	if problems := judge(records, want); len(problems) == 0 {
		t.Error("another key is exempt")
	}
	want.exempt = map[string]bool{`{"id":1}`: true}
	if problems := judge(records, want); len(problems) > 0 {
		t.Errorf("%q", problems)
	}
}
