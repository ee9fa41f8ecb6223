package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/parquet-go/parquet-go"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"weft/sink/fold"
)

// A row group is held in memory until it is full; a part is read as a whole before its rows are believed.
const (
	rowGroupBytes = 8 << 20 // of JSON
	partBytes     = 128 << 20
)

// Writer writes images as one Parquet file.
type Writer struct {
	shape   *shape
	w       *parquet.GenericWriter[any]
	one     parquet.Row
	pending int
	Rows    int64
}

// NewWriter writes to w. own adds the columns that an archive needs to be read back.
func NewWriter(w io.Writer, columns []Column, own bool) (*Writer, error) {
	codec, err := newPages()
	if err != nil {
		return nil, err
	}
	options := []parquet.WriterOption{
		schemaOf(columns, own), parquet.Compression(codec), parquet.PageBufferSize(pageBytes), parquet.CreatedBy("weft", "", ""), parquet.KeyValueMetadata("weft.sorted", "by key"),
	}
	config, err := parquet.NewWriterConfig(options...)
	if err != nil {
		return nil, fmt.Errorf("set up Parquet: %w", err)
	}
	return &Writer{shape: newShape(columns, own), w: parquet.NewGenericWriter[any](w, config)}, nil
}

// Write adds an image, as often as it counts.
func (w *Writer) Write(image *fold.Image) error {
	var err error
	if w.one, err = w.shape.row(w.one, image); err != nil {
		return fmt.Errorf("row with key %s: %w", image.Key, err)
	}
	for range image.Count {
		if _, err := w.w.WriteRows([]parquet.Row{w.one}); err != nil {
			return fmt.Errorf("write Parquet: %w", err)
		}
		w.Rows++
		if w.pending += len(image.Columns) + len(image.Key); w.pending >= rowGroupBytes {
			w.pending = 0
			if err := w.w.Flush(); err != nil {
				return fmt.Errorf("write Parquet: %w", err)
			}
		}
	}
	return nil
}

// Close ends the file, not the io.Writer.
func (w *Writer) Close() error { return w.w.Close() }

// counted hashes and counts what goes to an object.
type counted struct {
	to    io.Writer
	hash  hash.Hash
	bytes int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.hash.Write(p[:n])
	c.bytes += int64(n)
	return n, err
}

// parts writes an archive's parts one after the other.
type parts struct {
	bucket  *Bucket
	id      string
	columns []Column
	done    []Part

	object *blob.Writer
	cancel context.CancelFunc
	count  *counted
	w      *Writer
}

func (p *parts) write(ctx context.Context, image *fold.Image) error {
	if p.w == nil {
		if err := p.begin(ctx); err != nil {
			return err
		}
	}
	if err := p.w.Write(image); err != nil {
		return explain(p.bucket.url, "write to", err)
	}
	if p.count.bytes >= partBytes {
		return p.end()
	}
	return nil
}

func (p *parts) name() string { return fmt.Sprintf("part-%05d.parquet", len(p.done)) }

func (p *parts) begin(ctx context.Context) error {
	ctx, p.cancel = context.WithCancel(ctx) // cancelled before Close, an object does not come to be
	var err error
	p.object, err = p.bucket.b.NewWriter(ctx, p.id+"/"+p.name(), &blob.WriterOptions{
		ContentType: "application/vnd.apache.parquet", BufferSize: 5 << 20, MaxConcurrency: 2,
	})
	if err != nil {
		return explain(p.bucket.url, "write to", err)
	}
	p.count = &counted{to: p.object, hash: sha256.New()}
	p.w, err = NewWriter(p.count, p.columns, true)
	return err
}

func (p *parts) end() error {
	if p.w == nil {
		return nil
	}
	if err := p.w.Close(); err != nil {
		return explain(p.bucket.url, "write to", err)
	}
	if err := p.object.Close(); err != nil {
		return explain(p.bucket.url, "write to", err)
	}
	p.cancel()
	p.done = append(p.done, Part{Name: p.name(), Rows: p.w.Rows, Bytes: p.count.bytes, SHA256: hex.EncodeToString(p.count.hash.Sum(nil))})
	p.w, p.object = nil, nil
	return nil
}

// abort gives up what is under way.
func (p *parts) abort() {
	if p.object != nil {
		p.cancel()
		_ = p.object.Close() // reports the cancellation
	}
}

// Each calls fn for every row of an archive, in its order. A part is copied to a file in dir ("" for the system's temporary
// directory) and its checksum compared before any of its rows is given.
func (b *Bucket) Each(ctx context.Context, m *Manifest, dir string, fn func(*fold.Image) error) error {
	s := newShape(m.Columns, true)
	for _, p := range m.Parts {
		if err := b.eachOf(ctx, m, p, dir, s, fn); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bucket) eachOf(ctx context.Context, m *Manifest, p Part, dir string, s *shape, fn func(*fold.Image) error) (err error) {
	f, err := b.fetch(ctx, m, p, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	file, err := parquet.OpenFile(f, p.Bytes, parquet.SkipBloomFilters(true))
	if err != nil {
		return damaged(m.ID, "%s cannot be read: %w", p.Name, err)
	}
	want := schemaOf(m.Columns, true)
	if file.Schema().String() != want.String() {
		return damaged(m.ID, "%s has other columns than its manifest says:\n%s", p.Name, file.Schema())
	}
	if file.NumRows() != p.Rows {
		return damaged(m.ID, "%s has %d rows, its manifest says %d", p.Name, file.NumRows(), p.Rows)
	}
	var image fold.Image
	rows := make([]parquet.Row, 256)
	for _, group := range file.RowGroups() {
		r := group.Rows()
		for {
			n, err := r.ReadRows(rows)
			for _, row := range rows[:n] {
				if err := s.image(&image, row); err != nil {
					return errors.Join(damaged(m.ID, "%s: %w", p.Name, err), r.Close())
				}
				if err := fn(&image); err != nil {
					return errors.Join(err, r.Close())
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return errors.Join(fmt.Errorf("read %s/%s: %w", m.ID, p.Name, err), r.Close())
			}
		}
		if err := r.Close(); err != nil {
			return fmt.Errorf("read %s/%s: %w", m.ID, p.Name, err)
		}
	}
	return nil
}

// Verify compares every part with its checksum.
func (b *Bucket) Verify(ctx context.Context, m *Manifest, dir string) error {
	for _, p := range m.Parts {
		f, err := b.fetch(ctx, m, p, dir)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// fetch copies a part into a file that has no name, and compares it with the manifest.
func (b *Bucket) fetch(ctx context.Context, m *Manifest, p Part, dir string) (*os.File, error) {
	object, err := b.b.NewReader(ctx, m.ID+"/"+p.Name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, damaged(m.ID, "%s is missing", p.Name)
	}
	if err != nil {
		return nil, explain(b.url, "read from", err)
	}
	defer object.Close()
	f, err := os.CreateTemp(dir, "weft-part-")
	if err != nil {
		return nil, fmt.Errorf("copy %s/%s: %w", m.ID, p.Name, err)
	}
	err = os.Remove(f.Name()) // it lives as long as it is open
	sum := sha256.New()
	n := int64(0)
	if err == nil {
		n, err = io.Copy(io.MultiWriter(f, sum), object)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("copy %s/%s: %w", m.ID, p.Name, err)
	case n != p.Bytes:
		err = damaged(m.ID, "%s has %d bytes, its manifest says %d", p.Name, n, p.Bytes)
	case hex.EncodeToString(sum.Sum(nil)) != p.SHA256:
		err = damaged(m.ID, "%s has another SHA-256 than its manifest says", p.Name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
