package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/recovery"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/workflow"
)

// evacuations watches evacuations as they run. The first ones are held until as many as are allowed at a time have begun, which proves that these many run at
// once: how long a run takes to its end is no matter then.
type evacuations struct {
	records  *store.Store
	together int
	all      chan struct{} // closed when together of them have begun

	mu    sync.Mutex // guards what follows
	begun map[workflow.RunID]bool
	most  int // evacuations that were asked for and not at their end, at any moment at which one worked
}

// wrap is Options.Wrap.
func (e *evacuations) wrap(ctx context.Context, event workflow.Event, next func(context.Context) error) error {
	if event.Run.Flow != string(cloud.IntentEvacuate) {
		return next(ctx)
	}
	e.note(event.Run.ID)
	select {
	case <-e.all:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return next(ctx)
}

// note counts by the records: one transaction says both that a server lives elsewhere and that its evacuation is over, and the leader goes by it.
func (e *evacuations) note(run workflow.RunID) {
	open := 0
	for _, m := range evacuationsAsAsked(e.records.View()) {
		if !m.Status.Final() {
			open++
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.most = max(e.most, open)
	if e.begun[run] {
		return
	}
	e.begun[run] = true
	if len(e.begun) == e.together {
		close(e.all)
	}
}

func countSettled(r *cloud.Recovery) (n int) {
	for i := range r.Servers {
		if r.Servers[i].Settled() {
			n++
		}
	}
	return n
}

// evacuationsAsAsked returns the evacuations in the order in which the leader asked for them. Those that are under way together begin in no order.
func evacuationsAsAsked(r store.Reader) []*cloud.Migration {
	var out []*cloud.Migration
	for _, m := range store.All(r, tables.Migrations) {
		if m.Type == cloud.TypeEvacuation {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b *cloud.Migration) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// TestAHundredServersAreRecoveredWithNoMoreThanTheSetConcurrency: a host with a hundred servers dies, and all of them start on the other hosts, as many at a time as was
// set, reached and never passed; the ten that were marked as the most important are the first.
func TestAHundredServersAreRecoveredWithNoMoreThanTheSetConcurrency(t *testing.T) {
	const crowd, important, concurrency = 100, 10, 8
	w := newWorld(t, "h1", "h2", "h3", "h4")
	seen := &evacuations{records: w.store, together: concurrency, all: make(chan struct{}), begun: map[workflow.RunID]bool{}}
	w.control(func(o *Options) {
		o.Pulses, o.Wrap = w.heard, seen.wrap
		o.Policy = placement.DefaultPolicy()
		o.Policy.CPURatio = 16
		o.Recovery = recovery.Default()
		o.Recovery.ConcurrencyMax = concurrency
	})
	for i := range crowd {
		id := cloud.ServerID(fmt.Sprintf("s%03d", i))
		priority := 0
		if i >= crowd-important {
			priority = 5
		}
		s := cloud.Server{ID: id, Project: "p", Name: string(id), Flavor: cloud.Flavor{Name: "f", VCPUs: 1, RAMMiB: 256, RootGiB: 1}, Image: "img", ImageFormat: "qcow2", ForcedHost: "h1",
			VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Created: time.Now().UTC(),
			Metadata: map[string]string{cloud.MetaRecoveryRebuild: "on", cloud.MetaRecoveryPriority: strconv.Itoa(priority)}}
		w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, id, s) })
		w.ask(cloud.Intent{ID: cloud.IntentID("boot-" + id), Kind: cloud.IntentBoot, Server: id})
	}
	for booted := crowd / 10; booted <= crowd; booted += crowd / 10 {
		w.until(fmt.Sprint(booted, " servers run"), func(v store.View) bool {
			n := 0
			for _, s := range store.All(v, tables.Servers) {
				if s.VMState == cloud.VMActive {
					n++
				}
			}
			return n >= booted
		})
	}
	w.idle()
	w.write(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, cloud.HostName("h1"))
		if err != nil {
			return err
		}
		h.ForcedDown = true // the word that it is off; without it all would wait
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	began := time.Now()
	w.fleet.Host("h1").PowerOff()
	w.mute["h1"]()
	for settled := crowd / 10; settled <= crowd; settled += crowd / 10 { // each part may take as long as any wait
		w.until(fmt.Sprint(settled, " servers have an outcome"), func(v store.View) bool {
			all := store.By(v, tables.Recoveries, tables.ByHost, cloud.HostName("h1"))
			return len(all) == 1 && countSettled(all[0]) >= settled
		})
	}
	w.until("the recovery is done", func(v store.View) bool {
		return store.By(v, tables.Recoveries, tables.ByHost, cloud.HostName("h1"))[0].Status == cloud.RecoveryDone
	})
	t.Logf("%d servers recovered %v after the power cut, at most %d at a time", crowd, time.Since(began).Round(10*time.Millisecond), seen.most)
	w.idle()
	for _, r := range store.By(w.store, tables.Recoveries, tables.ByHost, cloud.HostName("h1"))[0].Servers {
		if r.Outcome != cloud.RecoveryRecovered || r.Attempts != 1 {
			t.Errorf("server %s: %s after %d attempts (%s)", r.Server, r.Outcome, r.Attempts, r.Reason)
		}
		if on := w.running(r.Server); on == "h1" {
			t.Errorf("server %s runs on the dead host", r.Server)
		}
	}
	if seen.most != concurrency {
		t.Errorf("%d evacuations were under way at a time, %d were set", seen.most, concurrency)
	}
	for i, m := range evacuationsAsAsked(w.store)[:important] {
		if m.Server < cloud.ServerID(fmt.Sprintf("s%03d", crowd-important)) {
			t.Errorf("evacuation %d was that of server %s, before some with a greater priority", i, m.Server)
		}
	}
	w.sound()
}

// TestAnAffinityGroupIsRecoveredTogether: while they are being moved one after the other, its members are recorded on two hosts, one of which is dead; they end on
// one host all the same.
func TestAnAffinityGroupIsRecoveredTogether(t *testing.T) {
	w := newWorld(t, "h1", "h2", "h3", "h4")
	w.control(func(o *Options) { o.Pulses = w.heard })
	members := []cloud.ServerID{"s1", "s2", "s3"}
	w.write(func(tx *store.Tx) error {
		return store.Put(tx, tables.ServerGroups, "g", cloud.ServerGroup{ID: "g", Name: "g", Project: "p", Policy: cloud.PolicyAffinity, Members: members})
	})
	for _, id := range members {
		s := cloud.Server{ID: id, Project: "p", Name: string(id), Flavor: cloud.Flavor{Name: "f", VCPUs: 1, RAMMiB: 256, RootGiB: 1}, Image: "img", ImageFormat: "qcow2", Group: "g",
			VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Created: time.Now().UTC(), Metadata: map[string]string{cloud.MetaRecoveryRebuild: "on"}}
		w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, id, s) })
		w.ask(cloud.Intent{ID: cloud.IntentID("boot-" + id), Kind: cloud.IntentBoot, Server: id})
		w.idle()
	}
	from := w.running("s1")
	w.write(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, from)
		if err != nil {
			return err
		}
		h.ForcedDown = true
		return store.Put(tx, tables.Hosts, h.Name, h)
	})
	w.cut(from)
	w.until("the recovery is done", func(v store.View) bool {
		all := store.By(v, tables.Recoveries, tables.ByHost, from)
		return len(all) == 1 && all[0].Status == cloud.RecoveryDone && len(all[0].Servers) == len(members)
	})
	w.idle()
	on := w.running("s1")
	for _, id := range members[1:] {
		if at := w.running(id); at != on || at == from {
			t.Errorf("server %s runs on %s, s1 on %s; they were on %s", id, at, on, from)
		}
	}
	w.sound()
}
