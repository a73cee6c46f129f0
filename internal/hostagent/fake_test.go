package hostagent_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostagent"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm/kvmtest"
	"github.com/godwit-cloud/godwit/internal/metadata"
	"github.com/godwit-cloud/godwit/internal/vnet"
)

func TestAgentConformsOnFakeHosts(t *testing.T) {
	inEach(t, func(t *testing.T) world { return newFakeWorld(t) })
}

func TestAGuestThatLibvirtLetRunTwiceIsStoppedOnTheTarget(t *testing.T) {
	for name, sourceKeepsIt := range map[string]bool{"the source keeps it": true, "the target gets it": false} {
		t.Run(name, func(t *testing.T) {
			w := newFakeWorld(t)
			s := newServer(t, w)
			s.boot(host1, true)
			answers := s.beginSlowMove(t.Name())
			w.hosts[host1].libvirt.CompleteTwice(s.id)
			w.hosts[host2].libvirt.StartDaemon()
			s.awaitOutcome(answers, hostpb.MigrateOutcome_MIGRATE_OUTCOME_FAILED)
			s.eventually(host2, hostpb.DomainState_DOMAIN_STATE_PAUSED)
			if sourceKeepsIt {
				s.stayedHome()
				return
			}
			w.killQEMU(host1, s.id) // the source's copy is gone, say
			must[*hostpb.ServerState](t, "adopt")(w.agent(host2).Adopt(t.Context(), &hostpb.AdoptRequest{Call: s.call(), Spec: s.spec}))
			s.expect(host2, hostpb.DomainState_DOMAIN_STATE_RUNNING)
		})
	}
}

// fakeWorld is two fake hosts with real disks and agents in this process.
type fakeWorld struct {
	t     *testing.T
	fleet *kvmtest.Fleet
	hosts map[string]*fakeHost
}

type fakeHost struct {
	t       *testing.T
	name    string
	address string
	dir     string
	libvirt *kvmtest.Host
	life    *fakeLife
	storage storage
}

// storage is whether the volume services listen.
type storage struct {
	mu   sync.Mutex
	away bool
	seen int // looks so far
}

func (s *storage) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *storage) looks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *storage) reach(context.Context, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	if s.away {
		return errors.New("connection refused")
	}
	return nil
}

// fakeLife is an agent from its start to its end.
type fakeLife struct {
	direct
	disk *disk.Store
	nets *fakeNetworks
	box  *fakeOutbox
	stop func()
}

func newFakeWorld(t *testing.T) *fakeWorld {
	w := &fakeWorld{t: t, fleet: kvmtest.NewFleet(), hosts: map[string]*fakeHost{}}
	t.Cleanup(w.fleet.Wait)
	t.Cleanup(w.fleet.Release)
	for i, name := range []string{host1, host2} {
		h := &fakeHost{t: t, name: name, address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}).String(), dir: t.TempDir()}
		h.libvirt = w.fleet.AddHost(h.address, func(id cloud.ServerID) bool { return h.life.disk.Present(id) })
		h.start()
		t.Cleanup(func() { h.life.stop() })
		w.hosts[name] = h
	}
	return w
}

func (h *fakeHost) start() {
	h.t.Helper()
	log := slog.New(slog.NewTextHandler(h.t.Output(), nil)).With("host", h.name)
	store, err := disk.Open(h.t.Context(), disk.Options{Dir: h.dir, Logger: log, Fetch: func(_ context.Context, _ cloud.ImageID, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(imageData[offset:])), nil
	}})
	if err != nil {
		h.t.Fatal(err)
	}
	life := &fakeLife{disk: store, nets: &fakeNetworks{held: map[cloud.ServerID]int{}}, box: &fakeOutbox{changed: make(chan struct{})}}
	agent, err := hostagent.New(h.t.Context(), hostagent.Options{
		Name: cloud.HostName(h.name), DataDir: h.dir, KVM: h.libvirt, Disk: store, Networks: life.nets, Outbox: life.box, Emulator: "tcg",
		MigrationAddress: h.address, TunnelAddress: h.address, Version: "test", Logger: log, Reach: h.storage.reach,
		Failures: hostagent.Failures{SilenceMax: fakeSilenceMax, IOErrorAfter: fakeIOErrorAfter, SettledAfter: fakeSettledAfter},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	life.direct = direct{agent}
	h.libvirt.Reconnect()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := agent.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	life.stop = func() {
		cancel()
		work.Wait()
		store.Close()
	}
	h.life = life
}

func (w *fakeWorld) agent(host string) hostpb.HostClient { return w.hosts[host].life }
func (w *fakeWorld) address(host string) string          { return w.hosts[host].address }

func (w *fakeWorld) reported(host, what string, met func(*hostpb.HostEvent) bool) {
	w.t.Helper()
	w.hosts[host].life.box.await(w.t, what, met)
}

func (w *fakeWorld) restartAgent(host string) {
	w.hosts[host].life.stop()
	w.hosts[host].start()
}

func (w *fakeWorld) restartLibvirtd(host string) {
	w.hosts[host].libvirt.KillDaemon()
	w.hosts[host].libvirt.StartDaemon()
}

func (w *fakeWorld) killQEMU(host string, id cloud.ServerID) { w.hosts[host].libvirt.KillProcess(id) }
func (w *fakeWorld) slow(string, cloud.ServerID)             { w.fleet.Hold() }
func (w *fakeWorld) letGo()                                  { w.fleet.Release() }
func (w *fakeWorld) ticks(string, cloud.ServerID, int)       {}
func (w *fakeWorld) nothingLeft(host string, id cloud.ServerID) {
	w.t.Helper()
	life := w.hosts[host].life
	if life.disk.Present(id) {
		w.t.Errorf("%s: disk is left", host)
	}
	if left, _ := filepath.Glob(filepath.Join(w.hosts[host].dir, "instances", string(id)+"*")); len(left) > 0 {
		w.t.Errorf("%s: %v is left", host, left)
	}
	if life.nets.has(id) {
		w.t.Errorf("%s: networking is left", host)
	}
	if s, err := w.hosts[host].libvirt.State(w.t.Context(), id); err != nil || s.Run != 0 {
		w.t.Errorf("%s: domain is %v, %v", host, s, err)
	}
}

func (w *fakeWorld) sound(string, cloud.ServerID) {
	w.t.Helper()
	for _, v := range w.fleet.Violations() {
		w.t.Error(v)
	}
}

// fakeNetworks counts.
type fakeNetworks struct {
	mu        sync.Mutex
	held      map[cloud.ServerID]int
	announced []cloud.ServerID
}

func (n *fakeNetworks) has(id cloud.ServerID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[id] > 0
}

func (n *fakeNetworks) Ensure(_ context.Context, guest metadata.Server, nics []cloud.NIC, _ bool) ([]vnet.Plug, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[cloud.ServerID(guest.UUID)]++
	var plugs []vnet.Plug
	for _, nic := range nics {
		plugs = append(plugs, vnet.Plug{Port: nic.Port, Bridge: vnet.BridgeName(nic.VNI), Tap: vnet.TapName(nic.Port), MAC: nic.MAC, MTU: nic.MTU})
	}
	return plugs, nil
}

func (n *fakeNetworks) Update(ctx context.Context, guest metadata.Server, nics []cloud.NIC) error {
	_, err := n.Ensure(ctx, guest, nics, false)
	return err
}

func (n *fakeNetworks) Announce(_ context.Context, id cloud.ServerID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.announced = append(n.announced, id)
	return nil
}

func (n *fakeNetworks) Release(_ context.Context, id cloud.ServerID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.held, id)
	return nil
}

func (n *fakeNetworks) Sync(context.Context, int64, []netip.Addr, []cloud.NIC) ([]vnet.Bridge, error) {
	return nil, nil
}

func (n *fakeNetworks) Sweep(context.Context) error { return nil }

// fakeOutbox keeps everything it was given.
type fakeOutbox struct {
	mu      sync.Mutex
	events  []*hostpb.HostEvent
	changed chan struct{}
}

func (o *fakeOutbox) put(e *hostpb.HostEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *fakeOutbox) PutFacts(f *hostpb.HostFacts) {
	o.put(&hostpb.HostEvent{Event: &hostpb.HostEvent_Facts{Facts: f}})
}

func (o *fakeOutbox) PutObservation(s *hostpb.ServerState) {
	o.put(&hostpb.HostEvent{Event: &hostpb.HostEvent_Observation{Observation: s}})
}

func (o *fakeOutbox) PutProgress(u *hostpb.MigrationUpdate) {
	o.put(&hostpb.HostEvent{Event: &hostpb.HostEvent_Progress{Progress: u}})
}

func (o *fakeOutbox) await(t *testing.T, what string, met func(*hostpb.HostEvent) bool) {
	t.Helper()
	for limit := time.After(patience); ; {
		o.mu.Lock()
		found, changed := slices.ContainsFunc(o.events, met), o.changed
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("never reported: %s", what)
		}
	}
}

// direct is a client that calls the agent in this process.
type direct struct{ a *hostagent.Agent }

func (d direct) Facts(ctx context.Context, r *hostpb.FactsRequest, _ ...grpc.CallOption) (*hostpb.HostFacts, error) {
	return d.a.Facts(ctx, r)
}

func (d direct) Inspect(ctx context.Context, r *hostpb.InspectRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.Inspect(ctx, r)
}

func (d direct) Prepare(ctx context.Context, r *hostpb.PrepareRequest, _ ...grpc.CallOption) (*hostpb.PrepareReply, error) {
	return d.a.Prepare(ctx, r)
}

func (d direct) Start(ctx context.Context, r *hostpb.StartRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.Start(ctx, r)
}

func (d direct) Stop(ctx context.Context, r *hostpb.StopRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.Stop(ctx, r)
}

func (d direct) Reboot(ctx context.Context, r *hostpb.RebootRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.Reboot(ctx, r)
}

func (d direct) Migrate(ctx context.Context, r *hostpb.MigrateRequest, _ ...grpc.CallOption) (*hostpb.MigrateReply, error) {
	return d.a.Migrate(ctx, r)
}

func (d direct) Steer(ctx context.Context, r *hostpb.SteerRequest, _ ...grpc.CallOption) (*hostpb.SteerReply, error) {
	return d.a.Steer(ctx, r)
}

func (d direct) Adopt(ctx context.Context, r *hostpb.AdoptRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.Adopt(ctx, r)
}

func (d direct) Discard(ctx context.Context, r *hostpb.DiscardRequest, _ ...grpc.CallOption) (*hostpb.DiscardReply, error) {
	return d.a.Discard(ctx, r)
}

func (d direct) Console(ctx context.Context, r *hostpb.ConsoleRequest, _ ...grpc.CallOption) (*hostpb.ConsoleReply, error) {
	return d.a.Console(ctx, r)
}

func (d direct) Update(ctx context.Context, r *hostpb.UpdateRequest, _ ...grpc.CallOption) (*hostpb.UpdateReply, error) {
	return d.a.Update(ctx, r)
}

func (d direct) SyncNetworks(ctx context.Context, r *hostpb.SyncNetworksRequest, _ ...grpc.CallOption) (*hostpb.SyncNetworksReply, error) {
	return d.a.SyncNetworks(ctx, r)
}

func (d direct) AttachVolume(ctx context.Context, r *hostpb.AttachVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.AttachVolume(ctx, r)
}

func (d direct) DetachVolume(ctx context.Context, r *hostpb.DetachVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.DetachVolume(ctx, r)
}

func (d direct) ResizeVolume(ctx context.Context, r *hostpb.ResizeVolumeRequest, _ ...grpc.CallOption) (*hostpb.ServerState, error) {
	return d.a.ResizeVolume(ctx, r)
}

func (d direct) CheckDisks(ctx context.Context, r *hostpb.CheckDisksRequest, _ ...grpc.CallOption) (*hostpb.CheckDisksReply, error) {
	return d.a.CheckDisks(ctx, r)
}

func (d direct) ExportDisk(ctx context.Context, r *hostpb.ExportDiskRequest, _ ...grpc.CallOption) (*hostpb.DiskSource, error) {
	return d.a.ExportDisk(ctx, r)
}

func (d direct) UnexportDisk(ctx context.Context, r *hostpb.UnexportDiskRequest, _ ...grpc.CallOption) (*hostpb.UnexportDiskReply, error) {
	return d.a.UnexportDisk(ctx, r)
}

func (d direct) Probe(ctx context.Context, r *hostpb.ProbeRequest, _ ...grpc.CallOption) (*hostpb.ProbeReply, error) {
	return d.a.Probe(ctx, r)
}

func (d direct) Checkup(ctx context.Context, r *hostpb.CheckupRequest, _ ...grpc.CallOption) (*hostpb.CheckupReply, error) {
	return d.a.Checkup(ctx, r)
}

func (d direct) Sleep(ctx context.Context, r *hostpb.SleepRequest, _ ...grpc.CallOption) (*hostpb.SleepReply, error) {
	return d.a.Sleep(ctx, r)
}

func (d direct) Wake(ctx context.Context, r *hostpb.WakeRequest, _ ...grpc.CallOption) (*hostpb.WakeReply, error) {
	return d.a.Wake(ctx, r)
}

func (d direct) CaptureDisk(context.Context, *hostpb.CaptureDiskRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[hostpb.VolumeChunk], error) {
	return nil, cloud.Errorf(cloud.KindUnsupported, "streams are not passed on here")
}
