package placement_test

import (
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// TestReservedHostsTakeWhatTheirSegmentsMethodSays has a dead host, an ordinary and a reserved one in a segment, and a reserved one of another segment.
func TestReservedHostsTakeWhatTheirSegmentsMethodSays(t *testing.T) {
	view := func(name cloud.HostName, segment cloud.SegmentID, method cloud.RecoveryMethod, reserved bool) cloud.HostView {
		return cloud.HostView{Host: cloud.Host{Name: name}, Up: true, Segment: segment, RecoveryMethod: method, Reserved: reserved,
			Report: cloud.HostReport{Host: name, Generation: 1, VCPUs: 8, RAMMiB: 8192, DiskGiB: 100, LibvirtVersion: "9.0.0", QEMUVersion: "7.2.0", Virtualization: "kvm", MigrationAddress: "192.0.2.1"}}
	}
	for method, want := range map[cloud.RecoveryMethod][]cloud.HostName{
		cloud.RecoverAuto: {"ordinary"}, cloud.RecoverReserved: {"reserved"}, cloud.RecoverAutoFirst: {"ordinary", "reserved"}, cloud.RecoverReservedOnce: {"reserved", "ordinary"},
		"": {"ordinary"},
	} {
		segment := cloud.SegmentID("seg")
		if method == "" {
			segment = ""
		}
		source := view("dead", segment, method, false)
		source.Up = false
		snap := cloud.Snapshot{Hosts: []cloud.HostView{source, view("foreign", "other", method, true), view("ordinary", segment, method, false), view("reserved", "seg", method, true)}}
		s := &cloud.Server{ID: "s", Host: "dead", Flavor: cloud.Flavor{VCPUs: 1, RAMMiB: 64}}
		var got []cloud.HostName
		for _, v := range placement.Rank(placement.DefaultPolicy(), &snap, placement.ForMigration(s, &cloud.Migration{Type: cloud.TypeEvacuation})) {
			if v.Fits {
				got = append(got, v.Host)
			}
		}
		if len(got) != len(want) || got[0] != want[0] || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("method %q: %v, want %v", method, got, want)
		}
		boot := placement.ForServer(s)
		for _, h := range snap.Hosts {
			if h.Reserved && len(placement.Check(placement.DefaultPolicy(), &snap, h, boot)) == 0 {
				t.Errorf("method %q: an ordinary server was placed on reserved host %s", method, h.Host.Name)
			}
		}
		boot.ForcedHost = "reserved"
		if reasons := placement.Check(placement.DefaultPolicy(), &snap, snap.Hosts[3], boot); len(reasons) != 0 {
			t.Errorf("asked for by name: %v", reasons)
		}
	}
}
