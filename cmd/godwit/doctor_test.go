package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/operator"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// sharer is a host that is up and keeps disks on a GlusterFS volume.
func sharer(name, address string, seen map[cloud.HostName]string) operator.Host {
	h := operator.Host{State: operator.HostUp}
	h.Name = cloud.HostName(name)
	h.Report = &cloud.HostReport{
		Arch: "x86_64", Virtualization: "kvm", CPUModel: "qemu64", QEMUVersion: "7.2.0", LibvirtVersion: "9.0.0", MigrationAddress: address, SharedDiskID: "d",
		Shared: &cloud.SharedStorage{Kind: "glusterfs", Source: "g1:vms", Writable: true, Quorum: true, Nonce: name + " 10", Seen: seen,
			Bricks: []cloud.Brick{{Name: "g1:/b", Online: true}, {Name: "g2:/b", Online: true}}},
	}
	h.Checkup = &cloud.Checkup{Host: h.Name, At: noon.Add(-30 * time.Second), ClockAhead: 10 * time.Millisecond, ClockMargin: 5 * time.Millisecond,
		CertificateEnd: noon.Add(30 * 24 * time.Hour), Looked: []cloud.HostName{"the other"}}
	return h
}

func TestTheDoctorProvesThatADirectoryIsShared(t *testing.T) {
	one := sharer("one", "192.0.2.1", map[cloud.HostName]string{"two": "two 9"})
	two := sharer("two", "192.0.2.2", map[cloud.HostName]string{"one": "one 11"})
	if all := diagnose([]operator.Host{one, two}, noon); slices.ContainsFunc(all, func(f finding) bool { return f.Level != levelOK }) || len(all) != 6 {
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
		if !slices.ContainsFunc(diagnose([]operator.Host{a, b}, noon), func(f finding) bool { return f.Level == levelProblem && strings.Contains(f.Text, what) }) {
			t.Errorf("%q is not said", what)
		}
	}
}

func TestWhatCannotBeProvenYetIsPendingForAMinuteAndThenAProblem(t *testing.T) {
	for name, c := range map[string]struct {
		change func(a, b *cloud.SharedStorage)
		level  string
		says   string
		exit   int
	}{
		"both have just begun": {func(a, b *cloud.SharedStorage) { a.KeptFor, b.KeptFor, b.Seen = 4*time.Second, 6*time.Second, nil },
			levelPending, "has not read yet what one writes on g1:vms, 4s after", exitCodes[cloud.KindUnavailable]},
		"the writer was started anew": {func(a, b *cloud.SharedStorage) { a.KeptFor, a.Nonce, b.KeptFor = 59*time.Second, "again 1", time.Hour },
			levelPending, "has not read yet what one writes on g1:vms, 59s after", exitCodes[cloud.KindUnavailable]},
		"the reader was started anew": {func(a, b *cloud.SharedStorage) { a.KeptFor, b.KeptFor, b.Seen = time.Hour, 2*time.Second, nil },
			levelPending, "has not read yet what one writes on g1:vms, 2s after", exitCodes[cloud.KindUnavailable]},
		"it has not looked": {func(_, b *cloud.SharedStorage) {
			b.KeptFor, b.Seen, b.Nonce, b.Writable, b.Quorum, b.Error = time.Second, nil, "", false, false, cloud.NotLookedYet
		}, levelPending, "has not looked at g1:vms yet, 1s after", exitCodes[cloud.KindUnavailable]},
		"both have been there for a minute": {func(a, b *cloud.SharedStorage) { a.KeptFor, b.KeptFor, b.Seen = time.Minute, time.Minute, nil },
			levelProblem, "does not read what one writes", exitCodes[cloud.KindConflict]},
		"agents that do not say": {func(_, b *cloud.SharedStorage) { b.Seen = nil }, levelProblem, "does not read what one writes", exitCodes[cloud.KindConflict]},
		"a young agent that cannot write is a problem": {func(a, _ *cloud.SharedStorage) { a.KeptFor, a.Writable = 20*time.Second, false },
			levelProblem, "cannot be written to", exitCodes[cloud.KindConflict]},
	} {
		one, two := sharer("one", "192.0.2.1", map[cloud.HostName]string{"two": "two 9"}), sharer("two", "192.0.2.2", map[cloud.HostName]string{"one": "one 11"})
		c.change(one.Report.Shared, two.Report.Shared)
		all := diagnose([]operator.Host{one, two}, noon)
		if !slices.ContainsFunc(all, func(f finding) bool { return f.Level == c.level && strings.Contains(f.Text, c.says) }) {
			t.Errorf("%s: %q is not said as %s: %+v", name, c.says, c.level, all)
		}
		if code := exitCode(verdict(all)); code != c.exit {
			t.Errorf("%s: status %d, want %d: %+v", name, code, c.exit, all)
		}
	}
}

func TestTheDoctorJudgesClocksCertificatesAndWays(t *testing.T) {
	for what, c := range map[string]struct {
		level  string
		change func(a, b *cloud.Checkup)
	}{
		"no two are more than 10ms apart":   {levelOK, func(*cloud.Checkup, *cloud.Checkup) {}},
		"good on 2 hosts":                   {levelOK, func(*cloud.Checkup, *cloud.Checkup) {}},
		"2 of 2 are open":                   {levelOK, func(*cloud.Checkup, *cloud.Checkup) {}},
		"no two are more than 5.005s apart": {levelOK, func(a, _ *cloud.Checkup) { a.ClockMargin = 5 * time.Second }}, // nothing is known, so nothing is said
		"clocks are at least 1.99s apart":   {levelWarning, func(a, _ *cloud.Checkup) { a.ClockAhead -= 2 * time.Second }},
		"clocks are at least 59.99s apart":  {levelProblem, func(_, b *cloud.Checkup) { b.ClockAhead += time.Minute }},
		"were not looked at":                {levelWarning, func(a, _ *cloud.Checkup) { a.At = noon.Add(-time.Hour) }},
		"end on 2026-05-02":                 {levelWarning, func(a, _ *cloud.Checkup) { a.CertificateEnd = noon.Add(24 * time.Hour) }},
		"ended on 2026-04-30":               {levelProblem, func(a, _ *cloud.Checkup) { a.CertificateEnd = noon.Add(-24 * time.Hour) }},
		"no such file":                      {levelProblem, func(a, _ *cloud.Checkup) { a.CertificateError = "no such file" }},
		"closed: libvirt with TLS (i/o timeout); QEMU's migration ports (i/o timeout)": {levelProblem, func(a, _ *cloud.Checkup) {
			a.Closed = []cloud.ClosedWay{{To: "two", Way: cloud.WayLibvirt, Error: "i/o timeout"}, {To: "two", Way: cloud.WayMigration, Error: "i/o timeout"}, {To: "gone", Way: cloud.WayPeer}}
		}},
	} {
		one, two := sharer("one", "192.0.2.1", nil), sharer("two", "192.0.2.2", nil)
		c.change(one.Checkup, two.Checkup)
		if all := diagnose([]operator.Host{one, two}, noon); !slices.ContainsFunc(all, func(f finding) bool { return f.Level == c.level && strings.Contains(f.Text, what) }) {
			t.Errorf("%q is not said as %s: %+v", what, c.level, all)
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
