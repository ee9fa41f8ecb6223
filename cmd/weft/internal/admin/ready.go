package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"weft/cmd/weft/internal/pipeline"
)

const (
	// standstill is how long a capture that has something to deliver may deliver nothing. A commit takes a second at most
	// on an object-store log, and the largest source transaction is committed in parts within ten.
	standstill = 30 * time.Second
	// silentBytes is how far a database's log may grow beyond what it has sent without more being said of it: a database
	// that writes other tables is told of its new end every ten seconds, or 16 MiB.
	silentBytes = 256 << 20
)

// obstacle says why a capture is not ready, or nothing. Ready means that it gets on: what is committed in the datastore
// comes into the log, or there is nothing to bring.
func obstacle(c Capture, now time.Time) string {
	switch c.State {
	case pipeline.Running:
	case pipeline.Starting, pipeline.Stopped:
		if c.Since.IsZero() {
			return "about to start"
		}
		return fmt.Sprintf("%s since %s", c.State, c.Since.UTC().Format(time.RFC3339))
	default:
		return fmt.Sprintf("%s since %s: %v", c.State, c.Since.UTC().Format(time.RFC3339), c.Err)
	}
	if !c.Committing.IsZero() && now.Sub(c.Committing) > standstill {
		return fmt.Sprintf("the log has not answered a commit for %s", now.Sub(c.Committing).Round(time.Second))
	}
	if now.Sub(c.Progressed) <= standstill {
		return ""
	}
	if !c.Idle && c.Commits > 0 {
		return fmt.Sprintf("nothing was committed for %s, although there is something to commit", now.Sub(c.Progressed).Round(time.Second))
	}
	if c.Lag.Bytes > silentBytes {
		return fmt.Sprintf("the datastore's log is %d MiB ahead, and nothing of it has come for %s", c.Lag.Bytes>>20, now.Sub(c.Progressed).Round(time.Second))
	}
	return ""
}

// readiness answers 200 when every capture, or the one that the query names, is ready, else 503; the body says it of each. Before all
// captures are known it is 503.
type readiness struct {
	captures func() (all []Capture, known bool)
	now      func() time.Time
}

func (h readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	type verdict struct {
		Capture string `json:"capture"`
		Ready   bool   `json:"ready"`
		Why     string `json:"why,omitempty"`
	}
	only := r.URL.Query().Get("capture")
	answer := struct {
		Ready    bool      `json:"ready"`
		Why      string    `json:"why,omitempty"`
		Captures []verdict `json:"captures"`
	}{Ready: true, Captures: []verdict{}}
	all, known := h.captures()
	for _, c := range all {
		if only != "" && c.Capture != only {
			continue
		}
		why := obstacle(c, h.now())
		answer.Captures = append(answer.Captures, verdict{c.Capture, why == "", why})
		answer.Ready = answer.Ready && why == ""
	}
	w.Header().Set("Content-Type", "application/json")
	found := only != "" && len(answer.Captures) > 0
	switch {
	case !known && !found:
		answer.Ready, answer.Why = false, "which captures to run has not been read from the log yet"
		w.WriteHeader(http.StatusServiceUnavailable)
	case only != "" && !found:
		answer.Ready = false
		w.WriteHeader(http.StatusNotFound)
	case !answer.Ready:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client has gone
}
