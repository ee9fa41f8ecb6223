package scratch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// runFileBytes is how large a run's file grows before the next one is begun.
const runFileBytes = 32 << 20

// diskLoader writes each run into sorted files, which then become the map's lowest level as they are: nothing is sorted or
// merged again.
type diskLoader struct {
	d       *disk
	writers []*sstable.Writer // by run; nil for those that have no file open
	names   []string
}

func (d *disk) Load() Loader { return &diskLoader{d: d} }

func (l *diskLoader) Add(run int, key, value []byte) error {
	for run >= len(l.writers) {
		l.writers = append(l.writers, nil)
	}
	w := l.writers[run]
	if w == nil {
		var err error
		if w, err = l.create(); err != nil {
			return l.d.broken(err)
		}
		l.writers[run] = w
	}
	if err := w.Set(key, value); err != nil {
		return l.d.broken(err)
	}
	if w.Raw().EstimatedSize() < runFileBytes {
		return nil
	}
	l.writers[run] = nil
	return l.d.broken(w.Close())
}

func (l *diskLoader) create() (*sstable.Writer, error) {
	name := filepath.Join(l.d.dir, fmt.Sprintf("run-%d", len(l.names)))
	f, err := l.d.files.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	l.names = append(l.names, name)
	const lowest = 6
	options := l.d.options.MakeWriterOptions(lowest, l.d.db.TableFormat())
	return sstable.NewWriter(objstorageprovider.NewFileWritable(f), options), nil
}

func (l *diskLoader) Done() error {
	if err := l.end(); err != nil || len(l.names) == 0 {
		return l.d.broken(err)
	}
	err := l.d.db.Ingest(context.Background(), l.names) // renames the files, and does not wait for anything else
	l.names = nil
	return l.d.broken(err)
}

func (l *diskLoader) end() (err error) {
	for _, w := range l.writers {
		if w != nil {
			err = errors.Join(err, w.Close())
		}
	}
	l.writers = nil
	return err
}

func (l *diskLoader) Close() error {
	err := l.end()
	for _, name := range l.names {
		err = errors.Join(err, os.Remove(name))
	}
	l.names = nil
	return err
}
