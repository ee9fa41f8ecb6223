package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sink"
	"weft/sources"
)

const (
	// sessionTimeout is how long a daemon that died keeps its captures from the others.
	sessionTimeout = 15 * time.Second
	// leaveTimeout bounds the goodbye of one that stops, whose captures are then taken over at once.
	leaveTimeout = 2 * time.Second
)

// group shares registered captures among the daemons of a fleet: a Kafka consumer group over the partitions of the
// registrations, in which nothing is consumed. Who has a partition runs its captures. That the former owner may still be
// stopping them when the new one starts does no harm, since a capture's writer fences the one before.
type group struct {
	cl      *kgo.Client
	cancel  context.CancelFunc // of all that the client has under way
	id      string
	changed func()

	mu  sync.Mutex
	has map[int32]bool // nil until it is told
}

// Check tells what this client's user lacks for sharing captures, and changes nothing.
func Check(ctx context.Context, cl *kgo.Client, fleet string) []sources.Finding {
	id := groupID(fleet)
	described, err := kadm.NewClient(cl).DescribeGroups(ctx, id)
	if one, ok := described[id]; err == nil && ok {
		err = one.Err
	}
	if !errors.Is(err, kerr.GroupAuthorizationFailed) {
		return nil // what else there may be is the log's, and told there
	}
	return []sources.Finding{{
		Level: sources.Warning, Subject: "consumer group " + id, Text: "this client's user lacks Read on it: captures of a config file run, registered ones do not",
		Remedy: fmt.Sprintf("kafka-acls.sh --bootstrap-server HOST:PORT --add --allow-principal User:NAME --operation Read --group %s # NAME is the user that "+
			"the brokers know this client by", id),
	}}
}

func groupID(fleet string) string { return "weft-" + fleet }

// join returns at once; changed is called whenever the partitions are others.
func join(l *sink.Log, fleet string, changed func()) (*group, error) {
	g := &group{id: groupID(fleet), changed: changed}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	var err error
	g.cl, err = l.Client(
		kgo.WithContext(ctx),
		kgo.ConsumerGroup(g.id),
		kgo.ConsumeTopics(Topic.Name),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(sessionTimeout),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { g.set(p, true) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { g.set(p, false) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { g.set(p, false) }),
	)
	if err != nil {
		cancel()
		return nil, err
	}
	g.cl.PauseFetchTopics(Topic.Name)
	return g, nil
}

func (g *group) set(partitions map[string][]int32, has bool) {
	if len(partitions[Topic.Name]) == 0 {
		return
	}
	g.mu.Lock()
	if g.has == nil {
		g.has = map[int32]bool{}
	}
	for _, p := range partitions[Topic.Name] {
		if has {
			g.has[p] = true
		} else {
			delete(g.has, p)
		}
	}
	g.mu.Unlock()
	g.changed()
}

// partitions are those that this daemon has now, nil while that is not known.
func (g *group) partitions() map[int32]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.has)
}

// run returns what the group fails with, or nil when ctx ends.
func (g *group) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := g.cl.PollFetches(ctx).Err()
		switch {
		case ctx.Err() != nil || err == nil:
		case errors.Is(err, kerr.GroupAuthorizationFailed):
			return sources.Fatal("allow this principal Read on the consumer group "+g.id, "share captures as consumer group %s: %w", g.id, err)
		default:
			return fmt.Errorf("share captures as consumer group %s: %w", g.id, err)
		}
	}
	return nil
}

// close leaves the group. A join that is under way waits at the broker for members that have died, so it is given up.
func (g *group) close() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_ = g.cl.LeaveGroupContext(ctx) // else its session ends soon
	g.cancel()
	g.cl.Close()
}
