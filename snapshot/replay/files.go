package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"weft/sink/fold"
	"weft/snapshot/archive"
)

// file is written under a temporary name beside its own, which it gets in the end.
type file struct {
	path string
	f    *os.File
}

func (f *file) create() error {
	var err error
	if f.f, err = os.CreateTemp(filepath.Dir(f.path), "."+filepath.Base(f.path)+".*.part"); err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return nil
}

func (f *file) finish() error {
	err := f.f.Chmod(0o644)
	err = errors.Join(err, f.f.Sync(), f.f.Close())
	if err == nil {
		err = os.Rename(f.f.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	f.f = nil
	return nil
}

func (f *file) discard() error {
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.f.Close(), os.Remove(f.f.Name()))
	f.f = nil
	return err
}

// NDJSON writes a row's columns as one JSON object a line.
type NDJSON struct {
	file file
	w    *bufio.Writer
}

// ToStdout writes lines to w as they come.
func ToStdout(w io.Writer) *NDJSON { return &NDJSON{w: bufio.NewWriterSize(w, 1<<16)} }

// ToNDJSON writes lines to a file.
func ToNDJSON(path string) *NDJSON { return &NDJSON{file: file{path: path}} }

// Begin is of Target.
func (t *NDJSON) Begin(context.Context, *Result, func(func(*fold.Image) error) error) error {
	if t.w != nil {
		return nil
	}
	if err := t.file.create(); err != nil {
		return err
	}
	t.w = bufio.NewWriterSize(t.file.f, 1<<16)
	return nil
}

// Write is of Target.
func (t *NDJSON) Write(_ context.Context, image *fold.Image) error {
	for range image.Count {
		_, err := t.w.Write(image.Columns)
		if err == nil {
			err = t.w.WriteByte('\n')
		}
		if err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
	}
	return nil
}

// End is of Target.
func (t *NDJSON) End(context.Context) error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	if t.file.f == nil {
		return nil
	}
	return t.file.finish()
}

// Close removes what was not ended.
func (t *NDJSON) Close() error { return t.file.discard() }

// Parquet writes rows to a Parquet file. It runs over the rows once before, for the columns and their kinds.
type Parquet struct {
	file file
	buf  *bufio.Writer
	w    *archive.Writer
}

// ToParquet writes rows to a file.
func ToParquet(path string) *Parquet { return &Parquet{file: file{path: path}} }

// Begin is of Target.
func (t *Parquet) Begin(_ context.Context, _ *Result, each func(func(*fold.Image) error) error) error {
	columns, err := archive.Kinds(each)
	if err != nil {
		return err
	}
	if err := t.file.create(); err != nil {
		return err
	}
	t.buf = bufio.NewWriterSize(t.file.f, 1<<18)
	t.w, err = archive.NewWriter(t.buf, columns, false)
	return err
}

// Write is of Target.
func (t *Parquet) Write(_ context.Context, image *fold.Image) error { return t.w.Write(image) }

// End is of Target.
func (t *Parquet) End(context.Context) error {
	if err := errors.Join(t.w.Close(), t.buf.Flush()); err != nil {
		return fmt.Errorf("write %s: %w", t.file.path, err)
	}
	return t.file.finish()
}

// Close removes what was not ended.
func (t *Parquet) Close() error { return t.file.discard() }
