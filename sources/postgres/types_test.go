package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

// mapCatalog is a typeCatalog by OID.
type mapCatalog map[uint32]catalogType

func (m mapCatalog) lookup(oid uint32) (catalogType, bool) {
	row, ok := m[oid]
	return row, ok
}

// testCatalog holds rows as a PostgreSQL 15 has them for types that are not built in.
var testCatalog = mapCatalog{
	16386: {Name: "inv.hstore", Kind: 'b', Category: 'U', ExtName: "hstore", Delim: ','},
	16391: {Name: "inv.hstore[]", Kind: 'b', Category: 'A', Elem: 16386, ExtName: "_hstore", Delim: ','},
	16514: {Name: "inv.citext", Kind: 'b', Category: 'S', ExtName: "citext", Delim: ','},
	16619: {Name: "inv.ltree", Kind: 'b', Category: 'U', ExtName: "ltree", Delim: ','},
	16804: {Name: "inv.mood", Kind: 'e', Category: 'E', ExtName: "mood", Delim: ','},
	16803: {Name: "inv.mood[]", Kind: 'b', Category: 'A', Elem: 16804, ExtName: "_mood", Delim: ','},
	16813: {Name: "inv.addr", Kind: 'c', Category: 'C', ExtName: "addr", Delim: ','},
	16815: {Name: "inv.posint", Kind: 'd', Category: 'N', Base: 23, BaseTypeMod: -1, ExtName: "posint", Delim: ','},
	16814: {Name: "inv.posint[]", Kind: 'b', Category: 'A', Elem: 16815, ExtName: "_posint", Delim: ','},
	// Built in, but of little use in a table, so not in builtinTypes.
	2205: {Name: "regclass", Kind: 'b', Category: 'N', ExtName: "regclass", Delim: ','},
	2210: {Name: "regclass[]", Kind: 'b', Category: 'A', Elem: 2205, ExtName: "_regclass", Delim: ','},
	// CREATE DOMAIN price AS numeric(10,2); CREATE DOMAIN low_price AS price; CREATE DOMAIN cash AS money.
	20001: {Name: "inv.price", Kind: 'd', Category: 'N', Base: 1700, BaseTypeMod: 655366, ExtName: "price", Delim: ','},
	20002: {Name: "inv.low_price", Kind: 'd', Category: 'N', Base: 20001, BaseTypeMod: -1, ExtName: "low_price", Delim: ','},
	20003: {Name: "inv.low_price[]", Kind: 'b', Category: 'A', Elem: 20002, ExtName: "_low_price", Delim: ','},
	20004: {Name: "inv.cash", Kind: 'd', Category: 'N', Base: 790, BaseTypeMod: -1, ExtName: "cash", Delim: ','},
	20005: {Name: "inv.cash[]", Kind: 'b', Category: 'A', Elem: 20004, ExtName: "_cash", Delim: ','},
	// CREATE DOMAIN prices AS numeric(10,2)[], and an array of it.
	20006: {Name: "inv.prices", Kind: 'd', Category: 'A', Base: 1231, BaseTypeMod: 655366, ExtName: "prices", Delim: ','},
	20007: {Name: "inv.prices[]", Kind: 'b', Category: 'A', Elem: 20006, ExtName: "_prices", Delim: ','},
	// CREATE DOMAIN square AS box, and an array of it. PostGIS has a delimiter of its own.
	20008: {Name: "inv.square", Kind: 'd', Category: 'G', Base: 603, BaseTypeMod: -1, ExtName: "square", Delim: ';'},
	20009: {Name: "inv.square[]", Kind: 'b', Category: 'A', Elem: 20008, ExtName: "_square", Delim: ';'},
	20010: {Name: "geometry", Kind: 'b', Category: 'U', ExtName: "geometry", Delim: ':'},
	20011: {Name: "geometry[]", Kind: 'b', Category: 'A', Elem: 20010, ExtName: "_geometry", Delim: ':'},
	20012: {Name: "inv.prices_of_old", Kind: 'd', Category: 'A', Base: 20006, BaseTypeMod: -1, ExtName: "prices_of_old", Delim: ','},
	// An enum that is called as an extension's type is, and a range of one's own.
	20013: {Name: "inv.hstore", Kind: 'e', Category: 'E', ExtName: "hstore", Delim: ','},
	20014: {Name: "inv.floatrange", Kind: 'r', Category: 'R', ExtName: "floatrange", Delim: ','},
	20015: {Name: "inv.floatmultirange", Kind: 'm', Category: 'R', ExtName: "floatmultirange", Delim: ','},
	// A catalog in a circle.
	20020: {Name: "loop", Kind: 'd', Base: 20021, BaseTypeMod: -1},
	20021: {Name: "loop[]", Kind: 'b', Category: 'A', Elem: 20020},
}

func array(elem sources.Type) sources.Type {
	return sources.Type{Kind: sources.Array, Name: elem.Name + "[]", Elem: &elem}
}

// The columns of a table with all types, with the OIDs, modifiers and names (format_type) that a PostgreSQL 15 gave.
func TestTypeOfAllTypes(t *testing.T) {
	text := func(name string) sources.Type { return sources.Type{Kind: sources.String, Name: name} }
	numeric10_2 := sources.Type{Kind: sources.Decimal, Name: "numeric(10,2)", Precision: 10, Scale: 2}
	integer := sources.Type{Kind: sources.Int, Name: "integer", Precision: 32}
	timestamp := sources.Type{Kind: sources.Timestamp, Name: "timestamp without time zone", Precision: 6}
	timestamptz := sources.Type{Kind: sources.TimestampTZ, Name: "timestamp with time zone", Precision: 6}
	tests := []struct {
		column string
		oid    uint32
		typmod int32
		want   sources.Type
	}{
		{"id", 23, -1, integer},
		{"c_smallint", 21, -1, sources.Type{Kind: sources.Int, Name: "smallint", Precision: 16}},
		{"c_int", 23, -1, integer},
		{"c_bigint", 20, -1, sources.Type{Kind: sources.Int, Name: "bigint", Precision: 64}},
		{"c_real", 700, -1, sources.Type{Kind: sources.Float, Name: "real", Precision: 32}},
		{"c_double", 701, -1, sources.Type{Kind: sources.Float, Name: "double precision", Precision: 64}},
		{"c_numeric_12_2", 1700, 786438, sources.Type{Kind: sources.Decimal, Name: "numeric(12,2)", Precision: 12, Scale: 2}},
		{"c_numeric_38_0", 1700, 2490372, sources.Type{Kind: sources.Decimal, Name: "numeric(38,0)", Precision: 38}},
		{"c_numeric", 1700, -1, sources.Type{Kind: sources.Decimal, Name: "numeric"}},
		{"c_money", 790, -1, sources.Type{Kind: sources.Decimal, Name: "money", Precision: 19, Scale: 2}},
		{"c_bool", 16, -1, sources.Type{Kind: sources.Bool, Name: "boolean"}},
		{"c_char", 1042, 9, text("character(5)")},
		{"c_varchar", 1043, 24, text("character varying(20)")},
		{"c_text", 25, -1, text("text")},
		{"c_citext", 16514, -1, text("inv.citext")},
		{"c_name", 19, -1, text("name")},
		{"c_bytea", 17, -1, sources.Type{Kind: sources.Bytes, Name: "bytea"}},
		{"c_date", 1082, -1, sources.Type{Kind: sources.Date, Name: "date"}},
		{"c_time", 1083, -1, sources.Type{Kind: sources.Time, Name: "time without time zone", Precision: 6}},
		{"c_time3", 1083, 3, sources.Type{Kind: sources.Time, Name: "time(3) without time zone", Precision: 3}},
		{"c_timetz", 1266, -1, sources.Type{Kind: sources.TimeTZ, Name: "time with time zone", Precision: 6}},
		{"c_ts", 1114, -1, timestamp},
		{"c_ts3", 1114, 3, sources.Type{Kind: sources.Timestamp, Name: "timestamp(3) without time zone", Precision: 3}},
		{"c_ts0", 1114, 0, sources.Type{Kind: sources.Timestamp, Name: "timestamp(0) without time zone"}},
		{"c_tstz", 1184, -1, timestamptz},
		{"c_interval", 1186, -1, sources.Type{Kind: sources.Interval, Name: "interval", Precision: 6}},
		{"c_uuid", 2950, -1, sources.Type{Kind: sources.UUID, Name: "uuid"}},
		{"c_json", 114, -1, sources.Type{Kind: sources.JSON, Name: "json"}},
		{"c_jsonb", 3802, -1, sources.Type{Kind: sources.JSON, Name: "jsonb"}},
		{"c_xml", 142, -1, text("xml")},
		{"c_inet", 869, -1, text("inet")},
		{"c_cidr", 650, -1, text("cidr")},
		{"c_macaddr", 829, -1, text("macaddr")},
		{"c_macaddr8", 774, -1, text("macaddr8")},
		{"c_int4range", 3904, -1, text("int4range")},
		{"c_int8range", 3926, -1, text("int8range")},
		{"c_numrange", 3906, -1, text("numrange")},
		{"c_tsrange", 3908, -1, text("tsrange")},
		{"c_tstzrange", 3910, -1, text("tstzrange")},
		{"c_daterange", 3912, -1, text("daterange")},
		{"c_int_arr", 1007, -1, array(integer)},
		{"c_text_arr", 1009, -1, array(text("text"))},
		{"c_numeric_arr", 1231, 655366, array(numeric10_2)},
		{"c_uuid_arr", 2951, -1, array(sources.Type{Kind: sources.UUID, Name: "uuid"})},
		{"c_tstz_arr", 1185, -1, array(timestamptz)},
		{"c_ts_arr", 1115, -1, array(timestamp)},
		{"c_date_arr", 1182, -1, array(sources.Type{Kind: sources.Date, Name: "date"})},
		{"c_bool_arr", 1000, -1, array(sources.Type{Kind: sources.Bool, Name: "boolean"})},
		{"c_bytea_arr", 1001, -1, array(sources.Type{Kind: sources.Bytes, Name: "bytea"})},
		{"c_jsonb_arr", 3807, -1, array(sources.Type{Kind: sources.JSON, Name: "jsonb"})},
		{"c_mood_arr", 16803, -1, array(text("inv.mood"))},
		{"c_int_2d", 1007, -1, array(integer)}, // a declared number of dimensions is not part of the type
		{"c_mood", 16804, -1, text("inv.mood")},
		{"c_posint", 16815, -1, sources.Type{Kind: sources.Int, Name: "inv.posint", Precision: 32}},
		{"c_hstore", 16386, -1, sources.Type{Kind: sources.Map, Name: "inv.hstore"}},
		{"c_ltree", 16619, -1, text("inv.ltree")},
		{"c_bit1", 1560, 1, sources.Type{Kind: sources.Bits, Name: "bit(1)", Precision: 1}},
		{"c_bit8", 1560, 8, sources.Type{Kind: sources.Bits, Name: "bit(8)", Precision: 8}},
		{"c_varbit", 1562, 10, sources.Type{Kind: sources.Bits, Name: "bit varying(10)"}},
		{"c_oid", 26, -1, sources.Type{Kind: sources.Int, Name: "oid", Precision: 64}},
		{"c_point", 600, -1, sources.Type{Kind: sources.Point, Name: "point"}},
		{"c_box", 603, -1, text("box")},
		{"c_tsvector", 3614, -1, text("tsvector")},
		{"c_addr", 16813, -1, text("inv.addr")},
		{"c_pg_lsn", 3220, -1, text("pg_lsn")},
		{"c_int4mrange", 4451, -1, text("int4multirange")},

		{"small scale", 1700, 329729, sources.Type{Kind: sources.Decimal, Name: "numeric(5,-3)", Precision: 5, Scale: -3}},
		{"least scale", 1700, 132124, sources.Type{Kind: sources.Decimal, Name: "numeric(2,-1000)", Precision: 2, Scale: -1000}},
		{"scale above precision", 1700, 196617, sources.Type{Kind: sources.Decimal, Name: "numeric(3,5)", Precision: 3, Scale: 5}},
		{"greatest scale", 1700, 65537004, sources.Type{Kind: sources.Decimal, Name: "numeric(1000,1000)", Precision: 1000, Scale: 1000}},
		{"numeric array without modifier", 1231, -1, array(sources.Type{Kind: sources.Decimal, Name: "numeric"})},
		{"interval(3)", 1186, 2147418115, sources.Type{Kind: sources.Interval, Name: "interval(3)", Precision: 3}},
		{"interval day to second(2)", 1186, 470286338, sources.Type{Kind: sources.Interval, Name: "interval day to second(2)", Precision: 2}},
		{"interval year to month", 1186, 458751, sources.Type{Kind: sources.Interval, Name: "interval year to month", Precision: 6}},
		{"timetz(0)", 1266, 0, sources.Type{Kind: sources.TimeTZ, Name: "time(0) with time zone"}},
		{"char", 18, -1, text(`"char"`)},
		{"char array", 1002, -1, array(text(`"char"`))},
		{"char(5) array", 1014, 9, array(text("character(5)"))},
		{"bpchar", 1042, -1, text("bpchar")},
		{"bit without length", 1560, -1, sources.Type{Kind: sources.Bits, Name: `"bit"`}},
		{"bit(8) array", 1561, 8, array(sources.Type{Kind: sources.Bits, Name: "bit(8)", Precision: 8})},
		{"varbit", 1562, -1, sources.Type{Kind: sources.Bits, Name: "bit varying"}},
		{"int2vector", 22, -1, text("int2vector")},
		{"money array", 791, -1, array(text("money"))},
		{"box array", 1020, -1, text("box[]")},
		{"hstore array", 16391, -1, array(sources.Type{Kind: sources.Map, Name: "inv.hstore"})},
		{"regclass", 2205, -1, text("regclass")},
		{"regclass array", 2210, -1, array(text("regclass"))},
		{"domain with modifier", 20001, -1, sources.Type{Kind: sources.Decimal, Name: "inv.price", Precision: 10, Scale: 2}},
		{"domain over a domain", 20002, -1, sources.Type{Kind: sources.Decimal, Name: "inv.low_price", Precision: 10, Scale: 2}},
		{"array of a domain", 16814, -1, array(sources.Type{Kind: sources.Int, Name: "inv.posint", Precision: 32})},
		{"array of a domain over a domain", 20003, -1, array(sources.Type{Kind: sources.Decimal, Name: "inv.low_price", Precision: 10, Scale: 2})},
		{"domain over money", 20004, -1, sources.Type{Kind: sources.Decimal, Name: "inv.cash", Precision: 19, Scale: 2}},
		{"array of a domain over money", 20005, -1, array(text("inv.cash"))},
		{"domain over an array", 20006, -1, sources.Type{Kind: sources.Array, Name: "inv.prices", Elem: &numeric10_2}},
		{"domain over a domain over an array", 20012, -1, sources.Type{Kind: sources.Array, Name: "inv.prices_of_old", Elem: &numeric10_2}},
		{"array of a domain over an array", 20007, -1, array(sources.Type{Kind: sources.Array, Name: "inv.prices", Elem: &numeric10_2})},
		{"domain over box", 20008, -1, text("inv.square")},
		{"array of a domain over box", 20009, -1, text("inv.square[]")},
		{"geometry", 20010, -1, text("geometry")},
		{"geometry array", 20011, -1, text("geometry[]")},
		{"enum called hstore", 20013, -1, text("inv.hstore")},
		{"range", 20014, -1, text("inv.floatrange")},
		{"multirange", 20015, -1, text("inv.floatmultirange")},
		{"not in the catalog", 99999, -1, text("unknown type 99999")},
	}
	for _, test := range tests {
		t.Run(test.column, func(t *testing.T) {
			got := typeOf(test.oid, test.typmod, testCatalog)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %s\nwant %s", asJSON(got), asJSON(test.want))
			}
		})
	}
}

func asJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// A catalog in a circle, which no server has, ends.
func TestTypeOfCircle(t *testing.T) {
	if got := typeOf(20020, -1, testCatalog); got.Name != "loop" || got.Kind != sources.Array {
		t.Errorf("got %s", asJSON(got))
	}
}

// Types that are handed out share no memory with the table of built-in types.
func TestTypeOfLeavesBuiltinTypes(t *testing.T) {
	typeOf(numericOID, 786438, testCatalog)
	a := typeOf(1231, 786438, testCatalog)
	a.Elem.Name = "changed"
	if got := typeOf(numericOID, -1, testCatalog); got.Name != "numeric" || got.Precision != 0 {
		t.Errorf("numeric became %s", asJSON(got))
	}
}

func TestBuiltinArrays(t *testing.T) {
	for oid, elem := range builtinArrays {
		if _, ok := builtinTypes[oid]; ok {
			t.Errorf("%d is both a type and an array", oid)
		}
		if _, ok := builtinTypes[elem]; !ok {
			t.Errorf("element %d of array %d is not a built-in type", elem, oid)
		}
	}
}

// forEachServer runs the test against each server that the environment names, in a transaction that is rolled back, with
// the session's settings as the source pins them.
func forEachServer(t *testing.T, test func(*testing.T, context.Context, pgx.Tx)) {
	for _, name := range []string{"WEFT_TEST_POSTGRES_OLDEST", "WEFT_TEST_POSTGRES_NEWEST"} {
		t.Run(name, func(t *testing.T) {
			url := os.Getenv(name)
			if url == "" {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%s is not set", name)
				}
				t.Skipf("%s is not set", name)
			}
			ctx := t.Context()
			config, err := pgx.ParseConfig(url)
			if err != nil {
				t.Fatal(err)
			}
			config.RuntimeParams["bytea_output"] = "hex"
			config.RuntimeParams["lc_monetary"] = "C"
			config.RuntimeParams["search_path"] = "pg_catalog"
			conn, err := pgx.ConnectConfig(ctx, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			tx, err := conn.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
			test(t, ctx, tx)
		})
	}
}

// loadCatalog reads all types that are not in the tables of built-in ones.
func loadCatalog(t *testing.T, ctx context.Context, tx pgx.Tx) mapCatalog {
	t.Helper()
	catalog := mapCatalog{}
	rows, err := tx.Query(ctx, `SELECT oid, format_type(oid, NULL), typtype, typcategory, typbasetype, typtypmod, typelem, typname,
		typdelim FROM pg_type`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var c catalogType
		if err := rows.Scan(&c.OID, &c.Name, &c.Kind, &c.Category, &c.Base, &c.BaseTypeMod, &c.Elem, &c.ExtName, &c.Delim); err != nil {
			t.Fatal(err)
		}
		catalog[c.OID] = c
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return catalog
}

// On a server, each type that we know has the name that we give it, and the same kind that the catalog would tell.
func TestBuiltinTypesOnServer(t *testing.T) {
	forEachServer(t, func(t *testing.T, ctx context.Context, tx pgx.Tx) {
		catalog := loadCatalog(t, ctx, tx)
		for oid, known := range builtinTypes {
			var name string
			if err := tx.QueryRow(ctx, "SELECT format_type($1, -1)", oid).Scan(&name); err != nil {
				t.Fatal(err)
			}
			if known.Name != name && name != "???" { // a later release's type
				t.Errorf("type %d is %s here, %s on the server", oid, known.Name, name)
			}
		}
		for oid, elem := range builtinArrays {
			if row, ok := catalog[oid]; ok && (row.Elem != elem || row.Category != 'A' || row.Delim != ',') {
				t.Errorf("array type %d: elements %d here, on the server %+v", oid, elem, row)
			}
		}
		// What we leave to the catalog has no array of another delimiter that we would take for commas.
		for oid, row := range catalog {
			if got := typeOf(oid, -1, catalog); got.Kind == sources.Array && row.Delim != ',' {
				t.Errorf("%s is an array with the delimiter %c", row.Name, row.Delim)
			}
		}
	})
}

func TestTypeNamesOnServer(t *testing.T) {
	forEachServer(t, func(t *testing.T, ctx context.Context, tx pgx.Tx) {
		var version int
		if err := tx.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
			t.Fatal(err)
		}
		negative := ""
		if version >= 150000 {
			negative = ", numeric_5_3 numeric(5,-3), numeric_3_5 numeric(3,5)"
		}
		for _, sql := range []string{
			"CREATE SCHEMA types_test",
			"CREATE TYPE types_test.mood AS ENUM ('sad')",
			"CREATE TYPE types_test.addr AS (street text)",
			"CREATE DOMAIN types_test.price AS numeric(10,2)",
			"CREATE DOMAIN types_test.low_price AS types_test.price",
			"CREATE DOMAIN types_test.prices AS numeric(10,2)[]",
			"CREATE DOMAIN types_test.square AS box",
			`CREATE TABLE types_test.t (a int, b smallint[], c numeric(12,2), d numeric, e numeric(7,3)[], f char(5), g varchar(20)[],
				h "char", i bit, j bit(9)[], k varbit(4), l varbit, m time(2), n timetz(0)[], o timestamp(3), p timestamptz(1), q interval,
				r interval(3), s interval year, t interval month, u interval day, v interval hour, w interval minute, x interval second,
				y interval year to month, z interval day to hour, aa interval day to minute, ab interval day to second(2),
				ac interval hour to minute, ad interval hour to second, ae interval minute to second(0)[], af bpchar, ag money[],
				ah types_test.mood, ai types_test.mood[], aj types_test.addr, ak types_test.price, al types_test.low_price[],
				am types_test.prices, an types_test.prices[], ao types_test.square[], ap box[], aq int2vector, ar regclass, at text[]
				` + negative + ")",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		catalog := loadCatalog(t, ctx, tx)
		rows, err := tx.Query(ctx, `SELECT attname, atttypid, atttypmod, format_type(atttypid, atttypmod) FROM pg_attribute
			WHERE attrelid = 'types_test.t'::regclass AND attnum > 0`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		columns := 0
		for rows.Next() {
			var column, want string
			var oid uint32
			var typmod int32
			if err := rows.Scan(&column, &oid, &typmod, &want); err != nil {
				t.Fatal(err)
			}
			if got := typeOf(oid, typmod, catalog); got.Name != want {
				t.Errorf("column %s: %s, want %s", column, asJSON(got), want)
			}
			columns++
		}
		if rows.Err() != nil || columns < 40 {
			t.Errorf("%d columns, error %v", columns, rows.Err())
		}
	})
}

func TestNormalizeOnServer(t *testing.T) {
	forEachServer(t, func(t *testing.T, ctx context.Context, tx pgx.Tx) {
		catalog := loadCatalog(t, ctx, tx)
		for _, amount := range []string{"0", "0.01", "-0.5", "999.99", "-1000", "1234567.89", "92233720368547758.07", "-92233720368547758.08"} {
			var text, want string
			query := fmt.Sprintf("SELECT ('%[1]s'::numeric::money)::text, ('%[1]s'::numeric(19,2))::text", amount)
			if err := tx.QueryRow(ctx, query).Scan(&text, &want); err != nil {
				t.Fatal(err)
			}
			money := typeOf(moneyOID, -1, catalog)
			v := sources.Value{Data: []byte(text), State: sources.Present}
			if err := normalize(&money, &v); err != nil || string(v.Data) != want {
				t.Errorf("money %s: %s, %v, want %s", text, v.Data, err, want)
			}
		}
		var text string
		if err := tx.QueryRow(ctx, `SELECT ('\000\377a\\'::bytea)::text`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		bytea := typeOf(17, -1, catalog)
		v := sources.Value{Data: []byte(text), State: sources.Present}
		if err := normalize(&bytea, &v); err != nil || string(v.Data) != "\x00\xffa\\" {
			t.Errorf("bytea %s: %q, %v", text, v.Data, err)
		}
	})
}
