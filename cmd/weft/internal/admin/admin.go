// Package admin answers HTTP about the running daemon: /metrics for Prometheus, /healthz and /readyz for whoever supervises
// it.
//
// It reads figures when it is asked and keeps none. What the figures are is packages pipeline's and sources' to say; the
// dashboards and alert rules that use the metrics are in configs.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/cmd/weft/internal/pipeline"
)

// Capture is what is known of a capture at one moment.
type Capture struct {
	pipeline.Status
	pipeline.Figures
	Unarchived int // topics whose last attempt to be archived failed
}

// Server answers until it is closed.
type Server struct {
	http     http.Server
	listener net.Listener
	done     chan error
}

// Listen begins to answer at address, HOST:PORT, about the captures that the func returns; known says that there are no others yet to be
// read. It may be called at any time, by several goroutines.
func Listen(address, version string, captures func() (all []Capture, known bool)) (*Server, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{version: version, captures: captures, now: time.Now},
	} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen at admin.listen %s: %w (set it to another HOST:PORT, or admin.enabled: false)", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /readyz", readiness{captures: captures, now: time.Now})
	s := &Server{
		http:     http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second},
		listener: listener, done: make(chan error, 1),
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close stops answering; what is being answered has a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
