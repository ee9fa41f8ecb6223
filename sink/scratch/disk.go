package scratch

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
)

// disk is a map in a directory of its own, which ends with it.
type disk struct {
	db      *pebble.DB
	options *pebble.Options
	files   *files
	cache   *pebble.Cache
	batch   *pebble.Batch
	dir     string
	value   []byte
}

// batchBytes is how much is written at once.
const batchBytes = 1 << 20

// OnDisk returns an empty map in a new directory under parent ("" for the system's temporary directory). It takes about
// memory, in bytes, however much is put in: a quarter for its cache, a half for what is not yet written, and the rest for
// what reads and writes beside the caller.
func OnDisk(parent string, memory int64) (Map, error) {
	return openDisk(parent, memory, newFiles())
}

func openDisk(parent string, memory int64, files *files) (*disk, error) {
	dir, err := os.MkdirTemp(parent, "weft-scratch-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for temporary data: %w", err)
	}
	d := &disk{files: files, cache: pebble.NewCache(memory / 4), dir: dir, value: []byte{}}
	d.options = &pebble.Options{
		FS: files, Cache: d.cache, DisableWAL: true, // nothing of it outlives the process
		MemTableSize: uint64(memory / 4), MemTableStopWritesThreshold: 2, MaxOpenFiles: 256,
		L0CompactionThreshold: 4, LBaseMaxBytes: 128 << 20,
		FormatMajorVersion: pebble.FormatNewest, Logger: silent{},
		EventListener: &pebble.EventListener{DataCorruption: func(i pebble.DataCorruptionInfo) { files.fail(i.Details) }},
	}
	d.options.EnsureDefaults() // a Loader needs them too
	if d.db, err = pebble.Open(dir, d.options); err != nil {
		d.cache.Unref()
		return nil, errors.Join(fmt.Errorf("make a store for temporary data in %s: %w", dir, err), os.RemoveAll(dir))
	}
	d.batch = d.db.NewBatch()
	return d, nil
}

// broken is the error of a call that failed, or else what has failed beside the caller.
func (d *disk) broken(err error) error {
	if failed := d.files.failed.Load(); failed != nil {
		err = *failed
	}
	if err != nil {
		return fmt.Errorf("store of temporary data in %s: %w", d.dir, err)
	}
	return nil
}

func (d *disk) Get(key []byte) ([]byte, error) {
	if err := d.flush(); err != nil {
		return nil, err
	}
	value, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, d.broken(nil)
	}
	if err != nil {
		return nil, d.broken(err)
	}
	d.value = append(d.value[:0], value...)
	return d.value, d.broken(closer.Close())
}

func (d *disk) Set(key, value []byte) error {
	if err := d.batch.Set(key, value, nil); err != nil {
		return d.broken(err)
	}
	return d.full()
}

func (d *disk) Delete(key []byte) error {
	if err := d.batch.Delete(key, nil); err != nil {
		return d.broken(err)
	}
	return d.full()
}

func (d *disk) DeleteRange(from, to []byte) error {
	if err := d.batch.DeleteRange(from, to, nil); err != nil {
		return d.broken(err)
	}
	return d.flush()
}

func (d *disk) full() error {
	if d.batch.Len() < batchBytes {
		return nil
	}
	return d.flush()
}

// flush makes what was written readable. The batch has no index of its own: most of what is written is not read soon.
func (d *disk) flush() error {
	if d.batch.Empty() {
		return nil
	}
	err := d.batch.Commit(pebble.NoSync)
	d.batch.Reset()
	return d.broken(err)
}

func (d *disk) Each(from, to []byte) (Cursor, error) {
	if err := d.flush(); err != nil {
		return nil, err
	}
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: bytes.Clone(from), UpperBound: bytes.Clone(to)})
	if err != nil {
		return nil, d.broken(err)
	}
	return &diskCursor{d: d, it: it}, nil
}

func (d *disk) Close() error {
	err := d.batch.Close()
	if closed := d.db.Close(); d.files.failed.Load() == nil { // else its caller knows of something worse
		err = errors.Join(err, closed)
	}
	d.cache.Unref()
	return errors.Join(err, os.RemoveAll(d.dir))
}

type diskCursor struct {
	d       *disk
	it      *pebble.Iterator
	started bool
}

func (c *diskCursor) Next() bool {
	if !c.started {
		c.started = true
		return c.it.First()
	}
	return c.it.Next()
}

func (c *diskCursor) Entry() (key, value []byte) { return c.it.Key(), c.it.Value() }

func (c *diskCursor) Close() error { return c.d.broken(errors.Join(c.it.Error(), c.it.Close())) }

// silent keeps pebble's notes of its own work out of the daemon's messages. Its errors come back from its calls; Fatalf is
// called where its own state is not as it must be.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf("store of temporary data: "+format, args...))
}
