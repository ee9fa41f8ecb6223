package sources

import (
	"errors"
	"testing"
)

func TestLastPosition(t *testing.T) {
	var last LastPosition[string]
	decoded := 0
	decode := func(p Position) (string, error) {
		decoded++
		if string(p) == "bad" {
			return "", errors.New("it is bad")
		}
		return string(p), nil
	}
	text := Position("a")
	for _, step := range []struct {
		set, want string // want is empty for an error
		decoded   int
	}{{"a", "a", 1}, {"a", "a", 1}, {"b", "b", 2}, {"bad", "", 3}, {"b", "b", 3}, {"a", "a", 4}} {
		text = append(text[:0], step.set...) // who asks may use its memory again
		p, err := last.Decode(text, decode)
		if (err != nil) != (step.want == "") || err == nil && *p != step.want || decoded != step.decoded {
			t.Errorf("%s: %v, %v, decoded %d times; want %q, %d", step.set, p, err, decoded, step.want, step.decoded)
		}
	}
}
