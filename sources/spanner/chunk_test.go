package spanner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/sources"
)

// newReader is a reader of the present's tables.
func (d *testDatabase) newReader(t *testing.T, tables ...string) *rowReader {
	t.Helper()
	r, err := d.config("changes").openReader(t.Context(), openOptions(tables...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r.(*rowReader)
}

// texts are a chunk's rows.
func texts(c *sources.Chunk) (out []string) {
	for _, row := range c.Rows {
		var columns []string
		for _, v := range row {
			text := string(v.Data)
			if v.State == sources.Null {
				text = "null"
			}
			columns = append(columns, text)
		}
		out = append(out, strings.Join(columns, " "))
	}
	return out
}

// allRows reads a table in chunks of some rows, and returns them with the cursors between them.
func allRows(t *testing.T, r *rowReader, q sources.ChunkRequest) (rows []string, cursors []sources.Cursor) {
	t.Helper()
	for {
		c, err := r.ReadChunk(t.Context(), q)
		if err != nil {
			t.Fatalf("after %s: %v", q.After, err)
		}
		rows = append(rows, texts(c)...)
		if c.Next == nil {
			return rows, cursors
		}
		q.After = c.Next
		cursors = append(cursors, c.Next)
	}
}

// Rows come in the order of the primary key, whatever its columns: descending, with NULLs and NaN, of all types. They come the same in
// chunks of any size, in ranges, and with a condition that holds for all.
func TestChunkKeys(t *testing.T) {
	google, postgres := dialects["googlesql"].dialect, dialects["postgresql"].dialect
	now := time.Date(2026, 3, 4, 5, 6, 7, 123456000, time.UTC)
	for name, c := range map[string]struct {
		dialect   databasepb.DatabaseDialect
		table     string
		values    [][]any // of a and b
		want      []string
		condition string
		refused   bool // with a condition, in parts
	}{
		"integers and text, descending, with nulls": {dialect: google, table: "a INT64, b STRING(MAX), v INT64) PRIMARY KEY (a DESC, b",
			values: [][]any{{1, "x"}, {2, nil}, {2, "b"}, {nil, "n"}, {-3, `q"é`}, {2, ""}, {nil, nil}},
			want:   []string{"2 null 1", "2  5", "2 b 2", "1 x 0", `-3 q"é 4`, "null null 6", "null n 3"}, condition: "v >= 0 -- all"},
		"bytes and booleans": {dialect: google, table: "a BYTES(MAX), b BOOL, v INT64) PRIMARY KEY (a, b DESC",
			values: [][]any{{[]byte("b"), true}, {[]byte("b"), false}, {nil, true}, {[]byte("a\xff"), nil}},
			want:   []string{"null t 2", "a\xff null 3", "b t 0", "b f 1"}, condition: "TRUE"},
		"times and dates": {dialect: google, table: "a TIMESTAMP, b DATE, v INT64) PRIMARY KEY (a, b",
			values: [][]any{{now, nil}, {now.Add(-time.Hour), nil}, {now.Add(time.Hour), nil}},
			want:   []string{"2026-03-04 04:06:07.123456+00 null 1", "2026-03-04 05:06:07.123456+00 null 0", "2026-03-04 06:06:07.123456+00 null 2"}, condition: "TRUE"},
		"floats": {dialect: google, table: "a FLOAT64, b INT64, v INT64) PRIMARY KEY (a, b",
			values: [][]any{{1.5, 1}, {-0.1, 1}, {math.NaN(), 1}, {nil, 1}, {math.NaN(), 2}},
			want:   []string{"null 1 3", "NaN 1 2", "NaN 2 4", "-0.1 1 1", "1.5 1 0"}, condition: "TRUE", refused: true},
		"numerics": {dialect: google, table: "a NUMERIC, b INT64, v INT64) PRIMARY KEY (a DESC, b",
			values: [][]any{{*big.NewRat(3, 2), 1}, {*big.NewRat(-20, 1), 2}, {*big.NewRat(3, 1), 2}},
			want:   []string{"3 2 2", "1.5 1 0", "-20 2 1"}, condition: "TRUE"},
		"PostgreSQL's": {dialect: postgres, table: "a bigint, b varchar, v bigint, PRIMARY KEY (a, b)",
			values: [][]any{{1, "x"}, {2, ""}, {2, "b"}, {-3, `q"é`}},
			want:   []string{`-3 q"é 3`, "1 x 0", "2  1", "2 b 2"}, condition: "v >= 0 -- all"},
	} {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, c.dialect, "CREATE TABLE items ("+c.table+")", "CREATE CHANGE STREAM changes FOR items")
			for i, v := range c.values {
				db.mustApply(t, spanner.Insert("items", []string{"a", "b", "v"}, append(slices.Clone(v), i)))
			}
			r := db.newReader(t, "items")
			whole, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", Rows: 100, Bytes: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(whole); !slices.Equal(got, c.want) {
				t.Fatalf("%q, want %q", got, c.want)
			}
			rows, cursors := allRows(t, r, sources.ChunkRequest{Table: "items", Rows: 1, Bytes: 1})
			if !slices.Equal(rows, c.want) {
				t.Errorf("one by one: %q", rows)
			}
			for i, at := range cursors {
				below, _ := allRows(t, r, sources.ChunkRequest{Table: "items", Until: at, Rows: 2, Bytes: 1 << 20})
				above, _ := allRows(t, r, sources.ChunkRequest{Table: "items", After: at, Rows: 2, Bytes: 1 << 20})
				if len(below) != i+1 || !slices.Equal(slices.Concat(below, above), c.want) {
					t.Errorf("cut at %s: %q and %q", at, below, above)
				}
				if c.refused {
					_, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", After: at, Where: c.condition, Rows: 2, Bytes: 1 << 20})
					if err == nil || !strings.Contains(err.Error(), "floating point") {
						t.Errorf("with a condition: %v", err)
					}
					continue
				}
				below, _ = allRows(t, r, sources.ChunkRequest{Table: "items", Until: at, Where: c.condition, Rows: 2, Bytes: 1 << 20})
				above, _ = allRows(t, r, sources.ChunkRequest{Table: "items", After: at, Where: c.condition, Rows: 2, Bytes: 1 << 20})
				if len(below) != i+1 || !slices.Equal(slices.Concat(below, above), c.want) {
					t.Errorf("cut at %s, with a condition: %q and %q", at, below, above)
				}
			}
			var keys [][][]byte
			for _, row := range whole.Rows[1:] {
				var key [][]byte
				for _, at := range whole.Table.Key {
					key = append(key, row[at].Data)
				}
				keys = append(keys, key)
			}
			found, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", Keys: keys})
			if err != nil || found.Next != nil || !slices.Equal(texts(found), c.want[1:]) {
				t.Errorf("by their keys: %q, %v", texts(found), err)
			}
		})
	}
}

// What a read says of a row is what the change stream says of it, value by value. Of arrays that a change stream watches, NULL ends the
// emulator, and NaN becomes null: TestProtoValues has those.
func TestChunkValues(t *testing.T) {
	for name, c := range map[string]struct {
		dialect databasepb.DatabaseDialect
		table   string
		insert  string
	}{
		"googlesql": {dialects["googlesql"].dialect,
			"CREATE TABLE items (id INT64, b BOOL, f FLOAT64, g FLOAT32, n NUMERIC, s STRING(MAX), y BYTES(MAX), d DATE, j JSON, t TIMESTAMP, " +
				"ai ARRAY<INT64>, ab ARRAY<BYTES(MAX)>, af ARRAY<FLOAT64>, x STRING(MAX)) PRIMARY KEY (id)",
			`INSERT INTO items (id, b, f, g, n, s, y, d, j, t, ai, ab, af) VALUES (1, TRUE, 0.1, 1.1, NUMERIC '-12.340', 'é "q" \\ \n', b'\x00\xff', DATE '2026-02-28',
			JSON '{"a": [1, null, "x"]}', TIMESTAMP '2026-02-28 01:02:03Z', [1, -3], [b'\x01'], [1.5, -2])`},
		"postgresql": {dialects["postgresql"].dialect,
			"CREATE TABLE items (id bigint PRIMARY KEY, b bool, f float8, n numeric, s varchar, y bytea, d date, j jsonb, t timestamptz, ai bigint[], x varchar)",
			`INSERT INTO items (id, b, f, n, s, y, d, j, t, ai) VALUES (1, true, 0.1, -12.340, 'é "q" \ x', '\x00ff', '2026-02-28', '{"a": [1, null, "x"]}', '2026-02-28 01:02:03Z', ARRAY[1, -3])`},
	} {
		t.Run(name, func(t *testing.T) {
			db := newTestDatabase(t, c.dialect, c.table, "CREATE CHANGE STREAM changes FOR items")
			s := opened(t, db.config("changes"), openOptions("items"))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := db.client.ReadWriteTransaction(ctx, func(ctx context.Context, tx *spanner.ReadWriteTransaction) error {
				_, err := tx.Update(ctx, spanner.NewStatement(c.insert))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			streamed, _ := read(t, s, 1)
			chunk, err := db.newReader(t, "items").ReadChunk(ctx, sources.ChunkRequest{Table: "items", Rows: 10, Bytes: 1 << 20})
			if err != nil || len(chunk.Rows) != 1 {
				t.Fatalf("%d rows, %v", len(chunk.Rows), err)
			}
			got := "c items | |"
			for i, v := range chunk.Rows[0] {
				text := string(v.Data)
				if v.State == sources.Null {
					text = "null"
				}
				got += fmt.Sprintf(" %s=%s", chunk.Table.Columns[i].Name, text)
			}
			if got != streamed[0] {
				t.Errorf("read:\n%s\nstreamed:\n%s", got, streamed[0])
			}
		})
	}
}

// Chunks beside a writer are each of one moment: they hold, of every row, the last version that was committed up to their timestamp.
func TestChunkExact(t *testing.T) {
	db := newTestDatabase(t, dialects["googlesql"].dialect, dialects["googlesql"].ddl...)
	const ids = 20
	type version struct {
		at   stamp
		body string
	}
	var history [ids][]version
	write := func(id int, body string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		at, err := db.client.Apply(ctx, []*spanner.Mutation{spanner.InsertOrUpdate("items", []string{"id", "body"}, []any{id, body})})
		if err != nil {
			t.Error(err)
		}
		history[id] = append(history[id], version{stampOf(at), body})
	}
	for id := range ids {
		write(id, "first")
	}
	r := db.newReader(t, "items")
	r.lag = 5 * time.Millisecond
	chunks := make(chan *sources.Chunk, 10_000)
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			q := sources.ChunkRequest{Table: "items", Rows: 7, Bytes: 1 << 20}
			for more := true; more; more = q.After != nil {
				c, err := r.ReadChunk(context.WithoutCancel(ctx), q)
				if err != nil {
					done <- err
					return
				}
				chunks <- c
				q.After = c.Next
			}
		}
		done <- nil
	}()
	random := rand.New(rand.NewPCG(1, 2))
	for until, n := time.Now().Add(2*time.Second), 0; time.Now().Before(until); n++ {
		write(random.IntN(ids), fmt.Sprint(n))
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	close(chunks)
	rows, older, last := 0, 0, stamp(0)
	for c := range chunks {
		at := c.View.(view).at
		if at < last {
			t.Errorf("a read of %s after one of %s", at, last)
		}
		last = at
		for _, row := range c.Rows {
			var id int
			if _, err := fmt.Sscan(string(row[0].Data), &id); err != nil {
				t.Fatal(err)
			}
			want := ""
			for _, v := range history[id] {
				if v.at <= at {
					want = v.body
				}
			}
			if got := string(row[1].Data); got != want {
				t.Errorf("at %s row %d is %q, want %q", at, id, got, want)
			}
			if rows++; want != history[id][len(history[id])-1].body {
				older++
			}
		}
	}
	t.Logf("%d rows, of which %d were changed later", rows, older)
	if older == 0 {
		t.Error("no row was changed after it was read: the test shows nothing")
	}
}

// A timestamp that the database has no rows of any more is said so, and the chunk is of the present. The emulator keeps all of them: in its
// place an interceptor refuses the first read, as Spanner does.
func TestChunkTooOld(t *testing.T) {
	db := newTestDatabase(t, dialects["googlesql"].dialect, dialects["googlesql"].ddl...)
	db.mustApply(t, spanner.Insert("items", []string{"id", "body"}, []any{1, "x"}))
	var refusals atomic.Int32
	opened, err := db.config("changes").openReader(t.Context(), openOptions("items"), option.WithGRPCDialOption(grpc.WithStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if strings.HasSuffix(method, "/StreamingRead") && refusals.Add(-1) >= 0 {
				return nil, status.Error(codes.FailedPrecondition, "Read-only transaction timestamp 2026-11-28T00:00:00Z has exceeded the maximum timestamp staleness")
			}
			return streamer(ctx, desc, cc, method, opts...)
		})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	r := opened.(*rowReader)
	var logged bytes.Buffer
	r.logger = hclog.New(&hclog.LoggerOptions{Output: &logged})
	now := r.at
	refusals.Store(1)
	c, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", Rows: 10, Bytes: 1 << 20})
	if err != nil || len(c.Rows) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	if at := c.View.(view).at; at <= now {
		t.Errorf("the chunk is of %s, and the reader was opened at %s", at, now)
	}
	if text := logged.String(); !strings.Contains(text, "version_retention_period") || !strings.Contains(text, "table=items") {
		t.Errorf("it is not said: %s", text)
	}
	refusals.Store(100)
	if _, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", Rows: 10, Bytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "staleness") {
		t.Errorf("a database that has no moment at all: %v", err)
	}
}

// A column that comes or goes between two chunks is in those of later timestamps, or is not.
func TestChunkSchemaChange(t *testing.T) {
	db := newTestDatabase(t, dialects["googlesql"].dialect, dialects["googlesql"].ddl...)
	for i := range 3 {
		db.mustApply(t, spanner.Insert("items", []string{"id", "body"}, []any{i, "x"}))
	}
	r := &presentReader{rowReader: db.newReader(t, "items"), db: db}
	q := sources.ChunkRequest{Table: "items", Rows: 1, Bytes: 1 << 20}
	next := func(want string) {
		t.Helper()
		c, err := r.ReadChunk(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(c); len(got) != 1 || got[0] != want {
			t.Errorf("%q, want %q", got, want)
		}
		q.After = c.Next
	}
	next("0 x")
	db.ddl(t, "ALTER TABLE items ADD COLUMN n INT64")
	db.mustApply(t, spanner.Update("items", []string{"id", "n"}, []any{1, 7}))
	next("1 x 7")
	db.ddl(t, "ALTER TABLE items DROP COLUMN body")
	next("2 null")
}

// What is wrong is named.
func TestChunkRefused(t *testing.T) {
	db := newTestDatabase(t, dialects["googlesql"].dialect,
		"CREATE TABLE items (id INT64) PRIMARY KEY (id)", "CREATE CHANGE STREAM changes FOR ALL")
	r := db.newReader(t, "items")
	q := sources.ChunkRequest{Table: "items", Rows: 10, Bytes: 1 << 20}
	wrong := func(q sources.ChunkRequest, want string) {
		t.Helper()
		_, err := (&presentReader{rowReader: r, db: db}).ReadChunk(t.Context(), q)
		var fatal *sources.FatalError
		if !errors.As(err, &fatal) || fatal.Remedy == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	condition := q
	condition.Where = "nothing = 1"
	wrong(condition, `refuses to read table items with the condition "nothing = 1"`)
	keys := q
	keys.Keys = [][][]byte{{[]byte("1"), []byte("2")}}
	wrong(keys, "the key has 1 columns")
	if _, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", After: sources.Cursor(`{"after":[[1]]}`), Rows: 1, Bytes: 1}); err == nil {
		t.Error("a cursor that is none is taken")
	}
	if _, err := r.ReadChunk(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	db.ddl(t, "CREATE TABLE other (id INT64) PRIMARY KEY (id)", "DROP TABLE items")
	_, err := r.ReadChunk(t.Context(), sources.ChunkRequest{Table: "items", Rows: 10, Bytes: 1 << 20})
	if err != nil { // of a moment ago the rows are still there
		t.Error(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r.at = r.began + stamp(time.Since(r.beganAt))
		_, err = r.ReadChunk(t.Context(), q)
		var fatal *sources.FatalError
		if errors.As(err, &fatal) && strings.Contains(err.Error(), "table items is gone") {
			break
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("the table is gone, and yet: %v", err)
		}
	}
}

func TestProtoValues(t *testing.T) {
	text := &sources.Type{Kind: sources.String}
	list := func(values ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	}
	str, null := structpb.NewStringValue, structpb.NewNullValue()
	for _, c := range []struct {
		value *structpb.Value
		typ   sources.Type
		want  string // empty: refused
	}{
		{list(str(`a "q"`), null, str("NULL")), sources.Type{Kind: sources.Array, Elem: text}, `{"a \"q\"",NULL,"NULL"}`},
		{list(), sources.Type{Kind: sources.Array, Elem: text}, `{}`},
		{list(structpb.NewNumberValue(float64(float32(0.1))), str("NaN"), null),
			sources.Type{Kind: sources.Array, Elem: &sources.Type{Kind: sources.Float, Precision: 32}}, `{0.1,NaN,NULL}`},
		{structpb.NewBoolValue(false), sources.Type{Kind: sources.Bool}, "f"},
		{str("true"), sources.Type{Kind: sources.Bool}, ""},
		{str("1.5"), sources.Type{Kind: sources.Float, Precision: 64}, ""},
		{structpb.NewNumberValue(1), sources.Type{Kind: sources.Int}, ""},
		{str("x"), sources.Type{Kind: sources.Array, Elem: text}, ""},
		{list(), *text, ""},
		{list(list()), sources.Type{Kind: sources.Array, Elem: text}, ""},
	} {
		got, err := appendProto([]byte("kept"), c.value, &c.typ)
		if c.want == "" && err == nil || c.want != "" && (err != nil || string(got) != "kept"+c.want) {
			t.Errorf("%v as kind %d: %q, %v; want %q", c.value, c.typ.Kind, got, err, c.want)
		}
	}
}

func TestCutsOf(t *testing.T) {
	cursors := func(names ...string) (out []sources.Cursor) {
		for _, n := range names {
			out = append(out, sources.Cursor(n))
		}
		return out
	}
	for _, c := range []struct {
		firsts, want []sources.Cursor
		n            int
	}{
		{nil, nil, 4},
		{cursors("a"), nil, 4},
		{cursors("a", "b"), cursors("b"), 4},
		{cursors("a", "b", "c", "d"), cursors("b", "c", "d"), 4},
		{cursors("a", "b", "c", "d", "e", "f", "g", "h"), cursors("e"), 2},
	} {
		if got := cutsOf(c.firsts, c.n); !slices.EqualFunc(got, c.want, func(a, b sources.Cursor) bool { return string(a) == string(b) }) {
			t.Errorf("%s into %d: %s, want %s", c.firsts, c.n, got, c.want)
		}
	}
}

func TestView(t *testing.T) {
	v := view{at: stampOf(time.Date(2026, 11, 22, 20, 23, 40, 147930000, time.UTC))}
	for block, want := range map[string]bool{
		`{"commit_timestamp":"2026-11-22T20:23:40.14793Z"}`:     true,
		`{"commit_timestamp":"2026-11-22T20:23:40.147930001Z"}`: false,
	} {
		if got, err := v.SeesSource([]byte(block)); err != nil || got != want {
			t.Errorf("%s is seen: %t, %v", block, got, err)
		}
	}
	if _, err := v.SeesSource([]byte(`{}`)); err == nil {
		t.Error("a source block without a commit timestamp is taken")
	}
	for position, want := range map[string]bool{
		`{"stream":"watermark","watermark":"2026-11-22T20:23:40.14793Z","partitions":[]}`: false,
		`{"stream":"s","watermark":"2026-11-22T20:23:40.147930001Z","partitions":[]}`:     true,
	} {
		if got, err := v.Passed([]byte(position)); err != nil || got != want {
			t.Errorf("%s passed: %t, %v", position, got, err)
		}
	}
	for _, position := range []string{`{}`, `{"stream":"s"}`, `null`, `{"watermark":1}`, ``} {
		if _, err := v.Passed([]byte(position)); err == nil {
			t.Errorf("%q is taken for a position", position)
		}
	}
}

// A read is of where the stream stands, as far as that is known, but never of a time before the reader was opened, or before another read's.
func TestTimestamp(t *testing.T) {
	const began = stamp(1_700_000_000_000_000_000)
	r := &rowReader{began: began, at: began, beganAt: time.Now().Add(-time.Minute), lag: time.Hour}
	if at := r.timestamp(); at != began {
		t.Errorf("%s before the reader was opened", began.time().Sub(at.time()))
	}
	r.lag = time.Second
	if at := r.timestamp(); at < began+stamp(59*time.Second) || at > began+stamp(time.Hour) {
		t.Errorf("%s after the reader was opened", at.time().Sub(began.time()))
	}
	r.at, r.lag = began, time.Hour
	position := func(at stamp) sources.Position { return fmt.Appendf(nil, `{"stream":"s","watermark":"%s"}`, at) }
	for _, c := range []struct{ low, want stamp }{{began - 5, began}, {began + 1, began}, {began + 10, began + 9}, {began + 7, began + 9}} {
		v := view{at: r.timestamp(), reader: r}
		if passed, err := v.Passed(position(c.low)); err != nil || passed != (c.low > v.at) {
			t.Errorf("a view of %s passed at %s: %t, %v", v.at, c.low, passed, err)
		}
		if at := r.timestamp(); at != c.want {
			t.Errorf("with the stream at %s: %s, want %s", c.low, at, c.want)
		}
	}
}
