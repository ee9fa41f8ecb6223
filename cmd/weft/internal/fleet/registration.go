// Package fleet holds what captures are registered in the log, and follows it: which captures the daemon is to run, and
// what is asked of them while they run.
//
// A registration says what is wanted. What was done is elsewhere: positions in the checkpoint, package checkpoint; what a
// daemon makes of it in its reports, package status.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink"
	"weft/sources"
)

// Topic of the registrations, keyed by capture name. Daemons share the captures by its partitions.
var Topic = sink.OwnTopic{Name: "__weft.captures", Partitions: 16}

// PartitionOf is where a capture's registration is, as Java clients would have it too.
func PartitionOf(name string) int32 {
	r := kgo.Record{Key: []byte(name)}
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(Topic.Name).Partition(&r, Topic.Partitions))
}

// version of the record's form. A reader refuses higher ones; a field may be added without raising it only if an older
// Weft may drop it.
const version = 1

// Registration is what is wanted of one capture.
type Registration struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	// Capture is an entry of the config file's captures, as JSON. Variables in it are not expanded, and no secret is in it.
	Capture json.RawMessage `json:"capture"`
	// File is the config file that the capture is from, as HOST:PATH; empty where a command registered it. Who has the file
	// runs it, with what stands there; the registration only shows it to others.
	File string `json:"file,omitempty"`
	// Fleet names the daemons that share it, where a command registered it.
	Fleet string `json:"fleet,omitempty"`
	// Removing: it runs no more, and what it made at its source and in the log is being removed.
	Removing bool `json:"removing,omitempty"`
	// Snapshot is the last request for one, nil for none.
	Snapshot *SnapshotRequest `json:"snapshot,omitempty"`
	// By, At and Writer are for people: USER@HOST, when, and the version of Weft.
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Writer string    `json:"writer"`
}

// SnapshotRequest asks a capture for a snapshot of tables.
type SnapshotRequest struct {
	// ID is unique; the checkpoint names the request that its snapshot is of (checkpoint.Snapshot.Request).
	ID string `json:"id"`
	// Tables are SCHEMA.TABLE; empty for all of the capture's.
	Tables []string `json:"tables,omitempty"`
	// Where is a condition in the datastore's language, empty for all rows.
	Where string `json:"where,omitempty"`
	// Keys asks for a repair of the rows with these keys instead, by table (snapshot.Request.Keys); Tables are the keys' too, since a
	// Weft that does not know repairs reads them whole.
	Keys map[string][][][]byte `json:"keys,omitempty"`
	// Cancel ends the snapshot that ID asked for, instead of asking for one; of a snapshot that nobody asked for ID is the
	// number (checkpoint.Snapshot.ID).
	Cancel bool      `json:"cancel,omitempty"`
	At     time.Time `json:"at"`
}

// Entry is a registration as the log holds it.
type Entry struct {
	Registration
	// Err says that the record is none that can be read, where it is, and how to mend it; then only Name is known.
	Err error
	// Newer says of Err that a newer Weft wrote the record, which this one must leave alone.
	Newer bool
}

// SourceAndTables are what the registration says of them, for people.
func (r Registration) SourceAndTables() (source string, tables []string) {
	var capture struct {
		Source struct{ Type string }
		Tables []string
	}
	if json.Unmarshal(r.Capture, &capture) != nil { // it says nothing
		return "", []string{}
	}
	return capture.Source.Type, capture.Tables
}

func encode(r Registration) ([]byte, error) {
	r.Version = version
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode registration of capture %q: %w", r.Name, err)
	}
	return value, nil
}

func decode(r *kgo.Record) Entry {
	name := string(r.Key)
	var reg Registration
	err := json.Unmarshal(r.Value, &reg)
	switch {
	case err != nil:
	case reg.Version > version:
		return Entry{Registration: Registration{Name: name}, Newer: true, Err: sources.Fatal("run the version of Weft that wrote it, or a newer one",
			"the registration of capture %q (%s[%d] offset %d) has form %d, written by Weft %s; this Weft reads up to %d",
			name, r.Topic, r.Partition, r.Offset, reg.Version, reg.Writer, version)}
	case reg.Version < 1 || reg.Name != name || len(reg.Capture) == 0 || reg.Capture[0] != '{':
		err = fmt.Errorf("it is none: version %d, name %q", reg.Version, reg.Name)
	}
	if err != nil {
		return Entry{Registration: Registration{Name: name}, Err: sources.Fatal(
			fmt.Sprintf("weft capture add %s --file CAPTURE.yaml # writes it anew; or weft capture remove %[1]s --keep-source", name),
			"the registration of capture %q (%s[%d] offset %d) cannot be read: %w", name, r.Topic, r.Partition, r.Offset, err)}
	}
	return Entry{Registration: reg}
}

// Load returns what is registered, by name. A log without the topic holds nothing.
func Load(ctx context.Context, cl *kgo.Client) (map[string]Entry, error) {
	found := map[string]Entry{}
	err := checkpoint.ScanAll(ctx, cl, Topic.Name, func(r *kgo.Record) error {
		apply(found, r)
		return nil
	})
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, fmt.Errorf("load registrations: %w", err)
	}
	return found, nil
}

// LoadOne is Load for one capture; nil says that nothing is registered.
func LoadOne(ctx context.Context, cl *kgo.Client, name string) (*Entry, error) {
	e, err := loadOne(ctx, cl, name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	return e, err
}

// loadOne is LoadOne, and kerr.UnknownTopicOrPartition where there is no topic.
func loadOne(ctx context.Context, cl *kgo.Client, name string) (*Entry, error) {
	found := map[string]Entry{}
	starts, ends, err := checkpoint.Bounds(ctx, cl, Topic.Name)
	if p := PartitionOf(name); err == nil && int(p) < len(ends) {
		err = checkpoint.Scan(ctx, cl, Topic.Name, p, starts[p], ends[p], func(r *kgo.Record) error {
			apply(found, r)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("load the registration of capture %q: %w", name, err)
	}
	if e, ok := found[name]; ok {
		return &e, nil
	}
	return nil, nil
}

func apply(found map[string]Entry, r *kgo.Record) {
	if r.Value == nil {
		delete(found, string(r.Key))
		return
	}
	found[string(r.Key)] = decode(r)
}

// ErrUnchanged is what the func given to Update returns where nothing is to be written.
var ErrUnchanged = errors.New("the registration stays as it is")

// Store changes registrations. Two changes of one capture cannot overlap: the later one's place fences the earlier one, and
// only then reads what stands.
type Store struct {
	Log         *sink.Log
	Replication int
	// By and Version go into each record.
	By, Version string
}

// Update has change say what is to be registered for a capture. It is given what stands, nil for nothing, and returns what is
// to stand, nil for nothing.
func (s *Store) Update(ctx context.Context, name string, change func(*Entry) (*Registration, error)) error {
	// A capture's own id is weft-NAME, where a name does not begin with an underscore.
	place, err := s.Log.OpenExclusive(ctx, "weft-_registration-"+name)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer place.Close()
	if err := s.Log.MakeTopic(ctx, place.Client(), Topic, s.Replication); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	stands, err := LoadOne(ctx, place.Client(), name)
	if err != nil {
		return err
	}
	want, err := change(stands)
	if errors.Is(err, ErrUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	if stands != nil && stands.Newer {
		return stands.Err
	}
	record := &kgo.Record{Topic: Topic.Name, Partition: PartitionOf(name), Key: []byte(name)}
	if want != nil {
		want.Name, want.By, want.At, want.Writer = name, s.By, time.Now().UTC(), s.Version
		if record.Value, err = encode(*want); err != nil {
			return err
		}
	}
	if err := place.Write(ctx, record); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return nil
}
