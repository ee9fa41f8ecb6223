// Command bench measures how fast the daemon drains a PostgreSQL backlog into Kafka, against a bare reader of the same
// backlog that throws every message away, and how long a committed row takes to reach a consumer; or
//
//   - with -snapshot, how fast it reads a whole table into Kafka, against a COPY that is thrown away;
//   - with -mongodb or -spanner, what a change of a change stream costs it, against a loop of the driver that reads the same stream and
//     throws it away;
//   - with -polling, how fast it reads a table of PostgreSQL and one of MariaDB by its first polls, and what it costs to look for
//     deleted rows in them.
//
// But for the last, both read the same of one table, in turns, in one run: absolute rates of a machine say little, the ratio does.
// The servers are those of services run, which names them in the environment.
//
//	services run -- bench [-snapshot|-mongodb|-spanner|-polling] [-short] [-rows N] [-changes N] [-rounds N] [-profile DIR]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
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
	spanner := flag.Bool("spanner", false, "measure the CPU that a change of a Spanner table takes, of a fifth of -changes")
	short := flag.Bool("short", false, "100,000 changes of a table of 100,000 rows, in two rounds; of other sources less")
	flag.IntVar(&p.rows, "rows", 1_000_000, "rows of the table before the backlog")
	flag.IntVar(&p.changes, "changes", 500_000, "changes of the backlog, in transactions of 100")
	flag.IntVar(&p.rounds, "rounds", 3, "how often each of the two reads")
	flag.DurationVar(&p.latency, "latency", 20*time.Second, "how long to measure the latency")
	flag.DurationVar(&p.warmUp, "warm-up", 15*time.Second, "how long the same load runs before that")
	flag.StringVar(&p.profile, "profile", "", "write CPU and heap profiles of the daemon's last round to `DIR`")
	flag.Parse()
	if *short {
		p.rows, p.changes, p.rounds, p.latency, p.warmUp = 100_000, 100_000, 2, 5*time.Second, 5*time.Second
		switch {
		case *mongodb || *spanner: // whose servers are slow
			p.changes, p.rounds = 25_000, 1
		case *polling:
			p.rows = 20_000
		}
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
	case *spanner:
		measure = measureSpanner
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

	bare, weft, err := inTurns(p.rounds, "change",
		way{"bare", func(round int) (drain, error) { return b.drainBare(ctx, round) }},
		way{"weft", func(round int) (drain, error) { return b.drainWeft(ctx, round) }})
	if err != nil {
		return err
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
		bare.median(drain.rate), weft.median(drain.rate), weft.median(drain.cpuPerChange), weft.peakRSS()>>20)
	fmt.Printf("ratio %.2f\n", weft.median(drain.rate)/bare.median(drain.rate))
	return nil
}

// latencies are in ascending order.
type latencies []time.Duration

func (l latencies) at(q float64) time.Duration {
	return l[int(q*float64(len(l)-1))].Round(100 * time.Microsecond)
}
