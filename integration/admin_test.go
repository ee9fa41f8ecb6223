package integration

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"weft/integration/services"
)

func httpGet(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// A capture that cannot run stops no other, and both are told of.
func TestSeenFromOutside(t *testing.T) {
	name := fmt.Sprintf("outside_%x", rand.Uint32())
	to := kafkaLog(t)
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	o := newPGOrigin(t, name)
	port, err := services.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	config := writeConfig(t, "log: %s\ntopics: {prefix: %s}\nadmin: {listen: \"127.0.0.1:%d\"}\ncaptures:\n  - {name: %s, %s}\n  - {name: %s_sick, source: {type: postgres, url: %q}, tables: [public.missing]}\n",
		to.config, name, port, name, o.capture(), name, o.url)
	d := startDaemon(t, config)
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + "." + o.topic("pulse")}
	pulse.await(t, d, time.Minute)
	if err := o.exec(t.Context(), "INSERT INTO counters VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)"); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	eventually(t, d, 20*time.Second, "metrics are right", func(ctx context.Context) (bool, error) {
		_, body, err := httpGet(ctx, base+"/metrics")
		if err != nil {
			return false, err
		}
		records, err := readTopics(ctx, to.broker, name)
		if err != nil {
			return false, err
		}
		for _, want := range []string{
			fmt.Sprintf("weft_capture_changes_total{capture=%q} %d\n", name, len(records)),
			fmt.Sprintf("weft_capture_lag_seconds{capture=%q} 0\n", name),
			fmt.Sprintf("weft_capture_ready{capture=%q} 1\n", name),
			fmt.Sprintf("weft_capture_state{capture=%q,state=\"running\"} 1\n", name),
			fmt.Sprintf("weft_slot_retained_bytes{capture=%q} ", name),
			fmt.Sprintf("weft_capture_ready{capture=%q} 0\n", name+"_sick"),
			fmt.Sprintf("weft_capture_state{capture=%q,state=\"failed\"} 1\n", name+"_sick"),
		} {
			if !strings.Contains(body, want) {
				return false, fmt.Errorf("no %q in\n%s", want, body)
			}
		}
		return true, nil
	})
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/readyz?capture=" + name: 200, "/readyz?capture=" + name + "_sick": 503} {
		code, body, err := httpGet(t.Context(), base+path)
		if err != nil || code != want {
			t.Errorf("%s: %d, want %d: %s (%v)", path, code, want, body, err)
		}
	}
	d.kill() // with a capture that has failed it would not end with code 0
}
