package vnet

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// tracking says by what means the kernel can tell established connections on a bridge.
type tracking int

const (
	trackNone   tracking = iota // not at all: by the segments' flags
	trackMarked                 // br_netfilter: an inet chain marks, the bridge chains look
	trackBridge                 // conntrack in the bridge family
)

func (t tracking) String() string {
	return [...]string{"stateless", "br_netfilter", "bridge conntrack"}[t]
}

const (
	// establishedMark is the one mark bit we use, between the inet hook and the bridge's.
	establishedMark = 0x01000000

	// arrivedFor is how long after arrival a port accepts mid-stream TCP that conntrack does not know. Longer than TCP's keepalive
	// time of two hours, so that idle connections survive as well.
	arrivedFor = 3 * time.Hour

	// midStream matches a TCP segment that neither opens nor answers the opening of a connection.
	midStream = "tcp flags & (syn | ack) == ack"
)

// script is a batch of nft commands, applied as one transaction.
type script struct{ strings.Builder }

func (s *script) line(format string, args ...any) {
	fmt.Fprintf(s, format, args...)
	s.WriteByte('\n')
}

// chain replaces a chain's rules.
func (s *script) chain(name string, rules []string) {
	s.line("add chain bridge godwit %s", name)
	s.line("flush chain bridge godwit %s", name)
	for _, r := range rules {
		s.line("add rule bridge godwit %s %s", name, r)
	}
}

// base writes the tables and the chains that hang on hooks. It may be applied again at any time.
func (s *script) base(mode tracking) {
	s.line("add table bridge godwit")
	s.line("add set bridge godwit arrived { type ifname; flags timeout; }")
	for _, m := range []string{"from_guest", "to_guest", "tunnel", "zones"} {
		s.line("add map bridge godwit %s { type ifname : verdict; }", m)
	}
	s.line("add chain bridge godwit input { type filter hook input priority 0; policy accept; }")
	s.chain("input", []string{ // the host has no business on the bridges
		`iifname "gwt*" drop`, `iifname "gwv*" drop`, `iifname "gws*" drop`,
	})
	// Behind br_netfilter's own hook at priority 0.
	s.line("add chain bridge godwit forward { type filter hook forward priority 10; policy accept; }")
	s.chain("forward", []string{
		"iifname vmap @from_guest", "iifname vmap @tunnel", "oifname vmap @tunnel", `iifname "gws*" accept`, "oifname vmap @to_guest",
	})
	s.line("add table inet godwit")
	s.line("add chain inet godwit input { type filter hook input priority 0; policy accept; }")
	s.line("flush chain inet godwit input")
	s.line(`add rule inet godwit input iifname "gwb*" drop`)
	s.line("add map inet godwit zones { type ifname : verdict; }")
	switch mode {
	case trackBridge:
		s.line("add chain bridge godwit zoning { type filter hook prerouting priority -300; policy accept; }")
		s.chain("zoning", []string{"iifname vmap @zones"})
	case trackMarked:
		s.marking()
	case trackNone:
	}
}

// marking is the inet side of trackMarked: bridged packets pass here with their bridge as input interface.
func (s *script) marking() {
	s.line("add chain inet godwit zoning { type filter hook prerouting priority -300; policy accept; }")
	s.line("flush chain inet godwit zoning")
	s.line("add rule inet godwit zoning iifname vmap @zones")
	// Behind conntrack at -200.
	s.line("add chain inet godwit marking { type filter hook prerouting priority -150; policy accept; }")
	s.line("flush chain inet godwit marking")
	s.line(`add rule inet godwit marking iifname "gwb*" ct state established,related meta mark set meta mark or 0x%08x`, establishedMark)
	// The tunnel would route the outer packet by the mark, and a guest's frame must not bring one along.
	s.line("add chain bridge godwit unmark { type filter hook postrouting priority 10; policy accept; }")
	s.chain("unmark", []string{fmt.Sprintf("meta mark & 0x%08x != 0 meta mark set meta mark and 0x%08x", establishedMark, 0xffffffff&^uint32(establishedMark))})
}

// network writes what belongs to a network as a whole: its conntrack zone and what must not pass its tunnel.
func (s *script) network(mode tracking, vni int, anycast []netip.Addr, dhcp bool) {
	name, tunnel := fmt.Sprintf("tunnel-%d", vni), tunnelName(vni)
	set := addressSet(append(slices.Clone(anycast), metadataAddress))
	rules := []string{"arp daddr ip " + set + " drop", "arp saddr ip " + set + " drop"}
	if dhcp {
		rules = append(rules, "ether type ip udp dport { 67, 68 } drop")
	}
	s.chain(name, rules)
	s.line("add element bridge godwit tunnel { %q : jump %s }", tunnel, name)
	s.zone(mode, vni, BridgeName(vni), tunnel, serviceName(vni))
}

// zone puts interfaces into the network's conntrack zone. br_netfilter sees the bridge, bridge conntrack the ports.
func (s *script) zone(mode tracking, vni int, bridge string, ports ...string) {
	chain := fmt.Sprintf("zone-%d", vni)
	family, names := "bridge", ports
	switch mode {
	case trackNone:
		return
	case trackMarked:
		family, names = "inet", []string{bridge}
	case trackBridge:
	}
	s.line("add chain %s godwit %s", family, chain)
	s.line("flush chain %s godwit %s", family, chain)
	s.line("add rule %s godwit %s ct zone set %d", family, chain, zone(vni))
	for _, name := range names {
		s.line("add element %s godwit zones { %q : jump %s }", family, name, chain)
	}
}

// unzone takes interfaces out of a zone.
func (s *script) unzone(mode tracking, vni int, bridge string, ports ...string) {
	switch mode {
	case trackBridge:
		for _, name := range ports {
			s.dropElement("bridge", "zones", name, fmt.Sprintf("zone-%d", vni))
		}
	case trackMarked:
		s.dropElement("inet", "zones", bridge, fmt.Sprintf("zone-%d", vni))
	case trackNone:
	}
}

// dropElement removes a map's element whether or not it is there, which nft cannot say in one command.
func (s *script) dropElement(family, m, key, chain string) {
	s.line("add chain %s godwit %s", family, chain)
	s.line("add element %s godwit %s { %q : jump %s }", family, m, key, chain)
	s.line("delete element %s godwit %s { %q }", family, m, key)
}

func (s *script) dropChain(family, name string) {
	s.line("add chain %s godwit %s", family, name)
	s.line("flush chain %s godwit %s", family, name)
	s.line("delete chain %s godwit %s", family, name)
}

// dropNetwork undoes network.
func (s *script) dropNetwork(mode tracking, vni int) {
	name := fmt.Sprintf("tunnel-%d", vni)
	s.dropElement("bridge", "tunnel", tunnelName(vni), name)
	s.dropChain("bridge", name)
	s.unzone(mode, vni, BridgeName(vni), tunnelName(vni), serviceName(vni))
	if family := map[tracking]string{trackBridge: "bridge", trackMarked: "inet"}[mode]; family != "" {
		s.dropChain(family, fmt.Sprintf("zone-%d", vni))
	}
}

// port writes a port's chains. An unsecured port has none.
func (s *script) port(mode tracking, nic cloud.NIC) error {
	tap := TapName(nic.Port)
	if mode == trackBridge {
		s.zone(mode, nic.VNI, BridgeName(nic.VNI), tap)
	}
	if !nic.PortSecurity {
		s.dropPortChains(tap)
		return nil
	}
	from, err := egressChain(mode, nic)
	if err != nil {
		return err
	}
	to, err := ingressChain(mode, nic)
	if err != nil {
		return err
	}
	s.chain("from-"+tap, from)
	s.chain("to-"+tap, to)
	s.line("add element bridge godwit from_guest { %q : jump from-%s }", tap, tap)
	s.line("add element bridge godwit to_guest { %q : jump to-%s }", tap, tap)
	return nil
}

// dropPort undoes port.
func (s *script) dropPort(mode tracking, nic cloud.NIC) {
	tap := TapName(nic.Port)
	s.dropPortChains(tap)
	s.line("add element bridge godwit arrived { %q }", tap)
	s.line("delete element bridge godwit arrived { %q }", tap)
	if mode == trackBridge {
		s.unzone(mode, nic.VNI, BridgeName(nic.VNI), tap)
	}
}

func (s *script) dropPortChains(tap string) {
	s.dropElement("bridge", "from_guest", tap, "from-"+tap)
	s.dropElement("bridge", "to_guest", tap, "to-"+tap)
	s.dropChain("bridge", "from-"+tap)
	s.dropChain("bridge", "to-"+tap)
}

// arrived starts the port's time of grace anew. An element's time cannot be set again in place.
func (s *script) arrived(tap string) {
	s.line("add element bridge godwit arrived { %q }", tap)
	s.line("delete element bridge godwit arrived { %q }", tap)
	s.line("add element bridge godwit arrived { %q timeout %ds }", tap, int(arrivedFor/time.Second))
}

// established returns what matches packets of connections that were allowed when they began.
func established(mode tracking) []string {
	switch mode {
	case trackBridge:
		return []string{"ct state established,related"}
	case trackMarked:
		return []string{fmt.Sprintf("meta mark & 0x%08x != 0", establishedMark)}
	case trackNone:
	}
	return []string{
		midStream, "tcp flags & rst == rst", "tcp flags & (syn | ack) == (syn | ack)",
		"ether type ip udp sport { 53, 123 } udp dport 1024-65535",
		"icmp type { echo-reply, destination-unreachable, time-exceeded, parameter-problem }",
	}
}

// egressChain is what the guest may send. It ends in return (go on to the other side's chain) or drop.
func egressChain(mode tracking, nic cloud.NIC) ([]string, error) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil || len(mac) != 6 {
		return nil, cloud.Errorf(cloud.KindInvalid, "port %s: %q is not a MAC address", nic.Port, nic.MAC)
	}
	own4, own6, err := ownAddresses(nic)
	if err != nil {
		return nil, err
	}
	rules := []string{
		fmt.Sprintf("ether saddr != %s drop", mac),
		"ether type 0x8035 return", // RARP: QEMU's announcement
		fmt.Sprintf("arp saddr ether != %s drop", mac),
	}
	any4 := slices.Contains(own4, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	if !any4 {
		rules = append(rules, "arp saddr ip != "+prefixSet(append(slices.Clone(own4), netip.PrefixFrom(netip.IPv4Unspecified(), 32)))+" drop")
	}
	rules = append(rules,
		"ether type arp return",
		"ether type != { ip, ip6 } drop",
		// The client's hardware address inside DHCP (28 bytes into the message): no guest may ask for another's lease.
		"ether type ip udp sport 68 udp dport 67 @th,288,48 != 0x"+hex.EncodeToString(mac)+" drop",
		"ether type ip udp sport 68 udp dport 67 return",
		"ether type ip udp sport 67 drop",
		"ether type ip6 udp sport 547 drop",
		"icmpv6 type nd-router-advert drop",
	)
	if !any4 {
		if len(own4) == 0 {
			rules = append(rules, "ether type ip drop")
		} else {
			rules = append(rules, "ip saddr != "+prefixSet(own4)+" drop")
		}
	}
	if !slices.Contains(own6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)) {
		rules = append(rules, "ip6 saddr != "+prefixSet(own6)+" drop")
	}
	rules = append(rules, verdicts(established(mode), "return")...)
	rules = append(rules,
		"iifname @arrived "+midStream+" return",
		fmt.Sprintf("ip daddr %s tcp dport %d return", metadataAddress, metadataPort),
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } return",
	)
	allowed, err := ruleMatches(nic, "egress")
	return append(append(rules, verdicts(allowed, "return")...), "drop"), err
}

// ingressChain is what may reach the guest.
func ingressChain(mode tracking, nic cloud.NIC) ([]string, error) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return nil, cloud.Errorf(cloud.KindInvalid, "port %s: %q is not a MAC address", nic.Port, nic.MAC)
	}
	rules := []string{
		// Flooded frames for others are not the guest's to see.
		fmt.Sprintf("ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != %s drop", mac),
		"ether type { arp, 0x8035 } accept",
	}
	rules = append(rules, verdicts(established(mode), "accept")...)
	rules = append(rules,
		"oifname @arrived "+midStream+" accept",
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, mld-listener-query } accept",
	)
	allowed, err := ruleMatches(nic, "ingress")
	return append(append(rules, verdicts(allowed, "accept")...), "drop"), err
}

func verdicts(matches []string, verdict string) []string {
	out := make([]string, len(matches))
	for i, m := range matches {
		out[i] = m + " " + verdict
	}
	return out
}

// ownAddresses returns what the guest may send from, by family. Every guest may use IPv6's link-local and unspecified addresses.
func ownAddresses(nic cloud.NIC) (own4, own6 []netip.Prefix, err error) {
	own6 = []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::/128")}
	texts := slices.Clone(nic.AllowedPairs)
	for _, a := range nic.Addresses {
		texts = append(texts, a.Address)
	}
	for _, text := range texts {
		p, err := parsePrefix(text)
		if err != nil {
			return nil, nil, cloud.Errorf(cloud.KindInvalid, "port %s: %w", nic.Port, err)
		}
		if p.Addr().Is4() {
			own4 = append(own4, p)
		} else {
			own6 = append(own6, p)
		}
	}
	return minimal(own4), minimal(own6), nil
}

// parsePrefix reads an address or a CIDR.
func parsePrefix(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(ip.Unmap().WithZone(""), ip.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// minimal sorts prefixes and leaves out those that others contain: nft refuses overlapping elements.
func minimal(in []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

func prefixSet(prefixes []netip.Prefix) string {
	var texts []string
	for _, p := range minimal(prefixes) {
		if p.IsSingleIP() {
			texts = append(texts, p.Addr().String())
		} else {
			texts = append(texts, p.String())
		}
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

func addressSet(ips []netip.Addr) string {
	var prefixes []netip.Prefix
	for _, ip := range ips {
		prefixes = append(prefixes, netip.PrefixFrom(ip, ip.BitLen()))
	}
	return prefixSet(prefixes)
}

// ruleMatches translates the NIC's rules of one direction.
func ruleMatches(nic cloud.NIC, direction string) ([]string, error) {
	var out []string
	for _, r := range nic.Rules {
		if r.Direction != direction {
			continue
		}
		m, err := ruleMatch(r)
		if err != nil {
			return nil, cloud.Errorf(cloud.KindInvalid, "port %s: security rule: %w", nic.Port, err)
		}
		if m != "" && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out, nil
}

// ruleMatch returns the match of one rule, empty when it can match nothing (its remote addresses are all of the other family).
func ruleMatch(r cloud.NICRule) (string, error) {
	family := map[string]string{"IPv4": "ip", "IPv6": "ip6"}[r.EtherType]
	if family == "" {
		return "", fmt.Errorf("unknown ethertype %q", r.EtherType)
	}
	parts := []string{"ether type " + family}
	if len(r.RemoteCIDRs) > 0 {
		remote, err := remoteSet(r.RemoteCIDRs, family == "ip")
		if err != nil || remote == "" {
			return "", err
		}
		if remote != anyRemote {
			side := map[string]string{"ingress": "saddr", "egress": "daddr"}[r.Direction]
			parts = append(parts, family+" "+side+" "+remote)
		}
	}
	protocol, err := protocolMatch(r, family)
	if err != nil {
		return "", err
	}
	return strings.Join(append(parts, protocol...), " "), nil
}

const anyRemote = "any"

func remoteSet(cidrs []string, want4 bool) (string, error) {
	var prefixes []netip.Prefix
	for _, text := range cidrs {
		p, err := parsePrefix(text)
		if err != nil {
			return "", err
		}
		if p.Addr().Is4() == want4 {
			prefixes = append(prefixes, p)
		}
	}
	switch prefixes = minimal(prefixes); {
	case len(prefixes) == 0:
		return "", nil
	case prefixes[0].Bits() == 0:
		return anyRemote, nil
	}
	return prefixSet(prefixes), nil
}

const (
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMP   = 1
	protocolICMPv6 = 58
)

var portProtocols = []int{protocolTCP, protocolUDP, 33 /* DCCP */, 132 /* SCTP */, 136 /* UDP-Lite */}

func protocolMatch(r cloud.NICRule, family string) ([]string, error) {
	if r.Protocol == "" {
		return nil, nil
	}
	names := map[string]int{"tcp": protocolTCP, "udp": protocolUDP, "icmp": protocolICMP, "icmpv6": protocolICMPv6}
	number, known := names[r.Protocol]
	if !known {
		n, err := strconv.Atoi(r.Protocol)
		if err != nil || n < 0 || n > 255 {
			return nil, fmt.Errorf("unknown protocol %q", r.Protocol)
		}
		number = n
	}
	if family == "ip6" && number == protocolICMP {
		number = protocolICMPv6
	}
	match := []string{fmt.Sprintf("meta l4proto %d", number)}
	switch {
	case number == protocolICMP || number == protocolICMPv6:
		word := map[int]string{protocolICMP: "icmp", protocolICMPv6: "icmpv6"}[number]
		if r.PortMin >= 0 {
			match = append(match, fmt.Sprintf("%s type %d", word, r.PortMin))
			if r.PortMax >= 0 {
				match = append(match, fmt.Sprintf("%s code %d", word, r.PortMax))
			}
		}
	case slices.Contains(portProtocols, number) && (r.PortMin >= 0 || r.PortMax >= 0):
		low, high := r.PortMin, r.PortMax
		if low < 0 {
			low = 0
		}
		if high < 0 {
			high = 65535
		}
		if low > high || high > 65535 {
			return nil, fmt.Errorf("ports %d to %d are no range", r.PortMin, r.PortMax)
		}
		match = append(match, fmt.Sprintf("th dport %d-%d", low, high))
	}
	return match, nil
}
