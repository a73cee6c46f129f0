package netspec

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// resolveRules returns what all of the port's groups allow, each rule once, in a fixed order.
func resolveRules(r Records, p *cloud.Port) []cloud.NICRule {
	var out []cloud.NICRule
	members := map[cloud.SecurityGroupID][]netip.Prefix{}
	for _, id := range p.SecurityGroups {
		group := r.SecurityGroup(id)
		if group == nil {
			continue // allows nothing
		}
		for i := range group.Rules {
			if rule, ok := resolveRule(r, &group.Rules[i], members); ok {
				out = append(out, rule)
			}
		}
	}
	slices.SortFunc(out, compareRules)
	return slices.CompactFunc(out, func(a, b cloud.NICRule) bool { return compareRules(a, b) == 0 })
}

// resolveRule returns the rule in terms of addresses; ok is false when it can match nothing, because its remote group has no address of the
// rule's family: an empty RemoteCIDRs would mean everybody. members remembers groups already expanded.
func resolveRule(r Records, rule *cloud.SecurityGroupRule, members map[cloud.SecurityGroupID][]netip.Prefix) (out cloud.NICRule, ok bool) {
	out = cloud.NICRule{Direction: rule.Direction, EtherType: rule.EtherType, Protocol: Protocol(rule.Protocol), PortMin: orAny(rule.PortMin), PortMax: orAny(rule.PortMax)}
	switch {
	case rule.RemoteGroup != "":
		if _, known := members[rule.RemoteGroup]; !known {
			members[rule.RemoteGroup] = groupAddresses(r, rule.RemoteGroup)
		}
		for _, prefix := range members[rule.RemoteGroup] {
			if prefix.Addr().Is4() == (rule.EtherType != "IPv6") {
				out.RemoteCIDRs = append(out.RemoteCIDRs, prefix.String())
			}
		}
		return out, len(out.RemoteCIDRs) > 0
	case rule.RemoteCIDR != "":
		out.RemoteCIDRs = []string{rule.RemoteCIDR}
	}
	return out, true
}

// groupAddresses returns every address that ports of the group may send from, sorted.
func groupAddresses(r Records, id cloud.SecurityGroupID) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range r.PortsInGroup(id) {
		for _, ip := range p.FixedIPs {
			if prefix, err := ParsePair(ip.Address); err == nil {
				out = append(out, prefix)
			}
		}
		for _, pair := range p.AllowedPairs {
			if prefix, err := ParsePair(pair.Address); err == nil {
				out = append(out, prefix)
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}

// ParsePair reads an address or a block, as allowed address pairs and rules name them, into the block it means.
func ParsePair(s string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(address.Unmap().WithZone(""), address.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, cloud.Errorf(cloud.KindInvalid, "'%s' is neither an IP address nor a subnet", s)
	}
	return prefix.Masked(), nil
}

func orAny(n *int) int {
	if n == nil {
		return -1
	}
	return *n
}

func compareRules(a, b cloud.NICRule) int {
	return cmp.Or(
		cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.EtherType, b.EtherType), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.PortMin, b.PortMin), cmp.Compare(a.PortMax, b.PortMax), slices.Compare(a.RemoteCIDRs, b.RemoteCIDRs),
	)
}
