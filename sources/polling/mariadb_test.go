package polling

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"weft/sources"
)

const mariaOrders = "id BIGINT PRIMARY KEY, state VARCHAR(200)"

func TestMariaDBValidate(t *testing.T) {
	for url, want := range map[string]string{
		"": "url:", "mariadb://u:pa/ss@h": "percent-encoded", "mysql://h": "mariadb://", "mariadb://h/shop": "without a database",
		"mariadb://h?tls=perhaps": "tls", "mariadb://h?x=1": "x is no parameter", "mariadb://u:p@h": "", "mariadb://u:p@h:1?tls=true": "",
	} {
		err := (&MariaDBConfig{URL: url}).Validate()
		if (err != nil) != (want != "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "pa/ss")) {
			t.Errorf("%s: error %v, want %q", url, err, want)
		}
	}
}

// What a server lacks is told by Open, with what mends it; where statements do, they are enough.
func TestMariaDBOpenRefuses(t *testing.T) {
	const column = "updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)"
	tests := []struct {
		name, table string
		key         []string
		want        string
		mends       bool
	}{
		{"no column", mariaOrders, nil, "has no column updated_at", true},
		{"no index", mariaOrders + ", " + column, nil, "has no index", true},
		{"a DATETIME", mariaOrders + ", " + strings.Replace(column, "TIMESTAMP(6)", "DATETIME(6)", 1) + ", INDEX (updated_at)", nil, "time zones", true},
		{"may be NULL", mariaOrders + ", " + strings.Replace(column, "NOT NULL", "NULL", 1) + ", INDEX (updated_at)", nil, "may be NULL", true},
		{"not set on updates", mariaOrders + ", updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), INDEX (updated_at)", nil, "does not set the column", true},
		{"set by the application", mariaOrders + ", updated_at TIMESTAMP(6) NOT NULL DEFAULT '2020-01-01', INDEX (updated_at)", nil, "does not set the column", true},
		{"no transactions", mariaOrders + ", " + column + ", INDEX (updated_at)) ENGINE=(MyISAM", nil, "stored by MyISAM", false},
		{"no key", "id BIGINT, " + column + ", INDEX (updated_at)", nil, "has no primary key", false},
		{"a key of an enum", "id ENUM('b', 'a') PRIMARY KEY, " + column + ", INDEX (updated_at)", nil, "not sorted as it compares", false},
		{"a key that may be NULL", "id BIGINT, " + column + ", INDEX (updated_at)", []string{"id"}, "may be NULL", true},
		{"a key that does not tell rows apart", "id BIGINT NOT NULL, " + column + ", INDEX (updated_at)", []string{"id"}, "no unique index", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := newMariaDB(t)
			m.opts.Tables = []string{m.name + ".orders"}
			if test.key != nil {
				m.opts.Keys = map[string][]string{m.name + ".orders": test.key}
			}
			m.exec("CREATE TABLE " + m.name + ".orders (" + strings.Replace(test.table, "=(", "=", 1) + strings.Repeat(")", 1-strings.Count(test.table, "=(")))
			err := m.openError(m.config())
			wantFatal(t, err, test.want)
			for range 2 {
				if !test.mends || err == nil {
					return
				}
				_, remedy, _ := strings.Cut(err.Error(), "; to mend it: ")
				for line := range strings.Lines(remedy) {
					m.exec(strings.TrimSpace(line))
				}
				var src sources.Source
				if src, err = m.config().Open(t.Context(), m.opts); err == nil {
					src.Close()
				}
			}
			if err != nil {
				t.Errorf("after what was to mend it: %v", err)
			}
		})
	}
}

// Without PROCESS a user sees no transactions but its own, which would look like none.
func TestMariaDBRights(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("orders", mariaOrders, "id")
	user := "u" + m.name
	m.exec("CREATE USER '"+user+"'@'%' IDENTIFIED BY 'secret'", "GRANT SELECT ON "+m.name+".* TO '"+user+"'@'%'")
	t.Cleanup(func() { m.db.Exec("DROP USER '" + user + "'@'%'") })
	c := m.config()
	c.URL = strings.Replace(c.URL, "root@", user+":secret@", 1)
	wantFatal(t, m.openError(c), "GRANT PROCESS")
	m.exec("GRANT PROCESS ON *.* TO '" + user + "'@'%'")
	src, err := c.Open(t.Context(), m.opts)
	if err != nil {
		t.Fatal(err)
	}
	src.Close()
	c.URL = strings.Replace(c.URL, ":secret@", ":wrong@", 1)
	wantFatal(t, m.openError(c), "check the user, the password")
}

// What is open keeps later rows back: an idle transaction, a statement that waits before its transaction starts, a prepared one
// whose connection is gone; also over a restart.
func TestMariaDBHorizon(t *testing.T) {
	run := func(t *testing.T, conn *sql.Conn, statements ...string) {
		t.Helper()
		for _, s := range statements {
			if _, err := conn.ExecContext(t.Context(), s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	set := func(t *testing.T) (*mariaDatabase, sources.Source) {
		m := newMariaDB(t)
		m.prepare("orders", mariaOrders, "id")
		return m, m.start()
	}
	insert := func(m *mariaDatabase, id int) string {
		return fmt.Sprintf("INSERT INTO %s.orders (id, state) VALUES (%d, 'x')", m.name, id)
	}
	ids := func(b sources.Batch) string {
		var out []string
		for _, c := range b.Changes {
			out = append(out, string(c.After[0].Data))
		}
		return strings.Join(out, " ")
	}
	quiet := func(t *testing.T, src sources.Source) {
		t.Helper()
		for range 6 {
			nothing(t, src)
			time.Sleep(60 * time.Millisecond)
		}
	}
	all := func(t *testing.T, src sources.Source, want string) {
		t.Helper()
		var got []string
		for len(strings.Join(got, " ")) < len(want) {
			got = append(got, ids(next(t, src)))
		}
		if strings.Join(got, " ") != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	t.Run("idle transaction", func(t *testing.T) {
		m, src := set(t)
		conn := m.connect()
		run(t, conn, "START TRANSACTION", insert(m, 1))
		time.Sleep(50 * time.Millisecond)
		m.exec(insert(m, 2))
		quiet(t, src)
		run(t, conn, "COMMIT")
		all(t, src, "1 2")
	})
	t.Run("prepared, its connection gone, and a restart", func(t *testing.T) {
		m, src := set(t)
		m.exec(insert(m, 1))
		m.opts.Position = next(t, src).Position
		conn := m.connect()
		run(t, conn, "XA START '"+m.name+"'", insert(m, 2), "XA END '"+m.name+"'", "XA PREPARE '"+m.name+"'")
		conn.Raw(func(any) error { return driver.ErrBadConn })
		m.exec(insert(m, 3))
		src = m.open()
		quiet(t, src)
		src = m.open()
		quiet(t, src)
		m.exec("XA COMMIT '" + m.name + "'")
		all(t, src, "2 3")
	})
	t.Run("waits before its transaction starts", func(t *testing.T) {
		m, src := set(t)
		locker, waiter := m.connect(), m.connect()
		run(t, locker, "LOCK TABLES "+m.name+".orders READ") // which keeps writers out
		run(t, waiter, "SET autocommit = 0")
		written := make(chan error, 1)
		go func() {
			_, err := waiter.ExecContext(t.Context(), insert(m, 1))
			written <- err
		}()
		quiet(t, src)
		time.Sleep(1500 * time.Millisecond) // longer than a margin of a second below the transaction's start
		quiet(t, src)
		run(t, locker, "UNLOCK TABLES")
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		m.exec(insert(m, 2))
		quiet(t, src)
		run(t, waiter, "COMMIT")
		all(t, src, "1 2")
	})
	t.Run("somebody else asks for transactions all the time", func(t *testing.T) {
		m, src := set(t)
		conn, other := m.connect(), m.connect()
		run(t, conn, "START TRANSACTION", insert(m, 1))
		for range 20 {
			run(t, other, "DO (SELECT COUNT(*) FROM information_schema.INNODB_TRX)")
			time.Sleep(15 * time.Millisecond)
		}
		nothing(t, src)
		run(t, conn, "COMMIT")
		all(t, src, "1")
	})
	t.Run("two look at a server", func(t *testing.T) {
		m, src := set(t)
		second := m.start()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			for ctx.Err() == nil {
				second.Next(ctx)
			}
		}()
		m.exec(insert(m, 1))
		all(t, src, "1")
		<-ended
	})
}

// The server's clock goes back: rows since then have times that were read already.
func TestMariaDBClockPutBack(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("orders", mariaOrders, "id")
	var log strings.Builder
	m.opts.Logger = hclog.New(&hclog.LoggerOptions{Output: &log})
	src := m.start().(*source)
	d := src.dialect.(*mariadbDialect)
	m.exec("INSERT INTO " + m.name + ".orders (id, state) VALUES (1, 'a')")
	next(t, src)
	// As if the last look had been made by a clock that was ahead.
	const ahead = 3_600_000_000
	d.looked.clock += ahead
	d.looked.horizon += ahead
	for name, at := range src.position.Tables {
		at.Watermark += ahead
		src.position.Tables[name] = at
	}
	m.exec("INSERT INTO " + m.name + ".orders (id, state) VALUES (2, 'b')")
	seen := ""
	for !strings.Contains(seen, "orders 2 b") {
		for _, c := range next(t, src).Changes {
			seen += fmt.Sprintf("orders %s %s;", c.After[0].Data, c.After[1].Data)
		}
	}
	wantParts(t, fmt.Errorf("%s", log.String()), "clock was put back", "by=1h0m")
	if highest := src.position.highest(); highest > time.Now().Add(time.Minute).UnixMicro() {
		t.Errorf("the position is still at %s", timeOf(highest))
	}
	// While no source was open, it is not known how far back it went.
	p := src.position
	for name, at := range p.Tables {
		at.Watermark += ahead
		p.Tables[name] = at
	}
	position, err := p.encode()
	if err != nil {
		t.Fatal(err)
	}
	m.opts.Position = position
	wantGap(t, m.openError(m.config()), "older state", "its clock is at")
}

// A table that was rebuilt may hold rows with any times: it is read once more. Columns come and go.
func TestMariaDBTableChanges(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("orders", mariaOrders, "id")
	src := m.start()
	m.exec("INSERT INTO " + m.name + ".orders (id, state) VALUES (1, 'a')")
	next(t, src)
	m.exec("ALTER TABLE "+m.name+".orders ADD COLUMN note VARCHAR(10) DEFAULT 'none'", "UPDATE "+m.name+".orders SET state = 'b'")
	c := next(t, src).Changes[0]
	if i := columnIndex(&table{Table: *c.Table}, "note"); i < 0 || string(c.After[i].Data) != "none" || string(c.After[1].Data) != "b" {
		t.Fatalf("the change is %+v", c.After)
	}
	m.exec("CREATE TABLE "+m.name+".spare LIKE "+m.name+".orders", "INSERT INTO "+m.name+".spare (id, state, updated_at) VALUES (9, 'old', '2020-01-01')",
		"DROP TABLE "+m.name+".orders", "RENAME TABLE "+m.name+".spare TO "+m.name+".orders")
	for {
		c = next(t, src).Changes[0]
		if string(c.After[0].Data) == "9" {
			break
		}
	}
}

// Batches end among rows of one time, whatever the type of the key.
func TestMariaDBKeyTypes(t *testing.T) {
	for declared, expression := range map[string]string{
		"BIGINT UNSIGNED": "18446744073709551615 - seq", "VARBINARY(20)": "UNHEX(LPAD(HEX(seq), 6, '0'))", "DECIMAL(10,2)": "seq / 4",
		"VARCHAR(30) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci": `CONCAT(CHAR(34 + seq % 60), '\\''é', seq)`,
		"DATETIME(6)": "NOW(6) + INTERVAL seq SECOND", "TIMESTAMP(3)": "NOW(3) + INTERVAL seq SECOND", "UUID": "UUID()",
		"VARCHAR(30) CHARACTER SET latin1": "CONCAT('ü', seq)",
	} {
		t.Run(declared, func(t *testing.T) {
			m := newMariaDB(t)
			m.opts.BatchBytes = 4 << 10
			m.prepare("orders", "k "+declared+" PRIMARY KEY", "k")
			src := m.start()
			m.exec("INSERT INTO " + m.name + ".orders (k) SELECT " + expression + " FROM " + m.name + ".seq_1_to_200")
			seen, versions := map[string]bool{}, 0
			for more := true; more; {
				b := next(t, src)
				for _, c := range b.Changes {
					seen[string(c.After[0].Data)] = true
					versions++
				}
				more = b.More
			}
			if len(seen) != 200 || versions != 200 {
				t.Errorf("%d of 200 rows were read, in %d versions", len(seen), versions)
			}
		})
	}
}

// Values come in the wire form of their Kind, or as an error that names the row.
func TestMariaDBValues(t *testing.T) {
	values := []struct {
		declared, literal, want string
		kind                    sources.Kind
	}{
		{"TINYINT(1)", "1", "1", sources.Int}, {"INT UNSIGNED", "4294967295", "4294967295", sources.Int},
		{"BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615", sources.Decimal}, {"DECIMAL(12,2)", "129.9", "129.90", sources.Decimal},
		{"FLOAT", "0.1", "0.10000000149011612", sources.Float}, {"DOUBLE", "1e300", "1e+300", sources.Float}, {"DOUBLE", "0.30000000000000004", "0.30000000000000004", sources.Float},
		{"BIT(12)", "b'101000000001'", "101000000001", sources.Bits}, {"BIT(1)", "b'1'", "1", sources.Bits}, {"DATE", "'2026-02-28'", "2026-02-28", sources.Date},
		{"DATETIME(3)", "'2026-02-28 23:59:59.123'", "2026-02-28 23:59:59.123", sources.Timestamp},
		{"TIMESTAMP(6) NULL", "'2026-02-28 12:00:00.5'", "2026-02-28 12:00:00.500000+00", sources.TimestampTZ},
		{"TIME", "'-838:59:59'", "-838:59:59", sources.String}, {"YEAR", "2026", "2026", sources.Int}, {"VARCHAR(9) CHARACTER SET latin1", "'é'", "é", sources.String},
		{"TEXT CHARACTER SET utf8mb4", "'🧵'", "🧵", sources.String}, {"BLOB", "x'00ff'", "\x00\xff", sources.Bytes}, {"ENUM('a','b')", "'b'", "b", sources.String},
		{"UUID", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", sources.UUID}, {"JSON", `'{"a": null}'`, `{"a": null}`, sources.String},
		{"INT", "NULL", "", sources.Int},
	}
	m := newMariaDB(t)
	columns, literals := "id BIGINT PRIMARY KEY", "1"
	names := "id"
	for i, v := range values {
		columns += fmt.Sprintf(", c%d %s", i, v.declared)
		names += fmt.Sprintf(", c%d", i)
		literals += ", " + v.literal
	}
	m.prepare("things", columns, "id")
	src := m.start()
	m.exec("INSERT INTO " + m.name + ".things (" + names + ") VALUES (" + literals + ")")
	c := next(t, src).Changes[0]
	for i, v := range values {
		if got := c.After[i+1]; string(got.Data) != v.want || c.Table.Columns[i+1].Type.Kind != v.kind || (got.State == sources.Null) != (v.literal == "NULL") {
			t.Errorf("%s: got %q (state %d) of kind %d, want %q of kind %d", v.declared, got.Data, got.State, c.Table.Columns[i+1].Type.Kind, v.want, v.kind)
		}
	}
	m.exec("INSERT INTO " + m.name + ".things (id, c9) VALUES (7, '2026-00-00')")
	wantFatal(t, nextError(t, src), `key "7", column c9`, "which is no date")
}

func TestMariaDBCheck(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("orders", "id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY", "id")
	m.prepare("lines", "id BIGINT PRIMARY KEY, o VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, FOREIGN KEY (o) REFERENCES "+m.name+".orders (id) ON UPDATE CASCADE", "id")
	m.exec("CREATE TABLE " + m.name + ".bare (id BIGINT PRIMARY KEY)")
	var lines []string
	for _, f := range m.config().Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: m.opts.Tables}) {
		lines = append(lines, fmt.Sprintf("%s %s: %s [%s]", f.Level, f.Subject, f.Text, f.Remedy))
	}
	has(t, strings.Join(lines, "\n"), "ok horizon: exact as long as only the server sets updated_at", "ok table "+m.name+".orders: key (id), read by the index on updated_at",
		"warning table "+m.name+".orders: the key column id has the collation utf8mb4_general_ci", "warning table "+m.name+".lines: 1 of its foreign keys",
		"problem table "+m.name+".bare: it has no column updated_at", "ADD INDEX")
	// That is why.
	m.exec("INSERT INTO "+m.name+".orders (id) VALUES ('a')", "INSERT INTO "+m.name+".lines (id, o, updated_at) VALUES (1, 'a', '2020-01-01')",
		"UPDATE "+m.name+".orders SET id = 'b'")
	var o, at string
	if err := m.db.QueryRow("SELECT o, updated_at FROM "+m.name+".lines").Scan(&o, &at); err != nil || o != "b" || !strings.HasPrefix(at, "2020") {
		t.Errorf("the cascade gave %s at %s, error %v", o, at, err)
	}
}

// The page query is a range of the index, in its order.
func TestMariaDBPlan(t *testing.T) {
	m := newMariaDB(t)
	m.prepare("orders", mariaOrders, "id")
	m.exec("INSERT INTO " + m.name + ".orders (id) SELECT seq FROM " + m.name + ".seq_1_to_20000")
	src := m.start().(*source)
	tab := src.dialect.(*mariadbDialect).captured[0]
	for name, cursor := range map[string]*columnCursor{"first": nil, "later": {Mark: time.Now().Add(-time.Minute).UnixMicro(), Key: []string{"5"}}} {
		query := (&mariadbView{dialect: src.dialect.(*mariadbDialect)}).pageQuery(tab, time.Now().Add(-time.Hour).UnixMicro(), time.Now().UnixMicro(), cursor, 100)
		var id, kind, table, access, possible, key, keyLen, ref, rows, extra sql.NullString
		if err := m.db.QueryRow("EXPLAIN "+query).Scan(&id, &kind, &table, &access, &possible, &key, &keyLen, &ref, &rows, &extra); err != nil {
			t.Fatal(err)
		}
		if access.String != "range" || key.String != "updated_at" || strings.Contains(extra.String, "filesort") {
			t.Errorf("%s: access %s by %s, %s", name, access.String, key.String, extra.String)
		}
	}
}
