package services

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archive(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte("content of " + h.Name)
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestUntar(t *testing.T) {
	to := filepath.Join(t.TempDir(), "home")
	err := untar(archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./bin/", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "./bin/initdb", Mode: 0o700},
		tar.Header{Typeflag: tar.TypeReg, Name: "lib/libpq.so.5.1", Mode: 0o600},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "lib/libpq.so", Linkname: "libpq.so.5.1"},
	), to)
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"bin/initdb": 0o744, "lib/libpq.so": 0o644} {
		path := filepath.Join(to, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got&mode != mode {
			t.Errorf("%s: mode %o, want at least %o", name, got, mode)
		}
		if b, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(b), "content of ") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestUntarRefuses(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"a file outside":  {Typeflag: tar.TypeReg, Name: "../escaped", Mode: 0o644},
		"a device":        {Typeflag: tar.TypeChar, Name: "null"},
		"a hard link":     {Typeflag: tar.TypeLink, Name: "a", Linkname: "b"},
		"an absolute one": {Typeflag: tar.TypeReg, Name: "/tmp/weft-untar-escaped", Mode: 0o644},
	} {
		if err := untar(archive(t, h), t.TempDir()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestInstallTakesWhatIsThere needs no network: a complete folder is not downloaded again.
func TestInstallTakesWhatIsThere(t *testing.T) {
	cache := t.TempDir()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	want, err := Install(canceled, cache, io.Discard)
	if err == nil {
		t.Fatal("an install that cannot download has no error")
	}
	left, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "lock" {
		t.Errorf("a failed install leaves %q (%v), want only the lock", left, err)
	}
	want.MongoDB, want.DuckDB = filepath.Join(cache, secantus), filepath.Join(cache, duckDB)
	for _, dir := range []string{filepath.Dir(want.Kafka), want.MongoDB, want.DuckDB} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Install(canceled, cache, io.Discard); err != nil || got != want {
		t.Errorf("with all present: %+v, %v; want %+v", got, err, want)
	}
}

func TestReachable(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(dir, "closed")
	inside := filepath.Join(closed, "inside")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	for path := dir; path != "/"; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			if err := os.Chmod(path, info.Mode().Perm()|0o001); err != nil {
				t.Skipf("the folder for temporary files is closed: %v", err)
			}
		}
	}
	if !reachable(inside) {
		t.Error("open folders: not reachable")
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if reachable(inside) {
		t.Error("inside a folder of mode 700: reachable")
	}
}
