package fold

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// store keeps the fold's state: an ordered map of bytes. Two are here, one in memory and one on a disk.
type store interface {
	// get returns the value, valid until the next call, or nil.
	get(key []byte) ([]byte, error)
	set(key, value []byte) error
	remove(key []byte) error
	// removeAll removes every key that begins with prefix.
	removeAll(prefix []byte) error
	// each returns a cursor over the keys that begin with prefix, in order.
	each(prefix []byte) (cursor, error)
	close() error
}

// cursor walks over a store's entries. Key and value are valid until the next call.
type cursor interface {
	next() bool
	entry() (key, value []byte)
	close() error
}

// memory is a store in a map.
type memory map[string][]byte

func (m memory) get(key []byte) ([]byte, error) { return m[string(key)], nil }

func (m memory) set(key, value []byte) error {
	m[string(key)] = append([]byte{}, value...)
	return nil
}

func (m memory) remove(key []byte) error {
	delete(m, string(key))
	return nil
}

func (m memory) removeAll(prefix []byte) error {
	for k := range m {
		if strings.HasPrefix(k, string(prefix)) {
			delete(m, k)
		}
	}
	return nil
}

func (m memory) each(prefix []byte) (cursor, error) {
	var keys []string
	for k := range m {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return &memoryCursor{m: m, keys: keys}, nil
}

func (m memory) close() error { return nil }

type memoryCursor struct {
	m    memory
	keys []string
	at   int
}

func (c *memoryCursor) next() bool {
	c.at++
	return c.at <= len(c.keys)
}

func (c *memoryCursor) entry() (key, value []byte) {
	k := c.keys[c.at-1]
	return []byte(k), c.m[k]
}

func (c *memoryCursor) close() error { return nil }

// disk is a store in a directory of its own, which ends with it.
type disk struct {
	db    *pebble.DB
	cache *pebble.Cache
	batch *pebble.Batch
	dir   string
	value []byte
}

// cacheBytes and memTableBytes bound a disk's memory, with the batch.
const (
	cacheBytes    = 16 << 20
	memTableBytes = 16 << 20
	batchBytes    = 1 << 20
)

// openDisk makes a store in a new directory under parent ("" for the system's temporary directory).
func openDisk(parent string) (*disk, error) {
	dir, err := os.MkdirTemp(parent, "weft-fold-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the fold: %w", err)
	}
	cache := pebble.NewCache(cacheBytes)
	db, err := pebble.Open(dir, &pebble.Options{
		FS: unsynced{vfs.Default}, Cache: cache, MemTableSize: memTableBytes, MemTableStopWritesThreshold: 3, DisableWAL: true, // nothing of it outlives the process
		FormatMajorVersion: pebble.FormatNewest, Logger: silent{}, MaxOpenFiles: 256, L0CompactionThreshold: 4, LBaseMaxBytes: 128 << 20,
	})
	if err != nil {
		cache.Unref()
		return nil, errors.Join(fmt.Errorf("open a store for the fold in %s: %w", dir, err), os.RemoveAll(dir))
	}
	return &disk{db: db, cache: cache, batch: db.NewBatch(), dir: dir}, nil
}

func (d *disk) get(key []byte) ([]byte, error) {
	if err := d.flush(); err != nil {
		return nil, err
	}
	value, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the fold's store: %w", err)
	}
	d.value = append(d.value[:0], value...)
	return d.value, closer.Close()
}

func (d *disk) set(key, value []byte) error {
	if err := d.batch.Set(key, value, nil); err != nil {
		return fmt.Errorf("write the fold's store: %w", err)
	}
	return d.full()
}

func (d *disk) remove(key []byte) error {
	if err := d.batch.Delete(key, nil); err != nil {
		return fmt.Errorf("write the fold's store: %w", err)
	}
	return d.full()
}

func (d *disk) removeAll(prefix []byte) error {
	if err := d.batch.DeleteRange(prefix, after(prefix), nil); err != nil {
		return fmt.Errorf("write the fold's store: %w", err)
	}
	return d.flush()
}

func (d *disk) full() error {
	if d.batch.Len() < batchBytes {
		return nil
	}
	return d.flush()
}

// flush makes what was written readable. The batch has no index of its own: most records are folded in without reading.
func (d *disk) flush() error {
	if d.batch.Empty() {
		return nil
	}
	if err := d.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write the fold's store: %w", err)
	}
	d.batch.Reset()
	return nil
}

func (d *disk) each(prefix []byte) (cursor, error) {
	if err := d.flush(); err != nil {
		return nil, err
	}
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: bytes.Clone(prefix), UpperBound: after(prefix)})
	if err != nil {
		return nil, fmt.Errorf("read the fold's store: %w", err)
	}
	return &diskCursor{it: it}, nil
}

func (d *disk) close() error {
	err := errors.Join(d.batch.Close(), d.db.Close())
	d.cache.Unref()
	return errors.Join(err, os.RemoveAll(d.dir))
}

// after is the first key that does not begin with prefix, whose last byte is not the highest.
func after(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

type diskCursor struct {
	it      *pebble.Iterator
	started bool
}

func (c *diskCursor) next() bool {
	if !c.started {
		c.started = true
		return c.it.First()
	}
	return c.it.Next()
}

func (c *diskCursor) entry() (key, value []byte) { return c.it.Key(), c.it.Value() }

func (c *diskCursor) close() error { return errors.Join(c.it.Error(), c.it.Close()) }

// unsynced is a file system that leaves it to the system when a file goes to the disk: a store that ends with its process
// gains nothing by waiting for it, and an archive was made in half the speed.
type unsynced struct{ vfs.FS }

func (u unsynced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := u.FS.Create(name, category)
	return unsyncedFile{f}, err
}

func (u unsynced) OpenDir(name string) (vfs.File, error) {
	f, err := u.FS.OpenDir(name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error                { return nil }
func (unsyncedFile) SyncData() error            { return nil }
func (unsyncedFile) SyncTo(int64) (bool, error) { return true, nil }

// silent keeps pebble's notes of its own work out of the daemon's messages; its errors are returned.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { pebble.DefaultLogger.Fatalf(format, args...) }
