package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// difference is one between the dialect debezium and Debezium itself, in one field of one record or of several.
type difference struct {
	// where is TABLE OP FIELD, such as "customers d before.name"; * stands for any characters but a slash.
	where string
	// debezium and weft are the JSON texts on each side; "absent" for a missing field, "*" for any.
	debezium, weft string
	why            string
}

// TestDebeziumDialect runs the statements that Debezium's records were made from through the daemon, and compares key, op,
// before and after of each record, field by field. Every difference must be one of differences, and each of those must
// be met, so that the list, and the docs that repeat it, stay true.
func TestDebeziumDialect(t *testing.T) {
	to := kafkaLog(t)
	name := fmt.Sprintf("debezium_%x", rand.Uint32())
	url := newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)
	t.Cleanup(func() { deleteTopics(t, to.broker, name) })

	files, err := filepath.Glob("testdata/debezium/records/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("recorded samples: %d files, %v", len(files), err)
	}
	want, tables := map[string][]fields{}, []string{}
	for _, file := range files {
		table := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		tables = append(tables, "inv."+table)
		if want[table], err = recorded(file); err != nil {
			t.Fatal(err)
		}
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	runScript(t, c, "01-schema.sql")
	runScript(t, c, "02-snapshot-rows.sql")
	execute(t, c, "CREATE TABLE inv.pulse(id int PRIMARY KEY)")

	config := writeConfig(t, `log: %s
topics: {prefix: %s, partitions: 1, dialect: debezium}
captures:
  - name: %[2]s
    source: {type: postgres, url: %q}
    tables: [%s, inv.pulse]
    snapshot: never
`, to.config, name, url, strings.Join(tables, ", "))
	d := startDaemon(t, config)
	pulse := pulse{insert: inserter(c, "inv.pulse"), broker: to.broker, topic: name + ".inv.pulse"}
	pulse.await(t, d, time.Minute)
	runScript(t, c, "03-stream.sql")
	pulse.await(t, d, time.Minute)

	records, err := readTopics(t.Context(), to.broker, name)
	if err != nil {
		t.Fatal(err)
	}
	d.stop()
	got := map[string][]fields{}
	for _, r := range records {
		table := strings.TrimPrefix(r.topic, name+".inv.")
		f, err := flatten(r.key, r.value)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		got[table] = append(got[table], f)
	}
	met := make([]int, len(differences))
	for table, records := range want {
		if len(got[table]) != len(records) {
			t.Errorf("%s: %d records, Debezium %d: %v", table, len(got[table]), len(records), got[table])
			continue
		}
		for i := range records {
			compareFields(t, table, got[table][i], records[i], met)
		}
	}
	for i, n := range met {
		if n == 0 {
			t.Errorf("%+v: listed, but nothing differs so", differences[i])
		}
	}
}

func compareFields(t *testing.T, table string, got, want fields, met []int) {
	t.Helper()
	names := slices.Collect(maps.Keys(got))
	for name := range want {
		if _, ok := got[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	op := want.get("op")
	for _, name := range names {
		ours, theirs := got.get(name), want.get(name)
		if ours == theirs {
			continue
		}
		where := fmt.Sprintf("%s %s %s", table, strings.Trim(op, `"`), name)
		i := slices.IndexFunc(differences, func(d difference) bool {
			ok, err := path.Match(d.where, where)
			if err != nil {
				t.Fatal(err)
			}
			return ok && (d.debezium == "*" || d.debezium == theirs) && (d.weft == "*" || d.weft == ours)
		})
		if i < 0 {
			t.Errorf("%s (key %s): %.300s, Debezium %.300s", where, want.get("key"), ours, theirs)
			continue
		}
		met[i]++
	}
}

// fields are a record's, as JSON texts: key, op, and before.COLUMN and after.COLUMN, or before and after where null.
type fields map[string]string

func (f fields) get(name string) string {
	if text, ok := f[name]; ok {
		return text
	}
	return "absent"
}

func flatten(key, value []byte) (fields, error) {
	f := fields{"key": "empty"}
	if len(key) > 0 {
		var err error
		if f["key"], err = canonical(key); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	if len(value) == 0 || string(value) == "null" {
		f["op"] = "tombstone"
		return f, nil
	}
	var e struct {
		Op            json.RawMessage
		Before, After map[string]json.RawMessage
	}
	if err := decode(value, &e); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	f["op"] = string(e.Op)
	for side, columns := range map[string]map[string]json.RawMessage{"before": e.Before, "after": e.After} {
		if columns == nil {
			f[side] = "null"
		}
		for column, text := range columns {
			var err error
			if f[side+"."+column], err = canonical(text); err != nil {
				return nil, fmt.Errorf("%s.%s: %w", side, column, err)
			}
		}
	}
	return f, nil
}

func recorded(file string) ([]fields, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []fields
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r struct{ Key, Value json.RawMessage }
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		one, err := flatten(r.Key, r.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}

// inserter inserts rows into a table whose only column is id.
func inserter(c *pgx.Conn, table string) func(context.Context, int) error {
	return func(ctx context.Context, id int) error {
		_, err := c.Exec(ctx, fmt.Sprintf("INSERT INTO %s VALUES (%d)", table, id))
		return err
	}
}

func execute(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// runScript runs a script of psql, each statement by itself as psql does. Of psql's own commands it knows the two that the
// scripts use: \set base N, whose value stands for :base, and \ir FILE.
func runScript(t testing.TB, c *pgx.Conn, file string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/debezium", file))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	base := ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == `\set`:
			base = words[2]
		case len(words) == 2 && words[0] == `\ir`:
			included, err := os.ReadFile(filepath.Join("testdata/debezium", words[1]))
			if err != nil {
				t.Fatal(err)
			}
			script.Write(bytes.ReplaceAll(included, []byte(":base"), []byte(base)))
		default:
			script.WriteString(line)
		}
	}
	for _, sql := range splitSQL(script.String()) {
		if strings.TrimSpace(sql) == "" {
			continue
		}
		for value := range refused {
			sql = strings.ReplaceAll(sql, value, "NULL")
		}
		_, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		var refused *pgconn.PgError
		// The script has updates and deletes of tables that publish them without a replica identity.
		if errors.As(err, &refused) && refused.Code == "55000" {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", file, sql, err)
		}
	}
}

// splitSQL cuts at semicolons outside of quotes and comments, which it removes.
func splitSQL(script string) []string {
	var statements []string
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(script); i++ {
		ch := script[i]
		switch {
		case quote != 0:
			if ch == quote {
				quote = 0
			}
		case ch == '\'' || ch == '"':
			quote = ch
		case strings.HasPrefix(script[i:], "--"):
			for i < len(script) && script[i] != '\n' {
				i++
			}
			continue
		case ch == ';':
			statements = append(statements, b.String())
			b.Reset()
			continue
		}
		b.WriteByte(ch)
	}
	return append(statements, b.String())
}
