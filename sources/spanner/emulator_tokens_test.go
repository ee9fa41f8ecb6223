package spanner

import (
	"bytes"
	"testing"

	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// sameTokens is a stream as the emulator's: each part has the same token.
type sameTokens struct{ grpc.ClientStream }

func (sameTokens) SendMsg(any) error { return nil }

func (sameTokens) RecvMsg(m any) error {
	m.(*spannerpb.PartialResultSet).ResumeToken = []byte("same")
	return nil
}

// The emulator's parts have tokens of their own, from which it is not asked to resume.
func TestEmulatorTokens(t *testing.T) {
	s := &tokenStream{ClientStream: sameTokens{}}
	if err := s.SendMsg(&spannerpb.ExecuteSqlRequest{}); err != nil {
		t.Fatal(err)
	}
	var first, second spannerpb.PartialResultSet
	for _, p := range []*spannerpb.PartialResultSet{&first, &second} {
		if err := s.RecvMsg(p); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(first.ResumeToken, second.ResumeToken) {
		t.Errorf("both tokens are %x", first.ResumeToken)
	}
	for _, request := range []any{&spannerpb.ExecuteSqlRequest{ResumeToken: first.ResumeToken}, &spannerpb.ReadRequest{ResumeToken: first.ResumeToken}} {
		if err := s.SendMsg(request); codeOf(err) != codes.Aborted {
			t.Errorf("%T from a token: %v", request, err)
		}
	}
}
