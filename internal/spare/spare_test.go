package spare_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/spare"
)

func policy(k int) spare.Policy {
	p := placement.DefaultPolicy()
	p.CPURatio, p.ReservedRAMMiB = 1, 0
	return spare.Policy{Placement: p, Hosts: k, Automatic: true}
}

// fleet is a snapshot with its servers.
type fleet struct {
	snap    cloud.Snapshot
	servers []*cloud.Server
}

// newFleet has as many equal hosts as ramMiB has figures.
func newFleet(ramMiB ...int) *fleet {
	f := &fleet{snap: cloud.Snapshot{Groups: map[cloud.GroupID]cloud.ServerGroup{}}}
	for i, ram := range ramMiB {
		name := cloud.HostName(fmt.Sprintf("h%02d", i))
		f.snap.Hosts = append(f.snap.Hosts, cloud.HostView{
			Host: cloud.Host{Name: name}, Up: true, Zone: "nova", Usage: cloud.Usage{Host: name},
			Report: cloud.HostReport{Host: name, Generation: 1, VCPUs: 64, RAMMiB: ram, DiskGiB: 1000, Arch: "x86_64", Virtualization: "kvm", QEMUVersion: "7.2", LibvirtVersion: "9.0",
				MigrationAddress: "192.0.2.1"},
		})
	}
	return f
}

func (f *fleet) host(i int) *cloud.HostView { return &f.snap.Hosts[i] }

// put places a server with a volume as its root disk on a host.
func (f *fleet) put(host, ramMiB int, change ...func(*cloud.Server)) *cloud.Server {
	s := f.server(ramMiB, change...)
	s.Host = f.host(host).Host.Name
	f.servers = append(f.servers, s)
	c := cloud.Claim{Server: s.ID, Resources: s.Resources()}
	if group, ok := f.snap.Groups[s.Group]; ok {
		placement.Claim(&f.host(host).Usage, &group, c)
		f.snap.Groups[s.Group] = group
		return s
	}
	placement.Claim(&f.host(host).Usage, nil, c)
	return s
}

// server returns one that is nowhere yet.
func (f *fleet) server(ramMiB int, change ...func(*cloud.Server)) *cloud.Server {
	n := len(f.servers)
	s := &cloud.Server{ID: cloud.ServerID(fmt.Sprintf("s%03d", n)), VMState: cloud.VMActive, Created: time.Unix(int64(n), 0), Metadata: map[string]string{},
		Flavor: cloud.Flavor{VCPUs: 1, RAMMiB: ramMiB}, Devices: []cloud.BlockDevice{{Volume: "v"}}}
	for _, c := range change {
		c(s)
	}
	return s
}

func inZone(z string) func(*cloud.Server)         { return func(s *cloud.Server) { s.Zone = z } }
func inGroup(g cloud.GroupID) func(*cloud.Server) { return func(s *cloud.Server) { s.Group = g } }
func says(key, value string) func(*cloud.Server) {
	return func(s *cloud.Server) { s.Metadata[key] = value }
}
func local(s *cloud.Server)                  { s.Devices, s.Image = nil, "image" }
func (f *fleet) judge(k int) cloud.SpareRoom { return spare.Judge(policy(k), &f.snap, f.servers) }
func (f *fleet) group(id string, p cloud.GroupPolicy) {
	f.snap.Groups[cloud.GroupID(id)] = cloud.ServerGroup{ID: cloud.GroupID(id), Name: id, Policy: p, MaxPerHost: 1}
}

func TestTheLargestHostsServersNeedRoomOnTheRest(t *testing.T) {
	for _, test := range []struct {
		name     string
		k        int
		fleet    func() *fleet
		homeless int
		lost     string // hosts
		reason   string // of the first without room
	}{
		{"room on one other host", 1, func() *fleet {
			f := newFleet(4096, 4096)
			f.put(0, 2048)
			f.put(1, 1024)
			return f
		}, 0, "[h00]", ""},
		{"a full fleet", 1, func() *fleet {
			f := newFleet(4096, 4096)
			f.put(0, 3072)
			f.put(1, 2048)
			return f
		}, 1, "[h00]", "h01: memory"},
		{"room in all, but not for so large a server", 1, func() *fleet {
			f := newFleet(4096, 4096, 4096)
			f.put(0, 3072)
			f.put(1, 2048)
			f.put(2, 2048)
			return f
		}, 1, "[h00]", "h01: memory"},
		{"two may die", 2, func() *fleet {
			f := newFleet(4096, 4096, 4096)
			for i := range 3 {
				f.put(i, 1024)
			}
			return f
		}, 0, "[h00 h01]", ""},
		{"two are too many", 2, func() *fleet {
			f := newFleet(4096, 4096, 4096)
			for i := range 3 {
				f.put(i, 1536)
				f.put(i, 1536)
			}
			return f
		}, 4, "[h00 h01]", "h02: memory"},
		{"a server that is not to be recovered needs no room", 1, func() *fleet {
			f := newFleet(4096, 4096)
			f.put(0, 4096, says("godwit:recovery", "off"))
			f.put(1, 4096, local)
			return f
		}, 0, "[h00]", ""},
		{"one that is made anew does", 1, func() *fleet {
			f := newFleet(4096, 4096)
			f.put(0, 4096, local, says("godwit:recovery_rebuild", "on"))
			f.put(1, 1024, local)
			return f
		}, 1, "[h00]", "h01: memory"},
		{"a zone of its own has no room, the fleet has plenty", 1, func() *fleet {
			f := newFleet(8192, 8192, 8192, 4096)
			f.host(3).Zone = "annex"
			f.put(0, 4096)
			f.put(3, 2048, inZone("annex"))
			return f
		}, 1, "[h03]", "h00: zone"},
		{"anti-affinity leaves no host", 1, func() *fleet {
			f := newFleet(8192, 8192)
			f.group("g", cloud.PolicyAntiAffinity)
			f.put(0, 1024, inGroup("g"))
			f.put(1, 512, inGroup("g"))
			return f
		}, 1, "[h00]", "h01: group"},
		{"an affinity group moves as one", 1, func() *fleet {
			f := newFleet(8192, 3072, 3072)
			f.group("g", cloud.PolicyAffinity)
			for range 4 {
				f.put(0, 1024, inGroup("g"))
			}
			return f
		}, 1, "[h00]", "h01: memory"},
		{"a host in reserve takes what recovery brings", 1, func() *fleet {
			f := newFleet(4096, 4096)
			for i := range 2 {
				f.host(i).Segment, f.host(i).RecoveryMethod = "seg", cloud.RecoverReserved
			}
			f.host(1).Reserved = true
			f.put(0, 4096)
			return f
		}, 0, "[h00]", ""},
		{"a host that is disabled or down is nobody's room", 1, func() *fleet {
			f := newFleet(4096, 4096, 4096)
			f.host(1).Host.Disabled, f.host(2).Up = true, false
			f.put(0, 1024)
			return f
		}, 1, "[h00]", "h01: state"},
		{"a disk in a shared directory finds it on few hosts", 1, func() *fleet {
			f := newFleet(4096, 4096, 1024)
			f.host(0).Report.SharedDiskID, f.host(2).Report.SharedDiskID = "dir", "dir"
			f.put(0, 2048, local)
			return f
		}, 1, "[h00]", "h01: storage"},
		{"the only host", 1, func() *fleet {
			f := newFleet(4096)
			f.put(0, 1024)
			return f
		}, 1, "[h00]", "no other host is up"},
		{"nothing is judged", 0, func() *fleet {
			f := newFleet(4096)
			f.put(0, 1024)
			return f
		}, 0, "[]", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.fleet().judge(test.k)
			if got.Homeless != test.homeless || fmt.Sprint(got.Lost) != test.lost || got.Short() != (test.homeless > 0) {
				t.Errorf("%+v; want %d without room at the loss of %s", got, test.homeless, test.lost)
			}
			if test.reason != "" && (len(got.Named) == 0 || !strings.HasPrefix(got.Named[0].Reason, test.reason)) {
				t.Errorf("named %v, want the reason to begin with %q", got.Named, test.reason)
			}
		})
	}
}

// drawFleet draws a small one with claims that placement would have made.
func drawFleet(t *rapid.T) *fleet {
	var ram []int
	for range rapid.IntRange(2, 5).Draw(t, "hosts") {
		ram = append(ram, 1024*rapid.IntRange(2, 8).Draw(t, "ram"))
	}
	f := newFleet(ram...)
	for i := range ram {
		f.host(i).Zone = rapid.SampledFrom([]string{"nova", "nova", "annex"}).Draw(t, "zone")
	}
	f.group("apart", cloud.PolicyAntiAffinity)
	f.group("together", cloud.PolicyAffinity)
	for range rapid.IntRange(0, 9).Draw(t, "servers") {
		s := f.server(1024 * rapid.IntRange(1, 4).Draw(t, "size"))
		s.Group = rapid.SampledFrom([]cloud.GroupID{"", "", "apart", "together"}).Draw(t, "group")
		s.Zone = rapid.SampledFrom([]string{"", "", "annex"}).Draw(t, "wanted zone")
		s.Metadata["godwit:recovery"] = rapid.SampledFrom([]string{"", "", "off"}).Draw(t, "mode")
		s.Metadata["godwit:recovery_priority"] = rapid.SampledFrom([]string{"", "5"}).Draw(t, "priority")
		v := placement.Rank(policy(1).Placement, &f.snap, placement.ForServer(s))[0]
		if v.Fits {
			i := slices.IndexFunc(f.snap.Hosts, func(h cloud.HostView) bool { return h.Host.Name == v.Host })
			f.put(i, s.Flavor.RAMMiB, func(made *cloud.Server) {
				id, created := made.ID, made.Created
				*made = *s
				made.ID, made.Created = id, created
			})
		}
	}
	return f
}

// packs reports whether any way exists to put the servers on the hosts that are left, by memory, zone and group alone: found by trying all.
func packs(f *fleet, lost []cloud.HostName, queue []*cloud.Server) bool {
	if len(queue) == 0 {
		return true
	}
	s := queue[0]
	for i := range f.snap.Hosts {
		h := f.host(i)
		free := h.Report.RAMMiB - h.Usage.Total().RAMMiB
		if slices.Contains(lost, h.Host.Name) || free < s.Flavor.RAMMiB || s.Zone != "" && s.Zone != h.Zone || !agrees(f, lost, s, h.Host.Name) {
			continue
		}
		usage, group := h.Usage, f.snap.Groups[s.Group]
		changed := group
		placement.Claim(&h.Usage, &changed, cloud.Claim{Server: s.ID, Resources: s.Resources()})
		if s.Group != "" {
			f.snap.Groups[s.Group] = changed
		}
		found := packs(f, lost, queue[1:])
		h.Usage = usage
		if s.Group != "" {
			f.snap.Groups[s.Group] = group
		}
		if found {
			return true
		}
	}
	return false
}

// agrees applies the group's rule to a host, written out once more.
func agrees(f *fleet, lost []cloud.HostName, s *cloud.Server, host cloud.HostName) bool {
	group := f.snap.Groups[s.Group]
	for member, at := range group.Placed {
		for _, h := range at {
			if member == s.ID || slices.Contains(lost, h) {
				continue
			}
			if group.Policy == cloud.PolicyAntiAffinity && h == host || group.Policy == cloud.PolicyAffinity && h != host {
				return false
			}
		}
	}
	return true
}

// TestWhereRoomIsSeenThereIsRoom: whatever the fleet, a judgement that nobody is without room means that a packing exists (found by trying all), the
// snapshot is as it was, and no order of hosts or servers changes a word of it.
func TestWhereRoomIsSeenThereIsRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFleet(t)
		k := rapid.IntRange(1, 2).Draw(t, "k")
		before := fmt.Sprintf("%+v", f.snap)
		got := f.judge(k)
		if now := fmt.Sprintf("%+v", f.snap); now != before {
			t.Fatalf("the snapshot was\n%s\nand is\n%s", before, now)
		}
		var queue []*cloud.Server
		for _, s := range f.servers {
			if slices.Contains(got.Lost, s.Host) && s.Metadata["godwit:recovery"] != "off" {
				queue = append(queue, s)
			}
		}
		if len(queue) != got.Servers || got.Homeless > got.Servers || len(got.Named) != got.Homeless || len(got.Lost) > k {
			t.Fatalf("%d servers to be placed, judgement %+v", len(queue), got)
		}
		if !got.Short() && !packs(f, got.Lost, queue) {
			t.Fatalf("no packing exists for %d servers of %v, and room was seen", len(queue), got.Lost)
		}
		f.servers = rapid.Permutation(f.servers).Draw(t, "order")
		if again := f.judge(k); !spare.Same(got, again) {
			t.Fatalf("in another order of servers %+v instead of %+v", again, got)
		}
		if more := f.judge(k + 1); len(f.snap.Hosts) > k+1 && more.Servers < got.Servers && more.Homeless < got.Homeless {
			t.Fatalf("the loss of one more host is less: %+v instead of %+v", more, got)
		}
	})
}

// TestAChangeIsJudgedBeforeItIsMade: what is asked for counts as if it had been done, and what it would leave behind is compared with what is.
func TestAChangeIsJudgedBeforeItIsMade(t *testing.T) {
	p := policy(1)
	after := func(f *fleet, c spare.Change) cloud.SpareRoom {
		snap, servers := spare.With(p, &f.snap, f.servers, []spare.Change{c})
		return spare.Judge(p, snap, servers)
	}
	f := newFleet(4096, 4096, 4096)
	for i := range 3 {
		f.put(i, 2048)
	}
	now := f.judge(1)
	if now.Short() {
		t.Fatalf("short before anything: %+v", now)
	}
	t.Run("a boot that takes the last room", func(t *testing.T) {
		fresh := f.server(2048)
		if got := after(f, spare.Change{Server: fresh}); got.Short() {
			t.Errorf("one more server: %+v", got)
		}
		f := newFleet(4096, 4096)
		f.put(0, 2048)
		f.put(1, 2048)
		if got := after(f, spare.Change{Server: f.server(1024)}); !got.Short() || !spare.Worse(f.judge(1), got) {
			t.Errorf("the last room taken: %+v", got)
		}
	})
	t.Run("a boot of what is not recovered", func(t *testing.T) {
		f := newFleet(4096, 4096)
		f.put(0, 2048)
		f.put(1, 2048)
		if got := after(f, spare.Change{Server: f.server(2048, says("godwit:recovery", "off")), To: "h01"}); !got.Short() {
			t.Errorf("it takes the room of others: %+v", got)
		}
	})
	t.Run("a resize", func(t *testing.T) {
		grown := *f.servers[0]
		grown.Flavor.RAMMiB = 3072
		if got := after(f, spare.Change{Server: &grown, From: "h00", To: "h00"}); !got.Short() || got.Homeless != 1 {
			t.Errorf("no host has 3072 MiB left: %+v", got)
		}
	})
	t.Run("a move", func(t *testing.T) {
		if got := after(f, spare.Change{Server: f.servers[0], From: "h00", To: "h01"}); got.Short() || fmt.Sprint(got.Lost) != "[h01]" {
			t.Errorf("two servers on h01, 4096 and 2048 MiB free: %+v", got)
		}
	})
	t.Run("what fits nowhere changes nothing", func(t *testing.T) {
		if got := after(f, spare.Change{Server: f.server(9000)}); !spare.Same(got, now) {
			t.Errorf("%+v instead of %+v", got, now)
		}
	})
}

// TestAThousandHostsAreJudgedWhileARequestWaits bounds the work, so that the edge can ask before it answers.
func TestAThousandHostsAreJudgedWhileARequestWaits(t *testing.T) {
	ram := make([]int, 1000)
	for i := range ram {
		ram[i] = 64 << 10
	}
	f := newFleet(ram...)
	for i := range 1000 {
		for range 20 {
			f.put(i, 2048)
		}
	}
	began := time.Now()
	got := f.judge(1)
	if took := time.Since(began); got.Short() || got.Servers != 20 || took > 5*time.Second {
		t.Errorf("%+v after %v", got, took)
	}
	t.Logf("1,000 hosts, 20,000 servers: %v", time.Since(began))
}
