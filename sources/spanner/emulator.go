package spanner

import (
	"context"
	"encoding/binary"

	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// emulatorTokens gives every part of a result a resume token of its own. The emulator's are all the same, and until it sees a new one
// the client holds rows back: up to 128 MiB of a query, or until the query ends
// (https://pkg.go.dev/cloud.google.com/go/spanner, resumableStreamDecoder). The emulator is never asked to resume from one: a
// query that breaks off is an error, after which the source reads on from its position.
func emulatorTokens(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &tokenStream{ClientStream: s}, nil
}

type tokenStream struct {
	grpc.ClientStream
	n uint64
}

func (s *tokenStream) SendMsg(m any) error {
	if r, ok := m.(interface{ GetResumeToken() []byte }); ok && len(r.GetResumeToken()) > 0 {
		return status.Error(codes.Aborted, "a query of the emulator broke off")
	}
	return s.ClientStream.SendMsg(m)
}

func (s *tokenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if p, ok := m.(*spannerpb.PartialResultSet); ok && err == nil {
		s.n++
		p.ResumeToken = binary.BigEndian.AppendUint64(nil, s.n)
	}
	return err
}
