package optimize

import (
	"fmt"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// fleet is a small cloud for tests: hosts of 8 CPUs and 16 GiB, all proven to wake.
type fleet struct {
	Input
	loads map[cloud.ServerID][]float64
}

func newFleet(hosts int) *fleet {
	s := DefaultSettings()
	s.Failover = 1
	f := &fleet{loads: map[cloud.ServerID][]float64{}, Input: Input{
		Settings: s, Policy: placement.DefaultPolicy(), Snapshot: &cloud.Snapshot{Now: noon, Groups: map[cloud.GroupID]cloud.ServerGroup{}},
		Powers: map[cloud.HostName]cloud.HostPower{}, Rates: Learn(nil), Busy: map[cloud.ServerID]bool{}, By: cloud.AutomationManual,
		Memories: map[cloud.HostName]*consolidate.Memory{},
		Readings: telemetry.Readings{Step: 5 * time.Minute, Hosts: map[cloud.HostName]telemetry.HostReading{}, Servers: map[cloud.ServerID]telemetry.ServerReading{}},
	}}
	for i := range hosts {
		name := cloud.HostName(fmt.Sprintf("host-%d", i+1))
		f.Snapshot.Hosts = append(f.Snapshot.Hosts, cloud.HostView{
			Host: cloud.Host{Name: name}, Up: true, Zone: cloud.DefaultZone, Usage: cloud.Usage{Host: name, Claims: map[string]cloud.Claim{}},
			Report: cloud.HostReport{Host: name, VCPUs: 8, RAMMiB: 16384, DiskGiB: 500, Arch: "x86_64", Virtualization: "kvm", CPUModels: []string{"qemu64"}, CPUModel: "qemu64", LibvirtVersion: "9.0.0", QEMUVersion: "7.2.0", MigrationAddress: "10.0.0.1"},
		})
		f.Powers[name] = cloud.HostPower{Host: name, State: cloud.HostAwake, WakeProven: noon.Add(-time.Hour), WakeTook: time.Minute}
	}
	return f
}

// add puts a server on a host, using a steady number of CPUs.
func (f *fleet) add(id, host string, cpus float64) *cloud.Server {
	s := &cloud.Server{
		ID: cloud.ServerID(id), Name: id, Host: cloud.HostName(host), VMState: cloud.VMActive, Power: cloud.PowerRunning, CPUModel: "qemu64",
		Flavor: cloud.Flavor{ID: "f", VCPUs: 2, RAMMiB: 1024, RootGiB: 1}, Metadata: map[string]string{},
	}
	f.Servers = append(f.Servers, s)
	f.claim(s, s.Host)
	history := make([]float64, 30)
	for i := range history {
		history[i] = cpus
	}
	f.Readings.Servers[s.ID] = telemetry.ServerReading{At: noon, CPUUsed: cpus, MemoryUsedMiB: 300, DirtyBytesPerSecond: -1, History: history}
	return s
}

func (f *fleet) view(host cloud.HostName) *cloud.HostView {
	for i := range f.Snapshot.Hosts {
		if f.Snapshot.Hosts[i].Host.Name == host {
			return &f.Snapshot.Hosts[i]
		}
	}
	panic("no host " + host)
}

func (f *fleet) claim(s *cloud.Server, host cloud.HostName) {
	f.view(host).Usage.Claims[cloud.ClaimKey(s.ID)] = cloud.Claim{Server: s.ID, Resources: s.Resources()}
}

// carryOut does at once what a plan says.
func (f *fleet) carryOut(o Outcome) {
	for _, a := range o.Actions {
		power := f.Powers[a.Host]
		switch a.Kind {
		case cloud.ActionWake:
			power.State, power.Since = cloud.HostAwake, f.Snapshot.Now
			f.view(a.Host).Up = true
		case cloud.ActionSleep:
			power.State, power.Since = cloud.HostAsleep, f.Snapshot.Now
			f.view(a.Host).Up = false
		case cloud.ActionMigrate:
			for _, s := range f.Servers {
				if s.ID == a.Server {
					delete(f.view(s.Host).Usage.Claims, cloud.ClaimKey(s.ID))
					s.Host = a.Target
					f.claim(s, s.Host)
					f.Rates.Own[s.ID] = OwnRate{Finished: f.Snapshot.Now}
				}
			}
		}
		f.Powers[a.Host] = power
	}
}

func moves(o Outcome) (out []cloud.PlanAction) { return ofKind(o, cloud.ActionMigrate) }

func ofKind(o Outcome, kind cloud.PlanActionKind) (out []cloud.PlanAction) {
	for _, a := range o.Actions {
		if a.Kind == kind {
			out = append(out, a)
		}
	}
	return out
}
