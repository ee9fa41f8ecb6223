package spanner

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"weft/sources"
)

// position is the JSON of a sources.Position: where every unfinished partition is, and their watermark.
//
//	{"stream":"orders_stream","watermark":"2026-11-22T20:23:40.14793Z","partitions":[
//	  {"token":"...","at":"...","running":true,"seen":{"195":"0-17,19"},"part":{"tx":"195","seq":20,"mods":5}},
//	  {"token":"...","at":"...","waits":[0,"token of a parent that is not known yet"]}]}
//
// Large lists are deflated, since tokens have much in common: "packed", in base64, in place of "partitions".
type position struct {
	Stream     string            `json:"stream"`
	Watermark  time.Time         `json:"watermark"`
	Count      int               `json:"count,omitempty"`
	Partitions []partitionRecord `json:"partitions,omitempty"`
	Packed     []byte            `json:"packed,omitempty"`
}

type partitionRecord struct {
	Token   string            `json:"token"`
	At      time.Time         `json:"at"`
	Running bool              `json:"running"`
	Seen    map[string]string `json:"seen"`
	Part    *struct {
		Tx   string `json:"tx"`
		Seq  uint64 `json:"seq"`
		Mods int    `json:"mods"`
	} `json:"part"`
	Waits []json.RawMessage `json:"waits"`
}

// packAbove is the size of the list of partitions from which on it is deflated, and maxUnpacked bounds what a packed one may
// become again.
const (
	packAbove   = 32 << 10
	maxUnpacked = 256 << 20
)

// encoder writes positions. Its memory is used again.
type encoder struct {
	stream string
	list   []byte
	packed bytes.Buffer
	out    []byte
	index  map[string]int
}

// encode returns the position of p, valid until the next call.
func (e *encoder) encode(p *partitions) (sources.Position, error) {
	low, err := p.watermark()
	if err != nil {
		return nil, err
	}
	if e.index == nil {
		e.index = map[string]int{}
	}
	clear(e.index)
	for i, one := range p.list {
		e.index[one.token] = i
	}
	e.list = e.list[:0]
	for i, one := range p.list {
		if i > 0 {
			e.list = append(e.list, ',')
		}
		e.list = e.appendPartition(e.list, one)
	}
	e.out = append(e.out[:0], `{"stream":`...)
	e.out = appendJSONString(e.out, e.stream)
	e.out = append(e.out, `,"watermark":`...)
	e.out = appendTime(e.out, low)
	if len(e.list) < packAbove {
		e.out = append(e.out, `,"partitions":[`...)
		e.out = append(append(e.out, e.list...), "]}"...)
		return e.out, nil
	}
	e.packed.Reset()
	w, err := flate.NewWriter(&e.packed, flate.BestSpeed+4)
	if err == nil {
		_, err = w.Write(e.list)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack position: %w", err)
	}
	e.out = append(e.out, `,"count":`...)
	e.out = strconv.AppendInt(e.out, int64(len(p.list)), 10)
	e.out = append(e.out, `,"packed":"`...)
	e.out = base64.StdEncoding.AppendEncode(e.out, e.packed.Bytes())
	e.out = append(e.out, `"}`...)
	return e.out, nil
}

func (e *encoder) appendPartition(dst []byte, one *partition) []byte {
	dst = append(dst, `{"token":`...)
	dst = appendJSONString(dst, one.token)
	dst = append(dst, `,"at":`...)
	dst = appendTime(dst, one.at)
	if one.state == running {
		dst = append(dst, `,"running":true`...)
	}
	if len(one.seen.txs) > 0 {
		dst = append(dst, `,"seen":{`...)
		for i, t := range one.seen.txs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, t.tx), `:"`...)
			dst = append(appendRuns(dst, t.runs), '"')
		}
		dst = append(dst, '}')
	}
	if part := one.seen.part; part.mods > 0 {
		dst = append(dst, `,"part":{"tx":`...)
		dst = appendJSONString(dst, part.tx)
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendUint(dst, part.seq, 10)
		dst = append(dst, `,"mods":`...)
		dst = append(strconv.AppendInt(dst, int64(part.mods), 10), '}')
	}
	if len(one.waits) > 0 {
		dst = append(dst, `,"waits":[`...)
		for i, token := range one.waits {
			if i > 0 {
				dst = append(dst, ',')
			}
			if at, ok := e.index[token]; ok {
				dst = strconv.AppendInt(dst, int64(at), 10)
			} else {
				dst = appendJSONString(dst, token)
			}
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func appendTime(dst []byte, at stamp) []byte {
	dst = append(dst, '"')
	dst = at.time().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, '"')
}

func appendRuns(dst []byte, runs []run) []byte {
	for i, r := range runs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, r.first, 10)
		if r.last > r.first {
			dst = append(dst, '-')
			dst = strconv.AppendUint(dst, r.last, 10)
		}
	}
	return dst
}

func parseRuns(s string) ([]run, error) {
	var runs []run
	for part := range strings.SplitSeq(s, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		var r run
		var err error
		if r.first, err = strconv.ParseUint(first, 10, 64); err != nil {
			return nil, err
		}
		if r.last, err = strconv.ParseUint(last, 10, 64); err != nil {
			return nil, err
		}
		if r.last < r.first {
			return nil, fmt.Errorf("the range %s ends before it begins", part)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// parsePosition reads a position of a stream.
func parsePosition(b sources.Position, stream string) (*partitions, error) {
	p, err := decodePosition(b, stream)
	if err != nil {
		if len(b) > 200 {
			b = append(bytes.Clone(b[:200]), "..."...)
		}
		return nil, sources.Fatal("set the capture's checkpoint to a position that this source returned, or remove it to begin anew",
			"position %s is not one of the change stream %s: %w", b, stream, err)
	}
	return p, nil
}

func decodePosition(b []byte, stream string) (*partitions, error) {
	var in position
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, err
	}
	if in.Stream != stream {
		return nil, fmt.Errorf("it is of the change stream %q", in.Stream)
	}
	if in.Packed != nil {
		list, err := io.ReadAll(io.LimitReader(io.MultiReader(
			strings.NewReader("["), flate.NewReader(bytes.NewReader(in.Packed)), strings.NewReader("]")), maxUnpacked))
		if err == nil {
			err = json.Unmarshal(list, &in.Partitions)
		}
		if err != nil {
			return nil, fmt.Errorf("unpack: %w", err)
		}
	}
	if len(in.Partitions) == 0 || in.Watermark.IsZero() {
		return nil, fmt.Errorf("partitions or watermark is missing")
	}
	p := &partitions{byToken: make(map[string]*partition, len(in.Partitions)), low: stampOf(in.Watermark)}
	for _, r := range in.Partitions {
		one := &partition{token: r.Token, at: stampOf(r.At)}
		if r.Running {
			one.state = running
		}
		for tx, runs := range r.Seen {
			parsed, err := parseRuns(runs)
			if err != nil {
				return nil, fmt.Errorf("seen: %w", err)
			}
			one.seen.txs = append(one.seen.txs, seenTx{tx: tx, runs: parsed})
		}
		if r.Part != nil {
			one.seen.part = partial{tx: r.Part.Tx, seq: r.Part.Seq, mods: r.Part.Mods}
		}
		if p.byToken[one.token] != nil {
			return nil, fmt.Errorf("a partition is there twice")
		}
		p.insert(one)
	}
	for i, r := range in.Partitions {
		for _, wait := range r.Waits {
			token, err := parseWait(wait, in.Partitions)
			if err != nil {
				return nil, fmt.Errorf("waits: %w", err)
			}
			p.list[i].waits = append(p.list[i].waits, token)
		}
	}
	if _, err := p.watermark(); err != nil {
		return nil, err
	}
	return p, nil
}

// parseWait reads a parent: its index, or its token where it is not known.
func parseWait(b json.RawMessage, list []partitionRecord) (string, error) {
	if len(b) > 0 && b[0] == '"' {
		var token string
		err := json.Unmarshal(b, &token)
		return token, err
	}
	i, err := strconv.Atoi(string(b))
	if err == nil && (i < 0 || i >= len(list)) {
		err = fmt.Errorf("there is no partition %d", i)
	}
	if err != nil {
		return "", err
	}
	return list[i].Token, nil
}

// appendJSONString appends a string as JSON. Tokens and transaction ids are plain text, which needs no escape.
func appendJSONString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, err := json.Marshal(s)
			if err != nil { // a string is always marshalled
				return append(dst, `""`...)
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
