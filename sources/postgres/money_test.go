package postgres

import "testing"

func TestHoldsMoney(t *testing.T) {
	types := mapCatalog{
		10001: {OID: 10001, Kind: 'd', Base: 790},
		10002: {OID: 10002, Kind: 'd', Base: 10001},
		10003: {OID: 10003, Kind: 'b', Category: 'A', Elem: 10002},
		10004: {OID: 10004, Kind: 'd', Base: 1700},
	}
	for oid, want := range map[uint32]bool{790: true, 791: true, 10001: true, 10002: true, 10003: true, 10004: false, 1700: false, 1231: false, 99999: false} {
		if got := holdsMoney(oid, types); got != want {
			t.Errorf("type %d holds money: %v", oid, got)
		}
	}
}

func TestRefuseMoney(t *testing.T) {
	if err := refuseMoney(2); err != nil {
		t.Error(err)
	}
	isFatal(t, refuseMoney(0), "0 decimals", "numeric")
	isFatal(t, refuseMoney(3), "3 decimals", "numeric")
}
