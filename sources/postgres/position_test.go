package postgres

import (
	"strings"
	"testing"
)

func TestLSN(t *testing.T) {
	for _, text := range []string{"0/1", "0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF"} {
		l, err := parseLSN(text)
		if err != nil || l.String() != text {
			t.Errorf("parse %s: %s, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "/", "1", "0/", "0/16B3748 ", "0/16B3748x", "-1/0", "100000000/0", "0/100000000"} {
		if l, err := parseLSN(text); err == nil {
			t.Errorf("parse %q: no error but %s", text, l)
		}
	}
}

func TestPosition(t *testing.T) {
	const head = `{"system":"7312","timeline":1,"database":"shop","slot":"weft_orders",`
	for _, text := range []string{
		head + `"lsn":"0/16B3748"}`,
		head + `"lsn":"0/16B3748","tx":{"final_lsn":"0/16B4000","xid":820,"events":1000,"hash":"00c0ffee00c0ffee"}}`,
		head + `"lsn":"0/16B3748","unseen":{"from":820,"to":830,"also":[800,805]},"since":700}`,
		head + `"lsn":"0/16B3748","unseen":{"also":[4294967300]}}`,
		head + `"creating":true}`,
		head + `"creating":true,"replace":true}`,
	} {
		p, err := decodePosition([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := string(p.encode()); got != text {
			t.Errorf("%s became %s", text, got)
		}
	}
	bad := []struct{ text, want string }{
		{``, "none of the PostgreSQL source"},
		{`null`, "must be set"},
		{`[]`, "none of the PostgreSQL source"},
		{head + `"lsn":"0/1"} {}`, "something follows"},
		{head + `"lsn":"0/1","wal":1}`, "written by a newer Weft"},
		{head + `"lsn":"0/1","tx":{"final_lsn":"0/2","xid":1,"events":1,"hash":"0000000000000000","part":1}}`, "written by a newer Weft"},
		{head + `"lsn":"16B3748"}`, "no LSN"},
		{head + `"timeline":1}`, "exactly one of lsn and creating"},
		{head + `"lsn":"0/1","creating":true}`, "exactly one of lsn and creating"},
		{head + `"lsn":"0/1","replace":true}`, "replace comes only with creating"},
		{head + `"creating":true,"tx":{"final_lsn":"0/2","xid":1,"events":1,"hash":"0000000000000000"}}`, "exclude each other"},
		{head + `"lsn":"0/1","tx":{"final_lsn":"0/2","xid":1,"events":0,"hash":"0000000000000000"}}`, "above zero"},
		{head + `"lsn":"0/1","tx":{"final_lsn":"0/2","xid":1,"events":1,"hash":"c0ffee"}}`, "16 hex digits"},
		{head + `"lsn":"0/1","unseen":{"from":9,"to":8}}`, "must be a range"},
		{head + `"lsn":"0/1","unseen":{"xip":[8]}}`, "written by a newer Weft"},
		{`{"lsn":"0/1"}`, "must be set"},
	}
	for _, tt := range bad {
		_, err := decodePosition([]byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.text, err, tt.want)
			continue
		}
		isFatal(t, err)
	}
}
