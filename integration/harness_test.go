package integration

import (
	"os"
	"testing"
)

// need ends a test that lacks something of its surroundings: skipped on a developer's machine, failed in CI.
func need(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// server is the value of an environment variable that names a server.
func server(t testing.TB, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		need(t, name+" (make test sets it; or: services run -- go test)")
	}
	return v
}
