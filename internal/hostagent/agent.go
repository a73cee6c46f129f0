package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/disk"
	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

// Hypervisor is what the agent needs of libvirt; *kvm.Conn is it. While libvirtd is away, calls wait until their context ends.
type Hypervisor interface {
	Notices(ctx context.Context) (kvm.Batch, error)
	State(ctx context.Context, id cloud.ServerID) (kvm.State, error)
	List(ctx context.Context) ([]kvm.State, error)
	Describe(ctx context.Context, id cloud.ServerID) (kvm.Description, error)

	Define(ctx context.Context, d kvm.Domain) error
	Undefine(ctx context.Context, id cloud.ServerID) error
	Start(ctx context.Context, id cloud.ServerID) error
	Destroy(ctx context.Context, id cloud.ServerID) error
	Resume(ctx context.Context, id cloud.ServerID) error
	Suspend(ctx context.Context, id cloud.ServerID) error
	PressPower(ctx context.Context, id cloud.ServerID) error
	PressReboot(ctx context.Context, id cloud.ServerID) error

	Migrate(ctx context.Context, m kvm.Move) error
	AbortJob(ctx context.Context, id cloud.ServerID) error
	StartPostCopy(ctx context.Context, id cloud.ServerID) error
	Job(ctx context.Context, id cloud.ServerID) (kvm.Job, error)
	CompletedJob(ctx context.Context, id cloud.ServerID) (cloud.MigrationStats, bool, error)
	AwaitExit(ctx context.Context, id cloud.ServerID) error
	PingGuest(ctx context.Context, id cloud.ServerID) (kvm.Pong, error)

	AttachDisk(ctx context.Context, id cloud.ServerID, disk kvm.Disk) error
	DetachDisk(ctx context.Context, id cloud.ServerID, target string) error
	ResizeDisk(ctx context.Context, id cloud.ServerID, target string, bytes int64) error

	Versions(ctx context.Context) (kvm.Versions, error)
	Node(ctx context.Context) (kvm.Node, error)
	Capabilities(ctx context.Context, e kvm.Emulation) (kvm.Capabilities, error)
}

// Outbox takes what the agent has to say. Its methods never block; newer values replace older ones of the same subject.
type Outbox interface {
	PutFacts(*hostpb.HostFacts)
	PutObservation(*hostpb.ServerState)
	PutProgress(*hostpb.MigrationUpdate)
}

// Options are what an agent needs. All but Emulator, CPUModel, Reach and Logger are required.
type Options struct {
	Name     cloud.HostName
	DataDir  string // for the journal; the disk store usually has the same
	KVM      Hypervisor
	Disk     *disk.Store
	Networks Networks
	Outbox   Outbox
	// Emulator is "kvm", "tcg", or "auto" (also empty): prove KVM by starting a guest.
	Emulator string
	// CPUs bounds the CPUs that the host says it has for servers; 0: it has all.
	CPUs int
	// CPUModel is what guests get whose flavor names none; empty: kvm.CPUDefault.
	CPUModel string
	// MigrationAddress and TunnelAddress are IP addresses of this host, see hostpb.HostFacts.
	MigrationAddress, TunnelAddress string
	Version                         string // of godwit
	// Peers is how other hosts' agents are served and read from; nil: not at all.
	Peers *Peers
	// FetchNear asks the image service for an image, which may name hosts to read it from instead; nil: it is not asked so.
	FetchNear FetchNear
	// Meter says what servers use; nil: the host sends no telemetry.
	Meter Meter
	// DiskMount is the type that the file system at the disk directory must have; empty: any.
	DiskMount string
	// DiskShared says that other hosts have the disk directory too, whatever it lies on.
	DiskShared bool
	// Share is the file system of a shared disk directory; nil: the machine's own.
	Share Share
	// Power puts the host to sleep; nil: the machine's own.
	Power Power
	// Reach reports whether something listens at a volume service's address; nil: try to connect.
	Reach func(ctx context.Context, address string) error
	// PKIDir is where libvirtd and QEMU read certificates, LibvirtPort where libvirtd is asked for migrations; empty and 0: as libvirt has it.
	PKIDir      string
	LibvirtPort int
	// Failures says when guests count as failed; zero fields get their defaults.
	Failures Failures
	Contact  Fencing // says when a server was last heard; nil: the host never fences itself
	Logger   *slog.Logger
}

// Agent is a compute host. It implements hostpb.HostServer; calls wait until Run has found out what is on the host.
type Agent struct {
	hostpb.UnimplementedHostServer

	o         Options
	hv        Hypervisor
	log       *slog.Logger
	journal   *journal
	shared    *sharing  // nil when the disk directory is local
	guardian  *guardian // nil when the host does not fence itself
	epoch     int64
	emulation kvm.Emulation
	seq       atomic.Int64  // of observations and facts
	ready     chan struct{} // closed when the journal and libvirt have been read once
	factsBell chan struct{} // capacity 1: facts may have changed

	// life ends when Run does; every goroutine of the agent is in work, which Run waits for.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	vms    map[cloud.ServerID]*vm // guarded by mu
	fixed  *fixedFacts            // nil: to be asked for; guarded by mu
	closed bool                   // guarded by mu: no new loops, Run is waiting for work
}

// New makes an agent: it counts a new epoch and finds out how guests can run. Run it once.
func New(ctx context.Context, o Options) (*Agent, error) {
	if o.Name == "" || o.DataDir == "" || o.KVM == nil || o.Disk == nil || o.Networks == nil || o.Outbox == nil {
		return nil, errors.New("hostagent.New: an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Reach == nil {
		o.Reach = dial
	}
	o.Failures = o.Failures.withDefaults()
	j, err := openJournal(filepath.Join(o.DataDir, "servers"))
	if err != nil {
		return nil, err
	}
	epoch, err := j.nextEpoch()
	if err != nil {
		return nil, err
	}
	a := &Agent{o: o, hv: o.KVM, log: o.Logger, journal: j, epoch: epoch, ready: make(chan struct{}),
		factsBell: make(chan struct{}, 1), vms: map[cloud.ServerID]*vm{}}
	if a.shared, err = newSharing(o); err != nil {
		return nil, err
	}
	a.guardian = newGuardian(a)
	a.life, a.end = context.WithCancel(context.Background())
	if a.emulation, err = a.chooseEmulation(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Agent) chooseEmulation(ctx context.Context) (kvm.Emulation, error) {
	switch a.o.Emulator {
	case "kvm":
		return kvm.KVM, nil
	case "tcg":
		return kvm.TCG, nil
	case "", "auto":
		e, reason, err := kvm.Probe(ctx, kvm.DefaultEmulator, filepath.Join(a.o.DataDir, "probe"))
		a.log.Info("emulation proved", "emulation", e, "reason", reason)
		return e, err
	}
	return "", cloud.Errorf(cloud.KindInvalid, "emulator %q: auto, kvm or tcg", a.o.Emulator)
}

// Emulation returns how guests run on this host.
func (a *Agent) Emulation() kvm.Emulation { return a.emulation }

// Run does the agent's work until ctx ends, then waits for all its goroutines. Migrations in progress go on without it.
func (a *Agent) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, a.end)
	defer stop()
	defer a.shut()
	records, err := a.journal.all(time.Now())
	if err != nil {
		return err
	}
	a.restoreNetworks(records)
	for _, r := range records {
		v, err := a.acquire(r.Server)
		if err != nil {
			return err
		}
		a.release(v)
	}
	a.work.Go(a.pump)
	a.work.Go(a.keepFacts)
	a.work.Go(a.keepHouse)
	a.work.Go(a.keepTelemetry)
	a.work.Go(a.keepShared)
	a.work.Go(a.keepPinging)
	a.guard()
	<-a.life.Done()
	return nil
}

// shut ends the agent's life and waits.
func (a *Agent) shut() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.end()
	a.work.Wait()
}

// pump hands libvirt's notices to the loops.
func (a *Agent) pump() {
	for first := true; ; {
		batch, err := a.hv.Notices(a.life)
		if err != nil {
			return
		}
		if batch.Resync {
			a.resync(first)
			first = false
		}
		for id, n := range batch.Domains {
			a.notify(id, n)
		}
	}
}

// resync has every server looked at: those in the journal and those libvirt has. Unless it is the first time, libvirtd has been away.
func (a *Agent) resync(first bool) {
	a.mu.Lock()
	a.fixed = nil // libvirt or QEMU may be another version now
	known := make([]cloud.ServerID, 0, len(a.vms))
	for id, v := range a.vms {
		known = append(known, id)
		if !first {
			v.distrust()
		}
	}
	a.mu.Unlock()
	for _, id := range known {
		a.notify(id, kvm.Changed)
	}
	states, err := a.hv.List(a.life)
	if err != nil {
		a.log.Error("cannot list domains", "error", err) // the connection broke: another resync follows
		return
	}
	for _, s := range states {
		a.notify(s.ID, kvm.Changed)
	}
	select {
	case <-a.ready:
	default:
		close(a.ready)
	}
}

// notify hands one server's notices to its loop.
func (a *Agent) notify(id cloud.ServerID, n kvm.Notice) {
	v, err := a.acquire(id)
	if err != nil {
		if a.life.Err() == nil {
			a.log.Error("notice lost", "server", id, "notice", n, "error", err)
		}
		return
	}
	v.notify(n)
	a.release(v)
}

// acquire returns the server's loop, started if need be, and keeps it until release.
func (a *Agent) acquire(id cloud.ServerID) (*vm, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.vms[id]
	if v == nil {
		if a.closed {
			return nil, cloud.Errorf(cloud.KindUnavailable, "agent is stopping")
		}
		r, err := a.journal.load(id)
		if err != nil {
			return nil, err
		}
		v = newVM(a, r)
		a.vms[id] = v
		a.work.Go(v.run)
	}
	v.users++
	return v, nil
}

// release lets go of a loop; the loop of a server that is gone ends when nobody holds it.
func (a *Agent) release(v *vm) {
	a.mu.Lock()
	v.users--
	a.mu.Unlock()
	a.retire(v)
}

// retire ends the loop if nobody holds it and nothing is left to look after.
func (a *Agent) retire(v *vm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.users == 0 && a.vms[v.id] == v && v.forgettable() {
		delete(a.vms, v.id)
		close(v.stop)
	}
}

// awaitReady waits until the agent knows what is on the host.
func (a *Agent) awaitReady(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return cloud.Errorf(cloud.KindUnavailable, "host %s: libvirt has not answered yet: %w", a.o.Name, ctx.Err())
	case <-a.life.Done():
		return cloud.Errorf(cloud.KindUnavailable, "host %s: agent is stopping", a.o.Name)
	}
}

// Housekeeping is rare enough to cost nothing and frequent enough that neither a chatty console nor abandoned images fill a disk.
const (
	consolePeriod = 30 * time.Second
	evictPeriod   = time.Hour
)

// keepHouse bounds consoles and the image cache.
func (a *Agent) keepHouse() {
	consoles, evict := time.NewTicker(consolePeriod), time.NewTicker(evictPeriod)
	defer consoles.Stop()
	defer evict.Stop()
	for {
		select {
		case <-a.life.Done():
			return
		case <-consoles.C:
			for _, id := range a.present() {
				if err := a.o.Disk.TrimConsole(id); err != nil {
					a.log.Warn("console not trimmed", "error", err)
				}
			}
		case <-evict.C:
			if _, err := a.o.Disk.Evict(time.Now(), disk.BaseIdleMax); err != nil {
				a.log.Warn("image cache not swept", "error", err)
			}
		}
	}
}

func (a *Agent) present() []cloud.ServerID {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]cloud.ServerID, 0, len(a.vms))
	for id := range a.vms {
		ids = append(ids, id)
	}
	return ids
}

func subject(id cloud.ServerID) string { return fmt.Sprintf("server %s", id) }
