package network

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var networkRoutes = []route{
	{"GET /networks", openstack.RoleReader, (*call).listNetworks},
	{"POST /networks", openstack.RoleMember, (*call).createNetwork},
	{"GET /networks/{id}", openstack.RoleReader, (*call).showNetwork},
	{"PUT /networks/{id}", openstack.RoleMember, (*call).updateNetwork},
	{"DELETE /networks/{id}", openstack.RoleMember, (*call).deleteNetwork},
}

var networkList = &listing{plural: "networks", path: "networks", attributes: []string{
	"id", "name", "description", "project_id", "tenant_id", "status", "admin_state_up", "shared", "router:external", "mtu", "port_security_enabled",
	"subnets", "is_default", "revision_number", "created_at", "updated_at", "provider:network_type", "provider:physical_network", "provider:segmentation_id",
}, special: map[string]filter{
	// There are no address scopes, so only the question for none finds anything.
	"ipv4_address_scope": equals("ipv4_address_scope"), "ipv6_address_scope": equals("ipv6_address_scope"),
}}

// mtuMin is the smallest MTU IPv4 allows.
const mtuMin = 68

// networkInput bounds names and descriptions, here and in the other inputs, as Neutron's database does.
type networkInput struct {
	Name            *string          `json:"name" api:"null;len=..255"`
	Description     *string          `json:"description" api:"null;len=..255"`
	AdminUp         *bool            `json:"admin_state_up" api:"loose"`
	Shared          *bool            `json:"shared" api:"loose"`
	External        absent           `json:"router:external"`
	MTU             *int             `json:"mtu" api:"null;loose"`
	PortSecurity    *bool            `json:"port_security_enabled" api:"loose"`
	Project         *cloud.ProjectID `json:"project_id" api:"null"`
	Tenant          *cloud.ProjectID `json:"tenant_id" api:"null"`
	NetworkType     *string          `json:"provider:network_type" api:"null"`
	Physical        absent           `json:"provider:physical_network"`
	Segment         *int             `json:"provider:segmentation_id" api:"null;loose"`
	ZoneHints       absent           `json:"availability_zone_hints"`
	QoS             absent           `json:"qos_policy_id"`
	DNSDomain       absent           `json:"dns_domain"`
	IsDefault       absent           `json:"is_default"`
	VLANTransparent absent           `json:"vlan_transparent"`
	Segments        absent           `json:"segments"`
}

func (c *call) networkView(n *cloud.Network) object {
	out := object{
		"id": n.ID, "name": n.Name, "description": n.Description, "project_id": n.Project, "tenant_id": n.Project,
		"status": ipam.StatusActive, "admin_state_up": n.AdminUp, "shared": n.Shared, "router:external": n.External, "is_default": false,
		"subnets": emptyIfNil(n.Subnets), "mtu": n.MTU, "port_security_enabled": n.PortSecurity, "tags": emptyIfNil(n.Tags),
		"availability_zone_hints": []string{}, "availability_zones": []string{cloud.DefaultZone},
		"ipv4_address_scope": nil, "ipv6_address_scope": nil, "revision_number": n.Revision,
		"created_at": openstack.TimeSeconds(n.Created), "updated_at": openstack.TimeSeconds(n.Updated),
	}
	if c.admin() {
		out["provider:network_type"], out["provider:physical_network"], out["provider:segmentation_id"] = "vxlan", nil, n.VNI
	}
	return out
}

func (c *call) listNetworks() error {
	var views []object
	for _, n := range store.All(c.view, tables.Networks) {
		if ipam.Visible(n, c.project(), c.admin()) {
			views = append(views, c.networkView(n))
		}
	}
	return c.list(networkList, views)
}

// network returns the record of the network with this id if the caller may see it.
func (c *call) network(id cloud.NetworkID) (*cloud.Network, error) {
	n, ok := store.Lookup(c.view, tables.Networks, id)
	if !ok || !ipam.Visible(n, c.project(), c.admin()) {
		return nil, ipam.NetworkNotFound(id)
	}
	return n, nil
}

func (c *call) showNetwork() error {
	n, err := c.network(cloud.NetworkID(c.id()))
	if err != nil {
		return err
	}
	return c.show("network", c.networkView(n))
}

func (c *call) createNetwork() error {
	var body struct {
		Network networkInput `json:"network" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in, now := &body.Network, c.now()
	project, err := c.owner(in.Project, in.Tenant, "create_network")
	if err != nil {
		return err
	}
	n := cloud.Network{ID: cloud.NetworkID(uuid.NewString()), Project: project, MTU: c.mtuMax, AdminUp: true, PortSecurity: true,
		Created: now, Updated: now, Revision: 1}
	if err := c.applyNetwork(&n, in, "create_network"); err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		n := n
		if err := chooseVNI(tx, &n, in); err != nil {
			return err
		}
		return store.Create(tx, tables.Networks, n.ID, n)
	})
	if err != nil {
		return err
	}
	made, err := c.network(n.ID)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, "network", c.networkView(made))
}

// chooseVNI gives the network the identifier an administrator asked for, or the next free one.
func chooseVNI(tx *store.Tx, n *cloud.Network, in *networkInput) (err error) {
	if in.Segment == nil {
		n.VNI, err = ipam.NextVNI(tx)
		return err
	}
	n.VNI = *in.Segment
	taken, err := ipam.VNITaken(tx, n.VNI)
	if err == nil && taken {
		err = ipam.Refuse(cloud.KindConflict, "TunnelIdInUse", "Unable to create the network. The tunnel ID %d is in use.", n.VNI)
	}
	return err
}

// applyNetwork puts the attributes that were given into n. What only administrators may set is refused to others, even at its default.
func (c *call) applyNetwork(n *cloud.Network, in *networkInput, rule string) error {
	adminOnly := map[string]bool{"shared": in.Shared != nil && *in.Shared != n.Shared, "provider:network_type": in.NetworkType != nil, "provider:segmentation_id": in.Segment != nil}
	for attribute, given := range adminOnly {
		if given && !c.admin() {
			return openstack.Forbid(rule + ":" + attribute)
		}
	}
	if in.NetworkType != nil && *in.NetworkType != "vxlan" {
		return invalid("provider:network_type '%s' is not offered, only vxlan", *in.NetworkType)
	}
	if in.Segment != nil && (*in.Segment < 1 || *in.Segment > ipam.VNIMax) {
		return invalid("provider:segmentation_id %d is out of range (1 through %d)", *in.Segment, ipam.VNIMax)
	}
	if in.MTU != nil && *in.MTU != 0 {
		if *in.MTU < mtuMin || *in.MTU > c.mtuMax {
			return invalid("Requested MTU %d is out of range, minimum is %d and maximum is %d", *in.MTU, mtuMin, c.mtuMax)
		}
		n.MTU = *in.MTU
	}
	set(&n.Name, in.Name)
	set(&n.Description, in.Description)
	set(&n.AdminUp, in.AdminUp)
	set(&n.Shared, in.Shared)
	set(&n.PortSecurity, in.PortSecurity)
	return nil
}

// ownNetwork returns the network for a change: visible but somebody else's is forbidden, not hidden.
func (c *call) ownNetwork(tx *store.Tx, id cloud.NetworkID, rule string) (cloud.Network, error) {
	n, err := store.Get(tx, tables.Networks, id)
	switch {
	case cloud.Is(err, cloud.KindNotFound), err == nil && !ipam.Visible(&n, c.project(), c.admin()):
		return n, ipam.NetworkNotFound(id)
	case err != nil:
		return n, err
	case n.Project != c.project() && !c.admin():
		return n, openstack.Forbid(rule)
	}
	return n, nil
}

func (c *call) updateNetwork() error {
	var body struct {
		Network networkInput `json:"network" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in := &body.Network
	if in.Project != nil || in.Tenant != nil {
		return invalid("Attribute 'project_id' cannot be updated")
	}
	if in.Segment != nil || in.NetworkType != nil {
		return invalid("Plugin does not support updating provider attributes")
	}
	id := cloud.NetworkID(c.id())
	err := c.update(func(tx *store.Tx) error {
		n, err := c.ownNetwork(tx, id, "update_network")
		if err != nil {
			return err
		}
		if err := c.matches(n.Revision); err != nil {
			return err
		}
		shared := n.Shared
		if err := c.applyNetwork(&n, in, "update_network"); err != nil {
			return err
		}
		if shared && !n.Shared {
			if err := c.mayUnshare(&n); err != nil {
				return err
			}
		}
		n.Updated = c.now()
		n.Revision++
		return store.Put(tx, tables.Networks, id, n)
	})
	if err != nil {
		return err
	}
	return c.showNetwork()
}

// mayUnshare refuses to take a network from projects that have ports on it. The check reads the replica: a port made at the same moment may remain,
// which its owner notices and nothing depends on.
func (c *call) mayUnshare(n *cloud.Network) error {
	for _, p := range store.By(c.store, tables.Ports, tables.ByNetwork, n.ID) {
		if p.Project != n.Project && p.DeviceOwner != cloud.DeviceOwnerDHCP {
			return ipam.Refuse(cloud.KindConflict, "InvalidSharedSetting", "Unable to reconfigure sharing settings for network %s. Multiple tenants are using it.", n.ID)
		}
	}
	return nil
}

func (c *call) deleteNetwork() error {
	id := cloud.NetworkID(c.id())
	err := c.update(func(tx *store.Tx) error {
		n, err := c.ownNetwork(tx, id, "delete_network")
		if err != nil {
			return err
		}
		if err := c.matches(n.Revision); err != nil {
			return err
		}
		return ipam.RemoveNetwork(tx, id)
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
