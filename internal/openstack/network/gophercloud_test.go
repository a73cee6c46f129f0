package network_test

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/attributestags"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/portsbinding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/provider"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/groups"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/security/rules"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// must fails the test on an error and otherwise returns v.
func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestGophercloudMakesANetworkWithEverythingAndRemovesIt(t *testing.T) {
	s := newSite(t)
	ctx, c := testContext(t), s.client("ann")
	no := false

	n := must[*networks.Network](t)(networks.Create(ctx, c, networks.CreateOpts{Name: "blue", Description: "the blue one"}).Extract())
	if n.Status != "ACTIVE" || !n.AdminStateUp || n.Shared || n.ProjectID != "p1" || n.CreatedAt.IsZero() || n.RevisionNumber != 1 {
		t.Errorf("network %+v", n)
	}
	gateway := "10.1.0.254"
	sub := must[*subnets.Subnet](t)(subnets.Create(ctx, c, subnets.CreateOpts{
		NetworkID: n.ID, CIDR: "10.1.0.7/24", IPVersion: gophercloud.IPv4, Name: "blue4", GatewayIP: &gateway,
		AllocationPools: []subnets.AllocationPool{{Start: "10.1.0.10", End: "10.1.0.20"}},
		DNSNameservers:  []string{"9.9.9.9"}, HostRoutes: []subnets.HostRoute{{DestinationCIDR: "192.168.0.0/16", NextHop: "10.1.0.9"}},
	}).Extract())
	if sub.CIDR != "10.1.0.0/24" || sub.GatewayIP != gateway || !sub.EnableDHCP || sub.DNSNameservers[0] != "9.9.9.9" || sub.HostRoutes[0].NextHop != "10.1.0.9" {
		t.Errorf("subnet %+v", sub)
	}
	g := must[*groups.SecGroup](t)(groups.Create(ctx, c, groups.CreateOpts{Name: "web"}).Extract())
	rule := must[*rules.SecGroupRule](t)(rules.Create(ctx, c, rules.CreateOpts{
		SecGroupID: g.ID, Direction: rules.DirIngress, EtherType: rules.EtherType4, Protocol: rules.ProtocolTCP, PortRangeMin: 80, PortRangeMax: 81, RemoteIPPrefix: "10.0.0.0/8",
	}).Extract())
	p := must[*ports.Port](t)(ports.Create(ctx, c, ports.CreateOpts{
		NetworkID: n.ID, Name: "eth0", SecurityGroups: &[]string{g.ID}, FixedIPs: []ports.IP{{SubnetID: sub.ID, IPAddress: "10.1.0.15"}},
		AllowedAddressPairs: []ports.AddressPair{{IPAddress: "10.1.0.100"}},
	}).Extract())
	if p.FixedIPs[0].IPAddress != "10.1.0.15" || p.SecurityGroups[0] != g.ID || p.Status != "DOWN" || p.AllowedAddressPairs[0].IPAddress != "10.1.0.100" {
		t.Errorf("port %+v", p)
	}
	name := "eth1"
	p = must[*ports.Port](t)(ports.Update(ctx, c, p.ID, ports.UpdateOpts{Name: &name, AdminStateUp: &no, FixedIPs: []ports.IP{{SubnetID: sub.ID}, {SubnetID: sub.ID}}}).Extract())
	if p.Name != "eth1" || p.AdminStateUp || len(p.FixedIPs) != 2 || p.RevisionNumber != 2 {
		t.Errorf("updated port %+v", p)
	}
	tags := must[[]string](t)(attributestags.ReplaceAll(ctx, c, "ports", p.ID, attributestags.ReplaceAllOpts{Tags: []string{"b", "a"}}).Extract())
	if !slices.Equal(tags, []string{"a", "b"}) && !slices.Equal(tags, []string{"b", "a"}) {
		t.Errorf("tags %v", tags)
	}
	pages := must[[]ports.Port](t)(listPorts(t, c, ports.ListOpts{Tags: "a,b", FixedIPs: []ports.FixedIPOpts{{SubnetID: sub.ID}}}))
	if len(pages) != 1 || pages[0].ID != p.ID {
		t.Errorf("by tags: %+v", pages)
	}

	if err := networks.Delete(ctx, c, n.ID).ExtractErr(); !gophercloud.ResponseCodeIs(err, http.StatusConflict) {
		t.Errorf("network in use was deleted: %v", err)
	}
	if err := groups.Delete(ctx, c, g.ID).ExtractErr(); !gophercloud.ResponseCodeIs(err, http.StatusConflict) {
		t.Errorf("group in use was deleted: %v", err)
	}
	for what, err := range map[string]error{"port": ports.Delete(ctx, c, p.ID).ExtractErr(), "rule": rules.Delete(ctx, c, rule.ID).ExtractErr()} {
		if err != nil {
			t.Errorf("delete %s: %v", what, err)
		}
	}
	for _, err := range []error{groups.Delete(ctx, c, g.ID).ExtractErr(), networks.Delete(ctx, c, n.ID).ExtractErr()} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := networks.Get(ctx, c, n.ID).Extract(); !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		t.Errorf("deleted network: %v", err)
	}
}

func listPorts(t *testing.T, c *gophercloud.ServiceClient, o ports.ListOpts) ([]ports.Port, error) {
	page, err := ports.List(c, o).AllPages(testContext(t))
	if err != nil {
		return nil, err
	}
	return ports.ExtractPorts(page)
}

func TestGophercloudSeesProviderAndBindingAsAdministratorOnly(t *testing.T) {
	s := newSite(t)
	ctx, admin := testContext(t), s.client("admin")
	type net struct {
		networks.Network
		provider.NetworkProviderExt
	}
	var n net
	err := networks.Create(ctx, admin, provider.CreateOptsExt{CreateOptsBuilder: networks.CreateOpts{Name: "x", ProjectID: "p1"},
		Segments: nil}).ExtractInto(&n)
	if err != nil || n.NetworkType != "vxlan" || n.SegmentationID == "" || n.ProjectID != "p1" {
		t.Fatalf("%+v %v", n, err)
	}
	type port struct {
		ports.Port
		portsbinding.PortsBindingExt
	}
	var p port
	err = ports.Create(ctx, admin, portsbinding.CreateOptsExt{CreateOptsBuilder: ports.CreateOpts{NetworkID: n.ID}, HostID: "compute-1"}).ExtractInto(&p)
	if err != nil || p.HostID != "compute-1" || p.VIFType != "bridge" || p.VNICType != "normal" || p.Status != "ACTIVE" {
		t.Fatalf("%+v %v", p, err)
	}
	r := s.send("ann", "GET", "/ports/"+p.ID, nil, 200)
	if r.at("port", "binding:host_id") != nil || r.text("port", "binding:vnic_type") != "normal" {
		t.Errorf("a member sees %v", r.body)
	}
	if s.send("ann", "GET", "/networks/"+n.ID, nil, 200).at("network", "provider:segmentation_id") != nil {
		t.Error("a member sees the segment")
	}
}

func TestTwoHundredConcurrentPortsGetUniqueAddressesThenARefusal(t *testing.T) {
	s := newSite(t)
	net, _ := s.network("ann", "full", "10.0.0.0/24")
	const room = 252 // 254 less gateway and DHCP
	ctx, c := testContext(t), s.client("ann")
	var mu sync.Mutex
	seen := map[string]bool{}
	var left atomic.Int64
	left.Store(room)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				p, err := ports.Create(ctx, c, ports.CreateOpts{NetworkID: net}).Extract()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[p.FixedIPs[0].IPAddress] {
					t.Errorf("%s was given twice", p.FixedIPs[0].IPAddress)
				}
				seen[p.FixedIPs[0].IPAddress] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != room {
		t.Fatalf("%d addresses, want %d", len(seen), room)
	}
	s.refused("ann", "POST", "/ports", m{"port": m{"network_id": net}}, 409, "IpAddressGenerationFailure")
}
