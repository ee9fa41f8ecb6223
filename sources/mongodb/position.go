package mongodb

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

// position is what a sources.Position of this source holds.
type position struct {
	// Deployment is the replica set's name, or "sharded".
	Deployment string `json:"deployment"`
	// Stream is what the stream was opened on, such as "database shop".
	Stream string `json:"stream"`
	// Token is the server's resume token as canonical Extended JSON. Without one the stream starts at StartAt.
	Token   json.RawMessage `json:"token,omitempty"`
	StartAt *timestamp      `json:"start_at,omitempty"`
	// ClusterTime is that of the last change before the position, and Ordinal the number of changes before the position
	// that have it.
	ClusterTime timestamp `json:"cluster_time"`
	Ordinal     int64     `json:"ordinal"`
	// Passed: every change up to this cluster time, inclusive, is before the position.
	Passed timestamp `json:"passed"`
	// TX is the transaction of the last change, of which more may follow.
	TX *txPosition `json:"tx,omitempty"`
}

// timestamp is a cluster time: seconds since 1970 and a counter within the second.
type timestamp struct {
	T uint32 `json:"t"`
	I uint32 `json:"i"`
}

// stamp sorts as cluster times do.
func (t timestamp) stamp() uint64 { return uint64(t.T)<<32 | uint64(t.I) }

func timestampOf(stamp uint64) timestamp {
	return timestamp{T: uint32(stamp >> 32), I: uint32(stamp)}
}

// txPosition says how much of a transaction is done.
type txPosition struct {
	ID string `json:"id"`
	// Changes counts the captured changes, and Tables those of each table.
	Changes int64            `json:"changes"`
	Tables  map[string]int64 `json:"tables"`
	// Open says that more of it is known to follow, or not known not to.
	Open bool `json:"open,omitempty"`
}

func (p position) encode() (sources.Position, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode position: %w", err)
	}
	return text, nil
}

func decodePosition(text sources.Position) (position, error) {
	var p position
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&p)
	if err == nil && (p.Deployment == "" || p.Ordinal < 0 || (p.Token == nil) == (p.StartAt == nil)) {
		err = fmt.Errorf("it names no deployment, or not exactly one of token and start_at")
	}
	if err == nil && p.Token != nil {
		_, err = p.token()
	}
	if err != nil {
		return p, sources.Fatal("give a position that weft checkpoint get has shown, or run the version of Weft that wrote it",
			"the position %s cannot be read: %w", text, err)
	}
	return p, nil
}

// token is the resume token as the server gave it.
func (p position) token() (bson.Raw, error) {
	var doc bson.Raw
	if err := bson.UnmarshalExtJSON(p.Token, true, &doc); err != nil {
		return nil, fmt.Errorf("read resume token: %w", err)
	}
	return doc, nil
}

func tokenText(token bson.Raw) (json.RawMessage, error) {
	text, err := bson.MarshalExtJSON(token, true, false)
	if err != nil {
		return nil, fmt.Errorf("write resume token: %w", err)
	}
	return text, nil
}
