package ipam

import (
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// DefaultGroupName is the name of the security group that every project has and nobody can remove.
const DefaultGroupName = "default"

// DefaultGroup returns the project's default security group, made in this transaction when there is none: its members may send
// anything and hear each other.
func DefaultGroup(tx *store.Tx, project cloud.ProjectID, now time.Time) (cloud.SecurityGroup, error) {
	g, err := store.GetBy(tx, tables.SecurityGroups, tables.ByDefault, project)
	if err == nil || !cloud.Is(err, cloud.KindNotFound) {
		return g, err
	}
	g = NewGroup(project, DefaultGroupName, "Default security group", now)
	for _, family := range []string{"IPv4", "IPv6"} {
		g.Rules = append(g.Rules, cloud.SecurityGroupRule{ID: uuid.NewString(), Direction: "ingress", EtherType: family, RemoteGroup: g.ID, Created: now})
	}
	return g, store.Create(tx, tables.SecurityGroups, g.ID, g)
}

// NewGroup returns a security group with the rules every new group has: members may send anything.
func NewGroup(project cloud.ProjectID, name, description string, now time.Time) cloud.SecurityGroup {
	g := cloud.SecurityGroup{
		ID: cloud.SecurityGroupID(uuid.NewString()), Name: name, Description: description, Project: project, Stateful: true,
		Created: now, Updated: now, Revision: 1,
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		g.Rules = append(g.Rules, cloud.SecurityGroupRule{ID: uuid.NewString(), Direction: "egress", EtherType: family, Created: now})
	}
	return g
}

// RemoveGroup removes a security group. Refusals: SecurityGroupNotFound, SecurityGroupInUse, SecurityGroupCannotRemoveDefault. Membership is
// written on ports only, so all ports are read: removing a group is rare, and a port created meanwhile must not be missed.
func RemoveGroup(tx *store.Tx, id cloud.SecurityGroupID, anywhere bool) error {
	g, err := store.Get(tx, tables.SecurityGroups, id)
	if cloud.Is(err, cloud.KindNotFound) {
		return SecurityGroupNotFound(id)
	}
	if err != nil {
		return err
	}
	if g.Name == DefaultGroupName && !anywhere {
		return Refuse(cloud.KindConflict, "SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group.")
	}
	ports, err := store.PeekList(tx, tables.Ports, "")
	if err != nil {
		return err
	}
	for _, p := range ports {
		for _, member := range p.SecurityGroups {
			if member == id {
				return Refuse(cloud.KindConflict, "SecurityGroupInUse", "Security Group %s in use.", id)
			}
		}
	}
	return store.Delete(tx, tables.SecurityGroups, id)
}

// VNITaken reports whether a network has the VXLAN network identifier.
func VNITaken(tx *store.Tx, vni int) (bool, error) {
	_, err := store.GetBy(tx, tables.Networks, tables.ByVNI, strconv.Itoa(vni))
	if cloud.Is(err, cloud.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}
