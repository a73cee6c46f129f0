package netspec

import (
	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// Records is the read-only picture that NICs are resolved from. The values returned may be shared and are never modified; nil means absent.
type Records interface {
	Port(cloud.PortID) *cloud.Port
	Network(cloud.NetworkID) *cloud.Network
	Subnet(cloud.SubnetID) *cloud.Subnet
	SecurityGroup(cloud.SecurityGroupID) *cloud.SecurityGroup
	PortsOfDevice(device string) []*cloud.Port
	PortsOnNetwork(cloud.NetworkID) []*cloud.Port
	PortsInGroup(cloud.SecurityGroupID) []*cloud.Port
	// GroupsNaming returns the security groups with a rule whose remote group is the given one.
	GroupsNaming(cloud.SecurityGroupID) []*cloud.SecurityGroup
}

// Read returns the records that r shows. Give it a View, not a Store, when several reads must agree.
func Read(r store.Reader) Records { return reader{r} }

type reader struct{ store.Reader }

func (r reader) Port(id cloud.PortID) *cloud.Port          { return lookup(r, tables.Ports, id) }
func (r reader) Network(id cloud.NetworkID) *cloud.Network { return lookup(r, tables.Networks, id) }
func (r reader) Subnet(id cloud.SubnetID) *cloud.Subnet    { return lookup(r, tables.Subnets, id) }

func (r reader) SecurityGroup(id cloud.SecurityGroupID) *cloud.SecurityGroup {
	return lookup(r, tables.SecurityGroups, id)
}

func (r reader) PortsOfDevice(device string) []*cloud.Port {
	return store.By(r.Reader, tables.Ports, tables.ByDevice, device)
}

func (r reader) PortsOnNetwork(id cloud.NetworkID) []*cloud.Port {
	return store.By(r.Reader, tables.Ports, tables.ByNetwork, id)
}

func (r reader) PortsInGroup(id cloud.SecurityGroupID) []*cloud.Port {
	return store.By(r.Reader, tables.Ports, tables.BySecurityGroup, id)
}

func (r reader) GroupsNaming(id cloud.SecurityGroupID) []*cloud.SecurityGroup {
	return store.By(r.Reader, tables.SecurityGroups, tables.ByRemoteGroup, id)
}

func lookup[T any, K ~string](r reader, t store.Table[T], key K) *T {
	v, ok := store.Lookup(r.Reader, t, key)
	if !ok {
		return nil
	}
	return v
}
