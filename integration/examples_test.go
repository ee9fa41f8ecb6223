package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// example is a server with what an example configuration captures.
type example struct {
	replace []string         // what stands in the file, and what comes in its place
	write   func(n int)      // writes the row with this key
	topic   string           // of these rows, without the prefix
	key     func(int) string // as in the topic
}

// TestExamples runs the daemon with example configurations, in which addresses, credentials and names are replaced, and nothing else. A row from before the
// capture and one from after its start come into the topic, as `weft tail` prints it.
func TestExamples(t *testing.T) {
	for file, serve := range map[string]func(t *testing.T, name string) example{
		"mongodb-kafka": mongoExample, "spanner-kafka": spannerExample, "mariadb-kafka": mariadbExample,
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("example_%x", rand.Uint32())
			to := kafkaLog(t)
			t.Cleanup(func() { deleteTopics(t, to.broker, name) })
			e := serve(t, name)
			text, err := os.ReadFile(filepath.Join("..", "configs", "examples", file+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			text = regexp.MustCompile(`(?m)^  brokers: .*`).ReplaceAll(text, fmt.Appendf(nil, "  brokers: [%q]", to.broker))
			text = regexp.MustCompile(`(?m)^  - name: `).ReplaceAll(text, []byte("  - name: "+name+"_"))
			text = bytes.Replace(text, []byte("prefix: shop"), []byte("prefix: "+name), 1)
			for i := 0; i < len(e.replace); i += 2 {
				if !bytes.Contains(text, []byte(e.replace[i])) {
					t.Fatalf("%s does not say %q", file, e.replace[i])
				}
				text = bytes.ReplaceAll(text, []byte(e.replace[i]), []byte(e.replace[i+1]))
			}
			config := writeConfig(t, "%s", text)
			topic := name + "." + e.topic
			e.write(1)
			d := startDaemon(t, config)
			for n := 1; n <= 2; n++ {
				eventually(t, d, time.Minute, e.key(n)+" in "+topic, func(ctx context.Context) (bool, error) {
					records, err := readTopics(ctx, to.broker, topic)
					for _, r := range records {
						if string(r.key) == e.key(n) {
							return true, err
						}
					}
					return false, err
				})
				if n == 1 {
					e.write(2)
				}
			}
			keys := map[string]bool{}
			for _, text := range strings.Split(strings.TrimSpace(weft(t, "tail", "-c", config, "--exit-at-end", topic)), "\n") {
				var l struct{ Key json.RawMessage }
				if err := json.Unmarshal([]byte(text), &l); err != nil {
					t.Fatalf("%v: %s", err, text)
				}
				keys[string(l.Key)] = true
				t.Log(text)
			}
			if len(keys) != 2 || !keys[e.key(1)] || !keys[e.key(2)] {
				t.Errorf("weft tail printed the keys %v", keys)
			}
			d.stop()
		})
	}
}

func mongoExample(t *testing.T, name string) example {
	o := newMongoOrigin(t, name)
	for _, c := range []string{"events", "invoice_1"} {
		if err := o.db.CreateCollection(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []string{"orders", "invoice_1"} {
		images := bson.D{{Key: "collMod", Value: c}, {Key: "changeStreamPreAndPostImages", Value: bson.D{{Key: "enabled", Value: true}}}}
		if err := o.db.RunCommand(t.Context(), images).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return example{
		replace: []string{"${MONGODB_URL}", o.url, "shop.orders, ", name + ".orders, ", "shop.invoice_*", name + ".invoice_*", "shop.events", name + ".events"},
		write: func(n int) {
			if _, err := o.db.Collection("invoice_1").InsertOne(t.Context(), bson.D{{Key: "_id", Value: n}, {Key: "state", Value: "new"}}); err != nil {
				t.Fatal(err)
			}
		},
		topic: name + ".invoice_1",
		key:   func(n int) string { return fmt.Sprintf(`{"_id":"%d"}`, n) },
	}
}

func spannerExample(t *testing.T, name string) example {
	o := newSpannerOrigin(t, name)
	o.ddl(t, "CREATE TABLE order_lines (id INT64, name STRING(MAX)) PRIMARY KEY (id)",
		"CREATE CHANGE STREAM orders_changes FOR orders, order_lines OPTIONS (retention_period = '7d', value_capture_type = 'NEW_ROW_AND_OLD_VALUES')")
	return example{
		replace: []string{"database: projects/my-project/instances/my-instance/databases/shop", fmt.Sprintf("database: %s\n      emulator_host: %q", o.name, o.proxy.address)},
		write: func(n int) {
			if _, err := o.apply(t.Context(), spanner.Insert("order_lines", []string{"id", "name"}, []any{n, "new"})); err != nil {
				t.Fatal(err)
			}
		},
		topic: "order_lines",
		key:   func(n int) string { return fmt.Sprintf(`{"id":%d}`, n) },
	}
}

func mariadbExample(t *testing.T, name string) example {
	o := newPolledMariaDB(t, name)
	return example{
		replace: []string{"${SALES_URL}", server(t, "WEFT_TEST_MARIADB"), "sales.orders", name + ".orders", "sales.invoice_*", name + ".puls*"},
		write: func(n int) {
			if err := o.pulse(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		},
		topic: name + ".pulse",
		key:   func(n int) string { return fmt.Sprintf(`{"id":%d}`, n) },
	}
}
