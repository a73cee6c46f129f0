package hostapitest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
)

const (
	absent   = hostpb.DomainState_DOMAIN_STATE_ABSENT
	running  = hostpb.DomainState_DOMAIN_STATE_RUNNING
	paused   = hostpb.DomainState_DOMAIN_STATE_PAUSED
	shutoff  = hostpb.DomainState_DOMAIN_STATE_SHUTOFF
	crashed  = hostpb.DomainState_DOMAIN_STATE_CRASHED
	incoming = hostpb.DomainState_DOMAIN_STATE_INCOMING
	outgoing = hostpb.DomainState_DOMAIN_STATE_OUTGOING
)

// FakeHost is one host of a Fleet; it implements hostpb.HostServer. All its state is guarded by the fleet's lock.
type FakeHost struct {
	hostpb.UnimplementedHostServer
	member
	address  string
	share    string // the directory of disks that it shares with others; empty: its own
	seq      int64
	servers  map[string]*slot
	networks int64 // revision of SyncNetworks

	clockAhead time.Duration
}

// slot is what a host keeps of one server. It outlives Discard as a tombstone with the generation.
type slot struct {
	id         string
	generation int64
	spec       *hostpb.ServerSpec
	domain     hostpb.DomainState
	reason     string
	disks      bool
	receiving  bool // prepared to receive a migration
	adopted    bool
	console    []byte
	exported   string         // name under which its disk is served
	exportedTo cloud.HostName // the one host that may read it
	job        *job           // last outgoing migration
	split      bool           // post-copy from or to here goes on
	broken     bool           // a post-copy migration from or to here broke off: it runs nowhere until it is started anew
}

// runs reports whether the server's CPUs are this host's. In post-copy they are the target's; the source's half is paused.
func (s *slot) runs() bool {
	return !s.broken && (s.domain == running || s.domain == paused && !s.split || s.domain == outgoing)
}

func (s *slot) present() bool { return s.domain != absent || s.disks }

func (s *slot) describe() string {
	parts := []string{strings.ToLower(strings.TrimPrefix(s.domain.String(), "DOMAIN_STATE_"))}
	if s.disks {
		parts = append(parts, "disks")
	}
	if s.receiving {
		parts = append(parts, "receiving")
	}
	return strings.Join(parts, ", ")
}

// CrashAgent makes the agent unreachable; guests and their migrations go on without it.
func (h *FakeHost) CrashAgent() {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	if !h.reachable {
		return
	}
	h.crash()
	for _, s := range h.servers {
		if s.job != nil && !s.job.over() {
			s.job.orphan = true
		}
	}
}

// PowerOff makes the host lose its agent and every guest's CPU and memory; disks stay. Migrations it was part of fail.
func (h *FakeHost) PowerOff() {
	h.CrashAgent()
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	for _, s := range h.servers {
		if s.domain != absent {
			s.domain, s.reason = shutoff, "destroyed"
			if s.receiving || !s.adopted {
				s.domain = absent
			}
		}
	}
	for _, other := range h.fleet.hosts {
		for _, s := range other.servers {
			if s.job != nil && !s.job.over() && (s.job.source == h || s.job.target == h) {
				s.job.cut = true
				s.job.settle()
			}
		}
	}
}

// Revive starts the agent again, with a greater epoch.
func (h *FakeHost) Revive() {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.revive()
}

// State returns what Inspect would, whether or not the agent is reachable.
func (h *FakeHost) State(id cloud.ServerID) *hostpb.ServerState {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return h.state(h.slot(string(id)))
}

// SetDomain forces a server's state, as a guest that shuts down or crashes by itself.
func (h *FakeHost) SetDomain(id cloud.ServerID, state hostpb.DomainState, reason string) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	h.set(h.slot(string(id)), state, reason)
}

// Place puts a running server on the host without any call, as a test's starting point.
func (h *FakeHost) Place(spec *hostpb.ServerSpec, generation int64) {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	s := h.slot(spec.GetServerId())
	s.spec, s.generation, s.disks, s.adopted = proto.CloneOf(spec), generation, true, true
	h.writeDisk(s)
	h.set(s, running, "booted")
}

func (h *FakeHost) slot(id string) *slot {
	s := h.servers[id]
	if s == nil {
		s = &slot{id: id, domain: absent}
		h.servers[id] = s
	}
	return s
}

// set changes a server's state and reports it.
func (h *FakeHost) set(s *slot, state hostpb.DomainState, reason string) {
	s.domain, s.reason = state, reason
	if on := h.fleet.running(s.id); len(on) > 1 {
		h.fleet.violate("server %s runs on %v at once", s.id, on)
	}
	if s.runs() {
		h.writeVolumes(s)
	}
	h.seq++
	if h.fleet.observe != nil && h.reachable {
		h.fleet.observe(h.name, h.state(s))
	}
}

func (h *FakeHost) state(s *slot) *hostpb.ServerState {
	out := &hostpb.ServerState{
		ServerId: s.id, Domain: s.domain, Reason: s.reason, Generation: s.generation, DisksPresent: s.disks, Epoch: h.epoch, Seq: h.seq,
	}
	if s.job != nil {
		out.MigrationId, out.MigrationOutcome = s.job.id, s.job.outcome()
	}
	switch {
	case s.broken:
		out.PostCopy = hostpb.PostCopy_POST_COPY_BROKEN
	case s.split:
		out.PostCopy = hostpb.PostCopy_POST_COPY_ACTIVE
	}
	return out
}

// accept checks a call's generation as a real host does.
func (h *FakeHost) accept(name string, call *hostpb.Call) (*slot, error) {
	if call.GetServerId() == "" || call.GetGeneration() <= 0 || call.GetRunId() == "" {
		h.fleet.violate("%s: %s without server, generation or run: %v", h.name, name, call)
		return nil, cloud.Errorf(cloud.KindInvalid, "%s: the call names no server, generation or run", name)
	}
	s := h.slot(call.GetServerId())
	if call.GetGeneration() < s.generation {
		return nil, cloud.Errorf(cloud.KindStale, "%s: server %s: generation %d is older than %d", name, s.id, call.GetGeneration(), s.generation)
	}
	s.generation = call.GetGeneration()
	return s, nil
}

func (h *FakeHost) checkSpec(name string, s *slot, spec *hostpb.ServerSpec) error {
	if spec.GetServerId() == s.id {
		return nil
	}
	h.fleet.violate("%s: %s: specification of server %q in a call for %q", h.name, name, spec.GetServerId(), s.id)
	return cloud.Errorf(cloud.KindInvalid, "%s: the specification is of another server", name)
}

func conflict(format string, args ...any) error {
	return cloud.Errorf(cloud.KindConflict, format, args...)
}

// Facts implements hostpb.HostServer.
func (h *FakeHost) Facts(ctx context.Context, req *hostpb.FactsRequest) (*hostpb.HostFacts, error) {
	return serve(ctx, h, "Facts", req, func(*hostpb.FactsRequest) (*hostpb.HostFacts, error) { return h.facts(), nil })
}

// CurrentFacts returns what Facts would.
func (h *FakeHost) CurrentFacts() *hostpb.HostFacts {
	h.fleet.mu.Lock()
	defer h.fleet.mu.Unlock()
	return h.facts()
}

func (h *FakeHost) facts() *hostpb.HostFacts {
	h.seq++
	var up int64
	for _, s := range h.servers {
		if s.runs() {
			up++
		}
	}
	return &hostpb.HostFacts{
		Name: string(h.name), Generation: h.epoch, Seq: h.seq, AgentVersion: "fake", LibvirtVersion: "9.0.0", QemuVersion: "7.2.0",
		Hypervisor: "QEMU", Virtualization: "tcg", Arch: "x86_64", CpuModels: []string{"qemu64"}, CpuInfo: "{}",
		Vcpus: 16, RamMib: 65536, RamFreeMib: 65536, DiskGib: 1000, DiskFreeGib: 1000,
		MigrationAddress: h.address, TunnelAddress: h.address, Running: up, Load: []float64{0, 0, 0}, WakeMacs: []string{h.mac()},
	}
}

// Inspect implements hostpb.HostServer.
func (h *FakeHost) Inspect(ctx context.Context, req *hostpb.InspectRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "Inspect", req, func(req *hostpb.InspectRequest) (*hostpb.ServerState, error) {
		if s := h.servers[req.GetServerId()]; s != nil {
			return h.state(s), nil
		}
		return &hostpb.ServerState{ServerId: req.GetServerId(), Domain: absent, Epoch: h.epoch, Seq: h.seq}, nil
	})
}

// Prepare implements hostpb.HostServer.
func (h *FakeHost) Prepare(ctx context.Context, req *hostpb.PrepareRequest) (*hostpb.PrepareReply, error) {
	return serve(ctx, h, "Prepare", req, func(req *hostpb.PrepareRequest) (*hostpb.PrepareReply, error) {
		s, err := h.accept("Prepare", req.GetCall())
		if err != nil {
			return nil, err
		}
		if err := h.checkSpec("Prepare", s, req.GetSpec()); err != nil {
			return nil, err
		}
		if req.GetIncoming() && (s.runs() || s.domain == shutoff) {
			h.fleet.violate("%s: prepared to receive server %s, which is %s here", h.name, s.id, s.describe())
			return nil, conflict("server %s is already here", s.id)
		}
		if req.GetIncoming() { // QEMU opens them when the migration begins
			if err := h.reachVolumes("Prepare", s, req.GetSpec().GetVolumes()...); err != nil {
				return nil, err
			}
		}
		switch cold := req.GetDiskSource() != nil || req.GetKeepDisk(); {
		case cold:
			if err := h.prepareCold(s, req); err != nil {
				return nil, err
			}
		case h.content(s.id) == nil && req.GetSpec().GetRoot() != nil:
			h.setContent(s.id, []byte(req.GetSpec().GetRoot().GetImageId()))
		}
		s.exported, s.exportedTo = "", ""
		s.spec, s.disks, s.receiving = proto.CloneOf(req.GetSpec()), true, req.GetIncoming()
		return &hostpb.PrepareReply{MigrationAddress: h.address}, nil
	})
}

// Start implements hostpb.HostServer.
func (h *FakeHost) Start(ctx context.Context, req *hostpb.StartRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "Start", req, func(req *hostpb.StartRequest) (*hostpb.ServerState, error) {
		s, err := h.accept("Start", req.GetCall())
		if err != nil {
			return nil, err
		}
		if err := h.checkSpec("Start", s, req.GetSpec()); err != nil {
			return nil, err
		}
		if s.runs() {
			return h.state(s), nil
		}
		if !s.disks || s.receiving {
			h.fleet.violate("%s: started server %s, which is %s", h.name, s.id, s.describe())
			return nil, conflict("server %s is not prepared here", s.id)
		}
		if err := h.reachVolumes("Start", s, req.GetSpec().GetVolumes()...); err != nil {
			return nil, err
		}
		h.start(s, req.GetSpec())
		return h.state(s), nil
	})
}

func (h *FakeHost) start(s *slot, spec *hostpb.ServerSpec) {
	s.spec, s.adopted, s.broken = proto.CloneOf(spec), true, false
	s.exported, s.exportedTo = "", ""
	h.writeDisk(s)
	s.console = fmt.Appendf(s.console, "booted on %s\n", h.name)
	h.set(s, running, "booted")
}

// Stop implements hostpb.HostServer.
func (h *FakeHost) Stop(ctx context.Context, req *hostpb.StopRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "Stop", req, func(req *hostpb.StopRequest) (*hostpb.ServerState, error) {
		s, err := h.accept("Stop", req.GetCall())
		if err != nil {
			return nil, err
		}
		switch s.domain {
		case absent:
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s is not on this host", s.id)
		case outgoing, incoming:
			return nil, conflict("server %s is migrating", s.id)
		case shutoff:
		default:
			h.set(s, shutoff, "shutdown")
		}
		return h.state(s), nil
	})
}

// Reboot implements hostpb.HostServer.
func (h *FakeHost) Reboot(ctx context.Context, req *hostpb.RebootRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "Reboot", req, func(req *hostpb.RebootRequest) (*hostpb.ServerState, error) {
		s, err := h.accept("Reboot", req.GetCall())
		if err != nil {
			return nil, err
		}
		if err := h.checkSpec("Reboot", s, req.GetSpec()); err != nil {
			return nil, err
		}
		switch {
		case s.domain == outgoing || s.domain == incoming:
			return nil, conflict("server %s is migrating", s.id)
		case !s.disks || s.receiving:
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s is not on this host", s.id)
		case !req.GetHard() && s.domain != running:
			return nil, conflict("server %s does not run", s.id)
		}
		h.start(s, req.GetSpec())
		return h.state(s), nil
	})
}

// Adopt implements hostpb.HostServer.
func (h *FakeHost) Adopt(ctx context.Context, req *hostpb.AdoptRequest) (*hostpb.ServerState, error) {
	return serve(ctx, h, "Adopt", req, func(req *hostpb.AdoptRequest) (*hostpb.ServerState, error) {
		s, err := h.accept("Adopt", req.GetCall())
		if err != nil {
			return nil, err
		}
		if err := h.checkSpec("Adopt", s, req.GetSpec()); err != nil {
			return nil, err
		}
		if !s.runs() && !s.broken && (!s.disks || s.receiving) {
			h.fleet.violate("%s: adopted server %s, which is %s", h.name, s.id, s.describe())
			return nil, conflict("server %s does not run on this host", s.id)
		}
		if !s.adopted {
			s.console = append(bytes.Clone(req.GetConsole()), s.console...)
		}
		s.spec, s.adopted, s.receiving = proto.CloneOf(req.GetSpec()), true, false
		return h.state(s), nil
	})
}

// Discard implements hostpb.HostServer.
func (h *FakeHost) Discard(ctx context.Context, req *hostpb.DiscardRequest) (*hostpb.DiscardReply, error) {
	return serve(ctx, h, "Discard", req, func(req *hostpb.DiscardRequest) (*hostpb.DiscardReply, error) {
		s, err := h.accept("Discard", req.GetCall())
		if err != nil {
			return nil, err
		}
		if (s.runs() || s.split) && !req.GetDestroyRunning() {
			return nil, conflict("server %s runs on host %s", s.id, h.name)
		}
		if s.domain == incoming {
			h.cutIncoming(s.id)
		}
		reply := &hostpb.DiscardReply{Console: s.console}
		if s.domain == outgoing {
			s.domain, s.job.cut = absent, true
			s.job.settle()
		}
		h.dropDisk(s, req.GetKeepDisks())
		h.servers[s.id] = &slot{id: s.id, generation: s.generation, domain: absent, job: s.job}
		h.set(h.servers[s.id], absent, "discarded")
		return reply, nil
	})
}

// Console implements hostpb.HostServer.
func (h *FakeHost) Console(ctx context.Context, req *hostpb.ConsoleRequest) (*hostpb.ConsoleReply, error) {
	return serve(ctx, h, "Console", req, func(req *hostpb.ConsoleRequest) (*hostpb.ConsoleReply, error) {
		s := h.servers[req.GetServerId()]
		if s == nil || !s.present() {
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s is not on this host", req.GetServerId())
		}
		lines := bytes.SplitAfter(s.console, []byte("\n"))
		if n := int(req.GetLines()); n > 0 && len(lines) > n+1 {
			lines = lines[len(lines)-n-1:]
		}
		return &hostpb.ConsoleReply{Data: bytes.Join(lines, nil)}, nil
	})
}

// Update implements hostpb.HostServer.
func (h *FakeHost) Update(ctx context.Context, req *hostpb.UpdateRequest) (*hostpb.UpdateReply, error) {
	return serve(ctx, h, "Update", req, func(req *hostpb.UpdateRequest) (*hostpb.UpdateReply, error) {
		s, err := h.accept("Update", req.GetCall())
		if err != nil {
			return nil, err
		}
		if !s.present() {
			return nil, cloud.Errorf(cloud.KindNotFound, "server %s is not on this host", s.id)
		}
		s.spec = proto.CloneOf(req.GetSpec())
		return &hostpb.UpdateReply{}, nil
	})
}

// SyncNetworks implements hostpb.HostServer.
func (h *FakeHost) SyncNetworks(ctx context.Context, req *hostpb.SyncNetworksRequest) (*hostpb.SyncNetworksReply, error) {
	return serve(ctx, h, "SyncNetworks", req, func(req *hostpb.SyncNetworksRequest) (*hostpb.SyncNetworksReply, error) {
		reply := &hostpb.SyncNetworksReply{}
		if req.GetRevision() < h.networks {
			return reply, nil
		}
		h.networks = req.GetRevision()
		for _, nic := range req.GetForeignPorts() {
			reply.Bridges = append(reply.Bridges, &hostpb.Bridge{NetworkId: nic.GetNetworkId(), Vni: nic.GetVni(), Name: fmt.Sprintf("gwb%d", nic.GetVni())})
		}
		return reply, nil
	})
}
