package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// mixedIDs are of many types of BSON.
var mixedIDs = []any{
	nil, int32(-3), 2.5, "text \"q\"", bson.D{{Key: "a", Value: int32(1)}}, bson.Binary{Data: []byte{1, 2}}, true, bson.DateTime(1e12),
	bson.Timestamp{T: 1, I: 2}, bson.MinKey{}, bson.MaxKey{}, bson.ObjectID{1, 2, 3},
}

// TestMongoDBTable: a collection with documents from before verifies clean, is archived, replayed from the archive and by a key without
// the server, and its topic is mended where it is wrong.
func TestMongoDBTable(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("mongo_%x", rand.Uint32())
	to := kafkaLog(t)
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })
	o := newMongoOrigin(t, name)
	var all []any
	for i, id := range mixedIDs {
		all = append(all, bson.D{{Key: "_id", Value: id}, {Key: "n", Value: i}})
	}
	for i := range 2000 {
		all = append(all, bson.D{{Key: "_id", Value: int64(i)}, {Key: "n", Value: i}, {Key: "note", Value: "say \"ja\" ключ"}})
	}
	orders := o.db.Collection("orders")
	if _, err := orders.InsertMany(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	dir, table := t.TempDir(), name+".orders"
	config := writeConfig(t, "log: %s\ntopics: {prefix: %s, partitions: 3}\nadmin: {enabled: false}\narchives: {bucket: %q}\n"+
		"captures:\n  - {name: %[2]s, source: {type: mongodb, url: %[4]q}, tables: [%[5]s, %[2]s.pulse], snapshot: initial, snapshot_options: {chunk: 65536}}\n",
		to.config, name, "file://"+filepath.Join(dir, "archives"), o.url, table)
	d := startDaemon(t, config)
	pulse := pulse{insert: o.pulse, broker: to.broker, topic: name + "." + o.topic("pulse")}
	pulse.await(t, d, time.Minute)
	if s := awaitSnapshot(t, d, config, name, time.Minute); s.rows() < int64(len(all)) {
		t.Errorf("%d documents of %d were read", s.rows(), len(all))
	}
	for i := range 100 {
		id := bson.D{{Key: "_id", Value: int64(10 * i)}}
		var err error
		if i%2 == 0 {
			_, err = orders.DeleteOne(t.Context(), id)
		} else {
			_, err = orders.UpdateOne(t.Context(), id, bson.D{{Key: "$set", Value: bson.D{{Key: "note", Value: "changed"}}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if v, code, text := verify(t, config, name, table); code != 0 || !v.Clean || v.Tables[0].Rows != int64(len(all)-50) {
		t.Fatalf("code %d:\n%s\nthe daemon's messages:\n%s", code, text, d.messages())
	}

	want, err := o.tables(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	var made []struct{ ID string }
	if err := json.Unmarshal([]byte(weft(t, "archive", "create", name, table, "--json", "-c", config)), &made); err != nil || len(made) != 1 {
		t.Fatalf("made %+v, %v", made, err)
	}
	file := filepath.Join(dir, "orders.ndjson")
	weft(t, "replay", name, table, "--from", made[0].ID, "--to", file, "-c", config)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != len(want["orders"].rows) {
		t.Errorf("%d documents are replayed, and the collection has %d", len(lines), len(want["orders"].rows))
	}
	for _, line := range lines {
		var got row
		if err := decode([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		key, err := canonicalOf(map[string]any{"_id": got["_id"]})
		if err != nil {
			t.Fatal(err)
		}
		if r := want["orders"].rows[key]; r == nil || r["document"] != got["document"] {
			t.Errorf("%s is replayed, and the collection has %v", line, r)
		}
	}
	if one := weft(t, "replay", name, table, "--key", `{"_id":"10"}`, "--to", "-", "-c", config); !strings.Contains(one, `changed`) || strings.Count(one, "\n") != 1 {
		t.Errorf("the document 10 is replayed as %s", one)
	}

	// A topic that lost a document, and has one too many.
	spoilKeys(t, to.broker, name, name+"."+table, `{"_id":"{\"$minKey\":1}"}`, `{"_id":"20"}`) // which is deleted
	v, code, out := verify(t, config, name, table)
	found := ""
	for _, k := range v.Tables[0].Keys {
		found += k.Kind + compact(k.Key) + " "
	}
	if code != 1 || !strings.Contains(found, `missing{"_id":"{\"$minKey\":1}"}`) || !strings.Contains(found, `extra{"_id":"20"}`) {
		t.Errorf("code %d, found %s:\n%s", code, found, out)
	}
	verify(t, config, name, table, "--repair", "--yes")
	if v, code, text := verify(t, config, name, table); code != 0 || !v.Clean {
		t.Errorf("after the repair: code %d:\n%s", code, text)
	}
	d.stop()
}
