// Package embedded is the log that runs inside the process, for one machine and for tests: a Kafka broker (kfake) with a
// data directory, a lock on it, bounded retention, and a port on loopback that any Kafka client may use.
//
// It has no authentication and no replicas. Its transactions are not atomic over a crash, which is why captures are
// delivered to it in sequence; see package sink.
package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/twmb/franz-go/pkg/kfake"

	"weft/sources"
)

// Options of an embedded log.
type Options struct {
	// Dir holds the log; it is made if it does not exist. One process at a time may use it.
	Dir string
	// Listen is the address of the Kafka port: a loopback address, port 0 for any free one.
	Listen string
	// RetentionAge and RetentionBytes bound a topic's partition, unless the topic says otherwise. What is retained is
	// held in memory too. Zero: unbounded.
	RetentionAge   time.Duration
	RetentionBytes int64
	// MaxRecordBytes is the largest producer batch that topics may allow.
	MaxRecordBytes int
}

// Log is a running embedded log.
type Log struct {
	Addr    string // host:port
	cluster *kfake.Cluster
	lock    *flock.Flock

	stop    chan struct{}
	stopped chan struct{}
}

// cleanEvery is how often retention and compaction run. The broker itself does so hourly, and only if a topic has settings
// of its own; a busy hour can be larger than what is to be kept.
const cleanEvery = time.Minute

// ErrInUse says that another process has the data directory open. Its Addr is where that process listens, "" as long as it does not yet.
type ErrInUse struct {
	Dir, Addr string
	PID       int
}

func (e *ErrInUse) Error() string {
	if e.Addr == "" {
		return fmt.Sprintf("embedded log %s is in use by a process that has just begun and does not listen yet; to mend it: try again, or set another log.embedded.dir", e.Dir)
	}
	return fmt.Sprintf("embedded log %s is in use by process %d, which listens on %s; to mend it: stop that process, or set another log.embedded.dir", e.Dir, e.PID, e.Addr)
}

// owner is what the lock file says of the process that holds it.
type owner struct {
	PID  int    `json:"pid"`
	Addr string `json:"addr"`
}

// Open locks the directory and starts the log. A directory that another process has open is an *ErrInUse.
func Open(o Options) (*Log, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, sources.Fatal("set log.embedded.dir to a directory that this user may write", "make the embedded log's directory: %w", err)
	}
	path := filepath.Join(o.Dir, "LOCK")
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	got, err := lock.TryLock()
	if err != nil {
		return nil, sources.Fatal("set log.embedded.dir to a directory on a local disk that this user may write", "lock the embedded log: %w", err)
	}
	if !got {
		in := &ErrInUse{Dir: o.Dir}
		var by owner
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &by) == nil {
			in.PID, in.Addr = by.PID, by.Addr
		}
		return nil, in
	}
	l := &Log{lock: lock}
	err = os.Truncate(path, 0) // what a process said that was killed
	if err == nil {
		err = l.start(o, path)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return l, nil
}

func (l *Log) start(o Options, path string) error {
	listener, err := net.Listen("tcp", o.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return sources.Fatal("stop what listens there, or set another log.embedded.listen (port 0: any free one)", "embedded log: %s is in use", o.Listen)
	}
	if err != nil {
		return sources.Fatal("set log.embedded.listen to an address of this machine", "embedded log: listen on %s: %w", o.Listen, err)
	}
	l.Addr = listener.Addr().String()
	settings := map[string]string{"message.max.bytes": strconv.Itoa(o.MaxRecordBytes + 1<<10)}
	if o.RetentionAge > 0 {
		settings["log.retention.ms"] = strconv.FormatInt(o.RetentionAge.Milliseconds(), 10)
	}
	if o.RetentionBytes > 0 {
		settings["log.retention.bytes"] = strconv.FormatInt(o.RetentionBytes, 10)
		// Only whole segments go, so a segment is a part of what is retained.
		settings["log.segment.bytes"] = strconv.FormatInt(max(1<<20, o.RetentionBytes/8), 10)
	}
	l.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ClusterID("weft-embedded"),
		kfake.DataDir(o.Dir),
		kfake.SyncWrites(), // a checkpoint must never be on disk before the records that it covers
		kfake.BrokerConfigs(settings),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("open the embedded log in %s: %w", o.Dir, err), listener.Close())
	}
	text, err := json.Marshal(owner{PID: os.Getpid(), Addr: l.Addr})
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		l.cluster.Close()
		return fmt.Errorf("write the embedded log's lock file: %w", err)
	}
	l.stop, l.stopped = make(chan struct{}), make(chan struct{})
	go l.clean()
	return nil
}

func (l *Log) clean() {
	defer close(l.stopped)
	tick := time.NewTicker(cleanEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.cluster.Compact() // applies retention too
		}
	}
}

// Close writes out what is left, stops listening and unlocks the directory.
func (l *Log) Close() error {
	close(l.stop)
	<-l.stopped
	l.cluster.Close()
	if err := l.lock.Unlock(); err != nil {
		return fmt.Errorf("unlock the embedded log: %w", err)
	}
	return nil
}
