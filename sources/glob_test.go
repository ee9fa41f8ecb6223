package sources

import "testing"

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"orders", "orders", true},
		{"orders", "order", false},
		{"order", "orders", false},
		{"*", "", true},
		{"*", "anything", true},
		{"invoice_*", "invoice_2026", true},
		{"invoice_*", "invoices", false},
		{"*_log", "rate_log_log", true},
		{"*_log", "rate_log_x", false},
		{"a*b*c", "aXXbYYbc", true},
		{"a*b*c", "aXXbYY", false},
		{"t?", "tä", true},
		{"t?", "t", false},
		{"t?", "t12", false},
		{"", "", true},
		{"", "x", false},
		{"***", "x", true},
		{"[a-z]", "b", false},
		{"[a-z]", "[a-z]", true},
		{"orders", "Orders", false},
		{"*", "a.b", true},
		{"*c", "abc", true},
		{"a*c*e", "abcde", true},
		{"a*c*e", "abcdf", false},
		{"?", "ü", true},
		{"*a*a*", "banana", true},
		{"*ab", "aab", true},
		{"a*b*c", "aXbXbXc", true},
		{"?????", "orders", false},
	} {
		if got := MatchGlob(c.pattern, c.name); got != c.want {
			t.Errorf("MatchGlob(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}
