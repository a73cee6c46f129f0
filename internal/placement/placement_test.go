package placement_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

func TestEachRefusalStatesItsFigures(t *testing.T) {
	small := cloud.Resources{VCPUs: 1, RAMMiB: 512, DiskGiB: 1}
	boot := placement.Request{Server: "s", Purpose: placement.PurposeBoot, Resources: small}
	move := boot
	move.Purpose, move.SourceHost = placement.PurposeMigrate, "src"
	cases := []struct {
		name   string
		host   func(*cloud.HostView)
		req    placement.Request
		change func(*placement.Request)
		want   string
	}{
		{"memory", func(h *cloud.HostView) {
			placement.Claim(&h.Usage, nil, cloud.Claim{Server: "x", Resources: cloud.Resources{RAMMiB: 3584}})
		}, boot, func(r *placement.Request) { r.Resources.RAMMiB = 2048 }, "memory: needs 2048 MiB, 512 MiB free of 4096 MiB (ratio 1.0)"},
		{"vcpus", nil, boot, func(r *placement.Request) { r.Resources.VCPUs = 3 }, "vcpus: needs 3, 2 free of 2 (ratio 1.0)"},
		{"disk", nil, boot, func(r *placement.Request) { r.Resources.DiskGiB = 21 }, "disk: needs 21 GiB, 20 GiB free of 20 GiB (ratio 1.0)"},
		{"down", func(h *cloud.HostView) { h.Up = false }, boot, nil, "state: the host is down, its agent is not connected"},
		{"forced down", func(h *cloud.HostView) { h.Host.ForcedDown = true }, boot, nil, "state: an operator declared the host down"},
		{"disabled", func(h *cloud.HostView) { h.Host.Disabled, h.Host.DisabledReason = true, "new fan" }, boot, nil, "state: the host is disabled (new fan)"},
		{"silent", func(h *cloud.HostView) { h.Report = cloud.HostReport{} }, boot, nil, "state: the host has never reported what it has"},
		{"zone", nil, boot, func(r *placement.Request) { r.Zone = "az2" }, "zone: needs az2, host is in nova"},
		{"forced elsewhere", nil, boot, func(r *placement.Request) { r.ForcedHost = "other" }, "request: host other was asked for"},
		{"excluded", nil, boot, func(r *placement.Request) { r.Exclude = []cloud.HostName{"dst"} }, "request: the host is excluded, usually because it failed this server before"},
		{"arch", nil, boot, func(r *placement.Request) { r.Arch = "aarch64" }, "architecture: needs aarch64, host is x86_64"},
		{"virtualization", nil, boot, func(r *placement.Request) { r.Virtualization = "kvm" }, "virtualization: needs kvm, host gives tcg"},
		{"cpu model", nil, boot, func(r *placement.Request) { r.CPUModel = "EPYC" }, "cpu model: needs EPYC, host offers 2 other models"},
		{"group missing", nil, boot, func(r *placement.Request) { r.Group = "g9" }, "group: server group g9 does not exist"},
		{"aggregate", nil, boot, func(r *placement.Request) {
			r.ExtraSpecs = map[string]string{"aggregate_instance_extra_specs:disk": "ssd"}
		}, `aggregate: flavor needs disk "ssd", none of the host's aggregates has it`},
		{"same host", nil, move, func(r *placement.Request) { r.SourceHost = "dst" }, "migration: the server runs on this host already"},
		{"source unknown", nil, move, func(r *placement.Request) { r.SourceHost = "gone" }, "migration: the source host gone is not known"},
		{"virtualization differs", func(h *cloud.HostView) { h.Report.Virtualization = "kvm" }, move, nil, "virtualization: source runs tcg, host gives kvm"},
		{"older qemu", func(h *cloud.HostView) { h.Report.QEMUVersion = "6.9.9" }, move, nil, "qemu: source has 7.2.0, host has the older 6.9.9"},
		{"older libvirt", func(h *cloud.HostView) { h.Report.LibvirtVersion = "8.10.0" }, move, nil, "libvirt: source has 9.0.0, host has the older 8.10.0"},
		{"block on shared", func(h *cloud.HostView) { h.Report.SharedDiskID = "nfs" }, move, func(r *placement.Request) { r.Kind, r.SourceHost = cloud.MigrateBlock, "shared" },
			"storage: block migration was asked for, but both hosts share the disk directory"},
		{"shared on local", nil, move, func(r *placement.Request) { r.Kind = cloud.MigrateShared },
			"storage: migration on shared storage was asked for, but the hosts do not share a disk directory"},
		{"volume", nil, move, func(r *placement.Request) { r.Kind = cloud.MigrateVolume },
			"storage: migration on volumes was asked for, but the server's disk is not a volume"},
		{"no migration address", func(h *cloud.HostView) { h.Report.MigrationAddress = "" }, move, nil, "migration: the host names no address for migration traffic"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			shared := host("shared", 2, 4096, 20)
			shared.Report.SharedDiskID = "nfs"
			dst := host("dst", 2, 4096, 20)
			if c.host != nil {
				c.host(&dst)
			}
			if c.change != nil {
				c.change(&c.req)
			}
			got := placement.Check(plain(), snapshot(dst, shared, host("src", 2, 4096, 20)), dst, c.req)
			if !slices.Contains(got, c.want) {
				t.Errorf("reasons %q lack %q", got, c.want)
			}
			if c.name != "silent" && len(got) != 1 {
				t.Errorf("one fault, %d reasons: %q", len(got), got)
			}
		})
	}
}

func TestHealthyHostWithRoomIsNotRefused(t *testing.T) {
	src, dst := host("src", 2, 4096, 20), host("dst", 2, 4096, 20)
	for _, kind := range []cloud.MigrationKind{"", cloud.MigrateAuto, cloud.MigrateBlock} {
		r := placement.Request{Server: "s", Purpose: placement.PurposeMigrate, SourceHost: "src", Kind: kind, CPUModel: "Nehalem", Arch: "x86_64",
			Virtualization: "tcg", Zone: "nova", Resources: cloud.Resources{VCPUs: 2, RAMMiB: 4096, DiskGiB: 20}}
		if got := placement.Check(plain(), snapshot(dst, src), dst, r); len(got) != 0 {
			t.Errorf("kind %q refused: %q", kind, got)
		}
	}
}

func TestAllReasonsAreGivenNotOnlyTheFirst(t *testing.T) {
	h := host("h", 1, 1024, 1)
	h.Host.Disabled, h.Up = true, false
	got := placement.Check(plain(), snapshot(h), h, placement.Request{Server: "s", Zone: "z", Resources: cloud.Resources{VCPUs: 2, RAMMiB: 2048, DiskGiB: 2}})
	if len(got) != 6 {
		t.Errorf("want zone, down, disabled, vcpus, memory, disk; got %d: %q", len(got), got)
	}
}

func TestServersSpreadOverEqualHostsAndPackWithNegativeWeights(t *testing.T) {
	full, empty := host("a", 8, 8192, 80), host("b", 8, 8192, 80)
	placement.Claim(&full.Usage, nil, cloud.Claim{Server: "x", Resources: cloud.Resources{VCPUs: 2, RAMMiB: 2048, DiskGiB: 10}})
	r := placement.Request{Server: "s", Resources: cloud.Resources{VCPUs: 1, RAMMiB: 1024, DiskGiB: 1}}
	if got := placement.Rank(plain(), snapshot(full, empty), r)[0].Host; got != "b" {
		t.Errorf("spreading chose %s", got)
	}
	p := plain()
	p.Weights.RAM, p.Weights.CPU, p.Weights.Disk = -1, -1, -1
	if got := placement.Rank(p, snapshot(full, empty), r)[0].Host; got != "a" {
		t.Errorf("packing chose %s", got)
	}
}

func TestHostWithFewerMovesIsPreferred(t *testing.T) {
	busy, idle := host("a", 8, 8192, 80), host("b", 8, 8192, 80)
	placement.Claim(&busy.Usage, nil, cloud.Claim{Server: "x", Migration: "m"})
	r := placement.Request{Server: "s", Resources: cloud.Resources{VCPUs: 1, RAMMiB: 64}}
	if got := placement.Rank(plain(), snapshot(busy, idle), r)[0].Host; got != "b" {
		t.Errorf("chose %s, which is receiving a server", got)
	}
}

func TestSoftGroupRulesOutweighSpreading(t *testing.T) {
	a, b := host("a", 8, 8192, 80), host("b", 8, 8192, 80)
	placement.Claim(&a.Usage, nil, cloud.Claim{Server: "x", Resources: cloud.Resources{VCPUs: 6, RAMMiB: 6000, DiskGiB: 60}})
	for policy, want := range map[cloud.GroupPolicy]cloud.HostName{cloud.PolicySoftAffinity: "a", cloud.PolicySoftAntiAffinity: "b"} {
		snap := snapshot(a, b)
		snap.Groups["g"] = cloud.ServerGroup{ID: "g", Policy: policy, Placed: map[cloud.ServerID][]cloud.HostName{"x": {"a"}}}
		r := placement.Request{Server: "s", Group: "g", Resources: cloud.Resources{VCPUs: 1, RAMMiB: 64}}
		if got := placement.Rank(plain(), snap, r)[0].Host; got != want {
			t.Errorf("%s chose %s, want %s", policy, got, want)
		}
	}
}

func TestAskingAgainForAPlacedServerIsNoNewDemand(t *testing.T) {
	h := host("a", 2, 2048, 10)
	all := cloud.Resources{VCPUs: 2, RAMMiB: 2048, DiskGiB: 10}
	placement.Claim(&h.Usage, nil, cloud.Claim{Server: "s", Resources: all})
	if got := placement.Check(plain(), snapshot(h), h, placement.Request{Server: "s", Resources: all}); len(got) != 0 {
		t.Errorf("the server's own claim was held against it: %q", got)
	}
	if got := placement.Check(plain(), snapshot(h), h, placement.Request{Server: "t", Resources: all}); len(got) != 3 {
		t.Errorf("another server must find the host full: %q", got)
	}
}

func TestZoneComesFromTheFirstAggregateByName(t *testing.T) {
	aggregates := []cloud.Aggregate{
		{Name: "z", Hosts: []cloud.HostName{"h"}, Metadata: map[string]string{cloud.MetaZone: "late"}},
		{Name: "b", Hosts: []cloud.HostName{"h"}, Metadata: map[string]string{cloud.MetaZone: "early"}},
		{Name: "a", Hosts: []cloud.HostName{"h"}, Metadata: map[string]string{"ssd": "true"}},
	}
	for want, h := range map[string]cloud.Host{"early": {Name: "h", Zone: "own"}, "own": {Name: "i", Zone: "own"}, cloud.DefaultZone: {Name: "j"}} {
		if got := placement.ZoneOf(h, aggregates); got != want {
			t.Errorf("host %s is in %s, want %s", h.Name, got, want)
		}
	}
}

func TestExtraSpecsMatchByNovasOperators(t *testing.T) {
	cases := []struct {
		value, want string
		met         bool
	}{
		{"ssd", "ssd", true}, {"ssd", "hdd", false}, {"", "", true},
		{"ssd", "<or> hdd <or> ssd", true}, {"nvme", "<or> hdd <or> ssd", false}, {"x", "<or>", false},
		{"aes vmx", "<in> vmx", true}, {"aes", "<in> vmx", false}, {"aes vmx", "<all-in> aes vmx", true}, {"aes", "<all-in> aes vmx", false},
		{"8", "= 4", true}, {"2", "= 4", false}, {"4", "== 4.0", true}, {"4", "!= 4", false}, {"3", ">= 4", false}, {"3", "<= 4", true},
		{"many", "= 4", false}, {"b", "s> a", true}, {"b", "s>= b", true}, {"b", "s< a", false}, {"b", "s<= a", false}, {"b", "s== b", true}, {"b", "s!= b", false},
		{"4", "=", false}, {"high", "high speed", false},
	}
	for _, c := range cases {
		if got := placement.MatchSpec(c.value, c.want); got != c.met {
			t.Errorf("value %q against %q: %v, want %v", c.value, c.want, got, c.met)
		}
	}
}

func TestFlavorSpecsAreMetByAnyAggregateOfTheHost(t *testing.T) {
	a, b, c := host("a", 8, 8192, 80), host("b", 8, 8192, 80), host("c", 8, 8192, 80)
	snap := snapshot(a, b, c)
	snap.Aggregates = []cloud.Aggregate{
		{Name: "one", Hosts: []cloud.HostName{"a", "b"}, Metadata: map[string]string{"disk": "hdd"}},
		{Name: "two", Hosts: []cloud.HostName{"b"}, Metadata: map[string]string{"disk": "nvme, ssd"}},
	}
	r := placement.Request{Server: "s", ExtraSpecs: map[string]string{"aggregate_instance_extra_specs:disk": "ssd", "hw:cpu_policy": "shared", "disk": "ignored"}}
	verdicts := placement.Rank(plain(), snap, r)
	if got := names(verdicts, true); !slices.Equal(got, []cloud.HostName{"b"}) {
		t.Errorf("fits %v, want b alone", got)
	}
	if want := `aggregate: flavor needs disk "ssd", the host's aggregates say hdd`; verdicts[1].Reasons[0] != want {
		t.Errorf("got %q, want %q", verdicts[1].Reasons[0], want)
	}
}

func TestCapacityAppliesReservesBeforeRatiosAndRoundsDown(t *testing.T) {
	p := placement.Policy{CPURatio: 4, RAMRatio: 0.7, DiskRatio: 1.5, ReservedRAMMiB: 24, ReservedDiskGiB: 100}
	got := p.Capacity(cloud.HostReport{VCPUs: 2, RAMMiB: 34, DiskGiB: 10})
	if want := (cloud.Resources{VCPUs: 8, RAMMiB: 7, DiskGiB: 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestExplainShowsEveryHostAndEveryReason(t *testing.T) {
	got := placement.Explain([]cloud.Verdict{
		{Host: "compute-2", Fits: true, Score: 1.25},
		{Host: "compute-1", Reasons: []string{"state: the host is disabled (new fan)", "vcpus: needs 3, 2 free of 2 (ratio 1.0)"}},
	})
	want := `HOST       VERDICT  SCORE  WHY
compute-2  fits     1.250
compute-1  refused  -      state: the host is disabled (new fan)
                           vcpus: needs 3, 2 free of 2 (ratio 1.0)
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNoValidHostNamesTheFirstRefusalsAndCountsTheRest(t *testing.T) {
	err := placement.NoValidHost([]cloud.Verdict{{Host: "a", Reasons: []string{"x", "y"}}, {Host: "b", Reasons: []string{"x"}}, {Host: "c", Reasons: []string{"x"}}, {Host: "d", Reasons: []string{"x"}}})
	if want := "No valid host was found. a: x; y. b: x. c: x. 1 more hosts were refused."; !cloud.Is(err, cloud.KindNoValidHost) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if err := placement.NoValidHost(nil); err.Error() != "No valid host was found. There are no hosts." {
		t.Errorf("got %v", err)
	}
}

func TestRequestsFollowTheServerAndItsMigration(t *testing.T) {
	s := &cloud.Server{ID: "s", Host: "src", ForcedHost: "birth", Zone: "z", Group: "g", Flavor: cloud.Flavor{VCPUs: 2, RAMMiB: 64, RootGiB: 3},
		ImageProperties: map[string]string{"hw_architecture": "x86_64"}}
	boot := placement.ForServer(s)
	if boot.ForcedHost != "birth" || boot.Resources != (cloud.Resources{VCPUs: 2, RAMMiB: 64, DiskGiB: 3}) || boot.Arch != "x86_64" || boot.Purpose != placement.PurposeBoot {
		t.Errorf("boot request %+v", boot)
	}
	move := placement.ForMigration(s, &cloud.Migration{AskedTarget: "dst", Asked: cloud.MigrateBlock})
	if move.ForcedHost != "dst" || move.SourceHost != "src" || move.Kind != cloud.MigrateBlock || move.Purpose != placement.PurposeMigrate {
		t.Errorf("migration request %+v", move)
	}
	s.Flavor.ExtraSpecs = map[string]string{cloud.SpecCPUModel: "EPYC"}
	if boot := placement.ForServer(s); boot.CPUModel != "EPYC" {
		t.Errorf("a boot asks for model %q, the flavor for EPYC", boot.CPUModel)
	}
	s.CPUModel = "Nehalem" // what it was given when it was booted; the flavor may say something else since
	if move := placement.ForMigration(s, &cloud.Migration{}); move.CPUModel != "Nehalem" {
		t.Errorf("a move asks for model %q, the guest has Nehalem", move.CPUModel)
	}
}

func fleet(n int) *cloud.Snapshot {
	snap := snapshot()
	for i := range n {
		h := host(fmt.Sprintf("h%05d", i), 64, 262144, 4000)
		h.Usage.Claims = map[string]cloud.Claim{}
		for j := range 20 {
			id := cloud.ServerID(fmt.Sprintf("s%d-%d", i, j))
			h.Usage.Claims[cloud.ClaimKey(id)] = cloud.Claim{Server: id, Resources: cloud.Resources{VCPUs: 1 + i%4, RAMMiB: 1024 * (1 + j%4), DiskGiB: 10}}
		}
		h.Host.Disabled = i%10 == 0
		snap.Hosts = append(snap.Hosts, h)
	}
	return snap
}

// BenchmarkRank10000Hosts answers one request over a fleet of 10,000 hosts with 200,000 servers.
func BenchmarkRank10000Hosts(b *testing.B) {
	snap := fleet(10000)
	r := placement.Request{Server: "new", Purpose: placement.PurposeMigrate, SourceHost: "h00001", Resources: cloud.Resources{VCPUs: 4, RAMMiB: 8192, DiskGiB: 40}}
	b.ReportAllocs()
	for b.Loop() {
		if v := placement.Rank(placement.DefaultPolicy(), snap, r); !v[0].Fits {
			b.Fatal("nothing fits")
		}
	}
}

// TestAnAffinityGroupFollowsOutOfADeadHost: its members are recorded on the dead host until each has been placed. The first of them goes anywhere, the others
// go where it went; while the host lives, a member that leaves would break the rule.
func TestAnAffinityGroupFollowsOutOfADeadHost(t *testing.T) {
	snap := snapshot(host("a", 8, 8192, 100), host("b", 8, 8192, 100), host("c", 8, 8192, 100))
	snap.Hosts[0].Up = false
	group := cloud.ServerGroup{ID: "g", Name: "g", Policy: cloud.PolicyAffinity, Placed: map[cloud.ServerID][]cloud.HostName{"s1": {"a"}, "s2": {"a"}, "s3": {"a"}}}
	request := placement.Request{Server: "s1", Purpose: placement.PurposeMigrate, SourceHost: "a", Group: "g", Recovery: true}
	fits := func() []cloud.HostName {
		snap.Groups["g"] = group
		return names(placement.Rank(plain(), snap, request), true)
	}
	if got := fits(); len(got) != 0 {
		t.Errorf("while the source lives the first member may go to %v", got)
	}
	request.SourceDead = true
	if got := fits(); !slices.Equal(got, []cloud.HostName{"b", "c"}) {
		t.Errorf("the first member may go to %v", got)
	}
	placement.Claim(&snap.Hosts[1].Usage, &group, cloud.Claim{Server: "s1", Migration: "m"})
	request.Server = "s2"
	if got := fits(); !slices.Equal(got, []cloud.HostName{"b"}) {
		t.Errorf("after the first went to b, the second may go to %v", got)
	}
	if reasons := placement.Recheck(plain(), snap.Hosts[2], &group, request); len(reasons) == 0 {
		t.Error("the claiming transaction lets the second member part from the first")
	}
}
