package network_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func TestWhatACallerMayNotSeeIsNotFoundAndWhatIsSharedCannotBeChanged(t *testing.T) {
	s := newSite(t)
	net, sub := s.network("ann", "private", "10.0.0.0/24")
	port := s.port("ann", m{"network_id": net})
	for _, path := range []string{"/networks/" + net, "/subnets/" + sub, "/ports/" + port} {
		s.send("bob", "GET", path, nil, 404)
		s.send("bob", "DELETE", path, nil, 404)
		s.send("ray", "GET", path, nil, 200)
		s.refused("ray", "DELETE", path, nil, 403, "PolicyNotAuthorized")
		s.send("admin", "GET", path, nil, 200)
	}
	s.refused("none", "GET", "/networks", nil, 403, "PolicyNotAuthorized")
	s.refused("ann", "PUT", "/networks/"+net, m{"network": m{"shared": true}}, 403, "PolicyNotAuthorized")
	s.send("admin", "PUT", "/networks/"+net, m{"network": m{"shared": true}}, 200)

	s.send("bob", "GET", "/subnets/"+sub, nil, 200)
	s.send("bob", "GET", "/ports/"+port, nil, 404)
	s.refused("bob", "PUT", "/networks/"+net, m{"network": m{"name": "mine"}}, 403, "PolicyNotAuthorized")
	s.refused("bob", "DELETE", "/subnets/"+sub, nil, 403, "PolicyNotAuthorized")
	s.refused("bob", "POST", "/subnets", m{"subnet": m{"network_id": net, "ip_version": 4, "cidr": "10.9.0.0/24"}}, 403, "PolicyNotAuthorized")
	theirs := s.port("bob", m{"network_id": net})
	if got := s.ids("ann", "/ports?network_id="+net, "ports"); len(got) != 3 {
		t.Errorf("the network's owner sees %d ports, want DHCP's, hers and his", len(got))
	}
	if got := s.ids("bob", "/ports", "ports"); !slices.Equal(got, []string{theirs}) {
		t.Errorf("bob sees %v, want his own port %s", got, theirs)
	}
	for attribute, value := range map[string]any{
		"mac_address": "fa:16:3e:01:02:03", "fixed_ips": []m{{"ip_address": "10.0.0.50"}}, "port_security_enabled": false,
		"device_owner": "network:router_interface", "binding:host_id": "h", "allowed_address_pairs": []m{{"ip_address": "10.0.0.1"}},
	} {
		s.refused("bob", "POST", "/ports", m{"port": m{"network_id": net, attribute: value}}, 403, "PolicyNotAuthorized")
	}
	s.refused("admin", "PUT", "/networks/"+net, m{"network": m{"shared": false}}, 409, "InvalidSharedSetting")
	s.refused("ann", "POST", "/networks", m{"network": m{"project_id": "p2"}}, 403, "PolicyNotAuthorized")
}

func TestBadInputIsRefusedWithNeutronsShape(t *testing.T) {
	s := newSite(t)
	net, sub := s.network("ann", "n", "10.0.0.0/24")
	g := s.send("ann", "POST", "/security-groups", m{"security_group": m{"name": "web"}}, 201).text("security_group", "id")
	port := s.port("ann", m{"network_id": net})
	subnet := func(extra m) m {
		out := m{"network_id": net, "ip_version": 4, "cidr": "10.1.0.0/24"}
		for k, v := range extra {
			out[k] = v
		}
		return m{"subnet": out}
	}
	rule := func(extra m) m {
		out := m{"security_group_id": g, "direction": "ingress"}
		for k, v := range extra {
			out[k] = v
		}
		return m{"security_group_rule": out}
	}
	cases := []struct {
		path   string
		body   any
		status int
		class  string
	}{
		{"/networks", "{", 400, "HTTPBadRequest"},
		{"/networks", m{"network": m{"colour": "blue"}}, 400, "HTTPBadRequest"},
		{"/networks", m{"network": m{"name": 7}}, 400, "HTTPBadRequest"},
		{"/networks", m{"network": m{"mtu": 9000}}, 400, "InvalidInput"},
		{"/networks", m{"network": m{"router:external": true}}, 400, "HTTPBadRequest"},
		{"/networks", `{"network": {"name": "` + strings.Repeat("x", 2<<20) + `"}}`, 413, "HTTPRequestEntityTooLarge"},
		{"/subnets", subnet(m{"ip_version": 6, "cidr": "fd00::/64"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"cidr": "10.1.0.0"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"cidr": "10.1.0.0/31"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"cidr": "224.0.0.0/24"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"cidr": "10.0.0.128/25"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"cidr": nil}), 400, "BadRequest"},
		{"/subnets", subnet(m{"gateway_ip": "10.2.0.1"}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"allocation_pools": []m{{"start": "10.1.0.5", "end": "10.1.1.5"}}}), 400, "OutOfBoundsAllocationPool"},
		{"/subnets", subnet(m{"allocation_pools": []m{{"start": "10.1.0.1", "end": "10.1.0.5"}}}), 409, "GatewayConflictWithAllocationPools"},
		{"/subnets", subnet(m{"dns_nameservers": []string{"dns.example"}}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"host_routes": []m{{"destination": "10/8", "nexthop": "10.1.0.1"}}}), 400, "InvalidInput"},
		{"/subnets", subnet(m{"subnetpool_id": "x"}), 400, "HTTPBadRequest"},
		{"/subnets", subnet(m{"network_id": "gone"}), 404, "NetworkNotFound"},
		{"/ports", m{"port": m{}}, 400, "InvalidInput"},
		{"/ports", m{"port": m{"network_id": "gone"}}, 404, "NetworkNotFound"},
		{"/ports", m{"port": m{"network_id": net, "mac_address": "ff:ff:ff:ff:ff:ff"}}, 400, "InvalidInput"},
		{"/ports", m{"port": m{"network_id": net, "security_groups": []string{"gone"}}}, 404, "SecurityGroupNotFound"},
		{"/ports", m{"port": m{"network_id": net, "binding:vnic_type": "direct"}}, 400, "InvalidInput"},
		{"/ports", m{"port": m{"network_id": net, "device_owner": "network:dhcp"}}, 400, "InvalidInput"},
		{"/ports", m{"port": m{"network_id": net, "port_security_enabled": false, "allowed_address_pairs": []m{{"ip_address": "10.0.0.1"}}}}, 409, "AddressPairAndPortSecurityRequired"},
		{"/ports", m{"port": m{"network_id": net, "allowed_address_pairs": []m{{"ip_address": "10.0.0.1", "mac_address": "fa:16:3e:00:00:01"}}}}, 400, "InvalidInput"},
		{"/ports", m{"port": m{"network_id": net, "qos_policy_id": "x"}}, 400, "HTTPBadRequest"},
		{"/security-groups", m{"security_group": m{"name": "default"}}, 409, "SecurityGroupDefaultAlreadyExists"},
		{"/security-groups", m{"security_group": m{"name": "s", "stateful": false}}, 400, "InvalidInput"},
		{"/security-group-rules", rule(m{"direction": "sideways"}), 400, "InvalidInput"},
		{"/security-group-rules", rule(m{"ethertype": "IPX"}), 400, "SecurityGroupRuleInvalidEtherType"},
		{"/security-group-rules", rule(m{"protocol": "carrier-pigeon"}), 400, "SecurityGroupRuleInvalidProtocol"},
		{"/security-group-rules", rule(m{"port_range_min": 80}), 400, "SecurityGroupProtocolRequiredWithPorts"},
		{"/security-group-rules", rule(m{"protocol": "tcp", "port_range_min": 80, "port_range_max": 79}), 400, "SecurityGroupInvalidPortRange"},
		{"/security-group-rules", rule(m{"protocol": "icmp", "port_range_min": 300}), 400, "SecurityGroupInvalidIcmpValue"},
		{"/security-group-rules", rule(m{"protocol": "icmp", "port_range_max": 3}), 400, "SecurityGroupMissingIcmpType"},
		{"/security-group-rules", rule(m{"protocol": "vrrp", "port_range_min": 3, "port_range_max": 3}), 400, "SecurityGroupInvalidProtocolForPortRange"},
		{"/security-group-rules", rule(m{"remote_ip_prefix": "fd00::/8"}), 400, "SecurityGroupRuleParameterConflict"},
		{"/security-group-rules", rule(m{"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": g}), 400, "SecurityGroupRemoteGroupAndRemoteIpPrefix"},
		{"/security-group-rules", rule(m{"remote_group_id": "gone"}), 404, "SecurityGroupNotFound"},
		{"/security-group-rules", rule(m{"security_group_id": "gone"}), 404, "SecurityGroupNotFound"},
		{"/routers", m{"router": m{"name": "r"}}, 501, "HTTPNotImplemented"},
		{"/floatingips", m{"floatingip": m{}}, 501, "HTTPNotImplemented"},
	}
	for _, c := range cases {
		s.refused("ann", "POST", c.path, c.body, c.status, c.class)
	}
	changes := []struct {
		path   string
		body   any
		status int
		class  string
	}{
		{"/networks/" + net, m{"network": m{"project_id": "p2"}}, 400, "InvalidInput"},
		{"/networks/" + net, m{"network": m{"provider:segmentation_id": 5}}, 400, "InvalidInput"},
		{"/subnets/" + sub, m{"subnet": m{"cidr": "10.2.0.0/24"}}, 400, "HTTPBadRequest"},
		{"/subnets/" + sub, m{"subnet": m{"gateway_ip": "10.0.0.2"}}, 409, "GatewayConflictWithAllocationPools"},
		{"/ports/" + port, m{"port": m{"network_id": net}}, 400, "InvalidInput"},
		{"/ports/" + port, m{"port": m{"mac_address": "fa:16:3e:00:00:01"}}, 409, "PortBound"},
		{"/ports/" + port, m{"port": m{"port_security_enabled": false}}, 409, "PortSecurityPortHasSecurityGroup"},
		{"/ports/gone", m{"port": m{"name": "x"}}, 404, "PortNotFound"},
		{"/security-groups/gone", m{"security_group": m{"name": "x"}}, 404, "SecurityGroupNotFound"},
	}
	for _, c := range changes {
		s.refused("ann", "PUT", c.path, c.body, c.status, c.class)
	}
	for _, path := range []string{"/subnets/gone", "/security-group-rules/gone", "/extensions/gone", "/routers/gone", "/ports/gone/tags"} {
		s.send("ann", "GET", path, nil, 404)
	}
	s.send("stranger", "GET", "/networks", nil, 401)
}

func TestDHCPPortFollowsTheSubnetAndCannotBeTouched(t *testing.T) {
	s := newSite(t)
	net, sub := s.network("ann", "n", "10.0.0.0/24")
	ids := s.ids("ann", "/ports?device_owner=network:dhcp", "ports")
	if len(ids) != 1 {
		t.Fatalf("%d DHCP ports", len(ids))
	}
	r := s.send("ann", "GET", "/ports?fixed_ips=ip_address=10.0.0.2&network_id="+net, nil, 200)
	if ports, _ := r.body["ports"].([]any); len(ports) != 1 {
		t.Errorf("the DHCP address is not the first after the gateway: %v", r.body)
	}
	s.refused("ann", "DELETE", "/ports/"+ids[0], nil, 409, "ServicePortInUse")
	s.refused("admin", "PUT", "/ports/"+ids[0], m{"port": m{"name": "x"}}, 409, "ServicePortInUse")
	s.send("ann", "PUT", "/subnets/"+sub, m{"subnet": m{"enable_dhcp": false}}, 200)
	if got := s.ids("ann", "/ports", "ports"); len(got) != 0 {
		t.Errorf("ports left after DHCP was switched off: %v", got)
	}
	s.send("ann", "PUT", "/subnets/"+sub, m{"subnet": m{"enable_dhcp": true, "gateway_ip": nil, "name": "renamed"}}, 200)
	got := s.send("ann", "GET", "/subnets/"+sub, nil, 200)
	if len(s.ids("ann", "/ports", "ports")) != 1 || got.at("subnet", "gateway_ip") != nil || got.text("subnet", "name") != "renamed" {
		t.Errorf("subnet %v", got.body)
	}
}

func TestListsAreFilteredSortedPagedAndCutToFields(t *testing.T) {
	s := newSite(t)
	var ids []string
	for i := range 5 {
		ids = append(ids, s.send("ann", "POST", "/networks", m{"network": m{"name": fmt.Sprintf("n%d", i), "description": fmt.Sprint(i % 2)}}, 201).text("network", "id"))
	}
	for query, want := range map[string][]string{
		"?name=n1&name=n3&sort_key=name":                                 {ids[1], ids[3]},
		"?description=0&sort_key=name&sort_dir=desc":                     {ids[4], ids[2], ids[0]},
		"?sort_key=description&sort_dir=desc&sort_key=name&limit=2":      nil, // counts must agree
		"?sort_key=description&sort_dir=desc&sort_key=name&sort_dir=asc": {ids[1], ids[3], ids[0], ids[2], ids[4]},
		"?admin_state_up=True&name=n0":                                   {ids[0]},
		"?admin_state_up=false":                                          {},
		"?shared=0&router:external=False&name=n2":                        {ids[2]},
		"?mtu=1450&name=n2&tenant_id=p1":                                 {ids[2]},
		"?id=" + ids[3]:                                                  {ids[3]},
	} {
		if want == nil {
			s.refused("ann", "GET", "/networks"+query, nil, 400, "HTTPBadRequest")
			continue
		}
		if got := s.ids("ann", "/networks"+query, "networks"); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	for _, query := range []string{"?colour=blue", "?sort_key=colour", "?sort_key=name&sort_dir=up", "?limit=-1", "?limit=x", "?marker=gone"} {
		s.refused("ann", "GET", "/networks"+query, nil, 400, "HTTPBadRequest")
	}
	r := s.send("ann", "GET", "/networks?fields=id&fields=name&name=n0", nil, 200)
	if got := r.body["networks"].([]any)[0].(m); len(got) != 2 || got["name"] != "n0" {
		t.Errorf("fields: %v", got)
	}
	s.pageThrough(ids)
}

// pageThrough follows the next links forward and the previous links back.
func (s *site) pageThrough(ids []string) {
	s.Helper()
	follow := func(path, rel string) (got [][]string, last string) {
		for path != "" {
			last = path
			r := s.send("ann", "GET", path, nil, 200)
			var page []string
			for _, n := range r.body["networks"].([]any) {
				page = append(page, n.(m)["id"].(string))
			}
			got, path = append(got, page), ""
			links, _ := r.body["networks_links"].([]any)
			for _, l := range links {
				if l.(m)["rel"] == rel {
					path = strings.TrimPrefix(l.(m)["href"].(string), s.url+"/network/v2.0")
				}
			}
		}
		return got, last
	}
	forward, last := follow("/networks?limit=2&sort_key=name", "next")
	want := [][]string{ids[0:2], ids[2:4], ids[4:5]}
	if fmt.Sprint(forward) != fmt.Sprint(want) {
		s.Errorf("forward: got %v, want %v", forward, want)
	}
	back, _ := follow(last, "previous")
	if want := [][]string{ids[4:5], ids[2:4], ids[0:2]}; fmt.Sprint(back) != fmt.Sprint(want) {
		s.Errorf("back: got %v, want %v", back, want)
	}
}

func TestTagsAreSetListedFilteredAndBounded(t *testing.T) {
	s := newSite(t)
	net, sub := s.network("ann", "n", "10.0.0.0/24")
	port := s.port("ann", m{"network_id": net})
	group := s.send("ann", "POST", "/security-groups", m{"security_group": m{"name": "g"}}, 201).text("security_group", "id")
	for _, path := range []string{"/networks/" + net, "/subnets/" + sub, "/ports/" + port, "/security-groups/" + group} {
		s.send("ann", "PUT", path+"/tags", m{"tags": []string{"red", "blue"}}, 200)
		s.send("ann", "PUT", path+"/tags/green", nil, 201)
		s.send("ann", "GET", path+"/tags/green", nil, 204)
		s.send("ann", "DELETE", path+"/tags/red", nil, 204)
		s.refused("ann", "DELETE", path+"/tags/red", nil, 404, "TagNotFound")
		s.refused("ann", "GET", path+"/tags/red", nil, 404, "TagNotFound")
		s.send("bob", "PUT", path+"/tags/x", nil, 404)
		s.refused("ann", "PUT", path+"/tags/"+strings.Repeat("x", 61), nil, 400, "InvalidInput")
		if got := s.send("ann", "GET", path+"/tags", nil, 200).text("tags"); got != "[blue green]" {
			t.Errorf("%s has tags %s", path, got)
		}
	}
	for query, want := range map[string]int{"tags=blue,green": 1, "tags=blue,red": 0, "tags-any=red,blue": 1, "not-tags=blue,red": 1, "not-tags-any=blue": 0} {
		if got := s.ids("ann", "/networks?"+query, "networks"); len(got) != want {
			t.Errorf("%s finds %d, want %d", query, len(got), want)
		}
	}
	s.send("ann", "DELETE", "/networks/"+net+"/tags", nil, 204)
	if got := s.send("ann", "GET", "/networks/"+net, nil, 200).text("network", "tags"); got != "[]" {
		t.Errorf("tags after clearing: %s", got)
	}
}

func TestIfMatchGuardsAgainstLostUpdates(t *testing.T) {
	s := newSite(t)
	net, _ := s.network("ann", "n", "10.0.0.0/24")
	rev := s.send("ann", "GET", "/networks/"+net, nil, 200).text("network", "revision_number")
	s.send("ann", "PUT", "/networks/"+net, m{"network": m{"name": "a"}}, 200, "If-Match", "revision_number="+rev)
	r := s.send("ann", "PUT", "/networks/"+net, m{"network": m{"name": "b"}}, 412, "If-Match", "revision_number="+rev)
	if r.text("NeutronError", "type") != "RevisionNumberConstraintFailed" {
		t.Errorf("got %v", r.body)
	}
}

func TestDefaultGroupExistsOnceAndRulesAreNotRepeated(t *testing.T) {
	s := newSite(t)
	ids := s.ids("ann", "/security-groups?name=default", "security_groups")
	if len(ids) != 1 {
		t.Fatalf("%d default groups", len(ids))
	}
	rules := s.send("ann", "GET", "/security-group-rules?security_group_id="+ids[0], nil, 200)
	if list := rules.body["security_group_rules"].([]any); len(list) != 4 {
		t.Errorf("%d rules in the default group, want 4", len(list))
	}
	s.refused("ann", "DELETE", "/security-groups/"+ids[0], nil, 409, "SecurityGroupCannotRemoveDefault")
	s.refused("ann", "PUT", "/security-groups/"+ids[0], m{"security_group": m{"name": "x"}}, 409, "SecurityGroupCannotUpdateDefault")
	ssh := m{"security_group_rule": m{"security_group_id": ids[0], "direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22}}
	id := s.send("ann", "POST", "/security-group-rules", ssh, 201).text("security_group_rule", "id")
	s.refused("ann", "POST", "/security-group-rules", ssh, 409, "SecurityGroupRuleExists")
	byNumber := m{"security_group_rule": m{"security_group_id": ids[0], "direction": "ingress", "protocol": 6, "port_range_min": 22, "port_range_max": 22}}
	s.refused("ann", "POST", "/security-group-rules", byNumber, 409, "SecurityGroupRuleExists")
	s.send("bob", "DELETE", "/security-group-rules/"+id, nil, 404)
	s.send("ann", "DELETE", "/security-group-rules/"+id, nil, 204)
	s.send("ann", "POST", "/security-group-rules", ssh, 201)
}

func TestServersPortStaysWhileItsServerNamesIt(t *testing.T) {
	s := newSite(t)
	net, _ := s.network("ann", "n", "10.0.0.0/24")
	port := s.port("ann", m{"network_id": net, "device_id": "vm", "device_owner": "compute:nova"})
	_, err := s.store.UpdateVisible(testContext(t), func(tx *store.Tx) error {
		return store.Create(tx, tables.Servers, "vm", cloud.Server{ID: "vm", Project: "p1", Ports: []cloud.PortID{cloud.PortID(port)}})
	})
	if err != nil {
		t.Fatal(err)
	}
	s.refused("ann", "DELETE", "/ports/"+port, nil, 409, "PortInUse")
	s.refused("ann", "PUT", "/ports/"+port, m{"port": m{"device_id": ""}}, 409, "PortInUse")
	s.refused("admin", "PUT", "/ports/"+port, m{"port": m{"binding:host_id": "h"}}, 409, "PortInUse")
	s.send("ann", "PUT", "/ports/"+port, m{"port": m{"name": "eth0", "device_id": "vm"}}, 200)
	if _, err := s.store.UpdateVisible(testContext(t), func(tx *store.Tx) error { return store.Delete(tx, tables.Servers, "vm") }); err != nil {
		t.Fatal(err)
	}
	s.send("ann", "DELETE", "/ports/"+port, nil, 204)
}

func TestSmallResourcesAnswerWhatClientsLookFor(t *testing.T) {
	s := newSite(t)
	_, err := s.store.UpdateVisible(testContext(t), func(tx *store.Tx) error {
		if err := store.Put(tx, tables.Hosts, cloud.HostName("h1"), cloud.Host{Name: "h1", ID: "u1", ServiceID: "u2", Number: 1, Zone: "az1"}); err != nil {
			return err
		}
		return store.Put(tx, tables.HostReports, cloud.HostName("h1"), cloud.HostReport{Host: "h1", Generation: 1, TunnelAddress: "10.0.0.9"})
	})
	if err != nil {
		t.Fatal(err)
	}
	s.refused("ann", "GET", "/agents", nil, 403, "PolicyNotAuthorized")
	r := s.send("admin", "GET", "/agents?host=h1&alive=false", nil, 200)
	if agents := r.body["agents"].([]any); len(agents) != 1 || agents[0].(m)["binary"] != "godwit-agent" {
		t.Errorf("agents %v", agents)
	}
	s.send("admin", "GET", "/agents/u1", nil, 200)
	if got := s.send("ann", "GET", "/availability_zones", nil, 200).text("availability_zones"); !strings.Contains(got, "az1") || !strings.Contains(got, "nova") {
		t.Errorf("zones %s", got)
	}
	s.refused("ann", "GET", "/auto-allocated-topology/p1", nil, 409, "AutoAllocationFailure")
	net, _ := s.network("ann", "only", "10.0.0.0/24")
	if got := s.send("ann", "GET", "/auto-allocated-topology/null", nil, 200).text("auto_allocated_topology", "id"); got != net {
		t.Errorf("auto network %s, want %s", got, net)
	}
	if got := s.send("ann", "GET", "/auto-allocated-topology/p1?fields=dry-run", nil, 200).text("auto_allocated_topology", "id"); got != "dry-run=pass" {
		t.Errorf("dry run: %s", got)
	}
	s.send("bob", "GET", "/auto-allocated-topology/p1", nil, 403)
	ip := s.send("admin", "GET", "/network-ip-availabilities/"+net, nil, 200)
	if got := ip.text("network_ip_availability", "total_ips") + " " + ip.text("network_ip_availability", "used_ips"); got != "253 1" {
		t.Errorf("addresses total and used: %s, want 253 1", got)
	}
	if got := s.send("ann", "GET", "/quotas/p1", nil, 200).text("quota", "router"); got != "0" {
		t.Errorf("router quota %s", got)
	}
	s.send("bob", "GET", "/quotas/p1", nil, 403)
	s.refused("admin", "PUT", "/quotas/p1", m{"quota": m{"port": 1}}, 501, "HTTPNotImplemented")
	for _, path := range []string{"routers", "floatingips", "subnetpools", "address-scopes", "rbac-policies"} {
		if got := s.send("ann", "GET", "/"+path+"?name=x", nil, 200).text(strings.ReplaceAll(path, "-", "_")); got != "[]" {
			t.Errorf("%s: %s", path, got)
		}
	}
	s.send("ann", "GET", "/extensions/security-group", nil, 200)
	for _, path := range []string{"", "/v2.0/"} {
		req, _ := http.NewRequest(http.MethodGet, s.url+"/network"+path, nil)
		req.Header.Set("X-Auth-Token", "ann")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("/network%s: %d", path, resp.StatusCode)
		}
	}
}

func TestAdministratorsSegmentIsSkippedByLaterNetworks(t *testing.T) {
	s := newSite(t)
	s.send("admin", "POST", "/networks", m{"network": m{"name": "taken", "provider:network_type": "vxlan", "provider:segmentation_id": 2}}, 201)
	s.refused("admin", "POST", "/networks", m{"network": m{"provider:segmentation_id": 2}}, 409, "TunnelIdInUse")
	s.refused("ann", "POST", "/networks", m{"network": m{"provider:segmentation_id": 3}}, 403, "PolicyNotAuthorized")
	var got []string
	for range 2 {
		got = append(got, s.send("admin", "POST", "/networks", m{"network": m{}}, 201).text("network", "provider:segmentation_id"))
	}
	if !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("segments %v, want 1 and 3", got)
	}
}
