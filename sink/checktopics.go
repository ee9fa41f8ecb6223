package sink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"weft/sources"
)

// topics looks at topics that exist, and asks whether those could be made that do not. All specs but for the names are alike.
func (k *checker) topics(ctx context.Context, rights []kmsg.ACLOperation, specs ...topicSpec) {
	if len(specs) == 0 {
		return
	}
	req := kmsg.NewPtrMetadataRequest() // not by kadm, which gives up all topics for one that may not be seen
	req.IncludeTopicAuthorizedOperations = true
	for _, s := range specs {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &s.name
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, k.cl)
	if err != nil {
		k.refuse("topics", fmt.Errorf("describe topics: %w", err))
		return
	}
	found := map[string]kmsg.MetadataResponseTopic{}
	for _, t := range resp.Topics {
		if t.Topic != nil {
			found[*t.Topic] = t
		}
	}
	var missing []topicSpec
	for _, s := range specs {
		t, ok := found[s.name]
		err := kerr.ErrorForCode(t.ErrorCode)
		switch {
		case !ok, errors.Is(err, kerr.UnknownTopicOrPartition):
			missing = append(missing, s)
		case err != nil:
			k.refuseTopic(s, rights, fmt.Errorf("describe topic %q: %w", s.name, err))
		default:
			k.topic(ctx, s, t, rights)
		}
	}
	k.missing(ctx, rights, missing)
}

func (s topicSpec) subject() string { return "topic " + s.name }

// topic is about one that exists.
func (k *checker) topic(ctx context.Context, s topicSpec, t kmsg.MetadataResponseTopic, rights []kmsg.ACLOperation) {
	wrong, err := wrongSettings(ctx, k.adm, s)
	if err != nil {
		k.refuseTopic(s, rights, err)
		return
	}
	if err := s.checkPartitions(len(t.Partitions)); err != nil {
		wrong = append([]error{err}, wrong...)
	}
	for _, err := range wrong {
		k.refuse(s.subject(), err)
	}
	// A broker that does not tell leaves the field at its smallest value, or at zero.
	var lacks []string
	if t.AuthorizedOperations != math.MinInt32 && t.AuthorizedOperations != 0 {
		for _, right := range rights {
			if !slices.Contains(kadm.DecodeACLOperations(t.AuthorizedOperations), right) {
				lacks = append(lacks, right.String())
			}
		}
	}
	if len(lacks) > 0 {
		k.add(sources.Problem, s.subject(), k.topicACL(s, rights), "this client's user lacks %s on it", strings.Join(lacks, ", "))
	} else if len(wrong) == 0 {
		k.add(sources.OK, s.subject(), "", "%d partitions, settings as configured", len(t.Partitions))
	}
}

// missing asks whether topics could be made.
func (k *checker) missing(ctx context.Context, rights []kmsg.ACLOperation, specs []topicSpec) {
	if len(specs) == 0 {
		return
	}
	s := specs[0]
	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].name
	}
	if !s.create {
		for _, s := range specs {
			k.refuse(s.subject(), s.errMissing())
		}
		return
	}
	if k.log.Profile == "warpstream" { // of which it is not known that it only validates when asked to
		for _, s := range specs {
			k.willBeMade(s)
		}
		return
	}
	all, err := k.adm.ValidateCreateTopics(ctx, int32(s.partitions), int16(s.replication), s.creation(), names...)
	if err != nil {
		k.refuse("topics", fmt.Errorf("ask whether topics can be made: %w", err))
		return
	}
	for _, s := range specs {
		if err := created(all[s.name]); err != nil {
			k.refuseTopic(s, rights, fmt.Errorf("topic %q cannot be made: %w", s.name, err))
		} else {
			k.willBeMade(s)
		}
	}
}

func (k *checker) willBeMade(s topicSpec) {
	k.add(sources.OK, s.subject(), "", "does not exist; weft run makes it with %d partitions", s.partitions)
}

// refuseTopic gives the statement where rights are lacking.
func (k *checker) refuseTopic(s topicSpec, rights []kmsg.ACLOperation, err error) {
	k.refuse(s.subject(), err)
	if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
		k.remedy(k.topicACL(s, append([]kmsg.ACLOperation{kmsg.ACLOperationCreate}, rights...)))
	}
}

// topicACL allows operations on the topics of the same prefix.
func (k *checker) topicACL(s topicSpec, rights []kmsg.ACLOperation) string {
	var what strings.Builder
	for _, right := range rights {
		what.WriteString("--operation " + aclNames[right] + " ")
	}
	return k.acl(what.String() + "--topic " + s.prefix + " --resource-pattern-type prefixed")
}

// aclNames are those that kafka-acls.sh takes.
var aclNames = map[kmsg.ACLOperation]string{
	kmsg.ACLOperationCreate: "Create", kmsg.ACLOperationRead: "Read", kmsg.ACLOperationWrite: "Write",
	kmsg.ACLOperationDescribeConfigs: "DescribeConfigs",
}
