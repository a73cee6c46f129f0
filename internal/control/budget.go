package control

import "github.com/godwit-cloud/godwit/internal/cloud"

// A queue is what admission may know: pure data, so that it can be tested without a store.
type queue struct {
	intents    []*cloud.Intent // oldest first
	started    map[cloud.IntentID]bool
	held       map[cloud.IntentID]bool // whose server's host has to wake first
	migrations map[cloud.MigrationID]*cloud.Migration
	budget     Budget
}

// admit returns the intents to start now, in order.
//
// Everything is started at once, since runs of one server queue up by themselves, with three exceptions. A migration waits until both its hosts have
// room for one more; it stays "queued", where it costs nothing and can be aborted. What is wanted of a server whose host sleeps waits for that. And nothing new is started for a server that is to be deleted: after
// the delete those runs find no server and end themselves.
func (q *queue) admit() []*cloud.Intent {
	deleting := map[cloud.ServerID]bool{}
	moving := newMoving()
	for _, i := range q.intents {
		if i.Kind == cloud.IntentDelete {
			deleting[i.Server] = true
		}
		if m := q.migrations[i.Migration]; i.Kind == cloud.IntentMigrate && q.started[i.ID] && m != nil {
			moving.add(m)
		}
	}
	var out []*cloud.Intent
	for _, i := range q.intents {
		if q.started[i.ID] || q.held[i.ID] || deleting[i.Server] && i.Kind != cloud.IntentDelete {
			continue
		}
		if i.Kind == cloud.IntentMigrate {
			m := q.migrations[i.Migration]
			if m != nil && !m.AbortAsked && !moving.room(m, q.budget) { // an aborted one starts only to end
				continue
			}
			if m != nil {
				moving.add(m)
			}
		}
		out = append(out, i)
	}
	return out
}

// moving counts migrations in progress. A target that placement has not chosen yet counts for no host.
type moving struct {
	from, to map[cloud.HostName]int
	all      int
}

func newMoving() *moving {
	return &moving{from: map[cloud.HostName]int{}, to: map[cloud.HostName]int{}}
}

func targetOf(m *cloud.Migration) cloud.HostName {
	if m.Target != "" {
		return m.Target
	}
	return m.AskedTarget
}

func (c *moving) add(m *cloud.Migration) {
	if m.Status.Resting() {
		return // it only cleans up
	}
	c.from[m.Source]++
	c.to[targetOf(m)]++
	c.all++
}

func (c *moving) room(m *cloud.Migration, b Budget) bool {
	target := targetOf(m)
	return c.from[m.Source] < b.Outbound && (target == "" || c.to[target] < b.Inbound) && (b.Cluster == 0 || c.all < b.Cluster)
}
