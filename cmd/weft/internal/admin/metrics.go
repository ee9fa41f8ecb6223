package admin

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/cmd/weft/internal/pipeline"
)

var states = []pipeline.State{pipeline.Starting, pipeline.Running, pipeline.Retrying, pipeline.Failed, pipeline.Stopped}

// metric is a metric of one capture, with no other label. ok is false where it is not known at the moment.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(c Capture, now time.Time) (v float64, ok bool)
}

func known(v float64) (float64, bool) { return v, v >= 0 }

var metrics = []metric{
	{"weft_capture_ready", "1 while what the datastore commits comes into the log, or there is nothing to bring.", prometheus.GaugeValue,
		func(c Capture, now time.Time) (float64, bool) {
			if obstacle(c, now) != "" {
				return 0, true
			}
			return 1, true
		}},
	{"weft_capture_lag_seconds", "The log holds all that the datastore committed until so many seconds ago. 0 while there is nothing more to read.", prometheus.GaugeValue,
		func(c Capture, now time.Time) (float64, bool) {
			if c.State == pipeline.Running && c.Idle {
				return 0, true
			}
			return max(0, now.Sub(c.Complete).Seconds()), !c.Complete.IsZero()
		}},
	{"weft_capture_lag_bytes", "Bytes of the datastore's own log that were not yet read.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return known(float64(c.Lag.Bytes)) }},
	{"weft_capture_changes_total", "Changes committed to the log since the daemon's start.", prometheus.CounterValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Figures.Changes), true }},
	{"weft_capture_record_bytes_total", "Bytes of keys, values and sequences committed to the log since the daemon's start, before compression.", prometheus.CounterValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Bytes), true }},
	{"weft_snapshot_rows_total", "Rows that snapshots have committed to the log since the daemon's start.", prometheus.CounterValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Rows), true }},
	{"weft_snapshot_tables_remaining", "Tables that the snapshot under way has not read to their ends; 0 without one.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) {
			if !c.Snapshot.Running() {
				return 0, true
			}
			n := 0
			for i := range c.Snapshot.Tables {
				if !c.Snapshot.Tables[i].Done {
					n++
				}
			}
			return float64(n), true
		}},
	{"weft_archives_failing", "Topics whose last attempt to be archived failed; weft status says why.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Unarchived), true }},
	{"weft_capture_starts_total", "Tries to run the capture; all but the first followed an error.", prometheus.CounterValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Starts), true }},
	{"weft_capture_epoch", "The capture's epoch. It grows by one at each gap.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.Epoch), c.Epoch > 0 }},
	{"weft_capture_last_commit_timestamp_seconds", "When the last commit to the log ended, or the source was opened, as Unix time.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) {
			return float64(c.Progressed.UnixNano()) / 1e9, !c.Progressed.IsZero()
		}},
	{"weft_capture_produce_buffer_bytes", "Bytes of records on their way to the brokers.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.BufferedBytes), c.BufferLimit > 0 }},
	{"weft_capture_produce_buffer_limit_bytes", "The bound of weft_capture_produce_buffer_bytes.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return float64(c.BufferLimit), c.BufferLimit > 0 }},
	{"weft_capture_read_ahead_bytes", "Bytes read from the datastore and not yet handled.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return known(float64(c.Lag.ReadAheadBytes)) }},
	{"weft_capture_read_ahead_limit_bytes", "The bound of weft_capture_read_ahead_bytes.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return known(float64(c.Lag.ReadAheadLimit)) }},
	{"weft_slot_retained_bytes", "Bytes of its log that the database keeps for the capture's replication slot.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return known(float64(c.Lag.RetainedBytes)) }},
	{"weft_slot_safe_bytes", "Bytes that the database may write before it invalidates the slot. Absent where max_slot_wal_keep_size sets no limit.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) { return known(float64(c.Lag.SafeBytes)) }},
	{"weft_slot_seconds_until_invalidation", "How long weft_slot_safe_bytes last at the rate at which the database has lately written, if the capture stood still. Absent without a limit or a rate.", prometheus.GaugeValue,
		func(c Capture, _ time.Time) (float64, bool) {
			return float64(c.Lag.SafeBytes) / c.Lag.GrowthRate, c.Lag.SafeBytes >= 0 && c.Lag.GrowthRate > 0
		}},
}

var (
	stateDesc  = prometheus.NewDesc("weft_capture_state", "1 for the state that the capture is in, 0 for the others.", []string{"capture", "state"}, nil)
	commitDesc = prometheus.NewDesc("weft_capture_commit_duration_seconds", "How long the log took to commit.", []string{"capture"}, nil)
	buildDesc  = prometheus.NewDesc("weft_build_info", "1; the label is the version.", []string{"version"}, nil)
	descs      = func() map[string]*prometheus.Desc {
		all := map[string]*prometheus.Desc{}
		for _, m := range metrics {
			all[m.name] = prometheus.NewDesc(m.name, m.help, []string{"capture"}, nil)
		}
		return all
	}()
)

// collector makes the metrics of the figures when it is asked for them.
type collector struct {
	version  string
	captures func() (all []Capture, known bool)
	now      func() time.Time
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
	ch <- stateDesc
	ch <- commitDesc
	ch <- buildDesc
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, c.version)
	now := c.now()
	all, _ := c.captures()
	for _, one := range all {
		for _, m := range metrics {
			if v, ok := m.value(one, now); ok {
				ch <- prometheus.MustNewConstMetric(descs[m.name], m.kind, v, one.Capture)
			}
		}
		for _, state := range states {
			v := 0.0
			if one.State == state {
				v = 1
			}
			ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, v, one.Capture, string(state))
		}
		buckets, sum := map[float64]uint64{}, uint64(0)
		for i, bound := range pipeline.CommitBounds {
			sum += uint64(one.CommitBuckets[i])
			buckets[bound] = sum
		}
		sum += uint64(one.CommitBuckets[len(pipeline.CommitBounds)])
		ch <- prometheus.MustNewConstHistogram(commitDesc, sum, one.CommitTime.Seconds(), buckets, one.Capture)
	}
}
