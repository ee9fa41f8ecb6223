package scratch

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// files is the file system of a map on disk.
//
// It leaves it to the system when a file goes to the disk: what ends with its process gains nothing by waiting for it, and an
// archive was made in half the speed.
//
// The first write that fails, on a full disk say, is kept, and those after it are taken and thrown away: pebble would try
// such a write for ever, and its writers wait for it meanwhile. So whoever uses the map gets the error from the next call.
type files struct {
	vfs.FS
	failed atomic.Pointer[error]
}

func newFiles() *files { return &files{FS: vfs.Default} }

func (f *files) fail(err error) { f.failed.CompareAndSwap(nil, &err) }

func (f *files) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	created, err := f.FS.Create(name, category)
	if err != nil {
		f.fail(err)
		created, err = vfs.NewMem().Create("nothing", category)
	}
	return file{created, f}, err
}

func (f *files) OpenDir(name string) (vfs.File, error) {
	opened, err := f.FS.OpenDir(name)
	return file{opened, f}, err
}

// file is one that is written, or a directory.
type file struct {
	vfs.File
	of *files
}

func (f file) Write(p []byte) (int, error) {
	if f.of.failed.Load() == nil {
		if _, err := f.File.Write(p); err != nil {
			f.of.fail(err)
		}
	}
	return len(p), nil
}

func (f file) Preallocate(int64, int64) error { return nil } // of space that a short-lived file may not need
func (file) Sync() error                      { return nil }
func (file) SyncData() error                  { return nil }
func (file) SyncTo(int64) (bool, error)       { return true, nil }
