package network

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// smallRoutes are the read-only resources that are views of something else.
var smallRoutes = []route{
	{"GET /extensions", openstack.RoleReader, (*call).listExtensions},
	{"GET /extensions/{id}", openstack.RoleReader, (*call).showExtension},
	{"GET /agents", openstack.RoleAdmin, (*call).listAgents},
	{"GET /agents/{id}", openstack.RoleAdmin, (*call).showAgent},
	{"GET /availability_zones", openstack.RoleReader, (*call).listZones},
	{"GET /network-ip-availabilities", openstack.RoleAdmin, (*call).listAvailabilities},
	{"GET /network-ip-availabilities/{id}", openstack.RoleAdmin, (*call).showAvailability},
	{"GET /auto-allocated-topology/{id}", openstack.RoleReader, (*call).showTopology},
	{"GET /quotas", openstack.RoleAdmin, (*call).listQuotas},
	{"GET /quotas/{id}", openstack.RoleReader, (*call).showQuota},
	{"GET /quotas/{id}/default", openstack.RoleReader, (*call).showQuota},
	{"PUT /quotas/{id}", openstack.RoleAdmin, func(*call) error {
		return cloud.Errorf(cloud.KindUnsupported, "Network quotas are not enforced and so cannot be set.")
	}},
}

var agentList = &listing{plural: "agents", path: "agents", attributes: []string{
	"id", "agent_type", "binary", "host", "alive", "admin_state_up", "availability_zone", "topic", "description", "created_at", "started_at", "heartbeat_timestamp",
}}

// agentViews shows one agent for each host that has reported: godwit's agent does all of a host's networking.
func (c *call) agentViews() []object {
	var views []object
	snap := tables.Snapshot(c.view, c.now())
	for i := range snap.Hosts {
		h := &snap.Hosts[i]
		if h.Report.Generation == 0 {
			continue
		}
		const layout = "2006-01-02 15:04:05"
		views = append(views, object{
			"id": h.Host.ID, "agent_type": "godwit agent", "binary": "godwit-agent", "host": h.Host.Name, "alive": h.Up, "admin_state_up": !h.Host.Disabled,
			"availability_zone": h.Zone, "topic": "N/A", "description": nil, "configurations": object{"tunneling_ip": h.Report.TunnelAddress, "tunnel_types": []string{"vxlan"}},
			"created_at": h.Host.Created.UTC().Format(layout), "started_at": h.Host.Created.UTC().Format(layout),
			"heartbeat_timestamp": h.Report.At.UTC().Format(layout), "resources_synced": nil,
		})
	}
	return views
}

func (c *call) listAgents() error { return c.list(agentList, c.agentViews()) }

func (c *call) showAgent() error {
	for _, v := range c.agentViews() {
		if v["id"] == c.id() {
			return c.show("agent", v)
		}
	}
	return ipam.Refuse(cloud.KindNotFound, "AgentNotFound", "Agent %s could not be found.", c.id())
}

var zoneList = &listing{plural: "availability_zones", path: "availability_zones", attributes: []string{"name", "resource", "state"}}

// listZones shows the hosts' zones: a zone is unavailable when none of its hosts is up.
func (c *call) listZones() error {
	states := map[string]string{cloud.DefaultZone: "available"}
	snap := tables.Snapshot(c.view, c.now())
	for i := range snap.Hosts {
		h := &snap.Hosts[i]
		if h.Up {
			states[h.Zone] = "available"
		} else if states[h.Zone] == "" {
			states[h.Zone] = "unavailable"
		}
	}
	var views []object
	for _, name := range slices.Sorted(maps.Keys(states)) {
		views = append(views, object{"name": name, "resource": "network", "state": states[name]})
	}
	return c.list(zoneList, views)
}

var availabilityList = &listing{plural: "network_ip_availabilities", path: "network-ip-availabilities", attributes: []string{
	"network_id", "network_name", "project_id", "tenant_id", "ip_version",
}, special: map[string]filter{
	"ip_version": func(_ object, values []string) (bool, error) { return slices.Contains(values, "4"), nil },
}}

// availabilityView counts a network's addresses: total are those of the pools, used those that ports hold.
func (c *call) availabilityView(n *cloud.Network) object {
	subnets, total, used := []object{}, uint64(0), 0
	for _, id := range n.Subnets {
		s, ok := store.Lookup(c.view, tables.Subnets, id)
		if !ok {
			continue
		}
		room, taken := poolSize(s), len(store.Prefixed(c.view, tables.AddressClaims, tables.AddressKey(id, "")))
		subnets = append(subnets, object{"subnet_id": s.ID, "subnet_name": s.Name, "cidr": s.CIDR, "ip_version": s.IPVersion, "total_ips": room, "used_ips": taken})
		total, used = total+room, used+taken
	}
	return object{"network_id": n.ID, "network_name": n.Name, "project_id": n.Project, "tenant_id": n.Project, "total_ips": total, "used_ips": used,
		"subnet_ip_availability": subnets}
}

func poolSize(s *cloud.Subnet) uint64 {
	var sum uint64
	for _, p := range s.Pools {
		first, err1 := netip.ParseAddr(p.Start)
		last, err2 := netip.ParseAddr(p.End)
		if err1 == nil && err2 == nil && first.Is4() && last.Is4() {
			sum += ipam.Between(first, last)
		}
	}
	return sum
}

func (c *call) listAvailabilities() error {
	var views []object
	for _, n := range store.All(c.view, tables.Networks) {
		views = append(views, c.availabilityView(n))
	}
	return c.list(availabilityList, views)
}

func (c *call) showAvailability() error {
	n, err := c.network(cloud.NetworkID(c.id()))
	if err != nil {
		return err
	}
	return c.show("network_ip_availability", c.availabilityView(n))
}

// showTopology answers which network a server gets that asks for none: the only one its project can see that has a subnet. Nothing is created.
func (c *call) showTopology() error {
	project := cloud.ProjectID(c.id())
	if project == "" || project == "null" {
		project = c.project()
	}
	if !c.r.Caller.Sees(project) {
		return openstack.Forbid("get_auto_allocated_topology")
	}
	var found []*cloud.Network
	for _, n := range store.All(c.view, tables.Networks) {
		if ipam.Visible(n, project, false) && len(n.Subnets) > 0 {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return ipam.Refuse(cloud.KindConflict, "AutoAllocationFailure",
			"Deployment error: project %s can see %d networks with subnets; exactly one is needed to choose it automatically.", project, len(found))
	}
	id := string(found[0].ID)
	if slices.Contains(c.r.URL.Query()["fields"], "dry-run") {
		id = "dry-run=pass"
	}
	return c.reply(http.StatusOK, "auto_allocated_topology", object{"id": id, "project_id": project, "tenant_id": project})
}

// quotaView is the same for every project: what is offered is unlimited (-1), what is not has a limit of none.
func quotaView() object {
	return object{"network": -1, "subnet": -1, "port": -1, "security_group": -1, "security_group_rule": -1,
		"router": 0, "floatingip": 0, "subnetpool": 0, "rbac_policy": 0, "trunk": 0}
}

// listQuotas shows the quotas that differ from the default: none.
func (c *call) listQuotas() error {
	return openstack.WriteJSON(c.w, http.StatusOK, object{"quotas": []object{}})
}

func (c *call) showQuota() error {
	if !c.r.Caller.Sees(cloud.ProjectID(c.id())) {
		return openstack.Forbid("get_quota")
	}
	return c.reply(http.StatusOK, "quota", quotaView())
}

// absentKinds are Neutron's resources that do not exist here: name in the answer, path.
var absentKinds = [][2]string{
	{"routers", "routers"}, {"floatingips", "floatingips"}, {"subnetpools", "subnetpools"}, {"address_scopes", "address-scopes"},
	{"address_groups", "address-groups"}, {"rbac_policies", "rbac-policies"}, {"trunks", "trunks"}, {"segments", "segments"},
	{"policies", "qos/policies"}, {"service_providers", "service-providers"}, {"local_ips", "local_ips"}, {"flavors", "flavors"},
	{"metering_labels", "metering/metering-labels"}, {"network_segment_ranges", "network_segment_ranges"},
}

// absentRoutes answer that there are none, and that none can be made.
func absentRoutes() []route {
	var out []route
	for _, kind := range absentKinds {
		name, path := kind[0], kind[1]
		out = append(out,
			route{"GET /" + path, openstack.RoleReader, func(c *call) error {
				return openstack.WriteJSON(c.w, http.StatusOK, object{name: []object{}})
			}},
			route{"GET /" + path + "/{id}", openstack.RoleReader, func(c *call) error {
				return ipam.Refuse(cloud.KindNotFound, "HTTPNotFound", "%s: %s could not be found.", name, c.id())
			}},
			route{"POST /" + path, openstack.RoleMember, func(*call) error {
				return cloud.Errorf(cloud.KindUnsupported, "%s", fmt.Sprintf("This cloud does not offer %s.", name))
			}},
		)
	}
	return out
}
