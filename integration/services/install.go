// Package services installs and runs the servers that Weft is tested against: PostgreSQL, the oldest and the newest
// version that Weft supports, Apache Kafka, a server that stands in for MongoDB, the system's MariaDB, and Spanner's emulator
// where there is one; and DuckDB, which reads archives. The versions are in pom.xml, mongodb.go and python.go.
//
// Servers listen on free loopback ports, keep their data in a temporary directory, and end with the process that
// started them. What is tested, and how, is not here: see the package above.
package services

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/ulikunitz/xz"
)

//go:embed pom.xml
var pom []byte

// Binaries says where the installed servers are.
type Binaries struct {
	// PostgresOldest and PostgresNewest are installation folders: bin, lib, share.
	PostgresOldest, PostgresNewest string
	// Kafka is a folder of jars, the class path of the broker and of its tools.
	Kafka string
	// MongoDB is a Python environment with the server that stands in for it.
	MongoDB string
	// DuckDB is a Python environment with DuckDB.
	DuckDB string
}

// CacheDir is where servers are installed: $WEFT_CACHE, or .cache in the repository that the working directory is in.
func CacheDir() (string, error) {
	if dir := os.Getenv("WEFT_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".cache"), nil
}

// RepoRoot is the folder above the working directory that holds the integration module.
func RepoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "integration", "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: no folder above has integration/go.mod")
		}
		dir = parent
	}
}

// Install downloads into cache what is missing there, with Maven and pip, and writes its progress to log. What is present is
// complete, since a download is renamed into its place at its end; a changed pom.xml has another place.
func Install(ctx context.Context, cache string, log io.Writer) (Binaries, error) {
	home := filepath.Join(cache, fmt.Sprintf("services-%x", sha256.Sum256(pom))[:len("services-")+12])
	b := Binaries{
		PostgresOldest: filepath.Join(home, "postgres-oldest"),
		PostgresNewest: filepath.Join(home, "postgres-newest"),
		Kafka:          filepath.Join(home, "kafka"),
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return b, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return b, err
	}
	defer unlock()
	if b.MongoDB, err = installPython(ctx, cache, secantus, log); err != nil {
		return b, err
	}
	if b.DuckDB, err = installPython(ctx, cache, duckDB, log); err != nil {
		return b, err
	}
	if _, err := os.Stat(home); err == nil {
		return b, nil
	}
	fmt.Fprintf(log, "services: downloading PostgreSQL and Kafka (85 MB) into %s\n", home)
	temp, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return b, err
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		return b, err
	}
	if err := download(ctx, temp, log); err != nil {
		return b, err
	}
	for _, name := range []string{"postgres-oldest", "postgres-newest"} {
		jar := filepath.Join(temp, name+".jar")
		if err := unpack(jar, filepath.Join(temp, name)); err != nil {
			return b, fmt.Errorf("unpack %s: %w", jar, err)
		}
		if err := os.Remove(jar); err != nil {
			return b, err
		}
	}
	return b, os.Rename(temp, home)
}

func download(ctx context.Context, to string, log io.Writer) error {
	var arch string
	switch {
	case runtime.GOOS == "linux" && runtime.GOARCH == "amd64":
		arch = "amd64"
	case runtime.GOOS == "linux" && runtime.GOARCH == "arm64":
		arch = "arm64v8"
	default:
		return fmt.Errorf("no PostgreSQL to download for %s/%s; set WEFT_TEST_POSTGRES_* and WEFT_TEST_KAFKA to servers of "+
			"your own and run go test", runtime.GOOS, runtime.GOARCH)
	}
	for _, tool := range []string{"mvn", "java"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not on PATH: run integration/install-tools.sh as root, or install Maven and a Java of "+
				"17 or newer", tool)
		}
	}
	project := filepath.Join(to, "pom.xml")
	if err := os.WriteFile(project, pom, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", project, "generate-resources", "-Dto="+to, "-Darch="+arch)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("download with mvn: %w", err)
	}
	return nil
}

// unpack extracts the .txz that a jar holds.
func unpack(jar, to string) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, ".txz") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		x, err := xz.NewReader(r)
		if err != nil {
			return err
		}
		return untar(x, to)
	}
	return errors.New("it holds no .txz")
}

func untar(r io.Reader, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = writeFile(root, name, h.FileInfo().Mode().Perm()|0o444, t)
		default:
			err = fmt.Errorf("%s is neither file, folder nor link", h.Name)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, mode fs.FileMode, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// lock takes an exclusive lock, so that two installs at a time do the work once.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
