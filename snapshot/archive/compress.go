package archive

import (
	"fmt"

	klauspost "github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/compress/zstd"
)

// pageBytes is how much of a column is compressed at once.
const pageBytes = 256 << 10

// pages compresses with zstd. A page is the most that can be referred back to; the encoder of parquet-go keeps a window for
// streams, which takes 16 MiB.
type pages struct {
	zstd.Codec
	encoder *klauspost.Encoder
}

func newPages() (*pages, error) {
	e, err := klauspost.NewWriter(nil, klauspost.WithEncoderConcurrency(1), klauspost.WithEncoderLevel(klauspost.SpeedFastest),
		klauspost.WithWindowSize(pageBytes), klauspost.WithZeroFrames(true), klauspost.WithEncoderCRC(false)) // parts have checksums
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	return &pages{encoder: e}, nil
}

// Encode is of parquet-go's compress.Codec.
func (p *pages) Encode(dst, src []byte) ([]byte, error) {
	return p.encoder.EncodeAll(src, dst[:0]), nil
}
