package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/snapshot/replay"
)

func tailCommand(a *app) *cobra.Command {
	var from string
	var keys []string
	var exitAtEnd bool
	cmd := &cobra.Command{
		Use:   "tail TOPIC",
		Short: "Print a topic's committed records, one JSON a line, as they come",
		Args:  takes("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" {
				from = "end"
				if exitAtEnd {
					from = "start"
				}
			}
			if from != "start" && from != "end" {
				return &exitError{exitUsage, fmt.Errorf("--from %q: must be start or end", from)}
			}
			var filter *replay.Filter
			if len(keys) > 0 {
				var err error
				if filter, err = replay.NewFilter(keys, ""); err != nil {
					return &exitError{exitUsage, err}
				}
			}
			return a.reading(func(r *reader) error {
				return a.tail(cmd.Context(), r.cl, args[0], filter, from == "start", exitAtEnd)
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "where to begin: start or end (default end, with --exit-at-end start)")
	cmd.Flags().StringArrayVar(&keys, "key", nil, `only the records with this key, as JSON: '{"id":17}', or 17; may be repeated`)
	cmd.Flags().BoolVar(&exitAtEnd, "exit-at-end", false, "stop at what is the topic's end now, instead of waiting for more")
	return cmd
}

func (a *app) tail(ctx context.Context, cl *kgo.Client, topic string, filter *replay.Filter, fromStart, exitAtEnd bool) error {
	show := func(r *kgo.Record) error {
		if filter != nil && r.Key == nil {
			return nil
		}
		if filter != nil && len(r.Key) > 0 { // a truncate, whose key is empty, concerns every row
			if ok, err := filter.Takes(r.Key, nil); !ok || err != nil {
				return err
			}
		}
		return printRecord(a.stdout, r)
	}
	starts, ends, err := checkpoint.Bounds(ctx, cl, topic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return &exitError{exitNotSo, fmt.Errorf("topic %q does not exist; a table's topic is made at its first change", topic)}
	}
	if err != nil {
		return failed(err)
	}
	if !fromStart {
		starts = ends
	}
	if !exitAtEnd {
		return failed(checkpoint.Follow(ctx, cl, topic, starts, show))
	}
	for p, end := range ends {
		if err := checkpoint.Scan(ctx, cl, topic, int32(p), starts[p], end, show); err != nil {
			return failed(err)
		}
	}
	return nil
}

// printRecord writes a record as one line. Key and value stand as JSON if they are, else as text; else, with invalid
// UTF-8, as base64 under key_base64 and value_base64.
func printRecord(w io.Writer, r *kgo.Record) error {
	line := struct {
		Topic       string            `json:"topic"`
		Partition   int32             `json:"partition"`
		Offset      int64             `json:"offset"`
		Timestamp   string            `json:"timestamp"`
		Key         json.RawMessage   `json:"key"`
		Value       json.RawMessage   `json:"value"`
		KeyBase64   []byte            `json:"key_base64,omitempty"`
		ValueBase64 []byte            `json:"value_base64,omitempty"`
		Headers     map[string]string `json:"headers,omitempty"`
	}{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z")}
	line.Key, line.KeyBase64 = printable(r.Key)
	line.Value, line.ValueBase64 = printable(r.Value)
	if len(r.Headers) > 0 {
		line.Headers = make(map[string]string, len(r.Headers))
		for _, h := range r.Headers {
			line.Headers[h.Key] = string(h.Value)
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line); err != nil {
		return fmt.Errorf("print %s[%d] offset %d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	_, err := w.Write(buf.Bytes())
	return err
}

func printable(b []byte) (text json.RawMessage, other []byte) {
	switch {
	case b == nil:
		return json.RawMessage("null"), nil
	case len(b) > 0 && json.Valid(b):
		return b, nil
	case utf8.Valid(b):
		quoted, err := json.Marshal(string(b))
		if err == nil {
			return quoted, nil
		}
	}
	return json.RawMessage("null"), b
}
