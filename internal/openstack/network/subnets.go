package network

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var subnetRoutes = []route{
	{"GET /subnets", openstack.RoleReader, (*call).listSubnets},
	{"POST /subnets", openstack.RoleMember, (*call).createSubnet},
	{"GET /subnets/{id}", openstack.RoleReader, (*call).showSubnet},
	{"PUT /subnets/{id}", openstack.RoleMember, (*call).updateSubnet},
	{"DELETE /subnets/{id}", openstack.RoleMember, (*call).deleteSubnet},
}

var subnetList = &listing{plural: "subnets", path: "subnets", attributes: []string{
	"id", "name", "description", "project_id", "tenant_id", "network_id", "ip_version", "cidr", "gateway_ip", "enable_dhcp", "ipv6_address_mode", "ipv6_ra_mode",
	"subnetpool_id", "segment_id", "dns_publish_fixed_ip", "revision_number", "created_at", "updated_at", "shared",
}}

// The sizes of a subnet: below 8 bits no address plan makes sense, above 30 no room is left for gateway, DHCP and a guest.
const prefixMin, prefixMax = 8, 30

type rangeInput struct {
	Start string `json:"start" api:"required"`
	End   string `json:"end" api:"required"`
}

type routeInput struct {
	Destination string `json:"destination" api:"required"`
	NextHop     string `json:"nexthop" api:"required"`
}

// subnetFields are the attributes that may be given at creation and changed later.
type subnetFields struct {
	Name        *string
	Description *string
	Gateway     nullable
	DHCP        *bool
	Pools       *[]rangeInput
	DNS         *[]string
	Routes      *[]routeInput
}

// subnetInput bounds its lists: name servers and routes, as many as Neutron's defaults, must fit a DHCP answer, and every allocation walks the pools.
type subnetInput struct {
	Name         *string          `json:"name" api:"null;len=..255"`
	Description  *string          `json:"description" api:"null;len=..255"`
	Network      cloud.NetworkID  `json:"network_id" api:"required"`
	IPVersion    int              `json:"ip_version" api:"loose"`
	CIDR         *string          `json:"cidr" api:"null"`
	Gateway      nullable         `json:"gateway_ip"`
	DHCP         *bool            `json:"enable_dhcp" api:"loose"`
	Pools        *[]rangeInput    `json:"allocation_pools" api:"null;len=..32"`
	DNS          *[]string        `json:"dns_nameservers" api:"null;len=..5"`
	Routes       *[]routeInput    `json:"host_routes" api:"null;len=..20"`
	Project      *cloud.ProjectID `json:"project_id" api:"null"`
	Tenant       *cloud.ProjectID `json:"tenant_id" api:"null"`
	AddressMode  absent           `json:"ipv6_address_mode"`
	RAMode       absent           `json:"ipv6_ra_mode"`
	SubnetPool   absent           `json:"subnetpool_id"`
	DefaultPool  absent           `json:"use_default_subnetpool"`
	PrefixLen    absent           `json:"prefixlen"`
	ServiceTypes absent           `json:"service_types"`
	Segment      absent           `json:"segment_id"`
	DNSPublish   absent           `json:"dns_publish_fixed_ip"`
}

type subnetChange struct {
	Name         *string       `json:"name" api:"null;len=..255"`
	Description  *string       `json:"description" api:"null;len=..255"`
	Gateway      nullable      `json:"gateway_ip"`
	DHCP         *bool         `json:"enable_dhcp" api:"loose"`
	Pools        *[]rangeInput `json:"allocation_pools" api:"null;len=..32"`
	DNS          *[]string     `json:"dns_nameservers" api:"null;len=..5"`
	Routes       *[]routeInput `json:"host_routes" api:"null;len=..20"`
	ServiceTypes absent        `json:"service_types"`
	Segment      absent        `json:"segment_id"`
	DNSPublish   absent        `json:"dns_publish_fixed_ip"`
}

func (c *call) subnetView(s *cloud.Subnet) object {
	pools, routes := []object{}, []object{}
	for _, p := range s.Pools {
		pools = append(pools, object{"start": p.Start, "end": p.End})
	}
	for _, r := range s.Routes {
		routes = append(routes, object{"destination": r.Destination, "nexthop": r.NextHop})
	}
	return object{
		"id": s.ID, "name": s.Name, "description": s.Description, "project_id": s.Project, "tenant_id": s.Project, "network_id": s.Network,
		"ip_version": s.IPVersion, "cidr": s.CIDR, "gateway_ip": nilIfEmpty(s.Gateway), "enable_dhcp": s.DHCP, "allocation_pools": pools,
		"dns_nameservers": emptyIfNil(s.DNS), "host_routes": routes, "ipv6_address_mode": nil, "ipv6_ra_mode": nil, "subnetpool_id": nil,
		"segment_id": nil, "service_types": []string{}, "dns_publish_fixed_ip": false, "tags": emptyIfNil(s.Tags), "revision_number": s.Revision,
		"created_at": openstack.TimeSeconds(s.Created), "updated_at": openstack.TimeSeconds(s.Updated),
	}
}

// seesSubnet reports whether the caller may see the subnet: with its network.
func (c *call) seesSubnet(s *cloud.Subnet) bool {
	if c.r.Caller.Sees(s.Project) {
		return true
	}
	n, ok := store.Lookup(c.view, tables.Networks, s.Network)
	return ok && ipam.Visible(n, c.project(), c.admin())
}

func (c *call) listSubnets() error {
	var views []object
	for _, s := range store.All(c.view, tables.Subnets) {
		if c.seesSubnet(s) {
			views = append(views, c.subnetView(s))
		}
	}
	return c.list(subnetList, views)
}

func (c *call) showSubnet() error {
	s, ok := store.Lookup(c.view, tables.Subnets, c.id())
	if !ok || !c.seesSubnet(s) {
		return ipam.SubnetNotFound(cloud.SubnetID(c.id()))
	}
	return c.show("subnet", c.subnetView(s))
}

func (c *call) createSubnet() error {
	var body struct {
		Subnet subnetInput `json:"subnet" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in, now := &body.Subnet, c.now()
	if in.IPVersion != 4 {
		return invalid("ip_version %d is not offered, only 4", in.IPVersion)
	}
	if in.CIDR == nil {
		return ipam.Refuse(cloud.KindInvalid, "BadRequest", "Bad subnets request: a subnetpool must be specified in the absence of a cidr.")
	}
	block, err := parseBlock(*in.CIDR)
	if err != nil {
		return err
	}
	network, err := c.network(in.Network)
	if err != nil {
		return err
	}
	if network.Project != c.project() && !c.admin() {
		return openstack.Forbid("create_subnet")
	}
	project := network.Project // a subnet belongs with its network, whoever makes it
	if in.Project != nil || in.Tenant != nil {
		if project, err = c.owner(in.Project, in.Tenant, "create_subnet"); err != nil {
			return err
		}
	}
	s := cloud.Subnet{ID: cloud.SubnetID(uuid.NewString()), Network: in.Network, Project: project, IPVersion: 4, CIDR: block.String(), DHCP: true,
		Gateway: ipam.FirstHost(block).String(), Created: now, Updated: now, Revision: 1}
	err = applySubnet(&s, block, subnetFields{in.Name, in.Description, in.Gateway, in.DHCP, in.Pools, in.DNS, in.Routes})
	if err != nil {
		return err
	}
	if err := c.update(func(tx *store.Tx) error { return ipam.AddSubnet(tx, s) }); err != nil {
		return err
	}
	return c.reply(http.StatusCreated, "subnet", c.subnetView(&s))
}

func parseBlock(text string) (netip.Prefix, error) {
	block, err := ipam.ParseCIDR(text)
	if err != nil {
		return block, invalid("%v", err)
	}
	a := block.Addr()
	if block.Bits() < prefixMin || block.Bits() > prefixMax || a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() {
		return block, invalid("Requested subnet with cidr: %s cannot hold guests: its prefix must be %d to %d bits of unicast addresses", block, prefixMin, prefixMax)
	}
	return block, nil
}

// applySubnet puts the attributes that were given into s and validates the whole by itself. Pools that are not given are made from the block
// when there are none.
func applySubnet(s *cloud.Subnet, block netip.Prefix, in subnetFields) error {
	set(&s.Name, in.Name)
	set(&s.Description, in.Description)
	set(&s.DHCP, in.DHCP)
	if in.Gateway.Set {
		gateway, err := parseGateway(block, in.Gateway.Text)
		if err != nil {
			return err
		}
		s.Gateway = gateway
	}
	if in.Pools != nil {
		s.Pools = nil
		for _, p := range *in.Pools {
			s.Pools = append(s.Pools, cloud.AddressRange(p))
		}
	}
	if s.Pools == nil {
		s.Pools = ipam.DefaultPools(block, s.Gateway)
	}
	if err := ipam.CheckPools(block, s.Gateway, s.Pools); err != nil {
		return err
	}
	if in.DNS != nil {
		dns, err := parseNameservers(*in.DNS)
		if err != nil {
			return err
		}
		s.DNS = dns
	}
	if in.Routes != nil {
		routes, err := parseRoutes(*in.Routes)
		if err != nil {
			return err
		}
		s.Routes = routes
	}
	return nil
}

// parseGateway returns the gateway in canonical form; empty text means none.
func parseGateway(block netip.Prefix, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	a, err := ipam.ParseAddress(text)
	if err != nil || !ipam.Usable(block, a) {
		return "", invalid("Gateway %s is not valid on subnet %s", text, block)
	}
	return a.String(), nil
}

func parseNameservers(texts []string) ([]string, error) {
	var out []string
	for _, t := range texts {
		a, err := ipam.ParseAddress(t)
		if err != nil {
			return nil, invalid("'%s' is not a valid nameserver: %v", t, err)
		}
		if slices.Contains(out, a.String()) {
			return nil, invalid("Duplicate nameserver '%s'", t)
		}
		out = append(out, a.String())
	}
	return out, nil
}

func parseRoutes(in []routeInput) ([]cloud.Route, error) {
	var out []cloud.Route
	for _, r := range in {
		to, err := ipam.ParseCIDR(r.Destination)
		if err != nil {
			return nil, invalid("host route: %v", err)
		}
		hop, err := ipam.ParseAddress(r.NextHop)
		if err != nil {
			return nil, invalid("host route: %v", err)
		}
		one := cloud.Route{Destination: to.String(), NextHop: hop.String()}
		if slices.Contains(out, one) {
			return nil, invalid("Duplicate hostroute '%s via %s'", one.Destination, one.NextHop)
		}
		out = append(out, one)
	}
	return out, nil
}

// ownSubnet returns the subnet for a change; it and its network must be the caller's.
func (c *call) ownSubnet(tx *store.Tx, id cloud.SubnetID, rule string) (cloud.Subnet, error) {
	s, err := store.Get(tx, tables.Subnets, id)
	switch {
	case cloud.Is(err, cloud.KindNotFound), err == nil && !c.seesSubnet(&s):
		return s, ipam.SubnetNotFound(id)
	case err != nil:
		return s, err
	case !c.r.Caller.Sees(s.Project):
		return s, openstack.Forbid(rule)
	}
	return s, c.matches(s.Revision)
}

func (c *call) updateSubnet() error {
	var body struct {
		Subnet subnetChange `json:"subnet" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in, id := &body.Subnet, cloud.SubnetID(c.id())
	err := c.update(func(tx *store.Tx) error {
		s, err := c.ownSubnet(tx, id, "update_subnet")
		if err != nil {
			return err
		}
		block, err := ipam.ParseCIDR(s.CIDR)
		if err != nil {
			return err
		}
		old := s
		if err := applySubnet(&s, block, subnetFields{in.Name, in.Description, in.Gateway, in.DHCP, in.Pools, in.DNS, in.Routes}); err != nil {
			return err
		}
		if s.Gateway != old.Gateway && s.Gateway != "" {
			if err := gatewayFree(tx, &s); err != nil {
				return err
			}
		}
		s.Updated = c.now()
		s.Revision++
		if err := store.Put(tx, tables.Subnets, id, s); err != nil {
			return err
		}
		return ipam.SyncDHCP(tx, &s, s.Updated)
	})
	if err != nil {
		return err
	}
	return c.showSubnet()
}

// gatewayFree refuses a gateway whose address a port has.
func gatewayFree(tx *store.Tx, s *cloud.Subnet) error {
	taken, err := ipam.Taken(tx, s.ID)
	if err != nil {
		return err
	}
	if port, ok := taken[netip.MustParseAddr(s.Gateway)]; ok {
		return ipam.Refuse(cloud.KindConflict, "GatewayIpInUse", "Current gateway ip %s already in use by port %s. Unable to update.", s.Gateway, port)
	}
	return nil
}

func (c *call) deleteSubnet() error {
	id := cloud.SubnetID(c.id())
	err := c.update(func(tx *store.Tx) error {
		if _, err := c.ownSubnet(tx, id, "delete_subnet"); err != nil {
			return err
		}
		return ipam.RemoveSubnet(tx, id, c.now())
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
