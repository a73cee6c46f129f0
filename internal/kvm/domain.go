package kvm

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Emulation says how a guest's instructions run; its values are libvirt's domain types.
type Emulation string

// The emulations.
const (
	KVM Emulation = "kvm"
	TCG Emulation = "qemu" // QEMU's own translator
)

// MachineDefault is the machine type guests get when nothing else is asked. It is versioned because both ends of a migration must
// build the same board, and old because it must exist on the oldest QEMU of a fleet (Debian 12's 7.2); newer QEMUs keep it.
const MachineDefault = "pc-i440fx-7.2"

// CPUDefault is the CPU model guests get when neither flavor nor operator names one: what every x86-64 host of either vendor, and TCG, can give.
// It costs guests the newer instructions; operators of a uniform fleet set agent.cpu_model.
const CPUDefault = "qemu64"

// namePrefix marks the domains that are ours; libvirt may run others.
const namePrefix = "instance-"

// DomainName is the libvirt name of a server's domain.
func DomainName(id cloud.ServerID) string { return namePrefix + string(id) }

// ours reports whether a libvirt domain name is one of DomainName's.
func ours(name string) bool { return strings.HasPrefix(name, namePrefix) }

// Domain is all that libvirt is told of a server.
type Domain struct {
	ID         cloud.ServerID
	Emulation  Emulation
	Emulator   string // path of the QEMU program; empty: libvirt's choice
	VCPUs      int
	RAMMiB     int64
	CPUModel   string // libvirt's model name, or "host-model" or "host-passthrough"; empty: CPUDefault
	Machine    string // empty: MachineDefault
	Disks      []Disk // the first is booted from; the order of their targets is the order in which a booting guest meets them
	NICs       []NIC
	ConsoleLog string // file the serial console is appended to
	// Watchdog is what the guest's watchdog device does when it expires, see WatchdogActions; empty: there is no such device.
	Watchdog   string
	GuestAgent bool // it has a channel for qemu-guest-agent
	Meta       Meta
}

// WatchdogActions returns what a watchdog device can do, by Nova's and libvirt's words.
func WatchdogActions() []string { return []string{"reset", "poweroff", "pause", "none"} }

// Disk is a virtio disk of a domain: a local file, or a volume reached over NBD.
type Disk struct {
	Target    string // libvirt's name of it, "vda" to "vdz"; empty: by its place among the domain's disks
	Path      string // of a local file
	Format    string // of a local file: "qcow2" or "raw", never probed
	Cache     string // of a local file, QEMU's cache mode: "none" where the file system can do O_DIRECT, else "writeback"
	IO        string // of a local file: "io_uring" or "threads"
	NBD       *NBD   // of a volume; nil: a local file
	Serial    string // what the guest reads as the disk's serial number, of which virtio shows 20 characters; may be empty
	Waits     bool   // of a local file: a request that fails stops the guest and is tried again when it goes on, as with volumes
	ReadOnly  bool
	Shareable bool // other domains may write to it too
}

// NBD is how QEMU reaches a volume.
type NBD struct {
	Export      string
	Address     string // IP
	Port        int
	TLS         bool   // with the host's certificate, and the other end's checked
	TLSHostname string // the name expected in the other end's certificate; empty: Address
}

// NIC is a virtio network card on a bridge of the host.
type NIC struct {
	MAC    string
	Bridge string
	Tap    string // name of the tap device libvirt makes; "vnet..." is reserved by libvirt
	MTU    int    // 0: the bridge's
}

// Meta is godwit's note in the domain, for people who look with virsh and for recovery without a journal.
type Meta struct {
	Name       string
	Project    string
	User       string
	Flavor     string
	Image      string
	Generation int64
	Migration  cloud.MigrationID // the move that brought it here, if any
}

// diskTarget is the guest's name of the i-th disk.
func diskTarget(i int) string { return "vd" + string(rune('a'+i)) }

// disksMax is what the letters of diskTarget allow.
const disksMax = 26

// Validate reports the first thing that libvirt would refuse late or, worse, misread.
func (d Domain) Validate() error {
	switch {
	case d.ID == "":
		return cloud.Errorf(cloud.KindInvalid, "domain: no server id")
	case d.Emulation != KVM && d.Emulation != TCG:
		return cloud.Errorf(cloud.KindInvalid, "domain %s: emulation %q: kvm or qemu", d.ID, d.Emulation)
	case d.VCPUs < 1 || d.RAMMiB < 1:
		return cloud.Errorf(cloud.KindInvalid, "domain %s: %d vcpus, %d MiB: at least one of each", d.ID, d.VCPUs, d.RAMMiB)
	case len(d.Disks) == 0 || len(d.Disks) > disksMax:
		return cloud.Errorf(cloud.KindInvalid, "domain %s: %d disks: 1 to %d are possible", d.ID, len(d.Disks), disksMax)
	case d.Watchdog != "" && !slices.Contains(WatchdogActions(), d.Watchdog):
		return cloud.Errorf(cloud.KindInvalid, "domain %s: watchdog action %q: one of %v", d.ID, d.Watchdog, WatchdogActions())
	case d.ConsoleLog == "":
		return cloud.Errorf(cloud.KindInvalid, "domain %s: no console log", d.ID)
	}
	targets := map[string]bool{}
	for i, disk := range d.Disks {
		target := disk.target(i)
		if err := disk.validate(); err != nil {
			return cloud.Errorf(cloud.KindInvalid, "domain %s: disk %s: %w", d.ID, target, err)
		}
		if targets[target] {
			return cloud.Errorf(cloud.KindInvalid, "domain %s: two disks are %s", d.ID, target)
		}
		targets[target] = true
	}
	for _, n := range d.NICs {
		if strings.HasPrefix(n.Tap, "vnet") || n.Tap == "" || n.Bridge == "" || n.MAC == "" {
			return cloud.Errorf(cloud.KindInvalid, "domain %s: nic %q on bridge %q with tap %q: incomplete or reserved name", d.ID, n.MAC, n.Bridge, n.Tap)
		}
	}
	return nil
}

// target returns the name of the disk that is the i-th of its domain.
func (d Disk) target(i int) string { return or(d.Target, diskTarget(i)) }

func (d Disk) validate() error {
	if t := d.Target; t != "" && (len(t) != 3 || t[:2] != "vd" || t[2] < 'a' || t[2] > 'z') {
		return fmt.Errorf("target %q: vda to vdz", t)
	}
	if d.NBD != nil {
		if d.Path != "" {
			return fmt.Errorf("both a file %q and a volume", d.Path)
		}
		return d.NBD.validate()
	}
	if d.Path == "" || d.Path[0] != '/' {
		return fmt.Errorf("path %q is not absolute", d.Path)
	}
	if d.Format != "qcow2" && d.Format != "raw" {
		return fmt.Errorf("format %q: qcow2 or raw", d.Format)
	}
	if d.Cache == "" || d.IO == "" {
		return fmt.Errorf("cache mode %q or engine %q missing", d.Cache, d.IO)
	}
	return nil
}

func (n NBD) validate() error {
	switch {
	case n.Export == "":
		return fmt.Errorf("volume without an export name")
	case net.ParseIP(n.Address) == nil:
		return fmt.Errorf("volume's address %q is no IP address", n.Address)
	case n.Port < 1 || n.Port > 65535:
		return fmt.Errorf("volume's port %d", n.Port)
	}
	return nil
}
