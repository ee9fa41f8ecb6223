package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"weft/integration/services"
)

// edit changes a source file of the daemon for one build. The text old must be there exactly once, so that an edit that
// the source has outgrown fails its test instead of doing nothing.
type edit struct{ file, old, new string }

// failpoint is a place in the daemon where it can be told to kill itself as SIGKILL would: by WEFT_FAILPOINT=NAME:N, at the
// N-th pass. The product has no such places: they are built in here.
type failpoint struct {
	name string
	edit
	embedded, kafka bool // the kinds of log whose delivery passes there
}

// at makes the edit that puts a failpoint before a statement.
func at(name, file, statement string) failpoint {
	return failpoint{
		name:     name,
		edit:     edit{file, statement, fmt.Sprintf("sources.Failpoint(%q)\n%s", name, statement)},
		embedded: true, kafka: true,
	}
}

func (f failpoint) only(log string) failpoint {
	f.embedded, f.kafka = log == "embedded", log == "kafka"
	return f
}

var failpoints = []failpoint{
	at("slot announced, not made", "sources/postgres/source.go", `if start, err = createSlot(ctx, conn, s.config.Slot); err != nil {`),
	at("slot made, no position in it committed", "sources/postgres/source.go", `s.log.Info("made the replication slot; changes committed from here on are captured"`),
	at("inside a batch", "cmd/weft/internal/pipeline/capture.go", `if err := w.Write(ctx, &changes[i]); err != nil {`),
	at("before the checkpoint is written", "sink/writer.go", `w.cl.Produce(w.ctx, &kgo.Record{Topic: checkpoint.Topic,`),
	at("checkpoint written, transaction open", "sink/transactional.go", `if err := t.settle(ctx); err != nil {`).only("kafka"),
	at("records synced, no checkpoint", "sink/sequenced.go", `if s.all || s.w.o.Polls && all || passed {`).only("embedded"),
	at("committed, source not told", "cmd/weft/internal/pipeline/capture.go", `if err := src.Durable(position); err != nil {`),
	at("source told", "cmd/weft/internal/pipeline/capture.go", `progress(progressOf(w))
		return nil
	}`),
	at("while resuming, writer fenced", "sink/writer.go", `cp, ok, err := checkpoint.LoadOne(ctx, w.cl, w.o.Capture)`),
	at("while resuming, checkpoint read", "sink/writer.go", `if w.gap, err = w.delivery.resume(ctx, cp); err != nil {`),
}

// failpointFile is added to package sources, which all others import.
const failpointFile = `package sources

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var passes atomic.Int64

func Failpoint(name string) {
	at, n, ok := strings.Cut(os.Getenv("WEFT_FAILPOINT"), ":")
	if !ok || at != name {
		return
	}
	if last, err := strconv.ParseInt(n, 10, 64); err != nil {
		panic(err)
	} else if passes.Add(1) < last {
		return
	}
	if wait, err := time.ParseDuration(os.Getenv("WEFT_FAILPOINT_WAIT")); err == nil {
		time.Sleep(wait)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
`

var builds struct {
	sync.Mutex
	n int
}

// buildEdited builds the daemon with all failpoints and the given edits, and returns the binary's path.
func buildEdited(t testing.TB, edits ...edit) string {
	t.Helper()
	root, err := services.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	builds.Lock()
	builds.n++
	dir := filepath.Join(temp, fmt.Sprintf("build-%d", builds.n))
	builds.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"sources/failpoint.go": failpointFile}
	all := edits
	for _, f := range failpoints {
		all = append(all, f.edit)
	}
	for _, e := range all {
		text, ok := texts[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if n := strings.Count(text, e.old); n != 1 {
			t.Fatalf("%s has %d times, not once:\n%s", e.file, n, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range texts {
		edited := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, file)] = edited
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "weft")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-overlay", file, "-o", binary, "./cmd/weft")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the daemon with edits: %v\n%s", err, out)
	}
	return binary
}
