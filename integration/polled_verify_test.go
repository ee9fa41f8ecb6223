package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// TestVerifyPolled: polled tables under load verify clean again and again. Then the topic is made wrong in a few records, and the same
// load goes on: those keys are found and no other, and are repaired.
func TestVerifyPolled(t *testing.T) {
	for name, origin := range map[string]func(testing.TB, string) *polledOrigin{"postgres": newPolledPostgres, "mariadb": newPolledMariaDB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := kafkaLog(t)
			prefix := fmt.Sprintf("verify_%x", rand.Uint32())
			o := origin(t, prefix)
			t.Cleanup(func() { deleteTopics(t, to.broker, prefix) })
			config := writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d}\ncaptures:\n  - {name: %s, %s}\n", to.config, prefix, partitions, prefix, o.capture())
			d := startDaemon(t, config)
			pulse := pulse{insert: o.pulse, broker: to.broker, topic: prefix + "." + o.topic("pulse")}
			pulse.await(t, d, time.Minute)
			for id := 90001; id <= 90004; id++ { // the load does not touch them
				if err := o.once(t.Context(), fmt.Sprintf("INSERT INTO %s.orders (id, name, amount) VALUES (%d, 'quiet', '1.50')", o.schema, id)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return o.load(ctx, 7) })
			time.Sleep(time.Second)
			clean := func() {
				t.Helper()
				if v, code, text := verify(t, config, prefix); code != 0 || !v.Clean {
					t.Fatalf("code %d:\n%s\nthe daemon's messages:\n%s", code, text, d.messages())
				}
			}
			for range 3 {
				clean()
			}
			table := o.topic("orders")
			spoilPolled(t, to.broker, prefix+"."+table)
			v, code, text := verify(t, config, prefix)
			var found []string
			for _, of := range v.Tables {
				for _, k := range of.Keys {
					found = append(found, strings.Join(append([]string{k.Kind, compact(k.Key)}, k.Columns...), " "))
				}
			}
			slices.Sort(found)
			want := `differing {"id":90002} amount; extra {"id":90009}; missing {"id":90001}`
			if got := strings.Join(found, "; "); code != 1 || got != want {
				t.Errorf("code %d, found %s, want %s:\n%s", code, got, want, text)
			}
			if v, code, text = verify(t, config, prefix, "--repair", "--yes"); code != 0 || !v.Clean {
				t.Errorf("repair: code %d:\n%s", code, text)
			}
			for _, of := range v.Tables {
				if of.Table == table && (of.Repair == nil || of.Repair.Keys != 3 || of.Repair.Left != 0) {
					t.Errorf("repaired %+v, want 3 keys", of.Repair)
				}
			}
			clean()
			stop()
			if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			d.stop()
		})
	}
}

// spoilPolled writes records over those of the quiet rows that are not the capture's: a tombstone, another value, and a row that is not
// in the table.
func spoilPolled(t *testing.T, broker, topic string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	quiet := map[string][]byte{}
	for len(quiet) < 4 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if bytes.Contains(r.Value, []byte(`quiet`)) {
				quiet[string(r.Key)] = r.Value
			}
		})
	}
	changed := bytes.Replace(quiet[`{"id":90002}`], []byte(`"amount":"1.50"`), []byte(`"amount":"1.51"`), 1)
	extra := bytes.Replace(quiet[`{"id":90003}`], []byte(`"id":90003`), []byte(`"id":90009`), 1)
	err = cl.ProduceSync(ctx,
		&kgo.Record{Topic: topic, Key: []byte(`{"id":90001}`)},
		&kgo.Record{Topic: topic, Key: []byte(`{"id":90002}`), Value: changed},
		&kgo.Record{Topic: topic, Key: []byte(`{"id":90009}`), Value: extra},
	).FirstErr()
	if err != nil {
		t.Fatal(err)
	}
}
