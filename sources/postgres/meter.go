package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

const (
	// meterInterval is how often the end of the server's log is read, for Lag.
	meterInterval = 5 * time.Second
	// tablesInterval is how often the tables are looked at for ones that the capture lacks.
	tablesInterval = 30 * time.Second
)

// Lag measures against the end of the server's log, which is read every few seconds.
func (s *source) Lag() sources.Lag {
	lag := sources.UnknownLag
	lag.CommitTime = s.commitTime.Load()
	lag.ReadAheadBytes, lag.ReadAheadLimit = s.queue.held()
	m := s.wal.Load()
	if m == nil {
		return lag
	}
	lag.RetainedBytes, lag.SafeBytes, lag.GrowthRate = m.retained, m.safe, m.rate
	if returned := s.returned.Load(); returned != 0 {
		lag.Bytes = max(0, int64(m.end)-int64(returned))
	}
	return lag
}

// walGrowth is a measure, when it was taken, and what it says beside the one before it.
type walGrowth struct {
	walMeasure
	at   time.Time
	rate float64 // bytes a second, smoothed; -1 before the second measure
}

// after sets the measure's rate by the one before it, which counts for as much as some thirty seconds.
func (g *walGrowth) after(before *walGrowth) {
	g.rate = -1
	if before == nil {
		return
	}
	seconds := g.at.Sub(before.at).Seconds()
	if seconds <= 0 {
		g.rate = before.rate
		return
	}
	g.rate = max(0, float64(int64(g.end)-int64(before.end))/seconds)
	if before.rate >= 0 {
		weight := min(1, seconds/30)
		g.rate = weight*g.rate + (1-weight)*before.rate
	}
}

// startMeter starts the goroutine that Close ends.
func (s *source) startMeter() {
	var ctx context.Context
	ctx, s.stopMeter = context.WithCancel(context.Background())
	go s.meter(ctx)
}

// meter reads the end of the log until ctx ends, what is visible, and now and then the tables. While that fails, the lag is
// unknown.
func (s *source) meter(ctx context.Context) {
	defer close(s.meterDone)
	end, seen, tables := time.NewTicker(meterInterval), time.NewTicker(seenInterval), time.NewTicker(s.tablesInterval)
	defer end.Stop()
	defer seen.Stop()
	defer tables.Stop()
	warned := map[uint32]bool{}
	s.measure(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			s.measure(ctx)
		case <-seen.C:
			s.look(ctx)
		case <-tables.C:
			s.warnOfTables(ctx, warned)
		}
	}
}

func (s *source) measure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, meterInterval)
	defer cancel()
	m, err := s.catalog.measureWAL(ctx, s.config.Slot)
	if err != nil {
		s.wal.Store(nil)
		return
	}
	g := &walGrowth{walMeasure: m, at: time.Now()}
	g.after(s.wal.Load())
	s.wal.Store(g)
}

// warnOfTables warns once of each table that matches the capture's patterns and is not in the publication, which only
// Open extends: a table that was made or renamed since.
func (s *source) warnOfTables(ctx context.Context, warned map[uint32]bool) {
	query, cancel := context.WithTimeout(ctx, tablesInterval)
	defer cancel()
	lacking, err := s.lackingTables(query)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("cannot look for tables that the capture lacks; trying again", "error", err)
		}
		return
	}
	for _, t := range lacking {
		if warned[t.oid] {
			continue
		}
		warned[t.oid] = true
		var details []any
		if err := t.check(s.set.keys[t.String()]); err != nil {
			details = []any{"refused_until_mended", err}
		}
		s.log.Warn("table "+t.String()+" matches tables and is not captured; restart the capture to add it: what is written until "+
			"then is not captured", details...)
	}
}

// lackingTables reads the tables first: one that gets into the publication meanwhile is then not missed there.
func (s *source) lackingTables(ctx context.Context) (lacking []*catalogTable, err error) {
	err = s.catalog.do(ctx, func(conn *pgx.Conn) error {
		all, err := readTables(ctx, conn)
		if err != nil {
			return err
		}
		p, err := readPublication(ctx, conn, s.config.Publication, s.capture, s.server.version)
		if err != nil {
			return err
		}
		lacking = p.lacking(s.set.today(all))
		return nil
	})
	return lacking, err
}
