package mongodb

import (
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"weft/sources"
)

// Codes of the server's errors that are not worth a retry
// (https://www.mongodb.com/docs/manual/reference/error-codes/).
const (
	codeBadValue           = 2
	codeFailedToParse      = 9
	codeUnauthorized       = 13
	codeTypeMismatch       = 14
	codeAuthentication     = 18
	codeNoMatchingDocument = 47
	codeInvalidOptions     = 72
	codeNotSupported       = 115
	codeSnapshotTooOld     = 239
	codeNoSnapshot         = 246
	codeInvalidToken       = 260
	codeChangeStreamFatal  = 280
	codeHistoryLost        = 286
	codeObjectTooLarge     = 10334
	codeUnknownStage       = 40324
	codeNeedsReplicaSet    = 40573
)

const growOplog = `db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 72})`

// codeOf is the server's code for an error, 0 where it is none of its.
func codeOf(err error) int32 {
	var command mongo.CommandError
	if errors.As(err, &command) {
		return command.Code
	}
	return 0
}

// classify says which errors of the server are gaps, and which somebody must mend; every other is worth a retry, as those
// of an election or a restart are.
func classify(doing string, err error) error {
	var command mongo.CommandError
	if !errors.As(err, &command) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch command.Code {
	case codeHistoryLost:
		return &sources.GapError{
			Reason: fmt.Sprintf("%s: the oplog no longer reaches back to the checkpoint (%s)", doing, command.Message),
			Remedy: "make the oplog reach further back than the longest outage, " + growOplog + ", then set on_gap: continue",
		}
	case codeChangeStreamFatal, codeInvalidToken:
		return &sources.GapError{
			Reason: fmt.Sprintf("%s: the server cannot resume at the checkpoint's token (%s): it is another server, one that was "+
				"restored, or the stream is opened on less than before", doing, command.Message),
			Remedy: "if scope or tables were narrowed put them back, else set on_gap: continue",
		}
	case codeObjectTooLarge:
		return sources.Fatal("set before: off, or full_document: off, until the capture is past the change",
			"%s: an event is larger than 16 MiB even when split: %w", doing, err)
	case codeNoMatchingDocument:
		return sources.Fatal("set full_document: when_available and before: when_available, or keep images for longer: "+
			`db.adminCommand({setClusterParameter: {changeStreamOptions: {preAndPostImages: {expireAfterSeconds: 259200}}}})`,
			"%s: a pre-image or post-image that is required is not there: %w", doing, err)
	case codeUnauthorized:
		return sources.Fatal(`db.grantRolesToUser("weft", [{role: "read", db: "DATABASE"}]) // for scope: deployment `+
			`{role: "readAnyDatabase", db: "admin"}`, "%s: the user may not: %w", doing, err)
	case codeAuthentication:
		return sources.Fatal("set the user, the password and authSource in url", "%s: %w", doing, err)
	case codeUnknownStage:
		return sources.Fatal(upgrade, "%s: %w", doing, err)
	case codeNeedsReplicaSet:
		return sources.Fatal(makeReplicaSet, "%s: the server is standalone and has no change streams: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
