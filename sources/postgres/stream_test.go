package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// TestBigTransaction reads a transaction of many batches, then again from each batch's position: the same orders,
// transactions and values follow.
func TestBigTransaction(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text, c bytea)", "CREATE TABLE u (a int PRIMARY KEY)")
		o := db.options("public.t")
		o.BatchBytes, o.ReadAheadBytes = 16<<10, 64<<10
		s := db.open(db.config(), o)
		db.exec("INSERT INTO t VALUES (0, 'first', '')",
			`BEGIN; INSERT INTO t SELECT i, repeat('x', i % 300), convert_to(i::text, 'UTF8') FROM generate_series(1, 1000) i; INSERT INTO u SELECT generate_series(1, 500);
			TRUNCATE u; ALTER TABLE t ADD d int; UPDATE t SET d = a WHERE a < 200; DELETE FROM t WHERE a > 900; COMMIT`,
			"INSERT INTO t VALUES (-1, 'last')")
		const changes = 1 + 1000 + 200 + 100 + 1
		full := func(c *sources.Change) string {
			return fmt.Sprintf("%s %s %d %d %s", c.Order, c.Transaction.ID, c.TransactionOrder, c.TableOrder, describe(c))
		}
		type stop struct {
			position sources.Position
			lines    int
		}
		var lines []string
		stops := []stop{{s.position, 0}}
		partial := 0
		for len(lines) < changes {
			b := s.next()
			size := 0
			for i := range b.Changes {
				lines = append(lines, full(&b.Changes[i]))
				for _, v := range b.Changes[i].After {
					size += len(v.Data)
				}
			}
			if size > o.BatchBytes {
				t.Fatalf("a batch of %d changes holds %d bytes", len(b.Changes), size)
			}
			if b.Partial {
				partial++
			}
			if b.Partial != bytes.Contains(b.Position, []byte(`"tx":{`)) {
				t.Errorf("partial is %t at %s", b.Partial, b.Position)
			}
			stops = append(stops, stop{s.position, len(lines)})
		}
		if len(lines) != changes || partial < 10 {
			t.Fatalf("%d changes with %d partial batches", len(lines), partial)
		}
		s.close()
		for _, stop := range stops {
			o.Position = stop.position
			s := db.reopen(db.config(), o)
			for at := stop.lines; at < changes; {
				b := s.next()
				for i := range b.Changes {
					if got := full(&b.Changes[i]); got != lines[at] {
						t.Fatalf("resumed at %s: change %d is\n%s, want\n%s", stop.position, at, got, lines[at])
					}
					at++
				}
			}
			s.close()
		}
	})
}

// TestResumeMismatch: a transaction that is not the one that was partly delivered is a gap, after which all of it comes.
func TestResumeMismatch(t *testing.T) {
	tests := []struct {
		name   string
		change func(*txPosition)
		want   string
	}{
		{"other hash", func(p *txPosition) { p.Hash = "0123456789abcdef" }, "their hash is"},
		{"other transaction", func(p *txPosition) { p.FinalLSN -= 8 }, "the server sends transaction"},
		{"more events than there are", func(p *txPosition) { p.Events = 1000 }, "only 100 events"},
	}
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		o := db.options("public.t")
		o.BatchBytes = 4 << 10
		s := db.open(db.config(), o)
		db.exec("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 100) i")
		if b := s.next(); !b.Partial {
			t.Fatal("the first batch is not partial")
		}
		s.close()
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				var p position
				if err := json.Unmarshal(s.position, &p); err != nil {
					t.Fatal(err)
				}
				tt.change(p.TX)
				o := o
				o.Position = p.encode()
				again := db.reopen(db.config(), o)
				o.Position = isGap(t, again.nextError(), tt.want)
				again.close()
				after := db.reopen(db.config(), o)
				if got := after.take(100); got[0][:28] != "c public.t [a] -> a=1 b=xxxx" {
					t.Errorf("after the gap came %s", got[0])
				}
				after.close()
			})
		}
	})
}

// TestBatches: small transactions share a batch, and one that does not fit begins the next.
func TestBatches(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		o := db.options("public.t")
		o.BatchBytes = 32 << 10
		s := db.open(db.config(), o)
		for i := range 20 {
			db.exec(fmt.Sprintf("INSERT INTO t VALUES (%d, 'x')", i))
		}
		db.exec("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(100, 139) i", "INSERT INTO t VALUES (1000, repeat('x', 200000))")
		time.Sleep(500 * time.Millisecond) // all of it is read ahead
		var sizes []int
		for sum := 0; sum < 61; {
			b := s.next()
			sizes = append(sizes, len(b.Changes))
			sum += len(b.Changes)
			if b.Partial || b.More != (sum < 61) {
				t.Errorf("batch %v: partial %t, more %t", sizes, b.Partial, b.More)
			}
		}
		if fmt.Sprint(sizes) != "[20 40 1]" {
			t.Errorf("batches of %v changes", sizes)
		}
	})
}

// TestBlocked: a caller that does not call Next for longer than wal_sender_timeout loses neither changes nor connection.
func TestBlocked(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		c := db.config()
		c.URL = db.with("wal_sender_timeout", "2s")
		o := db.options("public.t")
		o.ReadAheadBytes = 64 << 10
		s := db.open(c, o)
		pid := db.one("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = $1", db.slot())
		db.exec("INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i")
		time.Sleep(6 * time.Second)
		src := s.src.(*source)
		src.queue.mu.Lock()
		unread := src.queue.unread
		src.queue.mu.Unlock()
		if unread > o.ReadAheadBytes {
			t.Errorf("%d bytes are read ahead, the bound is %d", unread, o.ReadAheadBytes)
		}
		s.take(20000)
		if now := db.one("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = $1", db.slot()); now != pid {
			t.Errorf("the server's process was %s and is %s", pid, now)
		}
	})
}

// TestQuiet: with nothing to read and nobody calling Next, the connection outlives wal_sender_timeout.
func TestQuiet(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		c := db.config()
		c.URL = db.with("wal_sender_timeout", "1s")
		s := db.open(c, db.options("public.t"))
		if _, err := s.tryNext(3 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("next: %v", err)
		}
		db.exec("INSERT INTO t VALUES (1)")
		equal(t, s.take(1), "c public.t [a] -> a=1")
	})
}

// TestConfirm: the server is told what is durable, not what was read, and within a transaction the end of the one before.
func TestConfirm(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		confirmed := func() string {
			return db.one("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", db.slot())
		}
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		o := db.options("public.t")
		o.BatchBytes = 4 << 10
		s := db.open(db.config(), o)
		start := confirmed()
		db.exec("INSERT INTO t VALUES (0, '')")
		s.take(1)
		first := s.position
		db.exec("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 100) i")
		if b := s.next(); !b.Partial {
			t.Fatal("the batch is not partial")
		}
		time.Sleep(1500 * time.Millisecond)
		if now := confirmed(); now != start {
			t.Errorf("%s is confirmed before anything is durable; it was %s", now, start)
		}
		s.durable(s.position)
		s.close()
		free(db)
		var p position
		if err := json.Unmarshal(first, &p); err != nil {
			t.Fatal(err)
		}
		if now := confirmed(); now != p.LSN.String() {
			t.Errorf("%s is confirmed, want %s: the end of the transaction before the open one", now, p.LSN)
		}
	})
}

// TestIdleBytes: a busy table beside a quiet captured one moves the position at once when much log was written.
func TestIdleBytes(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE TABLE busy (a text)", "ALTER TABLE busy ALTER a SET STORAGE EXTERNAL")
		s := db.open(db.config(), db.options("public.t"))
		before := s.position
		db.exec("INSERT INTO busy SELECT repeat('x', 100000) FROM generate_series(1, 200)")
		b, err := s.tryNext(idleInterval - 2*time.Second)
		if err != nil || len(b.Changes) > 0 || bytes.Equal(b.Position, before) {
			t.Fatalf("batch %+v, %v", b, err)
		}
		s.durable(b.Position)
		s.close()
		free(db)
		lag := db.one("SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::int8::text FROM pg_replication_slots WHERE slot_name = $1", db.slot())
		var bytes int64
		if _, err := fmt.Sscan(lag, &bytes); err != nil || bytes > 8<<20 {
			t.Errorf("the slot holds %s bytes back", lag)
		}
	})
}

func TestLag(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "ALTER TABLE t ALTER b SET STORAGE EXTERNAL")
		s := db.open(db.config(), db.options("public.t"))
		db.exec("INSERT INTO t SELECT i, repeat('x', 100000) FROM generate_series(1, 20) i")
		lagger := s.src.(sources.Lagger)
		wait := func(what string, ok func(sources.Lag) bool) {
			for deadline := time.Now().Add(2*meterInterval + 40*time.Second); !ok(lagger.Lag()); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: lag is %+v", what, lagger.Lag())
				}
			}
		}
		wait("nothing is read", func(l sources.Lag) bool { return l.Bytes >= 2_000_000 && l.CommitTime == 0 })
		s.take(20)
		wait("all is read", func(l sources.Lag) bool { return l.Bytes >= 0 && l.Bytes < 1_000_000 && l.CommitTime > 0 })
	})
}

// TestGapsOfASlot: what happens to a slot behind our back, and that Resume goes on.
func TestGapsOfASlot(t *testing.T) {
	tests := []struct {
		name string
		harm []string // SLOT is the slot and the publication
		want string
	}{
		{"dropped", []string{"SELECT pg_drop_replication_slot('SLOT')"}, "is gone"},
		{"made anew", []string{"SELECT pg_drop_replication_slot('SLOT')", "SELECT pg_create_logical_replication_slot('SLOT', 'pgoutput')"}, "beyond the checkpoint"},
		{"read by somebody else", []string{"SELECT pg_replication_slot_advance('SLOT', pg_current_wal_lsn())"}, "bytes of log are skipped"},
		{"publication dropped", []string{"DROP PUBLICATION \"SLOT\""}, "publication SLOT is gone"},
	}
	eachServer(t, func(t *testing.T, shared *database) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				db := newDatabase(t, shared.admin)
				db.exec("CREATE TABLE t (a int PRIMARY KEY)")
				s := db.open(db.config(), db.options("public.t"))
				s.close()
				free(db)
				db.exec("INSERT INTO t VALUES (1)")
				for _, statement := range tt.harm {
					db.exec(strings.ReplaceAll(statement, "SLOT", db.slot()))
				}
				o := db.options("public.t")
				o.Position = s.position
				o.Position = isGap(t, db.openError(db.config(), o), strings.ReplaceAll(tt.want, "SLOT", db.slot()))
				s = db.reopen(db.config(), o)
				for range 2 { // at most: the creating position, and the slot's
					if bytes.Contains(s.position, []byte("lsn")) {
						break
					}
					s.durable(s.next().Position)
				}
				db.exec("INSERT INTO t VALUES (2)")
				equal(t, s.take(1), "c public.t [a] -> a=2")
			})
		}
	})
}

// free waits until the slot's last reader is gone.
func free(db *database) {
	db.t.Helper()
	for range 200 {
		if db.one("SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = $1", db.slot()) == "0" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	db.t.Fatal("the slot stays in use")
}

// TestPublicationGoneMidStream: a publication that is dropped while the stream runs is a gap, also where the server only
// warns of it.
func TestPublicationGoneMidStream(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		db.exec("INSERT INTO t VALUES (1)")
		equal(t, s.take(1), "c public.t [a] -> a=1")
		db.exec("DROP PUBLICATION "+db.slot(), "INSERT INTO t VALUES (2)")
		if p := isGap(t, s.nextError(), "publication"); !bytes.Contains(p, []byte(`"replace":true`)) {
			t.Errorf("resume is %s", p)
		}
	})
}

// TestConnectionLost: the loss of the connection is worth a retry, which goes on where the checkpoint is.
func TestConnectionLost(t *testing.T) {
	eachServer(t, func(t *testing.T, db *database) {
		db.exec("CREATE TABLE t (a int PRIMARY KEY)")
		s := db.open(db.config(), db.options("public.t"))
		db.exec("INSERT INTO t VALUES (1)")
		equal(t, s.take(1), "c public.t [a] -> a=1")
		db.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '" + db.slot() + "'")
		isRetryable(t, s.nextError(), "server")
		s.close()
		o := db.options("public.t")
		o.Position = s.position
		s = db.reopen(db.config(), o)
		// The connection for queries is opened again by itself.
		db.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'weft' AND backend_type = 'client backend'")
		db.exec("INSERT INTO t VALUES (2)")
		equal(t, s.take(1), "c public.t [a] -> a=2")
	})
}
