// Package polling is the source for datastores that have no stream of changes: it asks, at an interval, for the rows
// whose watermark column is above the highest one seen. The engine (source.go) is the same for every kind of datastore;
// a dialect (dialect.go) tells how one kind is asked, and up to which watermark, its horizon, nothing can appear any more.
//
//	dialect     watermark                       horizon                          exact                      a poll costs
//	SQLite      integer set by triggers         the counter                      yes                        nothing, or an index range
//	PostgreSQL  xid8 column set by a trigger    oldest running transaction       yes                        an index range
//	            the row's xmin                  oldest running transaction       yes                        a scan, if a transaction has ended
//	MariaDB,    TIMESTAMP set by the server     start of the oldest open work    if only the server sets it four queries and an index range
//	MySQL
//	any SQL     time by the database's clock    that clock less a lag            if it ends what takes longer a query and an index range
//
// What it delivers:
//
//   - Every observed version of a row, not every change: of two updates between two polls only the later is seen. The
//     newest version of each row always is.
//   - Each as an OpCreate without Before. The source keeps no rows, so it cannot tell an insert from an update; who knows what the
//     log holds makes an update of it. Otherwise it stays a create: readers of the Debezium envelope refuse an update without a
//     before image (Flink's debezium-json: "The "before" field of UPDATE message is null"), and take a create of a key that exists
//     as an upsert.
//   - Deletes of rows that a column marks as deleted, and, where OpenOptions.Held tells what the log holds, of rows that are gone
//     (reconcile.go). A changed key is a create of the new key and, once it is looked for, a delete of the old one.
//   - Rows from before the capture's first Open where OpenOptions.Existing asks for them.
//
// Beside the polls rows are read in the order of their keys (reader.go), to be compared with the log, repaired, or delivered anew.
//
// Order is the number of the poll and the index in it. A poll cannot be repeated, since rows have moved on by then, so
// after a resume the count goes on above OpenOptions.Above.
//
// # PostgreSQL
//
// pg_snapshot_xmin of the poll's own snapshot is the id below which every transaction has ended, savepoints' and prepared ones
// included. So rows with h <= id < xmin are read, and xmin is the next h: what a later snapshot shows for the first time was
// written by a transaction that was not below it. The list of running transactions that a snapshot also has is not used: a row's
// xmin can be a savepoint's, which is not listed, and on a standby the list is empty; a snapshot's xmin is right on both.
//
// A row keeps 32 bits of its transaction's id. The other half is that of the newest id below the snapshot's end, which is right
// for every row that was written within the last 2^32 transactions; an older one may come once more, and none is overlooked.
//
// # MariaDB
//
// A row's time is that of its statement's start, which may be long before its transaction starts and before it commits. How the
// oldest open work is found is told in mariadb_look.go. A row of a column with fewer digits has its time cut, and so is the horizon.
//
// MySQL is asked by the same dialect; mysql.go has what each of the two is asked in words of its own.
//
// # Any database
//
// Type sql (sql.go) knows of a database only what its database/sql driver tells, and what sql_drivers.go says of the driver. Whatever is
// given its time at t is visible from t + MaxTransaction on. So rows below now - Lag are read, each once where Lag is above MaxTransaction. Where it is not, a
// pass begins Overlap before the end of the last one, and Lag + Overlap is above MaxTransaction: at the time p of a pass all that is not visible
// yet has t > p - MaxTransaction, and the next pass begins below that. The end of a pass is fixed at its beginning, since it may be read in many
// batches over a long time.
//
// # SQLite
//
// The file has a one-row table weft_counter, and each captured table an integer column (weft_version unless
// configured otherwise) with an index, which two triggers set from the counter within the transaction that writes
// the row. SQLiteStatements returns the statements that make all of it, and an Open that finds a part missing prints
// them. The source itself only reads: the connection is opened read-only.
//
// That makes polling exact. SQLite has one writer at a time (https://www.sqlite.org/isolation.html), so counter values
// are committed in increasing order: a read transaction that sees the counter at N sees every row version numbered up
// to N that is still current, and whatever is committed later has a number above N. For the same reason a poll larger
// than a batch is read in pages, each in a read transaction of its own: between two pages a row can only move to a
// higher number, which a later page reads. The largest value of the column plus one would not do, since it gives a
// number twice when the newest row is deleted; nor would a time, which is taken before the writer has its lock.
//
// weft_counter also holds a random identity, made with the table. Another identity means another database, and a
// counter below the checkpoint's an older copy put back: either is a gap. What cannot be told: an older copy whose
// counter has passed the checkpoint's again before the source looked.
//
// SQLite's values have a type of their own, whatever the column declares (https://www.sqlite.org/datatype3.html). The
// declared type decides the Kind, by the first rule that matches:
//
//	declared type                           Kind      values
//	BOOLEAN, BOOL                           Bool      integer 0 or 1
//	DECIMAL, NUMERIC, with or without (p,s) Decimal   integer; real as the shortest decimal that gives the same real
//	JSON                                    JSON      text that is valid JSON; integer; finite real
//	ANY, or none                            String    text
//	SQLite's affinity INTEGER               Int       integer
//	SQLite's affinity TEXT                  String    text
//	declared with BLOB in it                Bytes     blob
//	SQLite's affinity REAL                  Float     real; integer that a real can hold exactly
//	all others, such as DATE, DATETIME,     String    text; integer or real as decimal text, which such a column
//	TIMESTAMP, UUID                                   never holds as text, since SQLite makes it a number
//
// Any other value is an error that names table, key and column: it is neither converted nor skipped. So is text that is
// not valid UTF-8. SQLite stores a NaN as NULL.
package polling
