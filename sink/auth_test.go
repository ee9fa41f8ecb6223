package sink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/checkpoint"
)

// authority signs certificates for the tests' brokers and clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // PEM of cert
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return &authority{cert: c, key: key, file: pemFile(t, "CERTIFICATE", der), n: 1}
}

// issue writes a certificate and its key to files. A broker's is for the loopback address and the name "broker".
func (a *authority) issue(t *testing.T, usage x509.ExtKeyUsage) (cert, key string) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: "weft"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &pair.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		t.Fatal(err)
	}
	return pemFile(t, "CERTIFICATE", der), pemFile(t, "PRIVATE KEY", private)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	return file(t, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secureLog is a broker that asks for what opts say.
func secureLog(t *testing.T, opts ...kfake.Opt) (*Log, *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}, c
}

// deliver writes a change, commits it, and reads it back.
func deliver(t *testing.T, l *Log) {
	t.Helper()
	o := options(l)
	w := open(t, o)
	write(t, w, create(1, "1", "a"))
	commit(t, w, `1`, true)
	expect(t, values(records(t, l, o.Topics.Prefix+".public.items")), `{"{\"id\":1}":["a"]}`)
}

func TestTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	cert, key := ours.issue(t, x509.ExtKeyUsageServerAuth)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)
	clientCert, clientKey := ours.issue(t, x509.ExtKeyUsageClientAuth)
	strangerCert, strangerKey := other.issue(t, x509.ExtKeyUsageClientAuth)
	for name, c := range map[string]struct {
		mutual bool
		files  TLSFiles
		want   string // part of the error; empty: works
	}{
		"server certificate":         {false, TLSFiles{CA: ours.file}, ""},
		"by another name":            {false, TLSFiles{CA: ours.file, ServerName: "broker"}, ""},
		"wrong name":                 {false, TLSFiles{CA: ours.file, ServerName: "elsewhere"}, "elsewhere"},
		"unknown authority":          {false, TLSFiles{CA: other.file}, "unknown authority"},
		"client certificate":         {true, TLSFiles{CA: ours.file, Cert: clientCert, Key: clientKey}, ""},
		"no client certificate":      {true, TLSFiles{CA: ours.file}, "certificate required"},
		"refused client certificate": {true, TLSFiles{CA: ours.file, Cert: strangerCert, Key: strangerKey}, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &tls.Config{Certificates: []tls.Certificate{pair}}
			if c.mutual {
				server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, clients
			}
			l, _ := secureLog(t, kfake.TLS(server))
			var err error
			if l.TLS, err = c.files.Config(); err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				deliver(t, l)
				return
			}
			began := time.Now()
			w, err := Open(within(t, 60*time.Second), options(l))
			if err == nil {
				w.Close()
				t.Fatal("connected")
			}
			t.Logf("after %s: %v", time.Since(began), err)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not contain %q", err, c.want)
			}
		})
	}
}

func TestTLSFiles(t *testing.T) {
	a := newAuthority(t)
	cert, _ := a.issue(t, x509.ExtKeyUsageClientAuth)
	_, key := a.issue(t, x509.ExtKeyUsageClientAuth)
	for name, c := range map[string]struct {
		files TLSFiles
		want  string
	}{
		"no such authority":     {TLSFiles{CA: "/no/such/file"}, "log.tls.ca"},
		"authority without PEM": {TLSFiles{CA: file(t, "hello")}, "log.tls.ca"},
		"key of another":        {TLSFiles{Cert: cert, Key: key}, "log.tls.cert"},
		"no key":                {TLSFiles{Cert: cert}, "log.tls.key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.files.Config()
			fatal(t, err, c.want)
		})
	}
	c, err := TLSFiles{}.Config()
	if err != nil || c.RootCAs != nil || c.InsecureSkipVerify || c.MinVersion < tls.VersionTLS12 {
		t.Errorf("no files gave %+v, %v", c, err)
	}
}

func TestSASL(t *testing.T) {
	for _, m := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(m, func(t *testing.T) {
			l, fake := secureLog(t, kfake.EnableSASL(), kfake.Superuser(m, "weft", "hunter2"))
			for name, s := range map[string]SASL{
				"password":    {Mechanism: m, Username: "weft", Password: "hunter2"},
				"from a file": {Mechanism: m, Username: "weft", PasswordFile: file(t, "hunter2\n")},
			} {
				t.Run(name, func(t *testing.T) { deliver(t, login(t, l, s)) })
			}
			// The fake broker hangs up on a wrong password; Kafka answers with these codes.
			for name, c := range map[string]struct {
				key    kmsg.Key
				answer func(kmsg.Request) kmsg.Response
				want   string
			}{
				"wrong password": {kmsg.SASLAuthenticate, func(req kmsg.Request) kmsg.Response {
					resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
					resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("invalid credentials")
					return resp
				}, "correct log.sasl"},
				"mechanism not offered": {kmsg.SASLHandshake, func(req kmsg.Request) kmsg.Response {
					resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
					resp.ErrorCode, resp.SupportedMechanisms = kerr.UnsupportedSaslMechanism.Code, []string{"GSSAPI"}
					return resp
				}, "set log.sasl.mechanism"},
			} {
				t.Run(name, func(t *testing.T) {
					fake.ControlKey(int16(c.key), func(req kmsg.Request) (kmsg.Response, error, bool) { return c.answer(req), nil, true })
					began := time.Now()
					_, err := Open(within(t, 60*time.Second), options(login(t, l, SASL{Mechanism: m, Username: "weft", Password: "swordfish"})))
					fatal(t, err, c.want)
					if took := time.Since(began); took > 10*time.Second {
						t.Errorf("it took %s to say so", took)
					}
					if strings.Contains(err.Error(), "swordfish") {
						t.Errorf("the error tells the password: %s", err)
					}
				})
			}
		})
	}
}

// login is l with credentials.
func login(t *testing.T, l *Log, s SASL) *Log {
	t.Helper()
	m, err := s.Build()
	if err != nil {
		t.Fatal(err)
	}
	with := *l
	with.SASL = m
	return &with
}

// A file is read anew at each authentication.
func TestRotatedPassword(t *testing.T) {
	path := file(t, "old")
	m, err := SASL{Mechanism: "PLAIN", Username: "weft", PasswordFile: path}.Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"old", "new"} {
		if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		_, first, err := m.Authenticate(t.Context(), "broker")
		if err != nil || string(first) != "\x00weft\x00"+password {
			t.Errorf("with password %q the client sends %q, %v", password, first, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Authenticate(t.Context(), "broker"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("without the file: %v", err)
	}
}

func TestTokenIsSent(t *testing.T) {
	for name, s := range map[string]SASL{
		"token":       {Mechanism: "OAUTHBEARER", Token: "abc.def.ghi"},
		"from a file": {Mechanism: "OAUTHBEARER", TokenFile: file(t, "abc.def.ghi\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := s.Build()
			if err != nil {
				t.Fatal(err)
			}
			_, first, err := m.Authenticate(t.Context(), "broker") // RFC 7628, section 3.1
			if m.Name() != "OAUTHBEARER" || err != nil || string(first) != "n,,\x01auth=Bearer abc.def.ghi\x01\x01" {
				t.Errorf("%s sends %q, %v", m.Name(), first, err)
			}
		})
	}
}

func TestUnknownMechanism(t *testing.T) {
	_, err := SASL{Mechanism: "KERBEROS", Password: "hunter2"}.Build()
	fatal(t, err, "KERBEROS", "log.sasl.mechanism")
}

// Rights that lack are named.
func TestRights(t *testing.T) {
	allow := func(resource kmsg.ACLResourceType, name string, ops ...kmsg.ACLOperation) (acls []kfake.ACL) {
		for _, op := range ops {
			acls = append(acls, kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: op, Allow: true})
		}
		return acls
	}
	own := allow(kmsg.ACLResourceTypeTopic, checkpoint.Topic[:7], kmsg.ACLOperationCreate, kmsg.ACLOperationDescribe,
		kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationRead, kmsg.ACLOperationWrite)
	id := allow(kmsg.ACLResourceTypeTransactionalId, "weft-", kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe)
	tables := allow(kmsg.ACLResourceTypeTopic, "t", kmsg.ACLOperationCreate, kmsg.ACLOperationDescribe,
		kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationRead, kmsg.ACLOperationWrite)
	for name, c := range map[string]struct {
		acls [][]kfake.ACL
		want string // part of the error; empty: works
	}{
		"all":                 {[][]kfake.ACL{own, id, tables}, ""},
		"no own topics":       {[][]kfake.ACL{id, tables}, "__weft."},
		"no transactional id": {[][]kfake.ACL{own, tables}, "transactional id prefix weft-"},
		"no tables":           {[][]kfake.ACL{own, id}, "on its topics"},
	} {
		t.Run(name, func(t *testing.T) {
			var acls []kfake.ACL
			for _, a := range c.acls {
				acls = append(acls, a...)
			}
			l, _ := secureLog(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "weft", "hunter2", acls...))
			l = login(t, l, SASL{Mechanism: "PLAIN", Username: "weft", Password: "hunter2"})
			if c.want == "" {
				deliver(t, l)
				return
			}
			w, err := Open(within(t, 60*time.Second), options(l))
			if err == nil {
				defer w.Close()
				err = w.Write(t.Context(), create(1, "1", "a"))
			}
			fatal(t, err, c.want)
		})
	}
}
