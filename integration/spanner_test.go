package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/spanner"
	database "cloud.google.com/go/spanner/admin/database/apiv1"
	"cloud.google.com/go/spanner/admin/database/apiv1/databasepb"
	instance "cloud.google.com/go/spanner/admin/instance/apiv1"
	"cloud.google.com/go/spanner/admin/instance/apiv1/instancepb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// spannerOrigin is a database of the emulator, whose partitions split, merge and move every two to four seconds. One worker
// writes, since the emulator has one transaction at a time; the daemon reads through a proxy.
type spannerOrigin struct {
	t      testing.TB
	name   string
	client *spanner.Client
	proxy  *spannerProxy
	// options of a snapshot of rows from before the capture; empty for none: then there are none.
	options string
	dial    []option.ClientOption

	rand      *rand.Rand
	n         int             // versions written
	live      map[string]bool // by table and key
	committed []spannerChange
	lost      int // changes of committed, by the emulator
}

// spannerChange is a change that was committed, with its text as described gives it.
type spannerChange struct {
	spannerRow
	text string
}

var spannerTables = map[string][]string{
	"orders": {"id", "name", "n"},
	"lines":  {"order_id", "sku", "body", "n"},
}

func newSpannerOrigin(t testing.TB, name string) *spannerOrigin {
	t.Helper()
	host := server(t, "WEFT_TEST_SPANNER")
	o := &spannerOrigin{t: t, proxy: newSpannerProxy(t, host), live: map[string]bool{}}
	o.dial = []option.ClientOption{option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())), option.WithGRPCConnectionPool(1)}
	if err := o.create(t.Context(), strings.ReplaceAll(name, "_", "-")); err != nil {
		t.Fatalf("make a database of the Spanner emulator: %v", err)
	}
	var err error
	if o.client, err = spanner.NewClientWithConfig(t.Context(), o.name, spanner.ClientConfig{DisableNativeMetrics: true}, o.dial...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.client.Close)
	return o
}

func (o *spannerOrigin) create(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	instances, err := instance.NewInstanceAdminClient(ctx, o.dial...)
	if err != nil {
		return err
	}
	defer instances.Close()
	parent := "projects/p/instances/" + name
	making, err := instances.CreateInstance(ctx, &instancepb.CreateInstanceRequest{
		Parent: "projects/p", InstanceId: name,
		Instance: &instancepb.Instance{Config: "projects/p/instanceConfigs/emulator-config", DisplayName: name, NodeCount: 1},
	})
	if err != nil {
		return err
	}
	if _, err := making.Wait(ctx); err != nil {
		return err
	}
	admin, err := database.NewDatabaseAdminClient(ctx, o.dial...)
	if err != nil {
		return err
	}
	defer admin.Close()
	filling, err := admin.CreateDatabase(ctx, &databasepb.CreateDatabaseRequest{
		Parent: parent, CreateStatement: "CREATE DATABASE `shop`", ExtraStatements: []string{
			"CREATE TABLE orders (id INT64, name STRING(MAX), n INT64) PRIMARY KEY (id)",
			"CREATE TABLE lines (order_id INT64, sku STRING(MAX), body STRING(MAX), n INT64) PRIMARY KEY (order_id, sku DESC)",
			"CREATE TABLE pulse (id INT64) PRIMARY KEY (id)",
			"CREATE CHANGE STREAM changes FOR ALL OPTIONS (value_capture_type = 'NEW_ROW_AND_OLD_VALUES')",
		}})
	if err != nil {
		return err
	}
	_, err = filling.Wait(ctx)
	o.name = parent + "/databases/shop"
	return err
}

// ddl changes the database's schema.
func (o *spannerOrigin) ddl(t testing.TB, statements ...string) {
	t.Helper()
	admin, err := database.NewDatabaseAdminClient(t.Context(), o.dial...)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	changing, err := admin.UpdateDatabaseDdl(t.Context(), &databasepb.UpdateDatabaseDdlRequest{Database: o.name, Statements: statements})
	if err == nil {
		err = changing.Wait(t.Context())
	}
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(statements, "; "), err)
	}
}

// source is the source of a capture.
func (o *spannerOrigin) source() string {
	return fmt.Sprintf(`{type: spanner, database: %q, stream: changes, emulator_host: %q, heartbeat: 200ms, connections: 1}`, o.name, o.proxy.address)
}

func (o *spannerOrigin) capture() string {
	snapshot := "never"
	if o.options != "" {
		snapshot = "initial, snapshot_options: " + o.options
	}
	return fmt.Sprintf(`source: %s, tables: [orders, lines, pulse], snapshot: %s`, o.source(), snapshot)
}

// filledSpanner is how many rows from before the load does not touch.
const filledSpanner = 4000

// newFilledSpanner has rows from before the capture: some that the load writes to, and more that it does not.
func newFilledSpanner(t testing.TB, name, options string) origin {
	t.Helper()
	o := newSpannerOrigin(t, name)
	o.options = options
	var all []*spanner.Mutation
	for i := range filledSpanner / 2 {
		all = append(all, spanner.Insert("orders", spannerTables["orders"], []any{1000 + i, "old é", 0}),
			spanner.Insert("lines", spannerTables["lines"], []any{100 + i/50, fmt.Sprintf("old \"%d\"", i%50), "body", 0}))
	}
	for i := range 100 {
		all = append(all, spanner.Insert("orders", spannerTables["orders"], []any{i, "old", 0}))
		key, err := canonicalOf(map[string]any{"id": strconv.Itoa(i)})
		if err != nil {
			t.Fatal(err)
		}
		o.live["orders"+key] = true
	}
	for ; len(all) > 0; all = all[min(1000, len(all)):] {
		if _, err := o.apply(t.Context(), all[:min(1000, len(all))]...); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func (o *spannerOrigin) topic(table string) string { return table }

func (o *spannerOrigin) pulse(ctx context.Context, id int) error {
	_, err := o.apply(ctx, spanner.Insert("pulse", []string{"id"}, []any{id}))
	return err
}

// apply writes in one transaction, which it begins anew as long as another one, such as that of a split, is open.
func (o *spannerOrigin) apply(ctx context.Context, mutations ...*spanner.Mutation) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return o.client.Apply(ctx, mutations)
}

// load writes until ctx ends.
func (o *spannerOrigin) load(ctx context.Context, seed uint64) error {
	o.rand = rand.New(rand.NewPCG(seed, 0))
	for ctx.Err() == nil {
		if err := o.transaction(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("load Spanner: %w", err)
		}
		time.Sleep(time.Duration(o.rand.IntN(30)) * time.Millisecond)
	}
	return nil
}

// transaction writes 1 to 10 rows, now and then some hundred, each once: of a row that a transaction writes twice, the change
// stream has one version.
func (o *spannerOrigin) transaction(ctx context.Context) error {
	count := 1 + o.rand.IntN(10)
	if o.rand.IntN(50) == 0 {
		count = 100 + o.rand.IntN(100)
	}
	var mutations []*spanner.Mutation
	var changes []spannerChange
	written := map[string]bool{}
	for range count {
		table, keys, columns := "orders", []any{o.rand.IntN(200)}, spannerTables["orders"]
		members := map[string]any{"id": strconv.Itoa(keys[0].(int))}
		if o.rand.IntN(2) == 0 {
			table, keys, columns = "lines", []any{o.rand.IntN(20), fmt.Sprintf("sku \"%d\"", o.rand.IntN(20))}, spannerTables["lines"]
			members = map[string]any{"order_id": strconv.Itoa(keys[0].(int)), "sku": keys[1]}
		}
		streamKey, err := canonicalOf(members) // integers are strings there
		if err != nil {
			return err
		}
		place := table + streamKey
		if written[place] {
			continue
		}
		written[place] = true
		key, err := o.key(table, keys)
		if err != nil {
			return err
		}
		o.n++
		text := fmt.Sprintf("%d %s", o.n, strings.Repeat("é", o.rand.IntN(20)))
		if o.rand.IntN(100) == 0 {
			text = strings.Repeat("0123456789", 1+o.rand.IntN(5000))
		}
		values := append(slices.Clone(keys), text, o.n)
		c := spannerChange{spannerRow{table: table, key: streamKey}, fmt.Sprintf("u %s n %d", key, o.n)}
		switch {
		case !o.live[place]:
			mutations = append(mutations, spanner.Insert(table, columns, values))
			c.text, o.live[place] = fmt.Sprintf("c %s n %d", key, o.n), true
		case o.rand.IntN(4) == 0:
			mutations = append(mutations, spanner.Delete(table, spanner.Key(keys)))
			c.text, o.live[place] = "delete "+key, false
		default:
			mutations = append(mutations, spanner.Update(table, columns, values))
		}
		changes = append(changes, c)
	}
	at, err := o.apply(ctx, mutations...)
	for _, c := range changes {
		c.at = at.UnixNano()
		o.committed = append(o.committed, c)
	}
	return err
}

// key is a key as the topic has it.
func (o *spannerOrigin) key(table string, keys []any) (string, error) {
	members := map[string]any{}
	for i, k := range keys {
		members[spannerTables[table][i]] = k
	}
	return canonicalOf(members)
}

func (o *spannerOrigin) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	tables := map[string]table{}
	for name, columns := range spannerTables {
		want := table{partitions: partitions, rows: map[string]row{}, changes: map[string]int{}, exempt: map[string]bool{}, ordered: o.ordered,
			snapshot: o.options != ""}
		rows := o.client.Single().Read(ctx, name, spanner.AllKeys(), columns)
		if err := rows.Do(func(r *spanner.Row) error { return addSpannerRow(&want, columns, r) }); err != nil {
			return nil, err
		}
		tables[name] = want
	}
	for _, c := range o.committed {
		tables[c.table].changes[c.text]++
	}
	return tables, nil
}

// addSpannerRow adds a row of orders or lines: a key of one or two columns, a text, an integer.
func addSpannerRow(want *table, columns []string, r *spanner.Row) error {
	row, key := map[string]any{}, map[string]any{}
	for i, name := range columns {
		var v any
		if name == "sku" || name == "name" || name == "body" {
			var s string
			if err := r.Column(i, &s); err != nil {
				return err
			}
			v = s
		} else {
			var n int64
			if err := r.Column(i, &n); err != nil {
				return err
			}
			v = n
		}
		row[name] = v
		if i < len(columns)-2 {
			key[name] = v
		}
	}
	rowText, err := canonicalOf(row)
	if err != nil {
		return err
	}
	keyText, err := canonicalOf(key)
	if err != nil {
		return err
	}
	return want.addRow(keyText, rowText)
}

// past tells whether a position is beyond all that load has committed.
func (o *spannerOrigin) past(position []byte) (bool, error) {
	var p struct{ Watermark time.Time }
	if err := decode(position, &p); err != nil {
		return false, err
	}
	return p.Watermark.UnixNano() > o.committed[len(o.committed)-1].at, nil
}

// excuse takes out of the tables what the emulator has lost, and returns why a loss may not be put down to it. Each change that
// is missing is looked for once more, by queries that begin and end at its commit timestamp.
func (o *spannerOrigin) excuse(topics map[string][]record, tables map[string]table) []string {
	had := map[spannerRow]bool{}
	for _, records := range topics {
		for _, r := range records {
			row, err := spannerRowOf(r)
			if err != nil {
				return []string{err.Error()}
			}
			had[row] = true
		}
	}
	var problems []string
	transactions := map[int64]bool{}
	for _, c := range o.committed {
		if had[c.spannerRow] {
			continue
		}
		token, err := o.readAgain(c.spannerRow)
		if err != nil {
			return []string{fmt.Sprintf("read the change stream again: %v", err)}
		}
		if token == "" || !o.proxy.lost(token, c.spannerRow) {
			problems = append(problems, fmt.Sprintf("%s, committed at %s, is missing, and not since the emulator passed it over; the stream has it: %t",
				c.text, time.Unix(0, c.at).UTC().Format(time.RFC3339Nano), token != ""))
			continue
		}
		o.lost++
		transactions[c.at] = true
		key := c.text[strings.IndexByte(c.text, '{') : strings.LastIndexByte(c.text, '}')+1]
		want := tables[c.table]
		want.exempt[key] = true
		if want.changes[c.text]--; want.changes[c.text] == 0 {
			delete(want.changes, c.text)
		}
	}
	o.t.Logf("of %d changes the emulator passed over %d, of %d transactions; it has them when the stream is read again",
		len(o.committed), o.lost, len(transactions))
	if most := 2 + len(o.committed)/1000; len(transactions) > most {
		problems = append(problems, fmt.Sprintf("the emulator lost changes of %d transactions, more than %d: something else is wrong", len(transactions), most))
	}
	return problems
}

// ordered tells whether the source must deliver the second record's change before the first's, that came first with a later
// commit timestamp: it must where the partition of the first is that of the second, or descends from it. The emulator writes
// all changes to whichever partition has the least token, so that a key may come to a partition that has nothing to do with
// the one it was in, and for that there is no order.
func (o *spannerOrigin) ordered(first, second record) bool {
	var rows [2]spannerRow
	for i, r := range []record{first, second} {
		var err error
		if rows[i], err = spannerRowOf(r); err != nil {
			o.t.Error(err)
			return true
		}
	}
	return o.proxy.related(rows[0], rows[1])
}

// spannerRowOf is a record's change: its seq begins with the epoch and the commit timestamp.
func spannerRowOf(r record) (spannerRow, error) {
	parts := strings.Split(r.headers["weft-seq"], ".")
	if len(parts) < 2 {
		return spannerRow{}, fmt.Errorf("%s: no commit timestamp in it", r)
	}
	at, err := strconv.ParseInt(parts[1], 16, 64)
	if err != nil {
		return spannerRow{}, fmt.Errorf("%s: %w", r, err)
	}
	var members map[string]any
	if err := decode(r.key, &members); err != nil {
		return spannerRow{}, fmt.Errorf("%s: %w", r, err)
	}
	for name, v := range members {
		members[name] = fmt.Sprint(v) // integers are strings in the change stream
	}
	key, err := canonicalOf(members)
	return spannerRow{at, r.topic[strings.LastIndexByte(r.topic, '.')+1:], key}, err
}

// readAgain returns the partition that has a change when the change stream is read at its commit timestamp alone, "" if none
// has it.
func (o *spannerOrigin) readAgain(change spannerRow) (token string, err error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	at := time.Unix(0, change.at).UTC()
	for _, one := range o.proxy.alive(at) {
		rows := o.client.Single().Query(ctx, spanner.Statement{
			SQL:    "SELECT ChangeRecord FROM READ_changes(start_timestamp => @at, end_timestamp => @at, partition_token => @token, heartbeat_milliseconds => 10000)",
			Params: map[string]any{"at": at, "token": one},
		})
		if err := rows.Do(func(r *spanner.Row) error {
			var v spanner.GenericColumnValue
			if err := r.Column(0, &v); err != nil {
				return err
			}
			for _, record := range list(v.Value) {
				for _, data := range list(list(record)[0]) {
					found, err := changesOf(list(data))
					if err != nil {
						return err
					}
					if slices.Contains(found, change) {
						token = one
					}
				}
			}
			return nil
		}); err != nil && spanner.ErrCode(err) != codes.OutOfRange { // the partition had ended, and nobody read it to its end
			return "", err
		}
	}
	return token, nil
}
