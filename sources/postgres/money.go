package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"weft/sources"
)

const moneyArrayOID = 791

// holdsMoney says whether a type is money, or made of it.
func holdsMoney(oid uint32, c typeCatalog) bool {
	for {
		switch oid {
		case moneyOID, moneyArrayOID:
			return true
		}
		t, ok := c.lookup(oid)
		switch {
		case ok && t.Base != 0:
			oid = t.Base
		case ok && t.Elem != 0:
			oid = t.Elem
		default:
			return false
		}
	}
}

// checkMoney refuses money in a database whose own lc_monetary counts in another unit than hundredths. The server stores a
// bare count of the smallest unit, and our sessions, with lc_monetary C, would show yen as hundredths of a yen.
func (c *catalog) checkMoney(ctx context.Context) error {
	if c.moneyChecked {
		return nil
	}
	config, err := c.config.connConfig()
	if err != nil {
		return err
	}
	delete(config.RuntimeParams, "lc_monetary")
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return connectError(err, config.User, config.Database)
	}
	var digits int
	err = conn.QueryRow(ctx, "SELECT scale(1::numeric::money::numeric)").Scan(&digits)
	if closeErr := closeConn(conn); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("read how lc_monetary writes money: %w", err)
	}
	if err := refuseMoney(digits); err != nil {
		return err
	}
	c.moneyChecked = true
	return nil
}

func refuseMoney(digits int) error {
	if digits == 2 {
		return nil
	}
	return sources.Fatal("change the column to numeric, or leave the table out",
		"the database's lc_monetary writes money with %d decimals, and only 2 can be captured", digits)
}
