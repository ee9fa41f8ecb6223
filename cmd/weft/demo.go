package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/cmd/weft/internal/demo"
	"weft/configs"
	"weft/sink"
)

// demoConfig is the config file that a user would write for it.
const demoConfig = `log:
  embedded: {dir: %q, listen: "127.0.0.1:0"}
topics: {prefix: shop, partitions: 3}
logging: {level: warn}
admin: {enabled: false}
captures:
  - name: shop
    source: {type: sqlite, path: %q, interval: 50ms}
    tables: [orders]
`

// demoTopic is where the demo's changes go.
const demoTopic = "shop." + demo.Table

func demoCommand(a *app) *cobra.Command {
	var lasts time.Duration
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job in one process: a shop on SQLite is captured into an embedded log",
		Long: `Show the main job in one process, with nothing to install: a small shop writes to a SQLite database while it is
captured into an embedded log; the changes are shown as they arrive; at the end what arrived is folded to a table and
compared with the shop's. Exit code 0 only if they are equal.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lasts <= 0 {
				return &exitError{exitUsage, fmt.Errorf("--for %s: must be above zero", lasts)}
			}
			return a.demo(cmd.Context(), lasts, dir)
		},
	}
	cmd.Flags().DurationVar(&lasts, "for", 10*time.Second, "how long the shop is open")
	cmd.Flags().StringVar(&dir, "dir", "", "keep database and log in this new directory (default: a temporary one, removed at the end)")
	return cmd
}

func (a *app) demo(ctx context.Context, lasts time.Duration, dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "weft-demo-"); err != nil {
			return failed(err)
		}
		defer os.RemoveAll(dir)
	} else if err := os.Mkdir(dir, 0o755); err != nil {
		return failed(fmt.Errorf("--dir must not exist yet: %w", err))
	}
	path := filepath.Join(dir, "shop.db")
	text := fmt.Sprintf(demoConfig, filepath.Join(dir, "log"), path)
	c, err := configs.Parse("demo.yaml", []byte(text), os.LookupEnv)
	if err != nil {
		return failed(err)
	}
	shop, err := demo.Open(ctx, path)
	if err != nil {
		return failed(err)
	}
	defer closing(shop.Close, &err)
	logger := a.logger(c.Logging)
	log, err := openLog(ctx, c.Log, logger)
	if err != nil {
		return failed(err)
	}
	defer closing(log.close, &err)
	fmt.Fprintf(a.stdout, "A shop writes to %s for %s; its table %s is captured into the embedded log at %s.\n\n", path, lasts, demo.Table, log.Brokers[0])

	// Ctrl-C closes the shop early; what it wrote must arrive all the same.
	closed := ctx
	ctx = context.WithoutCancel(ctx)
	capturing, stopCapture := context.WithCancel(ctx)
	captured := make(chan error, 1)
	go func() { captured <- runCaptures(capturing, c, log.Log, logger) }()
	err = a.openShop(ctx, closed, shop, c, log.Log, lasts)
	stopCapture()
	return errors.Join(err, failed(<-captured))
}

// openShop runs the shop beside its capture until closed ends, shows what arrives, and judges it.
func (a *app) openShop(ctx, closed context.Context, shop *demo.Shop, c *configs.Config, log *sink.Log, lasts time.Duration) error {
	cl, err := log.Client()
	if err != nil {
		return failed(err)
	}
	defer cl.Close()
	// The capture's first checkpoint is the opening bell.
	if err := await(ctx, 30*time.Second, func() (bool, error) {
		all, _, err := loadCheckpoints(ctx, cl)
		_, started := all[c.Captures[0].Name]
		return started, err
	}); err != nil {
		return failed(fmt.Errorf("the capture does not start: %w", err))
	}
	began := time.Now()
	writing, closeShop := context.WithTimeout(closed, lasts)
	defer closeShop()
	written := make(chan error, 1)
	go func() { written <- shop.Run(writing, 40*time.Millisecond) }()

	showing, stopShowing := context.WithCancel(ctx)
	shown := make(chan error, 1)
	go func() { shown <- a.show(showing, cl, began) }()
	err = <-written
	var want map[int64]map[string]any
	var got *demo.Arrived
	if err == nil {
		want, got, err = settle(ctx, shop, cl)
	}
	stopShowing()
	if err := errors.Join(err, <-shown); err != nil {
		return failed(err)
	}
	return a.verdict(shop, want, got)
}

// show prints the changes of the topic as they arrive, from the time that it exists.
func (a *app) show(ctx context.Context, cl *kgo.Client, began time.Time) error {
	err := await(ctx, 30*time.Second, func() (bool, error) {
		_, _, err := checkpoint.Bounds(ctx, cl, demoTopic)
		return err == nil, nil
	})
	if err != nil {
		return nil // the shop closed before its first write arrived; the judge says what that means
	}
	return checkpoint.Follow(ctx, cl, demoTopic, make([]int64, 3), func(r *kgo.Record) error {
		change, err := demo.Line(r.Value)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%8.3fs  %s[%d]@%-4d %s  %s\n", time.Since(began).Seconds(), r.Topic, r.Partition, r.Offset, r.Key, change)
		return err
	})
}

// settle returns the shop's table, and what the topic folds to once that is equal, or after ten seconds.
func settle(ctx context.Context, shop *demo.Shop, cl *kgo.Client) (want map[int64]map[string]any, got *demo.Arrived, err error) {
	if want, err = shop.Rows(ctx); err != nil {
		return nil, nil, err
	}
	err = await(ctx, 10*time.Second, func() (equal bool, err error) {
		got, err = demo.Read(ctx, cl, demoTopic)
		return err == nil && got.Difference(want) == "", err
	})
	if errors.Is(err, context.DeadlineExceeded) && got != nil {
		err = nil // the verdict names the difference
	}
	return want, got, err
}

func (a *app) verdict(shop *demo.Shop, want map[int64]map[string]any, got *demo.Arrived) error {
	fmt.Fprintf(a.stdout, "\n%d writes to %d orders; %d versions arrived (a poll sees the newest of a row), %d sequences twice.\n",
		shop.Writes, len(want), got.Changes, got.Twice)
	if difference := got.Difference(want); difference != "" || got.Twice > 0 || len(want) == 0 {
		return &exitError{exitNotSo, fmt.Errorf("the topic does not fold to the table: %s", difference)}
	}
	fmt.Fprintf(a.stdout, "The topic folds to exactly the table: %d rows, all columns equal.\n", len(want))
	return nil
}

// await asks done every 50 ms until it says so; after d it gives up.
func await(ctx context.Context, d time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
