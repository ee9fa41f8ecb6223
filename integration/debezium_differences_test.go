package integration

// differences are all that the dialect debezium does otherwise than Debezium 3.6.1; docs/debezium.md has them for people.
var differences = []difference{}
