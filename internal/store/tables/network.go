package tables

import (
	"strconv"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Orders in which network records are found besides the common ones.
const (
	ByVNI           = "vni"            // unique
	ByDevice        = "device"         // the port's DeviceID
	ByMAC           = "mac"            // unique: network, "/", MAC
	ByPort          = "port"           // the address claim's port
	BySecurityGroup = "security-group" // ports in a group
	ByDefault       = "default"        // unique: the project whose group "default" it is
	ByRemoteGroup   = "remote-group"   // security groups with a rule that names another group
)

// Networks holds networks, by id. Written by the edge.
var Networks = store.NewTable("networks",
	store.Index(ByProject, func(n *cloud.Network) []string { return one(n.Project) }),
	store.Index(ByName, func(n *cloud.Network) []string { return one(n.Name) }),
	store.Unique(ByVNI, func(n *cloud.Network) []string { return []string{strconv.Itoa(n.VNI)} }),
)

// Subnets holds subnets, by id. Written by the edge.
var Subnets = store.NewTable("subnets",
	store.Index(ByProject, func(s *cloud.Subnet) []string { return one(s.Project) }),
	store.Index(ByNetwork, func(s *cloud.Subnet) []string { return one(s.Network) }),
)

// Ports holds ports, by id. Written by the edge; BindingHost and Status of a server's ports are written by flows.
var Ports = store.NewTable("ports",
	store.Index(ByProject, func(p *cloud.Port) []string { return one(p.Project) }),
	store.Index(ByNetwork, func(p *cloud.Port) []string { return one(p.Network) }),
	store.Index(ByDevice, func(p *cloud.Port) []string { return one(p.DeviceID) }),
	store.Index(ByHost, func(p *cloud.Port) []string { return one(p.BindingHost) }),
	store.Unique(ByMAC, func(p *cloud.Port) []string { return []string{string(p.Network) + "/" + p.MAC} }),
	store.Index(BySecurityGroup, func(p *cloud.Port) []string {
		out := make([]string, 0, len(p.SecurityGroups))
		for _, g := range p.SecurityGroups {
			out = append(out, string(g))
		}
		return out
	}),
)

// AddressClaims marks addresses as taken, by AddressKey, so that two takers of one address collide. Written with the port.
var AddressClaims = store.NewTable("address-claims",
	store.Index(ByPort, func(c *cloud.AddressClaim) []string { return one(c.Port) }),
)

// AddressKey is the key of an address claim. AddressKey(subnet, "") is the prefix of all of a subnet's.
func AddressKey(subnet cloud.SubnetID, address string) string { return string(subnet) + "/" + address }

// SecurityGroups holds security groups with their rules, by id. Written by the edge.
var SecurityGroups = store.NewTable("security-groups",
	store.Index(ByProject, func(g *cloud.SecurityGroup) []string { return one(g.Project) }),
	store.Unique(ByDefault, func(g *cloud.SecurityGroup) []string {
		if g.Name != "default" {
			return nil
		}
		return one(g.Project)
	}),
	store.Index(ByRemoteGroup, func(g *cloud.SecurityGroup) []string {
		var out []string
		for _, r := range g.Rules {
			if r.RemoteGroup != "" {
				out = append(out, string(r.RemoteGroup))
			}
		}
		return out
	}),
)
