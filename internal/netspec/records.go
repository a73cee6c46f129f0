package netspec

import "github.com/godwit-cloud/godwit/internal/cloud"

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
