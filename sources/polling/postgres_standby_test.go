package polling

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// pgServer is a server of the test's own.
type pgServer struct {
	t         *testing.T
	bin, data string
	port      int
	owner     *syscall.Credential
	log       bytes.Buffer
	cmd       *exec.Cmd
}

func (s *pgServer) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// program makes a command that runs as the server's user, since a server refuses to run as root.
func (s *pgServer) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = filepath.Dir(s.data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

func (s *pgServer) start(settings ...string) {
	s.t.Helper()
	args := []string{"-D", s.data, "-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(s.port), "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "max_prepared_transactions=5"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	s.cmd = s.program("postgres", args...)
	s.cmd.Stderr = &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.stop)
	for range 300 {
		conn, err := pgx.Connect(s.t.Context(), s.url("postgres"))
		if err == nil {
			conn.Close(s.t.Context())
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	s.t.Fatalf("the server does not start:\n%s", s.log.String())
}

func (s *pgServer) stop() {
	if s.cmd != nil {
		s.cmd.Process.Signal(syscall.SIGINT)
		s.cmd.Wait()
		s.cmd = nil
	}
}

func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newReplicated starts a primary and a standby of it.
func newReplicated(t *testing.T) (primary, standby *pgServer) {
	bin := needServer(t, "WEFT_TEST_POSTGRES_BIN")
	dir, err := os.MkdirTemp("", "weft-standby-") // t.TempDir lies in a folder that another user may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var owner *syscall.Credential
	if os.Geteuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
		owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	primary = &pgServer{t: t, bin: bin, data: filepath.Join(dir, "primary"), port: freePort(t), owner: owner}
	standby = &pgServer{t: t, bin: bin, data: filepath.Join(dir, "standby"), port: freePort(t), owner: owner}
	if out, err := primary.program("initdb", "-D", primary.data, "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	// A copy of a cluster that was never started is as good as a backup.
	copied := exec.Command("cp", "-a", primary.data, standby.data)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	signal := standby.program("/usr/bin/touch", filepath.Join(standby.data, "standby.signal"))
	signal.Path = "/usr/bin/touch"
	if out, err := signal.CombinedOutput(); err != nil {
		t.Fatalf("touch: %v\n%s", err, out)
	}
	primary.start("wal_level=replica", "max_wal_senders=5", "wal_keep_size=256MB")
	standby.start("hot_standby=on", "max_standby_streaming_delay=-1", fmt.Sprintf("primary_conninfo=host=127.0.0.1 port=%d user=postgres", primary.port))
	return primary, standby
}

// A standby is polled while its primary is written to, with savepoints and prepared transactions; and it may lag.
func TestPostgresStandby(t *testing.T) {
	t.Parallel() // it has servers of its own
	primary, standby := newReplicated(t)
	for _, watermark := range []string{"weft_xid", ""} {
		t.Run("watermark "+watermark, func(t *testing.T) {
			db := &pgDatabase{t: t, admin: primary.url("postgres"), name: "shop" + watermark}
			db.opts = sources.OpenOptions{Capture: "shop", Tables: []string{"public.*"}, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10,
				Logger: hclog.NewNullLogger()}
			db.create()
			c := db.config(watermark)
			db.prepare(c, "items", "id int8 PRIMARY KEY, body text, updated_at timestamptz NOT NULL", "id")
			replica := &PostgresConfig{URL: standby.url(db.name), Watermark: watermark, Interval: 2 * time.Millisecond}
			wait := func() {
				t.Helper()
				var end string
				conn := db.connect()
				if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_lsn()").Scan(&end); err != nil {
					t.Fatal(err)
				}
				for range 200 {
					other, err := pgx.Connect(t.Context(), standby.url("postgres"))
					if err != nil {
						t.Fatal(err)
					}
					var replayed bool
					err = other.QueryRow(t.Context(), "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end).Scan(&replayed)
					other.Close(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					if replayed {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
				t.Fatal("the standby does not follow")
			}
			wait()
			src := db.start(replica)
			pgExperiment(db, src).run(t)

			// It lags: a position that the primary gave is waited for.
			admin := func(statement string) {
				t.Helper()
				db.run(standby.url("postgres"), statement)
			}
			wait()
			ahead := db.start(c)
			admin("SELECT pg_wal_replay_pause()")
			db.exec("INSERT INTO items (id, body, updated_at) VALUES (-1, 'before', now())")
			db.opts.Position = next(t, ahead).Position
			db.exec("INSERT INTO items (id, body, updated_at) VALUES (-2, 'after', now())")
			src = db.open(replica)
			nothing(t, src)
			admin("SELECT pg_wal_replay_resume()")
			if got := pgShow(next(t, src)); !strings.HasPrefix(got, "items -2 after") {
				t.Errorf("got %s", got)
			}
			var findings []string
			for _, f := range replica.Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: []string{"public.*"}}) {
				findings = append(findings, f.Text)
			}
			has(t, strings.Join(findings, "\n"), "a standby, whose rows come as it replays them")
			reconcileStandby(t, db, c, replica, wait, admin)
		})
	}
}

// reconcileStandby: deleted rows are found on a standby, and what it does not show yet counts neither as deleted nor as there.
func reconcileStandby(t *testing.T, db *pgDatabase, primary, replica *PostgresConfig, wait func(), admin func(statement string)) {
	var log bytes.Buffer
	r := &reconciled{t: t, held: newFakeHolder(), exec: db.exec, orders: "orders", name: "public.orders"}
	db.opts = sources.OpenOptions{Capture: "shop", Tables: []string{"public.orders"}, BatchBytes: 64 << 10, ReadAheadBytes: 64 << 10,
		Held: r.held, Existing: true, Logger: hclog.New(&hclog.LoggerOptions{Output: &log})}
	open := func(c *PostgresConfig) {
		r.src = db.open(c).(*source)
		r.src.reconcile.every, r.src.reconcile.next = 20*time.Millisecond, time.Now()
	}
	position := func() sources.Position {
		t.Helper()
		p, err := r.src.position.encode()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	db.prepare(primary, "orders", "id int8 PRIMARY KEY, v text", "id")
	r.insert(0, 1200)
	wait()
	open(replica)
	r.until(1200)
	r.quiet()
	r.exec("DELETE FROM orders WHERE id IN (0, 7, 650)")
	wantKeys(t, r.until(1197), "0", "7", "650")

	admin("SELECT pg_wal_replay_pause()")
	r.exec("DELETE FROM orders WHERE id = 8")
	r.quiet()
	admin("SELECT pg_wal_replay_resume()")
	wantKeys(t, r.until(1196), "8")

	// The primary was read before: the standby lacks a row that the log holds.
	wait()
	admin("SELECT pg_wal_replay_pause()")
	r.insert(5000, 5001)
	db.opts.Position = position()
	open(primary)
	r.until(1197)
	db.opts.Position = position()
	open(replica)
	r.quiet()
	has(t, log.String(), "the standby lags behind what was captured already, and is waited for")
	admin("SELECT pg_wal_replay_resume()")
	r.insert(5001, 5002)
	wantKeys(t, r.until(1198))
	r.exec("DELETE FROM orders WHERE id = 5000")
	wantKeys(t, r.until(1197), "5000")
}
