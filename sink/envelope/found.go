package envelope

import (
	"bytes"

	"weft/sources"
)

// EncodeFound is Encode for a source that finds rows rather than changes. held gives the row that the log holds of a record key, as
// JSON and valid until its next call; nil for none. An OpCreate is a row as it is now: it becomes a create, an update of the held
// row, or nothing where that is the same. An OpDelete becomes the delete of the held row, or nothing without one. The table must
// have a key.
func (e *Encoder) EncodeFound(buf []byte, dst []Record, c *sources.Change, seqPrefix []byte, held func(key []byte) ([]byte, error)) ([]byte, []Record, error) {
	t, err := e.table(c.Table)
	if err != nil {
		return buf, dst, err
	}
	v := value{op: c.Op, after: c.After, ordinal: OrdinalCreate}
	row := c.After
	if c.Op == sources.OpDelete {
		row, v.ordinal = c.Before, OrdinalDelete
	}
	if len(row) != len(t.columns) || len(t.key) == 0 {
		return buf, dst, t.valueError(errColumns, nil, "")
	}
	out, key, err := t.appendKey(buf, row, nil)
	if err != nil {
		return buf, dst, err
	}
	if v.rawBefore, err = held(key.of(out)); err != nil {
		return buf, dst, err
	}
	isDelete, has, deleted := c.Op == sources.OpDelete, len(v.rawBefore) > 0, v.rawBefore != nil && len(v.rawBefore) == 0
	switch {
	case isDelete && deleted:
		return out, append(dst, Record{Key: key.of(out), Ordinal: OrdinalTombstone}), nil
	case isDelete && !has:
		return buf, dst, nil
	case has && !isDelete:
		v.op = sources.OpUpdate
	case !has:
		v.rawBefore = nil
	}
	out, at, err := e.appendValue(out, t, c, &v, key, seqPrefix)
	if err != nil {
		return buf, dst, err
	}
	if isDelete {
		return out, append(dst, Record{Key: key.of(out), Value: at.of(out), Ordinal: OrdinalDelete}, Record{Key: key.of(out), Ordinal: OrdinalTombstone}), nil
	}
	after := v.afterAt.of(out)
	if has && bytes.Equal(v.rawBefore, after) {
		return buf, dst, nil
	}
	return out, append(dst, Record{Key: key.of(out), Value: at.of(out), Row: after, Ordinal: OrdinalCreate}), nil
}
