package mongodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
)

// view is what a read saw, in stamps: all changes up to low, and none after high. The two are one where the server reads as of a
// cluster time. Otherwise a change in between may have been seen or not: it counts as not seen, and the stream must be past high,
// so that the stream's change takes the place of the row either way.
type view struct{ low, high uint64 }

func (v view) Sees(stamp uint64) bool { return stamp <= v.low }

func (v view) Horizon() uint64 { return v.low + 1 }

// SeesSource reads clusterTime.
func (v view) SeesSource(block json.RawMessage) (bool, error) {
	var source struct {
		ClusterTime *timestamp `json:"clusterTime"`
	}
	if err := json.Unmarshal(block, &source); err != nil {
		return false, fmt.Errorf("read clusterTime of a source block: %w", err)
	}
	if source.ClusterTime == nil {
		return false, errors.New("the source block has no clusterTime: it is of no change")
	}
	return v.Sees(source.ClusterTime.stamp()), nil
}

func (v view) Passed(text sources.Position) (bool, error) {
	p, err := decodePosition(text)
	if err != nil {
		return false, err
	}
	return p.Passed.stamp() >= v.high, nil
}

// readsSnapshots tells whether the server reads a collection as of a given cluster time. One that knows no such reads says so, or
// pays no heed to the time.
func (d *deployment) readsSnapshots(ctx context.Context, c collection) (bool, error) {
	read := func(concern bson.D) (at uint64, err error) {
		var reply struct {
			Cursor struct {
				At bson.Timestamp `bson:"atClusterTime"`
			} `bson:"cursor"`
		}
		err = d.client.Database(c.db).RunCommand(ctx, bson.D{
			{Key: "find", Value: c.name}, {Key: "projection", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "limit", Value: 1},
			{Key: "singleBatch", Value: true}, {Key: "readConcern", Value: append(bson.D{{Key: "level", Value: "snapshot"}}, concern...)},
		}).Decode(&reply)
		return timestamp{T: reply.Cursor.At.T, I: reply.Cursor.At.I}.stamp(), err
	}
	now, err := read(nil)
	if err == nil && now > 0 {
		before := timestampOf(now - 1)
		var at uint64
		at, err = read(bson.D{{Key: "atClusterTime", Value: bson.Timestamp{T: before.T, I: before.I}}})
		if err == nil {
			return at == now-1, nil
		}
	}
	switch codeOf(err) {
	case codeSnapshotTooOld, codeNoSnapshot: // it heeds the time, and does not go back so far
		return true, nil
	case codeInvalidOptions, codeNotSupported, codeBadValue, codeFailedToParse:
		return false, nil
	}
	if err != nil {
		return false, classify("read "+c.String()+" as of a cluster time", err)
	}
	return false, nil
}
