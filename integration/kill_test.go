package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// origin is a database under load.
type origin interface {
	// capture is the config of a capture of this database's tables, but for its name.
	capture() string
	// topic is a table's topic without the prefix.
	topic(table string) string
	// load writes until ctx ends.
	load(ctx context.Context, seed uint64) error
	// pulse inserts a row into the table pulse.
	pulse(ctx context.Context, id int) error
	// tables gives what each topic is to be judged by, once the load has ended.
	tables(ctx context.Context, partitions int32) (map[string]table, error)
}

const partitions = 3

// TestKill kills the daemon KILLS times (without it 25 times with PostgreSQL, 4 with the others) under load, at random moments between 0.1 and 3 seconds after
// each start, and stops it once as an operator does. After that every topic must hold every committed change once, in
// order, and fold to its table. SEED repeats a run's load and moments.
func TestKill(t *testing.T) {
	logs := map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog}
	origins := map[string]func(t testing.TB, name string) origin{
		"mongodb":       func(t testing.TB, name string) origin { return newMongoOrigin(t, name) },
		"mariadb":       func(t testing.TB, name string) origin { return newPolledMariaDB(t, name) },
		"postgres":      func(t testing.TB, name string) origin { return newPGOrigin(t, name) },
		"postgres-poll": func(t testing.TB, name string) origin { return newPolledPostgres(t, name) },
		"spanner":       func(t testing.TB, name string) origin { return newSpannerOrigin(t, name) },
		"sql":           func(t testing.TB, name string) origin { return newPolledSQL(t, name) },
		"sqlite":        func(t testing.TB, _ string) origin { return newSQLiteOrigin(t) },
	}
	for _, source := range slices.Sorted(maps.Keys(origins)) {
		for _, log := range slices.Sorted(maps.Keys(logs)) {
			t.Run(source+" into "+log, func(t *testing.T) {
				t.Parallel()
				few := 4
				if source == "postgres" {
					few = 25
				}
				kills, seed := killsAndSeed(t, few)
				name := fmt.Sprintf("kill_%x", rand.Uint32())
				to := logs[log](t)
				if log == "kafka" {
					t.Cleanup(func() { deleteTopics(t, to.broker, name) })
				}
				run := killRun{T: t, name: name, origin: origins[source](t, name), to: to}
				run.run(kills, seed)
			})
		}
	}
}

// killsAndSeed are from the environment, kills where it does not say.
func killsAndSeed(t *testing.T, kills int) (int, uint64) {
	seed := uint64(time.Now().UnixNano())
	for name, into := range map[string]func(string) error{
		"KILLS": func(s string) (err error) { kills, err = strconv.Atoi(s); return err },
		"SEED":  func(s string) (err error) { seed, err = strconv.ParseUint(s, 10, 64); return err },
	} {
		if s := os.Getenv(name); s != "" {
			if err := into(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	return kills, seed
}

type killRun struct {
	*testing.T
	name   string // of the capture and prefix of its topics
	origin origin
	to     logKind
	config string
	during func(*daemon) // called after the kills while the load goes on, if set
	after  func()        // called at the end, if set
	other  string        // a table that after judges
}

// begin starts the daemon and waits until its capture has begun.
func (k *killRun) begin() (*daemon, pulse) {
	k.config = writeConfig(k, "log: %s\ntopics: {prefix: %s, partitions: %d, dialect: json}\ncaptures:\n  - {name: %s, %s}\n",
		k.to.config, k.name, partitions, k.name, k.origin.capture())
	pulse := pulse{insert: k.origin.pulse, broker: k.to.broker, topic: k.name + "." + k.origin.topic("pulse")}
	d := startDaemon(k, k.config)
	pulse.await(k, d, time.Minute)
	return d, pulse
}

func (k *killRun) run(kills int, seed uint64) {
	k.Logf("SEED=%d", seed)
	d, pulse := k.begin()

	ctx, stop := context.WithCancel(k.Context())
	defer stop()
	loaded := make(chan error, 1)
	go func() { loaded <- k.origin.load(ctx, seed) }()
	r := rand.New(rand.NewPCG(seed, 99))
	for i := range kills {
		time.Sleep(100*time.Millisecond + time.Duration(r.IntN(2900))*time.Millisecond)
		d.alive()
		select {
		case err := <-loaded:
			k.Fatalf("before kill %d: %v", i, err)
		default:
		}
		if o, ok := k.origin.(interface{ confirmed(testing.TB) string }); ok { // first this, since both only grow
			for _, problem := range ahead(k, o.confirmed(k), weft(k, "checkpoint", "get", "-c", k.config, k.name)) {
				k.Errorf("before kill %d: %s", i, problem)
			}
		}
		d.kill()
		d = startDaemon(k, k.config)
	}
	if k.during != nil {
		k.during(d)
	}
	stop()
	if err := <-loaded; err != nil {
		k.Fatal(err)
	}
	began := time.Now()
	pulse.await(k, d, 3*time.Minute)
	k.drained(d)
	k.Logf("drained in %s", time.Since(began).Round(time.Millisecond))
	d.stop()
	d = startDaemon(k, k.config)
	pulse.await(k, d, time.Minute)
	if _, ok := k.origin.(interface{ settles() }); ok {
		eventually(k, d, time.Minute, "all deleted rows are found", func(context.Context) (bool, error) { return len(k.problems()) == 0, nil })
	}
	k.judge()
	if k.after != nil {
		k.after()
	}
	d.stop()
}

// drained waits until the daemon is past the load where a row of pulse does not tell that: without an order of all changes it
// may come before what was committed earlier.
func (k *killRun) drained(d *daemon) {
	o, ok := k.origin.(interface {
		past(position []byte) (bool, error)
	})
	if !ok {
		return
	}
	eventually(k, d, 3*time.Minute, "the checkpoint is past the load", func(context.Context) (bool, error) {
		return o.past([]byte(weft(k, "checkpoint", "get", "--position", "-c", k.config, k.name)))
	})
}

func (k *killRun) judge() {
	for _, problem := range k.problems() {
		k.Error(problem)
	}
}

// problems lists what is wrong with the topics, at most ten of a table.
func (k *killRun) problems() (all []string) {
	tables, err := k.origin.tables(k.Context(), partitions)
	if err != nil {
		k.Fatal(err)
	}
	records, err := readTopics(k.Context(), k.to.broker, k.name)
	if err != nil {
		k.Fatal(err)
	}
	topics := map[string][]record{}
	for _, r := range records {
		topics[r.topic] = append(topics[r.topic], r)
	}
	delete(topics, k.name+"."+k.origin.topic("pulse"))
	delete(topics, k.name+"."+k.origin.topic(k.other))
	delete(topics, k.name+".__gaps")
	if o, ok := k.origin.(interface {
		excuse(topics map[string][]record, tables map[string]table) []string
	}); ok {
		all = o.excuse(topics, tables)
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		topic := k.name + "." + k.origin.topic(name)
		problems := judge(topics[topic], tables[name])
		changes := 0
		for _, n := range tables[name].changes {
			changes += n
		}
		k.Logf("%s: %d records; the table has %d rows after %d changes", name, len(topics[topic]), len(tables[name].rows), changes)
		all = append(all, problems[:min(10, len(problems))]...)
		if more := len(problems) - 10; more > 0 {
			all = append(all, fmt.Sprintf("%s: and %d more problems", name, more))
		}
		delete(topics, topic)
	}
	for topic := range topics {
		all = append(all, topic+": a topic of no table")
	}
	return all
}
