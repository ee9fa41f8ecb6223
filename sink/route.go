package sink

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"weft/sources"
)

// route is where a table's records go.
type route struct {
	topic       string
	partitions  int
	partitioner kgo.TopicPartitioner
}

// route returns where a change's records go, making the topic at the table's first change.
func (w *Writer) route(ctx context.Context, c *sources.Change) (*route, error) {
	if c.Table == w.lastTable && w.lastRoute != nil {
		return w.lastRoute, nil
	}
	r, ok := w.routes[c.Table]
	if !ok {
		if len(w.routes) > 1000 { // a table's every schema change makes a new one
			clear(w.routes)
		}
		topic := w.o.Topics.Prefix + ".message"
		if c.Table != nil {
			topic = TopicOf(w.o.Topics.Prefix, c.Table)
		}
		if other, ok := w.topics[topic]; ok && other != name(c) {
			return nil, errClash(other, name(c), topic)
		}
		if w.o.Topics.Cleanup == "compact" && c.Table != nil && len(c.Table.Key) == 0 {
			return nil, errNoKey(name(c))
		}
		n, err := ensureTopic(ctx, w.cl, w.o.Topics.changeTopic(topic, w.profile))
		if err != nil {
			return nil, err
		}
		if _, ok := w.topics[topic]; !ok {
			if err := w.delivery.enter(ctx, topic); err != nil {
				return nil, explain(err)
			}
		}
		r = &route{topic: topic, partitions: n, partitioner: kgo.StickyKeyPartitioner(nil).ForTopic(topic)}
		w.topics[topic] = name(c)
		w.routes[c.Table] = r
	}
	w.lastTable, w.lastRoute = c.Table, r
	return r, nil
}

func errClash(a, b, topic string) error {
	return sources.Fatal("capture one of the tables under another topics.prefix",
		"tables %q and %q would both be written to topic %q", a, b, topic)
}

func errNoKey(table string) error {
	return sources.Fatal("name the table's key columns under keys, set topics.cleanup: delete, or leave the table out",
		"table %s has no key, and a compacted topic keeps only records with one", table)
}

func name(c *sources.Change) string {
	if c.Table == nil {
		return "messages"
	}
	return c.Table.String()
}
