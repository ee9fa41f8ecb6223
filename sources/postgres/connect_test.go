package postgres

import (
	"errors"
	"testing"
)

func TestOneLine(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"one line", "failed: refused", "failed: refused"},
		{"an address tried twice", "failed:\n\tA: refused\n\tA: refused", "failed: A: refused"},
		{"two addresses", "failed:\n\tA: refused\n\tB: refused\n\tA: refused\n", "failed: A: refused; B: refused"},
		{"two causes", "failed:\n\tA: no TLS\n\n\tA: no user", "failed: A: no TLS; A: no user"},
		{"a name", "failed:\n\tlookup: no host x\n\tno host x", "failed: lookup: no host x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := errors.New(tt.text)
			got := oneLine(err)
			if got.Error() != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !errors.Is(got, err) {
				t.Error("the error itself is gone")
			}
		})
	}
}
