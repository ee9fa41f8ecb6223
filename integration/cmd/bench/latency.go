package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// latency inserts rows at a steady rate, each in a transaction of its own, and takes the time from when an INSERT
// is due until a read_committed consumer has the row's record. That is more than the time from its commit, and a
// wait for a connection counts. What is inserted in the first warmUp does not: a broker that has just been started runs
// code there that its JVM has yet to compile, and the rows of the first second take ten times as long as later ones.
func (b *bench) latency(ctx context.Context) (latencies, error) {
	capture := b.name + "_latency"
	d, err := b.start(ctx, capture, "never", "")
	if err != nil {
		return nil, err
	}
	const first = int64(1) << 40
	insert := "INSERT INTO orders SELECT $1, gen_random_uuid(), 1, 'note', doc($1), clock_timestamp()"
	for made := false; !made; time.Sleep(10 * time.Millisecond) { // what is written from here on is captured
		if err := d.ended(); err != nil {
			return nil, err
		}
		if err := b.server.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active AND slot_name LIKE '%' || $1 || '%')", capture).Scan(&made); err != nil {
			return nil, err
		}
	}
	if _, err := b.db.Exec(ctx, insert, first-1); err != nil {
		return nil, err
	}
	if err := b.caughtUp(ctx, d); err != nil { // and its topic is there
		return nil, err
	}
	warm := int(b.plan.warmUp.Seconds() * float64(b.perSecond))
	n := warm + int(b.plan.latency.Seconds()*float64(b.perSecond))
	sent, got := make([]time.Time, n), make([]time.Time, n)

	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka), kgo.ConsumeTopics(capture+".public.orders"), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, b.plan.warmUp+b.plan.latency+time.Minute)
		defer cancel()
		for seen := 0; seen < n; {
			fetches := cl.PollFetches(ctx)
			now := time.Now()
			if err := errors.Join(ctx.Err(), d.ended()); err != nil {
				return fmt.Errorf("%d of %d rows arrived: %w", seen, n, err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				var id int64
				if _, err := fmt.Sscanf(string(r.Key), `{"id":%d}`, &id); err != nil || id < first {
					return
				}
				got[id-first] = now
				seen++
			})
		}
		return nil
	})
	turns := make(chan int, n) // never full: a slow server does not slow the clock down
	for range 8 {
		conn, err := pgx.Connect(ctx, b.url)
		if err != nil {
			return nil, err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		g.Go(func() error {
			for i := range turns {
				if _, err := conn.Exec(ctx, insert, first+int64(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ticker := time.NewTicker(time.Second / time.Duration(b.perSecond))
	defer ticker.Stop()
	for i := range n {
		<-ticker.C
		sent[i] = time.Now()
		turns <- i
	}
	close(turns)
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var l latencies
	for i := warm; i < n; i++ {
		l = append(l, got[i].Sub(sent[i]))
	}
	slices.Sort(l)
	return l, d.stop()
}
