package spanner

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	database "cloud.google.com/go/spanner/admin/database/apiv1"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	instance "cloud.google.com/go/spanner/admin/instance/apiv1"
	"cloud.google.com/go/spanner/admin/instance/apiv1/instancepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/sources"
)

// findEmulator returns the path of Spanner's emulator, which no package registry has: SPANNER_EMULATOR_BIN, emulator_main on
// PATH, or what the Google Cloud CLI has installed.
func findEmulator() string {
	if bin := os.Getenv("SPANNER_EMULATOR_BIN"); bin != "" {
		return bin
	}
	if bin, err := exec.LookPath("emulator_main"); err == nil {
		return bin
	}
	var roots []string
	if gcloud, err := exec.LookPath("gcloud"); err == nil {
		if gcloud, err = filepath.EvalSymlinks(gcloud); err == nil {
			roots = append(roots, filepath.Dir(filepath.Dir(gcloud)))
		}
	}
	for _, root := range append(roots, "/usr/lib/google-cloud-sdk") {
		bin := filepath.Join(root, "bin", "cloud_spanner_emulator", "emulator_main")
		if _, err := os.Stat(bin); err == nil {
			return bin
		}
	}
	return ""
}

var emulator struct {
	start sync.Once
	host  string
	err   error
	cmd   *exec.Cmd
	count atomic.Int64
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		defer func() {
			if emulator.cmd != nil {
				_ = emulator.cmd.Process.Kill() // it holds nothing but memory
				_ = emulator.cmd.Wait()
			}
		}()
		return m.Run()
	}())
}

// emulatorHost starts the emulator with the first test that needs it. Partitions live for two seconds.
func emulatorHost(t testing.TB) string {
	t.Helper()
	bin := findEmulator()
	if bin == "" {
		skip := t.Skip
		if os.Getenv("CI") == "true" {
			skip = t.Fatal
		}
		skip("needs the Spanner emulator: set SPANNER_EMULATOR_BIN, have emulator_main on PATH, or gcloud components install cloud-spanner-emulator")
	}
	emulator.start.Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			emulator.err = err
			return
		}
		emulator.host = l.Addr().String()
		_ = l.Close() // only its port was wanted
		emulator.cmd = exec.Command(bin, "--host_port="+emulator.host, "--override_change_stream_partition_token_alive_seconds=2")
		if emulator.err = emulator.cmd.Start(); emulator.err != nil {
			emulator.cmd = nil
			return
		}
		for range 100 {
			var c net.Conn
			if c, emulator.err = net.Dial("tcp", emulator.host); emulator.err == nil {
				_ = c.Close()
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	if emulator.err != nil {
		t.Fatalf("start the emulator: %v", emulator.err)
	}
	return emulator.host
}

func emulatorOptions(host string) []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// testDatabase is a fresh database of the emulator.
type testDatabase struct {
	host, name string
	client     *spanner.Client
	writing    sync.Mutex // the emulator has one read-write transaction at a time
	writes     atomic.Int64
}

func newTestDatabase(t testing.TB, dialect databasepb.DatabaseDialect, ddl ...string) *testDatabase {
	t.Helper()
	host := emulatorHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	instances, err := instance.NewInstanceAdminClient(ctx, emulatorOptions(host)...)
	if err != nil {
		t.Fatal(err)
	}
	defer instances.Close()
	n := emulator.count.Add(1)
	name := fmt.Sprintf("projects/p/instances/i%d", n)
	making, err := instances.CreateInstance(ctx, &instancepb.CreateInstanceRequest{
		Parent: "projects/p", InstanceId: fmt.Sprintf("i%d", n),
		Instance: &instancepb.Instance{Config: "projects/p/instanceConfigs/emulator-config", DisplayName: "test", NodeCount: 1},
	})
	if err == nil {
		_, err = making.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	admin, err := database.NewDatabaseAdminClient(ctx, emulatorOptions(host)...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	create := "CREATE DATABASE `shop`"
	if dialect == databasepb.DatabaseDialect_POSTGRESQL {
		create = `CREATE DATABASE "shop"`
	}
	op, err := admin.CreateDatabase(ctx, &databasepb.CreateDatabaseRequest{Parent: name, CreateStatement: create, DatabaseDialect: dialect})
	if err == nil {
		_, err = op.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	d := &testDatabase{host: host, name: name + "/databases/shop"}
	d.ddl(t, ddl...)
	// One connection, made here: the conformance suite counts goroutines.
	d.client, err = spanner.NewClientWithConfig(ctx, d.name, spanner.ClientConfig{DisableNativeMetrics: true},
		append(emulatorOptions(host), option.WithGRPCConnectionPool(1))...)
	if err == nil {
		_, err = d.client.ReadWriteTransaction(ctx, func(context.Context, *spanner.ReadWriteTransaction) error { return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.client.Close)
	return d
}

func (d *testDatabase) ddl(t testing.TB, statements ...string) {
	t.Helper()
	d.writes.Add(1)
	if err := d.tryDDL(t.Context(), statements...); err != nil {
		t.Fatalf("%s: %v", strings.Join(statements, "; "), err)
	}
}

func (d *testDatabase) tryDDL(ctx context.Context, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	admin, err := database.NewDatabaseAdminClient(ctx, emulatorOptions(d.host)...)
	if err != nil {
		return err
	}
	defer admin.Close()
	op, err := admin.UpdateDatabaseDdl(ctx, &databasepb.UpdateDatabaseDdlRequest{Database: d.name, Statements: statements})
	if err != nil {
		return err
	}
	return op.Wait(ctx)
}

func (d *testDatabase) config(stream string) *testConfig {
	return &testConfig{db: d, Config: Config{Database: d.name, Stream: stream, EmulatorHost: d.host, Heartbeat: 200 * time.Millisecond, Connections: 1}}
}

type testConfig struct {
	Config
	db *testDatabase
}

// OpenReader returns a reader whose chunks are all of the present: the conformance suite reads what it has just written.
func (c *testConfig) OpenReader(ctx context.Context, o sources.OpenOptions) (sources.Reader, error) {
	r, err := c.openReader(ctx, o)
	if err != nil {
		return nil, err
	}
	return &presentReader{rowReader: r.(*rowReader), db: c.db}, nil
}

type presentReader struct {
	*rowReader
	db  *testDatabase
	saw int64 // of the database's writes
}

func (r *presentReader) ReadChunk(ctx context.Context, q sources.ChunkRequest) (*sources.Chunk, error) {
	if writes := r.db.writes.Load(); writes > r.saw {
		r.saw = writes
		if err := r.present(ctx); err != nil {
			return nil, r.explain(ctx, q, err)
		}
	}
	return r.rowReader.ReadChunk(ctx, q)
}

// present has the next read be of the database's present.
func (r *presentReader) present(ctx context.Context) error {
	tx := r.client.Single()
	defer tx.Close()
	err := each(ctx, tx, spanner.NewStatement("SELECT 1"), func(*spanner.Row) error { return nil })
	if err != nil {
		return err
	}
	now, err := tx.Timestamp()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = max(r.at, stampOf(now))
	return err
}
