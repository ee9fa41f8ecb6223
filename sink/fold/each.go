package fold

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"weft/sink/scratch"
)

// Image is a row as Each gives it, valid until fn returns.
type Image struct {
	// Key is the record key's JSON, nil for a keyless table. Columns is a JSON object of the columns whose values are known,
	// and Unknown names the others in order.
	Key, Columns []byte
	Unknown      []string
	// Seq is source.seq of the record that told the row last; empty for a keyless table.
	Seq []byte
	// Count is how many such rows there are: above 1 in a keyless table alone.
	Count int
	// Partition that the row's records are in.
	Partition int32
}

// Each calls fn for every row, in the order of the keys' values; those of a keyless table in the order of their JSON. It is an
// error if a keyless table has seen more deletes of a row than inserts: its columns have changed, or its records are not
// complete. The table must not be changed meanwhile.
func (t *Table) Each(fn func(*Image) error) error {
	if err := t.eachKeyed(fn); err != nil {
		return err
	}
	return t.eachKeyless(fn)
}

func (t *Table) eachKeyed(fn func(*Image) error) error {
	image := Image{Count: 1}
	var r row
	return t.merge('r', func(partition int32, key, value []byte) error {
		if err := r.decode(value); err != nil {
			return err
		}
		image.Key = KeyOf(key)
		image.Seq = append(image.Seq[:0], r.seq...)
		image.Unknown = image.Unknown[:0]
		image.Columns, image.Partition = r.columns, partition
		for _, o := range r.open {
			raw, err := t.cell(o.change, o.name)
			if err != nil {
				return err
			}
			if raw == nil {
				image.Unknown = append(image.Unknown, o.name)
				continue
			}
			image.Columns = append(appendMember(bytes.Clone(image.Columns[:len(image.Columns)-1]), []byte(o.name), raw), '}')
		}
		slices.Sort(image.Unknown)
		return fn(&image)
	})
}

// KeyOf is the record's key that AppendSortable has made sortable, and a part of it.
func KeyOf(key []byte) []byte {
	for len(key) > 0 && key[0] != 0 {
		kind := key[0]
		key = key[1:]
		switch kind {
		case orderNumber:
			key = key[16:]
		case orderString, orderOther:
			key = key[bytes.Index(key, []byte{0, 1})+2:]
		}
	}
	return key[1:]
}

func (t *Table) eachKeyless(fn func(*Image) error) error {
	image := Image{}
	give := func() error {
		switch {
		case image.Count < 0:
			return fmt.Errorf("fold keyless table: a row was deleted %d times more than inserted", -image.Count)
		case image.Count == 0:
			return nil
		}
		return fn(&image)
	}
	err := t.merge('b', func(_ int32, columns, value []byte) error {
		if !bytes.Equal(columns, image.Columns) {
			if err := give(); err != nil {
				return err
			}
			image.Columns, image.Count = append(image.Columns[:0], columns...), 0
		}
		n, _ := binary.Varint(value)
		image.Count += int(n)
		return nil
	})
	if err != nil {
		return err
	}
	return give()
}

// merge walks over the entries of a kind in all partitions, in the order of what follows the partition in their keys.
func (t *Table) merge(kind byte, fn func(partition int32, key, value []byte) error) (err error) {
	var all heads
	defer func() {
		for _, h := range all {
			err = errors.Join(err, h.Close())
		}
	}()
	for p := range t.parts {
		c, err := t.entries(appendPartition([]byte{kind}, p))
		if err != nil {
			return err
		}
		if !c.Next() {
			if err := c.Close(); err != nil {
				return err
			}
			continue
		}
		all = append(all, head{c, p})
	}
	heap.Init(&all)
	for len(all) > 0 {
		key, value := all[0].Entry()
		if err := fn(all[0].partition, key[5:], value); err != nil {
			return err
		}
		if all[0].Next() {
			heap.Fix(&all, 0)
			continue
		}
		done := heap.Pop(&all).(head)
		if err := done.Close(); err != nil {
			return err
		}
	}
	return nil
}

type head struct {
	scratch.Cursor
	partition int32
}

// heads is a heap of cursors by the keys that they are at.
type heads []head

func (h heads) Len() int      { return len(h) }
func (h heads) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h heads) Less(i, j int) bool {
	a, _ := h[i].Entry()
	b, _ := h[j].Entry()
	return bytes.Compare(a[5:], b[5:]) < 0
}
func (h *heads) Push(x any) { *h = append(*h, x.(head)) }
func (h *heads) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
