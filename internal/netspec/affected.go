package netspec

import (
	"maps"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Changes are the records that changed between two looks, as a store's feeds tell them. A port is given as it was and as it is (either may be
// nil); of the others the identity is enough.
type Changes struct {
	Ports    []PortChange
	Groups   []cloud.SecurityGroupID
	Networks []cloud.NetworkID
}

// PortChange is a port before and after; nil for absent.
type PortChange struct{ Old, New *cloud.Port }

// SubnetChanged adds what a changed subnet touches: its network.
func (c *Changes) SubnetChanged(s *cloud.Subnet) { c.Networks = append(c.Networks, s.Network) }

// Affected returns the servers whose NICs the changes may have altered, sorted. r shows the state after the changes.
func Affected(r Records, c Changes) []cloud.ServerID {
	servers := map[cloud.ServerID]bool{}
	add := func(ports []*cloud.Port) {
		for _, p := range ports {
			if id, ok := ServerOf(p); ok {
				servers[id] = true
			}
		}
	}
	for _, id := range c.Groups {
		add(r.PortsInGroup(id))
	}
	for _, id := range c.Networks {
		add(r.PortsOnNetwork(id))
	}
	widened := map[cloud.SecurityGroupID]bool{} // groups whose set of addresses may have changed
	for _, change := range c.Ports {
		if !portMatters(change) {
			continue
		}
		for _, p := range []*cloud.Port{change.Old, change.New} {
			if p == nil {
				continue
			}
			add([]*cloud.Port{p})
			for _, id := range p.SecurityGroups {
				widened[id] = true
			}
			if p.DeviceOwner == cloud.DeviceOwnerDHCP {
				add(r.PortsOnNetwork(p.Network))
			}
		}
	}
	for id := range widened {
		for _, g := range r.GroupsNaming(id) {
			add(r.PortsInGroup(g.ID))
		}
	}
	return slices.Sorted(maps.Keys(servers))
}

// portMatters reports whether a port's change can alter any NIC. Where it is bound, its status and its name cannot, and these change with every move.
func portMatters(c PortChange) bool {
	if c.Old == nil || c.New == nil {
		return true
	}
	o, n := c.Old, c.New
	return o.MAC != n.MAC || o.AdminUp != n.AdminUp || o.PortSecurity != n.PortSecurity || o.DeviceID != n.DeviceID ||
		!slices.Equal(o.FixedIPs, n.FixedIPs) || !slices.Equal(o.SecurityGroups, n.SecurityGroups) || !slices.Equal(o.AllowedPairs, n.AllowedPairs)
}

// ServerOf returns the server that a port belongs to.
func ServerOf(p *cloud.Port) (cloud.ServerID, bool) {
	if p.DeviceID == "" || !strings.HasPrefix(p.DeviceOwner, cloud.DeviceOwnerComputePrefix) {
		return "", false
	}
	return cloud.ServerID(p.DeviceID), true
}
