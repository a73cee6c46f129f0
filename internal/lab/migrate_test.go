package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/godwit-cloud/godwit/internal/lab"
	"github.com/godwit-cloud/godwit/internal/lab/labtest"
	"github.com/godwit-cloud/godwit/test/guest"
)

// The guests of these tests have fixed addresses of a documentation network, for there is no DHCP server on a bare host.
const (
	guestAddr = "192.0.2.10"
	peerAddr  = "192.0.2.1/24"
	diskPath  = "/var/lib/libvirt/images/vm.qcow2"
	basePath  = "/var/lib/libvirt/images/base.qcow2"

	consolePath = "/var/log/libvirt/qemu/vm-console.log"
)

// domainXML has what godwit's own emulated guests have (decision 8): memory that is 64 KiB short of whole groups of pages, without which QEMU before 9.0
// forgets writes now and then while it migrates, and the guest's kernel panics on the other side.
var domainXML = template.Must(template.New("domain").Parse(`<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm</name>
  <memory unit='MiB'>160</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' io='io_uring' cache='none'/>
      <source file='{{.Disk}}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <source bridge='{{.Bridge}}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path='{{.Console}}'/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-m'/><qemu:arg value='size=163776k'/>
    <qemu:arg value='-object'/><qemu:arg value='memory-backend-ram,id=ram,size=163776k'/>
    <qemu:arg value='-machine'/><qemu:arg value='memory-backend=ram'/>
  </qemu:commandline>
</domain>`))

func mustOutput(t *testing.T, l *lab.Lab, node string, argv ...string) string {
	t.Helper()
	out, err := l.Output(t.Context(), node, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// tenantNetwork joins a bridge on every host by VXLAN over the data network.
func tenantNetwork(t *testing.T, l *lab.Lab) string {
	t.Helper()
	const bridge = "br-test"
	for _, node := range l.ComputeNodes() {
		mustOutput(t, l, node, "ip", "link", "add", bridge, "mtu", "1500", "type", "bridge")
		mustOutput(t, l, node, "ip", "link", "set", bridge, "up")
		for _, other := range l.ComputeNodes() {
			if other == node {
				continue
			}
			mustOutput(t, l, node, "ip", "link", "add", "vx-test", "mtu", "1500", "type", "vxlan", "id", "42", "dstport", "4789",
				"local", l.DataAddr(node).String(), "remote", l.DataAddr(other).String(), "dev", lab.LinkData)
			mustOutput(t, l, node, "ip", "link", "set", "vx-test", "master", bridge, "up")
		}
	}
	return bridge
}

// makeDisk gives a node the guest's disk: an overlay on a copy of the image that QEMU's user may read.
func makeDisk(t *testing.T, l *lab.Lab, node, image string) {
	t.Helper()
	mustOutput(t, l, node, "install", "-m", "644", image, basePath)
	mustOutput(t, l, node, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", basePath, diskPath, "128M")
}

// startGuest defines and starts the guest on a node.
func startGuest(t *testing.T, l *lab.Lab, node, bridge string) {
	t.Helper()
	var xml bytes.Buffer
	if err := domainXML.Execute(&xml, map[string]string{"Disk": diskPath, "Bridge": bridge, "Console": consolePath}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Path(node, "/var/lib/libvirt/vm.xml"), xml.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	mustOutput(t, l, node, "virsh", "create", "/var/lib/libvirt/vm.xml")
}

func domains(t *testing.T, l *lab.Lab, node string) string {
	t.Helper()
	return mustOutput(t, l, node, "virsh", "list", "--all", "--name")
}

// TestGuestMovesBetweenHostsWithItsDiskOverTLS is the recipe that godwit's own migration follows, with virsh in its place.
func TestGuestMovesBetweenHostsWithItsDiskOverTLS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	image, err := guest.ImageWithOrders(ctx, "godwit.tick=100ms godwit.log=10ms godwit.ip="+guestAddr+"/24")
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.Bare(t, 2)
	source, target := lab.HostName(1), lab.HostName(2)
	bridge := tenantNetwork(t, l)
	makeDisk(t, l, source, image)
	makeDisk(t, l, target, image) // libvirt does not create it without a storage pool
	startGuest(t, l, source, bridge)
	t.Cleanup(func() { // what the guest itself said, on the host that it left and on the one that it is on
		for _, node := range l.ComputeNodes() {
			if console, err := os.ReadFile(l.Path(node, consolePath)); t.Failed() && err == nil {
				t.Logf("console on %s:\n%s", node, console[max(0, len(console)-4000):])
			}
		}
	})
	peer, err := l.StartPeer(ctx, lab.PeerSpec{Name: "p", Node: source, Bridge: bridge, Addr: netip.MustParsePrefix(peerAddr)})
	if err != nil {
		t.Fatal(err)
	}
	control, err := guest.Connect(ctx, peer.Dial, fmt.Sprintf("%s:%d", guestAddr, guest.ControlPort))
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	before, err := control.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	trace, err := peer.StartTrace(ctx, netip.MustParseAddr(guestAddr), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := trace.AwaitReply(ctx); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	mustOutput(t, l, source, "virsh", "migrate", "--live", "--p2p", "--tls", "--copy-storage-all", "vm",
		fmt.Sprintf("qemu+tls://%s/system", l.DataAddr(target)))
	took := time.Since(began)

	after, err := control.Status(ctx) // the same connection
	if err != nil {
		t.Fatalf("guest after the move: %v", err)
	}
	rep, err := trace.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("moved in %v, blackout %v, lost %d of %d, send pause %v", took, rep.Blackout, rep.Lost, rep.Sent, rep.SendPause)
	t.Log(mustOutput(t, l, target, "virsh", "domjobinfo", "vm", "--completed"))
	if after.BootID != before.BootID || after.Ticks <= before.Ticks || after.LogLast <= before.LogLast {
		t.Errorf("guest did not run on: before %+v, after %+v", before, after)
	}
	log, err := control.Verify(ctx)
	if err != nil || !log.OK || log.Last < after.LogLast {
		t.Errorf("disk log after the move: %+v, %v", log, err)
	}
	if s, d := domains(t, l, source), domains(t, l, target); s != "" || d != "vm" {
		t.Errorf("domains on the source %q, on the target %q", s, d)
	}
}
