package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// maxStatusInterval is the longest time between two status updates; a third of wal_sender_timeout where that is less.
	maxStatusInterval = 10 * time.Second
	// tick is how often the reader looks whether there is something newer to confirm.
	tick = time.Second
	// nudge is how long after something was received a status update is sent that would not be due. A server of version 16
	// or newer may miss that there is more to send while it prepares to sleep, and then sleeps for 10 s unless it hears
	// from us (measured on 18.3: in 1 of 15 transactions that follow another at once).
	nudge = 50 * time.Millisecond
	// replyInterval is the least time between two replies that confirm nothing new. A server that shuts down asks again as
	// soon as it has an answer, until everything is confirmed.
	replyInterval = 100 * time.Millisecond
	// silenceLimit is how long a server may say nothing, not even after it was asked, before the connection counts as dead.
	silenceLimit = time.Minute
)

// errClosed is why a queue has no more frames after Close.
var errClosed = errors.New("the source is closed")

// errNoPublication is a server's warning that it skips a publication.
var errNoPublication = errors.New("the server skips the publication")

// reader owns a replication connection from START_REPLICATION on.
type reader struct {
	conn     *pgconn.PgConn
	queue    *queue
	interval time.Duration

	durable atomic.Uint64 // confirmed to the server by the next status update
	pressed atomic.Bool   // the server waits for more to be confirmed
	stop    chan struct{}
	done    chan struct{}

	// Of the goroutine run alone.
	sent      uint64
	sentAt    time.Time
	owed      bool // a reply that replyInterval holds back
	heard     bool // something was received since the last tick
	news      bool // and it was more than a repeated keepalive
	idling    bool // the deadline is a tick away, not a nudge
	idleEnd   lsn  // of the last keepalive
	silentFor time.Time
}

// startReader asks the server to send what follows start and begins to receive it.
func startReader(ctx context.Context, conn *pgconn.PgConn, q *queue, c Config, start lsn, senderTimeout time.Duration) (*reader, error) {
	err := pglogrepl.StartReplication(ctx, conn, quoteIdent(c.Slot), pglogrepl.LSN(start), pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'",
			"publication_names '" + strings.ReplaceAll(quoteIdent(c.Publication), "'", "''") + "'",
			"messages 'true'",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start replication of slot %s at %s: %w", c.Slot, start, err)
	}
	r := &reader{conn: conn, queue: q, interval: maxStatusInterval, stop: make(chan struct{}), done: make(chan struct{})}
	if senderTimeout > 0 {
		r.interval = min(r.interval, senderTimeout/3)
	}
	r.durable.Store(uint64(start))
	r.silentFor = time.Now()
	go r.run()
	return r, nil
}

// confirm lets the server release what ends at or before l. It may be called by any goroutine.
func (r *reader) confirm(l lsn) {
	for {
		old := r.durable.Load()
		if uint64(l) <= old {
			return
		}
		if r.durable.CompareAndSwap(old, uint64(l)) {
			break
		}
	}
	if r.pressed.Load() {
		r.wake()
	}
}

// wake makes a receive that is blocked return at once. A deadline may be set while another goroutine reads.
func (r *reader) wake() {
	// An error means that the connection is closed, which the receive finds out by itself.
	_ = r.conn.Conn().SetReadDeadline(time.Unix(1, 0))
}

// close sends a last status update and ends the connection.
func (r *reader) close() error {
	close(r.stop)
	_ = r.conn.Conn().SetWriteDeadline(time.Now().Add(2 * time.Second))
	r.wake()
	<-r.done
	return closeConn(r.conn)
}

func (r *reader) run() {
	defer close(r.done)
	r.queue.close(r.receive())
}

func (r *reader) receive() error {
	if err := r.onTick(); err != nil {
		return err
	}
	for {
		// The deadline of the connection bounds the wait: a context would cost a goroutine's work a frame.
		msg, err := r.conn.ReceiveMessage(context.Background())
		if err != nil {
			if !pgconn.Timeout(err) {
				return fmt.Errorf("receive from the server: %w", err)
			}
			if err := r.onTick(); err != nil {
				return err
			}
			continue
		}
		r.heard = true
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if err := r.copyData(msg.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("the server ended the stream: %w", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.NoticeResponse:
			// PostgreSQL 18 only warns of a publication that is missing, and sends nothing of its tables.
			if msg.Code == codeNotInState {
				return fmt.Errorf("%w: %s", errNoPublication, msg.Message)
			}
		case *pgproto3.CopyDone:
			return errors.New("the server ended the stream")
		}
	}
}

func (r *reader) copyData(data []byte) error {
	if len(data) == 0 {
		return errors.New("receive from the server: empty CopyData message")
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("receive from the server: %w", err)
		}
		if err := r.put(frame{walStart: lsn(x.WALStart), sent: x.ServerTime.UnixMicro(), data: x.WALData}); err != nil {
			return err
		}
		return r.onNews()
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("receive from the server: %w", err)
		}
		pressed := k.ReplyRequested && uint64(k.ServerWALEnd) > r.durable.Load()
		r.pressed.Store(pressed)
		r.queue.keepalive(lsn(k.ServerWALEnd), pressed)
		if k.ReplyRequested {
			r.owed = true
			return r.onTick()
		}
		if lsn(k.ServerWALEnd) == r.idleEnd {
			return nil
		}
		r.idleEnd = lsn(k.ServerWALEnd)
		return r.onNews()
	}
	return fmt.Errorf("receive from the server: unknown message %q in the stream", data[0])
}

// onNews sees to it that the server is nudged.
func (r *reader) onNews() error {
	r.news = true
	if !r.idling {
		return nil
	}
	return r.onTick()
}

// put waits for room in the queue, and keeps the server content meanwhile.
func (r *reader) put(f frame) error {
	var kind byte
	if len(f.data) > 0 {
		kind = f.data[0]
	}
	for !r.queue.put(f, kind) {
		r.queue.awaitSpace(min(r.interval, tick), r.stop)
		if err := r.onTick(); err != nil {
			return err
		}
		r.heard = true // nothing is received here, so silence means nothing
	}
	return nil
}

// onTick sends a status update when one is due, and sets the deadline at which the next may be. It returns errClosed when the
// source is closed.
func (r *reader) onTick() error {
	now := time.Now()
	wait := min(r.interval, tick)
	nudging := r.news && !r.idling
	switch {
	case r.owed && now.Sub(r.sentAt) < replyInterval:
		wait = replyInterval
	case r.news && !nudging:
		wait = nudge
	}
	r.idling = wait > nudge
	// First the deadline, then a look at what others have set: whoever sets it afterwards cuts the wait short.
	if err := r.conn.Conn().SetReadDeadline(now.Add(wait)); err != nil {
		return fmt.Errorf("receive from the server: %w", err)
	}
	durable := r.durable.Load()
	select {
	case <-r.stop:
		if err := r.send(now, durable, false); err != nil {
			return err
		}
		return errClosed
	default:
	}
	if r.heard {
		r.heard, r.silentFor = false, now
	}
	silent := now.Sub(r.silentFor)
	if silent > max(silenceLimit, 2*r.interval) {
		return fmt.Errorf("the server has said nothing for %s", silent.Round(time.Second))
	}
	if nudging || durable != r.sent || now.Sub(r.sentAt) >= r.interval || r.owed && now.Sub(r.sentAt) >= replyInterval {
		return r.send(now, durable, silent > r.interval)
	}
	return nil
}

// send confirms what is durable as written, flushed and applied alike.
func (r *reader) send(now time.Time, durable uint64, ask bool) error {
	l := pglogrepl.LSN(durable)
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), r.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: l, WALFlushPosition: l, WALApplyPosition: l, ClientTime: now, ReplyRequested: ask,
	})
	if err != nil {
		return fmt.Errorf("confirm %s to the server: %w", lsn(durable), err)
	}
	r.sent, r.sentAt, r.owed, r.news = durable, now, false, false
	return nil
}

// streamGap tells by the server's error whether the slot has become useless. Nil: it has not, and a retry may help.
func streamGap(err error, c continuation) error {
	switch {
	case codeOf(err) == codeUndefinedFile:
		return c.gap("the server has removed log that slot %s needs: %v", c.slotName, err)(c.replacement())
	case codeOf(err) == codeUndefinedObject, errors.Is(err, errNoPublication):
		return c.gap("publication %s was dropped, or made after the changes that slot %s still holds, which the server then cannot "+
			"decode: %v", c.publication, c.slotName, err)(c.replacement())
	}
	return nil
}
