// Package pgurl reads the address of a PostgreSQL server as a config file has it, for all sources that connect to one.
package pgurl

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Parse reads a postgres:// URL or key=value pairs, and has each connection begin with the settings of session. Its errors begin
// with "url:", and never hold a part of the address, which may hold a password.
func Parse(address string, session map[string]string) (*pgx.ConnConfig, error) {
	if address == "" {
		return nil, errors.New("url: it must be set, such as postgres://USER:PASSWORD@HOST:5432/DATABASE")
	}
	if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		// The reason is kept back: it would quote a password that has a / or @ in it.
		if _, err := url.Parse(address); err != nil {
			return nil, errors.New("url: it is no valid postgres:// URL; special characters in the user and the password " +
				"must be percent-encoded: @ as %40, / as %2F, % as %25")
		}
	}
	config, err := pgx.ParseConfig(address)
	if err != nil {
		reason := errors.Unwrap(err)
		if reason == nil {
			return nil, errors.New("url: it is neither a postgres:// URL nor key=value pairs")
		}
		return nil, fmt.Errorf("url: %w", reason)
	}
	maps.Copy(config.RuntimeParams, session)
	return config, nil
}
