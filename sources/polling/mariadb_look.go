package polling

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"weft/sources"
)

// look is what was seen of the server's open work at one time. A row's time is that of the start of the statement that wrote it,
// so that of any work it is enough to know a time before which none of its statements began:
//
//   - A running statement tells how long it runs.
//   - A transaction that was open at the look before has the same bound as then.
//   - One that was not began with a statement that ran at the look before, whose start is known, or with one that began later.
//
// When a transaction is said to have started is of no use: a statement that waits for a lock on the table's definition has its
// time long before its transaction starts. Neither is one look enough, after a restart: what is open then is bounded by the
// position.
type look struct {
	clockReading
	horizon int64 // every row with an earlier time is there

	statements   map[int64]int64  // thread to bound, of running statements
	transactions map[uint64]int64 // id to bound, of those that have written
}

const (
	// firstLook, in microseconds, is how long before its transaction starts a statement may have begun where there was no look
	// before, at the very start of a capture.
	firstLook = 60_000_000
	// readOnlyIDs begin where transactions have no number of their own, and have written nothing.
	readOnlyIDs = 1 << 48
)

// startedUTC is when a transaction started, in our session's time zone; the server tells it in its own.
const startedUTC = "CONVERT_TZ(TRX_STARTED, 'SYSTEM', '+00:00')"

const oldAnswer = "the server gives an old answer, since something else asks for information_schema.INNODB_TRX more often than every 100 ms"

// look moves the horizon. Where the server's clock was put back, it returns the time from which rows are to be read once more.
func (d *mariadbDialect) look(ctx context.Context) (back int64, err error) {
	// Asked sooner, the server gives its last answer again.
	if err := pause(ctx, time.Until(d.asked.Add(105*time.Millisecond))); err != nil {
		return 0, err
	}
	now := look{clockReading: clockReading{sent: time.Now()}, statements: map[int64]int64{}, transactions: map[uint64]int64{}}
	// The order matters: the clock, then statements, then transactions. What begins after the clock was read has a later time;
	// what began before and ended before it was looked for is committed, and the snapshot that is taken next shows it.
	if err := d.conn.QueryRowContext(ctx, "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)").Scan(&now.clock); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	now.received = time.Now()
	now.horizon = now.clock - clockMargin
	if err := d.lookAtStatements(ctx, &now); err != nil {
		return 0, err
	}
	before := d.looked
	fresh, err := d.lookAtTransactions(ctx, &now)
	if err != nil {
		return 0, err
	}
	if !fresh {
		// The horizon stays where it is until a look succeeds.
		if before.received.IsZero() {
			return 0, errors.New("look at open transactions: " + oldAnswer)
		}
		if now.received.Sub(before.received) > heldAfter && now.received.Sub(d.told) > heldAfter {
			d.told = now.received
			d.log.Warn("nothing is captured: "+oldAnswer, "since", now.received.Sub(before.received).Round(time.Second))
		}
		return 0, nil
	}
	back, by := now.putBack(before.clockReading)
	if back > 0 {
		d.log.Warn("the server's clock was put back; rows since then are read once more", "by", by.Round(100*time.Millisecond), "from", timeOf(back))
		now.horizon = min(now.horizon, back)
		before.horizon = now.horizon
	}
	// What the last look said stays true.
	now.horizon = max(now.horizon, before.horizon)
	d.looked, d.resumed = now, false
	return back, nil
}

// lookAtStatements bounds running statements, except our own.
func (d *mariadbDialect) lookAtStatements(ctx context.Context, now *look) error {
	rows, err := d.conn.QueryContext(ctx, `SELECT ID, `+d.flavour.applies+`, `+d.flavour.started+`
		FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN ('Sleep', 'Daemon') AND COMMAND NOT LIKE 'Binlog%'`)
	if err != nil {
		return fmt.Errorf("look at running statements: %w", err)
	}
	for rows.Next() {
		var thread, start int64
		var applies bool
		if err := rows.Scan(&thread, &applies, &start); err != nil {
			return errors.Join(fmt.Errorf("look at running statements: %w", err), rows.Close())
		}
		if applies {
			return errors.Join(sources.Fatal("let url lead to the primary", "the server is a replica, whose rows have the times of another server's clock"), rows.Close())
		}
		bound := start - clockMargin
		now.statements[thread] = bound
		now.horizon = min(now.horizon, bound)
	}
	return errors.Join(rows.Err(), rows.Close())
}

// lookAtTransactions bounds open transactions, prepared ones included. The server gives its last answer again for as long as it
// is asked within 100 ms of the question before, by anybody; that an answer is new is told by finding this very question in it.
func (d *mariadbDialect) lookAtTransactions(ctx context.Context, now *look) (fresh bool, err error) {
	const attempts = 5
	for range attempts {
		fresh, err := d.readTransactions(ctx, now)
		if err != nil || fresh {
			return fresh, err
		}
		// At random, so that two that wait for each other do not do so for ever.
		if err := pause(ctx, time.Duration(100+mathrand.IntN(200))*time.Millisecond); err != nil {
			return false, err
		}
	}
	return false, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (d *mariadbDialect) readTransactions(ctx context.Context, now *look) (fresh bool, err error) {
	// In a transaction of its own, so that it finds itself.
	if _, err := d.conn.ExecContext(ctx, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"); err != nil {
		return false, fmt.Errorf("look at open transactions: %w", err)
	}
	token := "weft-" + rand.Text()
	rows, err := d.conn.QueryContext(ctx, `SELECT TRX_ID, TRX_MYSQL_THREAD_ID, COALESCE(TRX_QUERY LIKE '%`+token+`%', 0),
		COALESCE(UNIX_TIMESTAMP(`+startedUTC+`), 0) FROM information_schema.INNODB_TRX`)
	if err != nil {
		return false, fmt.Errorf("look at open transactions: %w", err)
	}
	d.asked = time.Now()
	clear(now.transactions)
	for rows.Next() {
		var id uint64
		var thread, started int64
		var own bool
		if err := rows.Scan(&id, &thread, &own, &started); err != nil {
			return false, errors.Join(fmt.Errorf("look at open transactions: %w", err), rows.Close())
		}
		fresh = fresh || own
		if id > 0 && id < readOnlyIDs {
			now.transactions[id] = d.bound(id, thread, started)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return false, fmt.Errorf("look at open transactions: %w", err)
	}
	if _, err := d.conn.ExecContext(ctx, "ROLLBACK"); err != nil {
		return false, fmt.Errorf("look at open transactions: %w", err)
	}
	if fresh {
		for _, bound := range now.transactions {
			now.horizon = min(now.horizon, bound)
		}
	}
	return fresh, nil
}

// bound is a time before which no statement of an open transaction began; see look.
func (d *mariadbDialect) bound(id uint64, thread, started int64) int64 {
	before := d.looked
	if bound, ok := before.transactions[id]; ok {
		return bound
	}
	if bound, ok := before.statements[thread]; ok && thread != 0 {
		return bound
	}
	switch {
	case d.resumed:
		return before.horizon
	case before.received.IsZero():
		return started*1_000_000 - firstLook
	}
	return before.clock - clockMargin
}
