package polling

import "testing"

// A capture that begins with the rows that are there reads them in its first polls, and those of a table that is added later.
func TestExistingRows(t *testing.T) {
	s := newShop(t, "o*")
	createTable(t, s.db, "orders", "id INTEGER PRIMARY KEY, status TEXT")
	s.execute(`INSERT INTO orders (id, status) VALUES (1, 'new')`)
	s.opts.Existing = true
	src := s.start()
	wantShown(t, next(t, src), "orders 1 new")
	createTable(t, s.db, "others", "id INTEGER PRIMARY KEY, status TEXT")
	s.execute(`INSERT INTO others (id, status) VALUES (2, 'old')`)
	b := next(t, src)
	wantShown(t, b, "others 2 old")
	nothing(t, src)
}
