package postgres

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestShutdown restarts a server of its own: a server that shuts down waits until all that it has sent is confirmed, which
// urgent batches bring about. The test needs initdb and pg_ctl in WEFT_TEST_POSTGRES_BIN.
func TestShutdown(t *testing.T) {
	server := startServer(t)
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)")
	s := db.open(db.config(), db.options("public.t"))
	db.exec("INSERT INTO t VALUES (1)")
	equal(t, s.take(1), "c public.t [a] -> a=1")
	stopped := make(chan error, 1)
	go func() { stopped <- server.ctl("stop", "-m", "fast") }()
	urgent := 0
	for {
		b, err := s.tryNext(20 * time.Second)
		if err != nil {
			isRetryable(t, err)
			break
		}
		if b.Urgent {
			urgent++
		}
		s.durable(b.Position)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if urgent == 0 || urgent > 10 {
		t.Errorf("%d urgent batches", urgent)
	}
	s.close()
	o := db.options("public.t")
	o.Position = s.position
	if err := server.ctl("start"); err != nil {
		t.Fatal(err)
	}
	again := db.reopen(db.config(), o)
	db.reconnect()
	db.exec("INSERT INTO t VALUES (2)")
	equal(t, again.take(1), "c public.t [a] -> a=2")
}

// TestPromotion: a server that was a standby and is promoted goes on on a timeline of its own, which is no gap where its slot
// survived. While it is a standby it is refused.
func TestPromotion(t *testing.T) {
	server := startServer(t)
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)")
	s := db.open(db.config(), db.options("public.t"))
	db.exec("INSERT INTO t VALUES (1)")
	equal(t, s.take(1), "c public.t [a] -> a=1")
	s.durable(s.position)
	s.close()
	db.exec("INSERT INTO t VALUES (2)")
	if err := server.ctl("stop", "-m", "fast"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.ctl("start"); err != nil {
		t.Fatal(err)
	}
	o := db.options("public.t")
	o.Position = s.position
	isFatal(t, db.openError(db.config(), o), "standby")
	if err := server.ctl("promote"); err != nil {
		t.Fatal(err)
	}
	s = db.reopen(db.config(), o)
	equal(t, s.take(1), "c public.t [a] -> a=2")
	db.reconnect()
	db.exec("INSERT INTO t VALUES (3)")
	equal(t, s.take(1), "c public.t [a] -> a=3")
	if !strings.Contains(string(s.position), `"timeline":2`) {
		t.Errorf("position %s", s.position)
	}
	s.close()
	// A position beyond the place where the old timeline ended was never part of this one.
	beyond, err := decodePosition(s.position)
	if err != nil {
		t.Fatal(err)
	}
	beyond.Timeline = 1
	o.Position = beyond.encode()
	isGap(t, db.openError(db.config(), o), "left timeline 1")
}

// TestSlotLost: a slot that needs more log than the server keeps is lost, and is replaced by the gap's Resume.
func TestSlotLost(t *testing.T) {
	server := startServer(t)
	db := newDatabase(t, server.url)
	db.exec("CREATE TABLE t (a int PRIMARY KEY)")
	s := db.open(db.config(), db.options("public.t"))
	s.close()
	free(db)
	lose(db)
	o := db.options("public.t")
	o.Position = s.position
	o.Position = isGap(t, db.openError(db.config(), o), "lost", "max_slot_wal_keep_size")
	s = db.reopen(db.config(), o)
	for range 2 {
		s.durable(s.next().Position)
	}
	db.exec("INSERT INTO t VALUES (2)")
	equal(t, s.take(1), "c public.t [a] -> a=2")
}

// lose makes the server's one slot lose its WAL.
func lose(db *database) {
	db.t.Helper()
	db.exec("INSERT INTO t VALUES (1)", "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
	for range 4 {
		db.exec("SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(false, '', '')")
	}
	db.exec("CHECKPOINT")
	if status := db.one("SELECT wal_status FROM pg_replication_slots"); status != "lost" {
		db.t.Fatalf("the slot is %s", status)
	}
}

// nobody is the user that runs the server where the test runs as root, which the server refuses.
const nobody = 65534

type localServer struct{ bin, data, url, options string }

func (s *localServer) ctl(command string, args ...string) error {
	out, err := s.command("pg_ctl", append([]string{"-D", s.data, "-l", s.data + ".log", "-w", "-o", s.options, command}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_ctl %s: %w: %s", command, err, out)
	}
	return nil
}

func (s *localServer) command(name string, args ...string) *exec.Cmd {
	name = filepath.Join(s.bin, name)
	if os.Getuid() == 0 {
		args = append([]string{fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups", name}, args...)
		name = "setpriv"
	}
	c := exec.Command(name, args...)
	c.Dir = os.TempDir()
	return c
}

// startServer makes and starts a server that is stopped and removed with the test. Settings are lines of its postgresql.conf.
func startServer(t *testing.T, settings ...string) *localServer {
	t.Helper()
	bin := os.Getenv("WEFT_TEST_POSTGRES_BIN")
	if bin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("WEFT_TEST_POSTGRES_BIN is not set: run the tests by make test")
		}
		t.Skip("WEFT_TEST_POSTGRES_BIN is not set: no programs to make a server of the test's own with")
	}
	dir, err := os.MkdirTemp("", "weft-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s := &localServer{bin: bin, data: filepath.Join(dir, "data"), url: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	if out, err := s.command("initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	s.options = fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off", port)
	// In the file, where ALTER SYSTEM wins over it.
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conf.WriteString("\nwal_level = logical\n" + strings.Join(settings, "\n") + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := conf.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.ctl("start"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.ctl("stop", "-m", "immediate"); err != nil {
			t.Error(err)
		}
	})
	return s
}
