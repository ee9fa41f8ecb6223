package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/jackc/pgx/v5"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// payments has a column of each kind that an archive can have, with nulls, and texts that JSON and Parquet must keep.
const payments = `
	CREATE TABLE payments (id bigint PRIMARY KEY, quantity int, ratio double precision, paid boolean, amount numeric(20, 2), note text,
		place text NOT NULL DEFAULT 'Malmö', made timestamptz, ref uuid, doc jsonb, tags text[]);
	INSERT INTO payments SELECT g, nullif(g % 50, 0), g / 8.0, g % 3 = 0, g * 1.07, 'say "ja" \ ' || chr(10) || 'ключ ' || g, 'Malmö',
		'2026-11-24 10:00:00.123456+00'::timestamptz + g * interval '1 s', md5(g::text)::uuid, jsonb_build_object('n', g), array['a', g::text]
		FROM generate_series(1, 5000) g;
	UPDATE payments SET note = NULL, amount = NULL, paid = NULL, made = NULL, doc = NULL WHERE id % 11 = 0`

// facts of the table, in SQL that both databases understand but for the time's.
const facts = `SELECT count(*), sum(id), sum(quantity), count(quantity), sum(ratio), count(*) FILTER (WHERE paid), count(paid),
	sum(amount::decimal(20, 2)), md5(string_agg(coalesce(note, '?'), '|' ORDER BY id)), count(*) FILTER (WHERE place = 'Malmö'),
	md5(string_agg(ref::text, '|' ORDER BY id)), count(doc), count(tags), %s FROM %s`

// duck asks DuckDB for one row.
func duck(t testing.TB, query string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), server(t, "WEFT_TEST_DUCKDB"), "-c",
		`import duckdb, json, sys; print(json.dumps([str(v) for v in duckdb.sql(sys.argv[1]).fetchall()[0]]))`, query)
	out, err := cmd.Output()
	var row []string
	if err == nil {
		err = json.Unmarshal(out, &row)
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("DuckDB: %s: %v", query, err)
	}
	return row
}

// TestArchive makes archives of a PostgreSQL table in a folder, in an S3 bucket and in a GCS bucket, and DuckDB finds in them, and in what is
// replayed from them, what PostgreSQL has in the table.
func TestArchive(t *testing.T) {
	duck(t, "SELECT 1")
	name := fmt.Sprintf("archive_%x", rand.Uint32())
	o := &pgOrigin{newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)}
	if err := o.exec(t.Context(), payments); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := func(bucket string) string {
		return writeConfig(t, "log: {embedded: {dir: %q, listen: \"127.0.0.1:0\"}}\ntopics: {prefix: %s, partitions: 3}\nadmin: {enabled: false}\n"+
			"archives: {bucket: %q}\ncaptures:\n  - {name: %[2]s, source: {type: postgres, url: %[4]q}, tables: [public.payments], snapshot: initial}\n",
			filepath.Join(dir, "log"), name, bucket, o.url)
	}
	folder := config("file://" + filepath.Join(dir, "archives"))
	d := startDaemon(t, folder)
	eventually(t, d, time.Minute, "the first checkpoint", func(ctx context.Context) (bool, error) {
		bin, err := built()
		if err != nil {
			t.Fatal(err)
		}
		err = exec.CommandContext(ctx, bin, "checkpoint", "get", "-c", folder, name).Run()
		return err == nil, err
	})
	awaitSnapshot(t, d, folder, name, time.Minute)
	err := o.exec(t.Context(), `
		DELETE FROM payments WHERE id BETWEEN 1000 AND 1499;
		UPDATE payments SET amount = amount + 0.01, note = 'changed ' || id WHERE id BETWEEN 2000 AND 2999 AND amount IS NOT NULL;
		INSERT INTO payments (id, note) VALUES (100000, 'the last')`)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, d, time.Minute, "the changes are in the log", func(context.Context) (bool, error) {
		var r struct{ Rows int }
		err := json.Unmarshal([]byte(weft(t, "replay", name, "public.payments", "--key", "100000", "--dry-run", "--json", "-c", folder)), &r)
		return r.Rows == 1, err
	})
	want := pgFacts(t, o.url)

	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	s3 := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(s3.Close)
	t.Setenv("STORAGE_EMULATOR_HOST", fakeGCS(t, "backups"))
	for bucket, config := range map[string]string{
		"folder": folder,
		"gcs":    config("gs://backups?prefix=weft/"),
		"s3":     config("s3://backups?region=eu-north-1&prefix=weft/&use_path_style=true&endpoint=" + s3.URL),
	} {
		t.Run(bucket, func(t *testing.T) {
			var made []struct {
				ID    string
				Rows  int
				Parts []struct{ Name string }
			}
			if err := json.Unmarshal([]byte(weft(t, "archive", "create", name, "--json", "-c", config)), &made); err != nil || len(made) != 1 || len(made[0].Parts) != 1 {
				t.Fatalf("made %+v, %v", made, err)
			}
			weft(t, "archive", "inspect", made[0].ID, "-c", config)
			replayed := filepath.Join(t.TempDir(), "payments.parquet")
			weft(t, "replay", name, "public.payments", "--from", made[0].ID, "--to", replayed, "-c", config)
			files := []string{replayed}
			if bucket == "folder" {
				files = append(files, filepath.Join(dir, "archives", filepath.FromSlash(made[0].ID), "*.parquet"))
			}
			for _, file := range files {
				if got := duck(t, fmt.Sprintf(facts, "sum(epoch_us(made::timestamp))", "'"+file+"'")); !slices.Equal(got, want) {
					t.Errorf("%s: DuckDB has %q,\nPostgreSQL %q", file, got, want)
				}
				types := duck(t, "SELECT typeof(id), typeof(quantity), typeof(ratio), typeof(paid), typeof(amount), typeof(note), typeof(made) FROM '"+file+"' LIMIT 1")
				if !slices.Equal(types, []string{"BIGINT", "BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "VARCHAR", "VARCHAR"}) {
					t.Errorf("%s: types %q", file, types)
				}
			}
			weft(t, "archive", "create", name, "-c", config)
			weft(t, "archive", "prune", name, "--keep", "1", "-c", config)
			var left []struct{ ID, Parent string }
			if err := json.Unmarshal([]byte(weft(t, "archive", "list", name, "--json", "-c", config)), &left); err != nil || len(left) != 1 || left[0].Parent != made[0].ID {
				t.Errorf("left %+v, %v", left, err)
			}
		})
	}
	d.stop()
}

// fakeGCS is Google's object store with an empty bucket. It returns its address.
func fakeGCS(t testing.TB, bucket string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fake, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, PublicHost: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	fake.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: fake.HTTPHandler()}}
	server.Start()
	t.Cleanup(server.Close)
	return l.Addr().String()
}

// pgFacts are the facts as PostgreSQL has them.
func pgFacts(t testing.TB, url string) []string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	rows, err := c.Query(t.Context(), fmt.Sprintf(facts, "sum((extract(epoch FROM made) * 1000000)::bigint)", "payments"), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	var row []string
	for _, text := range rows.RawValues() {
		row = append(row, string(text))
	}
	return row
}
