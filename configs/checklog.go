package configs

import (
	"fmt"
	"net"
	"time"
)

// The log ends a transaction that stays open for 60 s; half of that leaves time to write and commit.
const (
	minCommitInterval = 10 * time.Millisecond
	maxCommitInterval = 30 * time.Second
)

func (d *decoder) checkLog(l *Log) {
	switch embedded, brokers := d.set("log.embedded"), d.set("log.brokers"); {
	case embedded && brokers:
		d.wrong("log.brokers", "embedded and brokers exclude each other; keep one")
	case embedded && l.Embedded != nil:
		d.checkEmbedded(l.Embedded)
	case brokers:
		d.checkBrokers(l)
	case !embedded && d.clean("log"):
		d.fail("log", d.at["log"], "the block that starts here needs embedded: {dir: data/log}, or brokers: [HOST:PORT]")
	}
	if d.good("log.client_id") && !topicPart.MatchString(l.ClientID) {
		hint := ""
		if l.Profile == WarpStream {
			hint = "; the zone is set by zone"
		}
		d.wrong("log.client_id", "must be letters, digits, '.', '_' and '-'%s", hint)
	}
	d.memory("log.commit.bytes", l.Commit.Bytes)
	if p := "log.max_record"; d.good(p) && (l.MaxRecord < 64*KiB || l.MaxRecord > 64*MiB) {
		d.wrong(p, "must be 64KiB to 64MiB")
	}
	if p := "log.commit.interval"; d.good(p) && (l.Commit.Interval < minCommitInterval || l.Commit.Interval > maxCommitInterval) {
		d.wrong(p, "must be %s to %s", minCommitInterval, maxCommitInterval)
	}
}

func (d *decoder) checkEmbedded(e *Embedded) {
	d.notEmpty("log.embedded", map[string]string{"dir": e.Dir})
	for _, name := range []string{"profile", "zone", "tls", "sasl"} {
		if p := "log." + name; d.set(p) {
			d.wrong(p, "has a meaning for brokers only; remove it, or embedded")
		}
	}
	if p := "log.embedded.listen"; d.good(p) {
		host, _, err := hostPort(e.Listen)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			d.wrong(p, "must be HOST:PORT, such as 127.0.0.1:9092, with port 0 for any free one")
		case host != "localhost" && (ip == nil || !ip.IsLoopback()):
			d.wrong(p, "must be a loopback address, such as 127.0.0.1:9092: whoever reaches the embedded log can read and write it, "+
				"for it has no login; for other machines use brokers")
		}
	}
	if p := "log.embedded.retention.age"; d.good(p) && e.Retention.Age <= 0 {
		d.wrong(p, "must be above 0")
	}
	if p := "log.embedded.retention.bytes"; d.good(p) && e.Retention.Bytes <= 0 {
		d.wrong(p, "must be above 0")
	}
}

func (d *decoder) checkBrokers(l *Log) {
	if d.good("log.brokers") && len(l.Brokers) == 0 {
		d.wrong("log.brokers", "the list is empty; name at least one HOST:PORT")
	}
	for i, broker := range l.Brokers {
		p := fmt.Sprintf("log.brokers[%d]", i)
		if host, port, err := hostPort(broker); d.good(p) && (err != nil || host == "" || port == 0) {
			d.wrong(p, "must be HOST:PORT, such as 10.0.0.1:9092")
		}
	}
	if p := "log.zone"; d.good(p) {
		switch {
		case l.Profile != WarpStream && d.clean("log.profile"):
			d.wrong(p, "has a meaning for WarpStream only; remove it, or add profile: warpstream")
		case !topicPart.MatchString(l.Zone):
			d.wrong(p, "must be letters, digits, '.', '_' and '-', such as use1-az1")
		}
	}
	if l.TLS != nil {
		d.checkTLS(l.TLS)
	}
	if l.SASL != nil {
		d.checkSASL(l.SASL)
	}
}

func (d *decoder) checkTLS(t *TLS) {
	d.notEmpty("log.tls", map[string]string{"ca": t.CA, "cert": t.Cert, "key": t.Key, "server_name": t.ServerName})
	if d.set("log.tls.cert") && !d.set("log.tls.key") {
		d.wrong("log.tls.cert", "a client certificate needs its key; add key: FILE")
	}
	if d.set("log.tls.key") && !d.set("log.tls.cert") {
		d.wrong("log.tls.key", "a key needs its client certificate; add cert: FILE")
	}
}

func (d *decoder) checkSASL(s *SASL) {
	d.require("log.sasl", "mechanism")
	d.notEmpty("log.sasl", map[string]string{
		"username": s.Username, "password": string(s.Password), "password_file": s.PasswordFile,
		"token": string(s.Token), "token_file": s.TokenFile,
	})
	if !d.good("log.sasl.mechanism") {
		return
	}
	secret, others := "password", []string{"token", "token_file"}
	if s.Mechanism == OAuthBearer {
		secret, others = "token", []string{"username", "password", "password_file"}
	} else {
		d.require("log.sasl", "username")
	}
	inline, file := d.set("log.sasl."+secret), d.set("log.sasl."+secret+"_file")
	switch {
	case inline && file:
		d.wrong("log.sasl."+secret+"_file", "%s and %[1]s_file exclude each other; keep one", secret)
	case !inline && !file:
		d.fail("log.sasl", d.at["log.sasl"], "the block that starts here lacks %s or %[1]s_file, which %s needs", secret, s.Mechanism)
	}
	for _, name := range others {
		if p := "log.sasl." + name; d.set(p) {
			d.wrong(p, "%s does not use it; remove the line", s.Mechanism)
		}
	}
}
