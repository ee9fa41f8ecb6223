package sink

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"weft/sources"
)

// Log is the Kafka-compatible log that captures are landed in: how to reach it, and what it is.
type Log struct {
	Brokers []string
	// Profile names the settings that suit the log; see Profiles.
	Profile string
	// ClientID as brokers see it; Zone is WarpStream's availability zone, empty elsewhere.
	ClientID, Zone string
	TLS            *tls.Config    // nil: plaintext
	SASL           sasl.Mechanism // nil: none
	// Compression is zstd, lz4, snappy or none.
	Compression string
	// MaxRecordBytes bounds a record and a producer batch; topics are created to take it. 0: the profile's.
	MaxRecordBytes int
	// CommitBytes bounds what one transaction gathers, and with it what is buffered for the brokers.
	CommitBytes int
	Logger      hclog.Logger
}

// Profile is what is set differently for a kind of log. The reasons stand with the values in Profiles.
type Profile struct {
	Linger         time.Duration
	MaxRecordBytes int
	// AfterCommit is how long after a commit the next one is held back if nothing but its age calls for it.
	AfterCommit time.Duration
	// Atomic says that a transaction is all or nothing, also over a crash of the log. Where it is not, delivery is
	// sequenced instead of transactional.
	Atomic bool
	// Segments says that topics have segment.bytes.
	Segments bool
	// Expires says that retention deletes from compacted topics too, unless it is switched off for them.
	Expires bool
}

// Profiles by name.
var Profiles = map[string]Profile{
	// Apache Kafka, Redpanda and others with local disks: a commit ends every linger, so that it is for backlogs alone, and one of
	// 25 ms takes a fifth of the requests that one of 5 takes; 1 MiB is the brokers' own default for message.max.bytes. A broker
	// answers a commit before it has written the markers, and holds what is produced in those few milliseconds back for 20
	// (add.partitions.to.txn.retry.backoff.ms). Measured at 500 rows/s, at the consumer: half of the rows within 28 ms without a
	// pause, 10 with one of 2 ms, 16 with one of 6.
	"kafka": {Linger: 25 * time.Millisecond, MaxRecordBytes: 1 << 20, AfterCommit: 3 * time.Millisecond, Atomic: true, Segments: true},
	// WarpStream: a produce takes 250 to 500 ms whatever its size, so large batches and a longer linger; retention by
	// bytes and segment settings do not exist there and are silently ignored, so they are never set
	// (https://docs.warpstream.com/warpstream/reference/protocol-and-feature-support).
	"warpstream": {Linger: 25 * time.Millisecond, MaxRecordBytes: 16 << 20, Atomic: true},
	// The embedded log: on loopback, synced at every produce, so batches gather for a moment; its transactions can be
	// torn by a crash, since it writes their markers partition by partition.
	"embedded": {Linger: 2 * time.Millisecond, MaxRecordBytes: 16 << 20, Segments: true, Expires: true},
}

// profile returns the profile's settings with l's own on top.
func (l *Log) profile() (Profile, error) {
	p, ok := Profiles[l.Profile]
	if !ok {
		return Profile{}, fmt.Errorf("log profile %q is unknown", l.Profile)
	}
	if l.MaxRecordBytes > 0 {
		p.MaxRecordBytes = l.MaxRecordBytes
	}
	return p, nil
}

// transactionTimeout is how long a dead daemon may block its partitions' readers.
const transactionTimeout = time.Minute

// deliveryTimeout is how long a record may be on its way to the brokers.
const deliveryTimeout = 45 * time.Second

// bufferBytes bounds the records that are on their way to the brokers.
func (l *Log) bufferBytes(p Profile) int { return max(2*l.CommitBytes, 2*p.MaxRecordBytes) }

// Client connects to the log for reading and administration; extra options come on top.
func (l *Log) Client(extra ...kgo.Opt) (*kgo.Client, error) {
	p, err := l.profile()
	if err != nil {
		return nil, err
	}
	id := l.ClientID
	if id == "" {
		id = "weft"
	}
	if l.Zone != "" {
		// WarpStream routes a client to agents of its own zone by this suffix of the client id.
		id += ",ws_az=" + l.Zone
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(l.Brokers...),
		kgo.ClientID(id),
		kgo.MetadataMaxAge(time.Minute),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.DialTimeout(10 * time.Second),
		// An outage shows as an error that is retried with its reason in status, instead of a call that hangs.
		kgo.RetryTimeout(30 * time.Second),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
		kgo.ProducerLinger(p.Linger),
		kgo.ProducerBatchMaxBytes(int32(p.MaxRecordBytes)),
		kgo.MaxBufferedBytes(l.bufferBytes(p)),
		kgo.MaxBufferedRecords(1 << 30), // bounded in bytes instead
		compression(l.Compression),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.TransactionTimeout(transactionTimeout),
		// Right after a commit the coordinator still writes its markers; the default waits 20 ms before asking again.
		kgo.ConcurrentTransactionsBackoff(2 * time.Millisecond),
		kgo.BrokerMaxReadBytes(512 << 20),
	}
	if l.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(l.TLS))
	}
	if l.SASL != nil {
		opts = append(opts, kgo.SASL(l.SASL))
	}
	if l.Logger != nil && l.Logger.IsDebug() {
		opts = append(opts, kgo.WithLogger(clientLogger{l.Logger}))
	}
	cl, err := kgo.NewClient(append(opts, extra...)...)
	if err != nil {
		return nil, fmt.Errorf("set up the log's client: %w", err)
	}
	return cl, nil
}

func compression(name string) kgo.Opt {
	switch name {
	case "zstd":
		return kgo.ProducerBatchCompression(kgo.ZstdCompression())
	case "snappy":
		return kgo.ProducerBatchCompression(kgo.SnappyCompression())
	case "none":
		return kgo.ProducerBatchCompression(kgo.NoCompression())
	}
	return kgo.WithCompressor(&lz4Compressor{})
}

// explain turns the errors of a log that nobody can retry away into fatal ones with a remedy. InvalidReplicationFactor is
// none of them: a cluster that starts says it until enough of its brokers are up.
func explain(err error) error {
	var fatal *sources.FatalError
	if err == nil || errors.As(err, &fatal) {
		return err
	}
	for _, k := range []struct {
		is     error
		remedy string
	}{
		{kerr.SaslAuthenticationFailed, "correct log.sasl: the brokers refused these credentials"},
		{kerr.UnsupportedSaslMechanism, "set log.sasl.mechanism to one that the brokers offer"},
		{kerr.TransactionalIDAuthorizationFailed, "allow this principal Write and Describe on the transactional id prefix weft-"},
		{kerr.TopicAuthorizationFailed, "allow this principal Create, Describe, DescribeConfigs, Read and Write on its topics and on those that begin with __weft."},
		{kerr.ClusterAuthorizationFailed, "allow this principal IdempotentWrite on the cluster, or Create on it so that topics can be made"},
		{kerr.UnsupportedVersion, "use a log that supports Kafka transactions (Apache Kafka 2.5 or later, WarpStream, Redpanda)"},
		{kerr.InvalidTransactionTimeout, "raise the brokers' transaction.max.timeout.ms to 60000 or more"},
		{kerr.MessageTooLarge, "raise max.message.bytes of the topic and log.max_record to the same, larger, size"},
		{kerr.InvalidTopicException, "a topic's name has at most 249 characters: shorten topics.prefix, or leave the table out"},
		{kerr.InvalidConfig, "correct topics.settings or topics.retention"},
		{kerr.PolicyViolation, "the brokers' create-topic policy refuses the topic: make it by hand, or change topics.settings"},
	} {
		if errors.Is(err, k.is) {
			return &sources.FatalError{Err: err, Remedy: k.remedy}
		}
	}
	return err
}

// clientLogger hands the client's own messages to hclog, one level down: what matters of them comes as errors anyway.
type clientLogger struct{ hclog.Logger }

func (l clientLogger) Level() kgo.LogLevel {
	if l.IsTrace() {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

func (l clientLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if level <= kgo.LogLevelWarn {
		l.Debug("log client: "+msg, keyvals...)
		return
	}
	l.Trace("log client: "+msg, keyvals...)
}
