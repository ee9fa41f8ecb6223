package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"

	"weft/configs"
)

// A command that reads the embedded log waits for a daemon that has locked it and does not listen yet.
func TestReadWhileTheDaemonBegins(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "LOCK")
	lock := flock.New(path)
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	time.AfterFunc(300*time.Millisecond, func() {
		if err := os.WriteFile(path, []byte(`{"pid":17,"addr":"127.0.0.1:9"}`), 0o644); err != nil {
			t.Error(err)
		}
	})
	l, err := openLogToRead(configs.Log{Embedded: &configs.Embedded{Dir: dir}}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Brokers) != 1 || l.Brokers[0] != "127.0.0.1:9" || l.own {
		t.Errorf("the log is read at %s, own %t", l.Brokers, l.own)
	}
}
