package verify

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"weft/sink/envelope"
	"weft/sources"
)

// judgeOpen looks at the open keys again, and at those that only the topic has, until all are decided.
func (c *comparison) judgeOpen(ctx context.Context) error {
	if err := c.openExtras(); err != nil {
		return err
	}
	return c.judgeRounds(ctx)
}

// judgeRounds leaves open what is not equal, and can be repaired.
func (c *comparison) judgeRounds(ctx context.Context) error {
	for round, final := 1, false; !final; round++ {
		if round > 1 {
			if err := sleep(ctx, roundPause); err != nil {
				return err
			}
		}
		wait := c.polled.undecided()
		final = round >= rounds && !wait
		var after []byte
		for n := int64(0); ; {
			keys, err := c.store.nextOpen(after, c.openKeys())
			if err != nil {
				return err
			}
			if len(keys) == 0 && after == nil {
				return nil
			}
			if len(keys) == 0 {
				break
			}
			if err := c.judge(ctx, keys, final); err != nil {
				return err
			}
			after = keys[len(keys)-1].json
			n += int64(len(keys))
			c.o.Progress(Progress{c.result.Table, "keys", n, 0})
		}
	}
	return nil
}

// openKeys is how many rows fit in a chunk.
func (c *comparison) openKeys() int {
	n := int64(maxOpenKeys)
	if c.bytes > 0 {
		n = min(n, max(1, int64(c.o.Memory/chunkPart)*c.result.Rows/c.bytes))
	}
	if c.o.Rate > 0 {
		n = min(n, int64(c.chunkRows()))
	}
	return int(n)
}

// openExtras opens the keys of rows that no row of the source has confirmed.
func (c *comparison) openExtras() error {
	return c.store.scan([]byte{inRows}, []byte{inRows + 1}, func(k, v []byte) (bool, error) {
		if v[0] == flagConfirmed {
			return true, nil
		}
		partition, key := int32(binary.BigEndian.Uint32(k[1:])), k[5:]
		if partition != c.topic.partition(key) {
			c.found(Finding{Kind: Extra, Key: slices.Clone(key), Why: fmt.Sprintf("it is in partition %d, where the capture writes no such key", partition)})
			return true, nil
		}
		wire, err := c.rows.enc.DecodeKey(c.table, key)
		if errors.Is(err, envelope.ErrKeyForm) {
			c.found(Finding{Kind: Undecided, Key: slices.Clone(key), Why: "the topic has the row, and its key cannot be asked for at the source"})
			return true, nil
		}
		if err != nil {
			return false, err
		}
		return true, c.store.addOpen(key, wire)
	})
}

// read reads these keys' rows from the source.
func (c *comparison) read(ctx context.Context, keys []openKey) (*sources.Chunk, error) {
	request := sources.ChunkRequest{Table: c.result.Table, Rows: len(keys), Bytes: math.MaxInt32}
	for _, k := range keys {
		request.Keys = append(request.Keys, k.wire)
	}
	chunk, err := c.reader.ReadChunk(ctx, request)
	if err != nil {
		return nil, fmt.Errorf("read the source by key: %w", err)
	}
	return chunk, nil
}

// judge reads these keys from the source, folds the topic to what that read saw, and compares. With final, what differs is a
// finding; otherwise it stays open.
func (c *comparison) judge(ctx context.Context, keys []openKey, final bool) error {
	began := time.Now()
	chunk, err := c.read(ctx, keys)
	if err != nil {
		return err
	}
	if err := c.checkpoints.await(ctx, chunk.View); err != nil {
		return err
	}
	if err := c.topic.advance(ctx, chunk.View); err != nil {
		return err
	}
	found, err := c.versions(chunk)
	if err != nil {
		return err
	}
	var open []openKey
	findings := make(map[string]Finding)
	for _, k := range keys {
		f, differs, err := c.judgeKey(k.json, found[string(k.json)].row)
		if err != nil {
			return err
		}
		if differs {
			open, findings[string(k.json)] = append(open, k), f
		}
	}
	if c.polled != nil {
		if open, err = c.judgePolled(ctx, open, findings, found, final); err != nil {
			return err
		}
	}
	if final {
		for _, k := range open {
			if err := c.find(k.json, findings[string(k.json)]); err != nil {
				return err
			}
		}
	}
	if c.o.Rate > 0 {
		return sleep(ctx, time.Duration(float64(len(keys))/float64(c.o.Rate)*float64(time.Second))-time.Since(began))
	}
	return nil
}

// judgeKey closes a key whose rows are equal, and says otherwise how they differ.
func (c *comparison) judgeKey(key, source []byte) (f Finding, differs bool, err error) {
	_, topicRow, err := c.store.row(c.topic.partition(key), key)
	if err != nil {
		return f, false, err
	}
	f.Key = json.RawMessage(key)
	switch {
	case source == nil && topicRow == nil:
		return f, false, c.store.closeKey(key)
	case source == nil:
		f.Kind = Extra
		return f, true, nil
	case topicRow == nil:
		f.Kind = Missing
		return f, true, nil
	}
	d, err := c.store.compare(source, topicRow)
	if err != nil {
		return f, false, err
	}
	if len(d.columns) == 0 {
		c.note(d)
		return f, false, c.store.closeKey(key)
	}
	f.Kind = Differing
	for _, name := range d.columns {
		f.Columns = append(f.Columns, unquote(name))
	}
	return f, true, nil
}

// find takes in that a key's rows differ. It stays open if it can be repaired.
func (c *comparison) find(key []byte, f Finding) error {
	switch {
	case !c.topic.isWhole(c.topic.partition(key)):
		f.Kind, f.Why = Undecided, "more changes than fit into memory wait for the source to show them; run it again, or with more --memory"
	case f.Kind == Missing && c.topic.trimmed:
		f.Kind, f.Why = Undecided, "retention has removed records of the topic, maybe this row's"
	}
	c.found(f)
	if f.Kind == Undecided {
		return c.store.closeKey(key)
	}
	return nil
}

// versioned is a row of the source. Of one that polls it is a version.
type versioned struct {
	row     []byte
	version int64
}

// versions are a chunk's rows by their keys.
func (c *comparison) versions(chunk *sources.Chunk) (map[string]versioned, error) {
	all := make(map[string]versioned, len(chunk.Rows))
	for i, values := range chunk.Rows {
		e, err := c.rows.encode(chunk.Table, values)
		if err != nil {
			return nil, err
		}
		v := versioned{row: slices.Clone(e.row)}
		if chunk.Versions != nil {
			v.version = chunk.Versions[i]
		}
		all[string(e.key)] = v
	}
	return all, nil
}
