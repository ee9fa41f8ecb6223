package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink/fold"
	"weft/snapshot/archive"
	"weft/sources"
)

// Options say what to replay.
type Options struct {
	Client                  *kgo.Client
	Bucket                  *archive.Bucket // nil: from the log alone
	Capture, Topic, Dialect string
	Until                   Until
	// From is the ID of the archive to begin with; empty for the newest before the cut.
	From   string
	Filter *Filter
	// Partial replays without rows of which the log tells nothing before the cut although the table had them.
	Partial bool
	// Dir is where the fold keeps its state, "" for the system's temporary directory.
	Dir string
	// Memory is how much the fold may take, in bytes.
	Memory int64
	// Progress is told how many of how many are done; may be nil.
	Progress func(what string, done, all int64)
}

// Result says what was replayed, or would be.
type Result struct {
	Topic string `json:"topic"`
	// Below is the cut: changes whose sequences sort below it are in the result.
	Below string `json:"below"`
	// Archive is where it began; empty for the log's start.
	Archive string `json:"archive,omitempty"`
	// Changes were read from the log since.
	Changes int64 `json:"changes"`
	// Rows that the filter let through.
	Rows int64 `json:"rows"`
	// Resumed of them were there already from an earlier run.
	Resumed int64 `json:"resumed,omitempty"`
}

// Target takes rows.
type Target interface {
	// Begin is called before the first row; each runs over the rows that will come, for a target that must know them
	// before.
	Begin(ctx context.Context, r *Result, each func(func(*fold.Image) error) error) error
	Write(ctx context.Context, image *fold.Image) error
	// End makes what was written whole. A target that is not ended holds nothing that counts as whole.
	End(ctx context.Context) error
}

// Run replays to a target; a nil one is a dry run, which counts.
func Run(ctx context.Context, o Options, to Target) (r *Result, err error) {
	topic, err := archive.Look(ctx, o.Client, o.Capture, o.Topic)
	if err != nil {
		return nil, err
	}
	archives, err := o.archives(ctx)
	if err != nil {
		return nil, err
	}
	below, from, err := resolve(ctx, topic, o.Until, archives)
	if err != nil {
		return nil, reachable(err, topic, archives)
	}
	if o.From != "" && from == nil {
		return nil, sources.Fatal("name an older archive, or leave --from out", "archive %s is beyond --until", o.From)
	}
	r = &Result{Topic: o.Topic, Below: below}
	if from != nil {
		r.Archive = from.ID
	}
	each, end, err := o.image(ctx, topic, from, below, r)
	if err != nil {
		return nil, reachable(err, topic, archives)
	}
	defer func() { err = errors.Join(err, end()) }()
	return r, o.pour(ctx, r, each, to)
}

// archives that may be begun with, newest first.
func (o *Options) archives(ctx context.Context) ([]*archive.Manifest, error) {
	if o.Bucket == nil {
		if o.From != "" {
			return nil, sources.Fatal("set archives.bucket", "--from %s: the configuration has no bucket", o.From)
		}
		return nil, nil
	}
	var all []*archive.Manifest
	var err error
	if o.From != "" {
		var m *archive.Manifest
		if m, err = o.Bucket.Manifest(ctx, o.From); m != nil {
			all = append(all, m)
		}
	} else {
		all, err = o.Bucket.List(ctx, o.Topic)
	}
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if err := m.Belongs(o.Capture, o.Topic, o.Dialect); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// reachable adds to a LostError from when on the table can be brought back.
func reachable(err error, t *archive.Topic, archives []*archive.Manifest) error {
	var lost *archive.LostError
	if !errors.As(err, &lost) {
		return err
	}
	lost.Remedy = "there is no archive that the log still goes on from: a replay is possible once a snapshot of the table has been archived"
	if len(archives) > 0 {
		lost.Remedy = fmt.Sprintf("a replay is possible of what archives hold as they are, such as --until %s for %s", archives[0].Seq, archives[0].ID)
	}
	for i := len(archives) - 1; i >= 0; i-- { // the oldest that the log goes on from
		if _, err := t.From(archives[i]); err == nil {
			lost.Remedy = fmt.Sprintf("a replay is possible from %s on (archive %s, --until %s)", archives[i].NewestChange.Format("2006-01-02T15:04:05.999999Z07:00"), archives[i].ID, archives[i].Seq)
			break
		}
	}
	return err
}

// image returns what runs over the rows at the cut, as often as it is called. An archive that no change follows is read as
// it is; otherwise archive and changes are folded.
func (o *Options) image(ctx context.Context, t *archive.Topic, from *archive.Manifest, below string, r *Result) (each func(func(*fold.Image) error) error, end func() error, err error) {
	if from != nil && (from.Below == below || from.Seq != "" && archive.Behind(from.Seq) == below) { // an image has whole transactions
		return func(fn func(*fold.Image) error) error { return o.Bucket.Each(ctx, from, o.Dir, fn) }, func() error { return nil }, nil
	}
	if from != nil {
		offsets, err := t.From(from)
		if err != nil {
			return nil, nil, err
		}
		some := false
		_, err = t.Scan(ctx, offsets, below, func(*archive.Record) error { some = true; return errFound })
		if err != nil && !errors.Is(err, errFound) {
			return nil, nil, err
		}
		if !some {
			return func(fn func(*fold.Image) error) error { return o.Bucket.Each(ctx, from, o.Dir, fn) }, func() error { return nil }, nil
		}
	}
	table, err := fold.NewOnDisk(o.Dir, o.Memory)
	if err != nil {
		return nil, nil, err
	}
	i := &archive.Image{Topic: t, Table: table, Bucket: o.Bucket, Dir: o.Dir, Progress: o.Progress}
	err = i.Build(ctx, from, below)
	if err == nil && from == nil {
		err = o.whole(ctx, t, table, i.Next, below)
	}
	if err != nil {
		return nil, nil, errors.Join(err, table.Close())
	}
	r.Changes = i.Changes
	return table.Each, table.Close, nil
}

func (o *Options) pour(ctx context.Context, r *Result, each func(func(*fold.Image) error) error, to Target) error {
	filtered := func(fn func(*fold.Image) error) error {
		seen := 0
		return each(func(image *fold.Image) error {
			if seen++; seen%1000 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if ok, err := o.Filter.Takes(image.Key, image.Columns); !ok || err != nil {
				return err
			}
			return fn(image)
		})
	}
	if to != nil {
		if err := to.Begin(ctx, r, filtered); err != nil {
			return err
		}
	}
	err := filtered(func(image *fold.Image) error {
		if r.Rows += int64(image.Count); r.Rows%1000 == 0 && o.Progress != nil {
			o.Progress("write", r.Rows, 0)
		}
		if to == nil {
			return nil
		}
		return to.Write(ctx, image)
	})
	if err != nil || to == nil {
		return err
	}
	return to.End(ctx)
}
