package integration

// refused are values, as the scripts spell them, at which the dialect debezium stops the capture, since Debezium's form
// cannot carry them; each with the reason. The test writes NULL instead.
var refused = map[string]string{
	"'178000000 years'": "microseconds beyond 64 bits; Debezium wraps",
	"'-178000000 years -11 mons -30 days -23:59:59.999999'": "microseconds beyond 64 bits; Debezium wraps",
}

// differences are all that the dialect debezium does otherwise than Debezium 3.6.1; docs/debezium.md has them for people.
var differences = []difference{}
