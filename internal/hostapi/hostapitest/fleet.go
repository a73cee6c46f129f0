package hostapitest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

// Fleet is a set of fake hosts under one lock: what happens in it happens at once. Safe for concurrent use.
type Fleet struct {
	mu         sync.Mutex
	hosts      map[cloud.HostName]*FakeHost
	volumes    map[cloud.HostName]*FakeVolumeHost
	faults     []*Fault
	violations []string
	calls      []string
	migrations func(*hostpb.MigrateRequest) Migration
	observe    func(cloud.HostName, *hostpb.ServerState)
	jobs       sync.WaitGroup
	sleeper    Sleeper
	disks      map[string][]byte // what is on servers' disks
}

// NewFleet makes a fleet of hosts that are reachable and empty.
func NewFleet(names ...cloud.HostName) *Fleet {
	f := &Fleet{hosts: map[cloud.HostName]*FakeHost{}, volumes: map[cloud.HostName]*FakeVolumeHost{}}
	for i, name := range names {
		f.hosts[name] = &FakeHost{member: newMember(f, name, errUnreachable(name)), address: fmt.Sprintf("192.0.2.%d", i+1), servers: map[string]*slot{}}
	}
	return f
}

// member is what hosts and volume services have in common. Guarded by the fleet's lock.
type member struct {
	fleet     *Fleet
	name      cloud.HostName
	gone      error // what callers get while it is not reachable
	epoch     int64
	reachable bool
	down      chan struct{} // closed when the process crashes, new when it starts
}

func newMember(f *Fleet, name cloud.HostName, gone error) member {
	return member{fleet: f, name: name, gone: gone, epoch: 1, reachable: true, down: make(chan struct{})}
}

// Name returns the member's name.
func (m *member) Name() cloud.HostName { return m.name }

func (m *member) self() *member { return m }

func (m *member) crash() {
	m.reachable = false
	close(m.down)
}

func (m *member) revive() {
	if m.reachable {
		return
	}
	m.reachable, m.down = true, make(chan struct{})
	m.epoch++
}

// Fault changes what one or more calls do. The first fault that matches a call is used.
type Fault struct {
	Host  cloud.HostName // or volume service; empty: any
	Call  string         // "Prepare", "Start" ...; empty: any
	Skip  int            // matching calls to let through first
	Times int            // calls to affect; 0 means 1, negative means all
	Err   error          // returned, unless nil
	// After carries the call out before Err is returned: the reply is lost. Otherwise the call has no effect.
	After bool
	Delay time.Duration // waited first, under the caller's context
	Do    func()        // run, without locks, before the call's effect (or after it, with After)
}

// Inject adds a fault and returns the function that takes it back.
func (f *Fleet) Inject(fault Fault) (remove func()) {
	if fault.Times == 0 {
		fault.Times = 1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	added := &fault
	f.faults = append(f.faults, added)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.faults = slices.DeleteFunc(f.faults, func(x *Fault) bool { return x == added })
	}
}

// Migration is how a scripted migration goes.
type Migration struct {
	// Outcome is COMPLETED when left unspecified.
	Outcome hostpb.MigrateOutcome
	Error   string
	Took    time.Duration // 0: it is over before Migrate looks
	// Gate, when not nil, holds the migration until it is closed (or aborted).
	Gate  <-chan struct{}
	Stats *hostpb.MigrationStats
}

// ScriptMigrations decides how migrations go from now on; without a script each completes at once.
func (f *Fleet) ScriptMigrations(script func(*hostpb.MigrateRequest) Migration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.migrations = script
}

// OnObservation has every change of a server's state on a host reported, in order. The function must not call the fleet.
func (f *Fleet) OnObservation(observe func(cloud.HostName, *hostpb.ServerState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observe = observe
}

// Host returns a fake host; it panics when there is none of that name, for only a wrong test asks for it.
func (f *Fleet) Host(name cloud.HostName) *FakeHost {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[name]
	if h == nil {
		panic(fmt.Sprintf("hostapitest: no host %q in the fleet", name))
	}
	return h
}

// On returns a client of the named host, or KindUnavailable when it is unknown or its agent is down. As on the wire, messages are
// copied and errors translated.
func (f *Fleet) On(name cloud.HostName) (hostpb.HostClient, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[name]
	if h == nil || !h.reachable {
		return nil, errUnreachable(name)
	}
	return &client{host: h}, nil
}

func errUnreachable(name cloud.HostName) error {
	return cloud.Errorf(cloud.KindUnavailable, "host %s: its agent is not connected", name)
}

// Violations returns what callers did that they must never do, in order.
func (f *Fleet) Violations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.violations)
}

// Calls returns every call that reached a host, as "compute-1 Prepare s1 3" (host, call, server, generation).
func (f *Fleet) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Running returns the hosts on which the server's CPUs run, sorted. More than one is a violation as well.
func (f *Fleet) Running(id cloud.ServerID) []cloud.HostName {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running(string(id))
}

func (f *Fleet) running(id string) []cloud.HostName {
	var on []cloud.HostName
	for _, name := range slices.Sorted(maps.Keys(f.hosts)) {
		if s := f.hosts[name].servers[id]; s != nil && s.runs() {
			on = append(on, name)
		}
	}
	return on
}

// Leftovers returns what the hosts keep of a server, as "compute-2: running, disks": nothing at all when it is gone.
func (f *Fleet) Leftovers(id cloud.ServerID) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f.hosts)) {
		if s := f.hosts[name].servers[string(id)]; s != nil && s.present() {
			out = append(out, string(name)+": "+s.describe())
		}
	}
	return out
}

// Wait returns when no migration is in progress. Call it at a test's end, after every gate has been opened.
func (f *Fleet) Wait() { f.jobs.Wait() }

func (f *Fleet) violate(format string, args ...any) {
	f.violations = append(f.violations, fmt.Sprintf(format, args...))
}

// fault finds the fault for a call, if any, and uses it up.
func (f *Fleet) fault(host cloud.HostName, call string) *Fault {
	for _, x := range f.faults {
		if x.Host != "" && x.Host != host || x.Call != "" && x.Call != call || x.Times == 0 {
			continue
		}
		if x.Skip > 0 {
			x.Skip--
			continue
		}
		if x.Times > 0 {
			x.Times--
		}
		return x
	}
	return nil
}

// serve wraps one call: reachability, faults, the log of calls and the lock.
func serve[Req, Reply proto.Message](ctx context.Context, on interface{ self() *member }, name string, req Req, effect func(Req) (Reply, error)) (Reply, error) {
	var none Reply
	h := on.self()
	f := h.fleet
	f.mu.Lock()
	if !h.reachable {
		f.mu.Unlock()
		return none, h.gone
	}
	f.calls = append(f.calls, fmt.Sprintf("%s %s%s", h.name, name, subject(req)))
	fault, down := f.fault(h.name, name), h.down
	f.mu.Unlock()
	if fault == nil {
		fault = &Fault{}
	}
	if err := wait(ctx, fault.Delay, down); err != nil {
		return none, err
	}
	if !fault.After {
		if fault.Do != nil {
			fault.Do()
		}
		if fault.Err != nil {
			return none, fault.Err
		}
	}
	f.mu.Lock()
	if !h.reachable { // it crashed just now
		f.mu.Unlock()
		return none, h.gone
	}
	reply, err := effect(req)
	f.mu.Unlock()
	if fault.After {
		if fault.Do != nil {
			fault.Do()
		}
		if fault.Err != nil {
			return none, fault.Err
		}
	}
	return reply, err
}

// subject renders what a call is about.
func subject(req proto.Message) string {
	if r, ok := req.(interface{ GetCall() *hostpb.Call }); ok {
		return fmt.Sprintf(" %s %d", r.GetCall().GetServerId(), r.GetCall().GetGeneration())
	}
	if r, ok := req.(interface{ GetCall() *hostpb.VolumeCall }); ok {
		return fmt.Sprintf(" %s %d", r.GetCall().GetVolumeId(), r.GetCall().GetGeneration())
	}
	if r, ok := req.(interface{ GetServerId() string }); ok {
		return " " + r.GetServerId()
	}
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		return " " + r.GetVolumeId()
	}
	return ""
}

// wait returns early when the context ends or the agent goes down; that it went down the caller finds out by itself.
func wait(ctx context.Context, d time.Duration, down <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-down:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
