package hostagent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/godwit-cloud/godwit/internal/hostapi/hostpb"
	"github.com/godwit-cloud/godwit/internal/kvm"
)

const (
	// factsPeriod is how often the host says how it is.
	factsPeriod = 10 * time.Second
	// factsPause is the least time between two reports: after a failed attempt, and when servers change state in quick succession.
	factsPause = time.Second
)

// Facts returns what the host is and has, as of now.
func (a *Agent) Facts(ctx context.Context, _ *hostpb.FactsRequest) (*hostpb.HostFacts, error) {
	return a.facts(ctx)
}

// ringFacts says that facts may have changed.
func (a *Agent) ringFacts() {
	select {
	case a.factsBell <- struct{}{}:
	default:
	}
}

// keepFacts reports facts periodically and when they may have changed.
func (a *Agent) keepFacts() {
	for {
		ctx, cancel := context.WithTimeout(a.life, lookMax)
		facts, err := a.facts(ctx)
		cancel()
		if err == nil {
			a.o.Outbox.PutFacts(facts)
		} else if a.life.Err() == nil {
			a.log.Warn("facts unknown", "error", err)
			a.ringFacts()
		}
		if !a.pause(factsPause, nil) || !a.pause(factsPeriod, a.factsBell) {
			return
		}
	}
}

// pause waits for d or, if there is one, the bell. It returns false when the agent's life ends.
func (a *Agent) pause(d time.Duration, bell <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-bell:
	case <-a.life.Done():
		return false
	}
	return true
}

// fixedFacts change only with libvirt or QEMU.
type fixedFacts struct {
	versions kvm.Versions
	node     kvm.Node
	caps     kvm.Capabilities
}

func (a *Agent) fixedFacts(ctx context.Context) (*fixedFacts, error) {
	a.mu.Lock()
	known := a.fixed
	a.mu.Unlock()
	if known != nil {
		return known, nil
	}
	var f fixedFacts
	var err error
	if f.versions, err = a.hv.Versions(ctx); err != nil {
		return nil, err
	}
	if f.node, err = a.hv.Node(ctx); err != nil {
		return nil, err
	}
	if f.caps, err = a.hv.Capabilities(ctx, a.emulation); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.fixed = &f
	a.mu.Unlock()
	return &f, nil
}

func (a *Agent) facts(ctx context.Context) (*hostpb.HostFacts, error) {
	fixed, err := a.fixedFacts(ctx)
	if err != nil {
		return nil, err
	}
	versions, node, caps := fixed.versions, fixed.node, fixed.caps
	states, err := a.hv.List(ctx)
	if err != nil {
		return nil, err
	}
	total, free, err := a.o.Disk.Space()
	if err != nil {
		return nil, err
	}
	load, uptime, ramFree, err := machine()
	if err != nil {
		return nil, err
	}
	const gib = 30
	f := &hostpb.HostFacts{
		Name: string(a.o.Name), Generation: a.epoch, Seq: a.seq.Add(1), AgentVersion: a.o.Version, LibvirtVersion: versions.Libvirt,
		QemuVersion: versions.QEMU, Hypervisor: "QEMU", Virtualization: "tcg", Arch: "x86_64", CpuModels: caps.CPUModels, CpuModel: or(a.o.CPUModel, kvm.CPUDefault),
		CpuInfo: cpuInfo(caps, node), Vcpus: int64(a.cpus(node)), RamMib: node.RAMMiB, RamFreeMib: ramFree, DiskGib: total >> gib, DiskFreeGib: free >> gib,
		SharedDiskId: a.o.Disk.SharedID(), MigrationAddress: a.o.MigrationAddress, TunnelAddress: a.o.TunnelAddress, Load: load, UptimeSeconds: uptime, WakeMacs: wakeMACs(),
	}
	if a.emulation == kvm.KVM {
		f.Hypervisor, f.Virtualization = "KVM", "kvm"
	}
	a.peerFacts(f)
	f.SelfFencing = a.selfFencing()
	if a.shared != nil {
		f.Shared = a.shared.facts()
		if a.guardian != nil {
			_, lease := a.guardian.ages(time.Now())
			f.Shared.LeaseAge = durationpb.New(lease)
		}
	}
	for _, s := range states {
		if s.Run == kvm.Running || s.Run == kvm.Outgoing {
			f.Running++
		}
	}
	return f, nil
}

// cpus are those that servers may use.
func (a *Agent) cpus(node kvm.Node) int {
	if a.o.CPUs > 0 {
		return min(a.o.CPUs, node.VCPUs)
	}
	return node.VCPUs
}

// cpuInfo is what Nova shows as a hypervisor's cpu_info.
func cpuInfo(caps kvm.Capabilities, node kvm.Node) string {
	type topology struct {
		Sockets int `json:"sockets"`
		Cores   int `json:"cores"`
		Threads int `json:"threads"`
	}
	info := struct {
		Arch     string   `json:"arch"`
		Model    string   `json:"model"`
		Vendor   string   `json:"vendor"`
		Topology topology `json:"topology"`
		Features []string `json:"features"`
	}{"x86_64", caps.HostModel, caps.Vendor, topology{node.Sockets, node.Cores, node.Threads}, []string{}}
	text, err := json.Marshal(info)
	if err != nil {
		panic(fmt.Sprintf("hostagent: cpu info: %v", err)) // strings and numbers always encode
	}
	return string(text)
}

// machine reads the load averages, the seconds since boot and the memory that guests could still get (MiB).
func machine() (load []float64, uptime, ramFreeMiB int64, err error) {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, 0, 0, err
	}
	if load, err = parseLoad(string(raw)); err != nil {
		return nil, 0, 0, err
	}
	if raw, err = os.ReadFile("/proc/uptime"); err != nil {
		return nil, 0, 0, err
	}
	seconds, _, _ := strings.Cut(string(raw), ".")
	if uptime, err = strconv.ParseInt(seconds, 10, 64); err != nil {
		return nil, 0, 0, fmt.Errorf("/proc/uptime: %w", err)
	}
	if raw, err = os.ReadFile("/proc/meminfo"); err != nil {
		return nil, 0, 0, err
	}
	ramFreeMiB, err = parseAvailable(string(raw))
	return load, uptime, ramFreeMiB, err
}

func parseLoad(text string) ([]float64, error) {
	const averages = 3
	fields := strings.Fields(text)
	if len(fields) < averages {
		return nil, fmt.Errorf("load averages %q", text)
	}
	load := make([]float64, averages)
	for i := range load {
		var err error
		if load[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return nil, fmt.Errorf("load averages: %w", err)
		}
	}
	return load, nil
}

func parseAvailable(meminfo string) (int64, error) {
	for lines := bufio.NewScanner(strings.NewReader(meminfo)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("available memory: %w", err)
		}
		return kib >> 10, nil
	}
	return 0, fmt.Errorf("available memory: not in /proc/meminfo")
}
