package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestCheck: a database that is wrong in five ways; the remedies, pasted as `weft check` prints them, make it right, and then
// the capture runs.
func TestCheck(t *testing.T) {
	to := kafkaLog(t)
	for _, name := range []string{"OLDEST", "NEWEST"} {
		t.Run(strings.ToLower(name), func(t *testing.T) { checkAndMend(t, server(t, "WEFT_TEST_POSTGRES_"+name), to) })
	}
}

func checkAndMend(t *testing.T, postgres string, to logKind) {
	name := fmt.Sprintf("check_%x", rand.Uint32())
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	address := newDatabase(t, postgres, name)
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Exec(context.Background(), "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
			t.Error(err)
		}
		c.Close(context.Background())
	})
	execute(t, c, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD 'secret'; CREATE TABLE orders (id int PRIMARY KEY);
		CREATE TABLE visits (page text); CREATE TABLE events (id int NOT NULL, what text); CREATE UNIQUE INDEX events_id ON events (id);
		CREATE UNLOGGED TABLE "odd""; --" (id int PRIMARY KEY);
		CREATE PUBLICATION theirs FOR TABLE orders WITH (publish = 'insert')`, name))
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal("the server's URL is not valid")
	}
	u.User = url.UserPassword(name, "secret")
	config := writeConfig(t, `log: %s
topics: {prefix: %s, partitions: 1}
captures:
  - {name: %[2]s, source: {type: postgres, url: %q, publication: theirs}, tables: ["public.*"]}
`, to.config, name, u)

	code, out := runCheck(t, config)
	problems := strings.Count(out, "\n  problem ")
	if code != 1 || problems < 5 {
		t.Fatalf("exit code %d and %d problems:\n%s", code, problems, out)
	}
	if strings.Contains(out, "secret") {
		t.Errorf("the password is printed:\n%s", out)
	}
	problem := false
	for line := range strings.Lines(out) {
		remedy, ok := strings.CutPrefix(line, "           ")
		switch {
		case !ok:
			problem = strings.HasPrefix(line, "  problem ")
		case problem: // warnings are of the server, which others use too
			execute(t, c, remedy)
		}
	}
	if code, out = runCheck(t, config); code != 0 {
		t.Fatalf("after the remedies, exit code %d:\n%s", code, out)
	}
	d := startDaemon(t, config)
	pulse := pulse{insert: inserter(c, "orders"), broker: to.broker, topic: name + ".public.orders"}
	pulse.await(t, d, time.Minute)
	// What the remedies did to the tables, the application does not feel.
	execute(t, c, "INSERT INTO visits VALUES ('a'); UPDATE visits SET page = 'b'; DELETE FROM visits; INSERT INTO events VALUES (1); UPDATE events SET what = ''")
	if code, out = runCheck(t, config); code != 0 || !strings.Contains(out, "reads from it") {
		t.Errorf("while the daemon runs, exit code %d:\n%s", code, out)
	}
	d.stop()
	if code, out = runCheck(t, config); code != 0 {
		t.Errorf("after the daemon, exit code %d:\n%s", code, out)
	}
}

// runCheck runs `weft check` and returns its exit code and what it printed.
func runCheck(t *testing.T, config string) (code int, out string) {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	var both bytes.Buffer
	cmd := exec.CommandContext(t.Context(), bin, "check", "-c", config)
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), both.String()
}
