package scratch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func onDisk(t *testing.T) (*disk, string) {
	t.Helper()
	parent := t.TempDir()
	d, err := openDisk(parent, 4<<20, newFiles())
	if err != nil {
		t.Fatal(err)
	}
	return d, parent
}

func key(run, n int) []byte { return fmt.Appendf(nil, "%d/%06d", run, n) }

// Both maps hold the same after the same calls, and the one on disk leaves nothing behind.
func TestMapsAgree(t *testing.T) {
	d, parent := onDisk(t)
	both := []Map{InMemory(), d}
	try := func(f func(m Map) error) {
		t.Helper()
		for _, m := range both {
			if err := f(m); err != nil {
				t.Fatalf("%T: %v", m, err)
			}
		}
	}
	const runs, keys = 3, 2000
	try(func(m Map) error { return m.Set(key(9, 0), []byte("from before")) })
	try(func(m Map) error {
		l := m.Load()
		for n := range keys {
			for run := range runs {
				if err := l.Add(run, key(run, n), []byte(strings.Repeat("loaded", 3))); err != nil {
					return err
				}
			}
		}
		return errors.Join(l.Done(), l.Close())
	})
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		k := key(r.IntN(runs), r.IntN(keys))
		switch r.IntN(100) {
		case 0:
			to := key(r.IntN(runs), r.IntN(keys))
			if string(to) > string(k) && r.IntN(10) == 0 {
				try(func(m Map) error { return m.DeleteRange(k, to) })
			}
		case 1, 2, 3:
			try(func(m Map) error { return m.Delete(k) })
		case 4, 5, 6:
			var got []string
			try(func(m Map) error {
				v, err := m.Get(k)
				got = append(got, fmt.Sprintf("%v %q", v == nil, v))
				return err
			})
			if got[0] != got[1] {
				t.Fatalf("key %s: %s in memory, %s on disk", k, got[0], got[1])
			}
		case 7:
			try(func(m Map) error { return m.Set(k, nil) }) // an empty value is one
		default:
			try(func(m Map) error { return m.Set(k, fmt.Appendf(nil, "value %d", i)) })
		}
	}
	for _, bounds := range [][2][]byte{{nil, {'~'}}, {[]byte("1"), After([]byte("1"))}, {key(0, 500), key(2, 7)}} {
		var got []string
		try(func(m Map) error {
			c, err := m.Each(bounds[0], bounds[1])
			if err != nil {
				return err
			}
			text := ""
			for c.Next() {
				k, v := c.Entry()
				text += fmt.Sprintf("%s=%s\n", k, v)
			}
			got = append(got, text)
			return c.Close()
		})
		if got[0] != got[1] || got[0] == "" {
			t.Errorf("%s to %s: in memory\n%.500s\non disk\n%.500s", bounds[0], bounds[1], got[0], got[1])
		}
	}
	try(Map.Close)
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// What is not done is not in the map; runs of several files and out of order are told apart.
func TestLoadGivesUp(t *testing.T) {
	d, parent := onDisk(t)
	l := d.Load()
	if err := errors.Join(l.Add(0, key(0, 1), nil), l.Add(1, key(1, 1), nil), l.Close()); err != nil {
		t.Fatal(err)
	}
	if v, err := d.Get(key(0, 1)); v != nil || err != nil {
		t.Errorf("given up: %q, %v", v, err)
	}
	l = d.Load()
	if err := l.Add(0, key(0, 2), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(0, key(0, 1), nil); err == nil {
		t.Error("a run that does not grow was taken")
	}
	_ = l.Close() // tells the same
	l = d.Load()
	for n := range 3 * runFileBytes / (64 << 10) {
		value := make([]byte, 64<<10)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		if err := l.Add(0, key(0, n), value); err != nil {
			t.Fatal(err)
		}
	}
	if files := len(l.(*diskLoader).names); files < 2 {
		t.Errorf("%d files", files)
	}
	if err := errors.Join(l.Done(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if v, err := d.Get(key(0, 3*runFileBytes/(64<<10)-1)); len(v) != 64<<10 || err != nil {
		t.Errorf("loaded: %d bytes, %v", len(v), err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// full is a disk on which writes, or new files, fail at some time.
type full struct {
	vfs.FS
	left   *atomic.Int64
	create bool
}

func (f full) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.create && f.left.Load() <= 0 {
		return nil, &os.PathError{Op: "open", Path: name, Err: syscall.ENOSPC}
	}
	created, err := f.FS.Create(name, c)
	return fullFile{created, f}, err
}

type fullFile struct {
	vfs.File
	on full
}

func (f fullFile) Write(p []byte) (int, error) {
	if f.on.left.Add(-int64(len(p))) <= 0 && !f.on.create {
		return 0, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	return f.File.Write(p)
}

// A full disk is an error, soon, whatever is being done.
func TestFullDisk(t *testing.T) {
	for name, f := range map[string]full{"writes": {}, "new files": {create: true}} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			f.FS, f.left = vfs.Default, new(atomic.Int64)
			f.left.Store(1 << 20)
			d, err := openDisk(parent, 4<<20, &files{FS: f})
			if err != nil {
				t.Fatal(err)
			}
			value := make([]byte, 1000)
			ended := make(chan error, 1)
			go func() {
				for n := range 100_000 {
					for i := range value {
						value[i] = byte(rand.Uint32())
					}
					if err := d.Set(key(0, n), value); err != nil {
						ended <- err
						return
					}
				}
				ended <- nil
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), parent) {
					t.Errorf("got %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it waits for ever")
			}
			if _, err := d.Get(key(0, 1)); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the next call: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}
