package polling

import "weft/sources"

// postgresKinds maps the names (typname) of PostgreSQL's types to the Kind that their text has. Every other type is a String.
var postgresKinds = map[string]sources.Type{
	"bool":        {Kind: sources.Bool},
	"int2":        {Kind: sources.Int, Precision: 16},
	"int4":        {Kind: sources.Int, Precision: 32},
	"int8":        {Kind: sources.Int, Precision: 64},
	"oid":         {Kind: sources.Int, Precision: 64},
	"float4":      {Kind: sources.Float, Precision: 32},
	"float8":      {Kind: sources.Float, Precision: 64},
	"numeric":     {Kind: sources.Decimal},
	"money":       {Kind: sources.Decimal}, // read as numeric
	"bytea":       {Kind: sources.Bytes},
	"bit":         {Kind: sources.Bits},
	"varbit":      {Kind: sources.Bits},
	"date":        {Kind: sources.Date},
	"time":        {Kind: sources.Time, Precision: 6},
	"timetz":      {Kind: sources.TimeTZ, Precision: 6},
	"timestamp":   {Kind: sources.Timestamp, Precision: 6},
	"timestamptz": {Kind: sources.TimestampTZ, Precision: 6},
	"interval":    {Kind: sources.Interval, Precision: 6},
	"uuid":        {Kind: sources.UUID},
	"json":        {Kind: sources.JSON},
	"jsonb":       {Kind: sources.JSON},
	"point":       {Kind: sources.Point},
	"hstore":      {Kind: sources.Map},
}

// postgresType is the type of a column: display is its format_type, base the typname below all domains, typmod its modifier,
// and elem the typname of an array's elements.
func postgresType(display, base, elem string, typmod int) sources.Type {
	if elem != "" {
		e := sources.Type{Name: elem}
		if elem != "money" { // an array's text has the currency's sign
			e = postgresType(elem, elem, "", typmod)
		}
		return sources.Type{Kind: sources.Array, Name: display, Elem: &e}
	}
	t := postgresKinds[base]
	t.Name = display
	if typmod < 0 {
		return t
	}
	switch base {
	case "numeric":
		// Precision in the upper 16 bits, scale in the lower 11, signed, above a header of 4.
		m := typmod - 4
		t.Precision, t.Scale = m>>16&0xffff, (m&0x7ff^1024)-1024
	case "bit", "time", "timetz", "timestamp", "timestamptz":
		t.Precision = typmod
	case "interval":
		if p := typmod & 0xffff; p != 0xffff {
			t.Precision = p
		}
	}
	return t
}
