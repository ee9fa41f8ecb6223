package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/checkpoint"
	"weft/sources"
)

// Topics says how a capture's topics are named and made.
type Topics struct {
	Prefix      string
	Partitions  int
	Replication int // -1: the brokers' default
	// Cleanup is delete or compact. It cannot be exchanged later on every log.
	Cleanup   string
	Retention time.Duration // of cleanup delete; 0: the brokers' default
	// Settings are further topic settings, as Kafka names them.
	Settings map[string]string
	// Create: make topics that do not exist; otherwise their absence is an error.
	Create bool
}

// topicSpec is a topic as it must be.
type topicSpec struct {
	name        string
	prefix      string // of its name, which others like it have too
	partitions  int
	replication int
	// settings are set at creation and must read back the same, also of a topic that was there before. "at least"
	// settings may be larger.
	settings map[string]string
	atLeast  map[string]int
	create   bool
	own      bool // an OwnTopic
}

// changeTopic is the spec of a table's topic, or of another topic of records, under this name.
func (t Topics) changeTopic(name string, p Profile) topicSpec {
	s := topicSpec{
		name: name, prefix: t.Prefix + ".", partitions: t.Partitions, replication: t.Replication, create: t.Create,
		settings: map[string]string{"cleanup.policy": t.Cleanup},
		atLeast:  map[string]int{},
	}
	if t.Retention > 0 {
		s.settings["retention.ms"] = strconv.FormatInt(t.Retention.Milliseconds(), 10)
	}
	maps.Copy(s.settings, t.Settings)
	if _, ok := s.settings["max.message.bytes"]; !ok {
		s.atLeast["max.message.bytes"] = p.MaxRecordBytes
	}
	return s
}

// OwnTopic is one of Weft's own topics: compacted, kept for ever, and read whole.
type OwnTopic struct {
	Name       string
	Partitions int
}

// spec is the topic as it must be. Small segments keep it short: compaction leaves the active one alone, and every start
// reads the whole topic.
func (t OwnTopic) spec(replication int, p Profile) topicSpec {
	s := topicSpec{
		name: t.Name, prefix: "__weft.", partitions: t.Partitions, replication: replication, create: true, own: true,
		settings: map[string]string{"cleanup.policy": "compact"},
	}
	if p.Segments {
		s.settings["segment.bytes"] = strconv.Itoa(8 << 20)
	}
	if p.Expires {
		s.settings["retention.ms"], s.settings["retention.bytes"] = "-1", "-1"
	}
	return s
}

// checkpointTopic is the spec of checkpoint.Topic.
func checkpointTopic(replication int, p Profile) topicSpec {
	return OwnTopic{Name: checkpoint.Topic, Partitions: 1}.spec(replication, p)
}

// MakeTopic makes one of Weft's own topics where it is missing, and verifies it where it is not.
func (l *Log) MakeTopic(ctx context.Context, cl *kgo.Client, t OwnTopic, replication int) error {
	p, err := l.profile()
	if err != nil {
		return err
	}
	_, err = ensureTopic(ctx, cl, t.spec(replication, p))
	return explain(err)
}

// gapTopic is the spec of the topic of gap records, which are few and kept for ever.
func (t Topics) gapTopic(p Profile) topicSpec {
	s := topicSpec{
		name: t.Prefix + ".__gaps", prefix: t.Prefix + ".", partitions: 1, replication: t.Replication, create: true,
		settings: map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"},
	}
	if p.Expires {
		s.settings["retention.bytes"] = "-1"
	}
	return s
}

// TopicOf is the topic name of a table: characters that Kafka does not allow become underscores, as Debezium does.
func TopicOf(prefix string, t *sources.Table) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, t.String())
	return prefix + "." + name
}

// Ensure makes a topic of records with these settings, or refuses one that is there with others. It returns the number of
// partitions.
func (t Topics) Ensure(ctx context.Context, l *Log, cl *kgo.Client, name string) (int, error) {
	p, err := l.profile()
	if err != nil {
		return 0, err
	}
	return ensureTopic(ctx, cl, t.changeTopic(name, p))
}

// ensureTopic makes the topic if it is missing, reads its settings back either way (a log may ignore one without an
// error), and returns its number of partitions.
func ensureTopic(ctx context.Context, cl *kgo.Client, s topicSpec) (int, error) {
	adm := kadm.NewClient(cl)
	found, err := describeTopic(ctx, adm, s.name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if !s.create {
			return 0, s.errMissing()
		}
		if found, err = createTopic(ctx, adm, s); err != nil {
			return 0, explain(fmt.Errorf("create topic %q: %w", s.name, err))
		}
	}
	if err != nil {
		return 0, explain(fmt.Errorf("describe topic %q: %w", s.name, err))
	}
	if err := s.checkPartitions(found); err != nil {
		return 0, err
	}
	return found, verifySettings(ctx, adm, s)
}

func (s topicSpec) errMissing() error {
	return sources.Fatal("create it, or set topics.create: true", "topic %q does not exist", s.name)
}

func (s topicSpec) checkPartitions(found int) error {
	if found == s.partitions {
		return nil
	}
	if s.own {
		return sources.Fatal("make it again with that many partitions, while no daemon runs, and copy its records",
			"topic %q has %d partitions, Weft makes it with %d; keys would change their partition", s.name, found, s.partitions)
	}
	return sources.Fatal(
		fmt.Sprintf("set topics.partitions: %d, or give the capture another topics.prefix", found),
		"topic %q has %d partitions, the configuration asks for %d; keys would change their partition", s.name, found, s.partitions)
}

// describeTopic returns the number of partitions.
func describeTopic(ctx context.Context, adm *kadm.Client, topic string) (int, error) {
	meta, err := adm.Metadata(ctx, topic)
	if err != nil {
		return 0, err
	}
	t, ok := meta.Topics[topic]
	if !ok {
		return 0, kerr.UnknownTopicOrPartition
	}
	return len(t.Partitions), t.Err
}

// creation is what the topic is created with.
func (s topicSpec) creation() map[string]*string {
	settings := make(map[string]*string, len(s.settings)+len(s.atLeast))
	for k, v := range s.settings {
		settings[k] = kadm.StringPtr(v)
	}
	for k, v := range s.atLeast {
		settings[k] = kadm.StringPtr(strconv.Itoa(v))
	}
	return settings
}

// created is the error of a topic's creation.
func created(resp kadm.CreateTopicResponse) error {
	if resp.Err == nil || errors.Is(resp.Err, kerr.TopicAlreadyExists) { // another capture was faster
		return nil
	}
	if resp.ErrMessage != "" {
		return fmt.Errorf("%w: %s", resp.Err, resp.ErrMessage)
	}
	return resp.Err
}

func createTopic(ctx context.Context, adm *kadm.Client, s topicSpec) (int, error) {
	all, err := adm.CreateTopics(ctx, int32(s.partitions), int16(s.replication), s.creation(), s.name)
	if err == nil {
		err = created(all[s.name])
	}
	if err != nil {
		return 0, err
	}
	// The controller answers before every broker knows the topic.
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		found, err := describeTopic(ctx, adm, s.name)
		if err == nil || wait > 5*time.Second || !kerr.IsRetriable(err) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func verifySettings(ctx context.Context, adm *kadm.Client, s topicSpec) error {
	wrong, err := wrongSettings(ctx, adm, s)
	if err == nil && len(wrong) > 0 {
		err = wrong[0]
	}
	return err
}

// wrongSettings reads the topic's settings back and tells which are not as they must be.
func wrongSettings(ctx context.Context, adm *kadm.Client, s topicSpec) (wrong []error, err error) {
	described, err := adm.DescribeTopicConfigs(ctx, s.name)
	if err != nil {
		return nil, explain(fmt.Errorf("read settings of topic %q back: %w", s.name, err))
	}
	rc, err := described.On(s.name, nil)
	if err == nil {
		err = rc.Err
	}
	if err != nil {
		return nil, explain(fmt.Errorf("read settings of topic %q back: %w", s.name, err))
	}
	have := make(map[string]string, len(rc.Configs))
	for _, c := range rc.Configs {
		have[c.Key] = c.MaybeValue()
	}
	for _, k := range slices.Sorted(maps.Keys(s.settings)) {
		if have[k] != s.settings[k] {
			wrong = append(wrong, settingError(s.name, k, have[k], s.settings[k], s.settings[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.atLeast)) {
		if n, err := strconv.Atoi(have[k]); err != nil || n < s.atLeast[k] {
			want := strconv.Itoa(s.atLeast[k])
			wrong = append(wrong, settingError(s.name, k, have[k], want+" or more", want))
		}
	}
	return wrong, nil
}

func settingError(topic, setting, have, want, to string) error {
	if have == "" {
		have = "unset"
	}
	return sources.Fatal(
		fmt.Sprintf("kafka-configs.sh --bootstrap-server HOST:PORT --alter --topic %s --add-config '%s=%s' # or change the configuration, so that "+
			"they agree", topic, setting, to),
		"topic %q has %s = %s, the configuration asks for %s", topic, setting, have, want)
}
