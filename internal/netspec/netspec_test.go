package netspec_test

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/netspec"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// book is Records in memory.
type book struct {
	ports    map[cloud.PortID]*cloud.Port
	networks map[cloud.NetworkID]*cloud.Network
	subnets  map[cloud.SubnetID]*cloud.Subnet
	groups   map[cloud.SecurityGroupID]*cloud.SecurityGroup
}

func (b *book) Port(id cloud.PortID) *cloud.Port          { return b.ports[id] }
func (b *book) Network(id cloud.NetworkID) *cloud.Network { return b.networks[id] }
func (b *book) Subnet(id cloud.SubnetID) *cloud.Subnet    { return b.subnets[id] }
func (b *book) SecurityGroup(id cloud.SecurityGroupID) *cloud.SecurityGroup {
	return b.groups[id]
}

func (b *book) portsWhere(test func(*cloud.Port) bool) []*cloud.Port {
	var out []*cloud.Port
	for _, p := range b.ports { // map order: what is built from it must not depend on it
		if test(p) {
			out = append(out, p)
		}
	}
	return out
}

func (b *book) PortsOfDevice(d string) []*cloud.Port {
	return b.portsWhere(func(p *cloud.Port) bool { return p.DeviceID == d })
}

func (b *book) PortsOnNetwork(id cloud.NetworkID) []*cloud.Port {
	return b.portsWhere(func(p *cloud.Port) bool { return p.Network == id })
}

func (b *book) PortsInGroup(id cloud.SecurityGroupID) []*cloud.Port {
	return b.portsWhere(func(p *cloud.Port) bool { return slices.Contains(p.SecurityGroups, id) })
}

func (b *book) GroupsNaming(id cloud.SecurityGroupID) []*cloud.SecurityGroup {
	var out []*cloud.SecurityGroup
	for _, g := range b.groups {
		if slices.ContainsFunc(g.Rules, func(r cloud.SecurityGroupRule) bool { return r.RemoteGroup == id }) {
			out = append(out, g)
		}
	}
	return out
}

func number(n int) *int { return &n }

// example is one network with a server on it, the server's DHCP port, and another server's port in group "web".
func example() *book {
	return &book{
		networks: map[cloud.NetworkID]*cloud.Network{"n": {ID: "n", VNI: 7, MTU: 1450, AdminUp: true}},
		subnets: map[cloud.SubnetID]*cloud.Subnet{"s": {ID: "s", Network: "n", CIDR: "10.0.0.0/24", Gateway: "10.0.0.1", DHCP: true,
			DNS: []string{"9.9.9.9"}, Routes: []cloud.Route{{Destination: "10.9.0.0/16", NextHop: "10.0.0.9"}}}},
		ports: map[cloud.PortID]*cloud.Port{
			"p": {ID: "p", Network: "n", MAC: "fa:16:3e:00:00:01", AdminUp: true, PortSecurity: true, DeviceID: "vm", DeviceOwner: "compute:nova",
				FixedIPs: []cloud.FixedIP{{Subnet: "s", Address: "10.0.0.5"}}, SecurityGroups: []cloud.SecurityGroupID{"db", "gone"},
				AllowedPairs: []cloud.AddressPair{{Address: "10.0.0.200"}}},
			"w": {ID: "w", Network: "n", AdminUp: true, PortSecurity: true, DeviceID: "web1", DeviceOwner: "compute:nova",
				FixedIPs: []cloud.FixedIP{{Subnet: "s", Address: "10.0.0.9"}}, SecurityGroups: []cloud.SecurityGroupID{"web"}},
			"d": {ID: "d", Network: "n", DeviceID: cloud.DHCPDevice("s"), DeviceOwner: cloud.DeviceOwnerDHCP, FixedIPs: []cloud.FixedIP{{Subnet: "s", Address: "10.0.0.2"}}},
		},
		groups: map[cloud.SecurityGroupID]*cloud.SecurityGroup{
			"web": {ID: "web", Rules: []cloud.SecurityGroupRule{{ID: "0", Direction: "egress", EtherType: "IPv4"}}},
			"db": {ID: "db", Rules: []cloud.SecurityGroupRule{
				{ID: "1", Direction: "ingress", EtherType: "IPv4", Protocol: "6", PortMin: number(5432), PortMax: number(5432), RemoteGroup: "web"},
				{ID: "2", Direction: "ingress", EtherType: "IPv6", Protocol: "tcp", PortMin: number(5432), PortMax: number(5432), RemoteGroup: "web"},
				{ID: "3", Direction: "ingress", EtherType: "IPv4", RemoteGroup: "empty"},
				{ID: "4", Direction: "egress", EtherType: "IPv4"},
				{ID: "5", Direction: "egress", EtherType: "IPv4"},
				{ID: "6", Direction: "ingress", EtherType: "IPv4", Protocol: "vrrp", RemoteCIDR: "10.0.0.0/8"},
			}},
		},
	}
}

func TestPortIsResolvedIntoWhatAHostMustBuild(t *testing.T) {
	got, err := netspec.ForServer(example(), &cloud.Server{ID: "vm", Ports: []cloud.PortID{"p"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []cloud.NIC{{
		Port: "p", MAC: "fa:16:3e:00:00:01", MTU: 1450, Network: "n", VNI: 7, PortSecurity: true, AllowedPairs: []string{"10.0.0.200"},
		Addresses: []cloud.NICAddress{{Subnet: "s", Address: "10.0.0.5", Prefix: 24, Gateway: "10.0.0.1", DNS: []string{"9.9.9.9"},
			Routes: []cloud.Route{{Destination: "10.9.0.0/16", NextHop: "10.0.0.9"}}, DHCP: true, DHCPAddress: "10.0.0.2"}},
		Rules: []cloud.NICRule{
			{Direction: "egress", EtherType: "IPv4", PortMin: -1, PortMax: -1},
			{Direction: "ingress", EtherType: "IPv4", Protocol: "112", PortMin: -1, PortMax: -1, RemoteCIDRs: []string{"10.0.0.0/8"}},
			{Direction: "ingress", EtherType: "IPv4", Protocol: "tcp", PortMin: 5432, PortMax: 5432, RemoteCIDRs: []string{"10.0.0.9/32"}},
		},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestRuleOfAnEmptyRemoteGroupAllowsNobodyInsteadOfEverybody(t *testing.T) {
	b := example()
	delete(b.ports, "w")
	nic, err := netspec.ForPort(b, b.ports["p"])
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range nic.Rules {
		if r.Direction == "ingress" && len(r.RemoteCIDRs) == 0 {
			t.Errorf("rule %+v lets everybody in", r)
		}
	}
}

func TestPortThatIsDownOrWithoutSecurity(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*book)
		security bool
	}{
		"port down":        {func(b *book) { b.ports["p"].AdminUp = false }, true},
		"network down":     {func(b *book) { b.networks["n"].AdminUp = false }, true},
		"no port security": {func(b *book) { b.ports["p"].PortSecurity = false }, false},
		"open but down":    {func(b *book) { b.ports["p"].PortSecurity, b.ports["p"].AdminUp = false, false }, true},
	} {
		b := example()
		c.change(b)
		nic, err := netspec.ForPort(b, b.ports["p"])
		if err != nil || nic.PortSecurity != c.security || len(nic.Rules)+len(nic.AllowedPairs) != 0 {
			t.Errorf("%s: %+v %v", name, nic, err)
		}
	}
}

func TestMissingRecordsAreErrors(t *testing.T) {
	for name, spoil := range map[string]func(*book){
		"port": func(b *book) { delete(b.ports, "p") }, "network": func(b *book) { delete(b.networks, "n") }, "subnet": func(b *book) { delete(b.subnets, "s") },
	} {
		b := example()
		spoil(b)
		if _, err := netspec.ForServer(b, &cloud.Server{ID: "vm", Ports: []cloud.PortID{"p"}}); !cloud.Is(err, cloud.KindNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := example()
	delete(b.ports, "d")
	if nic, err := netspec.ForPort(b, b.ports["p"]); err != nil || nic.Addresses[0].DHCP {
		t.Errorf("no DHCP port: %+v %v", nic, err)
	}
}

func TestBindingStatusAndNameOfAPortAffectNobody(t *testing.T) {
	b := example()
	moved := *b.ports["p"]
	moved.BindingHost, moved.Status, moved.Name, moved.Revision = "h2", "ACTIVE", "x", 9
	if got := netspec.Affected(b, netspec.Changes{Ports: []netspec.PortChange{{Old: b.ports["p"], New: &moved}}}); len(got) != 0 {
		t.Errorf("affected %v", got)
	}
}

// TestAffectedNamesEveryServerWhoseNICsChanged edits a random world and compares all NICs before and after: whoever differs must be named.
func TestAffectedNamesEveryServerWhoseNICsChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawWorld(t), (*book)(nil)
		after = before.clone()
		changes := edit(t, before, after)
		named := netspec.Affected(after, changes)
		for id, p := range after.ports {
			server, ok := netspec.ServerOf(p)
			if !ok || before.ports[id] == nil {
				continue
			}
			old, err1 := netspec.ForPort(before, before.ports[id])
			now, err2 := netspec.ForPort(after, p)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if !reflect.DeepEqual(old, now) && !slices.Contains(named, server) {
				t.Fatalf("%s changed and is not among %v\nbefore %+v\nafter  %+v", server, named, old, now)
			}
		}
	})
}

func drawWorld(t *rapid.T) *book {
	b := example()
	groups := []cloud.SecurityGroupID{"db", "web", "empty"}
	b.groups["empty"] = &cloud.SecurityGroup{ID: "empty"}
	for i := range rapid.IntRange(0, 5).Draw(t, "servers") {
		id := fmt.Sprintf("x%d", i)
		b.ports[cloud.PortID(id)] = &cloud.Port{ID: cloud.PortID(id), Network: "n", MAC: id, AdminUp: true, PortSecurity: rapid.Bool().Draw(t, "security"),
			DeviceID: "vm-" + id, DeviceOwner: "compute:nova", FixedIPs: []cloud.FixedIP{{Subnet: "s", Address: fmt.Sprintf("10.0.0.%d", 20+i)}},
			SecurityGroups: rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID).Draw(t, "groups")}
	}
	return b
}

func (b *book) clone() *book {
	out := &book{map[cloud.PortID]*cloud.Port{}, map[cloud.NetworkID]*cloud.Network{}, map[cloud.SubnetID]*cloud.Subnet{}, map[cloud.SecurityGroupID]*cloud.SecurityGroup{}}
	for k, v := range b.ports {
		p := *v
		out.ports[k] = &p
	}
	for k, v := range b.networks {
		n := *v
		out.networks[k] = &n
	}
	for k, v := range b.subnets {
		s := *v
		out.subnets[k] = &s
	}
	for k, v := range b.groups {
		g := *v
		g.Rules = slices.Clone(v.Rules)
		out.groups[k] = &g
	}
	return out
}

// edit makes one change to after and returns what a watcher would tell of it.
func edit(t *rapid.T, before, after *book) (c netspec.Changes) {
	ids := make([]cloud.PortID, 0, len(after.ports))
	for id := range after.ports {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(t, "port")
	port := func(f func(*cloud.Port)) {
		f(after.ports[id])
		c.Ports = append(c.Ports, netspec.PortChange{Old: before.ports[id], New: after.ports[id]})
	}
	switch rapid.IntRange(0, 8).Draw(t, "edit") {
	case 0:
		port(func(p *cloud.Port) { p.FixedIPs = []cloud.FixedIP{{Subnet: "s", Address: "10.0.0.99"}} })
	case 1:
		port(func(p *cloud.Port) { p.SecurityGroups = []cloud.SecurityGroupID{"web"} })
	case 2:
		port(func(p *cloud.Port) { p.AllowedPairs = []cloud.AddressPair{{Address: "10.0.0.111"}} })
	case 3:
		port(func(p *cloud.Port) { p.AdminUp = !p.AdminUp })
	case 4:
		delete(after.ports, id)
		c.Ports = append(c.Ports, netspec.PortChange{Old: before.ports[id]})
	case 5:
		after.networks["n"].MTU = 1400
		c.Networks = append(c.Networks, "n")
	case 6:
		after.subnets["s"].DNS = []string{"1.1.1.1"}
		c.SubnetChanged(after.subnets["s"])
	case 7:
		after.groups["web"].Rules = append(after.groups["web"].Rules, cloud.SecurityGroupRule{Direction: "ingress", EtherType: "IPv4", RemoteGroup: "db"})
		c.Groups = append(c.Groups, "web")
	case 8:
		p := &cloud.Port{ID: "new", Network: "n", AdminUp: true, FixedIPs: []cloud.FixedIP{{Subnet: "s", Address: "10.0.0.98"}}, SecurityGroups: []cloud.SecurityGroupID{"web"}}
		after.ports["new"] = p
		c.Ports = append(c.Ports, netspec.PortChange{New: p})
	}
	return c
}

func TestStoresViewIsReadLikeAnyRecords(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := store.Open(ctx, store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Unix(1, 0)
	port := func(id cloud.PortID, device string) func(tx *store.Tx) error {
		return func(tx *store.Tx) error {
			_, err := ipam.AllocatePort(tx, ipam.PortRequest{ID: id, Network: "n", Project: "p", DeviceID: device, DeviceOwner: ipam.ComputeOwner(""), Now: now})
			return err
		}
	}
	for _, fn := range []func(tx *store.Tx) error{
		func(tx *store.Tx) error {
			return store.Put(tx, tables.Networks, cloud.NetworkID("n"), cloud.Network{ID: "n", Project: "p", VNI: 3, MTU: 1450, AdminUp: true, PortSecurity: true})
		},
		func(tx *store.Tx) error {
			return ipam.AddSubnet(tx, cloud.Subnet{ID: "s", Network: "n", Project: "p", CIDR: "10.0.0.0/24", Gateway: "10.0.0.1", DHCP: true, Pools: []cloud.AddressRange{{Start: "10.0.0.2", End: "10.0.0.9"}}})
		},
		port("p1", "vm1"), port("p2", "vm2"),
	} {
		if _, err := s.UpdateVisible(ctx, fn); err != nil {
			t.Fatal(err)
		}
	}
	r := tables.NetworkRecords{Reader: s.View()}
	nics, err := netspec.ForServer(r, &cloud.Server{ID: "vm1", Ports: []cloud.PortID{"p1"}})
	if err != nil {
		t.Fatal(err)
	}
	if a := nics[0].Addresses[0]; a.DHCPAddress != "10.0.0.2" || !a.DHCP || nics[0].VNI != 3 {
		t.Errorf("nic %+v", nics[0])
	}
	ingress := slices.IndexFunc(nics[0].Rules, func(r cloud.NICRule) bool { return r.Direction == "ingress" })
	if ingress < 0 || len(nics[0].Rules[ingress].RemoteCIDRs) != 2 {
		t.Errorf("the default group must let its two members talk: %+v", nics[0].Rules)
	}
	p2 := r.Port("p2")
	if got := netspec.Affected(r, netspec.Changes{Ports: []netspec.PortChange{{New: p2}}}); !slices.Equal(got, []cloud.ServerID{"vm1", "vm2"}) {
		t.Errorf("a new member of the default group affects %v, want both members", got)
	}
}

func FuzzParsePair(f *testing.F) {
	f.Add("10.0.0.1")
	f.Add("fd00::7/64")
	f.Add("::ffff:10.0.0.1%eth0")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := netspec.ParsePair(s)
		if err != nil {
			return
		}
		if again, err := netspec.ParsePair(p.String()); err != nil || again != p {
			t.Errorf("%q reads as %s, which reads as %s (%v)", s, p, again, err)
		}
	})
}

func TestProtocolsHaveOneSpelling(t *testing.T) {
	for in, want := range map[string]string{"": "", "tcp": "tcp", "6": "tcp", "17": "udp", "1": "icmp", "vrrp": "112", "icmpv6": "58", "ipv6-icmp": "58", "0112": "112", "250": "250"} {
		if got := netspec.Protocol(in); got != want || !netspec.KnownProtocol(in) {
			t.Errorf("%q is spelled %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"256", "-1", "pigeon", "TCP"} {
		if netspec.KnownProtocol(in) {
			t.Errorf("%q is taken for a protocol", in)
		}
	}
}
