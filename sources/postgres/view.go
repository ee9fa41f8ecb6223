package postgres

import (
	"encoding/json"
	"errors"
	"fmt"

	"weft/sources"
	"weft/sources/postgres/visibility"
)

// view is what a read saw, and a place in the log that is behind all of it.
type view struct {
	snapshot visibility.Snapshot
	mark     lsn
}

func (v *view) Sees(stamp uint64) bool { return v.snapshot.Sees(stamp) }

func (v *view) Horizon() uint64 { return v.snapshot.Xmin }

// SeesSource reads txId, which is a transaction id of 32 bits.
func (v *view) SeesSource(block json.RawMessage) (bool, error) {
	var source struct {
		XID *uint32 `json:"txId"`
	}
	if err := json.Unmarshal(block, &source); err != nil {
		return false, fmt.Errorf("read txId of a source block: %w", err)
	}
	if source.XID == nil {
		return false, errors.New("the source block has no txId: it is of no transaction")
	}
	return v.snapshot.Sees(visibility.Widen(*source.XID, v.snapshot.Xmax)), nil
}

// Passed: what the read saw was committed in the log before the mark was written, and a position stands behind all that ends
// before it.
func (v *view) Passed(text sources.Position) (bool, error) {
	p, err := decodePosition(text)
	if err != nil {
		return false, err
	}
	return !p.Creating && p.LSN >= v.mark, nil
}
