package vnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/metadata"
)

// The tests build a small world of network namespaces without names: hosts on one underlay, and guests whose eth0 is the other end of
// a veth pair that stands for the tap. Nothing of it outlives the test: namespaces end when their handles are closed.

// patience bounds waits for what must happen; absence bounds waits for what must not.
const (
	patience = 10 * time.Second
	absence  = 400 * time.Millisecond
)

type world struct {
	t     *testing.T
	under node
	hosts []*testHost
}

// node is a namespace with a netlink handle in it.
type node struct {
	ns    netns.NsHandle
	links *netlink.Handle
}

type testHost struct {
	node
	tunnel netip.Addr
	nets   *Networks
}

type guest struct {
	node
	nic cloud.NIC
	on  *testHost
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newNode(t *testing.T) node {
	t.Helper()
	if testing.Short() {
		t.Skip("makes network namespaces; run without -short")
	}
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	ns := must[netns.NsHandle](t)(newNamespace())
	links := must[*netlink.Handle](t)(netlink.NewHandleAt(ns, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER))
	t.Cleanup(func() { links.Close(); _ = ns.Close() })
	n := node{ns, links}
	// Without IPv6 a guest is silent unless asked to speak: no multicast report of its own teaches the bridges where it is.
	check(t, n.do(func() error { return setSysctl("ipv6/conf/all/disable_ipv6", "1") }))
	n.up(t, "lo")
	return n
}

func (n node) do(f func() error) error { return namespace{fd: n.ns, given: true}.do(f) }

func (n node) link(t *testing.T, name string) netlink.Link {
	t.Helper()
	return must[netlink.Link](t)(n.links.LinkByName(name))
}

func (n node) up(t *testing.T, name string) {
	t.Helper()
	check(t, n.links.LinkSetUp(n.link(t, name)))
}

func (n node) names(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, l := range must[[]netlink.Link](t)(n.links.LinkList()) {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func (n node) address(t *testing.T, link, prefix string) {
	t.Helper()
	check(t, n.links.AddrReplace(n.link(t, link), must[*netlink.Addr](t)(netlink.ParseAddr(prefix))))
}

// run runs a program in the namespace and returns what it printed.
func (n node) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, n.do(cmd.Start))
	err := cmd.Wait()
	return out.String(), err
}

func (n node) ping(to string, wait time.Duration) bool {
	cmd := exec.Command("ping", "-c", "1", "-W", fmt.Sprintf("%.1f", wait.Seconds()), to)
	if n.do(cmd.Start) != nil {
		return false
	}
	return cmd.Wait() == nil
}

func (n node) dial(address string, wait time.Duration) (net.Conn, error) {
	var c net.Conn
	err := n.do(func() (err error) {
		// A numeric address and a deadline on the socket: no goroutine of the resolver or of happy eyeballs leaves the thread.
		d := net.Dialer{Timeout: wait, FallbackDelay: -1}
		c, err = d.Dial("tcp4", address)
		return err
	})
	return c, err
}

func (n node) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var ln net.Listener
	check(t, n.do(func() (err error) { ln, err = net.Listen("tcp4", address); return err }))
	t.Cleanup(func() { ln.Close() })
	return ln
}

func newWorld(t *testing.T, hosts int) *world {
	t.Helper()
	w := &world{t: t, under: newNode(t)}
	check(t, w.under.links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "under", MTU: 1600}}))
	w.under.up(t, "under")
	var peers []netip.Addr
	for i := range hosts {
		h := &testHost{node: newNode(t), tunnel: netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)})}
		port := fmt.Sprintf("host%d", i)
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MTU: 1600}, PeerName: "data", PeerNamespace: netlink.NsFd(int(h.ns))}
		check(t, w.under.links.LinkAdd(pair))
		check(t, w.under.links.LinkSetMaster(w.under.link(t, port), w.under.link(t, "under")))
		w.under.up(t, port)
		check(t, h.links.LinkSetMTU(h.link(t, "data"), 1600))
		h.address(t, "data", h.tunnel.String()+"/24")
		h.up(t, "data")
		h.start(t)
		w.hosts = append(w.hosts, h)
		peers = append(peers, h.tunnel)
	}
	for _, h := range w.hosts {
		must[[]Bridge](t)(h.nets.Sync(t.Context(), 1, peers, nil))
	}
	return w
}

// start runs the package on the host, as an agent would.
func (h *testHost) start(t *testing.T) {
	t.Helper()
	nets, err := New(context.Background(), Options{TunnelAddress: h.tunnel, Namespace: &h.ns, Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	h.nets = nets
	t.Cleanup(func() {
		if h.nets == nets {
			nets.Close()
		}
	})
}

// restart ends the agent and starts another one, without its memory.
func (h *testHost) restart(t *testing.T) {
	t.Helper()
	h.nets.Close()
	h.start(t)
}

func allowAll(direction string) cloud.NICRule {
	return cloud.NICRule{Direction: direction, EtherType: "IPv4", PortMin: -1, PortMax: -1}
}

// nicOf makes the NIC of guest number i (1..) on network vni: 10.0.0.i, secured, with the default group's egress rule.
func nicOf(vni, i int) cloud.NIC {
	return cloud.NIC{
		Port: cloud.PortID(fmt.Sprintf("%04d%04d-port", vni, i)), MAC: fmt.Sprintf("fa:16:3e:00:%02x:%02x", vni, i), MTU: 1450,
		Network: cloud.NetworkID(fmt.Sprintf("net-%d", vni)), VNI: vni, PortSecurity: true,
		Addresses: []cloud.NICAddress{{
			Subnet: "sub", Address: fmt.Sprintf("10.0.0.%d", i), Prefix: 24, Gateway: "10.0.0.254", DNS: []string{"192.0.2.53"},
			DHCP: true, DHCPAddress: "10.0.0.200", Routes: []cloud.Route{{Destination: "172.30.0.0/16", NextHop: "10.0.0.9"}},
		}},
		Rules: []cloud.NICRule{allowAll("egress")},
	}
}

func metaOf(nic cloud.NIC) metadata.Server {
	return metadata.Server{UUID: "server-of-" + string(nic.Port), Name: "vm", Hostname: "vm-" + nic.Addresses[0].Address, UserData: []byte("hello " + nic.MAC)}
}

func serverOf(nic cloud.NIC) cloud.ServerID { return cloud.ServerID(metaOf(nic).UUID) }

func (h *testHost) ensure(t *testing.T, nic cloud.NIC, incoming bool) Plug {
	t.Helper()
	return must[[]Plug](t)(h.nets.Ensure(t.Context(), metaOf(nic), []cloud.NIC{nic}, incoming))[0]
}

// boot ensures the NIC on a host and connects a new guest, addressed by hand.
func (w *world) boot(h *testHost, nic cloud.NIC) *guest {
	w.t.Helper()
	g := &guest{node: newNode(w.t), nic: nic, on: h}
	plug := h.ensure(w.t, nic, false)
	mac, _ := net.ParseMAC(nic.MAC)
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: plug.Tap, MTU: plug.MTU}, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(int(g.ns))}
	check(w.t, h.links.LinkAdd(pair))
	check(w.t, g.links.LinkSetMTU(g.link(w.t, "eth0"), plug.MTU))
	h.connect(w.t, plug)
	return g
}

func (h *testHost) connect(t *testing.T, plug Plug) {
	t.Helper()
	tap := h.link(t, plug.Tap)
	check(t, h.links.LinkSetMaster(tap, h.link(t, plug.Bridge)))
	check(t, h.links.LinkSetUp(tap))
}

// configure gives the guest its address and the metadata route, as cloud-init would from a config drive.
func (g *guest) configure(t *testing.T) *guest {
	t.Helper()
	a := g.nic.Addresses[0]
	g.address(t, "eth0", fmt.Sprintf("%s/%d", a.Address, a.Prefix))
	g.up(t, "eth0")
	via := net.ParseIP(a.DHCPAddress)
	check(t, g.links.RouteReplace(&netlink.Route{LinkIndex: g.link(t, "eth0").Attrs().Index, Dst: hostNet(metadataAddress), Gw: via}))
	return g
}

func (g *guest) ip() string { return g.nic.Addresses[0].Address }

// carry moves the guest's wire to another host, as a live migration does: the guest notices nothing.
func (g *guest) carry(t *testing.T, to *testHost) {
	t.Helper()
	plug := to.ensure(t, g.nic, true)
	tap := g.on.link(t, plug.Tap)
	check(t, g.on.links.LinkSetNsFd(tap, int(to.ns)))
	to.connect(t, plug)
	g.on = to
}

// get asks the metadata service from inside the guest.
func (g *guest) get(t *testing.T, path string) (int, string) {
	t.Helper()
	c, err := g.dial("169.254.169.254:80", patience)
	check(t, err)
	defer c.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
	reply, err := client.Get("http://169.254.169.254" + path)
	check(t, err)
	defer reply.Body.Close()
	body := must[[]byte](t)(io.ReadAll(reply.Body))
	return reply.StatusCode, string(body)
}

// rules returns the packet filter of the host as text.
func (h *testHost) rules(t *testing.T) string {
	t.Helper()
	out, err := h.run(t, h.nets.filter.path, "list", "ruleset")
	check(t, err)
	return out
}

func containsAny(names []string, prefixes ...string) string {
	for _, name := range names {
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				return name
			}
		}
	}
	return ""
}
