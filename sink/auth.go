package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"weft/sources"
)

// TLSFiles names the files of a TLS connection to the log; all may be empty: the system's authorities, no client
// certificate.
type TLSFiles struct {
	CA, Cert, Key, ServerName string
}

// Config reads the files.
func (f TLSFiles) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, sources.Fatal("set log.tls.ca to a readable PEM file", "read the log's certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, sources.Fatal("set log.tls.ca to a PEM file with at least one certificate", "%s holds no certificate", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, sources.Fatal("set log.tls.cert and log.tls.key to a PEM pair that belongs together", "read the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// SASL is how to authenticate to the log. A file is read anew at each authentication, so that a rotated secret needs no
// restart.
type SASL struct {
	Mechanism, Username, Password, PasswordFile, Token, TokenFile string
}

// Build returns the client's mechanism.
func (s SASL) Build() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := secret(s.Password, s.PasswordFile)
			return plain.Auth{User: s.Username, Pass: pass}, err
		}), nil
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		auth := func(context.Context) (scram.Auth, error) {
			pass, err := secret(s.Password, s.PasswordFile)
			return scram.Auth{User: s.Username, Pass: pass}, err
		}
		if s.Mechanism == "SCRAM-SHA-256" {
			return scram.Sha256(auth), nil
		}
		return scram.Sha512(auth), nil
	case "OAUTHBEARER":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := secret(s.Token, s.TokenFile)
			return oauth.Auth{Token: token}, err
		}), nil
	}
	return nil, sources.Fatal("set log.sasl.mechanism to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER", "unknown SASL mechanism %q", s.Mechanism)
}

func secret(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
