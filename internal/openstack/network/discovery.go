package network

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// versions answers what clients ask first: which versions live here.
func (s *Service) versions(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, object{"versions": []object{{
		"id": "v2.0", "status": "CURRENT", "links": []openstack.Link{{Rel: "self", Href: r.PublicURL("/network/v2.0/")}},
	}}})
}

// resources answers the root of the version: the collections there are.
func (s *Service) resources(w http.ResponseWriter, r *openstack.Request) error {
	out := []object{}
	for _, l := range []*listing{networkList, subnetList, portList, groupList, ruleList, extensionList, agentList, zoneList, availabilityList} {
		out = append(out, object{"name": l.path, "collection": l.path, "links": []openstack.Link{{Rel: "self", Href: r.PublicURL("/network/v2.0/", l.path)}}})
	}
	return openstack.WriteJSON(w, http.StatusOK, object{"resources": out})
}

var extensionList = &listing{plural: "extensions", path: "extensions", attributes: []string{"alias", "name", "description", "updated"}}

// extensions are the parts of the API beyond Neutron's core that are carried out, by the aliases clients look for.
var extensions = []struct{ alias, name, description string }{
	{"agent", "agent", "The agent management extension."},
	{"allowed-address-pairs", "Allowed Address Pairs", "Provides allowed address pairs"},
	{"auto-allocated-topology", "Auto Allocated Topology Services", "Finds the one network of a project."},
	{"availability_zone", "Availability Zone", "The availability zone extension."},
	{"binding", "Port Binding", "Expose port bindings of a virtual port to external application"},
	{"external-net", "Neutron external network", "Adds external network attribute to network resource."},
	{"filter-validation", "Filter parameters validation", "Provides validation on filter parameters."},
	{"ip_allocation", "IP Allocation", "IP allocation extension."},
	{"net-mtu", "Network MTU", "Provides MTU attribute for a network resource."},
	{"net-mtu-writable", "Network MTU (writable)", "Provides a writable MTU attribute for a network resource."},
	{"network-ip-availability", "Network IP Availability", "Provides IP availability data for each network and subnet."},
	{"network_availability_zone", "Network Availability Zone", "Availability zone support for network."},
	{"pagination", "Pagination support", "Extension that indicates that pagination is enabled."},
	{"port-security", "Port Security", "Provides port security"},
	{"project-id", "project_id field enabled", "Extension that indicates that project_id field is enabled."},
	{"provider", "Provider Network", "Expose mapping of virtual networks to physical networks"},
	{"quotas", "Quota management support", "Shows the limits of projects."},
	{"revision-if-match", "If-Match constraints based on revision_number", "Extension indicating that If-Match based on revision_number is supported."},
	{"security-group", "security-group", "The security groups extension."},
	{"sorting", "Sorting support", "Extension that indicates that sorting is enabled."},
	{"standard-attr-description", "standard-attr-description", "Extension to add descriptions to standard attributes"},
	{"standard-attr-revisions", "Resource revision numbers", "This extension will display the revision number of neutron resources."},
	{"standard-attr-tag", "Tag support for resources with standard attribute: network, port, security_group, subnet", "Enables to set tag on resources with standard attribute."},
	{"standard-attr-timestamp", "Resource timestamps", "Adds created_at and updated_at fields to all Neutron resources that have Neutron standard attributes."},
}

func extensionView(i int) object {
	e := extensions[i]
	return object{"alias": e.alias, "name": e.name, "description": e.description, "updated": "2026-01-01T00:00:00-00:00", "links": []object{}}
}

func (c *call) listExtensions() error {
	var views []object
	for i := range extensions {
		views = append(views, extensionView(i))
	}
	return c.list(extensionList, views)
}

func (c *call) showExtension() error {
	for i := range extensions {
		if extensions[i].alias == c.id() {
			return c.show("extension", extensionView(i))
		}
	}
	return ipam.Refuse(cloud.KindNotFound, "HTTPNotFound", "Extension with alias %s does not exist", c.id())
}
