package polling

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

// Reconcile says how deleted rows are found, which have no watermark: the keys that the log holds are looked for in their tables.
type Reconcile struct {
	Off           bool           `yaml:"off,omitempty" json:"off,omitempty" jsonschema:"true: deleted rows are not looked for"`
	Every         time.Duration  `yaml:"every,omitempty" json:"every,omitempty" jsonschema:"how long after one search for deleted rows the next begins, such as 1h, which is the default"`
	RowsPerSecond int            `yaml:"rows_per_second,omitempty" json:"rows_per_second,omitempty" jsonschema:"how many keys are looked for in a second; default 10000"`
	Guard         float64        `yaml:"guard,omitempty" json:"guard,omitempty" jsonschema:"share of a table's rows, from 0 to 1; when more than that and more than 100 rows are gone at once, the capture stops and asks; default 0.2"`
	Confirm       map[string]int `yaml:"confirm,omitempty" json:"confirm,omitempty" jsonschema:"by table, how many rows may go at once in spite of guard"`
}

const (
	defaultEvery         = time.Hour
	defaultRowsPerSecond = 10_000
	defaultGuard         = 0.2
	// guardRows may always go.
	guardRows = 100
	// stepKeys are looked for in one view: by the range in which they lie where that is known, and otherwise, or where it holds others, in
	// statements that name listKeys each.
	stepKeys = 10_000
	listKeys = 500
	// patience is how long a search waits for a capture that has rows to read.
	patience = time.Minute
)

func (r *Reconcile) validate() error {
	switch {
	case r.Every != 0 && r.Every < time.Second:
		return fmt.Errorf("reconcile.every: %s is shorter than 1s", r.Every)
	case r.RowsPerSecond < 0:
		return errors.New("reconcile.rows_per_second: it must be above 0")
	case r.Guard < 0 || r.Guard > 1:
		return errors.New("reconcile.guard: it must be a share from 0 to 1")
	}
	return nil
}

// keyReader tells which keys of a table are there. A key has the wire forms of the key columns.
type keyReader interface {
	// keysOrdered tells whether the keys of t are ordered in the datastore as sources.Holder orders them.
	keysOrdered(t *table) bool
	// keyText is a key as one text, the same as present has it; keys that are not the same have different texts.
	keyText(dst []byte, t *table, key [][]byte) []byte
	// sumKeys counts the rows of t with these keys, or, with between, with those from the first to the last, and adds up the sums of
	// their keys' texts: see sumOf.
	sumKeys(ctx context.Context, t *table, keys [][][]byte, between bool) (keySum, error)
	// present calls fn for the text of the key of each row of t that has one of these keys.
	present(ctx context.Context, t *table, keys [][][]byte, fn func(text []byte)) error
}

// keySum is a number of keys and their checksum. That of one key is the first 40 bits of the MD5 of its text, which any datastore
// can compute.
type keySum struct{ rows, sum int64 }

func (s *keySum) add(text []byte) {
	hash := md5.Sum(text)
	s.rows++
	s.sum += int64(binary.BigEndian.Uint64(hash[:8]) >> 24)
}

// reconciler looks for deleted rows, in passes over all tables. A table is gone over twice: first to count what is missing, which the
// guard may refuse, and then, where something was, to tell of it. Each step is made in a view of its own, and what it finds is
// returned before the next view is opened: a row that comes back is in a later poll.
type reconciler struct {
	held    sources.Holder
	every   time.Duration
	rate    int
	guard   float64
	confirm map[string]int
	log     hclog.Logger
	// bytes bounds a batch of deletes.
	bytes int

	next time.Time // when the next step is due
	pass *pass     // nil between passes
}

// pass is where a search stands: at a table, by its name, and behind a key that the log holds.
type pass struct {
	table string
	after []byte
	// held and missing count the table's keys, and removed those that were told of.
	held, missing, removed int
	// dirty are the ranges in which keys were missing, in order, while removing the rest of them.
	dirty    []span
	removing bool
}

// span is the range of keys after one cursor up to another; nil is the end.
type span struct{ after, until []byte }

// newReconciler returns nil where nothing is to be looked for. last is when the last pass ended, in seconds since 1970, 0 for never.
func newReconciler(c Reconcile, o sources.OpenOptions, last int64) *reconciler {
	if c.Off || o.Held == nil {
		return nil
	}
	r := &reconciler{held: o.Held, every: cmp.Or(c.Every, defaultEvery), rate: c.RowsPerSecond, guard: c.Guard, confirm: c.Confirm, log: o.Logger, bytes: o.BatchBytes}
	if r.rate == 0 {
		r.rate = defaultRowsPerSecond
	}
	if r.guard == 0 {
		r.guard = defaultGuard
	}
	began := time.Now()
	if last > 0 {
		began = time.Unix(last, 0)
	}
	r.next = began.Add(r.every)
	return r
}

// due tells whether to make a step now. A capture that has rows to read comes first, for a while.
func (r *reconciler) due(now time.Time, busy bool) bool {
	if r == nil {
		return false
	}
	if busy {
		now = now.Add(-patience)
	}
	return !now.Before(r.next)
}

// step looks for some keys and adds the deletes of those that are missing to b. done says that the pass is at its end.
func (r *reconciler) step(ctx context.Context, v view, b *batch) (done bool, err error) {
	if r.pass == nil {
		r.pass = &pass{}
	}
	p := r.pass
	tables := v.tables()
	i, found := slices.BinarySearchFunc(tables, p.table, func(t *table, name string) int { return bytes.Compare([]byte(t.name), []byte(name)) })
	if i == len(tables) {
		r.pass, r.next = nil, time.Now().Add(r.every)
		return true, nil
	}
	t := tables[i]
	if !found { // the first, or the one that comes after a table that is captured no more
		*p = pass{table: t.name}
	}
	began, n := time.Now(), 0
	if p.removing {
		n, err = r.remove(ctx, v, t, b)
	} else {
		n, err = r.count(ctx, v, t)
	}
	if err != nil {
		return false, fmt.Errorf("look for deleted rows of table %s: %w", t.name, err)
	}
	r.next = began.Add(time.Duration(n) * time.Second / time.Duration(r.rate))
	return false, nil
}

// count goes over the next keys of a table without telling of any.
func (r *reconciler) count(ctx context.Context, v view, t *table) (n int, err error) {
	p := r.pass
	keys, missing, next, err := r.look(ctx, v, t)
	if err != nil {
		return 0, err
	}
	p.held += len(keys)
	p.missing += len(missing)
	if len(missing) > 0 {
		if n := len(p.dirty); n > 0 && bytes.Equal(p.dirty[n-1].until, p.after) {
			p.dirty[n-1].until = next
		} else {
			p.dirty = append(p.dirty, span{p.after, next})
		}
	}
	p.after = next
	if next != nil {
		return len(keys), nil
	}
	if err := r.guarded(t, p.missing); err != nil {
		return 0, err
	}
	if len(p.dirty) == 0 {
		*p = pass{table: t.name + "\x00"}
	} else {
		p.removing, p.after = true, p.dirty[0].after
	}
	return len(keys), nil
}

// look returns the next keys that the log holds, those of them that are missing, and where to go on.
func (r *reconciler) look(ctx context.Context, v view, t *table) (keys, missing [][][]byte, next []byte, err error) {
	if keys, next, err = r.held.HeldKeys(ctx, &t.Table, r.pass.after, min(stepKeys, r.rate)); err != nil {
		return nil, nil, nil, err
	}
	missing, err = missingKeys(ctx, v, t, keys)
	return keys, missing, next, err
}

// guarded refuses that more of a table goes at once than somebody has thought of.
func (r *reconciler) guarded(t *table, gone int) error {
	p := r.pass
	if gone <= guardRows || float64(gone) <= r.guard*float64(p.held) || gone <= r.confirm[t.name] {
		return nil
	}
	return sources.Fatal(fmt.Sprintf("if they were deleted on purpose, set reconcile: {confirm: {%s: %d}} in the source, which lets as many go at once, and start the "+
		"capture again; otherwise put them back", t.name, gone),
		"%d of the %d rows that the log holds of table %s are no longer there, more than reconcile.guard allows; none of them was deleted from the log", gone, p.held, t.name)
}

// remove adds deletes for what is missing of the next keys in a range where something was.
func (r *reconciler) remove(ctx context.Context, v view, t *table, b *batch) (n int, err error) {
	p := r.pass
	keys, missing, next, err := r.look(ctx, v, t)
	if err != nil {
		return 0, err
	}
	if err := r.guarded(t, p.removed+len(missing)); err != nil {
		return 0, err
	}
	for _, key := range missing {
		if !b.addDelete(t, key) { // the rest is looked for again, behind those that were told of
			return len(keys), nil
		}
		p.removed++
	}
	until := p.dirty[0].until
	if p.after = next; next != nil && (until == nil || bytes.Compare(next, until) < 0) {
		return len(keys), nil
	}
	if p.dirty = p.dirty[1:]; len(p.dirty) > 0 {
		p.after = p.dirty[0].after
		return len(keys), nil
	}
	r.log.Info("deleted rows were found", "table", t.name, "rows", p.removed, "of", p.held)
	*p = pass{table: t.name + "\x00"}
	return len(keys), nil
}

// missingKeys returns those of the keys that no row has. Where all are there, only sums are read.
func missingKeys(ctx context.Context, v view, t *table, keys [][][]byte) (missing [][][]byte, err error) {
	if len(keys) > listKeys && v.keysOrdered(t) {
		equal, err := sumsEqual(ctx, v, t, keys, true)
		if equal || err != nil {
			return nil, err
		}
	}
	for part := range slices.Chunk(keys, listKeys) {
		equal, err := sumsEqual(ctx, v, t, part, false)
		if err != nil {
			return nil, err
		}
		if equal {
			continue
		}
		there := make(map[string]struct{}, len(part))
		if err := v.present(ctx, t, part, func(text []byte) { there[string(text)] = struct{}{} }); err != nil {
			return nil, err
		}
		var text []byte
		for _, key := range part {
			text = v.keyText(text[:0], t, key)
			if _, ok := there[string(text)]; !ok {
				missing = append(missing, key)
			}
		}
	}
	return missing, nil
}

func sumsEqual(ctx context.Context, v view, t *table, keys [][][]byte, between bool) (bool, error) {
	var want keySum
	var text []byte
	for _, key := range keys {
		text = v.keyText(text[:0], t, key)
		want.add(text)
	}
	got, err := v.sumKeys(ctx, t, keys, between)
	return got == want, err
}

// integerKeys tells whether all columns of a table's key are integers.
func integerKeys(t *table) bool {
	return !slices.ContainsFunc(t.Key, func(k int) bool { return t.Columns[k].Type.Kind != sources.Int })
}

// keySeparator stands between the columns of a key's text.
const keySeparator = 0x1f
