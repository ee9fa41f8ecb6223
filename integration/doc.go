// Package integration tests the built binary from outside, against real services: it imports nothing of the product, so
// that a mistake there cannot hide itself here.
//
// Here live the harness (harness_test.go: build, run, kill the daemon), the load (load_test.go), a reader of topics that
// shares no code with the sink (topic_test.go), and the judge that compares both (judge_test.go). The servers are started
// by the package services; the addresses are taken from WEFT_TEST_*. A test without its server is skipped, or fails where
// CI=true.
package integration
