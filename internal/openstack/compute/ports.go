package compute

import (
	"errors"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A nic is a network interface to be: a new port on a network, or a port that exists.
type nic struct {
	network cloud.NetworkID
	address string
	port    cloud.PortID
	tag     string
}

// planNetworks resolves networks, ports and security groups of a create request.
func (c *call) planNetworks(plan *bootPlan, asked *createRequest) error {
	if asked.Groups != nil {
		for _, g := range asked.Groups {
			plan.groupNames = append(plan.groupNames, string(g.Name))
		}
		slices.Sort(plan.groupNames)
		plan.groupNames = slices.Compact(plan.groupNames)
		for _, name := range plan.groupNames {
			id, err := c.findSecurityGroup(c.r.Caller.Project, name)
			if cloud.Is(err, cloud.KindNotFound) {
				return invalid("%s", err.Error())
			}
			if err != nil {
				return err
			}
			plan.groups = append(plan.groups, id)
		}
	}
	if asked.Networks.word == "none" {
		return nil
	}
	if len(asked.Networks.nics) == 0 {
		return c.planOnlyNetwork(plan, asked.Networks.word == "auto")
	}
	for _, one := range asked.Networks.nics {
		n, err := c.resolveNIC(one, plan.countMax)
		if err != nil {
			return err
		}
		plan.nics = append(plan.nics, n)
	}
	return nil
}

// planOnlyNetwork uses the one network the project has, when the request names none.
func (c *call) planOnlyNetwork(plan *bootPlan, auto bool) error {
	var usable []*cloud.Network
	for _, n := range store.All(c.view, tables.Networks) {
		if n.AdminUp && !n.External && (n.Project == c.r.Caller.Project || n.Shared) && c.hasSubnet(n.ID) {
			usable = append(usable, n)
		}
	}
	switch {
	case len(usable) > 1:
		return conflict("Multiple possible networks found, use a Network ID to be more specific.")
	case len(usable) == 1:
		plan.nics = []nic{{network: usable[0].ID}}
	case auto:
		return invalid("Unable to automatically allocate a network for project %s", c.r.Caller.Project)
	}
	return nil
}

func (c *call) hasSubnet(id cloud.NetworkID) bool {
	_, ok := store.One(c.view, tables.Subnets, tables.ByNetwork, id)
	return ok
}

func (c *call) resolveNIC(asked nicAsked, count int) (nic, error) {
	var out nic
	setIf(&out.tag, asked.Tag)
	if asked.Port != nil {
		return c.resolvePort(out, cloud.PortID(*asked.Port), count)
	}
	out.network = cloud.NetworkID(*asked.Network)
	setIf(&out.address, asked.FixedIP)
	n, ok := store.Lookup(c.view, tables.Networks, out.network)
	switch {
	case !ok || !n.Shared && !n.External && !c.r.Caller.Sees(n.Project):
		return out, invalid("Network %s could not be found.", out.network)
	case n.External && !n.Shared && !c.admin():
		return out, cloud.Errorf(cloud.KindForbidden, "It is not allowed to create an interface on external network %s", n.ID)
	case !c.hasSubnet(n.ID):
		return out, invalid("Network %s requires a subnet in order to boot instances on.", n.ID)
	case out.address != "" && count > 1:
		return out, invalid("Failed to launch instances: max_count cannot be greater than 1 if an fixed_ip is specified.")
	}
	return out, nil
}

func (c *call) resolvePort(out nic, id cloud.PortID, count int) (nic, error) {
	p, ok := store.Lookup(c.view, tables.Ports, id)
	switch {
	case !ok || !c.r.Caller.Sees(p.Project):
		return out, invalid("Port id %s could not be found.", id)
	case p.DeviceID != "":
		return out, conflict("Port %s is still in use.", id)
	case len(p.FixedIPs) == 0:
		return out, invalid("Port %s requires a FixedIP in order to be used.", id)
	case count > 1:
		return out, invalid("Failed to launch instances: Unable to launch multiple instances with a single configured port ID. Please launch your instance one by one with different ports.")
	}
	out.port, out.network = id, p.Network
	return out, nil
}

// findSecurityGroup resolves a group's name, or its id when no group has that name, within a project.
func (c *call) findSecurityGroup(project cloud.ProjectID, name string) (cloud.SecurityGroupID, error) {
	var byName, byID []cloud.SecurityGroupID
	for _, g := range store.By(c.view, tables.SecurityGroups, tables.ByProject, project) {
		if g.Name == name {
			byName = append(byName, g.ID)
		}
		if string(g.ID) == name {
			byID = append(byID, g.ID)
		}
	}
	switch {
	case len(byName) > 1:
		return "", conflict("Multiple security groups found matching '%s'. Use an ID to be more specific.", name)
	case len(byName) == 1:
		return byName[0], nil
	case len(byID) == 1:
		return byID[0], nil
	}
	return "", notFound("Security group %s not found.", name)
}

// makePorts gives the server its ports within the boot transaction.
func (c *call) makePorts(tx *store.Tx, plan *bootPlan, s *cloud.Server) error {
	s.Ports = []cloud.PortID{}
	for _, n := range plan.nics {
		p, err := c.makePort(tx, plan, n, s)
		if err != nil {
			return err
		}
		s.Ports = append(s.Ports, p.ID)
		if n.tag != "" {
			if s.PortTags == nil {
				s.PortTags = map[cloud.PortID]string{}
			}
			s.PortTags[p.ID] = n.tag
		}
	}
	return nil
}

// makePort makes one port on a network, or gives the server one that exists.
func (c *call) makePort(tx *store.Tx, plan *bootPlan, n nic, s *cloud.Server) (cloud.Port, error) {
	if n.port != "" {
		p, err := ipam.AttachPort(tx, n.port, s.ID, s.Created)
		return p, portRefusal(err, n)
	}
	request := ipam.PortRequest{
		Network: n.network, Project: s.Project, Anywhere: c.admin(), SecurityGroups: plan.groups, DeviceID: string(s.ID),
		DeviceOwner: ipam.ComputeOwner(s.Zone), AutoCreated: true, Now: s.Created,
	}
	if n.address != "" {
		request.Addresses = []ipam.AddressRequest{{Address: n.address}}
	}
	if network, err := store.Peek(tx, tables.Networks, n.network); err == nil && network != nil && !network.PortSecurity {
		request.SecurityGroups = nil // groups cannot apply; Nova passes them over too when nobody asked for any
		if plan.groups != nil {
			return cloud.Port{}, invalid("Network requires port_security_enabled and subnet associated in order to apply security groups.")
		}
	}
	p, err := ipam.AllocatePort(tx, request)
	return p, portRefusal(err, n)
}

// portRefusal words a refusal of the network service as Nova does.
func portRefusal(err error, n nic) error {
	var refusal *ipam.Refusal
	if err == nil || !errors.As(err, &refusal) {
		return err
	}
	switch refusal.Type {
	case "NetworkNotFound":
		return invalid("Network %s could not be found.", n.network)
	case "PortNotFound":
		return invalid("Port id %s could not be found.", n.port)
	case "PortInUse":
		return conflict("Port %s is still in use.", n.port)
	case "IpAddressGenerationFailure":
		return invalid("No fixed IP addresses available for network: %s", n.network)
	case "IpAddressAlreadyAllocated", "IpAddressInUse":
		return invalid("Fixed IP address %s is already in use on instance.", n.address)
	}
	return invalid("%s", refusal.Message)
}
