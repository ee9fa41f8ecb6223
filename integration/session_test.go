package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"weft/integration/services"
)

// line is a record as a command prints it.
type line struct {
	Offset     int64
	Key, Value string // JSON; "null", or "" for an empty key
	Headers    map[string]string
}

// TestSession makes one change of each kind and reads them with `weft tail` and with Kafka's own console consumer, which
// must both show the same.
func TestSession(t *testing.T) {
	for name, to := range map[string]func(testing.TB) logKind{"kafka": kafkaLog, "embedded": embeddedLog} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			session(t, to(t))
		})
	}
}

func session(t *testing.T, to logKind) {
	libs := server(t, "WEFT_TEST_KAFKA_LIBS")
	name := fmt.Sprintf("session_%x", rand.Uint32())
	url := newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)
	if to.name == "kafka" {
		t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	execute(t, c, "CREATE TABLE orders(id int PRIMARY KEY, item text NOT NULL, price numeric(10,2)); CREATE TABLE pulse(id int PRIMARY KEY)")
	config := writeConfig(t, `log: %s
topics: {prefix: %s, partitions: 1}
captures:
  - {name: %[2]s, source: {type: postgres, url: %q}, tables: ["public.*"], snapshot: never}
`, to.config, name, url)
	d := startDaemon(t, config)
	pulse := pulse{insert: inserter(c, "pulse"), broker: to.broker, topic: name + ".public.pulse"}
	pulse.await(t, d, time.Minute)
	for _, sql := range []string{
		"INSERT INTO orders VALUES (1, 'tea', 3.50)",
		"UPDATE orders SET price = 4.00 WHERE id = 1",
		"UPDATE orders SET id = 2 WHERE id = 1",
		"DELETE FROM orders WHERE id = 2",
		"TRUNCATE orders",
	} {
		execute(t, c, sql)
	}
	pulse.await(t, d, time.Minute)

	topic := name + ".public.orders"
	tailed := tailLines(t, config, topic)
	want := []string{
		`c {"id":1} {"id":1,"item":"tea","price":"3.50"}`,
		`u {"id":1} {"id":1,"item":"tea","price":"4.00"}`,
		`d {"id":1} null newkey {"id":2}`,
		`tombstone {"id":1} newkey {"id":2}`,
		`c {"id":2} {"id":2,"item":"tea","price":"4.00"} oldkey {"id":1}`,
		`d {"id":2} null`,
		`tombstone {"id":2}`,
		`t  null`,
	}
	var got []string
	for _, l := range tailed {
		got = append(got, l.describe(t))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("weft tail (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(tailed, consoleLines(t, libs, to.broker, topic, len(tailed))); diff != "" {
		t.Errorf("Kafka's console consumer (-weft tail +console consumer):\n%s", diff)
	}
	d.stop()
}

// describe gives op, key, after, and the key that a key change has on its other side.
func (l line) describe(t *testing.T) string {
	t.Helper()
	parts := []string{"tombstone", l.Key}
	if l.Value != "null" {
		var e envelope
		if err := decode([]byte(l.Value), &e); err != nil {
			t.Fatalf("%+v: %v", l, err)
		}
		parts = []string{e.Op, l.Key, text(e.After)}
	}
	for _, side := range []string{"newkey", "oldkey"} {
		if key, ok := l.Headers["__debezium."+side]; ok {
			parts = append(parts, side, key)
		}
	}
	return strings.Join(parts, " ")
}

func tailLines(t *testing.T, config, topic string) []line {
	t.Helper()
	out := weft(t, "tail", "-c", config, topic, "--from", "start", "--exit-at-end")
	var lines []line
	for one := range strings.Lines(out) {
		t.Logf("weft tail: %s", strings.TrimSpace(one))
		var l struct {
			Topic      string
			Offset     int64
			Key, Value any
			Headers    map[string]string
		}
		if err := decode([]byte(one), &l); err != nil {
			t.Fatalf("%s: %v", one, err)
		}
		key := text(l.Key)
		if l.Key == "" {
			key = ""
		}
		value, err := canonicalOf(l.Value)
		if err != nil || l.Topic != topic {
			t.Fatalf("%s: %v", one, err)
		}
		lines = append(lines, line{l.Offset, key, value, l.Headers})
	}
	return lines
}

func consoleLines(t *testing.T, libs, broker, topic string, n int) []line {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := services.JavaTool(ctx, libs, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", broker,
		"--topic", topic, "--from-beginning", "--max-messages", fmt.Sprint(n), "--timeout-ms", "30000",
		"--command-property", "isolation.level=read_committed",
		"--formatter-property", "print.offset=true",
		"--formatter-property", "print.headers=true",
		"--formatter-property", "headers.separator=;",
		"--formatter-property", "print.key=true",
		"--formatter-property", "key.separator=\t",
		"--formatter-property", "null.literal=null")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("console consumer: %v\n%s", err, out)
	}
	var lines []line
	for one := range strings.Lines(string(out)) {
		one = strings.TrimSuffix(one, "\n")
		t.Logf("console consumer: %s", one)
		parts := strings.Split(one, "\t")
		if len(parts) != 4 {
			t.Fatalf("console consumer: %q has %d parts, want offset, headers, key, value", one, len(parts))
		}
		l := line{Key: parts[2], Headers: map[string]string{}}
		if _, err := fmt.Sscanf(parts[0], "Offset:%d", &l.Offset); err != nil {
			t.Fatalf("console consumer: %q: %v", one, err)
		}
		for header := range strings.SplitSeq(parts[1], ";") {
			name, value, _ := strings.Cut(header, ":")
			l.Headers[name] = value
		}
		if l.Value, err = canonical([]byte(parts[3])); err != nil {
			t.Fatalf("console consumer: %q: %v", one, err)
		}
		lines = append(lines, l)
	}
	return lines
}
