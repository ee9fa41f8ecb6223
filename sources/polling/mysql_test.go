package polling

import (
	"strings"
	"testing"

	"weft/sources"
)

// What MySQL is asked in other words than MariaDB. No MySQL server is among those that the tests run on.
func TestMySQLStatements(t *testing.T) {
	for f, parts := range map[*flavour][]string{
		mariaDB: {"max_statement_time", "TIME_MS", "Slave", "IGNORED", "INNODB_SYS_TABLES"},
		mySQL:   {"max_execution_time = 60000", "(TIME + 1) * 1000000", "system user", "IS_VISIBLE", "INNODB_TABLES"},
	} {
		all := strings.Join([]string{f.session, f.started, f.applies, f.usable, f.tables}, " ")
		for _, part := range parts {
			if !strings.Contains(all, part) {
				t.Errorf("%s is not asked with %s: %s", f.name, part, all)
			}
		}
	}
	if got := mySQL.statements("shop", "orders", "updated_at", []string{"id"})[0]; strings.Contains(got, "IF NOT EXISTS") || !strings.Contains(got, "ADD COLUMN `updated_at` TIMESTAMP(6)") {
		t.Errorf("MySQL knows no IF NOT EXISTS there: %s", got)
	}
}

func TestMySQLValidate(t *testing.T) {
	for url, want := range map[string]string{"mysql://u:p@h": "", "mariadb://h": "mysql://", "": "mysql://"} {
		err := (&MySQLConfig{URL: url}).Validate()
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", url, err, want)
		}
	}
}

// A server of the other kind is refused with what to write instead.
func TestMySQLOtherServer(t *testing.T) {
	m := newMariaDB(t)
	c := &MySQLConfig{URL: strings.Replace(m.url, "mariadb://", "mysql://", 1)}
	_, err := c.Open(t.Context(), m.opts)
	wantFatal(t, err, "the server is MariaDB", "set type: mariadb")
	findings := c.Check(t.Context(), sources.CheckOptions{Capture: "shop", Tables: m.opts.Tables})
	if len(findings) != 1 || !findings[0].Blocks || !strings.Contains(findings[0].Remedy, "type: mariadb") {
		t.Errorf("the check finds %v", findings)
	}
}

// MySQL tells running statements in seconds. MariaDB can be asked so too, and nothing is lost by it.
func TestMySQLExperiment(t *testing.T) {
	t.Parallel() // it waits for its own long transactions
	m := newMariaDBBeside(t)
	m.prepare("items", "id BIGINT PRIMARY KEY, body VARCHAR(100) NOT NULL", "id")
	asMySQL := *mariaDB
	asMySQL.started, asMySQL.applies = mySQL.started, mySQL.applies
	src, err := m.config().open(t.Context(), &asMySQL, m.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	next(t, src)
	mariaExperiment(m, src).run(t)
}

func TestMySQLTypes(t *testing.T) {
	for data, want := range map[string]sources.Kind{"json": sources.JSON, "geomcollection": sources.Bytes, "vector": sources.Bytes, "longtext": sources.String} {
		if got := mariadbType(mariadbColumn{data: data}).Kind; got != want {
			t.Errorf("%s is read as kind %d, want %d", data, got, want)
		}
	}
}
