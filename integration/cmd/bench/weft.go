package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/integration/services"
)

// profiler is added to the daemon's main package for a build that is profiled, so that the product needs no switch for it.
//
//go:embed profiler.go.txt
var profiler []byte

// build builds the daemon of this repository, with its defaults.
func build(ctx context.Context, dir string, profiled bool) (string, error) {
	root, err := services.RepoRoot()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "weft")
	args := []string{"build", "-o", binary}
	if profiled {
		added := filepath.Join(dir, "profiler.go")
		if err := os.WriteFile(added, profiler, 0o600); err != nil {
			return "", err
		}
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "cmd/weft/profiler.go"): added}})
		if err != nil {
			return "", err
		}
		file := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(file, overlay, 0o600); err != nil {
			return "", err
		}
		args = append(args, "-overlay", file)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/weft")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build weft: %w\n%s", err, out)
	}
	return binary, nil
}

// daemon is a running `weft run`.
type daemon struct {
	capture string
	cmd     *exec.Cmd
	done    chan struct{}
	err     error
	log     bytes.Buffer
}

// start runs the daemon with one capture of the table and nothing but what it must be told. snapshot is the capture's setting;
// profile is a directory for its profiles, or empty.
func (b *bench) start(ctx context.Context, capture, snapshot, profile string) (*daemon, error) {
	config := filepath.Join(b.dir, capture+".yaml")
	text := fmt.Sprintf("log: {brokers: [%q]}\ntopics: {prefix: %s}\n%scaptures:\n  - name: %s\n    source: %s\n    tables: %s\n    snapshot: %s\n",
		b.kafka, capture, b.settings, capture, b.source, b.tables, snapshot)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	d := &daemon{capture: capture, cmd: exec.CommandContext(ctx, b.binary, "run", "-c", config), done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.cmd.Env = append(os.Environ(), "WEFT_PROFILE="+profile)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return d, nil
}

func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-d.done
	if d.err != nil {
		return fmt.Errorf("the daemon ended with %w:\n%s", d.err, &d.log)
	}
	return nil
}

var errEnded = errors.New("its process has exited")

// ended tells of a daemon that has ended by itself.
func (d *daemon) ended() error {
	select {
	case <-d.done:
		return fmt.Errorf("the daemon ended by itself: %w\n%s", errors.Join(errEnded, d.err), &d.log)
	default:
		return nil
	}
}

// cpu is the user and system time that the process has used.
func (d *daemon) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), ") ") // https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read %q", text)
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime: fields 14 and 15
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil // USER_HZ is 100 on every Linux that Go runs on
}

// memory is a figure of the process's status, in bytes: VmHWM is the most memory that it has had, RssFile what it has now of its
// own program and of libraries, which the kernel can take away and share.
// https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
func (d *daemon) memory(figure string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), figure+":")
	fields := strings.Fields(after)
	if len(fields) < 2 || fields[1] != "kB" {
		return 0, fmt.Errorf("no %s in the process's status", figure)
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	return kb << 10, err
}

// endProfile makes a profiled daemon write its profiles.
func (d *daemon) endProfile(dir string) error {
	last := filepath.Join(dir, "heap.pprof")
	if err := os.Remove(last); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := d.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(last); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := d.ended(); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// drainWeft drains the backlog from the moment that the daemon's slot is in use until the checkpoint that covers the last
// change can be read by a read_committed consumer: then so can the change.
func (b *bench) drainWeft(ctx context.Context, round int) (drain, error) {
	m, err := b.run(ctx, round, "never", covers(b.target))
	m.changes = b.changes
	return m, err
}

// run runs the daemon, and measures it from the moment that its slot is in use until a checkpoint is done that tells of the end.
func (b *bench) run(ctx context.Context, round int, snapshot string, done func(checkpoint) bool) (drain, error) {
	profile := ""
	if round == b.rounds-1 {
		profile = b.profile
	}
	d, err := b.start(ctx, b.capture(round), snapshot, profile)
	if err != nil {
		return drain{}, err
	}
	for active := false; !active; time.Sleep(time.Millisecond) {
		if err := d.ended(); err != nil {
			return drain{}, err
		}
		err := b.server.QueryRow(ctx, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name LIKE '%' || $1 || '%' AND plugin = 'pgoutput'", d.capture).Scan(&active)
		if err != nil {
			return drain{}, err
		}
	}
	began := time.Now()
	before, err := d.cpu()
	if err != nil {
		return drain{}, err
	}
	if err := b.awaitCheckpoint(ctx, d, done); err != nil {
		return drain{}, err
	}
	m := drain{took: time.Since(began)}
	after, err := d.cpu()
	if err != nil {
		return drain{}, err
	}
	m.cpu = after - before
	if m.peakRSS, err = d.memory("VmHWM"); err != nil {
		return drain{}, err
	}
	if m.fileRSS, err = d.memory("RssFile"); err != nil {
		return drain{}, err
	}
	if profile != "" {
		if err := d.endProfile(profile); err != nil {
			return drain{}, fmt.Errorf("profile: %w", err)
		}
	}
	return m, d.stop()
}

// caughtUp waits until the daemon has committed what is now in the server's log.
func (b *bench) caughtUp(ctx context.Context, d *daemon) error {
	var end uint64
	if err := b.db.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").Scan(&end); err != nil {
		return err
	}
	return b.awaitCheckpoint(ctx, d, covers(end))
}

// checkpoint is what is measured by.
type checkpoint struct {
	Changes  int64
	Position struct {
		LSN        string
		Reconciled int64
	}
	Snapshot struct {
		EndedAt *time.Time `json:"ended_at"`
		Tables  []struct {
			Rows int64
		}
	}
}

// covers is for a checkpoint at end or behind it. The end of a log may lie a few bytes behind that of its last transaction.
func covers(end uint64) func(checkpoint) bool {
	return func(cp checkpoint) bool {
		var high, low uint64
		_, err := fmt.Sscanf(cp.Position.LSN, "%X/%X", &high, &low)
		return err == nil && high<<32|low >= end-256
	}
}

// awaitCheckpoint waits for a committed checkpoint of the capture that is the wanted one.
func (b *bench) awaitCheckpoint(ctx context.Context, d *daemon, wanted func(checkpoint) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka), kgo.ConsumeTopics("__weft.checkpoints"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		if err := errors.Join(ctx.Err(), d.ended()); err != nil {
			return fmt.Errorf("wait for a checkpoint: %w", err)
		}
		var found bool
		fetches.EachRecord(func(r *kgo.Record) {
			var cp checkpoint
			if !found && string(r.Key) == d.capture && json.Unmarshal(r.Value, &cp) == nil {
				found = wanted(cp)
			}
		})
		if found {
			return nil
		}
	}
}
