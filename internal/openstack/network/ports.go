package network

import (
	"net/http"
	"slices"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var portRoutes = []route{
	{"GET /ports", openstack.RoleReader, (*call).listPorts},
	{"POST /ports", openstack.RoleMember, (*call).createPort},
	{"GET /ports/{id}", openstack.RoleReader, (*call).showPort},
	{"PUT /ports/{id}", openstack.RoleMember, (*call).updatePort},
	{"DELETE /ports/{id}", openstack.RoleMember, (*call).deletePort},
}

type fixedIPInput struct {
	Subnet  string `json:"subnet_id"`
	Address string `json:"ip_address"`
}

type pairInput struct {
	Address string `json:"ip_address" api:"required"`
	MAC     string `json:"mac_address"`
}

// portInput holds what may be given at creation; all but the first group may be changed later too.
type portInput struct {
	Network *cloud.NetworkID `json:"network_id"`
	Project *cloud.ProjectID `json:"project_id" api:"null"`
	Tenant  *cloud.ProjectID `json:"tenant_id" api:"null"`

	Name         *string                  `json:"name" api:"null;len=..255"`
	Description  *string                  `json:"description" api:"null;len=..255"`
	AdminUp      *bool                    `json:"admin_state_up" api:"loose"`
	MAC          *string                  `json:"mac_address" api:"null"`
	FixedIPs     *[]fixedIPInput          `json:"fixed_ips" api:"null"`
	DeviceID     *string                  `json:"device_id" api:"null;len=..255"`
	DeviceOwner  *string                  `json:"device_owner" api:"null;len=..255"`
	Groups       *[]cloud.SecurityGroupID `json:"security_groups" api:"null;unique;len=..64"`
	PortSecurity *bool                    `json:"port_security_enabled" api:"null;loose"`
	Pairs        *[]pairInput             `json:"allowed_address_pairs" api:"null;len=..10"`
	BindingHost  *cloud.HostName          `json:"binding:host_id" api:"null"`
	VNICType     *string                  `json:"binding:vnic_type" api:"null"`
	Profile      absent                   `json:"binding:profile"`
	DHCPOptions  absent                   `json:"extra_dhcp_opts"`
	QoS          absent                   `json:"qos_policy_id"`
	DNSName      absent                   `json:"dns_name"`
	DNSDomain    absent                   `json:"dns_domain"`
	Uplink       absent                   `json:"propagate_uplink_status"`
	NUMA         absent                   `json:"numa_affinity_policy"`
}

func (c *call) portView(p *cloud.Port) object {
	ips, pairs := []object{}, []object{}
	for _, ip := range p.FixedIPs {
		ips = append(ips, object{"subnet_id": ip.Subnet, "ip_address": ip.Address})
	}
	for _, a := range p.AllowedPairs {
		mac := a.MAC
		if mac == "" {
			mac = p.MAC
		}
		pairs = append(pairs, object{"ip_address": a.Address, "mac_address": mac})
	}
	out := object{
		"id": p.ID, "name": p.Name, "description": p.Description, "network_id": p.Network, "project_id": p.Project, "tenant_id": p.Project,
		"mac_address": p.MAC, "admin_state_up": p.AdminUp, "status": p.Status, "device_id": p.DeviceID, "device_owner": p.DeviceOwner,
		"fixed_ips": ips, "security_groups": emptyIfNil(p.SecurityGroups), "port_security_enabled": p.PortSecurity, "allowed_address_pairs": pairs,
		"extra_dhcp_opts": []object{}, "binding:vnic_type": p.VNICType, "qos_policy_id": nil, "ip_allocation": "immediate",
		"tags": emptyIfNil(p.Tags), "revision_number": p.Revision,
		"created_at": openstack.TimeSeconds(p.Created), "updated_at": openstack.TimeSeconds(p.Updated),
	}
	if c.admin() {
		kind, details := "unbound", object{}
		if p.BindingHost != "" {
			kind, details = "bridge", object{"port_filter": p.PortSecurity}
		}
		out["binding:host_id"], out["binding:vif_type"], out["binding:vif_details"], out["binding:profile"] = p.BindingHost, kind, details, object{}
	}
	return out
}

// seesPort reports whether the caller may see the port: its own, or one on its own network.
func (c *call) seesPort(p *cloud.Port) bool {
	return c.r.Caller.Sees(p.Project) || c.ownsNetwork(p.Network)
}

// ownsNetwork reports whether the caller's project owns the network; administrators own all.
func (c *call) ownsNetwork(id cloud.NetworkID) bool {
	n, ok := store.Lookup(c.view, tables.Networks, id)
	return ok && c.r.Caller.Sees(n.Project)
}

func (c *call) listPorts() error {
	var views []object
	for _, p := range c.narrowedPorts() {
		if c.seesPort(p) {
			views = append(views, c.portView(p))
		}
	}
	return c.list(portList, views)
}

// narrowedPorts returns the ports that can pass the filters with an index, the commonest ones; the filters themselves run later.
func (c *call) narrowedPorts() []*cloud.Port {
	q := c.r.URL.Query()
	for parameter, index := range map[string]string{"device_id": tables.ByDevice, "network_id": tables.ByNetwork} {
		if values := q[parameter]; len(values) == 1 && values[0] != "" {
			return store.By(c.view, tables.Ports, index, values[0])
		}
	}
	return store.All(c.view, tables.Ports)
}

func (c *call) showPort() error {
	p, ok := store.Lookup(c.view, tables.Ports, c.id())
	if !ok || !c.seesPort(p) {
		return ipam.PortNotFound(cloud.PortID(c.id()))
	}
	return c.show("port", c.portView(p))
}

func (c *call) createPort() error {
	var body struct {
		Port portInput `json:"port" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in := &body.Port
	if in.Network == nil {
		return invalid("Failed to parse request. Required attribute 'network_id' not specified")
	}
	project, err := c.owner(in.Project, in.Tenant, "create_port")
	if err != nil {
		return err
	}
	if err := c.mayPort("create_port", *in.Network, in, &cloud.Port{}); err != nil {
		return err
	}
	r, err := portRequest(in, project)
	if err != nil {
		return err
	}
	r.Anywhere, r.Now = c.admin(), c.now()
	err = c.update(func(tx *store.Tx) error { _, err := ipam.AllocatePort(tx, r); return err })
	if err != nil {
		return err
	}
	made, ok := store.Lookup(c.view, tables.Ports, r.ID)
	if !ok { // removed again before the answer
		return ipam.PortNotFound(r.ID)
	}
	return c.reply(http.StatusCreated, "port", c.portView(made))
}

func portRequest(in *portInput, project cloud.ProjectID) (ipam.PortRequest, error) {
	r := ipam.PortRequest{ID: cloud.PortID(uuid.NewString()), Network: *in.Network, Project: project, PortSecurity: in.PortSecurity}
	set(&r.Name, in.Name)
	set(&r.Description, in.Description)
	set(&r.DeviceID, in.DeviceID)
	set(&r.DeviceOwner, in.DeviceOwner)
	set(&r.BindingHost, in.BindingHost)
	set(&r.VNICType, in.VNICType)
	r.AdminDown = in.AdminUp != nil && !*in.AdminUp
	if in.Groups != nil {
		r.SecurityGroups = emptyIfNil(*in.Groups)
	}
	if in.MAC != nil {
		mac, err := ipam.ParseMAC(*in.MAC)
		if err != nil {
			return r, invalid("%v", err)
		}
		r.MAC = mac
	}
	if in.FixedIPs != nil {
		r.Addresses = addressRequests(*in.FixedIPs)
	}
	var err error
	if in.Pairs != nil {
		security := in.PortSecurity == nil || *in.PortSecurity
		r.AllowedPairs, err = parsePairs(*in.Pairs, r.MAC, security)
	}
	return r, err
}

func addressRequests(in []fixedIPInput) []ipam.AddressRequest {
	out := make([]ipam.AddressRequest, 0, len(in))
	for _, f := range in {
		out = append(out, ipam.AddressRequest{Subnet: cloud.SubnetID(f.Subnet), Address: f.Address})
	}
	return out
}

func (c *call) updatePort() error {
	var body struct {
		Port portInput `json:"port" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in, id := &body.Port, cloud.PortID(c.id())
	if in.Network != nil || in.Project != nil || in.Tenant != nil {
		return invalid("Attributes 'network_id' and 'project_id' cannot be updated")
	}
	err := c.update(func(tx *store.Tx) error {
		p, err := c.ownPort(tx, id, "update_port")
		if err != nil {
			return err
		}
		if err := c.mayPort("update_port", p.Network, in, &p); err != nil {
			return err
		}
		if err := c.applyPort(tx, &p, in); err != nil {
			return err
		}
		p.Updated = c.now()
		p.Revision++
		return store.Put(tx, tables.Ports, id, p)
	})
	if err != nil {
		return err
	}
	return c.showPort()
}

// ownPort returns the port for a change: the caller's, or one on the caller's network.
func (c *call) ownPort(tx *store.Tx, id cloud.PortID, rule string) (cloud.Port, error) {
	p, err := store.Get(tx, tables.Ports, id)
	switch {
	case cloud.Is(err, cloud.KindNotFound), err == nil && !c.seesPort(&p):
		return p, ipam.PortNotFound(id)
	case err != nil:
		return p, err
	case p.DeviceOwner == cloud.DeviceOwnerDHCP:
		return p, ipam.Refuse(cloud.KindConflict, "ServicePortInUse", "Port %s cannot be changed or deleted directly via the port API: has device owner %s.", id, p.DeviceOwner)
	case !c.r.Caller.Sees(p.Project) && rule != "delete_port":
		return p, openstack.Forbid(rule)
	}
	return p, c.matches(p.Revision)
}

// applyPort puts the attributes that were given into p, in an order in which each check sees the final value of what it depends on.
func (c *call) applyPort(tx *store.Tx, p *cloud.Port, in *portInput) error {
	set(&p.Name, in.Name)
	set(&p.Description, in.Description)
	set(&p.AdminUp, in.AdminUp)
	set(&p.VNICType, in.VNICType)
	if err := applyDevice(p, in); err != nil {
		return err
	}
	if in.MAC != nil && *in.MAC != p.MAC {
		return ipam.Refuse(cloud.KindConflict, "PortBound", "Unable to complete operation on port %s, its MAC address cannot be changed.", p.ID)
	}
	if in.FixedIPs != nil {
		if err := ipam.Readdress(tx, p, addressRequests(*in.FixedIPs)); err != nil {
			return err
		}
	}
	set(&p.PortSecurity, in.PortSecurity)
	switch {
	case in.Groups != nil:
		p.SecurityGroups = *in.Groups
		if err := ipam.CheckGroups(tx, p, p.SecurityGroups, c.admin()); err != nil {
			return err
		}
	case len(p.SecurityGroups) > 0 && !p.PortSecurity:
		return ipam.Refuse(cloud.KindConflict, "PortSecurityPortHasSecurityGroup", "Port has security group associated. Cannot disable port security or IP address until security group is removed.")
	}
	if in.Pairs != nil {
		pairs, err := parsePairs(*in.Pairs, p.MAC, p.PortSecurity)
		if err != nil {
			return err
		}
		p.AllowedPairs = pairs
	}
	if len(p.AllowedPairs) > 0 && !p.PortSecurity {
		return pairsNeedSecurity()
	}
	if in.BindingHost != nil && *in.BindingHost != p.BindingHost {
		if ipam.ServerPort(p) {
			return ipam.Refuse(cloud.KindConflict, "PortInUse", "Unable to complete operation on port %s for network %s. Port already has an attached device %s.", p.ID, p.Network, p.DeviceID)
		}
		p.BindingHost, p.Status = *in.BindingHost, ipam.StatusDown
		if p.BindingHost != "" {
			p.Status = ipam.StatusActive
		}
	}
	return nil
}

// applyDevice changes whose port it is. A server's port stays with its server: the server's record names it, and its host has built it.
func applyDevice(p *cloud.Port, in *portInput) error {
	id, owner := p.DeviceID, p.DeviceOwner
	set(&id, in.DeviceID)
	set(&owner, in.DeviceOwner)
	if (id != p.DeviceID || owner != p.DeviceOwner) && ipam.ServerPort(p) {
		return ipam.Refuse(cloud.KindConflict, "PortInUse", "Unable to complete operation on port %s for network %s. Port already has an attached device %s.", p.ID, p.Network, p.DeviceID)
	}
	p.DeviceID, p.DeviceOwner = id, owner
	return nil
}

func (c *call) deletePort() error {
	id := cloud.PortID(c.id())
	err := c.update(func(tx *store.Tx) error {
		p, err := c.ownPort(tx, id, "delete_port")
		if err != nil {
			return err
		}
		if ipam.ServerPort(&p) {
			if server, err := store.Peek(tx, tables.Servers, p.DeviceID); err != nil {
				return err
			} else if server != nil && slices.Contains(server.Ports, id) {
				return ipam.Refuse(cloud.KindConflict, "PortInUse", "Unable to complete operation on port %s for network %s. Port already has an attached device %s.", id, p.Network, p.DeviceID)
			}
		}
		return ipam.ReleasePort(tx, id)
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
