package services

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	_ "github.com/go-sql-driver/mysql" // the driver
)

// MariaDB is a running MariaDB server. Its programs are the system's: integration/install-tools.sh installs them.
type MariaDB struct {
	// URL of the server, as the user root, who has no password.
	URL     string
	process *process
}

// StartMariaDB makes a data directory in dir and waits until the server takes connections. Since the server refuses to run as
// root, root runs it as the user nobody.
func StartMariaDB(ctx context.Context, dir string) (*MariaDB, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	owner, err := serverUser(dir)
	if err != nil {
		return nil, err
	}
	server, err := exec.LookPath("mariadbd")
	if err != nil {
		// Where a user's PATH has no sbin.
		if server, err = exec.LookPath("/usr/sbin/mariadbd"); err != nil {
			return nil, errors.New("mariadbd is not on PATH: run integration/install-tools.sh as root, or install MariaDB")
		}
	}
	data := filepath.Join(dir, "data")
	install := exec.CommandContext(ctx, "mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	install.Dir = dir
	install.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(server, "--no-defaults", "--datadir="+data, "--bind-address=127.0.0.1", "--port="+strconv.Itoa(port),
		"--socket="+filepath.Join(dir, "socket"), "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M",
		"--max-connections=200")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	m := &MariaDB{URL: fmt.Sprintf("mariadb://root@127.0.0.1:%d", port)}
	if m.process, err = start(cmd, dir, "mariadb"); err != nil {
		return nil, err
	}
	err = m.process.waitReady("MariaDB", time.Minute, func() error {
		db, err := sql.Open("mysql", fmt.Sprintf("root@tcp(127.0.0.1:%d)/", port))
		if err != nil {
			return err
		}
		return errors.Join(db.PingContext(ctx), db.Close(), ctx.Err())
	})
	if err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// Stop ends the server at once.
func (m *MariaDB) Stop() { m.process.stop(syscall.SIGKILL, 10*time.Second) }
