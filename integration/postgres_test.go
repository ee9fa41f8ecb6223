package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// newDatabase makes a database of the test's own on the server at url, and drops it with its slots at the end.
func newDatabase(t testing.TB, server, name string) (url string) {
	t.Helper()
	execute := func(sql string) {
		t.Helper()
		c, err := pgx.Connect(context.Background(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		if _, err := c.Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	execute("CREATE DATABASE " + pgx.Identifier{name}.Sanitize())
	t.Cleanup(func() {
		execute(fmt.Sprintf("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '%s' AND active", name))
		for range 50 { // a walsender ends when it next looks
			var active int
			c, err := pgx.Connect(context.Background(), server)
			if err != nil {
				t.Error(err)
				return
			}
			err = c.QueryRow(context.Background(), "SELECT count(*) FROM pg_replication_slots WHERE database = $1 AND active", name).Scan(&active)
			c.Close(context.Background())
			if err != nil {
				t.Error(err)
			}
			if active == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		execute(fmt.Sprintf("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '%s'", name))
		execute("DROP DATABASE " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)")
	})
	return strings.Replace(server, "/postgres?", "/"+name+"?", 1)
}

// pgTable is a table under load. Every version of its rows has a number of its own in column n, and a trigger notes
// every change in the table audit, in the same transaction.
type pgTable struct {
	name, ddl string
	key       []string
	// rows is the SQL expression of a row as the dialect json writes it.
	rows string
}

var pgTables = []pgTable{
	{
		name: "orders", key: []string{"id"},
		ddl: `CREATE TABLE orders(id bigint PRIMARY KEY, n bigint, customer text, amount numeric(12,2), paid bool, at timestamptz, note text)`,
		rows: `jsonb_build_object('id', id, 'n', n, 'customer', customer, 'amount', amount::text, 'paid', paid,
			'at', (to_jsonb(at AT TIME ZONE 'UTC') #>> '{}') || 'Z', 'note', note)`,
	},
	{
		name: "lines", key: []string{"order_id", "pos"},
		ddl:  `CREATE TABLE lines(order_id bigint, pos int, n bigint, sku text, PRIMARY KEY (order_id, pos))`,
		rows: `jsonb_build_object('order_id', order_id, 'pos', pos, 'n', n, 'sku', sku)`,
	},
	{
		// A body is stored outside of the row, so an update of the title does not send it.
		name: "docs", key: []string{"slug"},
		ddl: `CREATE TABLE docs(slug text PRIMARY KEY, n bigint, title text, body text);
			ALTER TABLE docs ALTER body SET STORAGE EXTERNAL`,
		rows: `jsonb_build_object('slug', slug, 'n', n, 'title', title, 'body', body)`,
	},
	{
		name: "counters", key: []string{"id"},
		ddl:  `CREATE TABLE counters(id int PRIMARY KEY, n bigint, c int)`,
		rows: `jsonb_build_object('id', id, 'n', n, 'c', c)`,
	},
	{
		// Its columns come, go, and change their type and name while it is written to.
		name: "evolving", key: []string{"id"},
		ddl:  `CREATE TABLE evolving(id int PRIMARY KEY, n bigint, kind int)`,
		rows: `to_jsonb(evolving)`,
	},
	{
		name: hostile, key: []string{`k"e'y`},
		ddl:  `CREATE TABLE "a""; drop--"("k""e'y" text PRIMARY KEY, n bigint, "va""l'; --" text)`,
		rows: `jsonb_build_object('k"e''y', "k""e'y", 'n', n, 'va"l''; --', "va""l'; --")`,
	},
}

// hostile is a name that whoever forgets to quote falls over.
const hostile = `a"; drop--`

func (p pgTable) ident() string { return pgx.Identifier{p.name}.Sanitize() }

// keySQL is the key of the row OLD or NEW as a JSON object.
func (p pgTable) keySQL(of string) string {
	var parts []string
	for _, column := range p.key {
		parts = append(parts, fmt.Sprintf("'%s', %s.%s", strings.ReplaceAll(column, "'", "''"), of, pgx.Identifier{column}.Sanitize()))
	}
	return "jsonb_build_object(" + strings.Join(parts, ", ") + ")"
}

// pgOrigin is a PostgreSQL database with the tables above.
type pgOrigin struct{ url string }

func newPGOrigin(t testing.TB, name string) *pgOrigin {
	t.Helper()
	o := &pgOrigin{newDatabase(t, server(t, "WEFT_TEST_POSTGRES_NEWEST"), name)}
	schema := []string{"CREATE SEQUENCE n; CREATE TABLE pulse(id int PRIMARY KEY); CREATE TABLE audit(tab text, op text, key jsonb, old_key jsonb, n bigint)"}
	for i, p := range pgTables {
		schema = append(schema, p.ddl, fmt.Sprintf(`
			CREATE FUNCTION audit_%[1]d() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF TG_OP = 'INSERT' THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 'c', %[2]s, NULL, NEW.n);
				ELSIF TG_OP = 'DELETE' THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 'd', %[3]s, NULL, NULL);
				ELSIF TG_OP = 'TRUNCATE' THEN INSERT INTO audit VALUES (TG_TABLE_NAME, 't', NULL, NULL, NULL);
				ELSE INSERT INTO audit VALUES (TG_TABLE_NAME, 'u', %[2]s, %[3]s, NEW.n); END IF;
				RETURN NULL;
			END $$;
			CREATE TRIGGER audit_rows AFTER INSERT OR UPDATE OR DELETE ON %[4]s FOR EACH ROW EXECUTE FUNCTION audit_%[1]d();
			CREATE TRIGGER audit_truncate AFTER TRUNCATE ON %[4]s FOR EACH STATEMENT EXECUTE FUNCTION audit_%[1]d()`,
			i, p.keySQL("NEW"), p.keySQL("OLD"), p.ident()))
	}
	if err := o.exec(t.Context(), strings.Join(schema, ";\n")); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *pgOrigin) exec(ctx context.Context, sql string) error {
	c, err := pgx.Connect(ctx, o.url)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql)
	return errors.Join(err, c.Close(ctx))
}

func (o *pgOrigin) capture() string {
	names := []string{"public.pulse"}
	for _, p := range pgTables {
		names = append(names, "public."+p.name)
	}
	return fmt.Sprintf("source: {type: postgres, url: %q}, tables: [%s], snapshot: never", o.url, quotedList(names))
}

func quotedList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = strconv.Quote(name)
	}
	return strings.Join(quoted, ", ")
}

// topic: what Kafka does not take in a topic's name is an underscore.
func (o *pgOrigin) topic(table string) string {
	return "public." + regexp.MustCompile(`[^A-Za-z0-9._-]`).ReplaceAllString(table, "_")
}

func (o *pgOrigin) pulse(ctx context.Context, id int) error {
	return o.exec(ctx, fmt.Sprintf("INSERT INTO pulse VALUES (%d)", id))
}

// tables gives what each table holds and what was committed to it.
func (o *pgOrigin) tables(ctx context.Context, partitions int32) (map[string]table, error) {
	c, err := pgx.Connect(ctx, o.url)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	tables := map[string]table{}
	for _, p := range pgTables {
		want := table{partitions: partitions, rows: map[string]row{}, changes: map[string]int{}}
		rows, err := c.Query(ctx, fmt.Sprintf("SELECT %s::text, (%s)::text FROM %s", p.keySQL(p.ident()), p.rows, p.ident()))
		if err != nil {
			return nil, err
		}
		var key, value string
		if _, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { return want.addRow(key, value) }); err != nil {
			return nil, err
		}
		rows, err = c.Query(ctx, "SELECT op, coalesce(key::text, ''), coalesce(old_key::text, ''), coalesce(n, 0) FROM audit WHERE tab = $1", p.name)
		if err != nil {
			return nil, err
		}
		var op, old string
		var n int64
		if _, err = pgx.ForEachRow(rows, []any{&op, &key, &old, &n}, func() error { return want.addChange(op, key, old, n) }); err != nil {
			return nil, err
		}
		tables[p.name] = want
	}
	return tables, nil
}

func (w table) addRow(key, value string) error {
	k, err := canonical([]byte(key))
	if err != nil {
		return err
	}
	var r row
	if err := decode([]byte(value), &r); err != nil {
		return err
	}
	w.rows[k] = r
	return nil
}

func (w table) addChange(op, key, old string, n int64) error {
	if op == "t" {
		for partition := range w.partitions {
			w.changes[fmt.Sprintf("truncate of partition %d", partition)]++
		}
		return nil
	}
	k, err := canonical([]byte(key))
	if err != nil {
		return err
	}
	switch {
	case op == "d":
		w.changes["delete "+k]++
	case op == "u" && key != old:
		o, err := canonical([]byte(old))
		if err != nil {
			return err
		}
		w.changes["moved from "+o]++
		w.changes[fmt.Sprintf("moved to %s n %d", k, n)]++
	default:
		w.changes[fmt.Sprintf("%s %s n %d", op, k, n)]++
	}
	return nil
}

// load writes from four connections until ctx ends.
func (o *pgOrigin) load(ctx context.Context, seed uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	for worker := range uint64(4) {
		g.Go(func() error {
			c, err := pgx.Connect(context.WithoutCancel(ctx), o.url)
			if err != nil {
				return err
			}
			defer c.Close(context.WithoutCancel(ctx))
			r := rand.New(rand.NewPCG(seed, worker))
			for ctx.Err() == nil {
				// A transaction that has begun ends, so that its outcome is known.
				if err := pgTransaction(context.WithoutCancel(ctx), c, r); err != nil {
					return fmt.Errorf("load PostgreSQL: %w", err)
				}
				time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
			}
			return nil
		})
	}
	g.Go(func() error { return o.evolve(ctx, seed) })
	if err := g.Wait(); err != nil {
		return err
	}
	// Only a change tells a row's columns as they are now.
	return o.exec(context.WithoutCancel(ctx), "UPDATE evolving SET n = nextval('n')")
}

// evolve changes the columns of the table evolving until ctx ends, every now and then in the middle of a transaction that
// writes to it before and after.
func (o *pgOrigin) evolve(ctx context.Context, seed uint64) error {
	c, err := pgx.Connect(context.WithoutCancel(ctx), o.url)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	r := rand.New(rand.NewPCG(seed, 1000))
	const write = "INSERT INTO evolving SELECT g, nextval('n') FROM generate_series(1, 3) g ON CONFLICT (id) DO UPDATE SET n = excluded.n; "
	for i := 0; ctx.Err() == nil; i++ {
		for _, change := range []string{
			"ADD COLUMN c%[1]d text DEFAULT 'default of %[1]d'",
			"ALTER COLUMN kind TYPE text",
			"RENAME COLUMN c%[1]d TO d%[1]d",
			"ALTER COLUMN kind TYPE int USING NULL",
			"DROP COLUMN d%[1]d",
		} {
			sql := "ALTER TABLE evolving " + strings.ReplaceAll(change, "%[1]d", strconv.Itoa(i)) + "; "
			if r.IntN(2) == 0 {
				sql = "BEGIN; " + write + sql + write + "COMMIT"
			}
			_, err := c.Exec(context.WithoutCancel(ctx), sql)
			var refused *pgconn.PgError
			if errors.As(err, &refused) && refused.Code == "40P01" { // a deadlock with the load
				_, err = c.Exec(context.WithoutCancel(ctx), "ROLLBACK; ALTER TABLE evolving "+strings.ReplaceAll(change, "%[1]d", strconv.Itoa(i)))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
			time.Sleep(time.Duration(50+r.IntN(300)) * time.Millisecond)
		}
	}
	return nil
}

func pgTransaction(ctx context.Context, c *pgx.Conn, r *rand.Rand) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	statements := 1
	switch p := r.IntN(100); {
	case p < 5:
		statements = 10 + r.IntN(40)
	case p < 40:
		statements = 2 + r.IntN(8)
	}
	for range statements {
		sql, args := pgStatement(r)
		for _, one := range strings.Split(sql, ";\n") {
			if _, err := tx.Exec(ctx, one, args...); err != nil {
				var refused *pgconn.PgError
				// A key that another row has, or a deadlock: part of the load. The transaction leaves nothing.
				if errors.As(err, &refused) && (refused.Code == "23505" || refused.Code == "40P01") {
					return tx.Rollback(ctx)
				}
				return errors.Join(fmt.Errorf("%s: %w", one, err), tx.Rollback(ctx))
			}
		}
	}
	switch p := r.IntN(100); {
	case p < 5:
		return tx.Rollback(ctx)
	case p < 9:
		return inTwoPhases(ctx, c, r)
	}
	return tx.Commit(ctx)
}

// inTwoPhases prepares the transaction that c is in, and ends it a little later.
func inTwoPhases(ctx context.Context, c *pgx.Conn, r *rand.Rand) error {
	name := fmt.Sprintf("'load %s %x'", c.Config().Database, r.Uint64()) // unique in the whole server
	if _, err := c.Exec(ctx, "PREPARE TRANSACTION "+name); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
	end := "COMMIT PREPARED "
	if r.IntN(4) == 0 {
		end = "ROLLBACK PREPARED "
	}
	_, err := c.Exec(ctx, end+name)
	return err
}

// pgStatement is one of the load's statements, or several that take the same arguments.
func pgStatement(r *rand.Rand) (string, []any) {
	id := func(n int) int { return 1 + r.IntN(n) }
	slug := func() string { return fmt.Sprintf(`doc %d "q" \ ключ`, r.IntN(120)) }
	amount := fmt.Sprintf("%d.%02d", r.IntN(1e6), r.IntN(100))
	const upsertOrder = `INSERT INTO orders VALUES ($1::int, nextval('n'), 'c ' || $2::text, $2::numeric, true, clock_timestamp(), NULL)
		ON CONFLICT (id) DO UPDATE SET n = excluded.n, amount = excluded.amount, at = excluded.at, note = 'again'`
	switch p := r.IntN(1000); {
	case p < 230:
		return upsertOrder, []any{id(400), amount}
	case p < 400:
		return `UPDATE orders SET n = nextval('n'), amount = amount + 1.01, paid = NOT paid WHERE id = $1`, []any{id(400)}
	case p < 450:
		return `DELETE FROM orders WHERE id = $1`, []any{id(400)}
	case p < 520:
		return `UPDATE orders SET n = nextval('n'), id = $2 WHERE id = $1`, []any{id(400), id(4000)}
	case p < 580:
		return `DELETE FROM orders WHERE id = $1::int AND $2::text <> '';
			` + upsertOrder, []any{id(400), amount}
	case p < 650:
		return `INSERT INTO docs VALUES ($1, nextval('n'), 'new', repeat(md5(random()::text), 200))
			ON CONFLICT (slug) DO UPDATE SET n = excluded.n, body = excluded.body`, []any{slug()}
	case p < 770:
		return `UPDATE docs SET n = nextval('n'), title = $2 WHERE slug = $1`, []any{slug(), amount}
	case p < 810:
		return `UPDATE docs SET n = nextval('n'), slug = $2 WHERE slug = $1`, []any{slug(), slug()}
	case p < 835:
		return `DELETE FROM docs WHERE slug = $1`, []any{slug()}
	case p < 880:
		return `INSERT INTO "a""; drop--" VALUES ($1, nextval('n'), $2) ON CONFLICT ("k""e'y") DO UPDATE SET n = excluded.n, "va""l'; --" = excluded."va""l'; --"`,
			[]any{slug(), amount}
	case p < 890:
		return `DELETE FROM "a""; drop--" WHERE "k""e'y" = $1`, []any{slug()}
	case p < 930:
		return `INSERT INTO evolving(id, n) VALUES ($1, nextval('n')) ON CONFLICT (id) DO UPDATE SET n = excluded.n`, []any{id(60)}
	case p < 980:
		return `INSERT INTO counters VALUES ($1, nextval('n'), 1) ON CONFLICT (id) DO UPDATE SET n = excluded.n, c = counters.c + 1`, []any{id(20)}
	case p < 990:
		return `INSERT INTO lines SELECT $1::int, g, nextval('n'), 'sku ' || g FROM generate_series(1, $2::int) g
			ON CONFLICT (order_id, pos) DO UPDATE SET n = excluded.n`, []any{id(20), bulk(r)}
	case p < 994:
		return `UPDATE lines SET n = nextval('n'), sku = sku || '.' WHERE order_id = $1 AND pos <= $2`, []any{id(20), bulk(r)}
	case p < 996:
		return `UPDATE lines SET n = nextval('n'), order_id = order_id + 100 WHERE order_id = $1`, []any{id(20)}
	case p < 999:
		return `DELETE FROM lines WHERE order_id = $1`, []any{id(20)}
	default:
		return `TRUNCATE counters`, nil
	}
}

// bulk is a number of rows: a few hundred, seldom thousands.
func bulk(r *rand.Rand) int {
	if r.IntN(10) == 0 {
		return 1000 + r.IntN(4000)
	}
	return 50 + r.IntN(300)
}
