package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// secantus is the server that stands in for MongoDB, which no registry has: a Python package with change streams and
// transactions, run as a process of its own.
const secantus = "secantusdb==0.7.0b3"

// MongoDB is a running stand-in for a replica set of one MongoDB server.
type MongoDB struct {
	URL     string
	process *process
}

// shortOplog is how many operations the stand-in keeps for tests: it goes through all of them whenever a change stream is opened.
const shortOplog = 50_000

// StartMongoDB starts the stand-in with its data in dir and waits until it answers. home is Binaries.MongoDB, oplog the number of
// operations that it keeps.
func StartMongoDB(ctx context.Context, home, dir string, oplog int) (*MongoDB, error) {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	// By way of the interpreter: the script's first line names the folder that it was installed in.
	cmd := exec.Command(filepath.Join(home, "bin", "python3"), filepath.Join(home, "bin", "secantusd-py"),
		"--port", strconv.Itoa(port), "--storage-path", filepath.Join(dir, "data"), "--enable-test-commands", "--cache-size", "256M",
		"--oplog-max-entries", strconv.Itoa(oplog))
	cmd.Dir = dir
	m := &MongoDB{URL: fmt.Sprintf("mongodb://127.0.0.1:%d/?replicaSet=secantus", port)}
	if m.process, err = start(cmd, dir, "mongodb"); err != nil {
		return nil, err
	}
	client, err := mongo.Connect(options.Client().ApplyURI(m.URL).SetServerSelectionTimeout(time.Second))
	if err == nil {
		err = m.process.waitReady("the stand-in for MongoDB", time.Minute, func() error {
			return errors.Join(client.Ping(ctx, nil), ctx.Err())
		})
		err = errors.Join(err, client.Disconnect(context.WithoutCancel(ctx)))
	}
	if err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// Stop ends the server. Nobody needs its data any more.
func (m *MongoDB) Stop() { m.process.stop(syscall.SIGKILL, 10*time.Second) }
