package tables

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
)

// NetworkRecords reads the network records that a Reader shows, in the form package netspec asks for. Give it a View, not a Store, when
// several reads must agree. The values are shared and must not be changed; nil means absent.
type NetworkRecords struct{ store.Reader }

// Port returns a port.
func (r NetworkRecords) Port(id cloud.PortID) *cloud.Port { return lookup(r, Ports, id) }

// Network returns a network.
func (r NetworkRecords) Network(id cloud.NetworkID) *cloud.Network { return lookup(r, Networks, id) }

// Subnet returns a subnet.
func (r NetworkRecords) Subnet(id cloud.SubnetID) *cloud.Subnet { return lookup(r, Subnets, id) }

// SecurityGroup returns a security group.
func (r NetworkRecords) SecurityGroup(id cloud.SecurityGroupID) *cloud.SecurityGroup {
	return lookup(r, SecurityGroups, id)
}

// PortsOfDevice returns the ports that a device owns.
func (r NetworkRecords) PortsOfDevice(device string) []*cloud.Port {
	return store.By(r.Reader, Ports, ByDevice, device)
}

// PortsOnNetwork returns the ports of a network.
func (r NetworkRecords) PortsOnNetwork(id cloud.NetworkID) []*cloud.Port {
	return store.By(r.Reader, Ports, ByNetwork, id)
}

// PortsInGroup returns the ports that are members of a security group.
func (r NetworkRecords) PortsInGroup(id cloud.SecurityGroupID) []*cloud.Port {
	return store.By(r.Reader, Ports, BySecurityGroup, id)
}

// GroupsNaming returns the security groups with a rule whose remote group is the given one.
func (r NetworkRecords) GroupsNaming(id cloud.SecurityGroupID) []*cloud.SecurityGroup {
	return store.By(r.Reader, SecurityGroups, ByRemoteGroup, id)
}

func lookup[T any, K ~string](r NetworkRecords, t store.Table[T], key K) *T {
	v, ok := store.Lookup(r.Reader, t, key)
	if !ok {
		return nil
	}
	return v
}
