package held

import (
	"fmt"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// BenchmarkFirstPass notes rows that were not there before, as the first pass over a table does.
func BenchmarkFirstPass(b *testing.B) {
	s, err := Open(b.TempDir(), hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.setProgress(s.pending, "shop.public.orders", progress{Offsets: make([]int64, 6)}); err != nil {
		b.Fatal(err)
	}
	var key, row []byte
	for i := range b.N {
		key = fmt.Appendf(key[:0], `{"id":%d}`, i)
		row = fmt.Appendf(row[:0], `{"id":%d,"name":"customer %[1]d","amount":"%[1]d.00","note":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, i)
		if _, ok, err := s.Row("shop.public.orders", key); ok || err != nil {
			b.Fatal(ok, err)
		}
		if err := s.Put("shop.public.orders", key, row); err != nil {
			b.Fatal(err)
		}
		if i%50_000 == 0 {
			if err := s.Commit(map[string][]int64{"shop.public.orders": {int64(i)}}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
