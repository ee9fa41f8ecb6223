package sink

import (
	"bytes"
	"errors"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lz4Compressor compresses batches as the client's own does, in blocks of 256 KiB rather than 4 MiB: that one keeps two blocks in
// memory for each batch that is being compressed, of 1 MiB at the most by default.
type lz4Compressor struct{ writers sync.Pool }

// lz4Options leave the checksum of the content out, as Kafka's own clients do: nobody looks at it, and a batch has one of its own.
var lz4Options = []lz4.Option{lz4.BlockSizeOption(lz4.Block256Kb), lz4.ChecksumOption(false)}

func (c *lz4Compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w, ok := c.writers.Get().(*lz4.Writer)
	if !ok {
		w = lz4.NewWriter(nil)
	}
	defer c.writers.Put(w)
	w.Reset(dst) // keeps the options
	err := w.Apply(lz4Options...)
	if err == nil {
		_, err = w.Write(src)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecLz4
}
