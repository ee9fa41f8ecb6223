package sink

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What the compressor writes, again and again with the same writers, the client's own reader reads.
func TestLZ4(t *testing.T) {
	r := rand.New(rand.NewChaCha8([32]byte{}))
	c, reader := &lz4Compressor{}, kgo.DefaultDecompressor()
	for _, size := range []int{0, 1, 100, 256 << 10, 256<<10 + 1, 3 << 20, 5} {
		src := bytes.Repeat([]byte(`{"id":1,"name":"a name"}`), size/24+1)[:size]
		for i := range size / 50 { // some of it does not compress
			src[r.IntN(i+1)] = byte(r.Uint32())
		}
		out, codec := c.Compress(new(bytes.Buffer), src)
		if codec != kgo.CodecLz4 {
			t.Fatalf("%d bytes: codec %d", size, codec)
		}
		if flags := out[4]; flags&4 != 0 {
			t.Errorf("%d bytes: a checksum of the content", size)
		}
		back, err := reader.Decompress(out, codec)
		if err != nil || !bytes.Equal(back, src) {
			t.Errorf("%d bytes come back as %d, %v", size, len(back), err)
		}
		if size > 1000 && len(out) > size/2 {
			t.Errorf("%d bytes take %d", size, len(out))
		}
	}
}
