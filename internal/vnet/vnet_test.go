package vnet

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestGuestsOnTwoHostsShareANetworkAndNoOther(t *testing.T) {
	w := newWorld(t, 2)
	open := func(vni, i int) cloud.NIC {
		nic := nicOf(vni, i)
		nic.Rules = append(nic.Rules, allowAll("ingress"))
		return nic
	}
	a := w.boot(w.hosts[0], open(5, 1)).configure(t)
	b := w.boot(w.hosts[1], open(5, 2)).configure(t)
	other := w.boot(w.hosts[1], open(6, 3)).configure(t)
	if !a.ping(b.ip(), patience) || !b.ping(a.ip(), patience) {
		t.Error("no connection over the tunnel")
	}
	if a.ping(other.ip(), absence) {
		t.Error("another network's guest was reached")
	}
	if a.ping(w.hosts[0].tunnel.String(), absence) {
		t.Error("a guest reached its host")
	}
}

func TestTenantsMayUseTheHostsOwnSubnet(t *testing.T) {
	w := newWorld(t, 2)
	nic := nicOf(5, 1)
	nic.Addresses[0].Address, nic.Addresses[0].DHCPAddress = "198.51.100.77", "198.51.100.2" // the second host's address
	g := w.boot(w.hosts[0], nic).configure(t)
	if code, _ := g.get(t, "/openstack"); code != 200 {
		t.Errorf("metadata: %d", code)
	}
	if !w.hosts[0].ping("198.51.100.2", patience) {
		t.Error("the host lost its neighbour to a tenant's subnet")
	}
}

// lease runs busybox's DHCP client in a guest and returns what it was told.
func (g *guest) lease(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	script, result := filepath.Join(dir, "script"), filepath.Join(dir, "result")
	check(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && env > "+result+"\nexit 0\n"), 0o700))
	g.up(t, "eth0")
	out, err := g.run(t, "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script, "-O", "staticroutes", "-O", "mtu")
	if err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	told := map[string]string{}
	for line := range strings.SplitSeq(string(must[[]byte](t)(os.ReadFile(result))), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			told[k] = v
		}
	}
	return told
}

func TestDHCPTellsAGuestAllItNeeds(t *testing.T) {
	w := newWorld(t, 1)
	told := w.boot(w.hosts[0], nicOf(5, 1)).lease(t)
	for key, want := range map[string]string{
		"ip": "10.0.0.1", "mask": "24", "router": "10.0.0.254", "dns": "192.0.2.53", "serverid": "10.0.0.200", "hostname": "vm-10.0.0.1",
		"mtu": "1450", "lease": "86400",
		"staticroutes": "169.254.169.254/32 10.0.0.200 172.30.0.0/16 10.0.0.9 0.0.0.0/0 10.0.0.254",
	} {
		if told[key] != want {
			t.Errorf("%s: %q, want %q", key, told[key], want)
		}
	}
}

// TestTheServiceNeverCrossesTheTunnel checks each of the two guards alone: the ports' isolation, and the rules at the tunnel.
func TestTheServiceNeverCrossesTheTunnel(t *testing.T) {
	for name, disarm := range map[string]func(t *testing.T, h *testHost){
		"with isolation alone": func(t *testing.T, h *testHost) {
			_, err := h.run(t, h.nets.filter.path, "delete", "table", "bridge", "godwit")
			check(t, err)
		},
		"with rules alone": func(t *testing.T, h *testHost) {
			check(t, h.links.LinkSetIsolated(h.link(t, tunnelName(5)), false))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			nic := nicOf(5, 1)
			g := w.boot(w.hosts[0], nic)
			g.up(t, "eth0")
			w.hosts[1].ensure(t, nic, true) // bound to both hosts, as during a migration
			w.hosts[0].nets.services[5].stop()
			w.hosts[0].nets.services = map[int]*service{} // now only the second host could answer
			for _, h := range w.hosts {
				disarm(t, h)
			}
			if out, err := g.run(t, "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "1", "-T", "1", "-s", "/bin/true"); err == nil {
				t.Errorf("the other host's DHCP answered: %s", out)
			}
			g.configure(t)
			if c, err := g.dial("169.254.169.254:80", absence); err == nil {
				c.Close()
				t.Error("the other host's metadata answered")
			}
		})
	}
}

func TestServiceIsTheSameToAGuestOnEveryHost(t *testing.T) {
	w := newWorld(t, 2)
	g := w.boot(w.hosts[0], nicOf(5, 1)).configure(t)
	neighbour := func() string {
		g.get(t, "/")
		for _, n := range must[[]netlink.Neigh](t)(g.links.NeighList(0, unix.AF_INET)) {
			if n.IP.String() == "10.0.0.200" {
				return n.HardwareAddr.String()
			}
		}
		return ""
	}
	first := neighbour()
	g.carry(t, w.hosts[1])
	check(t, w.hosts[1].nets.Announce(t.Context(), serverOf(g.nic)))
	if second := neighbour(); first == "" || first != second {
		t.Errorf("the service's MAC changed from %q to %q", first, second)
	}
}

func TestMetadataKnowsTheGuestByItsAddress(t *testing.T) {
	w := newWorld(t, 1)
	a := w.boot(w.hosts[0], nicOf(5, 1)).configure(t)
	b := w.boot(w.hosts[0], nicOf(5, 2)).configure(t)
	same := w.boot(w.hosts[0], nicOf(6, 1)).configure(t) // the same address on another network
	for _, g := range []*guest{a, b, same} {
		if code, body := g.get(t, "/openstack/latest/user_data"); code != 200 || body != "hello "+g.nic.MAC {
			t.Errorf("%s: %d %q", g.nic.MAC, code, body)
		}
	}
	if code, body := a.get(t, "/openstack/latest/meta_data.json"); code != 200 || !strings.Contains(body, `"hostname":"vm-10.0.0.1"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := b.get(t, "/latest/meta-data/local-hostname"); code != 200 || body != "vm-10.0.0.2" {
		t.Errorf("%d %s", code, body)
	}
}

func TestMetadataReachesAGuestWithoutDHCP(t *testing.T) {
	w := newWorld(t, 1)
	nic := nicOf(5, 1)
	nic.Addresses[0].DHCP, nic.Addresses[0].DHCPAddress = false, ""
	g := &guest{node: newNode(t)}
	*g = *w.boot(w.hosts[0], nic)
	g.address(t, "eth0", "10.0.0.1/24")
	g.up(t, "eth0")
	check(t, g.links.RouteReplace(&netlink.Route{LinkIndex: g.link(t, "eth0").Attrs().Index, Dst: hostNet(metadataAddress), Scope: netlink.SCOPE_LINK}))
	if code, body := g.get(t, "/openstack/latest/user_data"); code != 200 || body != "hello "+nic.MAC {
		t.Errorf("%d %q", code, body)
	}
}

func TestIngressIsClosedUnlessARuleOpensIt(t *testing.T) {
	w := newWorld(t, 2)
	peerNIC := nicOf(5, 2)
	peerNIC.PortSecurity = false
	peer := w.boot(w.hosts[1], peerNIC).configure(t)
	nic := nicOf(5, 1)
	nic.Rules = append(nic.Rules, cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "tcp", PortMin: 22, PortMax: 23, RemoteCIDRs: []string{"10.0.0.0/24", "10.0.0.2"}})
	g := w.boot(w.hosts[0], nic).configure(t)
	for _, port := range []int{22, 23, 24} {
		ln := g.listen(t, fmt.Sprintf("10.0.0.1:%d", port))
		wait := patience
		if port == 24 {
			wait = absence
		}
		c, err := peer.dial(ln.Addr().String(), wait)
		if (err == nil) != (port != 24) {
			t.Errorf("port %d: %v", port, err)
		}
		if err == nil {
			c.Close()
		}
	}
	if peer.ping(g.ip(), absence) {
		t.Error("ping passed without a rule")
	}
	if !g.ping(peer.ip(), patience) {
		t.Error("the answer to the guest's own ping was dropped")
	}
	nic.Rules = []cloud.NICRule{allowAll("egress"), {Direction: "ingress", EtherType: "IPv4", Protocol: "icmp", PortMin: 8, PortMax: -1}}
	check(t, w.hosts[0].nets.Update(t.Context(), metaOf(nic), []cloud.NIC{nic}))
	if !peer.ping(g.ip(), patience) {
		t.Error("the new rule does not let ping pass")
	}
	ln := g.listen(t, "10.0.0.1:2222")
	if c, err := peer.dial(strings.Replace(ln.Addr().String(), "2222", "22", 1), absence); err == nil {
		c.Close()
		t.Error("the removed rule still lets connections pass")
	}
}

func TestEgressIsClosedUnlessARuleOpensIt(t *testing.T) {
	w := newWorld(t, 1)
	peerNIC, nic := nicOf(5, 2), nicOf(5, 1)
	peerNIC.PortSecurity = false
	nic.Rules = []cloud.NICRule{{Direction: "egress", EtherType: "IPv4", Protocol: "tcp", PortMin: 80, PortMax: 80}}
	peer, g := w.boot(w.hosts[0], peerNIC).configure(t), w.boot(w.hosts[0], nic).configure(t)
	peer.listen(t, "10.0.0.2:80")
	peer.listen(t, "10.0.0.2:81")
	c, err := g.dial("10.0.0.2:80", patience)
	check(t, err)
	c.Close()
	if c, err := g.dial("10.0.0.2:81", absence); err == nil {
		c.Close()
		t.Error("port 81 is open")
	}
	if code, _ := g.get(t, "/openstack"); code != 200 {
		t.Errorf("metadata must always be reachable: %d", code)
	}
	if told := g.lease(t); told["ip"] != "10.0.0.1" {
		t.Errorf("DHCP must always work: %v", told)
	}
}

func TestAGuestCannotPoseAsAnother(t *testing.T) {
	w := newWorld(t, 2)
	victim := nicOf(5, 2)
	victim.PortSecurity = false
	peer := w.boot(w.hosts[1], victim).configure(t)
	nic := nicOf(5, 1)
	nic.AllowedPairs = []string{"10.0.0.64/28"}
	g := w.boot(w.hosts[0], nic).configure(t)
	from := func(ip string) bool {
		g.address(t, "eth0", ip+"/24")
		// Several tries within the deadline: the first waits for ARP, and a busy machine is slow.
		cmd := []string{"ping", "-c", "1", "-I", ip, "-i", "0.2", "-w", "3", peer.ip()}
		_, err := g.run(t, cmd...)
		return err == nil
	}
	if !from("10.0.0.1") || !from("10.0.0.70") {
		t.Error("its own address or an allowed pair was refused")
	}
	if from("10.0.0.99") {
		t.Error("a foreign address passed")
	}
	check(t, g.links.LinkSetHardwareAddr(g.link(t, "eth0"), net.HardwareAddr{0x02, 0, 0, 0, 0, 9}))
	if from("10.0.0.1") {
		t.Error("a foreign MAC passed")
	}
}

// stream connects the guest to a peer that pushes lines, and returns the push and the guest's end.
func stream(t *testing.T, g, peer *guest) (push func(string), lines *bufio.Reader) {
	t.Helper()
	ln := peer.listen(t, peer.ip()+":7000")
	accepted := make(chan net.Conn, 1)
	go func() { // ends with the listener
		if c, err := ln.Accept(); err == nil {
			accepted <- c
		}
	}()
	c, err := g.dial(ln.Addr().String(), patience)
	check(t, err)
	pc := <-accepted
	t.Cleanup(func() { c.Close(); pc.Close() })
	check(t, c.SetReadDeadline(time.Now().Add(3*patience)))
	return func(s string) {
		t.Helper()
		_, err := io.WriteString(pc, s+"\n")
		check(t, err)
	}, bufio.NewReader(c)
}

// TestConnectionsSurviveAMove is the reason of the set "arrived": after the move the peer speaks first, and the guest's new host has
// never seen the connection begin.
func TestConnectionsSurviveAMove(t *testing.T) {
	w := newWorld(t, 3)
	peerNIC := nicOf(5, 2)
	peerNIC.PortSecurity = false
	peer := w.boot(w.hosts[2], peerNIC).configure(t)
	g := w.boot(w.hosts[0], nicOf(5, 1)).configure(t)
	push, lines := stream(t, g, peer)
	say := func(s string) {
		t.Helper()
		push(s)
		if got, err := lines.ReadString('\n'); err != nil || got != s+"\n" {
			t.Fatalf("pushed %q, got %q, %v", s, got, err)
		}
	}
	say("before")
	for i, to := range []int{1, 0, 1} { // away, back to where stale entries might be, away again
		from := g.on
		g.carry(t, w.hosts[to])
		began := time.Now()
		check(t, g.on.nets.Announce(t.Context(), serverOf(g.nic)))
		say(fmt.Sprint("after move ", i))
		if took := time.Since(began); took > patience { // sooner than the guest speaks by itself, to keep its connection alive
			t.Errorf("move %d: traffic was back only after %s", i, took)
		}
		check(t, from.nets.Release(t.Context(), serverOf(g.nic)))
		say(fmt.Sprint("after release ", i))
	}
	if c, err := peer.dial(g.ip()+":7001", absence); err == nil || strings.Contains(err.Error(), "refused") {
		if c != nil {
			c.Close()
		}
		t.Error("a new connection from outside passed")
	}
}

func TestALeavingGuestsConnectionsAreForgotten(t *testing.T) {
	w := newWorld(t, 1)
	peerNIC := nicOf(5, 2)
	peerNIC.PortSecurity = false
	peer, g := w.boot(w.hosts[0], peerNIC).configure(t), w.boot(w.hosts[0], nicOf(5, 1)).configure(t)
	push, lines := stream(t, g, peer)
	push("x")
	_, err := lines.ReadString('\n')
	check(t, err)
	tracked := func() (n int) {
		for _, f := range must[[]*netlink.ConntrackFlow](t)(w.hosts[0].links.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)) {
			if f.Forward.SrcIP.String() == g.ip() && f.Zone == zone(5) {
				n++
			}
		}
		return n
	}
	if tracked() == 0 {
		t.Fatal("the connection is not tracked in its network's zone")
	}
	check(t, w.hosts[0].nets.Release(t.Context(), serverOf(g.nic)))
	if n := tracked(); n != 0 {
		t.Errorf("%d connections are still tracked", n)
	}
}

func TestAnnounceTeachesEveryHostAtOnce(t *testing.T) {
	w := newWorld(t, 3)
	open := nicOf(5, 1)
	open.Rules = append(open.Rules, allowAll("ingress"))
	peerNIC := nicOf(5, 2)
	peerNIC.Rules = append(peerNIC.Rules, allowAll("ingress"))
	peer := w.boot(w.hosts[2], peerNIC).configure(t)
	local := nicOf(5, 3)
	local.Rules = append(local.Rules, allowAll("ingress"))
	onTarget := w.boot(w.hosts[1], local).configure(t)
	g := w.boot(w.hosts[0], open).configure(t)
	if !peer.ping(g.ip(), patience) || !onTarget.ping(g.ip(), patience) {
		t.Fatal("no connection before the move")
	}
	g.carry(t, w.hosts[1])
	check(t, g.on.nets.Announce(t.Context(), serverOf(g.nic)))
	tunnel := w.hosts[2].link(t, tunnelName(5)).Attrs().Index
	learned := func() (at string) {
		for _, e := range must[[]netlink.Neigh](t)(w.hosts[2].links.NeighList(tunnel, unix.AF_BRIDGE)) {
			if e.HardwareAddr.String() == g.nic.MAC && e.IP != nil {
				at = e.IP.String()
			}
		}
		return at
	}
	if at := learned(); at != w.hosts[1].tunnel.String() {
		t.Errorf("the peer's host sends to %s, the guest is on %s", at, w.hosts[1].tunnel)
	}
	// The guest has sent nothing since the move: the others must find it by the announcement alone.
	if !peer.ping(g.ip(), time.Second) {
		t.Error("a remote guest does not find it")
	}
	if !onTarget.ping(g.ip(), time.Second) {
		t.Error("a guest of the target host does not find it")
	}
}

func TestAnnounceOfAStrangerIsRefused(t *testing.T) {
	w := newWorld(t, 1)
	if err := w.hosts[0].nets.Announce(t.Context(), "nobody"); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestEnsureAndReleaseTwiceLeaveNothing(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	before := h.names(t)
	for range 2 {
		h.ensure(t, nicOf(5, 1), true)
		h.ensure(t, nicOf(5, 2), false)
	}
	check(t, h.nets.Release(t.Context(), serverOf(nicOf(5, 1))))
	if names := h.names(t); containsAny(names, "gwb5") == "" {
		t.Error("the network went with its first guest")
	}
	for range 2 {
		check(t, h.nets.Release(t.Context(), serverOf(nicOf(5, 2))))
	}
	if after := h.names(t); !slices.Equal(before, after) {
		t.Errorf("interfaces: before %v, after %v", before, after)
	}
	if rules := h.rules(t); strings.Contains(rules, "gwt0") || strings.Contains(rules, "-5") || strings.Contains(rules, "elements") {
		t.Errorf("rules are left:\n%s", rules)
	}
}

func TestAGuestsTrafficGoesOnWhileTheAgentRestarts(t *testing.T) {
	w := newWorld(t, 2)
	peerNIC := nicOf(5, 2)
	peerNIC.PortSecurity = false
	peer := w.boot(w.hosts[1], peerNIC).configure(t)
	g := w.boot(w.hosts[0], nicOf(5, 1)).configure(t)
	push, lines := stream(t, g, peer)
	say := func(s string) {
		t.Helper()
		push(s)
		if got, err := lines.ReadString('\n'); err != nil || got != s+"\n" {
			t.Fatalf("pushed %q, got %q, %v", s, got, err)
		}
	}
	say("before")
	w.hosts[0].restart(t)
	say("while the new agent knows nothing")
	if peer.ping(g.ip(), absence) {
		t.Error("the guest is unprotected while the agent restarts")
	}
	w.hosts[0].ensure(t, g.nic, false)
	say("after Ensure")
	check(t, w.hosts[0].nets.Sweep(t.Context()))
	say("after Sweep")
	must[[]Bridge](t)(w.hosts[0].nets.Sync(t.Context(), 1, []netip.Addr{w.hosts[1].tunnel}, nil))
	say("after Sync")
	if code, _ := g.get(t, "/openstack"); code != 200 {
		t.Errorf("metadata after the restart: %d", code)
	}
}

func TestSweepRemovesOnlyWhatNobodyUses(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	h.ensure(t, nicOf(5, 1), false)             // gone when the agent comes back
	g := w.boot(h, nicOf(6, 1)).configure(t)    // its tap is there, but nobody ensures it
	kept := w.boot(h, nicOf(7, 1)).configure(t) // ensured again
	_ = g
	h.restart(t)
	h.ensure(t, kept.nic, false)
	check(t, h.nets.Sweep(t.Context()))
	names := h.names(t)
	for name, want := range map[string]bool{"gwb5": false, "gwv5": false, "gws5": false, "gwb6": true, "gwb7": true, "gwv7": true} {
		if slices.Contains(names, name) != want {
			t.Errorf("%s: present is %v", name, !want)
		}
	}
	rules := h.rules(t)
	if strings.Contains(rules, TapName(nicOf(5, 1).Port)) || !strings.Contains(rules, TapName(nicOf(6, 1).Port)) || !strings.Contains(rules, TapName(kept.nic.Port)) {
		t.Errorf("rules:\n%s", rules)
	}
}

func TestSyncKeepsPeersAndForeignBridges(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	h.ensure(t, nicOf(5, 1), false)
	foreign := nicOf(6, 9)
	ips := func(texts ...string) (out []netip.Addr) {
		for _, s := range texts {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	flooded := func(name string) (out []string) {
		for _, e := range must[[]netlink.Neigh](t)(h.links.NeighList(h.link(t, name).Attrs().Index, unix.AF_BRIDGE)) {
			if slices.Equal(e.HardwareAddr, allZero) {
				out = append(out, e.IP.String())
			}
		}
		slices.Sort(out)
		return out
	}
	bridges := must[[]Bridge](t)(h.nets.Sync(t.Context(), 2, ips("198.51.100.1", "198.51.100.8", "198.51.100.9"), []cloud.NIC{foreign}))
	if len(bridges) != 1 || bridges[0] != (Bridge{Network: "net-6", VNI: 6, Name: "gwb6"}) {
		t.Errorf("bridges: %v", bridges)
	}
	for _, name := range []string{"gwv5", "gwv6"} {
		if got := flooded(name); !slices.Equal(got, []string{"198.51.100.8", "198.51.100.9"}) {
			t.Errorf("%s floods to %v", name, got)
		}
	}
	must[[]Bridge](t)(h.nets.Sync(t.Context(), 1, nil, nil))
	if got := flooded("gwv5"); len(got) != 2 {
		t.Errorf("an older revision was applied: %v", got)
	}
	must[[]Bridge](t)(h.nets.Sync(t.Context(), 3, ips("198.51.100.9"), nil))
	if got := flooded("gwv5"); !slices.Equal(got, []string{"198.51.100.9"}) {
		t.Errorf("gwv5 floods to %v", got)
	}
	if slices.Contains(h.names(t), "gwb6") {
		t.Error("the foreign port's bridge outlived it")
	}
}

func TestNICsThatCannotBeBuiltAreRefused(t *testing.T) {
	w := newWorld(t, 1)
	for name, spoil := range map[string]func(*cloud.NIC){
		"no VNI":            func(n *cloud.NIC) { n.VNI = 0 },
		"a VNI too large":   func(n *cloud.NIC) { n.VNI = 1 << 24 },
		"no MAC":            func(n *cloud.NIC) { n.MAC = "x" },
		"a multicast MAC":   func(n *cloud.NIC) { n.MAC = "01:00:5e:00:00:01" },
		"no port":           func(n *cloud.NIC) { n.Port = "" },
		"an injected port":  func(n *cloud.NIC) { n.Port = `x";flush` },
		"a bad address":     func(n *cloud.NIC) { n.Addresses[0].Address = "10.0.0.0.1" },
		"a bad pair":        func(n *cloud.NIC) { n.AllowedPairs = []string{"here"} },
		"a bad remote":      func(n *cloud.NIC) { n.Rules[0].RemoteCIDRs = []string{"}"} },
		"a bad protocol":    func(n *cloud.NIC) { n.Rules[0].Protocol = "tcp drop" },
		"a bad family":      func(n *cloud.NIC) { n.Rules[0].EtherType = "IPX" },
		"an inverted range": func(n *cloud.NIC) { n.Rules[0].Protocol, n.Rules[0].PortMin, n.Rules[0].PortMax = "tcp", 9, 8 },
		"an MTU of nothing": func(n *cloud.NIC) { n.MTU = 0 },
	} {
		nic := nicOf(5, 1)
		spoil(&nic)
		if _, err := w.hosts[0].nets.Ensure(t.Context(), metaOf(nicOf(5, 1)), []cloud.NIC{nic}, false); !cloud.Is(err, cloud.KindInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAnAnnouncementWaitsForNobody(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	h.ensure(t, nicOf(5, 1), true)
	h.nets.mu.Lock() // as while another server's networks are built
	defer h.nets.mu.Unlock()
	check(t, h.nets.speak(serverOf(nicOf(5, 1))))
}

func TestAReleasedServerIsSilent(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	nic := nicOf(5, 1)
	h.ensure(t, nic, true)
	h.ensure(t, nicOf(5, 2), false) // keeps the network
	check(t, h.nets.Announce(t.Context(), serverOf(nic)))
	check(t, h.nets.Release(t.Context(), serverOf(nic)))
	sent := func() uint64 { return h.link(t, tunnelName(5)).Attrs().Statistics.TxPackets }
	before := sent()
	h.nets.end()
	h.nets.owned.Wait() // the repetitions have ended
	if after := sent(); after != before {
		t.Errorf("%d packets left after the release", after-before)
	}
	if err := h.nets.Announce(t.Context(), serverOf(nic)); !cloud.Is(err, cloud.KindNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestTheMetadataServiceKeepsTheAdminPassword(t *testing.T) {
	w := newWorld(t, 1)
	nic := nicOf(5, 1)
	g := w.boot(w.hosts[0], nic).configure(t)
	meta := metaOf(nic)
	meta.AdminPass = "hunter2"
	must[[]Plug](t)(w.hosts[0].nets.Ensure(t.Context(), meta, []cloud.NIC{nic}, false))
	if _, body := g.get(t, "/openstack/latest/meta_data.json"); strings.Contains(body, "hunter2") {
		t.Error("told")
	}
}
