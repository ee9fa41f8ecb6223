package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Spanner is a running emulator of Spanner, whose change stream partitions live for 2 to 4 seconds.
type Spanner struct {
	// Host is its address, as SPANNER_EMULATOR_HOST has it.
	Host    string
	process *process
}

// FindSpanner returns the path of the emulator, which no package registry has: SPANNER_EMULATOR_BIN, emulator_main on PATH, or
// what the Google Cloud CLI has installed; "" where there is none.
func FindSpanner() string {
	if bin := os.Getenv("SPANNER_EMULATOR_BIN"); bin != "" {
		return bin
	}
	if bin, err := exec.LookPath("emulator_main"); err == nil {
		return bin
	}
	roots := []string{"/usr/lib/google-cloud-sdk"}
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if gcloud, err = filepath.EvalSymlinks(gcloud); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(gcloud)))
		}
	}
	for _, root := range roots {
		bin := filepath.Join(root, "bin", "cloud_spanner_emulator", "emulator_main")
		if _, err := os.Stat(bin); err == nil {
			return bin
		}
	}
	return ""
}

// StartSpanner starts the emulator, which holds its data in memory, and waits until it takes connections. bin is what
// FindSpanner returns.
func StartSpanner(ctx context.Context, bin, dir string) (*Spanner, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	s := &Spanner{Host: fmt.Sprintf("127.0.0.1:%d", port)}
	cmd := exec.Command(bin, "--host_port="+s.Host, "--override_change_stream_partition_token_alive_seconds=2")
	cmd.Dir = dir
	if s.process, err = start(cmd, dir, "spanner"); err != nil {
		return nil, err
	}
	err = s.process.waitReady("the Spanner emulator", time.Minute, func() error {
		c, err := net.Dial("tcp", s.Host)
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		return c.Close()
	})
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Stop ends the emulator.
func (s *Spanner) Stop() { s.process.stop(syscall.SIGKILL, 10*time.Second) }
