package postgres

import (
	"fmt"

	"weft/sources"
)

// catalogType is a row of pg_type: what is needed to know of a type that is not built in.
type catalogType struct {
	OID uint32
	// Name is format_type(oid, NULL).
	Name string
	// Kind is typtype: b base, c composite, d domain, e enum, r range, m multirange, p pseudo-type.
	Kind byte
	// Category is typcategory: A for arrays.
	Category byte
	// Base is typbasetype and BaseTypeMod typtypmod, for a domain.
	Base        uint32
	BaseTypeMod int32
	// Elem is typelem, for an array.
	Elem uint32
	// ExtName is typname. The types of extensions have no fixed OID and are told by it.
	ExtName string
	// Delim is typdelim, which stands between an array's elements; 0 is taken for a comma.
	Delim byte
}

// typeCatalog looks up types that are not built in.
type typeCatalog interface {
	lookup(oid uint32) (catalogType, bool)
}

// OIDs of the types that a modifier or the wire form makes special. Built-in OIDs never change:
// https://github.com/postgres/postgres/blob/master/src/include/catalog/pg_type.dat
const (
	moneyOID       = 790
	bpcharOID      = 1042
	varcharOID     = 1043
	timeOID        = 1083
	timestampOID   = 1114
	timestamptzOID = 1184
	intervalOID    = 1186
	timetzOID      = 1266
	bitOID         = 1560
	varbitOID      = 1562
	numericOID     = 1700
)

// Precision of a second's fraction where the type has no modifier.
const defaultTimePrecision = 6

// moneyPrecision and moneyScale are those of a 64-bit count of cents.
const (
	moneyPrecision = 19
	moneyScale     = 2
)

// builtinTypes holds the built-in types as they are without a modifier. A type that is missing is looked up in the
// catalog, as those of extensions are.
var builtinTypes = map[uint32]sources.Type{
	16:             {Kind: sources.Bool, Name: "boolean"},
	17:             {Kind: sources.Bytes, Name: "bytea"},
	18:             {Kind: sources.String, Name: `"char"`},
	19:             {Kind: sources.String, Name: "name"},
	20:             {Kind: sources.Int, Name: "bigint", Precision: 64},
	21:             {Kind: sources.Int, Name: "smallint", Precision: 16},
	22:             {Kind: sources.String, Name: "int2vector"}, // 1 2 3: not an array literal
	23:             {Kind: sources.Int, Name: "integer", Precision: 32},
	25:             {Kind: sources.String, Name: "text"},
	26:             {Kind: sources.Int, Name: "oid", Precision: 64}, // unsigned, of 32 bits
	27:             {Kind: sources.String, Name: "tid"},
	28:             {Kind: sources.String, Name: "xid"},
	29:             {Kind: sources.String, Name: "cid"},
	30:             {Kind: sources.String, Name: "oidvector"},
	114:            {Kind: sources.JSON, Name: "json"},
	142:            {Kind: sources.String, Name: "xml"},
	600:            {Kind: sources.Point, Name: "point"},
	601:            {Kind: sources.String, Name: "lseg"},
	602:            {Kind: sources.String, Name: "path"},
	603:            {Kind: sources.String, Name: "box"},
	604:            {Kind: sources.String, Name: "polygon"},
	628:            {Kind: sources.String, Name: "line"},
	650:            {Kind: sources.String, Name: "cidr"},
	700:            {Kind: sources.Float, Name: "real", Precision: 32},
	701:            {Kind: sources.Float, Name: "double precision", Precision: 64},
	718:            {Kind: sources.String, Name: "circle"},
	774:            {Kind: sources.String, Name: "macaddr8"},
	moneyOID:       {Kind: sources.Decimal, Name: "money", Precision: moneyPrecision, Scale: moneyScale},
	829:            {Kind: sources.String, Name: "macaddr"},
	869:            {Kind: sources.String, Name: "inet"},
	1020:           {Kind: sources.String, Name: "box[]"}, // {(1,1),(0,0);(2,2),(1,1)}: the only one without commas
	bpcharOID:      {Kind: sources.String, Name: "bpchar"},
	varcharOID:     {Kind: sources.String, Name: "character varying"},
	1082:           {Kind: sources.Date, Name: "date"},
	timeOID:        {Kind: sources.Time, Name: "time without time zone", Precision: defaultTimePrecision},
	timestampOID:   {Kind: sources.Timestamp, Name: "timestamp without time zone", Precision: defaultTimePrecision},
	timestamptzOID: {Kind: sources.TimestampTZ, Name: "timestamp with time zone", Precision: defaultTimePrecision},
	intervalOID:    {Kind: sources.Interval, Name: "interval", Precision: defaultTimePrecision},
	timetzOID:      {Kind: sources.TimeTZ, Name: "time with time zone", Precision: defaultTimePrecision},
	bitOID:         {Kind: sources.Bits, Name: `"bit"`}, // quoted: of any length, while bit is bit(1)
	varbitOID:      {Kind: sources.Bits, Name: "bit varying"},
	numericOID:     {Kind: sources.Decimal, Name: "numeric"},
	1790:           {Kind: sources.String, Name: "refcursor"},
	2950:           {Kind: sources.UUID, Name: "uuid"},
	2970:           {Kind: sources.String, Name: "txid_snapshot"},
	3220:           {Kind: sources.String, Name: "pg_lsn"},
	3614:           {Kind: sources.String, Name: "tsvector"},
	3615:           {Kind: sources.String, Name: "tsquery"},
	3802:           {Kind: sources.JSON, Name: "jsonb"},
	3904:           {Kind: sources.String, Name: "int4range"},
	3906:           {Kind: sources.String, Name: "numrange"},
	3908:           {Kind: sources.String, Name: "tsrange"},
	3910:           {Kind: sources.String, Name: "tstzrange"},
	3912:           {Kind: sources.String, Name: "daterange"},
	3926:           {Kind: sources.String, Name: "int8range"},
	4072:           {Kind: sources.String, Name: "jsonpath"},
	4451:           {Kind: sources.String, Name: "int4multirange"},
	4532:           {Kind: sources.String, Name: "nummultirange"},
	4533:           {Kind: sources.String, Name: "tsmultirange"},
	4534:           {Kind: sources.String, Name: "tstzmultirange"},
	4535:           {Kind: sources.String, Name: "datemultirange"},
	4536:           {Kind: sources.String, Name: "int8multirange"},
	5038:           {Kind: sources.String, Name: "pg_snapshot"},
	5069:           {Kind: sources.String, Name: "xid8"}, // unsigned, of 64 bits
}

// builtinArrays maps the built-in array types to their elements'.
var builtinArrays = map[uint32]uint32{
	143:  142,
	199:  114,
	271:  5069,
	629:  628,
	651:  650,
	719:  718,
	775:  774,
	791:  790,
	1000: 16,
	1001: 17,
	1002: 18,
	1003: 19,
	1005: 21,
	1006: 22,
	1007: 23,
	1009: 25,
	1010: 27,
	1011: 28,
	1012: 29,
	1013: 30,
	1014: 1042,
	1015: 1043,
	1016: 20,
	1017: 600,
	1018: 601,
	1019: 602,
	1021: 700,
	1022: 701,
	1027: 604,
	1028: 26,
	1040: 829,
	1041: 869,
	1115: 1114,
	1182: 1082,
	1183: 1083,
	1185: 1184,
	1187: 1186,
	1231: 1700,
	1270: 1266,
	1561: 1560,
	1563: 1562,
	2201: 1790,
	2949: 2970,
	2951: 2950,
	3221: 3220,
	3643: 3614,
	3645: 3615,
	3807: 3802,
	3905: 3904,
	3907: 3906,
	3909: 3908,
	3911: 3910,
	3913: 3912,
	3927: 3926,
	4073: 4072,
	5039: 5038,
	6150: 4451,
	6151: 4532,
	6152: 4533,
	6153: 4534,
	6155: 4535,
	6157: 4536,
}

// maxTypeDepth bounds how many domains and arrays may be made of one another. It ends a catalog that goes in circles.
const maxTypeDepth = 32

// typeOf maps a column's type and modifier (atttypmod, -1 for none) to how its values are to be read. A domain is read as
// the type below it, and keeps its own name. Whatever has no Kind of its own is a String, since text is what it is sent
// as: also a type that the catalog does not know, and an array whose elements have a delimiter other than the comma.
//
// An array of money is an Array of String, each element as the server writes it ($1,234.56): elements are not normalized.
func typeOf(oid uint32, typmod int32, lookup typeCatalog) sources.Type {
	t, _ := resolveType(oid, typmod, lookup, maxTypeDepth)
	return t
}

// resolveType also returns the OID that is below all domains.
func resolveType(oid uint32, typmod int32, lookup typeCatalog, depth int) (t sources.Type, base uint32) {
	if t, ok := builtinTypes[oid]; ok {
		applyModifier(&t, oid, typmod)
		return t, oid
	}
	if elem, ok := builtinArrays[oid]; ok {
		return arrayOf(elem, typmod, lookup, depth), oid
	}
	row, ok := lookup.lookup(oid)
	switch {
	case !ok:
		return sources.Type{Kind: sources.String, Name: fmt.Sprintf("unknown type %d", oid)}, oid
	case depth == 0:
	case row.Kind == 'd':
		t, base = resolveType(row.Base, row.BaseTypeMod, lookup, depth-1)
		t.Name = row.Name
		return t, base
	case row.Kind == 'b' && row.Category == 'A' && row.Elem != 0 && (row.Delim == ',' || row.Delim == 0):
		return arrayOf(row.Elem, typmod, lookup, depth-1), oid
	case row.Kind == 'b' && row.ExtName == "hstore":
		return sources.Type{Kind: sources.Map, Name: row.Name}, oid
	}
	return sources.Type{Kind: sources.String, Name: row.Name}, oid
}

// arrayOf is the type of an array, whose modifier is that of its elements.
func arrayOf(elem uint32, typmod int32, lookup typeCatalog, depth int) sources.Type {
	e, base := resolveType(elem, typmod, lookup, depth)
	if base == moneyOID {
		e = sources.Type{Kind: sources.String, Name: e.Name}
	}
	return sources.Type{Kind: sources.Array, Name: e.Name + "[]", Elem: &e}
}

// applyModifier completes a built-in type by its modifier, whose meaning is the type's own. The name becomes what
// format_type gives: https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/format_type.c
func applyModifier(t *sources.Type, oid uint32, typmod int32) {
	if typmod < 0 {
		return
	}
	// For the types that count characters or digits, the modifier includes the four bytes of a length.
	const header = 4
	switch oid {
	case bpcharOID:
		t.Name = fmt.Sprintf("character(%d)", typmod-header)
	case varcharOID:
		t.Name = fmt.Sprintf("character varying(%d)", typmod-header)
	case bitOID:
		t.Precision = int(typmod)
		t.Name = fmt.Sprintf("bit(%d)", typmod)
	case varbitOID:
		t.Name = fmt.Sprintf("bit varying(%d)", typmod)
	case numericOID:
		// Precision in the upper 16 bits, scale in the lower 11: signed since PostgreSQL 15, up to 1000 before.
		m := typmod - header
		t.Precision = int(m>>16) & 0xffff
		t.Scale = int(m&0x7ff^1024) - 1024
		t.Name = fmt.Sprintf("numeric(%d,%d)", t.Precision, t.Scale)
	case timeOID:
		t.Precision = int(typmod)
		t.Name = fmt.Sprintf("time(%d) without time zone", typmod)
	case timetzOID:
		t.Precision = int(typmod)
		t.Name = fmt.Sprintf("time(%d) with time zone", typmod)
	case timestampOID:
		t.Precision = int(typmod)
		t.Name = fmt.Sprintf("timestamp(%d) without time zone", typmod)
	case timestamptzOID:
		t.Precision = int(typmod)
		t.Name = fmt.Sprintf("timestamp(%d) with time zone", typmod)
	case intervalOID:
		t.Name += intervalFields(typmod >> 16)
		const anyPrecision = 0xffff
		if p := typmod & 0xffff; p != anyPrecision {
			t.Precision = int(p)
			t.Name += fmt.Sprintf("(%d)", p)
		}
	}
}

// intervalFields names the fields that an interval is restricted to, with a space before them; nothing for all fields.
// The bits are those of src/include/utils/datetime.h.
func intervalFields(mask int32) string {
	const month, year, day, hour, minute, second = 1 << 1, 1 << 2, 1 << 3, 1 << 10, 1 << 11, 1 << 12
	switch mask {
	case year:
		return " year"
	case month:
		return " month"
	case day:
		return " day"
	case hour:
		return " hour"
	case minute:
		return " minute"
	case second:
		return " second"
	case year | month:
		return " year to month"
	case day | hour:
		return " day to hour"
	case day | hour | minute:
		return " day to minute"
	case day | hour | minute | second:
		return " day to second"
	case hour | minute:
		return " hour to minute"
	case hour | minute | second:
		return " hour to second"
	case minute | second:
		return " minute to second"
	}
	return ""
}
