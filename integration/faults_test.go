package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fault is a mistake that a build of the daemon has.
type fault struct {
	name, log string
	edits     []edit
	crash     string        // the failpoint that brings it to light
	wait      time.Duration // between coming there and dying
	// hold: another capture's transaction is open in the checkpoint topic while the daemon restarts.
	hold bool
}

var faults = []fault{
	{
		name: "acknowledges early", log: "kafka", crash: "before the checkpoint is written:60", wait: 1500 * time.Millisecond,
		edits: []edit{{
			"cmd/weft/internal/pipeline/capture.go", "if err := w.Commit(ctx, position, all); err != nil {",
			"_ = src.Durable(position)\nif err := w.Commit(ctx, position, all); err != nil {",
		}},
	},
	{
		name: "checkpoint outside the transaction", log: "kafka", crash: "before the checkpoint is written:30",
		edits: []edit{{
			"sink/transactional.go", "if err := t.w.writeCheckpoint(ctx, cp); err != nil {",
			`if err := t.w.flush(ctx); err != nil {
				return err
			}
			if err := t.w.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
				return err
			}
			if err := t.w.cl.BeginTransaction(); err != nil {
				return err
			}
			if err := t.w.writeCheckpoint(ctx, cp); err != nil {`,
		}},
	},
	{
		name: "checkpoint read only to the last stable offset", log: "kafka", crash: "source told:30", hold: true,
		edits: []edit{{
			"checkpoint/scan.go", "listedEnds, err := adm.ListEndOffsets(ctx, topic)", "listedEnds, err := adm.ListCommittedOffsets(ctx, topic)",
		}},
	},
	{
		name: "checkpoint at the commit's LSN", log: "kafka", crash: "committed, source not told:8",
		edits: []edit{{"sources/postgres/decode.go", "d.at = lsn(c.EndLSN)", "d.at = lsn(c.CommitLSN)"}},
	},
	{
		name: "resumes inside a transaction without skipping", log: "kafka", crash: "before the checkpoint is written:30",
		edits: []edit{
			{"sources/postgres/decode.go", "case tx.events < r.Events:\n\t\treturn tx, true, nil", "case tx.events < r.Events:\n\t\treturn tx, false, nil"},
			{"sources/postgres/decode.go", "\"not %s\", r.Events, tx.xid, got, r.Hash)\n\t}\n\treturn tx, true, nil", "\"not %s\", r.Events, tx.xid, got, r.Hash)\n\t}\n\treturn tx, false, nil"},
		},
	},
	{
		name: "resumes without skipping what the log holds", log: "embedded", crash: "records synced, no checkpoint:30",
		edits: []edit{{"sink/sequenced.go", "_, ok := s.found[place(r, seq)]\n\treturn ok, nil", "return false, nil"}},
	},
}

// TestFaults: each fault must be found by what finds none in a daemon without it.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			binary := buildEdited(t, f.edits...)
			problems := crash(t, f.log, binary, f.crash, f.wait, f.hold)
			said := strings.Join(problems, "\n")
			// Either the judge finds records twice, or the daemon itself finds its checkpoint and its source in contradiction.
			if !strings.Contains(said, "seq is also that of") && !strings.Contains(said, "gap: ") {
				t.Fatalf("not caught; %d problems:\n%s", len(problems), said)
			}
			t.Logf("caught: %d problems; the first: %s", len(problems), problems[0])
		})
	}
}

// TestFailpoints kills the daemon once at every failpoint, on every kind of log that passes it. Nothing may be lost,
// repeated, or out of order.
func TestFailpoints(t *testing.T) {
	binary := buildEdited(t)
	try := func(log, at string, hold bool) {
		t.Run(at+" on "+log, func(t *testing.T) {
			t.Parallel()
			for _, problem := range crash(t, log, binary, at, 0, hold) {
				t.Error(problem)
			}
		})
	}
	for _, f := range failpoints {
		pass := ":30" // inside the large transaction
		switch {
		case strings.HasPrefix(f.name, "slot "), strings.HasPrefix(f.name, "while resuming"):
			pass = ":1"
		case f.name == "inside a batch":
			pass = ":2500"
		}
		if f.kafka {
			try("kafka", f.name+pass, false)
		}
		if f.embedded {
			try("embedded", f.name+pass, false)
		}
	}
	try("kafka", "source told:30", true)
}

// crash runs the daemon into a failpoint amid a load that is the same each time, lets it go on, and judges. It lists what
// is wrong, and fails the test when the daemon never came to the failpoint.
func crash(t *testing.T, log, binary, at string, wait time.Duration, hold bool) []string {
	t.Helper()
	name := fmt.Sprintf("crash_%x", rand.Uint32())
	to := map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog}[log](t)
	if log == "kafka" {
		t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	}
	o := newPGOrigin(t, name)
	k := killRun{T: t, name: name, origin: o, to: to}
	k.config = writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: %d}\ncaptures:\n  - {name: %s, buffer: {batch: 64KiB}, %s}\n",
		strings.TrimSuffix(to.config, "}")+", commit: {bytes: 64KiB}}", name, partitions, name, o.capture())
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + "." + o.topic("pulse")}

	dies := func(d *daemon, at string) {
		t.Helper()
		limit, next := time.After(30*time.Second), time.NewTicker(200*time.Millisecond)
		defer next.Stop()
		for alive := true; alive; {
			select {
			case <-d.done:
				alive = false
			case <-next.C: // after the script, commits of one small transaction each
				pulse.n++
				if err := o.pulse(t.Context(), pulse.n); err != nil {
					t.Fatal(err)
				}
			case <-limit:
				t.Fatalf("the daemon did not come to %q:\n%s", at, d.messages())
			}
		}
		if d.cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("the daemon ended by itself before %q (%v):\n%s", at, d.cmd.ProcessState, d.messages())
		}
	}
	release := func() {}
	if strings.HasPrefix(at, "slot ") {
		dies(startBinary(t, binary, k.config, "WEFT_FAILPOINT="+at), at)
		d := startBinary(t, binary, k.config)
		pulse.await(t, d, time.Minute)
		if err := o.script(t.Context()); err != nil {
			t.Fatal(err)
		}
		pulse.await(t, d, time.Minute)
		return k.problems()
	}
	first := at
	if strings.HasPrefix(at, "while resuming") {
		first = "source told:30"
	}
	d := startBinary(t, binary, k.config, "WEFT_FAILPOINT="+first, "WEFT_FAILPOINT_WAIT="+wait.String())
	pulse.await(t, d, time.Minute)
	if hold {
		release = holdCheckpoints(t, to.broker)
	}
	if err := o.script(t.Context()); err != nil {
		t.Fatal(err)
	}
	dies(d, first)
	if first != at {
		dies(startBinary(t, binary, k.config, "WEFT_FAILPOINT="+at), at)
	}
	var problems []string
	confirmed := o.confirmed(t)
	if hold {
		time.AfterFunc(3*time.Second, release)
	}
	d = startBinary(t, binary, k.config)
	pulse.n++
	if err := o.pulse(t.Context(), pulse.n); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	for arrived := false; !arrived; {
		records, err := readTopics(ctx, to.broker, pulse.topic)
		if err != nil && ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for _, r := range records {
			arrived = arrived || strings.Contains(string(r.key), fmt.Sprintf(`:%d}`, pulse.n))
		}
		select {
		case <-ctx.Done():
			return append(problems, fmt.Sprintf("the capture stands still: %s", d.messages()))
		case <-d.done:
			if log == "kafka" {
				problems = append(problems, ahead(t, confirmed, weft(t, "checkpoint", "get", "-c", k.config, name))...)
			}
			return append(problems, "the daemon failed: "+string(d.messages()))
		case <-time.After(100 * time.Millisecond):
		}
	}
	problems = append(problems, k.problems()...)
	d.stop()
	return problems
}

// ahead tells when the server may forget what no checkpoint covers.
func ahead(t testing.TB, confirmed, checkpoint string) []string {
	t.Helper()
	var cp struct{ Position struct{ LSN string } }
	if err := decode([]byte(checkpoint), &cp); err != nil {
		t.Fatalf("%v:\n%s", err, checkpoint)
	}
	if lsn(t, confirmed) > lsn(t, cp.Position.LSN) {
		return []string{fmt.Sprintf("the slot's confirmed position %s is ahead of the checkpoint's, %s", confirmed, cp.Position.LSN)}
	}
	return nil
}

func lsn(t testing.TB, text string) uint64 {
	t.Helper()
	var high, low uint64
	if _, err := fmt.Sscanf(text, "%X/%X", &high, &low); err != nil {
		t.Fatalf("LSN %q: %v", text, err)
	}
	return high<<32 | low
}

// script is a load that is the same each time: small transactions of every kind, and in their middle one that is larger
// than a commit.
func (o *pgOrigin) script(ctx context.Context) error {
	small := `BEGIN;
		INSERT INTO orders SELECT g, nextval('n'), 'c', 1.50, true, now(), NULL FROM generate_series(%[1]d, %[1]d + 19) g;
		UPDATE orders SET n = nextval('n'), amount = amount + 1 WHERE id %% 3 = 0 AND id >= %[1]d;
		UPDATE orders SET n = nextval('n'), id = id + 100000 WHERE id = %[1]d;
		DELETE FROM orders WHERE id = %[1]d + 1;
		SAVEPOINT s; DELETE FROM orders; ROLLBACK TO s;
		INSERT INTO docs VALUES ('doc %[1]d', nextval('n'), 't', repeat(md5('%[1]d'), 200));
		UPDATE docs SET n = nextval('n'), title = 'again';
		COMMIT;`
	var sql []string
	for i := range 12 {
		sql = append(sql, fmt.Sprintf(small, 1+i*20))
	}
	sql = append(sql, "INSERT INTO lines SELECT 1, g, nextval('n'), 'sku ' || g FROM generate_series(1, 5000) g;")
	for i := range 5 {
		sql = append(sql, fmt.Sprintf(small, 1001+i*20))
	}
	c, err := pgx.Connect(ctx, o.url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, strings.Join(sql, "\n"), pgx.QueryExecModeSimpleProtocol)
	return err
}

// confirmed is the position up to which the server may forget, of the only slot of the database.
func (o *pgOrigin) confirmed(t testing.TB) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), o.url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	var at string
	err = c.QueryRow(t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = current_database()").Scan(&at)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// holdCheckpoints opens a transaction in the checkpoint topic, as another capture's daemon does, and returns what aborts it.
func holdCheckpoints(t testing.TB, broker string) (release func()) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.TransactionalID(fmt.Sprintf("hold-%x", rand.Uint32())), kgo.TransactionTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "__weft.checkpoints", Key: []byte("another"), Value: []byte("{}")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := cl.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
			t.Error(err)
		}
		cl.Close()
	}
}
