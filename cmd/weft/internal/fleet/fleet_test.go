package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/cmd/weft/internal/pipeline"
	"weft/configs"
	"weft/sink"
	"weft/sources"
)

func fakeStore(t *testing.T, profile string) *Store {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Store{Log: &sink.Log{Brokers: c.ListenAddrs(), Profile: profile, CommitBytes: 1 << 20}, Replication: -1, By: "me@here", Version: "v1"}
}

func (s *Store) client(t *testing.T) *kgo.Client {
	t.Helper()
	cl, err := s.Log.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func (s *Store) put(t *testing.T, name string, r *Registration) {
	t.Helper()
	if r != nil && r.File == "" && r.Fleet == "" {
		r.Fleet = "default"
	}
	if err := s.Update(t.Context(), name, func(*Entry) (*Registration, error) { return r, nil }); err != nil {
		t.Fatal(err)
	}
}

func text(v string) json.RawMessage { return json.RawMessage(`{"v":"` + v + `"}`) }

func TestCheckFindsNothing(t *testing.T) {
	if found := Check(t.Context(), fakeStore(t, "kafka").client(t), "default"); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}

func TestStore(t *testing.T) {
	for _, profile := range []string{"kafka", "embedded"} {
		t.Run(profile, func(t *testing.T) {
			s := fakeStore(t, profile)
			cl := s.client(t)
			if found, err := Load(t.Context(), cl); err != nil || len(found) != 0 {
				t.Fatalf("a log without the topic: %v, %v", found, err)
			}
			s.put(t, "a", &Registration{Capture: text("1")})
			s.put(t, "b", &Registration{Capture: text("2"), File: "here:weft.yaml"})
			var was *Entry
			err := s.Update(t.Context(), "a", func(e *Entry) (*Registration, error) {
				was = e
				return &Registration{Capture: text("3"), Removing: true}, nil
			})
			if err != nil || was == nil || string(was.Capture) != `{"v":"1"}` || was.By != "me@here" || was.At.IsZero() {
				t.Errorf("%+v, %v", was, err)
			}
			if err := s.Update(t.Context(), "b", func(*Entry) (*Registration, error) { return nil, ErrUnchanged }); err != nil {
				t.Error(err)
			}
			found, err := Load(t.Context(), cl)
			if err != nil || len(found) != 2 || !found["a"].Removing || found["b"].File != "here:weft.yaml" {
				t.Errorf("%+v, %v", found, err)
			}
			s.put(t, "a", nil)
			if e, err := LoadOne(t.Context(), cl, "a"); err != nil || e != nil {
				t.Errorf("after its removal: %+v, %v", e, err)
			}
			refused := errors.New("no")
			if err := s.Update(t.Context(), "b", func(*Entry) (*Registration, error) { return nil, refused }); !errors.Is(err, refused) {
				t.Error(err)
			}
		})
	}
}

// Two who change one registration at a time: the later one fences the earlier, and sees what it has written or makes it fail.
func TestStoreChangesDoNotOverlap(t *testing.T) {
	s := fakeStore(t, "kafka")
	s.put(t, "a", &Registration{Capture: text("1")})
	err := s.Update(t.Context(), "a", func(*Entry) (*Registration, error) {
		s.put(t, "a", &Registration{Capture: text("faster")})
		return &Registration{Capture: text("slower")}, nil
	})
	if !errors.Is(err, sink.ErrFenced) {
		t.Errorf("got %v", err)
	}
	if e, err := LoadOne(t.Context(), s.client(t), "a"); err != nil || string(e.Capture) != `{"v":"faster"}` {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestDecode(t *testing.T) {
	for value, want := range map[string]string{
		`{`:                                    "cannot be read",
		`[]`:                                   "cannot be read",
		`{}`:                                   "version 0",
		`{"version":1,"name":"b"}`:             `name "b"`,
		`{"version":1,"name":"a"}`:             "it is none",
		`{"version":1,"name":"a","capture":1}`: "it is none",
		`{"version":2,"name":"a","capture":{},"writer":"v9"}`: "written by Weft v9",
	} {
		e := decode(&kgo.Record{Topic: Topic.Name, Partition: 3, Offset: 7, Key: []byte("a"), Value: []byte(value)})
		var fatal *sources.FatalError
		if !errors.As(e.Err, &fatal) || !strings.Contains(e.Err.Error(), want) || !strings.Contains(e.Err.Error(), "__weft.captures[3] offset 7") || e.Name != "a" {
			t.Errorf("%s gave %+v", value, e)
		}
	}
}

// What a newer Weft has written is left alone.
func TestNewerStays(t *testing.T) {
	s := fakeStore(t, "kafka")
	s.put(t, "a", &Registration{Capture: text("1")})
	cl := s.client(t)
	r := &kgo.Record{Topic: Topic.Name, Partition: PartitionOf("a"), Key: []byte("a"), Value: []byte(`{"version":2,"name":"a","writer":"v9"}`)}
	if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), "a", func(*Entry) (*Registration, error) { return nil, nil })
	if err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("Update gave %v", err)
	}
	w := follow(t, s, configs.Capture{Name: "a", Written: text("file")})
	w.until(t, "[a] true")
	if e, err := LoadOne(t.Context(), cl, "a"); err != nil || !e.Newer {
		t.Errorf("%+v, %v", e, err)
	}
}

// Until the group has told what is this daemon's, what runs goes on.
func TestFleetWhileItRejoins(t *testing.T) {
	runs := &pipeline.Capture{Name: "a"}
	e := Entry{Registration: Registration{Name: "a", Fleet: "default", Capture: text("1")}}
	f := &Fleet{Name: "default", made: map[string]made{"a": {of: string(text("1")), capture: runs}}, entries: map[string]Entry{"a": e, "b": e}}
	complete := false
	f.Complete = func() { complete = true }
	wanted := make(chan pipeline.Wanted, 1)
	f.update(t.Context(), wanted)
	if w := <-wanted; len(w.Captures) != 1 || w.Captures[0] != runs || w.Settled || complete {
		t.Errorf("wanted is %+v, complete %t", w, complete)
	}
	f.group = &group{has: map[int32]bool{}}
	f.update(t.Context(), wanted)
	if w := <-wanted; len(w.Captures) != 0 || !complete {
		t.Errorf("of none of its partitions it wants %+v, complete %t", w, complete)
	}
}

// A broker that does not know the topic yet is asked again, instead of taking the capture for removed.
func TestConfirmWithoutTheTopic(t *testing.T) {
	f := &Fleet{Store: fakeStore(t, "kafka")}
	err := f.confirm("a", "")(t.Context())
	var fatal *sources.FatalError
	if err == nil || errors.As(err, &fatal) {
		t.Errorf("confirm gave %v", err)
	}
	if err := f.confirmFile("a")(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"a","capture":{}}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		e := decode(&kgo.Record{Key: []byte("a"), Value: value})
		if e.Name != "a" {
			t.Errorf("%q is of capture %q", value, e.Name)
		}
		e.SourceAndTables()
	})
}

// watch is a Fleet of which is seen what it wants.
type watch struct {
	*Fleet
	wanted chan pipeline.Wanted
	last   pipeline.Wanted
	ctx    context.Context
}

func follow(t *testing.T, s *Store, file ...configs.Capture) *watch {
	t.Helper()
	w := &watch{wanted: make(chan pipeline.Wanted), Fleet: &Fleet{
		Name: "default", Store: s, File: file, FileName: "here:weft.yaml", Logger: hclog.NewNullLogger(),
		Parse: func(r Registration) (*configs.Capture, error) {
			if strings.Contains(string(r.Capture), "bad") {
				return nil, errors.New("a variable is not set")
			}
			return &configs.Capture{Name: r.Name}, nil
		},
		Make: func(cc configs.Capture) *pipeline.Capture {
			return &pipeline.Capture{Name: cc.Name, Logger: hclog.NewNullLogger()}
		},
	}}
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	var run sync.WaitGroup
	run.Go(func() {
		if err := w.Run(w.ctx, w.wanted); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); run.Wait() })
	return w
}

func (w *watch) names() string {
	var names []string
	for _, c := range w.last.Captures {
		names = append(names, c.Name)
	}
	slices.Sort(names)
	return fmt.Sprint(names, w.last.Settled)
}

// until waits until these captures are wanted, and whether that is settled.
func (w *watch) until(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case w.last = <-w.wanted:
			if w.names() == want {
				return
			}
		case <-w.ctx.Done():
			t.Fatalf("wanted is %s, not %s", w.names(), want)
		}
	}
}

func (w *watch) capture(name string) *pipeline.Capture {
	for _, c := range w.last.Captures {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func TestFleetFollows(t *testing.T) {
	s := fakeStore(t, "kafka")
	s.put(t, "old", &Registration{Capture: text("1")})
	s.put(t, "foreign", &Registration{Capture: text("1"), Fleet: "others"})
	s.put(t, "elsewhere", &Registration{Capture: text("1"), File: "there:weft.yaml"})
	s.put(t, "ending", &Registration{Capture: text("1"), Removing: true})
	w := follow(t, s, configs.Capture{Name: "mine", Written: text("mine")})
	w.until(t, "[mine] false") // at once, whatever is registered
	w.until(t, "[mine old] false")
	mine, old := w.capture("mine"), w.capture("old")

	s.put(t, "new", &Registration{Capture: text("1")})
	w.until(t, "[mine new old] false")
	if w.capture("old") != old || w.capture("mine") != mine {
		t.Error("captures that have not changed are others")
	}
	// A request reaches the capture that runs.
	s.put(t, "new", &Registration{Capture: text("1"), Snapshot: &SnapshotRequest{ID: "r1", Tables: []string{"a"}, Where: "x > 1"}})
	fresh := w.capture("new")
	w.until(t, "[mine new old] false")
	if asked := fresh.Asked(); w.capture("new") != fresh || len(asked) != 1 || asked[0].ID != "r1" || asked[0].Where != "x > 1" {
		t.Errorf("requested is %+v", asked)
	}
	keys := map[string][][][]byte{"a": {{[]byte("7"), nil}}}
	s.put(t, "new", &Registration{Capture: text("1"), Snapshot: &SnapshotRequest{ID: "r2", Tables: []string{"a"}, Keys: keys}})
	w.until(t, "[mine new old] false")
	if asked := fresh.Asked(); len(asked) != 2 || !reflect.DeepEqual(asked[1].Keys, keys) {
		t.Errorf("requested is %+v", asked)
	}
	// What is registered otherwise is another capture.
	s.put(t, "new", &Registration{Capture: text("2")})
	w.until(t, "[mine new old] false")
	if w.capture("new") == fresh {
		t.Error("a changed capture is the same")
	}
	if err := fresh.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "has just changed") {
		t.Errorf("the one that is replaced is confirmed: %v", err)
	}
	if err := w.capture("new").Confirm(t.Context()); err != nil {
		t.Error(err)
	}
	s.put(t, "new", &Registration{Capture: text("2"), Removing: true})
	w.until(t, "[mine old] false")
	if err := fresh.Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "is being removed") {
		t.Errorf("one that is being removed is confirmed: %v", err)
	}
	s.put(t, "old", nil)
	w.until(t, "[mine] true")
	if err := old.Confirm(t.Context()); err == nil {
		t.Error("one that is removed is confirmed")
	}
}

// What cannot be used fails by itself and says why.
func TestFleetWithBadRegistrations(t *testing.T) {
	s := fakeStore(t, "kafka")
	s.put(t, "unset", &Registration{Capture: text("bad")})
	r := &kgo.Record{Topic: Topic.Name, Partition: PartitionOf("corrupt"), Key: []byte("corrupt"), Value: []byte("?")}
	if err := s.client(t).ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w := follow(t, s)
	w.until(t, "[] false") // and goes on waiting
	w.until(t, "[corrupt unset] false")
	for name, want := range map[string]string{"corrupt": "offset 0", "unset": "a variable is not set"} {
		err := w.capture(name).Run(t.Context(), nil)
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) || !strings.Contains(err.Error(), want) || !strings.Contains(fatal.Remedy, "weft capture add") {
			t.Errorf("%s failed with %v", name, err)
		}
	}
	s.put(t, "corrupt", &Registration{Capture: text("mended")})
	w.until(t, "[corrupt unset] false")
	if w.capture("corrupt").Preflight != nil {
		t.Error("the mended capture still fails")
	}
}

// The file's captures are made known, and hold.
func TestFleetRegistersItsFile(t *testing.T) {
	s := fakeStore(t, "kafka")
	s.put(t, "mine", &Registration{Capture: text("other"), Snapshot: &SnapshotRequest{ID: "r1"}})
	s.put(t, "gone", &Registration{Capture: text("1"), File: "here:weft.yaml"})
	s.put(t, "going", &Registration{Capture: text("1"), Removing: true})
	w := follow(t, s, configs.Capture{Name: "mine", Written: text("file")}, configs.Capture{Name: "going", Written: text("1")})
	w.until(t, "[going mine] true")
	e, err := LoadOne(t.Context(), s.client(t), "mine")
	if err != nil || e.File != "here:weft.yaml" || string(e.Capture) != string(text("file")) || e.Snapshot == nil {
		t.Errorf("%+v, %v", e, err)
	}
	if asked := w.capture("mine").Asked(); len(asked) != 1 || asked[0].ID != "r1" {
		t.Errorf("requested of the file's capture is %+v", asked)
	}
	if err := w.capture("mine").Confirm(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.capture("going").Confirm(t.Context()); err == nil || !strings.Contains(err.Error(), "weft capture remove going") {
		t.Errorf("one that is being removed is confirmed: %v", err)
	}
}

// Daemons of one fleet share what is registered, and one takes over what another leaves.
func TestFleetShares(t *testing.T) {
	s := fakeStore(t, "kafka")
	var all []string
	for i := range 12 {
		all = append(all, fmt.Sprintf("c%02d", i))
		s.put(t, all[i], &Registration{Capture: text("1")})
	}
	w := follow(t, s)
	w.until(t, fmt.Sprint(all, false))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	second := make(chan pipeline.Wanted)
	other := &Fleet{Name: w.Name, Store: s, FileName: "there", Parse: w.Parse, Make: w.Make, Logger: w.Logger}
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx, second) }()
	count := func(w pipeline.Wanted) map[string]bool {
		names := map[string]bool{}
		for _, c := range w.Captures {
			names[c.Name] = true
		}
		return names
	}
	var one, two map[string]bool
	for len(one) == 0 || len(two) == 0 || len(one)+len(two) != len(all) {
		select {
		case x := <-w.wanted:
			one = count(x)
		case x := <-second:
			two = count(x)
		case <-w.ctx.Done():
			t.Fatalf("they have %v and %v", one, two)
		}
	}
	for name := range one {
		if two[name] {
			t.Errorf("both have %s", name)
		}
	}
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.until(t, fmt.Sprint(all, false))
}

// Without rights on the log nothing is registered, and the error says what is lacking; so does a daemon that has nothing else to
// run.
func TestWithoutRights(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
		kfake.User("PLAIN", "weft", "hunter2", kfake.ACL{Resource: kmsg.ACLResourceTypeTransactionalId, Name: "weft-",
			Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: kmsg.ACLOperationWrite, Allow: true}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	login, err := (&sink.SASL{Mechanism: "PLAIN", Username: "weft", Password: "hunter2"}).Build()
	if err != nil {
		t.Fatal(err)
	}
	s := &Store{Log: &sink.Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20, SASL: login}, Replication: -1}
	err = s.Update(t.Context(), "a", func(*Entry) (*Registration, error) { return &Registration{Capture: text("1")}, nil })
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(fatal.Remedy, "allow this principal") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Update gave %v", err)
	}
	if found := Check(t.Context(), s.client(t), "default"); len(found) != 1 || found[0].Level != sources.Warning || !strings.Contains(found[0].Remedy, "--operation Read --group weft-default") {
		t.Errorf("Check found %+v", found)
	}
	f := &Fleet{Name: "default", Store: s, Logger: hclog.NewNullLogger()}
	wanted := make(chan pipeline.Wanted, 10)
	if err := f.Run(t.Context(), wanted); !errors.As(err, &fatal) {
		t.Errorf("Run gave %v", err)
	}
}

// A daemon stops at once although the group waits for a member that has died.
func TestLeaveWhileJoining(t *testing.T) {
	s := fakeStore(t, "kafka")
	cl := s.client(t)
	if err := s.Log.MakeTopic(t.Context(), cl, Topic, -1); err != nil {
		t.Fatal(err)
	}
	joined := make(chan struct{}, 1)
	dead, err := join(s.Log, "default", func() {
		select {
		case joined <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-joined
	dead.cancel() // nothing is said to the broker
	dead.cl.Close()
	g, err := join(s.Log, "default", func() {})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // the broker has its request to join
	began := time.Now()
	g.close()
	if took := time.Since(began); took > leaveTimeout+time.Second {
		t.Errorf("leaving took %s", took)
	}
}
