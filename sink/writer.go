package sink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sink/envelope"
	"weft/sources"
)

// ErrFenced says that the log no longer takes this writer for the capture's: another was opened since, as a rule. It must end.
var ErrFenced = errors.New("another daemon has taken this capture over (stop one of the two), or the log gave up a transaction that took too long")

// Options is what a writer needs to know.
type Options struct {
	Log     *Log
	Topics  Topics
	Dialect envelope.Dialect
	Capture string
	// Connector is the source's, for the checkpoint and the envelope.
	Connector string
	// Polls says that the source polls: its Order is not reproducible, so that after a crash what it repeats is told by
	// the row instead. It matters to sequenced delivery alone.
	Polls bool
	// Held, where it is not empty, is the directory in which the rows that the log holds are kept, so that changes of a source that
	// polls become what they are: see package held.
	Held string
	// Version of Weft.
	Version string
	// Epoch, where it is not 0, is taken for the present one instead of reading the checkpoint, which is as if there were none.
	Epoch uint32
}

// Writer writes one capture's records and checkpoints. It is used by one goroutine. After an error of any method it is
// of no more use but to be closed: open another, which finds out what was committed.
type Writer struct {
	o       Options
	profile Profile
	cl      *kgo.Client
	// ctx is that of records under way. It ends with the writer, not with a call: a stop still commits what is written.
	ctx      context.Context
	cancel   context.CancelFunc
	enc      *envelope.Encoder
	delivery delivery
	cp       checkpoint.Checkpoint
	gap      *sources.GapError

	routes    map[*sources.Table]*route
	topics    map[string]string // topic -> what writes to it
	lastTable *sources.Table
	lastRoute *route

	seq     []byte            // scratch: epoch.order.
	encoded []envelope.Record // scratch
	slab    *slab             // being filled; nil before the first record
	slabs   slabs

	kept     *keeper              // nil where rows are not kept
	snapshot *checkpoint.Snapshot // for the next commit; nil: as it is
	sweeps   map[string]*Sweep    // that watch a topic, by its name
	partial  bool                 // what was written ends inside a source transaction
	below    []byte               // as sources.Batch.Below has it
	changes  int64                // since the last commit
	rows     int64                // of snapshots, likewise
	bytes    int
	since    time.Time // of the first uncommitted change

	mu  sync.Mutex
	err error // the first failed produce
}

// delivery is how records and checkpoint come to be in the log together.
type delivery interface {
	// resume prepares for writing after cp. What was written after cp and is no longer there is a gap.
	resume(ctx context.Context, cp checkpoint.Checkpoint) (*sources.GapError, error)
	// enter is called before the capture's first record of a topic.
	enter(ctx context.Context, topic string) error
	// begin is called before the first record after a commit.
	begin() error
	// skip tells whether the log holds the record beyond the checkpoint already.
	skip(r *kgo.Record, seq []byte) (bool, error)
	// acked is called for each record that the log has taken, from the client's goroutine.
	acked(r *kgo.Record)
	// commit makes what was produced since begin visible together with the checkpoint. all says that the source has
	// returned everything that it has.
	commit(ctx context.Context, cp checkpoint.Checkpoint, all bool) error
	// forget drops what was found in the log beyond the checkpoint, when an epoch ends.
	forget()
	// ready is the time before which a commit would only wait in the log.
	ready() time.Time
	// above is the highest order in the log beyond the checkpoint, or nil.
	above() []byte
}

// Open fences the capture's former writer, and only then loads the checkpoint.
func Open(ctx context.Context, o Options) (*Writer, error) {
	p, err := o.Log.profile()
	if err != nil {
		return nil, err
	}
	if !p.Atomic && o.Topics.Cleanup == "compact" {
		return nil, sources.Fatal("set topics.cleanup: delete, or use a log of brokers",
			"capture %q: the embedded log cannot hold compaction back from records beyond the checkpoint, which exactly-once delivery needs", o.Capture)
	}
	enc, err := envelope.New(envelope.Options{
		Dialect: o.Dialect, Connector: o.Connector, Name: o.Topics.Prefix, Version: o.Version, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &Writer{o: o, ctx: own, cancel: cancel, profile: p, enc: enc, routes: map[*sources.Table]*route{}, topics: map[string]string{}}
	var extra []kgo.Opt
	if p.Atomic {
		extra = append(extra, kgo.TransactionalID(transactionalID(o.Capture)))
	}
	if w.cl, err = o.Log.Client(extra...); err != nil {
		cancel()
		return nil, err
	}
	if p.Atomic {
		w.delivery = &transactional{w: w}
	} else {
		w.delivery = newSequenced(w)
	}
	err = w.open(ctx)
	if err == nil && o.Held != "" {
		w.kept, err = openKeeper(w, o.Held)
	}
	if err != nil {
		cancel()
		w.cl.Close()
		return nil, err
	}
	return w, nil
}

func (w *Writer) open(ctx context.Context) error {
	if _, err := ensureTopic(ctx, w.cl, checkpointTopic(w.o.Topics.Replication, w.profile)); err != nil {
		return err
	}
	// InitProducerID: aborts what the former writer left open, and fences it.
	if _, _, err := w.cl.ProducerID(ctx); err != nil {
		return explain(fmt.Errorf("open the capture's producer: %w", err))
	}
	if w.o.Epoch != 0 {
		w.cp = checkpoint.Checkpoint{Capture: w.o.Capture, Epoch: w.o.Epoch}
		return nil
	}
	cp, ok, err := checkpoint.LoadOne(ctx, w.cl, w.o.Capture)
	if err != nil {
		return explain(err)
	}
	if !ok {
		cp = checkpoint.Checkpoint{Capture: w.o.Capture, Epoch: 1}
	} else if cp.Connector != w.o.Connector {
		return sources.Fatal("give the capture another name",
			"the log's checkpoint of capture %q is of a %s source, the configuration has %s", w.o.Capture, cp.Connector, w.o.Connector)
	}
	w.cp = cp
	if w.gap, err = w.delivery.resume(ctx, cp); err != nil {
		return explain(err)
	}
	return nil
}

// Gap is not nil when the log has lost what was written beyond the checkpoint; then NextEpoch must come before Write.
func (w *Writer) Gap() *sources.GapError { return w.gap }

// Checkpoint returns the last committed one.
func (w *Writer) Checkpoint() checkpoint.Checkpoint { return w.cp }

// Above is for sources.OpenOptions.
func (w *Writer) Above() []byte { return w.delivery.above() }

// Pending tells how many bytes are written and not committed, and since when; zero for none.
func (w *Writer) Pending() (bytes int, since time.Time) { return w.bytes, w.since }

// Rows tells how many changes of snapshots, rows as a rule, are written and not committed.
func (w *Writer) Rows() int64 { return w.rows }

// Buffered tells how many bytes are on their way to the brokers, of how many at most. Any goroutine may call it.
func (w *Writer) Buffered() (bytes, limit int64) {
	return w.cl.BufferedProduceBytes(), int64(w.o.Log.bufferBytes(w.profile))
}

// Ready is the time before which a commit would only wait in the log, so that more may be gathered until then. It may be
// past.
func (w *Writer) Ready() time.Time { return w.delivery.ready() }

// Write encodes a change and hands its records to the client, blocking while as much as allowed is buffered. It keeps
// nothing of c.
func (w *Writer) Write(ctx context.Context, c *sources.Change) error { return w.write(ctx, c, nil) }

// writeDelete is Write for the delete of a row of which only the record's key is left.
func (w *Writer) writeDelete(ctx context.Context, t *sources.Table, key, order []byte) error {
	return w.write(ctx, &sources.Change{Op: sources.OpDelete, Cause: sources.CauseSnapshot, Table: t, Order: order}, key)
}

func (w *Writer) write(ctx context.Context, c *sources.Change, key []byte) error {
	if err := w.failed(); err != nil {
		return err
	}
	r, err := w.route(ctx, c)
	if err != nil {
		return err
	}
	if w.since.IsZero() {
		if err := w.delivery.begin(); err != nil {
			return explain(err)
		}
		w.since = time.Now()
	}
	w.seq = appendSeq(w.seq[:0], w.cp.Epoch, c.Order)
	w.room()
	switch {
	case key != nil:
		w.slab.bytes, w.encoded, err = w.enc.EncodeDelete(w.slab.bytes, w.encoded[:0], c.Table, key, w.seq)
	case w.kept != nil:
		w.slab.bytes, w.encoded, err = w.kept.encode(ctx, w.slab.bytes, w.encoded[:0], c, r.topic, w.seq)
	default:
		w.slab.bytes, w.encoded, err = w.enc.Encode(w.slab.bytes, w.encoded[:0], c, w.seq)
	}
	if err != nil {
		return fmt.Errorf("encode change of %s: %w", name(c), err)
	}
	if len(w.encoded) == 0 { // the log holds it
		return nil
	}
	for i := range w.encoded {
		if err := w.produce(ctx, c, r, &w.encoded[i]); err != nil {
			return err
		}
	}
	if c.Op == sources.OpRead || c.Cause != sources.CauseStream {
		w.rows++
	} else {
		w.changes++
	}
	return nil
}

// SetSnapshot sets how far the snapshot has come. It is committed together with what is written before the next Commit or
// NextEpoch. It must not be changed afterwards.
func (w *Writer) SetSnapshot(s *checkpoint.Snapshot) { w.snapshot = s }

// room starts a new slab when the present one is nearly full, so that encoding rarely has to move it.
func (w *Writer) room() {
	if w.slab != nil {
		if cap(w.slab.bytes)-len(w.slab.bytes) >= slabBytes/16 {
			return
		}
		w.slabs.done(w.slab)
	}
	w.slab = w.slabs.get(w.promise)
}

func (w *Writer) produce(ctx context.Context, c *sources.Change, r *route, e *envelope.Record) error {
	if len(w.sweeps) > 0 && len(e.Key) > 0 {
		if s := w.sweeps[r.topic]; s != nil {
			s.touch(e.Key)
		}
	}
	at := len(w.slab.bytes)
	w.slab.bytes = append(append(w.slab.bytes, w.seq...), e.Ordinal)
	seq := w.slab.bytes[at:len(w.slab.bytes):len(w.slab.bytes)]
	partitions := 1
	if c.Op == sources.OpTruncate {
		partitions = r.partitions
	}
	for p := range partitions {
		rec := w.slab.record()
		rec.Topic, rec.Key, rec.Value, rec.Partition = r.topic, e.Key, e.Value, int32(p)
		rec.headers[0] = kgo.RecordHeader{Key: "weft-seq", Value: seq}
		rec.Headers = rec.headers[:1:1]
		switch {
		case e.NewKey != nil:
			rec.headers[1] = kgo.RecordHeader{Key: "__debezium.newkey", Value: e.NewKey}
			rec.Headers = rec.headers[:2]
		case e.OldKey != nil:
			rec.headers[1] = kgo.RecordHeader{Key: "__debezium.oldkey", Value: e.OldKey}
			rec.Headers = rec.headers[:2]
		}
		if size := recordSize(&rec.Record); size > w.profile.MaxRecordBytes {
			return sources.Fatal(
				"set log.max_record (and max.message.bytes of a topic that exists) above it, or leave the table out",
				"the record of table %s with key %s has %d bytes, the log takes %d", name(c), e.Key, size, w.profile.MaxRecordBytes)
		}
		if c.Op != sources.OpTruncate && e.Key != nil { // without a key all go to partition 0, where they stay in order
			rec.Partition = int32(r.partitioner.Partition(&rec.Record, r.partitions))
		}
		if err := w.send(ctx, &rec.Record, seq); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) send(ctx context.Context, rec *kgo.Record, seq []byte) error {
	skip, err := w.delivery.skip(rec, seq)
	if skip || err != nil {
		w.slabs.done(w.slab)
		return err
	}
	w.bytes += len(rec.Key) + len(rec.Value) + len(seq)
	if w.cl.BufferedProduceBytes()+int64(recordSize(rec)) < int64(w.o.Log.bufferBytes(w.profile)) { // does not block
		w.cl.Produce(w.ctx, rec, w.slab.promise)
		return nil
	}
	// What is under way is not cancelled by a stop, but this call may wait for it: then the writer is given up.
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	giveUp := context.AfterFunc(ctx, w.cancel)
	w.cl.Produce(w.ctx, rec, w.slab.promise)
	if !giveUp() {
		return fmt.Errorf("write to %s[%d]: the log takes no more: %w", rec.Topic, rec.Partition, context.Cause(ctx))
	}
	return nil
}

// recordSize is an upper bound of what the record takes in a batch of its own.
func recordSize(r *kgo.Record) int {
	n := 128 + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += 16 + len(h.Key) + len(h.Value)
	}
	return n
}

func (w *Writer) promise(r *kgo.Record, err error) {
	if err == nil {
		w.delivery.acked(r)
		if w.kept != nil {
			w.kept.acked(r)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = explain(fenced(fmt.Errorf("write to %s[%d]: %w", r.Topic, r.Partition, err)))
	}
}

func (w *Writer) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Inside tells whether what was written so far ends inside a source transaction, for the checkpoints that follow.
func (w *Writer) Inside(transaction bool) { w.partial = transaction }

// Below tells below which order every change was written, for the checkpoints that follow; nil where all are written in order.
func (w *Writer) Below(order []byte) { w.below = order }

// Commit makes what was written since the last commit visible together with a checkpoint at p. all says that the source
// had nothing more at that moment. Nothing is known to be committed unless it returns nil; after an error, whether it was
// is for the next writer to find out.
func (w *Writer) Commit(ctx context.Context, p sources.Position, all bool) error {
	cp := w.cp
	cp.Position = append(sources.Position(nil), p...)
	return w.commit(ctx, cp, all)
}

// NextEpoch records a gap: in the log's topic PREFIX.__gaps for consumers, and in the checkpoint, from which the capture
// then goes on at gap.Resume, in an epoch of its own.
func (w *Writer) NextEpoch(ctx context.Context, gap *sources.GapError) error {
	cp := w.cp
	cp.Epoch++
	cp.Gap = &checkpoint.Gap{Epoch: cp.Epoch, Reason: gap.Reason, From: cp.Position, To: gap.Resume, At: time.Now().UTC()}
	cp.Position = gap.Resume
	w.below = nil // it is the former epoch's
	w.delivery.forget()
	spec := w.o.Topics.gapTopic(w.profile)
	if _, err := ensureTopic(ctx, w.cl, spec); err != nil {
		return err
	}
	if err := w.delivery.begin(); err != nil {
		return explain(err)
	}
	value, err := json.Marshal(struct {
		Capture string `json:"capture"`
		*checkpoint.Gap
	}{w.o.Capture, cp.Gap})
	if err != nil {
		return fmt.Errorf("encode gap record: %w", err)
	}
	w.since = time.Now()
	w.cl.Produce(w.ctx, &kgo.Record{Topic: spec.name, Key: []byte(w.o.Capture), Value: value}, w.promise)
	w.gap = nil
	return w.commit(ctx, cp, false)
}

func (w *Writer) commit(ctx context.Context, cp checkpoint.Checkpoint, all bool) error {
	if w.since.IsZero() {
		if err := w.delivery.begin(); err != nil {
			return explain(err)
		}
	}
	cp.Changes += w.changes
	if w.changes+w.rows > 0 {
		cp.Seq, cp.Partial = string(w.seq), w.partial
	} else if !w.partial {
		cp.Partial = false
	}
	if w.below != nil {
		cp.Below = string(appendSeq(nil, cp.Epoch, w.below))
	}
	if w.snapshot != nil {
		cp.Snapshot = w.snapshot
	}
	// A commit under way is not cancelled, since its outcome would be unknown; only a deadline ends it.
	deadline, ok := ctx.Deadline()
	if latest := time.Now().Add(50 * time.Second); !ok || deadline.After(latest) {
		deadline = latest
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	if err := w.delivery.commit(ctx, cp, all); err != nil {
		return explain(fenced(err))
	}
	if w.kept != nil {
		if err := w.kept.commit(); err != nil {
			return err
		}
	}
	w.cp, w.snapshot, w.changes, w.rows, w.bytes, w.since = cp, nil, 0, 0, 0, time.Time{}
	return nil
}

// writeCheckpoint produces the checkpoint record and waits for everything produced so far.
func (w *Writer) writeCheckpoint(ctx context.Context, cp checkpoint.Checkpoint) error {
	cp.Connector, cp.Writer, cp.WrittenAt = w.o.Connector, w.o.Version, time.Now().UTC()
	value, err := checkpoint.Encode(cp)
	if err != nil {
		return err
	}
	w.cl.Produce(w.ctx, &kgo.Record{Topic: checkpoint.Topic, Key: []byte(cp.Capture), Value: value}, w.promise)
	return w.flush(ctx)
}

func (w *Writer) flush(ctx context.Context) error {
	if err := w.cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush records: %w", err)
	}
	return w.failed()
}

// Close gives up what was not committed and disconnects.
func (w *Writer) Close() error {
	if t, ok := w.delivery.(*transactional); ok {
		t.abort()
	}
	w.cancel()
	w.cl.Close()
	if w.kept != nil {
		return w.kept.store.Close()
	}
	return nil
}

func fenced(err error) error {
	if errors.Is(err, ErrFenced) {
		return err
	}
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) {
		return fmt.Errorf("%w: %w", ErrFenced, err)
	}
	return err
}

// appendSeq appends the part of a sequence before the ordinal: 8 hex digits of the epoch, the source's order, with dots.
func appendSeq(b []byte, epoch uint32, order []byte) []byte {
	const hex = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hex[epoch>>shift&15])
	}
	b = append(b, '.')
	b = append(b, order...)
	return append(b, '.')
}
