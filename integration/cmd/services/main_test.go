package main

import "testing"

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"start"}, {"run"}, {"run", "--"}, {"run", "-env"}, {"run", "-slow", "--", "true"}, {"install", "now"},
	} {
		if code, err := run(t.Context(), args); code != 2 || err != nil {
			t.Errorf("services %q: code %d, %v; want 2 and the usage", args, code, err)
		}
	}
}
