package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const owner cloud.ProjectID = "p1"

func open(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), store.Options{DataDir: t.TempDir(), Tables: tables.All(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func try(t testing.TB, s *store.Store, fn func(tx *store.Tx) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := s.UpdateVisible(ctx, fn)
	return err
}

func must(t testing.TB, s *store.Store, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := try(t, s, fn); err != nil {
		t.Fatal(err)
	}
}

// refused fails the test unless err is a refusal of the class.
func refused(t testing.TB, err error, kind cloud.Kind, class string) {
	t.Helper()
	var r *ipam.Refusal
	if !cloud.Is(err, kind) || !errors.As(err, &r) || r.Type != class {
		t.Errorf("got %v, want %s (%s)", err, class, kind)
	}
}

// network makes a network with one subnet for each block; the gateway is the first address.
func network(t testing.TB, s *store.Store, id cloud.NetworkID, blocks ...string) {
	t.Helper()
	must(t, s, func(tx *store.Tx) error {
		vni, err := ipam.NextVNI(tx)
		if err != nil {
			return err
		}
		return store.Create(tx, tables.Networks, id, cloud.Network{ID: id, Name: string(id), Project: owner, VNI: vni, MTU: 1450, AdminUp: true, PortSecurity: true})
	})
	for i, b := range blocks {
		must(t, s, func(tx *store.Tx) error { return ipam.AddSubnet(tx, subnet(id, i, b)) })
	}
}

func subnet(id cloud.NetworkID, i int, block string) cloud.Subnet {
	prefix := netip.MustParsePrefix(block)
	gw := ipam.FirstHost(prefix).String()
	return cloud.Subnet{ID: cloud.SubnetID(fmt.Sprintf("%s-sub%d", id, i)), Network: id, Project: owner, IPVersion: 4, CIDR: block,
		Gateway: gw, DHCP: true, Pools: ipam.DefaultPools(prefix, gw), Created: now, Revision: 1}
}

func allocate(s *store.Store, r ipam.PortRequest) (p cloud.Port, err error) {
	r.Now = now
	if r.Project == "" {
		r.Project = owner
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = s.UpdateVisible(ctx, func(tx *store.Tx) (err error) {
		p, err = ipam.AllocatePort(tx, r)
		return err
	})
	return p, err
}

func TestConcurrentPortsGetUniqueAddressesAndThenACleanRefusal(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24") // 254 hosts, less gateway and DHCP: 252
	const room, workers = 252, 16
	seen := map[string]cloud.PortID{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var tickets atomic.Int64
	for range workers {
		wg.Go(func() {
			for tickets.Add(1) <= 200 {
				p, err := allocate(s, ipam.PortRequest{Network: "n"})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, key := range []string{p.FixedIPs[0].Address, p.MAC} {
					if other, twice := seen[key]; twice {
						t.Errorf("%s given to %s and %s", key, other, p.ID)
					}
					seen[key] = p.ID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for range room - 200 {
		if _, err := allocate(s, ipam.PortRequest{Network: "n"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := allocate(s, ipam.PortRequest{Network: "n"})
	refused(t, err, cloud.KindExhausted, "IpAddressGenerationFailure")
	if got := store.Count(s, tables.AddressClaims); got != room+1 {
		t.Errorf("%d claims, want %d and the DHCP port's", got, room)
	}
	if got := store.Count(s, tables.SecurityGroups); got != 1 {
		t.Errorf("%d default groups were made, want 1", got)
	}
}

func TestReleasedAddressIsGivenAgain(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/29") // .2 DHCP, .3 to .6 free
	var ports []cloud.Port
	for range 4 {
		p, err := allocate(s, ipam.PortRequest{Network: "n"})
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, p)
	}
	must(t, s, func(tx *store.Tx) error { return ipam.ReleasePort(tx, ports[2].ID) })
	must(t, s, func(tx *store.Tx) error { return ipam.ReleasePort(tx, ports[2].ID) })
	p, err := allocate(s, ipam.PortRequest{Network: "n"})
	if err != nil || p.FixedIPs[0] != ports[2].FixedIPs[0] {
		t.Errorf("got %v %v, want the one free address %v", p.FixedIPs, err, ports[2].FixedIPs)
	}
}

func TestRefusedPortLeavesNothing(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24")
	before := store.Count(s, tables.AddressClaims)
	_, err := allocate(s, ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.9"}, {Address: "10.0.0.9"}}})
	if err == nil {
		t.Fatal("the same address twice was given")
	}
	if got := store.Count(s, tables.AddressClaims); got != before || store.Count(s, tables.Ports) != 1 {
		t.Errorf("%d claims, want %d", got, before)
	}
}

func TestRequestedAddressesAreHonouredOrRefusedByName(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24", "10.0.1.0/24")
	network(t, s, "empty")
	p, err := allocate(s, ipam.PortRequest{Network: "n", MAC: "FA-16-3E-00-00-01", Addresses: []ipam.AddressRequest{{Subnet: "n-sub1"}, {Address: "10.0.0.77"}, {Address: "10.0.1.5", Subnet: "n-sub1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if p.MAC != "fa:16:3e:00:00:01" || len(p.FixedIPs) != 3 || !slices.Contains(p.FixedIPs, cloud.FixedIP{Subnet: "n-sub0", Address: "10.0.0.77"}) {
		t.Errorf("got %+v", p)
	}
	cases := []struct {
		name  string
		r     ipam.PortRequest
		kind  cloud.Kind
		class string
	}{
		{"taken", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.77"}}}, cloud.KindConflict, "IpAddressAlreadyAllocated"},
		{"dhcp's", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.2"}}}, cloud.KindConflict, "IpAddressAlreadyAllocated"},
		{"broadcast", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.255"}}}, cloud.KindInvalid, "InvalidIpForNetwork"},
		{"elsewhere", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "192.168.0.1"}}}, cloud.KindInvalid, "InvalidIpForNetwork"},
		{"wrong subnet", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.8", Subnet: "n-sub1"}}}, cloud.KindInvalid, "InvalidIpForSubnet"},
		{"foreign subnet", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Subnet: "x"}}}, cloud.KindInvalid, "InvalidInput"},
		{"no address", ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "ten"}}}, cloud.KindInvalid, "InvalidInput"},
		{"too many", ipam.PortRequest{Network: "n", Addresses: make([]ipam.AddressRequest, 6)}, cloud.KindInvalid, "InvalidInput"},
		{"mac taken", ipam.PortRequest{Network: "n", MAC: "fa:16:3e:00:00:01"}, cloud.KindConflict, "MacAddressInUse"},
		{"no subnet", ipam.PortRequest{Network: "empty", Addresses: []ipam.AddressRequest{{}}}, cloud.KindExhausted, "IpAddressGenerationFailure"},
		{"no network", ipam.PortRequest{Network: "gone"}, cloud.KindNotFound, "NetworkNotFound"},
		{"not theirs", ipam.PortRequest{Network: "n", Project: "p2"}, cloud.KindNotFound, "NetworkNotFound"},
		{"no group", ipam.PortRequest{Network: "n", SecurityGroups: []cloud.SecurityGroupID{"gone"}}, cloud.KindNotFound, "SecurityGroupNotFound"},
		{"groups without security", ipam.PortRequest{Network: "n", PortSecurity: new(bool), SecurityGroups: []cloud.SecurityGroupID{"g"}}, cloud.KindConflict, "PortSecurityAndIPRequiredForSecurityGroups"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := allocate(s, c.r)
			refused(t, err, c.kind, c.class)
		})
	}
}

func TestFullFirstSubnetOverflowsIntoTheNext(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/30", "10.0.1.0/24") // the first has room for gateway and DHCP only
	p, err := allocate(s, ipam.PortRequest{Network: "n"})
	if err != nil || p.FixedIPs[0].Subnet != "n-sub1" {
		t.Errorf("got %v %v", p.FixedIPs, err)
	}
}

func TestReaddressKeepsWhatSuitsAndGivesBackTheRest(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24")
	p, err := allocate(s, ipam.PortRequest{Network: "n", Addresses: []ipam.AddressRequest{{Address: "10.0.0.10"}, {Address: "10.0.0.11"}}})
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		ask  []ipam.AddressRequest
		want []string
	}{
		{[]ipam.AddressRequest{{Address: "10.0.0.11"}, {Address: "10.0.0.12"}}, []string{"10.0.0.11", "10.0.0.12"}},
		{[]ipam.AddressRequest{{Subnet: "n-sub0"}}, []string{"10.0.0.11"}},
		{[]ipam.AddressRequest{}, nil},
		{[]ipam.AddressRequest{{Address: "10.0.0.10"}}, []string{"10.0.0.10"}},
	}
	for _, step := range steps {
		must(t, s, func(tx *store.Tx) error {
			now, err := store.Get(tx, tables.Ports, p.ID)
			if err != nil {
				return err
			}
			if err := ipam.Readdress(tx, &now, step.ask); err != nil {
				return err
			}
			return store.Put(tx, tables.Ports, p.ID, now)
		})
		var have, claimed []string
		port, _ := store.Lookup(s, tables.Ports, p.ID)
		for _, ip := range port.FixedIPs {
			have = append(have, ip.Address)
		}
		for _, c := range store.By(s, tables.AddressClaims, tables.ByPort, p.ID) {
			claimed = append(claimed, c.Address)
		}
		if step.want == nil {
			claimed = nil // the claim on the network itself
		}
		if !slices.Equal(have, step.want) || !slices.Equal(claimed, step.want) {
			t.Errorf("asked %v: port has %v, claims say %v", step.ask, have, claimed)
		}
		if n := len(store.By(s, tables.AddressClaims, tables.ByPort, p.ID)); n != max(1, len(step.want)) {
			t.Errorf("asked %v: %d claims", step.ask, n)
		}
	}
}

func TestNetworkWithPortsStaysAndOneWithDHCPPortsOnlyGoesWhole(t *testing.T) {
	s := open(t)
	var blocks []string
	for i := range ipam.SubnetsPerNetworkMax {
		blocks = append(blocks, fmt.Sprintf("10.%d.0.0/24", i))
	}
	network(t, s, "n", blocks...)
	remove := func(tx *store.Tx) error { return ipam.RemoveNetwork(tx, "n") }
	for name, r := range map[string]ipam.PortRequest{"addressed": {Network: "n"}, "bare": {Network: "n", Addresses: []ipam.AddressRequest{}}} {
		p, err := allocate(s, r)
		if err != nil {
			t.Fatal(name, err)
		}
		refused(t, try(t, s, remove), cloud.KindConflict, "NetworkInUse")
		must(t, s, func(tx *store.Tx) error { return ipam.ReleasePort(tx, p.ID) })
	}
	refused(t, try(t, s, func(tx *store.Tx) error { return ipam.AddSubnet(tx, subnet("n", 99, "192.168.0.0/24")) }), cloud.KindQuota, "OverQuota")
	must(t, s, remove)
	if a, b, c := store.Count(s, tables.Subnets), store.Count(s, tables.Ports), store.Count(s, tables.AddressClaims); a+b+c != 0 {
		t.Errorf("left behind: %d subnets, %d ports, %d claims", a, b, c)
	}
	refused(t, try(t, s, remove), cloud.KindNotFound, "NetworkNotFound")
}

func TestSubnetIsRemovedOnlyWhenUnusedAndMustNotOverlap(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24")
	refused(t, try(t, s, func(tx *store.Tx) error { return ipam.AddSubnet(tx, subnet("n", 1, "10.0.0.128/25")) }), cloud.KindInvalid, "InvalidInput")
	refused(t, try(t, s, func(tx *store.Tx) error { return ipam.AddSubnet(tx, subnet("gone", 1, "10.9.0.0/25")) }), cloud.KindNotFound, "NetworkNotFound")
	p, err := allocate(s, ipam.PortRequest{Network: "n"})
	if err != nil {
		t.Fatal(err)
	}
	remove := func(tx *store.Tx) error { return ipam.RemoveSubnet(tx, "n-sub0", now) }
	refused(t, try(t, s, remove), cloud.KindConflict, "SubnetInUse")
	must(t, s, func(tx *store.Tx) error { return ipam.ReleasePort(tx, p.ID) })
	must(t, s, remove)
	n, _ := store.Lookup(s, tables.Networks, cloud.NetworkID("n"))
	if len(n.Subnets) != 0 || store.Count(s, tables.Ports) != 0 {
		t.Errorf("network still lists %v", n.Subnets)
	}
	refused(t, try(t, s, remove), cloud.KindNotFound, "SubnetNotFound")
}

// TestPortCreationAndNetworkRemovalNeverBothSucceed races the two; whatever the order, no port may be left without its network.
func TestPortCreationAndNetworkRemovalNeverBothSucceed(t *testing.T) {
	s := open(t)
	for i := range 20 {
		id := cloud.NetworkID(fmt.Sprintf("n%d", i))
		network(t, s, id, "10.0.0.0/24")
		r := ipam.PortRequest{Network: id}
		if i%2 == 0 {
			r.Addresses = []ipam.AddressRequest{}
		}
		var created, removed error
		var wg sync.WaitGroup
		wg.Go(func() { _, created = allocate(s, r) })
		wg.Go(func() { removed = try(t, s, func(tx *store.Tx) error { return ipam.RemoveNetwork(tx, id) }) })
		wg.Wait()
		if (created == nil) == (removed == nil) {
			t.Errorf("creation: %v, removal: %v", created, removed)
		}
	}
	for _, p := range store.All(s, tables.Ports) {
		if _, ok := store.Lookup(s, tables.Networks, p.Network); !ok {
			t.Errorf("port %s is left without its network", p.ID)
		}
	}
}

func TestSecurityGroupInUseStays(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24")
	must(t, s, func(tx *store.Tx) error {
		g := ipam.NewGroup(owner, "web", "", now)
		g.ID = "web"
		return store.Create(tx, tables.SecurityGroups, g.ID, g)
	})
	p, err := allocate(s, ipam.PortRequest{Network: "n", SecurityGroups: []cloud.SecurityGroupID{"web"}})
	if err != nil {
		t.Fatal(err)
	}
	remove := func(tx *store.Tx) error { return ipam.RemoveGroup(tx, "web", false) }
	refused(t, try(t, s, remove), cloud.KindConflict, "SecurityGroupInUse")
	must(t, s, func(tx *store.Tx) error { return ipam.ReleasePort(tx, p.ID) })
	must(t, s, remove)
	var def cloud.SecurityGroup
	must(t, s, func(tx *store.Tx) (err error) {
		def, err = ipam.DefaultGroup(tx, owner, now)
		return err
	})
	if len(def.Rules) != 4 || def.Rules[2].RemoteGroup != def.ID {
		t.Errorf("default group has rules %+v", def.Rules)
	}
	refused(t, try(t, s, func(tx *store.Tx) error { return ipam.RemoveGroup(tx, def.ID, false) }), cloud.KindConflict, "SecurityGroupCannotRemoveDefault")
}

func TestServerTakesAndReturnsPorts(t *testing.T) {
	s := open(t)
	network(t, s, "n", "10.0.0.0/24")
	own, err := allocate(s, ipam.PortRequest{Network: "n"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := allocate(s, ipam.PortRequest{Network: "n", DeviceID: "vm", DeviceOwner: ipam.ComputeOwner(""), AutoCreated: true})
	if err != nil {
		t.Fatal(err)
	}
	attach := func(server cloud.ServerID) error {
		return try(t, s, func(tx *store.Tx) error { _, err := ipam.AttachPort(tx, own.ID, server, now); return err })
	}
	for range 2 {
		if err := attach("vm"); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, attach("other"), cloud.KindConflict, "PortInUse")
	for range 2 {
		must(t, s, func(tx *store.Tx) error { return ipam.BindPort(tx, own.ID, "h1", now) })
	}
	got, _ := store.Lookup(s, tables.Ports, own.ID)
	if got.BindingHost != "h1" || got.Status != ipam.StatusActive || got.DeviceOwner != "compute:nova" || got.Revision != 3 || !ipam.ServerPort(got) {
		t.Errorf("attached and bound: %+v", got)
	}
	for range 2 {
		must(t, s, func(tx *store.Tx) error {
			return ipam.ReleaseServer(tx, "vm", []cloud.PortID{own.ID, made.ID, "gone"}, now)
		})
	}
	got, _ = store.Lookup(s, tables.Ports, own.ID)
	if got.BindingHost != "" || got.Status != ipam.StatusDown || got.DeviceID != "" || ipam.ServerPort(got) {
		t.Errorf("released: %+v", got)
	}
	if _, ok := store.Lookup(s, tables.Ports, made.ID); ok {
		t.Error("the port made for the server is still there")
	}
	refused(t, try(t, s, func(tx *store.Tx) error { return ipam.BindPort(tx, "gone", "h", now) }), cloud.KindNotFound, "PortNotFound")
}
