package postgres

import (
	"testing"
)

// found is a server with which the position at 0/500 has no gap.
func found() continuation {
	return continuation{
		server:      server{system: "7", timeline: 1, walEnd: 0x900, database: "shop"},
		slot:        &slot{name: "s", kind: "logical", plugin: plugin, database: "shop", restart: 0x300, confirmed: 0x400, walStatus: "reserved"},
		slotName:    "s",
		publication: "p",
		published:   true,
	}
}

func at(l lsn) *position {
	return &position{System: "7", Timeline: 1, Database: "shop", Slot: "s", LSN: l}
}

func TestFindGap(t *testing.T) {
	const (
		none    = "none"
		fatal   = "fatal"
		anew    = ""
		replace = `{"system":"7","timeline":1,"database":"shop","slot":"s","creating":true,"replace":true}`
	)
	resume := func(l lsn) string { return string(at(l).encode()) }
	tests := []struct {
		name   string
		p      *position
		change func(*position, *continuation)
		want   string // none, fatal, or the gap's Resume
		reason string
	}{
		{"nothing changed", at(0x500), func(*position, *continuation) {}, none, ""},
		{"confirmed exactly up to the checkpoint", at(0x400), func(*position, *continuation) {}, none, ""},
		{"never run, no slot", nil, func(_ *position, c *continuation) { c.slot = nil }, none, ""},
		{"never run, a slot", nil, func(*position, *continuation) {}, resume(0x400), "no checkpoint"},
		{"never run, a slot without publication", nil, func(_ *position, c *continuation) { c.published = false }, fatal, "somebody else's"},
		{"never run, a lost slot", nil, func(_ *position, c *continuation) { c.slot.walStatus = "lost" }, replace, "lost"},
		{"creating, no slot", at(0), func(p *position, c *continuation) { p.Creating, c.slot, c.published = true, nil, false }, none, ""},
		{"creating, a slot", at(0), func(p *position, c *continuation) { p.Creating = true }, none, ""},
		{"creating, a lost slot", at(0), func(p *position, c *continuation) { p.Creating, c.slot.walStatus = true, "lost" }, replace, "lost"},
		{"creating, another server", at(0), func(p *position, c *continuation) { p.Creating, p.System, c.slot = true, "6", nil }, anew, "system identifier 6"},
		{"slot gone", at(0x500), func(_ *position, c *continuation) { c.slot = nil }, anew, "slot s is gone, and with it the changes after 0/500"},
		{"slot lost", at(0x500), func(_ *position, c *continuation) { c.slot.walStatus = "lost" }, replace, "max_slot_wal_keep_size"},
		{"slot unreserved", at(0x500), func(_ *position, c *continuation) { c.slot.walStatus = "unreserved" }, none, ""},
		{"slot without restart_lsn", at(0x500), func(_ *position, c *continuation) { c.slot.restart = 0 }, replace, "dropped the log"},
		{"slot invalidated", at(0x500), func(_ *position, c *continuation) { c.slot.invalidation = "idle_timeout" }, replace, "idle_timeout"},
		{"publication gone", at(0x500), func(_ *position, c *continuation) { c.published = false }, replace, "publication p is gone"},
		{"confirmed beyond", at(0x500), func(_ *position, c *continuation) { c.slot.confirmed = 0x600 }, resume(0x600), "256 bytes of log are skipped"},
		{"another server, no slot", at(0x500), func(p *position, c *continuation) { p.System, c.slot = "6", nil }, anew, "another server"},
		{"another server, a slot", at(0x500), func(p *position, c *continuation) { p.System = "6" }, resume(0x400), "another server"},
		{"another database", at(0x500), func(p *position, c *continuation) { p.Database = "old" }, fatal, `database "old"`},
		{"another slot", at(0x500), func(p *position, c *continuation) { p.Slot = "old" }, fatal, "slot old"},
		{"log ends before", at(0x500), func(_ *position, c *continuation) { c.walEnd = 0x4f0 }, resume(0x4f0), "restored"},
		{"log ends there", at(0x500), func(_ *position, c *continuation) { c.walEnd = 0x500 }, none, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := found()
			tt.change(tt.p, &c)
			err := findGap(tt.p, c)
			switch tt.want {
			case none:
				if err != nil {
					t.Errorf("unexpected: %v", err)
				}
			case fatal:
				isFatal(t, err, tt.reason)
			default:
				if got := string(isGap(t, err, tt.reason)); got != tt.want {
					t.Errorf("resume is %s, want %s", got, tt.want)
				}
			}
		})
	}
}

// TestGapRemedies: each says what to type, and where that leads.
func TestGapRemedies(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		remedy []string
	}{
		{"a slot that no checkpoint speaks of", findGap(nil, found()), []string{"set on_gap: continue to go on from 0/400 in a new epoch",
			"or name another slot", "or drop it: SELECT pg_drop_replication_slot('s');"}},
		{"no slot", found().gap("r")(nil), []string{"set on_gap: continue to make slot s anew"}},
		{"a useless slot", found().gap("r")(found().replacement()), []string{"set on_gap: continue to drop slot s, make it anew", "max_slot_wal_keep_size"}},
		{"a slot elsewhere", found().gap("r")(at(0x480)), []string{"set on_gap: continue to go on from 0/480 in a new epoch"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { isGap(t, tt.err, tt.remedy...) })
	}
}

func TestTimelines(t *testing.T) {
	tests := []struct {
		name   string
		lsn    lsn
		from   int32
		resume lsn // 0: no gap
		reason string
	}{
		{"before the switch", 0x500, 2, 0, ""},
		{"at the switch", 0x600, 2, 0, ""},
		{"beyond the switch", 0x608, 2, 0x600, "8 bytes of log that were delivered"},
		{"beyond a switch before what is confirmed", 0x500, 1, 0x400, "left timeline 1 at 0/200"},
		{"a timeline that is not in the history", 0x500, 4, 0x400, "no part of the history"},
		{"a timeline of the future", 0x500, 9, 0x400, "no part of the history"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := found()
			c.timeline = 5
			c.history = []timelineSwitch{{1, 0x200}, {2, 0x600}}
			p := at(tt.lsn)
			p.Timeline = tt.from
			err := findGap(p, c)
			if tt.resume == 0 {
				if err != nil {
					t.Errorf("unexpected: %v", err)
				}
				return
			}
			want := at(tt.resume)
			want.Timeline = 5
			if got := string(isGap(t, err, tt.reason)); got != string(want.encode()) {
				t.Errorf("resume is %s, want %s", got, want.encode())
			}
		})
	}
}

func TestTimelineHistory(t *testing.T) {
	got, err := parseTimelineHistory("1\t0/3000110\tno recovery target specified\n\n# comment\n2\t0/40000F8\tbefore 2026-02-28 12:00\n")
	if err != nil || len(got) != 2 || got[0] != (timelineSwitch{1, 0x3000110}) || got[1] != (timelineSwitch{2, 0x40000F8}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"1\n", "x\t0/1\tr\n", "1\tnowhere\tr\n"} {
		if _, err := parseTimelineHistory(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestServerCheck(t *testing.T) {
	good := server{version: 140000, versionName: "14.0", walLevel: "logical"}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	old, standby, replica := good, good, good
	old.version, old.versionName = 130020, "13.20"
	isFatal(t, old.check(), "13.20", "PostgreSQL 14 or newer")
	standby.standby = true
	isFatal(t, standby.check(), "standby", "primary")
	replica.walLevel = "replica"
	isFatal(t, replica.check(), "wal_level is replica", "ALTER SYSTEM SET wal_level = logical")
}

func TestLiteralPattern(t *testing.T) {
	if !(pattern{"a", "b"}).literal() || (pattern{"a", "b*"}).literal() {
		t.Error("literal patterns are not told from globs")
	}
}
