package services

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// group starts a shell that ignores signals, with a child of its own.
func group(t *testing.T) *process {
	t.Helper()
	p, err := start(exec.Command("sh", "-c", "trap '' INT; sleep 60 & echo started; wait"), t.TempDir(), "group")
	if err != nil {
		t.Fatal(err)
	}
	err = p.waitReady("group", 10*time.Second, func() error {
		if !strings.Contains(string(tail(p.log)), "started") {
			return errors.New("has not started")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStopEndsTheGroup(t *testing.T) {
	p := group(t)
	p.stop(syscall.SIGINT, 100*time.Millisecond)
	// The child may be a zombie for a moment, until the system's first process takes its end.
	for range 100 {
		if err := syscall.Kill(-p.cmd.Process.Pid, 0); errors.Is(err, syscall.ESRCH) || onlyZombies(t, p.cmd.Process.Pid) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("a process of the group still runs")
}

// onlyZombies reads the state and the group of every process (proc_pid_stat(5)).
func onlyZombies(t *testing.T, group int) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d processes, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended since
		}
		_, rest, _ := strings.Cut(string(b), ") ") // state ppid pgrp ...
		f := strings.Fields(rest)
		if f[2] == strconv.Itoa(group) && f[0] != "Z" {
			return false
		}
	}
	return true
}

func TestStopOfWhatEnded(t *testing.T) {
	p, err := start(exec.Command("true"), t.TempDir(), "true")
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	p.stop(syscall.SIGINT, time.Minute)
	p.stop(syscall.SIGINT, time.Minute)
}

func TestWaitReadyTellsWhy(t *testing.T) {
	never := func() error { return errors.New("no answer") }
	p, err := start(exec.Command("sh", "-c", "echo port in use; exit 3"), t.TempDir(), "server")
	if err != nil {
		t.Fatal(err)
	}
	err = p.waitReady("server", time.Minute, never)
	if err == nil || !strings.Contains(err.Error(), "port in use") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a server that ended: %v; want its code and its last words", err)
	}

	p = group(t)
	defer p.stop(syscall.SIGKILL, time.Second)
	err = p.waitReady("server", 200*time.Millisecond, never)
	if err == nil || !strings.Contains(err.Error(), "no answer") || !strings.Contains(err.Error(), "200ms") {
		t.Errorf("a server that is never ready: %v; want the time and the last answer", err)
	}
}
