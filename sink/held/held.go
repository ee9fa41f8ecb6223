// Package held keeps what a capture's topics hold, row by row, for sources that look at the present state of tables: by it a
// row that such a source has found is told to be a create, an update, or nothing new.
//
// It is a cache on a disk, and never ahead of the log: only what is committed there gets into it, and it notes up to which offset
// of each partition it is complete. What lies above that is read from the topic, in the worst case all. So it needs no log of its
// own: after a crash it is as it was some time before.
//
// What lives here: the store, and following a topic. What does not: how a row becomes a record, package envelope.
package held

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"

	"weft/sink/fold"
	"weft/sources"
)

// Store holds rows by topic and record key. It is used by one goroutine. After an error it is of no more use but to be closed.
//
// Its keys, by their first byte:
//
//	f                    the format
//	p TOPIC              how far the topic was followed
//	r TOPIC 0 SORTABLE   the row of a key as JSON, as the record's after has it; SORTABLE is fold.AppendSortable
//
// Rows sort last, so that a new row whose key is above all others is outside of every file.
type Store struct {
	db      *pebble.DB
	cache   *pebble.Cache
	lock    *pebble.Lock
	dir     string
	log     hclog.Logger
	options *pebble.Options
	// pending is what was written since the last Commit and is in no run. Reads see both.
	pending *pebble.Batch
	runs    map[string]*run // by topic
	topic   string          // that was used last, and its run; nil for none
	run     *run
	free    freeBlocks
	flushed time.Time
	key     []byte // of the row that rowKey was asked for last, of a topic and a record key of so many bytes
	keyOf   string
	keyLen  int
	value   []byte // scratch, never nil
}

// Bounds of a store's memory, beside what is pending. The memory tables, at most three, are counted in the cache.
const (
	cacheBytes    = 40 << 20
	memTableBytes = 8 << 20
)

// flushEvery is how long what is committed may stay in memory alone: a process that is killed reads it from the topic again,
// which must still have it then.
const flushEvery = time.Minute

// format is that of keys and values. A store of another is thrown away.
const format = "1"

// Open opens the store in dir, which is the store's own and is made where it is missing. One that cannot be read is thrown away:
// it is filled from the log again.
func Open(dir string, log hclog.Logger) (*Store, error) {
	s, err := open(dir, log)
	var unreadable *unreadableError
	if !errors.As(err, &unreadable) {
		return s, err
	}
	log.Warn("what is known of the log's rows cannot be read, and is made anew from the topics", "dir", dir, "error", err)
	if err := os.RemoveAll(dir); err != nil {
		return nil, refused(dir, err)
	}
	return open(dir, log)
}

// Remove removes the store in dir. It is refused while somebody has it open.
func Remove(dir string) error {
	lock, err := pebble.LockDirectory(dir, vfs.Default)
	if err != nil {
		return fmt.Errorf("remove the rows that the log holds, in %s, which another process may use: %w", dir, err)
	}
	return errors.Join(os.RemoveAll(dir), lock.Close())
}

// unreadableError says that a store is not one that this program can read.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

func refused(dir string, err error) error {
	return sources.Fatal(fmt.Sprintf("give this process the right to write in %s, set state.dir to another directory, or state.enabled: false", dir),
		"keep the rows that the log holds: %w", err)
}

func open(dir string, log hclog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, refused(dir, err)
	}
	lock, err := pebble.LockDirectory(dir, vfs.Default)
	if errors.Is(err, os.ErrPermission) {
		return nil, refused(dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open the rows that the log holds, in %s, which another process may use: %w", dir, err)
	}
	s := &Store{lock: lock, cache: pebble.NewCache(cacheBytes), dir: dir, log: log, runs: map[string]*run{}, flushed: time.Now(), value: []byte{}}
	o := &pebble.Options{
		Cache: s.cache, Lock: lock, MemTableSize: memTableBytes, MemTableStopWritesThreshold: 3, DisableWAL: true,
		FormatMajorVersion: pebble.FormatNewest, Logger: silent{}, MaxOpenFiles: 256, L0CompactionThreshold: 4, LBaseMaxBytes: 128 << 20,
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most rows of a first pass are looked for in vain
	}
	o.EnsureDefaults() // a run's file needs them too
	s.options = o
	if err := removeFiles(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", dir, err), s.close())
	}
	if s.db, err = pebble.Open(dir, o); err == nil {
		s.pending = s.db.NewIndexedBatch()
		err = s.verifyFormat()
	}
	if err != nil {
		return nil, errors.Join(&unreadableError{fmt.Errorf("open %s: %w", dir, err)}, s.close())
	}
	return s, nil
}

// verifyFormat refuses a store of another format, and marks a new one.
func (s *Store) verifyFormat() error {
	found, ok, err := s.get([]byte{'f'})
	if err != nil {
		return err
	}
	if ok && string(found) != format {
		return fmt.Errorf("its format is %q instead of %q", found, format)
	}
	return s.db.Set([]byte{'f'}, []byte(format), pebble.NoSync)
}

// get returns a value, valid until the next call.
func (s *Store) get(key []byte) (value []byte, ok bool, err error) {
	found, closer, err := s.pending.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, s.broken(err)
	}
	s.value = append(s.value[:0], found...)
	return s.value, true, closer.Close()
}

// broken says what is to be done where the store has failed.
func (s *Store) broken(err error) error {
	if errors.Is(err, pebble.ErrCorruption) {
		return sources.Fatal(fmt.Sprintf("rm -r %s # it is a cache, and is made anew from the topics", s.dir), "read the rows that the log holds: %w", err)
	}
	return fmt.Errorf("keep the rows that the log holds, in %s: %w", s.dir, err)
}

func prefixOf(dst []byte, topic string) []byte {
	return append(append(append(dst[:0], 'r'), topic...), 0)
}

// endOf is above all keys with a prefix of prefixOf.
func endOf(prefix []byte) []byte { return append(prefix[:len(prefix)-1:len(prefix)-1], 1) }

func (s *Store) rowKey(topic string, key []byte) []byte {
	if s.keyOf == topic && s.keyLen == len(key) && bytes.HasSuffix(s.key, key) { // a row is put that was looked for
		return s.key
	}
	s.key = fold.AppendSortable(prefixOf(s.key, topic), key)
	s.keyOf, s.keyLen = topic, len(key)
	return s.key
}

// Row returns the row of a record key as JSON, valid until the next call. It is empty where the topic has the row's delete, and not
// yet its tombstone.
func (s *Store) Row(topic string, key []byte) (row []byte, ok bool, err error) {
	r, err := s.runOf(topic)
	if err != nil {
		return nil, false, err
	}
	k := s.rowKey(topic, key)
	if r.above(k) {
		return nil, false, nil
	}
	if row := r.find(k); row != nil {
		if row.removed {
			return nil, false, nil
		}
		s.value = append(s.value[:0], r.at(row.value)...)
		return s.value, true, nil
	}
	return s.get(k)
}

// Put notes that a record with this row is on its way to the log.
func (s *Store) Put(topic string, key, row []byte) error {
	r, err := s.runOf(topic)
	if err != nil {
		return err
	}
	k := s.rowKey(topic, key)
	if r.above(k) {
		r.add(k, row)
		return nil
	}
	if was := r.find(k); was != nil {
		r.set(was, row)
		return nil
	}
	if err := s.pending.Set(k, row, nil); err != nil {
		return s.broken(err)
	}
	return nil
}

// Remove notes that the row's delete is on its way to the log.
func (s *Store) Remove(topic string, key []byte) error {
	r, err := s.runOf(topic)
	if err != nil {
		return err
	}
	k := s.rowKey(topic, key)
	if r.above(k) {
		return nil
	}
	if was := r.find(k); was != nil {
		was.removed = true
		return nil
	}
	if err := s.pending.Delete(k, nil); err != nil {
		return s.broken(err)
	}
	return nil
}

// Keys calls fn for the record keys of a topic's rows after the cursor, nil for the first, in the order of their values: numbers by
// size, texts by their bytes. It returns where to go on after at most limit keys, nil at the end. A key is valid until fn
// returns.
func (s *Store) Keys(topic string, after []byte, limit int, fn func(key []byte) error) (next []byte, err error) {
	r, err := s.runOf(topic)
	if err != nil {
		return nil, err
	}
	if err := s.spill(r); err != nil {
		return nil, err
	}
	prefix := prefixOf(nil, topic)
	o := &pebble.IterOptions{LowerBound: prefix, UpperBound: endOf(prefix)}
	if after != nil {
		o.LowerBound = append(slices.Clip(append(prefix, after...)), 0)
	}
	it, err := s.pending.NewIter(o)
	if err != nil {
		return nil, s.broken(err)
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n > limit {
			break
		}
		sortable := it.Key()[len(prefix):]
		if err := fn(fold.KeyOf(sortable)); err != nil {
			return nil, errors.Join(err, it.Close())
		}
		next = append(next[:0], sortable...)
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, s.broken(err)
	}
	if n <= limit {
		return nil, nil
	}
	return next, nil
}

// Commit notes that all that was put and removed is committed in the log, whose partitions of these topics it was written to up to
// these offsets.
func (s *Store) Commit(ends map[string][]int64) error {
	for topic, offsets := range ends {
		p, ok, err := s.progress(topic)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("keep the rows that the log holds: topic %s was not followed", topic)
		}
		for i, offset := range offsets {
			if i < len(p.Offsets) {
				p.Offsets[i] = max(p.Offsets[i], offset)
			}
		}
		if err := s.setProgress(s.pending, topic, p); err != nil {
			return err
		}
	}
	// The rows come before how far they were followed.
	if err := s.commitRuns(); err != nil {
		return err
	}
	if s.pending.Empty() {
		return nil
	}
	if err := s.pending.Commit(pebble.NoSync); err != nil {
		return s.broken(err)
	}
	s.pending = s.db.NewIndexedBatch()
	if time.Since(s.flushed) < flushEvery {
		return nil
	}
	s.flushed = time.Now()
	if _, err := s.db.AsyncFlush(); err != nil {
		return s.broken(err)
	}
	return nil
}

// Close keeps what is committed, and gives up what is pending. It may be called again.
func (s *Store) Close() error {
	if s.db == nil {
		return nil
	}
	err := s.db.Flush()
	if err != nil {
		err = s.broken(err)
	}
	return errors.Join(err, s.close())
}

// Abandon closes the store as the end of its process would: what is only in memory is lost.
func (s *Store) Abandon() error { return s.close() }

func (s *Store) close() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.pending.Close(), s.db.Close())
		s.db = nil
	}
	s.cache.Unref()
	return errors.Join(append(errs, s.lock.Close())...)
}

// silent keeps pebble's notes of its own work out of the daemon's messages; its errors are returned.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { pebble.DefaultLogger.Fatalf(format, args...) }
