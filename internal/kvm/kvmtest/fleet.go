package kvmtest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// Fleet is a set of fake hosts between which domains migrate. It keeps libvirt's rules: what a real libvirtd refuses, it refuses with the same kind of
// error, and what must never happen (two running copies, a start without a disk) it records as a violation.
//
// A host can lose its libvirtd: calls then wait, as those of kvm.Conn do, and its guests run on.
type Fleet struct {
	mu         sync.Mutex
	hosts      map[string]*Host // by migration address
	held       bool             // migrations stay in progress until released
	changed    chan struct{}    // closed and replaced whenever anything changes
	violations []string
	jobs       sync.WaitGroup
}

// NewFleet returns an empty fleet.
func NewFleet() *Fleet {
	return &Fleet{hosts: map[string]*Host{}, changed: make(chan struct{})}
}

// Host is one fake host; it has the methods of kvm.Conn that agents use.
type Host struct {
	fleet   *Fleet
	address string
	// diskThere says whether a domain's disks are on this host.
	diskThere func(cloud.ServerID) bool

	// All guarded by Fleet.mu.
	up      bool
	domains map[cloud.ServerID]*domain
	resized map[cloud.ServerID]map[string]int64
	pings   map[cloud.ServerID]int // of guests' agents
	mail    kvm.Batch
}

type domain struct {
	defined   *kvm.Domain // nil: transient
	proc      *proc       // nil: no process
	reason    string      // of having no process
	completed *cloud.MigrationStats
}

type proc struct {
	domain  kvm.Domain
	running bool
	reason  string
	out     *migration
	in      *migration
	deaf    int  // requests to let go of a disk that the guest ignores
	spoiled bool // no request to its disks succeeds
	full    bool // for want of room
	agent   kvm.Pong
	lost    bool // the process is dead, and libvirtd has not noticed
}

// migration is a job in progress.
type migration struct {
	move           kvm.Move
	source, target *Host
	split          bool // post-copy has begun
	hung           bool // the call that began it does not return
	ended          bool
	err            error
}

// AddHost adds a host that receives migrations at address.
func (f *Fleet) AddHost(address string, diskThere func(cloud.ServerID) bool) *Host {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &Host{fleet: f, address: address, diskThere: diskThere, up: true, domains: map[cloud.ServerID]*domain{}, resized: map[cloud.ServerID]map[string]int64{}, pings: map[cloud.ServerID]int{}}
	h.mail = kvm.Batch{Resync: true, Domains: map[cloud.ServerID]kvm.Notice{}}
	f.hosts[address] = h
	return h
}

// Hold keeps migrations that begin from now on in progress until Release.
func (f *Fleet) Hold() { f.set(func() { f.held = true }) }

// Release lets migrations end.
func (f *Fleet) Release() { f.set(func() { f.held = false }) }

// Violations returns what happened that must never happen.
func (f *Fleet) Violations() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.violations)
}

// Wait waits for the fleet's goroutines.
func (f *Fleet) Wait() { f.jobs.Wait() }

func (f *Fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.touchLocked()
}

// touchLocked wakes all who wait for a change, and looks for what must never be.
func (f *Fleet) touchLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
	where := map[cloud.ServerID][]string{}
	for address, h := range f.hosts {
		for id, d := range h.domains {
			if d.proc != nil && d.proc.running {
				where[id] = append(where[id], address)
			}
		}
	}
	for id, addresses := range where {
		if len(addresses) > 1 {
			f.violations = append(f.violations, fmt.Sprintf("server %s runs on %v", id, addresses))
		}
	}
}

// waitLocked gives up the lock until something changes or ctx ends.
func (f *Fleet) waitLocked(ctx context.Context) error {
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call runs f under the lock once libvirtd is up.
func (h *Host) call(ctx context.Context, do func() error) error {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	for !h.up {
		if err := h.fleet.waitLocked(ctx); err != nil {
			return cloud.Errorf(cloud.KindUnavailable, "libvirtd is away: %w", err)
		}
	}
	return do()
}

func (h *Host) noteLocked(id cloud.ServerID, n kvm.Notice) {
	if h.up {
		h.mail.Domains[id] |= n
	}
	h.fleet.touchLocked()
}

// onDomain runs do on an existing domain.
func (h *Host) onDomain(ctx context.Context, id cloud.ServerID, do func(*domain) error) error {
	return h.call(ctx, func() error {
		d := h.domains[id]
		if d == nil {
			return cloud.Errorf(cloud.KindNotFound, "fake: no domain %s", id)
		}
		return do(d)
	})
}

// onProcess runs do on a domain with a process.
func (h *Host) onProcess(ctx context.Context, id cloud.ServerID, do func(*domain, *proc) error) error {
	return h.onDomain(ctx, id, func(d *domain) error {
		if d.proc == nil {
			return cloud.Errorf(cloud.KindConflict, "fake: domain %s is not running", id)
		}
		return do(d, d.proc)
	})
}

// Notices waits for events.
func (h *Host) Notices(ctx context.Context) (kvm.Batch, error) {
	f := h.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	for !h.up || !h.mail.Resync && len(h.mail.Domains) == 0 {
		if err := f.waitLocked(ctx); err != nil {
			return kvm.Batch{}, err
		}
	}
	b := h.mail
	h.mail = kvm.Batch{Domains: map[cloud.ServerID]kvm.Notice{}}
	return b, nil
}

// Reconnect makes the next reader of Notices begin with a resync, as a new kvm.Conn does.
func (h *Host) Reconnect() { h.fleet.set(func() { h.mail.Resync = true }) }

func (h *Host) stateLocked(id cloud.ServerID) kvm.State {
	s := kvm.State{ID: id}
	d := h.domains[id]
	switch {
	case d == nil:
	case d.proc == nil:
		s.Run, s.Reason = kvm.Shutoff, d.reason
		if d.reason == "crashed" {
			s.Run = kvm.Crashed
		}
	case d.proc.in != nil && !d.proc.in.split:
		s.Run, s.Reason = kvm.Incoming, kvm.ReasonMigration
	case d.proc.out != nil && !d.proc.out.split:
		s.Run, s.Reason = kvm.Outgoing, d.proc.reason
	case d.proc.running:
		s.Run, s.Reason = kvm.Running, d.proc.reason
	default:
		s.Run, s.Reason = kvm.Paused, d.proc.reason
	}
	return s
}

// State is kvm.Conn.State.
func (h *Host) State(ctx context.Context, id cloud.ServerID) (s kvm.State, err error) {
	err = h.call(ctx, func() error { s = h.stateLocked(id); return nil })
	return s, err
}

// List is kvm.Conn.List.
func (h *Host) List(ctx context.Context) (all []kvm.State, err error) {
	err = h.call(ctx, func() error {
		for id := range h.domains {
			all = append(all, h.stateLocked(id))
		}
		return nil
	})
	return all, err
}

// Describe is kvm.Conn.Describe.
func (h *Host) Describe(ctx context.Context, id cloud.ServerID) (desc kvm.Description, err error) {
	err = h.onDomain(ctx, id, func(d *domain) error {
		of := d.defined
		if d.proc != nil {
			of = &d.proc.domain
		}
		desc = kvm.Description{ID: id, Machine: of.Machine, Meta: of.Meta, Disks: describe(of.Disks)}
		return nil
	})
	return desc, err
}

// Define is kvm.Conn.Define.
func (h *Host) Define(ctx context.Context, dom kvm.Domain) error {
	if _, err := dom.XML(); err != nil {
		return err
	}
	return h.call(ctx, func() error {
		d := h.domains[dom.ID]
		if d == nil {
			d = &domain{reason: "unknown"}
			h.domains[dom.ID] = d
		}
		d.defined = &dom
		h.noteLocked(dom.ID, kvm.Changed)
		return nil
	})
}

// Undefine is kvm.Conn.Undefine.
func (h *Host) Undefine(ctx context.Context, id cloud.ServerID) error {
	return h.call(ctx, func() error {
		d := h.domains[id]
		if d == nil {
			return nil
		}
		d.defined = nil
		if d.proc == nil {
			delete(h.domains, id)
		}
		h.noteLocked(id, kvm.Changed)
		return nil
	})
}

// Start is kvm.Conn.Start.
func (h *Host) Start(ctx context.Context, id cloud.ServerID) error {
	return h.onDomain(ctx, id, func(d *domain) error {
		if d.proc != nil {
			return cloud.Errorf(cloud.KindConflict, "fake: domain %s is running already", id)
		}
		if !h.diskThere(id) {
			h.fleet.violations = append(h.fleet.violations, fmt.Sprintf("start of %s on %s without a disk", id, h.address))
			return cloud.Errorf(cloud.KindInternal, "fake: no disk")
		}
		d.proc = &proc{domain: *d.defined, running: true, reason: "booted"}
		h.noteLocked(id, kvm.Changed|kvm.Resumed)
		return nil
	})
}

// endLocked ends a domain's process.
func (h *Host) endLocked(id cloud.ServerID, d *domain, reason string) {
	d.proc, d.reason = nil, reason
	if d.defined == nil {
		delete(h.domains, id)
	}
	h.noteLocked(id, kvm.Changed|kvm.Stopped)
}

// Destroy is kvm.Conn.Destroy.
func (h *Host) Destroy(ctx context.Context, id cloud.ServerID) error {
	return h.call(ctx, func() error {
		if d := h.domains[id]; d != nil && d.proc != nil {
			h.endLocked(id, d, "destroyed")
		}
		return nil
	})
}

// Resume is kvm.Conn.Resume.
func (h *Host) Resume(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		if p.in != nil {
			return cloud.Errorf(cloud.KindConflict, "fake: domain %s is being received", id)
		}
		if p.reason == kvm.ReasonPostcopy || p.reason == kvm.ReasonPostcopyFailed {
			return cloud.Errorf(cloud.KindConflict, "fake: domain %s is in post-copy", id)
		}
		if p.spoiled { // it runs, tries again, and stands still again
			h.noteLocked(id, kvm.Resumed|p.diskNotice())
			return nil
		}
		p.running, p.reason = true, "unpaused"
		h.noteLocked(id, kvm.Changed|kvm.Resumed)
		return nil
	})
}

// Suspend is kvm.Conn.Suspend.
func (h *Host) Suspend(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		p.running, p.reason = false, "user"
		h.noteLocked(id, kvm.Changed)
		return nil
	})
}

// PressPower asks a guest that ignores it.
func (h *Host) PressPower(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(*domain, *proc) error { return nil })
}

// PressReboot asks a guest that ignores it.
func (h *Host) PressReboot(ctx context.Context, id cloud.ServerID) error {
	return h.onProcess(ctx, id, func(*domain, *proc) error { return nil })
}

// Versions, Node and Capabilities are what any host says.

// Versions is kvm.Conn.Versions.
func (h *Host) Versions(ctx context.Context) (kvm.Versions, error) {
	return kvm.Versions{Libvirt: "9.0.0", QEMU: "7.2.0"}, h.call(ctx, func() error { return nil })
}

// Node is kvm.Conn.Node.
func (h *Host) Node(ctx context.Context) (kvm.Node, error) {
	return kvm.Node{VCPUs: 4, Sockets: 1, Cores: 4, Threads: 1, RAMMiB: 8192}, h.call(ctx, func() error { return nil })
}

// Capabilities is kvm.Conn.Capabilities.
func (h *Host) Capabilities(ctx context.Context, _ kvm.Emulation) (kvm.Capabilities, error) {
	return kvm.Capabilities{CPUModels: []string{kvm.CPUDefault}, Machine: kvm.MachineDefault}, h.call(ctx, func() error { return nil })
}

// Job is kvm.Conn.Job.
func (h *Host) Job(ctx context.Context, id cloud.ServerID) (job kvm.Job, err error) {
	err = h.onProcess(ctx, id, func(_ *domain, p *proc) error {
		job = kvm.Job{Active: p.out != nil || p.in != nil, Outgoing: p.out != nil, Stats: cloud.MigrationStats{MemoryTotal: 100, MemoryRemaining: 50}}
		return nil
	})
	return job, err
}

// CompletedJob is kvm.Conn.CompletedJob.
func (h *Host) CompletedJob(ctx context.Context, id cloud.ServerID) (stats cloud.MigrationStats, ok bool, err error) {
	err = h.onDomain(ctx, id, func(d *domain) error {
		if d.completed != nil {
			stats, ok = *d.completed, true
		}
		return nil
	})
	return stats, ok, err
}

// AwaitExit is kvm.Conn.AwaitExit.
func (h *Host) AwaitExit(ctx context.Context, id cloud.ServerID) error {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	p := procOf(h, id)
	if p == nil {
		return cloud.Errorf(cloud.KindNotFound, "fake: no process")
	}
	for procOf(h, id) == p && !p.lost {
		if err := h.fleet.waitLocked(ctx); err != nil {
			return err
		}
	}
	return nil
}

// arrivalStats are what the target has of every completed migration: as libvirt, it knows nothing of the disks.
var arrivalStats = cloud.MigrationStats{MemoryTotal: 100, MemoryProcessed: 100, Downtime: 30 * time.Millisecond, Elapsed: time.Second}

// finalStats are the figures of every completed migration.
var finalStats = cloud.MigrationStats{MemoryTotal: 100, MemoryProcessed: 100, DiskTotal: 10, DiskProcessed: 10, Downtime: 30 * time.Millisecond, Elapsed: time.Second}
