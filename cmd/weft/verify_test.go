package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/cmd/weft/internal/verify"
)

func TestVerifyRefuses(t *testing.T) {
	s := newShop(t, "")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"items", "--memory", "1MiB"}, exitUsage, `--memory "1MiB": must be a size from 16MiB to 64GiB`},
		{[]string{"items", "--memory", "much"}, exitUsage, `--memory "much"`},
		{[]string{"items", "--rate", "-1"}, exitUsage, "must not be negative"},
		{[]string{"items", "--yes"}, exitUsage, "--yes goes with --repair"},
		{[]string{"items", "--repair"}, exitUsage, "nothing is written without an answer; give --yes"},
		{nil, exitUsage, "requires at least 1 arg"},
		{[]string{"items"}, exitFailed, "there is no embedded log"},
	} {
		code, _, stderr := weft(t, append([]string{"verify", "-c", s.config}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: code %d, %s", c.args, code, stderr)
		}
	}
	d := s.start(t)
	s.exec(t, "INSERT INTO item (id, name) VALUES (1, 'a')")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nothing"}, `no capture "nothing"`},
		{[]string{"items", "itme"}, `capture "items" has no table "itme"; to mend it: name one of item`},
	} {
		code, _, stderr := weft(t, append([]string{"verify", "-c", s.config}, c.args...)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: code %d, %s", c.args, code, stderr)
		}
	}
	d.end(t)
	code, _, stderr := weft(t, "verify", "-c", s.config, "items", "--repair", "--yes")
	if code != exitFailed || !strings.Contains(stderr, "no daemon runs capture items") || !strings.Contains(stderr, "weft run") {
		t.Errorf("without a daemon: code %d, %s", code, stderr)
	}
}

func TestPrintRepair(t *testing.T) {
	r := &verify.Result{Table: "public.orders", Missing: 2, Repair: &verify.Repair{Keys: 2, Left: 1, Findings: []verify.Finding{
		{Kind: verify.Differing, Key: json.RawMessage(`{"id":2}`), Columns: []string{"a"}},
	}}}
	for _, c := range []struct {
		r    *verify.Result
		want string
	}{
		{r, "public.orders still differing {\"id\":2} in a\npublic.orders: repaired 2, still different 1\n"},
		{&verify.Result{Table: "public.orders"}, ""},
		{&verify.Result{Table: "public.visits", Keyless: true, Extra: 1}, "public.visits has no key to repair rows by; weft snapshot start shop public.visits reads all of it anew, behind a truncate\n"},
		{&verify.Result{Table: "public.orders", Undecided: 1}, "public.orders: what is undecided is not repaired; weft snapshot start shop public.orders reads all rows anew\n"},
	} {
		var b bytes.Buffer
		if err := printRepair(&b, "shop", c.r, true); err != nil || b.String() != c.want {
			t.Errorf("printed %q, want %q (%v)", &b, c.want, err)
		}
	}
}

func TestPrintResult(t *testing.T) {
	r := &verify.Result{
		Table: "public.orders", Topic: "shop.public.orders", Rows: 10, Missing: 1, Extra: 2, Differing: 1, Undecided: 1, LeftOff: 1,
		Unknown: map[string]int64{"remark": 3}, Gone: []string{"note"},
		Findings: []verify.Finding{
			{Kind: verify.Missing, Key: json.RawMessage(`{"id":1}`)},
			{Kind: verify.Differing, Key: json.RawMessage(`{"id":2}`), Columns: []string{"a", "b"}},
			{Kind: verify.Extra, Row: json.RawMessage(`{"page":"x"}`), Count: 2},
			{Kind: verify.Undecided, Key: json.RawMessage(`{"id":3}`), Why: "no record"},
		},
	}
	var b bytes.Buffer
	if err := printResult(&b, r); err != nil {
		t.Fatal(err)
	}
	const want = `public.orders missing {"id":1}
public.orders differing {"id":2} in a, b
public.orders extra {"page":"x"} 2 times
public.orders undecided {"id":3} (no record)
public.orders and 1 more, which --keys left off
public.orders: the topic does not tell remark of 3 rows: they were compared without it
public.orders: rows in the topic have columns that the table no longer has: note
public.orders: 1 missing, 2 extra, 1 differing, 1 undecided; 10 rows compared with topic shop.public.orders
`
	if b.String() != want {
		t.Errorf("printed\n%s", &b)
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b)
	s := verify.Progress{Table: "t", Phase: "topic", Done: 3, Total: 12}
	p.show(s) // too soon
	p.last = time.Time{}
	p.show(s)
	p.last = time.Time{}
	p.show(verify.Progress{Table: "t", Phase: "keys", Done: 2})
	if want := "t: 3 of about 12 records of the topic read\nt: 2 keys looked at again\n"; b.String() != want {
		t.Errorf("%q", &b)
	}
	b.Reset()
	p.terminal, p.last = true, time.Time{}
	p.show(s)
	p.say("x")
	if want := "\r\x1b[K[######                  ] t: 3 of about 12 records of the topic read\r\x1b[Kx\n"; b.String() != want {
		t.Errorf("%q", &b)
	}
}
