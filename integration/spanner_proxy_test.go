package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// spannerProxy is between the daemon and the emulator. It notes what the emulator has sent for each query of a change stream, so that
// what the emulator loses can be told from what the daemon loses.
type spannerProxy struct {
	address string
	server  *grpc.Server
	to      *grpc.ClientConn

	fault atomic.Int32 // a proxyFault, which happens once

	mu      sync.Mutex
	queries []*sentQuery
	placed  map[spannerRow]string // the partition that a change was sent in
	starts  map[string]time.Time  // of partitions, by token
	parents map[string][]string   // of partitions, by token
	ends    map[string]time.Time  // of partitions, by token
}

// proxyFault is what becomes of a change record that the emulator has sent.
type proxyFault = int32

const (
	faithful   proxyFault = iota
	passedOver            // it is neither noted nor passed on, as if the emulator had not sent it
	swallowed             // it is noted and not passed on, as if the daemon had lost it
)

// sentQuery is one query of a partition and what the emulator has sent for it.
type sentQuery struct {
	token string
	from  time.Time
	sent  map[spannerRow]bool
	upTo  time.Time // all that was committed before has been sent, by what the emulator says
}

// spannerRow is a change as the change stream has it: a transaction changes a row once.
type spannerRow struct {
	at         int64 // commit timestamp, in nanoseconds
	table, key string
}

func newSpannerProxy(t testing.TB, emulator string) *spannerProxy {
	t.Helper()
	p := &spannerProxy{placed: map[spannerRow]string{}, starts: map[string]time.Time{}, parents: map[string][]string{}, ends: map[string]time.Time{}}
	var err error
	if p.to, err = grpc.NewClient(emulator, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20))); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	p.server = grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(p.forward), grpc.MaxRecvMsgSize(64<<20))
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(l) }()
	t.Cleanup(func() {
		p.server.Stop()
		if err := errors.Join(<-served, p.to.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// rawCodec passes messages on as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

var _ encoding.CodecV2 = rawCodec{}

// forward is a call from the daemon to the emulator. All calls of Spanner's have one request.
func (p *spannerProxy) forward(_ any, from grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(from)
	ctx, stop := context.WithCancel(from.Context())
	defer stop()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	to, err := p.to.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	var request []byte
	if err := from.RecvMsg(&request); err != nil {
		return err
	}
	if err := to.SendMsg(&request); err != nil {
		return err
	}
	if err := to.CloseSend(); err != nil {
		return err
	}
	result, err := p.result(method, request)
	if err != nil {
		return err
	}
	for {
		var message []byte
		if err := to.RecvMsg(&message); err != nil {
			from.SetTrailer(to.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if result != nil {
			if message, err = result.part(message); err != nil {
				return err
			}
		}
		if err := from.SendMsg(&message); err != nil {
			return err
		}
	}
}

// result is what is to be done with the parts of a call's result, nil for nothing.
func (p *spannerProxy) result(method string, request []byte) (*spannerResult, error) {
	if !strings.HasSuffix(method, "/ExecuteStreamingSql") {
		return nil, nil
	}
	var r spannerpb.ExecuteSqlRequest
	if err := proto.Unmarshal(request, &r); err != nil {
		return nil, err
	}
	if len(r.ResumeToken) > 0 {
		return nil, errors.New("the daemon resumes a result, which the emulator cannot")
	}
	result := &spannerResult{proxy: p}
	if strings.Contains(r.Sql, " READ_") {
		from, err := time.Parse(time.RFC3339Nano, r.Params.Fields["p1"].GetStringValue())
		if err != nil {
			return nil, err
		}
		result.query = &sentQuery{token: r.Params.Fields["p2"].GetStringValue(), from: from, sent: map[spannerRow]bool{}}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.queries = append(p.queries, result.query)
	}
	return result, nil
}

// spannerResult is the result of a query as its parts come.
type spannerResult struct {
	proxy *spannerProxy
	query *sentQuery      // nil for other queries than a change stream's
	begun *structpb.Value // a value of which more parts are to come
}

// part notes what is in a part, once the proxy's fault has happened to it.
func (r *spannerResult) part(message []byte) ([]byte, error) {
	var part spannerpb.PartialResultSet
	if err := proto.Unmarshal(message, &part); err != nil {
		return nil, err
	}
	whole := r.begun == nil && len(part.Values) > 0 && (len(part.Values) > 1 || !part.ChunkedValue)
	if r.query != nil && whole && hasData(part.Values[0]) {
		if err := r.lose(&part, r.proxy.fault.Swap(faithful)); err != nil {
			return nil, err
		}
	}
	message, err := proto.Marshal(&part) // before values are joined, in place
	if err != nil || r.query == nil {
		return message, err
	}
	values := part.Values
	if r.begun != nil && len(values) > 0 {
		values[0], r.begun = joined(r.begun, values[0]), nil
	}
	if last := len(values) - 1; part.ChunkedValue {
		values, r.begun = values[:last], values[last]
	}
	for _, v := range values {
		if err := r.proxy.note(r.query, v); err != nil {
			return nil, fmt.Errorf("note change record: %w", err)
		}
	}
	return message, nil
}

// lose takes the first value out of a part, as fault says.
func (r *spannerResult) lose(part *spannerpb.PartialResultSet, fault proxyFault) error {
	if fault == faithful {
		return nil
	}
	first := part.Values[0]
	part.Values = part.Values[1:]
	if fault == swallowed {
		return r.proxy.note(r.query, first)
	}
	return nil
}

// joined puts two parts of a value together, as PartialResultSet.chunked_value says. Neither is to be used again.
func joined(a, b *structpb.Value) *structpb.Value {
	if b.GetListValue() == nil {
		return structpb.NewStringValue(a.GetStringValue() + b.GetStringValue())
	}
	head, tail := a.GetListValue().GetValues(), b.GetListValue().GetValues()
	if len(head) > 0 && len(tail) > 0 {
		last := head[len(head)-1]
		_, text := last.GetKind().(*structpb.Value_StringValue)
		if text || last.GetListValue() != nil {
			tail[0] = joined(last, tail[0])
			head = head[:len(head)-1]
		}
	}
	return structpb.NewListValue(&structpb.ListValue{Values: append(head[:len(head):len(head)], tail...)})
}

// note takes in one ChangeRecord: an array of structs of three arrays, of data change, heartbeat and child partitions records.
// Their members have places, no names.
func (p *spannerProxy) note(q *sentQuery, v *structpb.Value) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, record := range list(v) {
		kinds := list(record)
		if len(kinds) != 3 {
			return fmt.Errorf("a record has %d members, not 3", len(kinds))
		}
		for _, data := range list(kinds[0]) {
			rows, err := changesOf(list(data))
			if err != nil {
				return err
			}
			if err := q.reach(list(data)[0]); err != nil {
				return err
			}
			for _, row := range rows {
				q.sent[row] = true
				p.placed[row] = q.token
			}
		}
		for _, heartbeat := range list(kinds[1]) {
			if err := q.reach(list(heartbeat)[0]); err != nil {
				return err
			}
		}
		for _, children := range list(kinds[2]) {
			fields := list(children)
			if q.token != "" {
				if err := q.reach(fields[0]); err != nil {
					return err
				}
				p.ends[q.token] = q.upTo
			}
			start, err := time.Parse(time.RFC3339Nano, fields[0].GetStringValue())
			if err != nil {
				return err
			}
			for _, child := range list(fields[2]) {
				token := list(child)[0].GetStringValue()
				p.starts[token] = start
				p.parents[token] = nil
				for _, parent := range list(list(child)[1]) {
					p.parents[token] = append(p.parents[token], parent.GetStringValue())
				}
			}
		}
	}
	return nil
}

// changesOf is what a data change record has: commit_timestamp, record_sequence, server_transaction_id, is_last_record...,
// table_name, column_types, mods (keys, new_values, old_values), and more.
func changesOf(fields []*structpb.Value) (rows []spannerRow, err error) {
	if len(fields) < 7 {
		return nil, fmt.Errorf("a data change record has %d members", len(fields))
	}
	at, err := time.Parse(time.RFC3339Nano, fields[0].GetStringValue())
	if err != nil {
		return nil, err
	}
	for _, mod := range list(fields[6]) {
		key, err := canonical([]byte(list(mod)[0].GetStringValue()))
		if err != nil {
			return nil, err
		}
		rows = append(rows, spannerRow{at.UnixNano(), fields[4].GetStringValue(), key})
	}
	return rows, nil
}

// hasData tells whether the records of a ChangeRecord are data change records of the load.
func hasData(v *structpb.Value) bool {
	for _, record := range list(v) {
		if data := list(list(record)[0]); len(data) == 0 || list(data[0])[4].GetStringValue() == "pulse" {
			return false
		}
	}
	return len(list(v)) > 0
}

func (q *sentQuery) reach(at *structpb.Value) error {
	to, err := time.Parse(time.RFC3339Nano, at.GetStringValue())
	if to.After(q.upTo) {
		q.upTo = to
	}
	return err
}

func list(v *structpb.Value) []*structpb.Value { return v.GetListValue().GetValues() }

// lost tells whether it was the emulator that lost a change of the partition: the last query that the change belonged into
// went on beyond it, and did not have it. A daemon that never asked, stopped asking, or got it, has lost it itself.
func (p *spannerProxy) lost(token string, row spannerRow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Unix(0, row.at)
	for i := len(p.queries) - 1; i >= 0; i-- {
		if q := p.queries[i]; q.token == token && !q.from.After(at) {
			return !q.sent[row] && q.upTo.After(at)
		}
	}
	return false
}

// alive are the partitions that a change at a time may be in.
func (p *spannerProxy) alive(at time.Time) (tokens []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for token, start := range p.starts {
		if end, ended := p.ends[token]; !start.After(at) && (!ended || !end.Before(at)) {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// related tells whether the partition that one change was sent in is that of another one, or descends from it.
func (p *spannerProxy) related(one, other spannerRow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	token, from := p.placed[one], p.placed[other]
	return token == "" || from == "" || p.descends(token, from)
}

// descends tells whether a partition is another one, or has it among its ancestors. The caller holds p.mu.
func (p *spannerProxy) descends(token, from string) bool {
	seen := map[string]bool{}
	for next := []string{token}; len(next) > 0; {
		one := next[0]
		next = next[1:]
		if one == from {
			return true
		}
		if !seen[one] {
			seen[one] = true
			next = append(next, p.parents[one]...)
		}
	}
	return false
}
