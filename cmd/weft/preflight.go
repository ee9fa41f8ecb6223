package main

import (
	"context"
	"errors"
	"slices"

	"weft/configs"
	"weft/sink"
	"weft/sources"
)

// preflight is the check of a capture before it runs. What blocks fails it, all at once; what may pass, such as a server that
// does not answer, is left to the capture, which tries again. Warnings are logged, once each. It looks until it has seen
// everything, and then no more. What a checkpoint has to do with it is for the source to say when it is opened.
func preflight(c *configs.Config, cc configs.Capture, writer sink.Options, warn func(msg string, args ...any)) func(context.Context) error {
	done := false
	said := map[string]bool{}
	return func(ctx context.Context) error {
		if done {
			return nil
		}
		cl, err := writer.Log.Client()
		if err != nil {
			return err
		}
		defer cl.Close()
		log := &writer
		within, cancel := context.WithTimeout(ctx, checkTime/2)
		defer cancel()
		o := sources.CheckOptions{PositionUnknown: true, Captures: namesOf(c.Captures)}
		if cl.Ping(within) != nil { // the capture will tell, and try again
			log = nil
		} else if all, err := knownCaptures(within, c, cl); err == nil { // likewise
			o.Captures = all.names()
		}
		found := checkCapture(ctx, cc, o, cl, log)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var blocking []error
		for _, f := range found {
			switch {
			case f.Blocks:
				blocking = append(blocking, sources.Fatal(f.Remedy, "%s: %s", f.Subject, f.Text))
			case f.Level != sources.OK && f.Remedy != "" && !said[f.Subject+f.Text]: // without a remedy it is an error that the capture will tell
				said[f.Subject+f.Text] = true
				warn(f.Subject+": "+f.Text, "remedy", f.Remedy)
			}
		}
		done = log != nil && len(blocking) == 0 && !slices.ContainsFunc(found, func(f sources.Finding) bool { return f.Level == sources.Problem })
		return errors.Join(blocking...)
	}
}
