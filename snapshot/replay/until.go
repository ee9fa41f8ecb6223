package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"weft/snapshot/archive"
	"weft/sources"
)

// Until says where to cut. The zero Until is the newest checkpoint.
type Until struct {
	// Time: what was committed at the datastore up to then, up to the first transaction that was not.
	Time time.Time
	// Seq of a record: up to and with its transaction.
	Seq string
	// Offset of a record, where At is set: up to and with its transaction.
	At        bool
	Partition int32
	Offset    int64
}

// ParseUntil reads a time (RFC 3339, or 2026-02-28 12:34:56 in UTC), a sequence as in weft-seq, or PARTITION:OFFSET.
func ParseUntil(text string) (Until, error) {
	if text == "" {
		return Until{}, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(form, text); err == nil {
			return Until{Time: t.UTC()}, nil
		}
	}
	if p, o, ok := strings.Cut(text, ":"); ok {
		partition, err := strconv.ParseInt(p, 10, 32)
		offset, err2 := strconv.ParseInt(o, 10, 64)
		if err == nil && err2 == nil && partition >= 0 && offset >= 0 {
			return Until{At: true, Partition: int32(partition), Offset: offset}, nil
		}
	}
	if parts := strings.Split(text, "."); len(parts) >= 3 && len(parts[0]) == 8 && len(parts[len(parts)-1]) == 1 {
		return Until{Seq: text}, nil
	}
	return Until{}, fmt.Errorf("--until %q is no time (2026-02-28T12:34:56Z), no sequence (source.seq of a record), and no PARTITION:OFFSET", text)
}

// resolve finds the cut and the newest archive that is not beyond it. Of the archives, newest first, it takes the first that
// holds nothing of what is above the cut.
func resolve(ctx context.Context, t *archive.Topic, u Until, archives []*archive.Manifest) (below string, from *archive.Manifest, err error) {
	newest := archive.CutOf(t.Checkpoint)
	switch {
	case u.At:
		if below, err = cutAtOffset(ctx, t, u); err != nil {
			return "", nil, err
		}
		below = min(below, newest)
	case u.Seq != "":
		if below = archive.Behind(u.Seq); below > newest {
			return "", nil, sources.Fatal("leave --until out for the newest state", "sequence %s is above what is committed, %s", u.Seq, t.Checkpoint.Seq)
		}
	case u.Time.IsZero():
		below = newest
	default:
		return resolveTime(ctx, t, u.Time, newest, archives)
	}
	for _, m := range archives {
		if m.Below <= below {
			return below, m, nil
		}
	}
	return below, nil, nil
}

// resolveTime looks for the first transaction after the time, in the changes since the newest archive without any.
func resolveTime(ctx context.Context, t *archive.Topic, until time.Time, newest string, archives []*archive.Manifest) (below string, from *archive.Manifest, err error) {
	for _, m := range archives {
		if !m.NewestChange.After(until) {
			from = m
			break
		}
	}
	offsets, err := t.From(from)
	if err != nil {
		return "", from, err
	}
	below = newest
	_, err = t.Scan(ctx, offsets, newest, func(r *archive.Record) error {
		if r.Kafka.Value != nil && r.Seq < below && archive.CommitTime(r.Kafka).After(until) {
			below = archive.Before(r.Seq)
		}
		return nil
	})
	if err == nil && from != nil && from.Below > below { // commit times of an earlier transaction may be later
		below = from.Below
	}
	return below, from, err
}

var errFound = errors.New("found")

// cutAtOffset is behind the transaction of the record at an offset.
func cutAtOffset(ctx context.Context, t *archive.Topic, u Until) (below string, err error) {
	if int(u.Partition) >= len(t.Ends) || u.Offset >= t.Ends[u.Partition] || u.Offset < t.Starts[u.Partition] {
		return "", sources.Fatal("weft tail prints partitions and offsets", "topic %q has no offset %d in partition %d", t.Name, u.Offset, u.Partition)
	}
	from := append([]int64(nil), t.Ends...)
	from[u.Partition] = u.Offset
	_, err = t.Scan(ctx, from, "~", func(r *archive.Record) error {
		below = archive.Behind(r.Seq)
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return "", err
	}
	if below == "" {
		below = archive.CutOf(t.Checkpoint)
	}
	return below, nil
}
