package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a running PostgreSQL server, set up for logical replication.
type Postgres struct {
	// URL of the database postgres, as superuser.
	URL string
	// Bin is the folder of its programs, which another user may enter too.
	Bin     string
	process *process
}

// StartPostgres makes a cluster in dir and waits until it takes connections. home is an installation folder of
// Binaries. Since PostgreSQL refuses to run as root, root runs it as the user nobody.
func StartPostgres(ctx context.Context, home, dir string) (*Postgres, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	owner, err := serverUser(dir)
	if err != nil {
		return nil, err
	}
	if owner != nil && !reachable(home) {
		// The repository lies in a folder that only root may enter, such as /root.
		if err := os.CopyFS(filepath.Join(dir, "home"), os.DirFS(home)); err != nil {
			return nil, fmt.Errorf("copy PostgreSQL to where its user may read it: %w", err)
		}
		home = filepath.Join(dir, "home")
	}
	if err := initdb(ctx, home, dir, owner); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(home, "bin", "postgres"), "-D", filepath.Join(dir, "data"))
	for _, setting := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=", "max_connections=200",
		"wal_level=logical", "max_replication_slots=100", "max_wal_senders=100", "max_prepared_transactions=20",
		"fsync=off", "timezone=UTC", "log_timezone=UTC",
	} {
		cmd.Args = append(cmd.Args, "-c", setting)
	}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	p := &Postgres{URL: fmt.Sprintf("postgres://postgres:postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	p.Bin = filepath.Join(home, "bin")
	if p.process, err = start(cmd, dir, "postgres"); err != nil {
		return nil, err
	}
	err = p.process.waitReady("PostgreSQL", time.Minute, func() error {
		c, err := pgx.Connect(ctx, p.URL)
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		return c.Close(ctx)
	})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Stop ends the server without waiting for its clients.
func (p *Postgres) Stop() { p.process.stop(syscall.SIGQUIT, 10*time.Second) }

func initdb(ctx context.Context, home, dir string, owner *syscall.Credential) error {
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("postgres"), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(home, "bin", "initdb"), "-D", filepath.Join(dir, "data"), "-U", "postgres",
		"--auth=scram-sha-256", "--pwfile="+password, "--encoding=UTF8", "--locale=C", "--no-sync")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// serverUser gives dir to the user that is to run the server, and returns it: nil for this process's own.
func serverUser(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("database servers do not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// reachable reports whether every user may enter dir.
func reachable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}
