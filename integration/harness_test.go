package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/integration/services"
)

// need ends a test that lacks something of its surroundings: skipped on a developer's machine, failed in CI.
func need(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// server is the value of an environment variable that names a server.
func server(t testing.TB, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		need(t, name+" (make test sets it; or: services run -- go test)")
	}
	return v
}

var temp string // of the whole run

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if temp, err = os.MkdirTemp("", "weft-integration-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(temp)
		return m.Run()
	}())
}

// built is the path of the daemon, which the first call builds, unless WEFT_TEST_BINARY names one.
var built = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("WEFT_TEST_BINARY"); bin != "" {
		return bin, nil
	}
	root, err := services.RepoRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(temp, "weft")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/weft")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build weft: %w\n%s", err, out)
	}
	return bin, nil
})

// weft runs a command of the binary to its end and returns its standard output.
func weft(t testing.TB, args ...string) string {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("weft %q: %v\n%s%s", args, err, &stdout, &stderr)
	}
	return stdout.String()
}

// daemon is a running `weft run`, whose messages go to a file that outlives restarts.
type daemon struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// startDaemon runs the daemon with the config file; the test's end kills it should it still run.
func startDaemon(t testing.TB, config string) *daemon {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return startBinary(t, bin, config)
}

// startBinary is startDaemon for another build, with more environment.
func startBinary(t testing.TB, bin, config string, env ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(bin, "run", "-c", config), log: config + ".log", done: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), env...)
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait() // stop looks at the state that it leaves
		close(d.done)
	}()
	t.Cleanup(d.kill)
	return d
}

// alive ends the test when the daemon has ended by itself.
func (d *daemon) alive() {
	d.t.Helper()
	select {
	case <-d.done:
		d.t.Fatalf("the daemon ended by itself (%v):\n%s", d.cmd.ProcessState, d.messages())
	default:
	}
}

// kill ends the daemon as a crash of the machine would, as far as the process can tell.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.done
}

// stop asks the daemon to end, which it must do with code 0 within 10 seconds.
func (d *daemon) stop() {
	d.t.Helper()
	began := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatalf("stop the daemon: %v\n%s", err, d.messages())
	}
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		d.kill()
		d.t.Fatalf("the daemon does not end within 10 s of SIGTERM:\n%s", d.messages())
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Fatalf("the daemon ended with code %d after SIGTERM, want 0:\n%s", code, d.messages())
	}
	d.t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
}

// messages are the last ones.
func (d *daemon) messages() []byte {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-6000):]
}

// eventually calls f until it reports true, and fails the test after the time limit with the last error.
func eventually(t testing.TB, d *daemon, limit time.Duration, what string, f func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		ok, err := f(ctx)
		if ok && err == nil {
			return
		}
		d.alive()
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s (last: %v); the daemon's messages:\n%s", what, limit, err, d.messages())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// writeConfig writes a config file into a folder of the test's own and returns its path.
func writeConfig(t testing.TB, format string, args ...any) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "weft.yaml")
	text := fmt.Appendf(nil, format, args...)
	text = fmt.Appendf(text, "\nstate: {dir: %q}\n", filepath.Join(dir, "state"))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// logKind is one of the two kinds of log that the daemon writes to.
type logKind struct {
	name string
	// config is the config file's log block, broker the address that clients connect to.
	config, broker string
}

func kafkaLog(t testing.TB) logKind {
	t.Helper()
	address := server(t, "WEFT_TEST_KAFKA")
	return logKind{name: "kafka", config: fmt.Sprintf("{brokers: [%q]}", address), broker: address}
}

func embeddedLog(t testing.TB) logKind {
	t.Helper()
	port, err := services.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	return logKind{
		name:   "embedded",
		config: fmt.Sprintf("{embedded: {dir: %q, listen: %q}}", filepath.Join(t.TempDir(), "log"), address),
		broker: address,
	}
}
