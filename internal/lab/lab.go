package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-cloud/godwit/internal/lab/nodeinit"
)

// ErrPoweredOff reports that a node has no process.
var ErrPoweredOff = errors.New("powered off")

// ErrNoNode reports a name that is no node of the lab.
var ErrNoNode = errors.New("no such node")

// Options says what Up makes. The zero value is the default lab of three hosts.
type Options struct {
	// Name of the lab; DefaultName if empty.
	Name string
	// Hosts is the number of compute nodes; 3 if zero.
	Hosts int
	// Storage is the number of storage nodes, each with a volume service on an XFS file of its own; none if zero. A bare lab has none.
	Storage int
	// Gluster adds four GlusterFS nodes with a brick each. Their volume, two pairs of replicas, is every compute node's directory of server disks.
	Gluster bool
	// Shared gives all compute nodes one directory of server disks, of this machine: what a cluster file system gives real hosts.
	Shared bool
	// BMC gives each compute node a BMC that speaks IPMI, see BMCAddr. A bare lab has none.
	BMC bool
	// WakeOnLAN gives each compute node a network card that powers it on when a magic packet names it. A bare lab has none.
	WakeOnLAN bool
	// Optimize, Placement and Recovery are keys of the server's configuration sections of those names, Agent of the agents'.
	Optimize, Placement, Recovery, Agent map[string]any
	// CPUs is how many CPUs each compute node says it has; all of the machine's if zero. Nothing holds its guests to them.
	CPUs int
	// BareHosts makes only compute nodes, with libvirtd and certificates of a throw-away authority, without server and agents.
	BareHosts bool
	// APIPort is the loopback port of the API; a free one is chosen if zero.
	APIPort int
	// Binary is the godwit program the nodes run, the running executable if empty. It must answer `lab init SPEC`, see RunInit.
	Binary string
	// Tethered nodes power off when the calling process ends. For tests.
	Tethered bool
	// ReadyTimeout bounds the wait for the daemons; ReadyTimeoutDefault if zero.
	ReadyTimeout time.Duration
	// Progress receives one line per step; nil for none. It is called from one goroutine at a time.
	Progress func(string)
}

const (
	hostsDefault = 3
	// ReadyTimeoutDefault allows for libvirtd probing QEMU on a slow, busy machine.
	ReadyTimeoutDefault = 90 * time.Second
)

// Lab is a handle on a lab. Any number of processes may hold one: it caches nothing that changes. Its methods may be called concurrently,
// but powering one node on and off at the same time has no defined outcome.
type Lab struct {
	State

	children sync.WaitGroup // goroutines that reap nodes started by this process
	tether   *tether        // nil unless this process made a tethered lab
	settings settings       // of the daemons' configuration, while the lab is built
}

// tether is a pipe nobody writes to: the nodes hold the reading end and see its end when this process, the only writer, is gone.
type tether struct{ read, write *os.File }

func newTether() (*tether, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("tether: %w", err)
	}
	return &tether{read: r, write: w}, nil
}

func (t *tether) close() {
	if t != nil {
		t.read.Close()
		t.write.Close()
	}
}

// RunInit is `godwit lab init SPEC`: it turns the calling process, started by Up, into process 1 of a node and does not return while the
// node is on.
func RunInit(specPath string) error { return nodeinit.Run(specPath) }

// Load finds a lab made earlier, by this process or another.
func Load(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	st, err := readState(name)
	if err != nil {
		return nil, err
	}
	return &Lab{State: st}, nil
}

// Nodes lists the lab's nodes but the switch and peers, the controller first.
func (l *Lab) Nodes() []string {
	var nodes []string
	if !l.Bare {
		nodes = append(nodes, Controller)
	}
	return append(append(append(nodes, l.GlusterNodes()...), l.ComputeNodes()...), l.StorageNodes()...)
}

// StorageNodes lists storage-1 to storage-N.
func (l *Lab) StorageNodes() []string {
	nodes := make([]string, l.Storage)
	for i := range nodes {
		nodes[i] = StorageName(i + 1)
	}
	return nodes
}

func (l *Lab) isStorage(node string) bool { return slices.Contains(l.StorageNodes(), node) }

// isCompute reports whether the node runs guests.
func (l *Lab) isCompute(node string) bool { return slices.Contains(l.ComputeNodes(), node) }

// ComputeNodes lists compute-1 to compute-N.
func (l *Lab) ComputeNodes() []string {
	nodes := make([]string, l.Hosts)
	for i := range nodes {
		nodes[i] = HostName(i + 1)
	}
	return nodes
}

func (l *Lab) checkNode(node string) error {
	if slices.Contains(l.Nodes(), node) {
		return nil
	}
	return fmt.Errorf("lab %s: node %q: %w", l.Name, node, ErrNoNode)
}

func (o *Options) fill() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Hosts == 0 {
		o.Hosts = hostsDefault
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = ReadyTimeoutDefault
	}
	if o.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("lab: own binary: %w", err)
		}
		o.Binary = exe
	}
	report := o.Progress
	var mu sync.Mutex
	o.Progress = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if report != nil {
			report(line)
		}
	}
	if o.Hosts < 1 || o.Hosts > hostsMax {
		return fmt.Errorf("lab %s: %d hosts: 1 to %d are possible", o.Name, o.Hosts, hostsMax)
	}
	if o.Storage < 0 || o.Storage > storageMax || o.BareHosts && o.Storage > 0 {
		return fmt.Errorf("lab %s: %d storage nodes: 0 to %d are possible, none in a bare lab", o.Name, o.Storage, storageMax)
	}
	if o.BareHosts && o.Gluster {
		return fmt.Errorf("lab %s: a bare lab has no directory of server disks to put on GlusterFS", o.Name)
	}
	if o.Shared && (o.BareHosts || o.Gluster) {
		return fmt.Errorf("lab %s: only compute nodes with agents, and without GlusterFS, can have a directory of this machine for their servers' disks", o.Name)
	}
	return checkName(o.Name)
}

// Up makes a lab and returns when its daemons answer. If it fails, or ctx ends, nothing of the lab is left. A name in use is ErrExists.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	if err := checkMachine(o); err != nil {
		return nil, err
	}
	l := &Lab{State: State{Name: o.Name, Hosts: o.Hosts, Storage: o.Storage, Shared: o.Shared, Bare: o.BareHosts, APIPort: o.APIPort, Created: time.Now()}}
	if o.Gluster {
		l.Gluster = glusterNodes
	}
	if o.Tethered {
		l.Owner, _ = identify(os.Getpid())
	}
	if err := withLock(func() error { return reserve(&l.State) }); err != nil {
		return nil, err
	}
	if err := l.build(ctx, o); err != nil {
		logs := l.Logs()
		// The caller's context may be what failed; cleaning up must go on.
		downErr := l.Down(context.WithoutCancel(ctx))
		return nil, errors.Join(fmt.Errorf("lab %s: %w%s", l.Name, err, logs), downErr)
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, o Options) error {
	if err := copyBinary(o.Binary, binaryFile(l.Name)); err != nil {
		return err
	}
	if o.Tethered {
		var err error
		if l.tether, err = newTether(); err != nil {
			return err
		}
	}
	if !l.Bare {
		if err := l.chooseAPIPort(); err != nil {
			return err
		}
	}
	o.Progress("switch: two bridges in a network namespace of their own")
	if err := l.startNode(ctx, nodeSpec{name: Switch}); err != nil {
		return err
	}
	if err := l.makeSwitch(); err != nil {
		return err
	}
	if o.BMC && !o.BareHosts {
		if err := l.startBMCs(); err != nil {
			return err
		}
	}
	if o.WakeOnLAN && !o.BareHosts {
		if err := l.startCards(); err != nil {
			return err
		}
	}
	l.settings = settings{optimize: o.Optimize, placement: o.Placement, recovery: o.Recovery, agent: o.Agent, cpus: o.CPUs}
	prepare, err := l.preparer()
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, o.ReadyTimeout)
	defer cancel()
	g, gctx := errgroup.WithContext(ready)
	for _, node := range l.Nodes() {
		g.Go(func() error {
			if err := prepare(node); err != nil {
				return fmt.Errorf("node %s: %w", node, err)
			}
			if err := l.powerOn(gctx, node); err != nil {
				return err
			}
			o.Progress(node + ": powered on")
			if err := l.waitReady(gctx, node); err != nil {
				return err
			}
			o.Progress(node + ": ready")
			return nil
		})
	}
	if l.Gluster > 0 {
		g.Go(func() error { return l.makeGlusterVolume(gctx, o.Progress) })
	}
	return g.Wait()
}

// preparer returns what writes a node's files before it is first powered on.
func (l *Lab) preparer() (func(node string) error, error) {
	join, err := newJoining()
	if err != nil {
		return nil, err
	}
	ca, err := newAuthority(l.Name)
	if err != nil {
		return nil, err
	}
	return func(node string) error {
		if err := l.makeViews(node); err != nil {
			return err
		}
		if l.isGluster(node) {
			return errors.Join(l.makeDisk(node), l.copyGlusterGroups(node))
		}
		if !l.Bare {
			if err := l.writeGodwit(node, join); err != nil {
				return err
			}
		}
		if l.isStorage(node) {
			return l.makeDisk(node)
		}
		if !l.isCompute(node) {
			return nil
		}
		if err := l.writeLibvirt(node); err != nil {
			return err
		}
		if l.Bare {
			return ca.install(l, node)
		}
		return nil
	}, nil
}

// chooseAPIPort settles the port by listening on it once. Another process can take it before the controller's first power on; that
// fails Up with a clear error, and nothing worse.
func (l *Lab) chooseAPIPort() error {
	if l.APIPort != 0 {
		return nil
	}
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("api port: %w", err)
	}
	defer probe.Close()
	l.APIPort = probe.Addr().(*net.TCPAddr).Port
	return writeState(l.State)
}

// checkMachine finds out early what would otherwise fail in the middle.
func checkMachine(o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("lab: namespaces need root")
	}
	tools := []string{libvirtdPath, "/usr/bin/qemu-system-x86_64", "/usr/bin/nsenter"}
	if o.Storage > 0 || o.Gluster {
		tools = append(tools, mkfsPath)
	}
	if o.Gluster {
		tools = append(tools, glusterdPath, glusterCLI, glusterClient)
	}
	for _, tool := range tools {
		if _, err := os.Stat(tool); err != nil {
			return fmt.Errorf("lab: %s is missing; scripts/install-lab-deps.sh installs it", tool)
		}
	}
	return nil
}

func copyBinary(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("lab binary: %w", err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("lab binary: %w", err)
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
