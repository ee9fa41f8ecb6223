package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/sources"
)

// Check tells what all captures need of the log, without changing anything in it. cl is a client of l, own are topics that
// are needed beside that of checkpoints.
func Check(ctx context.Context, l *Log, cl *kgo.Client, replication int, own ...OwnTopic) []sources.Finding {
	p, err := l.profile()
	if err != nil {
		return []sources.Finding{sources.Found("brokers", err)}
	}
	k := &checker{log: l, profile: p, cl: cl, adm: kadm.NewClient(cl)}
	if k.brokers(ctx, replication) {
		k.topics(ctx, ownRights, checkpointTopic(replication, p))
		for _, t := range own {
			k.topics(ctx, ownRights, t.spec(replication, p))
		}
	}
	return k.findings
}

// CheckCapture tells what one capture needs of the log for these tables, without changing anything in it.
func CheckCapture(ctx context.Context, o Options, cl *kgo.Client, tables []*sources.Table) []sources.Finding {
	p, err := o.Log.profile()
	if err != nil {
		return nil // Check has told
	}
	k := &checker{log: o.Log, profile: p, cl: cl, adm: kadm.NewClient(cl)}
	k.transactionalID(ctx, o.Capture)
	var specs []topicSpec
	written := map[string]string{}
	for _, t := range tables {
		topic := TopicOf(o.Topics.Prefix, t)
		if other, ok := written[topic]; ok {
			k.refuse("topic "+topic, errClash(other, t.String(), topic))
			continue
		}
		written[topic] = t.String()
		if o.Topics.Cleanup == "compact" && len(t.Key) == 0 {
			k.refuse("topic "+topic, errNoKey(t.String()))
			continue
		}
		specs = append(specs, o.Topics.changeTopic(topic, p))
	}
	k.topics(ctx, recordRights, specs...)
	return k.findings
}

// ownRights are those on Weft's own topics, recordRights those on topics of records.
var (
	ownRights    = []kmsg.ACLOperation{kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribeConfigs}
	recordRights = []kmsg.ACLOperation{kmsg.ACLOperationWrite, kmsg.ACLOperationDescribeConfigs}
)

type checker struct {
	log      *Log
	profile  Profile
	cl       *kgo.Client
	adm      *kadm.Client
	findings []sources.Finding
}

func (k *checker) add(level sources.Level, subject, remedy, format string, args ...any) {
	k.findings = append(k.findings, sources.Finding{Level: level, Subject: subject, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// refuse adds what opening the log, or writing to it, would return.
func (k *checker) refuse(subject string, err error) {
	k.findings = append(k.findings, sources.Found(subject, explain(err)))
}

// brokers tells whether they answer.
func (k *checker) brokers(ctx context.Context, replication int) bool {
	const subject = "brokers"
	// One attempt at each: a request would be repeated until ctx ends, which then hides the reason.
	if err := k.cl.Ping(ctx); err != nil {
		k.refuse(subject, fmt.Errorf("the brokers do not answer: %w", err))
		return false
	}
	meta, err := k.adm.BrokerMetadata(ctx)
	if err != nil {
		k.refuse(subject, fmt.Errorf("ask the brokers: %w", err))
		return false
	}
	n := len(meta.Brokers)
	if replication > n {
		k.add(sources.Problem, subject, fmt.Sprintf("set topics.replication: %d, or start more brokers", n),
			"topics.replication is %d, and the log has %d brokers: topics cannot be made", replication, n)
	}
	if !k.profile.Atomic {
		k.add(sources.OK, subject, "", "%d, without transactions: delivery is sequenced", n)
		return true
	}
	return k.transactions(ctx, meta)
}

// transactions tells whether the log has them as they are needed.
func (k *checker) transactions(ctx context.Context, meta kadm.Metadata) bool {
	const subject = "brokers"
	versions, err := k.adm.ApiVersions(ctx)
	var one *kadm.BrokerApiVersions
	for _, v := range versions.Sorted() {
		if v.Err == nil {
			one = &v
			break
		}
	}
	if one == nil {
		k.refuse(subject, fmt.Errorf("ask the brokers for their versions: %w", errors.Join(err, errNoAnswer)))
		return false
	}
	for _, key := range []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn} {
		if _, ok := one.KeyMaxVersion(key.Int16()); !ok {
			k.refuse(subject, fmt.Errorf("the brokers have no %s: %w", key.Name(), kerr.UnsupportedVersion))
			return true
		}
	}
	k.add(sources.OK, subject, "", "%d, with transactions", len(meta.Brokers))
	k.timeout(ctx, meta)
	return true
}

var errNoAnswer = errors.New("no answer")

// timeout reads settings of a broker, which not everybody may.
func (k *checker) timeout(ctx context.Context, meta kadm.Metadata) {
	if len(meta.Brokers) == 0 {
		return
	}
	node := meta.Brokers[0].NodeID
	all, err := k.adm.DescribeBrokerConfigs(ctx, node)
	if err != nil {
		return
	}
	rc, err := all.On(strconv.Itoa(int(node)), nil)
	if err != nil || rc.Err != nil {
		return
	}
	for _, c := range rc.Configs {
		n, err := strconv.Atoi(c.MaybeValue())
		switch {
		case err != nil:
		case c.Key == "transaction.max.timeout.ms" && n < int(transactionTimeout.Milliseconds()):
			k.refuse("transactions", fmt.Errorf("the brokers end a transaction after %s = %d: %w", c.Key, n, kerr.InvalidTransactionTimeout))
		case c.Key == "transaction.state.log.replication.factor" && n > len(meta.Brokers):
			k.add(sources.Problem, "transactions", "start more brokers, or set transaction.state.log.replication.factor="+strconv.Itoa(len(meta.Brokers))+
				" on the brokers before the first transaction", "%s is %d, and the log has %d brokers: unless it was smaller once, no transaction can begin",
				c.Key, n, len(meta.Brokers))
		}
	}
}

// transactionalID asks whether this principal may use the capture's. There is no request for that, but a broker looks at
// the right before anything else: so it is asked to end a transaction of a producer that cannot be, which changes nothing.
// It is sent to one broker, since looking for the id's coordinator would make the topic of transactions where it is missing.
// Only Apache Kafka is known to answer that way.
func (k *checker) transactionalID(ctx context.Context, capture string) {
	if k.log.Profile != "kafka" {
		return
	}
	id := transactionalID(capture)
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = id, -1, -1
	meta, err := k.adm.BrokerMetadata(ctx)
	if err != nil || len(meta.Brokers) == 0 {
		return // Check tells it
	}
	resp, err := k.cl.Broker(int(meta.Brokers[0].NodeID)).Request(ctx, req)
	if err != nil {
		k.refuse("transactional id", fmt.Errorf("ask about %s: %w", id, err))
		return
	}
	switch err := kerr.ErrorForCode(resp.(*kmsg.EndTxnResponse).ErrorCode); {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		k.refuse("transactional id", fmt.Errorf("%s: %w", id, err))
		k.remedy(k.acl("--operation Write --transactional-id weft- --resource-pattern-type prefixed"))
	case slices.Contains([]error{kerr.InvalidProducerIDMapping, kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.ProducerFenced}, err):
		k.add(sources.OK, "transactional id", "", "%s may be used", id)
	}
}

// remedy is that of the last finding.
func (k *checker) remedy(text string) { k.findings[len(k.findings)-1].Remedy = text }

func (k *checker) acl(what string) string {
	return "kafka-acls.sh --bootstrap-server " + strings.Join(k.log.Brokers, ",") + " --add --allow-principal User:NAME " + what +
		" # NAME is the user that the brokers know this client by"
}
