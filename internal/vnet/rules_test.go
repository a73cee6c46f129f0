package vnet

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

func TestTheChainsOfADefaultPort(t *testing.T) {
	nic := nicOf(5, 1)
	from := must[[]string](t)(egressChain(trackBridge, nic))
	wantFrom := []string{
		"ether saddr != fa:16:3e:00:05:01 drop",
		"ether type 0x8035 return",
		"arp saddr ether != fa:16:3e:00:05:01 drop",
		"arp saddr ip != { 0.0.0.0, 10.0.0.1 } drop",
		"ether type arp return",
		"ether type != { ip, ip6 } drop",
		"ether type ip udp sport 68 udp dport 67 @th,288,48 != 0xfa163e000501 drop",
		"ether type ip udp sport 68 udp dport 67 return",
		"ether type ip udp sport 67 drop",
		"ether type ip6 udp sport 547 drop",
		"icmpv6 type nd-router-advert drop",
		"ip saddr != { 10.0.0.1 } drop",
		"ip6 saddr != { fe80::/10, :: } drop",
		"ct state established,related return",
		"iifname @arrived tcp flags & (syn | ack) == ack return",
		"ip daddr 169.254.169.254 tcp dport 80 return",
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } return",
		"ether type ip return",
		"drop",
	}
	if !slices.Equal(from, wantFrom) {
		t.Errorf("from the guest:\n%s\nwant:\n%s", strings.Join(from, "\n"), strings.Join(wantFrom, "\n"))
	}
	to := must[[]string](t)(ingressChain(trackMarked, nic))
	wantTo := []string{
		"ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != fa:16:3e:00:05:01 drop",
		"ether type { arp, 0x8035 } accept",
		"meta mark & 0x01000000 != 0 accept",
		"oifname @arrived tcp flags & (syn | ack) == ack accept",
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, mld-listener-query } accept",
		"drop",
	}
	if !slices.Equal(to, wantTo) {
		t.Errorf("to the guest:\n%s\nwant:\n%s", strings.Join(to, "\n"), strings.Join(wantTo, "\n"))
	}
}

func TestRulesInNftsWords(t *testing.T) {
	for _, c := range []struct {
		rule cloud.NICRule
		want string
	}{
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", PortMin: -1, PortMax: -1}, "ether type ip"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "tcp", PortMin: 22, PortMax: 22}, "ether type ip meta l4proto 6 th dport 22-22"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "udp", PortMin: -1, PortMax: -1}, "ether type ip meta l4proto 17"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "icmp", PortMin: 3, PortMax: 4}, "ether type ip meta l4proto 1 icmp type 3 icmp code 4"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv6", Protocol: "icmp", PortMin: 128, PortMax: -1}, "ether type ip6 meta l4proto 58 icmpv6 type 128"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "47", PortMin: -1, PortMax: -1}, "ether type ip meta l4proto 47"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", Protocol: "132", PortMin: 1, PortMax: 9}, "ether type ip meta l4proto 132 th dport 1-9"},
		{cloud.NICRule{Direction: "egress", EtherType: "IPv4", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"}}, "ether type ip ip daddr { 10.0.0.0/8, 192.0.2.1 }"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"10.1.2.3/8"}}, "ether type ip ip saddr { 10.0.0.0/8 }"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"0.0.0.0/0"}}, "ether type ip"},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv4", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"2001:db8::/32"}}, ""},
		{cloud.NICRule{Direction: "ingress", EtherType: "IPv6", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"2001:db8::/32", "10.0.0.0/8"}}, "ether type ip6 ip6 saddr { 2001:db8::/32 }"},
	} {
		got, err := ruleMatch(c.rule)
		if err != nil || got != c.want {
			t.Errorf("%+v: got %q, %v, want %q", c.rule, got, err, c.want)
		}
	}
}

func TestARuleThatMatchesNothingOpensNothing(t *testing.T) {
	nic := nicOf(5, 1)
	nic.Rules = []cloud.NICRule{{Direction: "ingress", EtherType: "IPv4", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"2001:db8::/32"}}}
	for _, rule := range must[[]string](t)(ingressChain(trackBridge, nic)) {
		if rule == "accept" || strings.HasPrefix(rule, "ether type ip ") {
			t.Errorf("opened: %s", rule)
		}
	}
}

func TestMinimalPrefixesCoverTheSameAndDoNotOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
			ip := netip.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "c") & 3, rapid.Byte().Draw(t, "d")})
			return netip.PrefixFrom(ip, rapid.IntRange(20, 32).Draw(t, "bits")).Masked()
		})
		in := rapid.SliceOf(prefix).Draw(t, "prefixes")
		out := minimal(in)
		for i, a := range out {
			for _, b := range out[i+1:] {
				if a.Overlaps(b) {
					t.Fatalf("%s and %s overlap", a, b)
				}
			}
		}
		covered := func(set []netip.Prefix, p netip.Prefix) bool {
			return slices.ContainsFunc(set, func(s netip.Prefix) bool { return s.Bits() <= p.Bits() && s.Contains(p.Addr()) })
		}
		for _, p := range in {
			if !covered(out, p) {
				t.Fatalf("%s was lost", p)
			}
		}
		for _, p := range out {
			if !slices.Contains(in, p) {
				t.Fatalf("%s was made up", p)
			}
		}
	})
}

// TestEveryModesScriptsAreValid has nft read what we write for kernels other than this one; the kernel is not asked.
func TestEveryModesScriptsAreValid(t *testing.T) {
	w := newWorld(t, 1)
	filter := w.hosts[0].nets.filter
	for _, mode := range []tracking{trackNone, trackMarked, trackBridge} {
		var s script
		s.base(mode)
		s.network(mode, 5, []netip.Addr{netip.MustParseAddr("10.0.0.200")}, true)
		nic := nicOf(5, 1)
		nic.AllowedPairs = []string{"0.0.0.0/0", "::/0"}
		check(t, s.port(mode, nic))
		s.arrived(TapName(nic.Port))
		s.dropPort(mode, nic)
		s.dropNetwork(mode, 5)
		if mode == trackBridge {
			// What only such a kernel accepts is left out; that is three expressions.
			text := s.String()
			for _, only := range []string{"ct state established,related", "ct zone set 5"} {
				if !strings.Contains(text, only) {
					t.Errorf("bridge conntrack is not used: no %q", only)
				}
				text = strings.ReplaceAll(text, only, "counter")
			}
			s = script{}
			s.WriteString(text)
		}
		if err := filter.apply(t.Context(), &s); err != nil {
			t.Errorf("%s: %v\n%s", mode, err, s.String())
		}
	}
}

func TestWithoutConntrackRepliesStillPass(t *testing.T) {
	w := newWorld(t, 1)
	h := w.hosts[0]
	h.nets.mode = trackNone
	peerNIC := nicOf(5, 2)
	peerNIC.PortSecurity = false
	peer, g := w.boot(h, peerNIC).configure(t), w.boot(h, nicOf(5, 1)).configure(t)
	push, lines := stream(t, g, peer)
	push("hello")
	if got, err := lines.ReadString('\n'); err != nil || got != "hello\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if !g.ping(peer.ip(), patience) {
		t.Error("the answer to the guest's ping was dropped")
	}
	if peer.ping(g.ip(), absence) {
		t.Error("a foreign ping passed")
	}
	ln := g.listen(t, "10.0.0.1:22")
	if c, err := peer.dial(ln.Addr().String(), absence); err == nil {
		c.Close()
		t.Error("a new connection passed")
	}
}

func TestNamesFitTheKernel(t *testing.T) {
	for _, name := range []string{BridgeName(vniMax), tunnelName(vniMax), serviceName(vniMax), TapName("01234567-89ab-cdef-0123-456789abcdef")} {
		if len(name) > 15 {
			t.Errorf("%s is longer than 15 bytes", name)
		}
	}
	for name, want := range map[string]int{"gwb5": 5, "gwv16777215": vniMax, "gws1": 1} {
		if vni, ok := vniOf(name); !ok || vni != want {
			t.Errorf("%s: %d %v", name, vni, ok)
		}
	}
	for _, name := range []string{"gwt5", "gwb", "gwbx", "gwb05", "gwb5x", "eth0"} {
		if _, ok := vniOf(name); ok {
			t.Errorf("%s was taken for ours", name)
		}
	}
}
