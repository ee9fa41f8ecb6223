// Command bench measures how fast the daemon drains a PostgreSQL backlog into Kafka, against a bare reader of the same
// backlog that throws every message away, and how long a committed row takes to reach a consumer; or, with -snapshot, how fast
// it reads a whole table into Kafka, against a COPY that is thrown away; or, with -mongodb, what a change of a MongoDB collection costs it, against
// a loop of the driver that reads the same change stream and throws it away; or, with -polling, how fast it reads a table of PostgreSQL and
// one of MariaDB by its first polls, and what it costs to look for deleted rows in them.
//
// But for the last, both read the same of one table, in turns, in one run: absolute rates of a machine say little, the ratio does.
// The servers are those of services run, which names them in the environment.
//
//	services run -- bench [-snapshot|-mongodb|-polling] [-short] [-rows N] [-changes N] [-rounds N] [-profile DIR]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// plan is what is measured.
type plan struct {
	rows, changes, rounds int
	perSecond             int
	latency, warmUp       time.Duration
	profile               string // directory for profiles of the daemon; empty for none
}

func main() {
	p := plan{perSecond: 500}
	snapshot := flag.Bool("snapshot", false, "measure the reading of the table instead of the drain of a backlog")
	mongodb := flag.Bool("mongodb", false, "measure the CPU that a change of a MongoDB collection takes, of a fifth of -changes")
	polling := flag.Bool("polling", false, "measure the first polls of a table, and the search for deleted rows")
	short := flag.Bool("short", false, "100,000 changes of a table of 100,000 rows, in two rounds")
	flag.IntVar(&p.rows, "rows", 1_000_000, "rows of the table before the backlog")
	flag.IntVar(&p.changes, "changes", 500_000, "changes of the backlog, in transactions of 100")
	flag.IntVar(&p.rounds, "rounds", 3, "how often each of the two reads")
	flag.DurationVar(&p.latency, "latency", 20*time.Second, "how long to measure the latency")
	flag.DurationVar(&p.warmUp, "warm-up", 15*time.Second, "how long the same load runs before that")
	flag.StringVar(&p.profile, "profile", "", "write CPU and heap profiles of the daemon's last round to `DIR`")
	flag.Parse()
	if *short {
		p.rows, p.changes, p.rounds, p.latency, p.warmUp = 100_000, 100_000, 2, 5*time.Second, 5*time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	measure := measureDrain
	switch {
	case *snapshot:
		measure = measureSnapshot
	case *mongodb:
		measure = measureMongo
	case *polling:
		measure = measurePolling
	}
	err := measure(ctx, p)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measureDrain drains the backlog in turns, and measures the latency.
func measureDrain(ctx context.Context, p plan) error {
	b, err := prepare(ctx, p)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Printf("orders: %d rows of about %d bytes; backlog: %d changes in transactions of 100 (70 updates, 20 inserts, 10 deletes), %d MB of log\n",
		p.rows, b.rowBytes, b.changes, b.walBytes>>20)

	var bare, weft, cpu []float64
	var peak int64
	for round := range p.rounds {
		for turn := range 2 {
			if (turn+round)%2 == 0 { // each of the two is first as often as the other
				r, err := b.drainBare(ctx, round)
				if err != nil {
					return fmt.Errorf("bare reader: %w", err)
				}
				fmt.Printf("round %d  bare  %7.0f changes/s  (%.2f s)\n", round+1, r.rate(), r.took.Seconds())
				bare = append(bare, r.rate())
				continue
			}
			w, err := b.drainWeft(ctx, round)
			if err != nil {
				return fmt.Errorf("weft: %w", err)
			}
			fmt.Printf("round %d  weft  %7.0f changes/s  (%.2f s)  %.1f CPU us/change  RSS at most %d MiB, %d of them the program\n",
				round+1, w.rate(), w.took.Seconds(), w.cpuPerChange(), w.peakRSS>>20, w.fileRSS>>20)
			weft, cpu, peak = append(weft, w.rate()), append(cpu, w.cpuPerChange()), max(peak, w.peakRSS)
		}
	}
	if p.latency > 0 {
		l, err := b.latency(ctx)
		if err != nil {
			return fmt.Errorf("latency: %w", err)
		}
		fmt.Printf("latency from the INSERT being due to the consumer, %d rows/s for %s after %s: p50 %s  p95 %s  p99 %s  max %s  (%d rows)\n",
			p.perSecond, p.latency, p.warmUp, l.at(0.50), l.at(0.95), l.at(0.99), l.at(1), len(l))
	}
	fmt.Printf("median: bare %.0f changes/s, weft %.0f changes/s, %.1f CPU us/change, RSS at most %d MiB\n",
		median(bare), median(weft), median(cpu), peak>>20)
	fmt.Printf("ratio %.2f\n", median(weft)/median(bare))
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// drain is one measured reading, of the backlog or of the table.
type drain struct {
	changes int
	took    time.Duration
	cpu     time.Duration
	peakRSS int64 // bytes
	fileRSS int64 // bytes of the program's own pages, at the end
}

func (d drain) rate() float64 { return float64(d.changes) / d.took.Seconds() }

func (d drain) cpuPerChange() float64 { return float64(d.cpu.Microseconds()) / float64(d.changes) }

// latencies are in ascending order.
type latencies []time.Duration

func (l latencies) at(q float64) time.Duration {
	return l[int(q*float64(len(l)-1))].Round(100 * time.Microsecond)
}
