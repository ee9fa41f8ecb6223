package spanner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

func openOptions(tables ...string) sources.OpenOptions {
	return sources.OpenOptions{Capture: "c", Tables: tables, BatchBytes: 1 << 20, ReadAheadBytes: 1 << 20, Logger: hclog.NewNullLogger()}
}

// opened is a source whose Next has told where it begins.
func opened(t *testing.T, c *testConfig, o sources.OpenOptions) sources.Source {
	t.Helper()
	s, err := c.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if o.Position == nil {
		if b, err := s.Next(t.Context()); err != nil || len(b.Changes) > 0 {
			t.Fatalf("%d changes, %v", len(b.Changes), err)
		}
	}
	return s
}

// read returns n changes, as text.
func read(t *testing.T, s sources.Source, n int) (out []string, p sources.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(out) < n {
		b, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		for _, c := range b.Changes {
			text := string(c.Op) + " " + c.Table.String()
			for _, values := range [][]sources.Value{c.Before, c.After} {
				text += " |"
				for i, v := range values {
					text += fmt.Sprintf(" %s=%s", c.Table.Columns[i].Name, map[sources.State]string{
						sources.Null: "null", sources.Unavailable: "?", sources.Present: string(v.Data)}[v.State])
				}
			}
			out = append(out, text)
		}
		p = bytes.Clone(b.Position)
	}
	return out, p
}

func (d *testDatabase) mustApply(t *testing.T, mutations ...*spanner.Mutation) {
	t.Helper()
	if err := d.apply(t.Context(), mutations); err != nil {
		t.Fatal(err)
	}
}

// A row that is written over, a column that comes and one that goes, while the stream is read.
func TestSchemaChange(t *testing.T) {
	db := newTestDatabase(t, databasepb.DatabaseDialect_GOOGLE_STANDARD_SQL,
		"CREATE TABLE kv (b INT64 NOT NULL, a STRING(10) NOT NULL, v STRING(MAX), w INT64) PRIMARY KEY (a DESC, b)",
		"CREATE CHANGE STREAM s FOR ALL")
	s := opened(t, db.config("s"), openOptions("kv"))
	put := func(kind func(string, []string, []any) *spanner.Mutation, columns string, values ...any) {
		t.Helper()
		db.mustApply(t, kind("kv", strings.Fields(columns), values))
	}
	put(spanner.Insert, "a b v w", "k", 1, "one", 1)
	put(spanner.Update, "a b v", "k", 1, "two")
	db.ddl(t, "ALTER TABLE kv ADD COLUMN x BOOL")
	put(spanner.Update, "a b x", "k", 1, true)
	put(spanner.Insert, "a b", "k", 2)
	db.ddl(t, "ALTER TABLE kv DROP COLUMN w")
	put(spanner.InsertOrUpdate, "a b v", "k", 3, "three")
	db.mustApply(t, spanner.Delete("kv", spanner.Key{"k", 1}))
	got, _ := read(t, s, 6)
	want := []string{
		"c kv | | b=1 a=k v=one w=1",
		"u kv | b=1 a=k v=one w=? | b=1 a=k v=two w=?",
		"u kv | b=1 a=k v=? w=? x=null | b=1 a=k v=? w=? x=t",
		"c kv | | b=2 a=k v=null w=null x=null",
		"c kv | | b=3 a=k v=three x=null",
		"d kv | b=1 a=k v=two x=t |",
	}
	// Which of the columns is known when depends on how far the stream is behind the schema, so w and x may be there early or
	// late with nothing in them.
	for i := range want {
		if trim(got[i]) != trim(want[i]) {
			t.Errorf("change %d: %s, want %s", i, got[i], want[i])
		}
	}
}

// trim takes away what holds nothing.
func trim(s string) string {
	var out []string
	for _, f := range strings.Fields(s) {
		if !strings.HasSuffix(f, "=?") && !strings.HasSuffix(f, "=null") {
			out = append(out, f)
		}
	}
	return strings.Join(out, " ")
}

// What only a person can mend says so, by name.
func TestRefused(t *testing.T) {
	db := newTestDatabase(t, databasepb.DatabaseDialect_GOOGLE_STANDARD_SQL,
		"CREATE TABLE kv (id INT64, v STRING(MAX)) PRIMARY KEY (id)", "CREATE TABLE other (id INT64) PRIMARY KEY (id)",
		"CREATE CHANGE STREAM s FOR kv")
	keys := openOptions("kv")
	keys.Keys = map[string][]string{"kv": {"v"}}
	wrong := openOptions("kv")
	wrong.Position = sources.Position(`{"stream":"other","watermark":"2026-01-01T00:00:00Z","partitions":[{"token":"","at":"2026-01-01T00:00:00Z"}]}`)
	for _, c := range []struct {
		stream  string
		options sources.OpenOptions
		want    string
	}{
		{"none", openOptions("kv"), "there is no change stream none"},
		{"s", openOptions("kv", "missing"), `matches "missing"`},
		{"s", openOptions("*"), "table other: the change stream s does not watch it"},
		{"s", keys, "primary key"},
		{"s", wrong, "is not one of the change stream s"},
	} {
		_, err := db.config(c.stream).Open(t.Context(), c.options)
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) || fatal.Remedy == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
}

// A stream that is dropped while it is read, or was put in another's place, and a position that is too old.
func TestLost(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, d.dialect, d.ddl...)
			s := opened(t, db.config("changes"), openOptions("items"))
			db.mustApply(t, spanner.Insert("items", []string{"id", "body"}, []any{1, "x"}))
			_, p := read(t, s, 1)
			_ = s.Close()

			old := openOptions("items")
			encoded, err := (&encoder{stream: "changes"}).encode(newPartitions(stampOf(time.Now().Add(-30 * 24 * time.Hour))))
			if err != nil {
				t.Fatal(err)
			}
			old.Position = bytes.Clone(encoded)
			wantGap(t, opened(t, db.config("changes"), old))

			db.ddl(t, "DROP CHANGE STREAM changes", "CREATE CHANGE STREAM changes FOR items")
			gone := openOptions("items")
			gone.Position = p
			wantGap(t, opened(t, db.config("changes"), gone))
		})
	}
}

func wantGap(t *testing.T, s sources.Source) {
	t.Helper()
	err := nextError(t, s)
	var gap *sources.GapError
	if !errors.As(err, &gap) || gap.Remedy == "" {
		t.Errorf("not a gap: %v", err)
	}
}

// nextError reads until an error, that of the time limit in the worst case.
func nextError(t *testing.T, s sources.Source) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, err := s.Next(ctx); err != nil {
			return err
		}
	}
}

func TestCheck(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, d.dialect, d.ddl...)
			var got []string
			for _, f := range db.config("changes").Check(t.Context(), sources.CheckOptions{Capture: "c", Tables: []string{"items"}}) {
				got = append(got, fmt.Sprintf("%s %s: %s (%s)", f.Level, f.Subject, f.Text, f.Remedy))
			}
			text := strings.Join(got, "\n")
			for _, want := range []string{"ok database: ", "warning stream: changes can be read", "value_capture_type = 'NEW_ROW_AND_OLD_VALUES'",
				"warning retention: ", "ok table items: key (id), 2 columns watched"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
			for _, f := range db.config("none").Check(t.Context(), sources.CheckOptions{Tables: []string{"items"}}) {
				if !f.Blocks || f.Remedy == "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// What a check finds before a capture would: a table that the stream does not watch, and a checkpoint that is older than the stream's
// records.
func TestCheckFinds(t *testing.T) {
	db := newTestDatabase(t, dialects["googlesql"].dialect, append(slices.Clone(dialects["googlesql"].ddl), "CREATE TABLE other (id INT64) PRIMARY KEY (id)")...)
	encoded, err := (&encoder{stream: "changes"}).encode(newPartitions(stampOf(time.Now().Add(-48 * time.Hour))))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options        sources.CheckOptions
		subject, text  string
		remedy, blocks string
	}{
		{sources.CheckOptions{Tables: []string{"items", "other"}}, "tables", "table other: the change stream changes does not watch it",
			"ALTER CHANGE STREAM changes SET FOR other", "true"},
		{sources.CheckOptions{Tables: []string{"items"}, Position: encoded}, "checkpoint", "holds changes for 24h0m0s", "on_gap: continue", "false"},
	} {
		var found []string
		for _, f := range db.config("changes").Check(t.Context(), c.options) {
			if f.Level == sources.Problem {
				found = append(found, fmt.Sprintf("%s: %s (%s) %t", f.Subject, f.Text, f.Remedy, f.Blocks))
			}
		}
		if len(found) != 1 || !strings.HasPrefix(found[0], c.subject+": ") || !strings.Contains(found[0], c.text) || !strings.Contains(found[0], c.remedy) ||
			!strings.HasSuffix(found[0], c.blocks) {
			t.Errorf("%q", found)
		}
	}
}

// A stream of partition mode MUTABLE_KEY_RANGE is refused by name, before it is read and by its check. The emulator knows no such stream:
// the option is added to what it answers.
func TestRefusedPartitionMode(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, d.dialect, d.ddl...)
			c := db.config("changes")
			mutable := option.WithGRPCDialOption(grpc.WithStreamInterceptor(mutableKeyRange))
			_, err := c.open(t.Context(), openOptions("items"), mutable)
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "changes has partition_mode MUTABLE_KEY_RANGE") {
				t.Errorf("%v", err)
			}
			findings := c.check(t.Context(), sources.CheckOptions{Tables: []string{"items"}}, mutable)
			if last := findings[len(findings)-1]; !last.Blocks || !strings.Contains(last.Text, "MUTABLE_KEY_RANGE") || last.Remedy == "" {
				t.Errorf("%+v", last)
			}
		})
	}
}

// mutableKeyRange adds the partition mode to the options that the catalog lists of a change stream.
func mutableKeyRange(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := streamer(ctx, desc, cc, method, opts...)
	return &optionStream{ClientStream: s}, err
}

type optionStream struct {
	grpc.ClientStream
	options bool
}

func (s *optionStream) SendMsg(m any) error {
	r, ok := m.(*spannerpb.ExecuteSqlRequest)
	s.options = ok && strings.Contains(r.Sql, "change_stream_options")
	return s.ClientStream.SendMsg(m)
}

func (s *optionStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if p, ok := m.(*spannerpb.PartialResultSet); ok && err == nil && s.options {
		s.options = false
		p.Values = append([]*structpb.Value{structpb.NewStringValue("partition_mode"), structpb.NewStringValue("MUTABLE_KEY_RANGE")}, p.Values...)
	}
	return err
}

// A position of 10,000 partitions is under 1 MiB, and reads back as it was. Real tokens share much of their text; these
// share a prefix, and differ in 32 random bytes.
func TestPositionSize(t *testing.T) {
	p := newPartitions(1_700_000_000_000_000_000)
	r := rand.New(rand.NewPCG(1, 2))
	root := p.list[0]
	var children []child
	for i := range 10_000 {
		c := child{token: fmt.Sprintf("__8BAYEG0qQD8AABgsBDg3BlcGxlLWNoYW5nZXMAAYSBgwjCrl%016x%016x", r.Uint64(), r.Uint64()), start: root.at + stamp(i)*1001}
		if i > 0 && i%3 == 0 {
			c.parents = []string{children[i-1].token, children[i-2].token}
		}
		children = append(children, c)
	}
	if err := p.finish(root, children); err != nil {
		t.Fatal(err)
	}
	for _, one := range p.startable() {
		one.take(recordID{one.at + 5, "MTg4OTc1NjQxOTc5MDU0NTIzMA==", 3}, 1, 1)
	}
	b, err := (&encoder{stream: "s"}).encode(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d a partition", len(b), len(b)/10_000)
	if len(b) >= 1<<20 {
		t.Errorf("%d bytes", len(b))
	}
	again, err := parsePosition(b, "s")
	if err != nil {
		t.Fatal(err)
	}
	second, err := (&encoder{stream: "s"}).encode(again)
	if err != nil || !bytes.Equal(b, second) {
		t.Errorf("read back, it is another: %v", err)
	}
}

func TestOrder(t *testing.T) {
	last := ""
	for _, id := range []recordID{{1, "b", 9}, {1_700_000_000_000_000_000, "a", 0}, {1_700_000_000_000_000_000, "a", 10}, {1_700_000_000_000_000_001, "a", 2}} {
		for _, mod := range []int{0, 9, 10, 100_000} {
			order := string(appendOrder(nil, id, mod))
			if order <= last || last != "" && len(order) != len(last) {
				t.Errorf("%s after %s", order, last)
			}
			last = order
		}
	}
}

// A stream that is dropped while it is read says so, and does not end as if there were no more.
func TestDroppedWhileRead(t *testing.T) {
	for name, d := range dialects {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, d.dialect, d.ddl...)
			s := opened(t, db.config("changes"), openOptions("items"))
			db.mustApply(t, spanner.Insert("items", []string{"id", "body"}, []any{1, "x"}))
			read(t, s, 1)
			db.ddl(t, "DROP CHANGE STREAM changes")
			err := nextError(t, s)
			var fatal *sources.FatalError
			if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "changes was dropped") || !strings.Contains(fatal.Remedy, "on_gap") {
				t.Errorf("not named: %v", err)
			}
		})
	}
}

// An account without rights is told which it needs. The emulator knows no rights.
func TestRefusedRights(t *testing.T) {
	refused := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
		return nil, status.Error(codes.PermissionDenied, "Caller is missing IAM permission spanner.databases.select on resource")
	}
	db := newTestDatabase(t, databasepb.DatabaseDialect_GOOGLE_STANDARD_SQL, dialects["googlesql"].ddl...)
	c := db.config("changes")
	_, err := c.open(t.Context(), openOptions("items"), option.WithGRPCDialOption(grpc.WithStreamInterceptor(refused)))
	var fatal *sources.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(fatal.Remedy, "roles/spanner.databaseReader") {
		t.Errorf("%v", err)
	}
	for _, f := range c.check(t.Context(), sources.CheckOptions{Tables: []string{"items"}}, option.WithGRPCDialOption(grpc.WithStreamInterceptor(refused))) {
		if !f.Blocks || !strings.Contains(f.Remedy, "roles/spanner.databaseReader") {
			t.Errorf("%+v", f)
		}
	}
}
