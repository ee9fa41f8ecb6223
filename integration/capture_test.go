package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// registrar types commands while a daemon runs on an own database and a log.
type registrar struct {
	t            *testing.T
	name, config string
	url          string // of the database; the registration has it as ${SHOP_URL}
	conn         *pgx.Conn
	d            *daemon
}

func newRegistrar(t *testing.T, to logKind) *registrar {
	t.Helper()
	name := fmt.Sprintf("reg_%x", rand.Uint32())
	r := &registrar{t: t, name: name, url: newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)}
	var err error
	if r.conn, err = pgx.Connect(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close(context.Background()) })
	execute(t, r.conn, "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE invoices (id int PRIMARY KEY)")
	// A fleet of its own, since other tests' daemons are at the same log.
	r.config = writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: 1}\nfleet: %[2]s\nadmin: {enabled: false}\n", to.config, name)
	if to.name == "kafka" {
		t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	}
	r.start()
	return r
}

func (r *registrar) start() {
	r.t.Helper()
	bin, err := built()
	if err != nil {
		r.t.Fatal(err)
	}
	r.d = startBinary(r.t, bin, r.config, "SHOP_URL="+r.url)
	eventually(r.t, r.d, 30*time.Second, "the daemon has its log", func(context.Context) (bool, error) {
		code, out := r.weft(r.url, "capture", "list")
		if code != 0 {
			return false, errors.New(out)
		}
		return true, nil
	})
}

// weft runs a command with this value of SHOP_URL.
func (r *registrar) weft(url string, args ...string) (code int, out string) {
	r.t.Helper()
	bin, err := built()
	if err != nil {
		r.t.Fatal(err)
	}
	var both bytes.Buffer
	cmd := exec.CommandContext(r.t.Context(), bin, append(args, "-c", r.config)...)
	cmd.Env = append(os.Environ(), "SHOP_URL="+url)
	cmd.Stdout, cmd.Stderr = &both, &both
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	if strings.Contains(both.String(), "postgres:postgres") {
		r.t.Errorf("weft %q prints the password:\n%s", args, &both)
	}
	return cmd.ProcessState.ExitCode(), both.String()
}

// must is weft for what must succeed and print something.
func (r *registrar) must(wants string, args ...string) {
	r.t.Helper()
	code, out := r.weft(r.url, args...)
	if code != 0 || !strings.Contains(out, wants) {
		r.t.Fatalf("weft %q: exit code %d, want %q in\n%s\nthe daemon:\n%s", args, code, wants, out, r.d.messages())
	}
}

func (r *registrar) add() {
	r.t.Helper()
	r.must("is registered", "capture", "add", r.name, "--source", "postgres", "--set", "url=${SHOP_URL}", "--table", "public.orders")
}

// leftAtServer counts the capture's slot and publication.
func (r *registrar) leftAtServer() (slots, publications int) {
	r.t.Helper()
	err := r.conn.QueryRow(r.t.Context(), `SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
		(SELECT count(*) FROM pg_publication)`).Scan(&slots, &publications)
	if err != nil {
		r.t.Fatal(err)
	}
	return slots, publications
}

func eachLogKind(t *testing.T, f func(t *testing.T, to logKind)) {
	for name, to := range map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, to(t))
		})
	}
}

// TestRegister: a table is registered, another one added, and the capture removed while the daemon runs.
func TestRegister(t *testing.T) {
	eachLogKind(t, func(t *testing.T, to logKind) {
		r := newRegistrar(t, to)
		r.add()
		orders := pulse{insert: inserter(r.conn, "orders"), broker: to.broker, topic: r.name + ".public.orders"}
		orders.await(t, r.d, 30*time.Second)
		r.must("is extended", "capture", "add", r.name, "--table", "public.invoices")
		invoices := pulse{insert: inserter(r.conn, "invoices"), broker: to.broker, topic: r.name + ".public.invoices"}
		invoices.await(t, r.d, 30*time.Second)
		orders.await(t, r.d, 30*time.Second)
		r.must("running", "status")
		r.must("0 problems", "check", r.name)

		// What the log holds of it names the variable, and not its value.
		records, err := readTopics(t.Context(), to.broker, "__weft.captures")
		if err != nil {
			t.Fatal(err)
		}
		named := false
		for _, record := range records {
			if bytes.Contains(record.value, []byte("postgres:postgres")) {
				t.Errorf("a registration holds a password: %s", record.value)
			}
			named = named || bytes.Contains(record.value, []byte(`"url":"${SHOP_URL}"`))
		}
		if !named {
			t.Errorf("no registration names the variable: %q", records)
		}

		if slots, publications := r.leftAtServer(); slots != 1 || publications != 1 {
			t.Errorf("before the removal: %d slots, %d publications", slots, publications)
		}
		r.must("dropped slot weft_"+r.name+"\ndropped publication weft_"+r.name+"\ncapture "+r.name+" is removed; its topics are still there",
			"capture", "remove", r.name, "--yes")
		if slots, publications := r.leftAtServer(); slots != 0 || publications != 0 {
			t.Errorf("after the removal: %d slots, %d publications", slots, publications)
		}
		if code, out := r.weft(r.url, "checkpoint", "get", r.name); code != 1 || !strings.Contains(out, "no checkpoint") {
			t.Errorf("its checkpoint: %d, %s", code, out)
		}
		// And it can be registered again, from the beginning.
		r.add()
		orders.await(t, r.d, 30*time.Second)
		r.must("is removed", "capture", "remove", r.name, "--yes")
		r.d.stop()
	})
}

// TestRemoveWhileTheServerIsDown: the capture stops and stays registered as one that is being removed, over a restart of the
// daemon too; the same command finishes it.
func TestRemoveWhileTheServerIsDown(t *testing.T) {
	eachLogKind(t, func(t *testing.T, to logKind) {
		r := newRegistrar(t, to)
		r.add()
		orders := pulse{insert: inserter(r.conn, "orders"), broker: to.broker, topic: r.name + ".public.orders"}
		orders.await(t, r.d, 30*time.Second)
		down := regexp.MustCompile(`127\.0\.0\.1:[0-9]+/`).ReplaceAllString(r.url, "127.0.0.1:1/") // where no server is
		code, out := r.weft(down, "capture", "remove", r.name, "--yes")
		if code != 3 || !strings.Contains(out, "run the same command again to finish") || !strings.Contains(out, "drop what it made at its source") {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
		r.must("removing", "capture", "list")
		r.must("removing", "status")
		if code, out := r.weft(r.url, "capture", "add", r.name, "--table", "public.invoices"); code != 2 || !strings.Contains(out, "weft capture remove "+r.name) {
			t.Errorf("adding to it: exit code %d:\n%s", code, out)
		}
		r.d.stop()
		r.start()
		time.Sleep(5 * time.Second) // longer than the daemon takes to begin what it finds
		if slots, publications := r.leftAtServer(); slots != 1 || publications != 1 {
			t.Errorf("before the removal is finished: %d slots, %d publications", slots, publications)
		}
		r.must("dropped slot weft_"+r.name, "capture", "remove", r.name, "--yes")
		if slots, publications := r.leftAtServer(); slots != 0 || publications != 0 {
			t.Errorf("after the removal: %d slots, %d publications", slots, publications)
		}
		if code, out := r.weft(r.url, "capture", "list"); code != 0 || strings.Contains(out, r.name) {
			t.Errorf("list: exit code %d:\n%s", code, out)
		}
		r.d.stop()
	})
}

// TestFleet: two daemons share what is registered. When the one that runs a capture is killed, the other takes it over; when that
// one is stopped, the next start of the first does.
func TestFleet(t *testing.T) {
	t.Parallel()
	to := kafkaLog(t)
	r := newRegistrar(t, to)
	first := r.d
	r.start()
	second := r.d
	r.add()
	orders := pulse{insert: inserter(r.conn, "orders"), broker: to.broker, topic: r.name + ".public.orders"}
	orders.await(t, first, time.Minute)
	runs := func() string {
		_, out := r.weft(r.url, "status", "--json")
		return out
	}
	firstRuns := strings.Contains(runs(), fmt.Sprintf(":%d\"", first.cmd.Process.Pid))
	if !firstRuns && !strings.Contains(runs(), fmt.Sprintf(":%d\"", second.cmd.Process.Pid)) {
		t.Fatalf("neither runs it: %s", runs())
	}
	if !firstRuns {
		first, second = second, first
	}
	first.kill()
	killed := time.Now()
	orders.await(t, second, 90*time.Second)
	t.Logf("taken over %s after a SIGKILL", time.Since(killed).Round(time.Second))
	r.start()
	second.stop()
	stopped := time.Now()
	orders.await(t, r.d, 90*time.Second)
	t.Logf("taken over %s after a stop", time.Since(stopped).Round(time.Second))
	seen := map[string]string{}
	records, err := readTopics(t.Context(), to.broker, r.name+".public.orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		var value struct{ Op string }
		if err := decode(record.value, &value); err != nil {
			t.Fatal(err)
		}
		if value.Op == "r" { // the snapshot reads also rows whose insert has been streamed
			continue
		}
		if first, twice := seen[string(record.key)]; twice {
			t.Errorf("a row is in the topic twice:\n%s\n%s", first, record.value)
		}
		seen[string(record.key)] = string(record.value)
	}
	r.must("is removed", "capture", "remove", r.name, "--yes")
	r.d.stop()
}
