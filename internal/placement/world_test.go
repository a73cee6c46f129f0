package placement_test

import (
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// host returns a healthy, empty, emulating host.
func host(name string, vcpus, ramMiB, diskGiB int) cloud.HostView {
	return cloud.HostView{
		Host: cloud.Host{Name: cloud.HostName(name), Zone: cloud.DefaultZone},
		Report: cloud.HostReport{
			Host: cloud.HostName(name), Generation: 1, Seq: 1, LibvirtVersion: "9.0.0", QEMUVersion: "7.2.0", Hypervisor: "QEMU",
			Virtualization: "tcg", Arch: "x86_64", CPUModels: []string{"qemu64", "Nehalem"}, VCPUs: vcpus, RAMMiB: ramMiB, DiskGiB: diskGiB,
			MigrationAddress: "10.0.0.1",
		},
		Up: true, Usage: cloud.Usage{Host: cloud.HostName(name)}, Zone: cloud.DefaultZone,
	}
}

func snapshot(hosts ...cloud.HostView) *cloud.Snapshot {
	return &cloud.Snapshot{Hosts: hosts, Groups: map[cloud.GroupID]cloud.ServerGroup{}, Now: time.Unix(0, 0)}
}

// plain is a policy without reserves, ratio 1.
func plain() placement.Policy {
	p := placement.DefaultPolicy()
	p.CPURatio, p.RAMRatio, p.DiskRatio, p.ReservedRAMMiB = 1, 1, 1, 0
	return p
}

func names(verdicts []cloud.Verdict, fits bool) []cloud.HostName {
	var out []cloud.HostName
	for _, v := range verdicts {
		if v.Fits == fits {
			out = append(out, v.Host)
		}
	}
	return out
}

// drawHost draws a host that may be small, disabled, down, silent or of another kind.
func drawHost(t *rapid.T, i int) cloud.HostView {
	h := host(fmt.Sprintf("h%02d", i), rapid.IntRange(2, 32).Draw(t, "vcpus"), rapid.IntRange(2048, 32768).Draw(t, "ram"), rapid.IntRange(10, 200).Draw(t, "disk"))
	rare := rapid.IntRange(0, 9)
	h.Host.Disabled = rare.Draw(t, "disabled") == 0
	h.Host.ForcedDown = rare.Draw(t, "forced") == 0
	h.Up = rare.Draw(t, "up") != 0 && !h.Host.ForcedDown
	h.Zone = rapid.SampledFrom([]string{"nova", "nova", "nova", "az2"}).Draw(t, "zone")
	h.Report.Virtualization = rapid.SampledFrom([]string{"tcg", "tcg", "tcg", "kvm"}).Draw(t, "virt")
	h.Report.QEMUVersion = rapid.SampledFrom([]string{"7.2.0", "8.1.0"}).Draw(t, "qemu")
	h.Report.SharedDiskID = rapid.SampledFrom([]string{"", "", "nfs1"}).Draw(t, "shared")
	return h
}

func drawPolicy(t *rapid.T) placement.Policy {
	p := placement.DefaultPolicy()
	p.CPURatio = rapid.SampledFrom([]float64{0.5, 1, 4, 16}).Draw(t, "cpu ratio")
	p.RAMRatio = rapid.SampledFrom([]float64{0.7, 1, 1.5}).Draw(t, "ram ratio")
	p.DiskRatio = rapid.SampledFrom([]float64{1, 2}).Draw(t, "disk ratio")
	p.ReservedRAMMiB = rapid.SampledFrom([]int{0, 512}).Draw(t, "reserved")
	return p
}

// world is a fleet under random claims and releases, kept by the rules that the transactional code follows.
type world struct {
	policy placement.Policy
	snap   *cloud.Snapshot
	where  map[cloud.ServerID][]cloud.HostName // a second one while moving
	next   int
}

func drawWorld(t *rapid.T) *world {
	w := &world{policy: drawPolicy(t), snap: snapshot(), where: map[cloud.ServerID][]cloud.HostName{}}
	for i := range rapid.IntRange(2, 5).Draw(t, "hosts") {
		w.snap.Hosts = append(w.snap.Hosts, drawHost(t, i))
	}
	for _, policy := range []cloud.GroupPolicy{cloud.PolicyAffinity, cloud.PolicyAntiAffinity, cloud.PolicySoftAffinity, cloud.PolicySoftAntiAffinity} {
		id := cloud.GroupID(policy)
		w.snap.Groups[id] = cloud.ServerGroup{ID: id, Name: string(policy), Policy: policy, MaxPerHost: rapid.IntRange(0, 2).Draw(t, "max per host")}
	}
	return w
}

func (w *world) drawRequest(t *rapid.T) placement.Request {
	w.next++
	r := placement.Request{
		Server: cloud.ServerID(fmt.Sprintf("s%d", w.next)), Purpose: placement.PurposeBoot,
		Resources: cloud.Resources{VCPUs: rapid.IntRange(1, 4).Draw(t, "need vcpus"), RAMMiB: rapid.IntRange(64, 4096).Draw(t, "need ram"), DiskGiB: rapid.IntRange(0, 20).Draw(t, "need disk")},
		Zone:      rapid.SampledFrom([]string{"", "", "", "nova", "az2"}).Draw(t, "zone"),
		Group:     rapid.SampledFrom([]cloud.GroupID{"", "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"}).Draw(t, "group"),
	}
	if rapid.IntRange(0, 9).Draw(t, "force?") == 0 {
		r.ForcedHost = rapid.SampledFrom(w.snap.Hosts).Draw(t, "forced").Host.Name
	}
	return r
}

// view returns the host's place in the snapshot.
func (w *world) view(name cloud.HostName) *cloud.HostView {
	i := slices.IndexFunc(w.snap.Hosts, func(h cloud.HostView) bool { return h.Host.Name == name })
	return &w.snap.Hosts[i]
}

// take claims the request's resources on the host, as a flow's transaction does.
func (w *world) take(r placement.Request, name cloud.HostName, m cloud.MigrationID) {
	w.change(r.Group, func(g *cloud.ServerGroup) {
		placement.Claim(&w.view(name).Usage, g, cloud.Claim{Server: r.Server, Migration: m, Resources: r.Resources})
	})
	w.where[r.Server] = append(w.where[r.Server], name)
}

func (w *world) release(id cloud.ServerID, group cloud.GroupID, name cloud.HostName) {
	w.change(group, func(g *cloud.ServerGroup) { placement.Release(&w.view(name).Usage, g, id) })
	w.where[id] = slices.DeleteFunc(w.where[id], func(h cloud.HostName) bool { return h == name })
	if len(w.where[id]) == 0 {
		delete(w.where, id)
	}
}

func (w *world) change(group cloud.GroupID, f func(*cloud.ServerGroup)) {
	if group == "" {
		f(nil)
		return
	}
	g := w.snap.Groups[group]
	f(&g)
	w.snap.Groups[group] = g
}
