package sink

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The codec is in the low three bits of a batch's attributes (https://kafka.apache.org/documentation/#recordbatch).
func TestCompression(t *testing.T) {
	const attributes = 22 // offset of the field's low byte
	for name, codec := range map[string]byte{"none": 0, "snappy": 2, "lz4": 3, "zstd": 4, "": 3} {
		t.Run("codec="+name, func(t *testing.T) {
			l, fake := fakeLog(t)
			l.Compression = name
			w := open(t, options(l))
			used := make(chan byte, 1)
			write(t, w, create(1, "1", "small"))
			commit(t, w, `1`, true)
			fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
				used <- req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records[attributes] & 7
				return nil, nil, false
			})
			write(t, w, create(2, "1", strings.Repeat("x", 10000)))
			if err := w.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := <-used; got != codec {
				t.Errorf("compression %q gave codec %d, not %d", name, got, codec)
			}
		})
	}
}

// WarpStream reads a client's zone from the end of its id.
func TestClientID(t *testing.T) {
	for want, l := range map[string]*Log{
		"weft":                     {},
		"loom":                     {ClientID: "loom"},
		"weft,ws_az=eu-central-1a": {Zone: "eu-central-1a"},
	} {
		l.Brokers, l.Profile = []string{"127.0.0.1:1"}, "warpstream"
		cl, err := l.Client()
		if err != nil {
			t.Fatal(err)
		}
		if got := cl.OptValue(kgo.ClientID); got != want {
			t.Errorf("client id %q, not %q", got, want)
		}
		cl.Close()
	}
}
