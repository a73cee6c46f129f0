package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

// sharer is a host that is up and keeps disks on a GlusterFS volume.
func sharer(name, address string, seen map[cloud.HostName]string) operator.Host {
	h := operator.Host{State: operator.HostUp}
	h.Name = cloud.HostName(name)
	h.Report = &cloud.HostReport{
		Arch: "x86_64", Virtualization: "kvm", CPUModel: "qemu64", QEMUVersion: "7.2.0", LibvirtVersion: "9.0.0", MigrationAddress: address, SharedDiskID: "d",
		Shared: &cloud.SharedStorage{Kind: "glusterfs", Source: "g1:vms", Writable: true, Quorum: true, Nonce: name + " 10", Seen: seen,
			Bricks: []cloud.Brick{{Name: "g1:/b", Online: true}, {Name: "g2:/b", Online: true}}},
	}
	return h
}

func TestTheDoctorProvesThatADirectoryIsShared(t *testing.T) {
	one := sharer("one", "192.0.2.1", map[cloud.HostName]string{"two": "two 9"})
	two := sharer("two", "192.0.2.2", map[cloud.HostName]string{"one": "one 11"})
	if all := diagnose([]operator.Host{one, two}); slices.ContainsFunc(all, func(f finding) bool { return f.Level != levelOK }) || len(all) != 3 {
		t.Errorf("two hosts that share: %+v", all)
	}
	for what, change := range map[string]func(a, b *operator.Host){
		"does not read what one writes": func(_, b *operator.Host) { b.Report.Shared.Seen = nil },
		"it was copied":                 func(a, b *operator.Host) { a.Report.Shared, b.Report.Shared = nil, nil },
		"has no quorum":                 func(a, _ *operator.Host) { a.Report.Shared.Quorum = false },
		"in split-brain":                func(a, _ *operator.Host) { a.Report.Shared.SplitBrain = 1 },
		"has the migration address":     func(a, b *operator.Host) { b.Report.MigrationAddress = a.Report.MigrationAddress },
		"nothing that runs moves":       func(a, _ *operator.Host) { a.Report.Virtualization = "tcg" },
	} {
		a, b := sharer("one", "192.0.2.1", map[cloud.HostName]string{"two": "two 9"}), sharer("two", "192.0.2.2", map[cloud.HostName]string{"one": "one 11"})
		change(&a, &b)
		if !slices.ContainsFunc(diagnose([]operator.Host{a, b}), func(f finding) bool { return f.Level == levelProblem && strings.Contains(f.Text, what) }) {
			t.Errorf("%q is not said", what)
		}
	}
}

func TestStorageShowsABrickThatOneHostDoesNotReach(t *testing.T) {
	one, two := sharer("one", "192.0.2.1", nil), sharer("two", "192.0.2.2", nil)
	two.Report.Shared.Bricks[1].Online, two.Report.Shared.HealPending = false, 3
	all := sharesOf([]operator.Host{one, two})
	if len(all) != 1 || all[0].online() != 1 || all[0].HealPending != 3 || names(all[0].Bricks[1].Missed) != "two" || len(all[0].Hosts) != 2 {
		t.Errorf("%+v", all)
	}
}
