package spanner

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/sources"
)

// explain tells what retrying would not mend from what it may.
func (c *Config) explain(err error) error {
	var fatal *sources.FatalError
	var gap *sources.GapError
	if err == nil || errors.As(err, &fatal) || errors.As(err, &gap) || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, errMutableKeyRange) {
		return errMode(c.Stream)
	}
	text := status.Convert(errors.Unwrap(err)).Message()
	switch code := codeOf(err); code {
	case codes.OutOfRange:
		return &sources.GapError{
			Reason: fmt.Sprintf("the change stream %s no longer has, or never had, the changes since the checkpoint: %v", c.Stream, err),
			Remedy: "set on_gap: continue, which goes on from now in a new epoch; a longer retention_period of the change stream, up to 7d, " +
				"allows longer stops",
		}
	case codes.InvalidArgument:
		if strings.Contains(strings.ToLower(text+err.Error()), "partition") {
			return &sources.GapError{
				Reason: fmt.Sprintf("the change stream %s does not know the checkpoint's partitions, so that it was dropped and created anew: %v", c.Stream, err),
				Remedy: "set on_gap: continue, which goes on from now in a new epoch",
			}
		}
		return sources.Fatal("create the change stream again, or correct the capture's stream", "the change stream %s cannot be read: %w", c.Stream, err)
	case codes.NotFound:
		if strings.Contains(strings.ToLower(text+err.Error()), "stream not found") {
			return sources.Fatal(fmt.Sprintf("create the change stream %s again and set on_gap: continue, since what was changed meanwhile is not in it; "+
				"or correct the capture's stream", c.Stream), "the change stream %s was dropped: %w", c.Stream, err)
		}
		return sources.Fatal("correct the capture's database", "%w", err)
	case codes.PermissionDenied, codes.Unauthenticated:
		return sources.Fatal("grant the role roles/spanner.databaseReader on the database to the account that this process runs as, "+
			"or name another account's credentials_file", "%w", err)
	}
	return err
}

func codeOf(err error) codes.Code {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := status.FromError(e); ok {
			return s.Code()
		}
	}
	return codes.Unknown
}

func errMode(stream string) error {
	return sources.Fatal("create another change stream for the same tables without partition_mode, and name it in the capture",
		"the change stream %s has partition_mode MUTABLE_KEY_RANGE, which this source does not read", stream)
}
