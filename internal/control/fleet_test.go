package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

const (
	// fleetStep is the optimiser's step in these tests: five minutes that pass in a quarter of a second.
	fleetStep = 250 * time.Millisecond
	// fleetSample is how often hosts say what they use.
	fleetSample = 50 * time.Millisecond
)

// fleetWorld is a world whose fake hosts say what they use, sleep, and wake by magic packet.
type fleetWorld struct {
	*world
	book *telemetry.Book
	// fallAsleep takes a host's agent down, as its sleep does.
	fallAsleep func(cloud.HostName)
	begin      func() // has hosts say what they use

	mu    sync.Mutex                 // guards what follows
	loads map[cloud.ServerID]float64 // CPUs; absent: 0.2
	jumpy map[cloud.ServerID]bool    // use all their load in every other two steps, nothing in between
	watts map[cloud.HostName]float64 // what hosts read of themselves

	metrics *OptimiserMetrics // of leaders that arrange from now on; nil: none
}

func newFleetWorld(t *testing.T, hosts ...cloud.HostName) *fleetWorld {
	w := &fleetWorld{world: newWorld(t, hosts...), book: telemetry.NewBook(fleetStep), loads: map[cloud.ServerID]float64{}, jumpy: map[cloud.ServerID]bool{}, watts: map[cloud.HostName]float64{}}
	n := &naps{world: w.world, work: make(chan func(), 100)}
	w.fleet.OnSleep(n)
	w.fallAsleep = n.FellAsleep
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	owned.Go(func() { n.run(ctx) })
	w.begin = sync.OnceFunc(func() { owned.Go(func() { w.tell(ctx) }) })
	t.Cleanup(func() { cancel(); owned.Wait() })
	return w
}

// naps takes agents down and brings them up: a host that sleeps has no agent. One goroutine does it, in order; calls of hosts do not wait for it.
type naps struct {
	*world
	work chan func()
}

func (n *naps) run(ctx context.Context) {
	for {
		select {
		case work := <-n.work:
			work()
		case <-ctx.Done():
			return
		}
	}
}

// FellAsleep implements hostapitest.Sleeper.
func (n *naps) FellAsleep(host cloud.HostName) {
	n.work <- func() {
		n.mute[host]()
		n.fleet.Host(host).PowerOff()
	}
}

// Woke implements hostapitest.Sleeper.
func (n *naps) Woke(host cloud.HostName) {
	n.work <- func() {
		n.fleet.Host(host).Revive()
		_, n.mute[host] = n.wire.StartFake(n.t, n.fleet.Host(host))
	}
}

// tell has every connected host say what its servers use, until ctx ends.
func (w *fleetWorld) tell(ctx context.Context) {
	tick := time.NewTicker(fleetSample)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		v := w.store.View()
		for _, s := range store.All(v, tables.HostSessions) {
			w.book.Add(s.Host, w.sample(v, s.Host), time.Now())
		}
	}
}

func (w *fleetWorld) sample(v store.View, host cloud.HostName) telemetry.Sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := telemetry.Sample{Span: fleetSample, Watts: w.watts[host]}
	for _, s := range store.By(v, tables.Servers, tables.ByHost, host) {
		if s.VMState != cloud.VMActive {
			continue
		}
		load, ok := w.loads[s.ID]
		if !ok {
			load = 0.2
		}
		if w.jumpy[s.ID] && time.Now().UnixNano()/int64(2*fleetStep)%2 == 0 {
			load = 0
		}
		out.CPUUsed += load
		out.Servers = append(out.Servers, telemetry.ServerSample{Server: s.ID, CPUUsed: load, MemoryUsedMiB: 100, DirtyBytesPerSecond: -1})
	}
	return out
}

func (w *fleetWorld) use(id cloud.ServerID, cpus float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads[id] = cpus
}

// arrange starts a leader that arranges the fleet, with hosts that say what they use.
func (w *fleetWorld) arrange(level cloud.Automation, change func(*optimize.Settings)) (stop func()) {
	w.t.Helper()
	s := optimize.DefaultSettings()
	s.AwakeMin, s.Window, s.Factor = 0, time.Hour, 1
	if change != nil {
		change(&s)
	}
	w.begin()
	_, stop = w.control(func(o *Options) {
		o.Optimising = Optimising{Book: w.book, Settings: s, Automation: level, AccountEvery: fleetSample, Metrics: w.metrics}
	})
	return stop
}

// prove has hosts sleep and wake, one after the other: who wakes them must be awake.
func (w *fleetWorld) prove(hosts ...cloud.HostName) {
	w.t.Helper()
	for _, host := range hosts {
		w.write(func(tx *store.Tx) error {
			return hostpower.Ask(tx, hostpower.Wish{Host: host, Ask: cloud.AskTest, Reason: "a test"}, time.Now().UTC())
		})
		w.until("host "+string(host)+" proves that it wakes", func(v store.View) bool {
			p, ok := store.Lookup(v, tables.HostPowers, host)
			return ok && p.Takes() && !p.WakeProven.IsZero()
		})
	}
}

// on boots a server of eight CPUs on a host.
func (w *fleetWorld) on(host cloud.HostName, id cloud.ServerID, meta map[string]string) {
	w.t.Helper()
	s := cloud.Server{ID: id, Project: "p", Name: string(id), Flavor: cloud.Flavor{ID: "f", Name: "f", VCPUs: 8, RAMMiB: 4096, RootGiB: 1}, Image: "img", ForcedHost: host,
		ImageFormat: "qcow2", VMState: cloud.VMBuilding, Task: cloud.TaskScheduling, Metadata: meta, Created: time.Now().UTC()}
	w.write(func(tx *store.Tx) error { return store.Put(tx, tables.Servers, id, s) })
	w.ask(cloud.Intent{ID: cloud.IntentID("boot-" + id), Kind: cloud.IntentBoot, Server: id})
	w.idle()
	if on := w.running(id); host != "" && on != host {
		w.t.Fatalf("server %s is on %s", id, on)
	}
}

func (w *fleetWorld) state(host cloud.HostName) cloud.HostPowerState {
	if p, ok := store.Lookup(w.store.View(), tables.HostPowers, host); ok {
		return p.State
	}
	return cloud.HostAwake
}

func (w *fleetWorld) asleep() (out []cloud.HostName) {
	for _, p := range store.All(w.store.View(), tables.HostPowers) {
		if p.State == cloud.HostAsleep {
			out = append(out, p.Host)
		}
	}
	slices.Sort(out)
	return out
}

// audit asks for plans; continuous ones every step.
func (w *fleetWorld) audit(a cloud.Audit) cloud.AuditID {
	w.t.Helper()
	if a.Goal == "" {
		a.Goal = cloud.GoalConsolidate
	}
	w.write(func(tx *store.Tx) error { a.ID = ""; return planbook.Ask(tx, &a, time.Now().UTC()) })
	return a.ID
}

// recommended waits for an audit's plan that satisfies ok, asking again and again: what servers use is known only after some steps.
func (w *fleetWorld) recommended(ok func(p *cloud.ActionPlan) bool) *cloud.ActionPlan {
	w.t.Helper()
	id := w.audit(cloud.Audit{Kind: cloud.AuditContinuous})
	var out *cloud.ActionPlan
	w.until("a plan as wanted", func(v store.View) bool {
		for _, p := range store.All(v, tables.ActionPlans) {
			if p.Audit == id && p.Status == cloud.StatusRecommended && ok(p) {
				out = p
			}
		}
		return out != nil
	})
	w.write(func(tx *store.Tx) error { // so that the plan is not superseded
		a, err := store.Get(tx, tables.Audits, id)
		if err != nil {
			return err
		}
		a.Status = cloud.StatusCancelled
		p, err := store.Get(tx, tables.ActionPlans, out.ID)
		if err == nil && p.Status != cloud.StatusRecommended { // it was, just before
			p.Status, p.Finished = cloud.StatusRecommended, time.Time{}
			err = store.Put(tx, tables.ActionPlans, p.ID, p)
		}
		return errors.Join(err, store.Put(tx, tables.Audits, id, a))
	})
	return out
}

func (w *fleetWorld) start(p *cloud.ActionPlan) {
	w.t.Helper()
	w.write(func(tx *store.Tx) error {
		_, err := planbook.Start(tx, p.ID, time.Now().UTC())
		return err
	})
}

func (w *fleetWorld) plan(id cloud.PlanID) cloud.ActionPlan {
	p, ok := store.Lookup(w.store.View(), tables.ActionPlans, id)
	if !ok {
		return cloud.ActionPlan{}
	}
	return *p
}

func (w *fleetWorld) ended(id cloud.PlanID) cloud.ActionPlan {
	w.t.Helper()
	w.until("the plan ends", func(store.View) bool { return w.plan(id).Status.Final() })
	return w.plan(id)
}

// movesOf counts the migrations of each server.
func (w *fleetWorld) movesOf() map[cloud.ServerID]int {
	out := map[cloud.ServerID]int{}
	for _, m := range store.All(w.store.View(), tables.Migrations) {
		out[m.Server]++
	}
	return out
}

func movers(p *cloud.ActionPlan) (out []cloud.ServerID) {
	for _, a := range p.Actions {
		if a.Kind == cloud.ActionMigrate {
			out = append(out, a.Server)
		}
	}
	slices.Sort(out)
	return out
}

func statusOf(p cloud.ActionPlan, kind cloud.PlanActionKind) (out []cloud.OptimizeStatus) {
	for _, a := range p.Actions {
		if a.Kind == kind {
			out = append(out, a.Status)
		}
	}
	return out
}
