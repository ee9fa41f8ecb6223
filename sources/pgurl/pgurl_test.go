package pgurl

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for address, want := range map[string]string{
		"":                                       "url: it must be set",
		"postgres://u:se/cr@t@h/d":               "percent-encoded",
		"postgres://u:secret@h:port/d":           "percent-encoded",
		"postgres://u:secret@h/d?sslmode=maybe":  "url:",
		"password=secret nonsense":               "url:",
		"host=h password=secret port=x":          "url:",
		"postgres://u:secret@h/d":                "",
		"host=h user=u password='s p' dbname=d":  "",
		"postgresql://u@h/d?application_name=me": "",
	} {
		config, err := Parse(address, map[string]string{"application_name": "weft"})
		switch {
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cr@t") {
				t.Errorf("%q: %v; want %q and no password", address, err, want)
			}
		case err != nil || config.User != "u" || config.Database != "d" || config.RuntimeParams["application_name"] != "weft":
			t.Errorf("%q: %+v, %v", address, config, err)
		}
	}
}
