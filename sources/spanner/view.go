package spanner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"weft/sources"
)

// view is what a read at a timestamp saw: all that was committed up to it, and nothing later. A change's stamp is its commit
// timestamp.
type view struct {
	at     stamp
	reader *rowReader // is told how far the stream has come
}

// Sees implements sources.View.
func (v view) Sees(committed uint64) bool { return committed <= uint64(v.at) }

// Horizon implements sources.View.
func (v view) Horizon() uint64 { return uint64(v.at) + 1 }

// SeesSource reads commit_timestamp.
func (v view) SeesSource(block json.RawMessage) (bool, error) {
	var source struct {
		At time.Time `json:"commit_timestamp"`
	}
	if err := json.Unmarshal(block, &source); err != nil {
		return false, fmt.Errorf("read commit_timestamp of a source block: %w", err)
	}
	if source.At.IsZero() {
		return false, errors.New("the source block has no commit_timestamp: it is of no change")
	}
	return v.Sees(uint64(stampOf(source.At))), nil
}

// Passed implements sources.View: the watermark is the timestamp before which every change has been returned, whichever
// partition it came from.
func (v view) Passed(p sources.Position) (bool, error) {
	low, err := watermarkOf(p)
	if err == nil && v.reader != nil {
		v.reader.passed(low)
	}
	return low > v.at, err
}

// watermarkOf reads a position's watermark, which stands before its partitions, and nothing of those.
func watermarkOf(p sources.Position) (stamp, error) {
	d := json.NewDecoder(bytes.NewReader(p))
	begin, err := d.Token()
	if err == nil && begin != json.Delim('{') {
		err = errors.New("it is no object")
	}
	for err == nil && d.More() {
		var name json.Token
		if name, err = d.Token(); err != nil {
			break
		}
		if name == "watermark" {
			var at time.Time
			if err = d.Decode(&at); err == nil {
				return stampOf(at), nil
			}
			break
		}
		var other json.RawMessage
		err = d.Decode(&other)
	}
	if err == nil {
		err = errors.New("it is not there")
	}
	return 0, fmt.Errorf("read the watermark of a position: %w", err)
}
