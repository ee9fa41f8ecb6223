package envelope

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/sources"
)

// A delete that is known only by its key has that as its before image, and the key's bytes as they are.
func TestEncodeDelete(t *testing.T) {
	for _, dialect := range []Dialect{JSON, Debezium} {
		e, err := New(Options{Dialect: dialect, Connector: "test", Name: "shop", Version: "1", Now: func() time.Time { return time.Unix(0, 0) }})
		if err != nil {
			t.Fatal(err)
		}
		of := &sources.Table{Schema: "public", Name: "a", Key: []int{0}, Columns: []sources.Column{{Name: "id"}, {Name: "v"}}}
		const key = `{"id":"a \"b\""}`
		buf, got, err := e.EncodeDelete([]byte("before"), nil, of, []byte(key), []byte("00000002.7."))
		if err != nil || len(got) != 2 || !strings.HasPrefix(string(buf), "before") {
			t.Fatalf("%d records, %v", len(got), err)
		}
		if string(got[0].Key) != key || string(got[1].Key) != key || got[1].Value != nil || got[0].Ordinal != OrdinalDelete || got[1].Ordinal != OrdinalTombstone {
			t.Errorf("records %+v", got)
		}
		var body struct {
			Op            string
			Before, After json.RawMessage
			Source        struct{ Seq, Table, Snapshot string }
		}
		if err := json.Unmarshal(got[0].Value, &body); err != nil {
			t.Fatalf("%s: %v", got[0].Value, err)
		}
		if body.Op != "d" || string(body.Before) != key || string(body.After) != "null" || body.Source.Seq != "00000002.7.0" || body.Source.Table != "a" ||
			body.Source.Snapshot != "true" {
			t.Errorf("value %s", got[0].Value)
		}
	}
}
