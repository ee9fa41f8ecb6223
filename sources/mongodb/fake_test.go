package mongodb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

// fake is a server that speaks as much of MongoDB's wire protocol as a change stream needs, and does what a test tells it:
// what no server that can be installed here does. Its resume tokens have mongod's shape.
type fake struct {
	t        testing.TB
	listener net.Listener
	wg       sync.WaitGroup

	mu          sync.Mutex
	conns       map[net.Conn]bool
	hello       bson.D
	version     []int32
	collections []bson.D
	refuse      *refusal // what the next aggregate is answered with
	forbidden   string   // a command that the user has no right to
	streams     []stage  // what aggregates asked for
	steps       []step   // what getMores are answered with, one each
	idle        string   // the postBatchResumeToken of those that find no step
	cursor      int64    // of the newest change stream
	now         bson.Timestamp
	finds       []bson.Raw // commands that read documents, in their order
	reads       []read     // what they, and getMores of theirs, are answered with
}

// read is the answer to a find of documents, or to a getMore of it.
type read struct {
	docs   []bson.D
	at     bson.Timestamp // atClusterTime
	more   bool           // the cursor has more
	now    bson.Timestamp // operationTime from this answer on, where not zero
	refuse *refusal
}

// rowsCursor is the cursor of every find.
const rowsCursor = 815

// stage is a $changeStream stage.
type stage struct {
	database   string
	after      bson.Timestamp // afterClusterTime
	collection any
	options    struct {
		StartAfter   bson.Raw        `bson:"startAfter"`
		ResumeAfter  bson.Raw        `bson:"resumeAfter"`
		StartAt      *bson.Timestamp `bson:"startAtOperationTime"`
		FullDocument string          `bson:"fullDocument"`
		Before       string          `bson:"fullDocumentBeforeChange"`
		All          bool            `bson:"allChangesForCluster"`
	}
}

// refusal is an error reply.
type refusal struct {
	code   int32
	labels []string
}

// step is the answer to one getMore.
type step struct {
	events []bson.D
	token  string         // postBatchResumeToken; that of the last event without
	now    bson.Timestamp // operationTime from this answer on, where not zero
	refuse *refusal
	drop   bool // close the connection instead
	end    bool // the cursor is over
}

func newFake(t testing.TB) *fake {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{
		t: t, listener: l, version: []int32{7, 0, 5, 0}, idle: "8200", conns: map[net.Conn]bool{}, cursor: 4710, now: bson.Timestamp{T: 100, I: 7},
		hello:       bson.D{{Key: "setName", Value: "rs0"}, {Key: "hosts", Value: bson.A{l.Addr().String()}}, {Key: "me", Value: l.Addr().String()}},
		collections: []bson.D{{{Key: "name", Value: "orders"}, {Key: "type", Value: "collection"}}},
	}
	f.wg.Go(f.accept)
	t.Cleanup(func() {
		l.Close()
		f.hangUp()
		f.wg.Wait()
	})
	return f
}

func (f *fake) accept() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[c] = true
		f.mu.Unlock()
		f.wg.Go(func() {
			defer c.Close()
			for f.serve(c) == nil {
			}
		})
	}
}

// hangUp closes all connections, as a server that ends does.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
		delete(f.conns, c)
	}
}

var errDrop = errors.New("the script drops the connection")

// serve answers one message: OP_MSG, or the OP_QUERY that a connection begins with.
func (f *fake) serve(c net.Conn) error {
	var head [16]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	body := make([]byte, binary.LittleEndian.Uint32(head[:])-16)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	query := binary.LittleEndian.Uint32(head[12:]) == 2004
	var command bson.Raw
	if query {
		command = body[4+bytes.IndexByte(body[4:], 0)+1+8:]
	} else {
		command = body[5:] // flags, then a section of kind 0
	}
	command = command[:binary.LittleEndian.Uint32(command)]
	reply, err := f.answer(command)
	if err != nil {
		return err
	}
	doc, err := bson.Marshal(reply)
	if err != nil {
		return err
	}
	prefix, opcode := make([]byte, 5), uint32(2013)
	if query {
		prefix, opcode = make([]byte, 20), 1
		prefix[16] = 1 // number of documents
	}
	out := binary.LittleEndian.AppendUint32(nil, uint32(16+len(prefix)+len(doc)))
	out = append(append(out, 0, 0, 0, 0), head[4:8]...)
	out = binary.LittleEndian.AppendUint32(out, opcode)
	_, err = c.Write(append(append(out, prefix...), doc...))
	return err
}

func (f *fake) answer(command bson.Raw) (bson.D, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	elements, err := command.Elements()
	if err != nil {
		return nil, err
	}
	ok := bson.D{{Key: "ok", Value: 1}, {Key: "operationTime", Value: f.now}}
	cursor := func(field string, docs any, id int64, token any) bson.D {
		c := bson.D{{Key: "id", Value: id}, {Key: "ns", Value: "shop.$cmd"}, {Key: field, Value: docs}}
		if token != nil {
			c = append(c, bson.E{Key: "postBatchResumeToken", Value: token})
		}
		return append(bson.D{{Key: "cursor", Value: c}}, ok...)
	}
	name := elements[0].Key()
	if name == f.forbidden {
		return (&refusal{code: codeUnauthorized}).reply(), nil
	}
	switch name {
	case "hello", "isMaster", "ismaster":
		return append(append(bson.D{
			{Key: "isWritablePrimary", Value: true}, {Key: "ismaster", Value: true}, {Key: "maxWireVersion", Value: 21}, {Key: "minWireVersion", Value: 0},
			{Key: "maxBsonObjectSize", Value: 16 << 20}, {Key: "maxMessageSizeBytes", Value: 48000000}, {Key: "maxWriteBatchSize", Value: 100000},
			{Key: "logicalSessionTimeoutMinutes", Value: 30},
		}, f.hello...), ok...), nil
	case "buildInfo":
		text := fmt.Sprintf("%d.%d.%d", f.version[0], f.version[1], f.version[2])
		return append(bson.D{{Key: "version", Value: text}, {Key: "versionArray", Value: f.version}}, ok...), nil
	case "listDatabases":
		return append(bson.D{{Key: "databases", Value: bson.A{bson.D{{Key: "name", Value: "shop"}}, bson.D{{Key: "name", Value: "local"}}}}}, ok...), nil
	case "listCollections":
		return cursor("firstBatch", f.collections, 0, nil), nil
	case "saslStart":
		return (&refusal{code: codeAuthentication}).reply(), nil
	case "find":
		if elements[0].Value().StringValue() != "oplog.rs" {
			f.finds = append(f.finds, bytes.Clone(command))
			return f.read("firstBatch"), nil
		}
		t := uint32(1000)
		if command.Lookup("sort", "$natural").AsInt64() < 0 {
			t = 1000 + 3600
		}
		return cursor("firstBatch", bson.A{bson.D{{Key: "ts", Value: bson.Timestamp{T: t}}}}, 0, nil), nil
	case "aggregate":
		s := stage{database: command.Lookup("$db").StringValue()}
		if v := elements[0].Value(); v.Type == bson.TypeString {
			s.collection = v.StringValue()
		}
		if err := command.Lookup("pipeline", "0", "$changeStream").Unmarshal(&s.options); err != nil {
			return nil, err
		}
		if after, err := command.LookupErr("readConcern", "afterClusterTime"); err == nil {
			s.after.T, s.after.I = after.Timestamp()
		}
		f.streams = append(f.streams, s)
		if r := f.refuse; r != nil {
			f.refuse = nil
			return r.reply(), nil
		}
		f.cursor++
		return cursor("firstBatch", bson.A{}, f.cursor, tokenDoc(f.idle)), nil
	case "getMore":
		if elements[0].Value().AsInt64() == rowsCursor {
			return f.read("nextBatch"), nil
		}
		asked := elements[0].Value().AsInt64()
		if len(f.steps) == 0 || asked != f.cursor { // the script is for the newest stream
			f.mu.Unlock()
			time.Sleep(awaitTime)
			f.mu.Lock()
			ok[1].Value = f.now
			return cursor("nextBatch", bson.A{}, asked, tokenDoc(f.idle)), nil
		}
		s := f.steps[0]
		if s.now.T != 0 {
			f.now, ok[1].Value = s.now, s.now
		}
		f.steps = f.steps[1:]
		switch {
		case s.drop:
			return nil, errDrop
		case s.refuse != nil:
			return s.refuse.reply(), nil
		}
		if s.token == "" && len(s.events) > 0 {
			s.token = s.events[len(s.events)-1][0].Value.(bson.D)[0].Value.(string)
		}
		if f.idle = s.token; s.events == nil {
			s.events = []bson.D{}
		}
		id := asked
		if s.end {
			id = 0
		}
		return cursor("nextBatch", s.events, id, tokenDoc(s.token)), nil
	}
	return ok, nil
}

// read answers a find of documents as the script says; without one there are none. It holds what a read at a cluster time is told.
func (f *fake) read(field string) bson.D {
	var r read
	if len(f.reads) > 0 {
		r, f.reads = f.reads[0], f.reads[1:]
	}
	if r.refuse != nil {
		return r.refuse.reply()
	}
	if r.now.T != 0 {
		f.now = r.now
	}
	c := bson.D{{Key: "id", Value: int64(0)}, {Key: "ns", Value: "shop.orders"}, {Key: field, Value: r.docs}}
	if r.docs == nil {
		c[2].Value = bson.A{}
	}
	if r.more {
		c[0].Value = int64(rowsCursor)
	}
	if r.at.T != 0 {
		c = append(c, bson.E{Key: "atClusterTime", Value: r.at})
	}
	return bson.D{{Key: "cursor", Value: c}, {Key: "ok", Value: 1}, {Key: "operationTime", Value: f.now}}
}

// found scripts answers to finds, and returns the commands that came so far.
func (f *fake) found(reads ...read) []bson.Raw {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = append(f.reads, reads...)
	return append([]bson.Raw(nil), f.finds...)
}

func (r *refusal) reply() bson.D {
	return bson.D{
		{Key: "ok", Value: 0}, {Key: "code", Value: r.code}, {Key: "errmsg", Value: fmt.Sprintf("refused with %d", r.code)},
		{Key: "codeName", Value: "Scripted"}, {Key: "errorLabels", Value: r.labels},
	}
}

func tokenDoc(data string) bson.D { return bson.D{{Key: "_data", Value: data}} }

// play adds answers to getMores.
func (f *fake) play(steps ...step) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, steps...)
}

func (f *fake) opened() []stage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]stage(nil), f.streams...)
}

// change is an event of shop.orders with further fields.
func change(token string, t, i uint32, op string, fields ...bson.E) bson.D {
	return append(bson.D{
		{Key: "_id", Value: tokenDoc(token)}, {Key: "operationType", Value: op},
		{Key: "clusterTime", Value: bson.Timestamp{T: t, I: i}},
		{Key: "ns", Value: bson.D{{Key: "db", Value: "shop"}, {Key: "coll", Value: "orders"}}},
	}, fields...)
}

func insert(token string, t, i uint32, id any) bson.D {
	return change(token, t, i, "insert", bson.E{Key: "documentKey", Value: bson.D{{Key: "_id", Value: id}}},
		bson.E{Key: "fullDocument", Value: bson.D{{Key: "_id", Value: id}}})
}

func (f *fake) config() Config {
	return Config{URL: "mongodb://" + f.listener.Addr().String() + "/?replicaSet=rs0", idle: time.Hour}
}

func (f *fake) options() sources.OpenOptions {
	return sources.OpenOptions{
		Capture: "orders", Tables: []string{"shop.orders"}, BatchBytes: 1 << 20, ReadAheadBytes: 4 << 20, Logger: hclog.NewNullLogger(),
	}
}

// open opens a source and takes the first batch, if it begins a capture.
func (f *fake) open(c Config, o sources.OpenOptions) sources.Source {
	f.t.Helper()
	src, err := c.Open(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := src.Close(); err != nil {
			f.t.Error(err)
		}
	})
	if o.Position == nil {
		if b := f.next(src); len(b.Changes) != 0 {
			f.t.Fatalf("the first batch has %d changes", len(b.Changes))
		}
	}
	return src
}

func (f *fake) next(src sources.Source) sources.Batch {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), testWait)
	defer cancel()
	b, err := src.Next(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

// take gathers n changes, as text.
func (f *fake) take(src sources.Source, n int) (changes []string, last sources.Batch) {
	f.t.Helper()
	for len(changes) < n {
		last = f.next(src)
		for i := range last.Changes {
			changes = append(changes, describe(&last.Changes[i]))
		}
	}
	return changes, last
}

// describe writes a change as: op table order before after {meta}, with - for no row and ? for what was not sent.
func describe(c *sources.Change) string {
	row := func(values []sources.Value) string {
		if values == nil {
			return "-"
		}
		text := ""
		for i, v := range values {
			if i > 0 {
				text += "|"
			}
			if v.State == sources.Present {
				text += string(v.Data)
			} else {
				text += "?"
			}
		}
		return text
	}
	return fmt.Sprintf("%c %s %s %s %s", c.Op, c.Table, c.Order, row(c.Before), row(c.After))
}
