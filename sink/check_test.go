package sink

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/checkpoint"
	"weft/sources"
)

// checked is what both checks find, as one text, a line a finding.
func checked(t *testing.T, o Options, tables ...*sources.Table) string {
	t.Helper()
	cl, err := o.Log.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := within(t, 20*time.Second)
	all := Check(ctx, o.Log, cl, o.Topics.Replication)
	all = append(all, CheckCapture(ctx, o, cl, tables)...)
	var b strings.Builder
	for _, f := range all {
		b.WriteString(f.Level.String())
		if f.Blocks {
			b.WriteString(" blocks")
		}
		b.WriteString(" " + f.Subject + ": " + f.Text + " => " + f.Remedy + "\n")
	}
	return b.String()
}

func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func topicNames(t *testing.T, l *Log) []string {
	t.Helper()
	cl, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	all, err := kadm.NewClient(cl).ListTopicsWithInternal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(all))
}

// TestCheck: on a log that is in order nothing is wrong and nothing is made, before the first start and after it.
func TestCheck(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		topic := o.Topics.Prefix + ".public.items"
		before := checked(t, o, items)
		has(t, before, "ok brokers: 1, with", "ok topic "+topic+": does not exist; weft run makes it with 3 partitions")
		if l.Profile == "kafka" {
			has(t, before, "ok transactional id: weft-"+o.Capture+" may be used")
		}
		if slices.Contains(topicNames(t, l), topic) {
			t.Error("the check has made a topic")
		}
		w := open(t, o)
		write(t, w, create(1, "1", "a"))
		commit(t, w, `1`, true)
		after := checked(t, o, items)
		has(t, after, "ok topic "+topic+": 3 partitions, settings as configured", "ok topic "+checkpoint.Topic+": 1 partitions")
		if text := before + after; strings.Contains(text, "problem") || strings.Contains(text, "warning") {
			t.Errorf("something is wrong:\n%s", text)
		}
		// The check has fenced nobody.
		write(t, w, create(2, "2", "b"))
		commit(t, w, `2`, true)
	})
}

// TestCheckTopics: topics that are not as configured, all at once.
func TestCheckTopics(t *testing.T) {
	eachLog(t, func(t *testing.T, l *Log) {
		o := options(l)
		w := open(t, o)
		write(t, w, create(1, "1", "a"))
		commit(t, w, `1`, true)
		o.Topics.Partitions, o.Topics.Retention = 5, time.Hour
		twin := &sources.Table{Schema: "public", Name: "it ems", Key: []int{0}}
		clash := &sources.Table{Schema: "public", Name: "it_ems", Key: []int{0}}
		text := checked(t, o, items, twin, clash)
		has(t, text, "problem blocks", "has 3 partitions, the configuration asks for 5", "retention.ms =", "--add-config 'retention.ms=3600000'",
			`tables "public.it ems" and "public.it_ems" would both be written to topic`)
		o.Topics.Create = false
		has(t, checked(t, o, twin), "does not exist => create it, or set topics.create: true")
		o = options(l)
		o.Topics.Settings = map[string]string{"retention.ms": "soon"}
		if l.Profile == "kafka" {
			has(t, checked(t, o, items), "problem blocks topic", "cannot be made", "correct topics.settings")
			o = options(l)
			o.Topics.Cleanup = "compact"
			has(t, checked(t, o, &sources.Table{Name: "keyless"}), "table keyless has no key")
		}
		o = options(l)
		o.Topics.Replication = 7
		text = checked(t, o, items)
		has(t, text, "problem brokers: topics.replication is 7, and the log has 1 brokers")
	})
}

// TestCheckRights: each right that is lacking is named with the command that gives it.
func TestCheckRights(t *testing.T) {
	allow := func(resource kmsg.ACLResourceType, name string, ops ...kmsg.ACLOperation) (acls []kfake.ACL) {
		for _, op := range ops {
			acls = append(acls, kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: op, Allow: true})
		}
		return acls
	}
	all := []kmsg.ACLOperation{kmsg.ACLOperationCreate, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationRead, kmsg.ACLOperationWrite}
	own := allow(kmsg.ACLResourceTypeTopic, "__weft.", all...)
	id := allow(kmsg.ACLResourceTypeTransactionalId, "weft-", kmsg.ACLOperationWrite)
	tables := allow(kmsg.ACLResourceTypeTopic, "t", all...)
	reader := allow(kmsg.ACLResourceTypeTopic, "t", kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationRead)
	for name, c := range map[string]struct {
		acls [][]kfake.ACL
		want []string // nil: nothing is wrong
	}{
		"all":                 {[][]kfake.ACL{own, id, tables}, nil},
		"no own topics":       {[][]kfake.ACL{id, tables}, []string{"problem blocks topic __weft.checkpoints:", "--operation Create --operation Read --operation Write", "--topic __weft. --resource-pattern-type prefixed"}},
		"no transactional id": {[][]kfake.ACL{own, tables}, []string{"problem blocks transactional id:", "--operation Write --transactional-id weft- --resource-pattern-type prefixed"}},
		"no tables":           {[][]kfake.ACL{own, id}, []string{"problem blocks topic t", "--operation Create --operation Write --operation DescribeConfigs --topic t"}},
		"only reading":        {[][]kfake.ACL{own, id, reader}, []string{"cannot be made", "public.there: this client's user lacks WRITE on it", "--operation Write --operation DescribeConfigs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := secureLog(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
				kfake.User("PLAIN", "weft", "hunter2", slices.Concat(c.acls...)...))
			o := options(login(t, l, SASL{Mechanism: "PLAIN", Username: "admin", Password: "admin"}))
			cl, err := o.Log.Client()
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			there := &sources.Table{Schema: "public", Name: "there", Key: []int{0}}
			if _, err := ensureTopic(t.Context(), cl, o.Topics.changeTopic(TopicOf(o.Topics.Prefix, there), Profiles["kafka"])); err != nil {
				t.Fatal(err)
			}
			o.Log = login(t, l, SASL{Mechanism: "PLAIN", Username: "weft", Password: "hunter2"})
			text := checked(t, o, items, there)
			has(t, text, c.want...)
			if c.want == nil && strings.Contains(text, "problem") {
				t.Errorf("something is wrong:\n%s", text)
			}
			if strings.Contains(text, "hunter2") {
				t.Error("the findings tell the password")
			}
		})
	}
}

// TestCheckBrokers: what is wrong with the log as a whole. What may pass does not block.
func TestCheckBrokers(t *testing.T) {
	t.Run("unreachable", func(t *testing.T) {
		o := options(&Log{Brokers: []string{"127.0.0.1:1"}, Profile: "kafka", CommitBytes: 1 << 20})
		cl, err := o.Log.Client()
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		fs := Check(within(t, 5*time.Second), o.Log, cl, 1)
		if len(fs) != 1 || fs[0].Level != sources.Problem || fs[0].Blocks || !strings.Contains(fs[0].Text, "127.0.0.1:1") {
			t.Errorf("%+v", fs)
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		l, fake := secureLog(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "admin", "admin"))
		fake.ControlKey(kmsg.SASLAuthenticate.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
			resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("invalid credentials")
			return resp, nil, true
		})
		text := checked(t, options(login(t, l, SASL{Mechanism: "PLAIN", Username: "weft", Password: "hunter2"})))
		has(t, text, "problem blocks brokers:", "correct log.sasl")
	})
	t.Run("no transactions", func(t *testing.T) {
		l, fake := fakeLog(t)
		fake.ControlKey(kmsg.ApiVersions.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			resp := kreq.ResponseKind().(*kmsg.ApiVersionsResponse)
			for _, key := range []kmsg.Key{kmsg.ApiVersions, kmsg.Metadata} {
				k := kmsg.NewApiVersionsResponseApiKey()
				k.ApiKey, k.MaxVersion = key.Int16(), 3
				resp.ApiKeys = append(resp.ApiKeys, k)
			}
			return resp, nil, true
		})
		has(t, checked(t, options(l)), "problem blocks brokers: the brokers have no InitProducerID", "supports Kafka transactions")
	})
	t.Run("short transactions", func(t *testing.T) {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.BrokerConfigs(map[string]string{"transaction.max.timeout.ms": "5000"}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		text := checked(t, options(&Log{Brokers: c.ListenAddrs(), Profile: "kafka", CommitBytes: 1 << 20}))
		has(t, text, "problem blocks transactions:", "= 5000", "transaction.max.timeout.ms to 60000")
	})
	t.Run("error of a topic", func(t *testing.T) {
		l, fake := fakeLog(t)
		fake.ControlKey(kmsg.CreateTopics.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			fake.KeepControl()
			req := kreq.(*kmsg.CreateTopicsRequest)
			if !req.ValidateOnly {
				t.Error("the check makes a topic")
			}
			resp := kreq.ResponseKind().(*kmsg.CreateTopicsResponse)
			for _, rt := range req.Topics {
				r := kmsg.NewCreateTopicsResponseTopic()
				r.Topic, r.ErrorCode = rt.Topic, kerr.PolicyViolation.Code
				resp.Topics = append(resp.Topics, r)
			}
			return resp, nil, true
		})
		has(t, checked(t, options(l), items), "problem blocks topic", "policy refuses the topic")
	})
}
