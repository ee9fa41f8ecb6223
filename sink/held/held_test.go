package held

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func openStore(t *testing.T, dir string, topics ...string) *Store {
	t.Helper()
	s, err := Open(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, topic := range topics {
		if err := s.setProgress(s.pending, topic, progress{Offsets: make([]int64, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Commit(nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// A store has what was put last, however keys are ordered and commits fall, and whether runs become files; and after a close it has what
// was committed.
func TestModel(t *testing.T) {
	topics := []string{"shop.a", "shop.b"}
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := openStore(t, dir, topics...)
		held := map[string]map[int]string{"shop.a": {}, "shop.b": {}}
		next := map[string]int{}
		committed := clone(held)
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		files := 0
		for range 2000 {
			topic := topics[random.IntN(2)]
			id := random.IntN(next[topic] + 3)
			if random.IntN(2) == 0 { // as in a first pass
				next[topic] += 1 + random.IntN(3)
				id = next[topic]
			}
			key := fmt.Appendf(nil, `{"id":%d}`, id)
			row, ok, err := s.Row(topic, key)
			check(err)
			if want, there := held[topic][id]; ok != there || string(row) != want {
				t.Fatalf("seed %d: row %d is %q, %t; want %q, %t", seed, id, row, ok, want, there)
			}
			switch random.IntN(20) {
			case 0, 1:
				check(s.Remove(topic, key))
				delete(held[topic], id)
			case 2:
				check(s.Commit(map[string][]int64{"shop.a": {1}}))
				committed = clone(held)
				entries, err := filepath.Glob(filepath.Join(dir, "*.sst"))
				check(err)
				files = max(files, len(entries))
			case 3:
				verifyKeys(t, s, topic, held[topic])
			case 4:
				if random.IntN(10) > 0 {
					continue
				}
				check(s.Close())
				s, held = openStore(t, dir), clone(committed)
			default:
				value := strings.Repeat("x", random.IntN(200)) + fmt.Sprint(random.IntN(1e6))
				if random.IntN(4) == 0 {
					value = strings.Repeat("y", 60_000)
				}
				check(s.Put(topic, key, []byte(value)))
				held[topic][id] = value
				next[topic] = max(next[topic], id)
			}
		}
		for _, topic := range topics {
			verifyKeys(t, s, topic, held[topic])
		}
		if files == 0 {
			t.Errorf("seed %d: nothing became a file", seed)
		}
		check(s.Close())
	}
}

func clone(held map[string]map[int]string) map[string]map[int]string {
	out := map[string]map[int]string{}
	for topic, rows := range held {
		out[topic] = maps.Clone(rows)
	}
	return out
}

// verifyKeys reads all keys in pages.
func verifyKeys(t *testing.T, s *Store, topic string, want map[int]string) {
	t.Helper()
	var got []string
	var after []byte
	for {
		next, err := s.Keys(topic, after, 7, func(key []byte) error {
			got = append(got, string(key))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if next == nil {
			break
		}
		after = bytes.Clone(next)
	}
	var keys []string
	for _, id := range slices.Sorted(maps.Keys(want)) {
		keys = append(keys, fmt.Sprintf(`{"id":%d}`, id))
	}
	if !slices.Equal(got, keys) {
		t.Fatalf("topic %s has the keys %v, want %v", topic, got, keys)
	}
}

// What a process that was killed has left of a file is removed, and what it had not committed is not there.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, "shop.a")
	put := func(first int) {
		t.Helper()
		for id := first; id < first+30; id++ {
			if err := s.Put("shop.a", fmt.Appendf(nil, `{"id":%d}`, id), bytes.Repeat([]byte("x"), 60_000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(0)
	if err := s.Commit(map[string][]int64{"shop.a": {30}}); err != nil {
		t.Fatal(err)
	}
	put(100)
	left := filepath.Join(dir, filePrefix+"0")
	if err := os.WriteFile(left, []byte("half of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	for id, want := range map[int]bool{0: true, 29: true, 100: false} {
		if _, ok, err := s.Row("shop.a", fmt.Appendf(nil, `{"id":%d}`, id)); ok != want || err != nil {
			t.Errorf("row %d: %t, %v; want %t", id, ok, err, want)
		}
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	// The rows are there though it is not known how far they were followed: they are read once more.
	if p, ok, err := s.progress("shop.a"); ok || err != nil {
		t.Errorf("followed to %+v, %v", p, err)
	}
}
