package main

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloud.google.com/go/spanner"
	database "cloud.google.com/go/spanner/admin/database/apiv1"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	instance "cloud.google.com/go/spanner/admin/instance/apiv1"
	"cloud.google.com/go/spanner/admin/instance/apiv1/instancepb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"weft/integration/services"
)

// spannerBench is a backlog of a change stream of the emulator.
type spannerBench struct {
	*streamBench
	service  *services.Spanner
	database string
	client   *spanner.Client
	since    time.Time // right behind which the backlog begins
}

// measureSpanner drains the backlog in turns, and looks at the idle daemon.
func measureSpanner(ctx context.Context, p plan) error {
	if services.FindSpanner() == "" && os.Getenv("CI") != "true" {
		fmt.Println("spanner: not measured, since its emulator is not installed")
		return nil
	}
	s, err := prepareSpanner(ctx, p)
	if err != nil {
		return err
	}
	defer s.close()
	fmt.Printf("orders: a backlog of %d changes in transactions of 100 (70 updates, 20 inserts, 10 deletes), value capture type NEW_ROW_AND_OLD_VALUES\n", s.changes)
	return s.measure(ctx, "spanner", s.drainBare)
}

// prepareSpanner makes the table, lets the daemon make its topics and a first checkpoint for each round, and then makes the backlog.
func prepareSpanner(ctx context.Context, p plan) (_ *spannerBench, err error) {
	s := &spannerBench{}
	if s.streamBench, err = newStreamBench(ctx, p); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.service, err = services.StartSpanner(ctx, services.FindSpanner(), filepath.Join(s.dir, "spanner")); err != nil {
		return nil, err
	}
	if err := s.create(ctx); err != nil {
		return nil, fmt.Errorf("make a database of the Spanner emulator: %w", err)
	}
	if s.client, err = s.connect(ctx); err != nil {
		return nil, err
	}
	s.source = fmt.Sprintf("{type: spanner, database: %q, stream: changes, emulator_host: %q}", s.database, s.service.Host)
	s.tables = "[orders]"
	s.insert = func(ctx context.Context, id int) error {
		return s.apply(ctx, spanner.Insert("orders", orderColumns, order(id, 0)))
	}
	var rows []*spanner.Mutation
	for id := range spannerRows {
		rows = append(rows, spanner.Insert("orders", orderColumns, order(id, 0)))
	}
	if err := s.apply(ctx, rows...); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	return s, s.makeBacklog(ctx)
}

func (s *spannerBench) options() []option.ClientOption {
	return []option.ClientOption{option.WithEndpoint(s.service.Host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
}

func (s *spannerBench) connect(ctx context.Context) (*spanner.Client, error) {
	return spanner.NewClientWithConfig(ctx, s.database, spanner.ClientConfig{DisableNativeMetrics: true}, s.options()...)
}

func (s *spannerBench) create(ctx context.Context) error {
	instances, err := instance.NewInstanceAdminClient(ctx, s.options()...)
	if err != nil {
		return err
	}
	defer instances.Close()
	making, err := instances.CreateInstance(ctx, &instancepb.CreateInstanceRequest{
		Parent: "projects/p", InstanceId: "bench",
		Instance: &instancepb.Instance{Config: "projects/p/instanceConfigs/emulator-config", DisplayName: "bench", NodeCount: 1},
	})
	if err == nil {
		_, err = making.Wait(ctx)
	}
	if err != nil {
		return err
	}
	admin, err := database.NewDatabaseAdminClient(ctx, s.options()...)
	if err != nil {
		return err
	}
	defer admin.Close()
	const parent = "projects/p/instances/bench"
	s.database = parent + "/databases/shop"
	filling, err := admin.CreateDatabase(ctx, &databasepb.CreateDatabaseRequest{
		Parent: parent, CreateStatement: "CREATE DATABASE `shop`", ExtraStatements: []string{
			"CREATE TABLE orders (id INT64, ref STRING(36), amount NUMERIC, note STRING(MAX), doc JSON, changed TIMESTAMP) PRIMARY KEY (id)",
			"CREATE CHANGE STREAM changes FOR orders OPTIONS (value_capture_type = 'NEW_ROW_AND_OLD_VALUES')",
		}})
	if err == nil {
		_, err = filling.Wait(ctx)
	}
	return err
}

// spannerRows is how many rows the table has from before the backlog.
const spannerRows = 1000

var orderColumns = []string{"id", "ref", "amount", "note", "doc", "changed"}

func order(id, n int) []any {
	doc := fmt.Sprintf(`{"customer": %d, "city": "Utrecht", "tags": ["new", "web", "eu"], "lines": [{"sku": "sku-%d", "count": %d, "price": %d.25}], "text": "%s"}`,
		n%1000, n, n%7, n%9999, strings.Repeat("what somebody had to say ", 4))
	return []any{id, fmt.Sprintf("%08x-0000-4000-8000-%012x", n, id), *big.NewRat(int64(n%100_000), 4), fmt.Sprintf("note of order %d", id),
		spanner.NullJSON{Value: rawJSON(doc), Valid: true}, time.Unix(1_800_000_000+int64(n), 0)}
}

// rawJSON is written as it is.
type rawJSON string

func (j rawJSON) MarshalJSON() ([]byte, error) { return []byte(j), nil }

func (s *spannerBench) apply(ctx context.Context, mutations ...*spanner.Mutation) error {
	at, err := s.client.Apply(ctx, mutations)
	s.since = at
	return err
}

// makeBacklog writes transactions of 100 changes of rows that are all different: of a row that a transaction writes twice, a change stream
// has one version.
func (s *spannerBench) makeBacklog(ctx context.Context) error {
	since := s.since.Add(time.Microsecond)
	for turn := range s.changes / 100 {
		oldest, next := 10*turn, spannerRows+20*turn
		var writes []*spanner.Mutation
		for i := range 10 {
			writes = append(writes, spanner.Delete("orders", spanner.Key{oldest + i}))
		}
		for i := range 20 {
			writes = append(writes, spanner.Insert("orders", orderColumns, order(next+i, turn)))
		}
		live := next - oldest - 10
		for i := range 70 {
			id := oldest + 10 + (turn*70+i)%live
			writes = append(writes, spanner.Update("orders", []string{"id", "note", "changed"}, []any{id, fmt.Sprintf("changed by turn %d", turn), time.Unix(1_800_000_000+int64(turn), 0)}))
		}
		if err := s.apply(ctx, writes...); err != nil {
			return fmt.Errorf("make the backlog: %w", err)
		}
	}
	s.since = since
	return nil
}

// drainBare reads the backlog with the client, partition by partition, asked for what the daemon asks for, and does nothing with it but
// count, and look for partitions.
func (s *spannerBench) drainBare(ctx context.Context) (drain, error) {
	began, before := time.Now(), ownCPU()
	client, err := s.connect(ctx)
	if err != nil {
		return drain{}, err
	}
	defer client.Close()
	type partition struct {
		token spanner.NullString
		from  time.Time
	}
	known, changes := map[string]bool{}, 0
	for left := []partition{{from: s.since}}; len(left) > 0 && changes < s.changes; left = left[1:] {
		rows := client.Single().Query(ctx, spanner.Statement{
			SQL:    "SELECT ChangeRecord FROM READ_changes(start_timestamp => @from, end_timestamp => NULL, partition_token => @token, heartbeat_milliseconds => 5000)",
			Params: map[string]any{"from": left[0].from, "token": left[0].token},
		})
		for changes < s.changes {
			row, err := rows.Next()
			if errors.Is(err, iterator.Done) {
				break
			}
			var v spanner.GenericColumnValue
			if err == nil {
				err = row.Column(0, &v)
			}
			if err != nil {
				rows.Stop()
				return drain{}, err
			}
			for _, record := range list(v.Value) {
				kinds := list(record) // data change, heartbeat and child partitions records
				for _, data := range list(kinds[0]) {
					changes += len(list(list(data)[6]))
				}
				for _, children := range list(kinds[2]) {
					from, err := time.Parse(time.RFC3339Nano, list(children)[0].GetStringValue())
					if err != nil {
						rows.Stop()
						return drain{}, err
					}
					for _, child := range list(list(children)[2]) {
						if token := list(child)[0].GetStringValue(); !known[token] {
							known[token] = true
							left = append(left, partition{spanner.NullString{StringVal: token, Valid: true}, from})
						}
					}
				}
			}
		}
		rows.Stop()
	}
	if changes < s.changes {
		return drain{}, fmt.Errorf("the change stream has %d changes of %d", changes, s.changes)
	}
	return drain{changes: changes, took: time.Since(began), cpu: ownCPU() - before}, nil
}

func list(v *structpb.Value) []*structpb.Value { return v.GetListValue().GetValues() }

// close ends what prepareSpanner started.
func (s *spannerBench) close() {
	if s.client != nil {
		s.client.Close()
	}
	if s.service != nil {
		s.service.Stop()
	}
	s.streamBench.close()
}
