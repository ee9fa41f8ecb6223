// Package sources defines what a source is: the Source interface and the types that cross it (Change, Batch, Position,
// Table, Value), and the errors by which a source says that it cannot go on.
//
// No datastore's code lives here. A datastore kind has a folder of its own below this one, which imports this package
// and nothing else of ours; sources/all lists them; sources/sourcetest is the suite that each must pass.
package sources
