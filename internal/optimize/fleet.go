package optimize

import (
	"fmt"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

// Input is all that a plan is made of. Nothing in it is changed but Memories.
type Input struct {
	Settings Settings
	Policy   placement.Policy
	Snapshot *cloud.Snapshot
	Servers  []*cloud.Server // all that are on a host
	Powers   map[cloud.HostName]cloud.HostPower
	Readings telemetry.Readings
	Rates    Rates
	// Busy are servers that something is being done with.
	Busy map[cloud.ServerID]bool
	// By is who would carry the plan out: AutomationManual a person, AutomationFull nobody.
	By cloud.Automation
	// Memories are what overload detectors remember of hosts, between plans; the caller keeps the map.
	Memories map[cloud.HostName]*consolidate.Memory
	Seed     int64
}

// model is a fleet with the names of what is in it.
type model struct {
	in     *Input
	fleet  consolidate.Fleet
	views  []cloud.HostView // by HostIndex; claims grow while a plan is judged
	snap   cloud.Snapshot   // its Hosts are views
	guests []*cloud.Server  // by GuestIndex
	index  map[cloud.HostName]consolidate.HostIndex
	pinned map[consolidate.GuestIndex]string // why
	bound  [][]string                        // by HostIndex: what keeps the host from being emptied beside its guests
	atRest []rest                            // by HostIndex: stopped servers, which sleep with their host
	rules  map[ruleKey]bool
}

// rest sums up stopped servers.
type rest struct{ servers, ramMiB int }

// Migrations get this of the network when nothing else is known (MiB per second); planners only compare with it.
const migrationMiBpsDefault = bytesPerSecondDefault >> 20

// cpuUnit is a thousandth of a CPU: about a MHz, which Neat counts in.
const cpuUnit = 1e-3

// build lays the fleet out. Units: CPUs, MiB.
func build(in *Input) *model {
	m := &model{in: in, index: map[cloud.HostName]consolidate.HostIndex{}, pinned: map[consolidate.GuestIndex]string{}, rules: map[ruleKey]bool{}}
	m.fleet.StepSeconds = max(1, in.Readings.Step.Seconds())
	m.snap = *in.Snapshot
	m.snap.Hosts = nil
	models := in.powerModels()
	for i := range in.Snapshot.Hosts {
		view := in.Snapshot.Hosts[i]
		power := in.Powers[view.Host.Name]
		asleep := power.State == cloud.HostAsleep && !view.Host.ForcedDown && !view.Host.Disabled
		if view.Report.VCPUs == 0 || !view.Up && !asleep {
			continue // nothing can be said of it, and nothing moved to or from it
		}
		view.Up = true
		m.addHost(view, asleep, models[view.Host.Name])
	}
	m.snap.Hosts = m.views
	m.addGuests()
	m.fleet.Allows, m.fleet.CPUUnit = m.allows, cpuUnit
	return m
}

func (m *model) addHost(view cloud.HostView, asleep bool, power consolidate.PowerModel) {
	name := view.Host.Name
	m.index[name] = consolidate.HostIndex(len(m.views))
	m.views = append(m.views, view)
	m.bound, m.atRest = append(m.bound, nil), append(m.atRest, rest{})
	reading := m.in.Readings.Hosts[name]
	own := min(reading.CPUOwn, 0.5*float64(view.Report.VCPUs)) // a host that is busy by itself still counts for something
	memory := m.in.Memories[name]
	if memory == nil {
		memory = &consolidate.Memory{}
		if m.in.Memories != nil {
			m.in.Memories[name] = memory
		}
	}
	m.fleet.Hosts = append(m.fleet.Hosts, consolidate.Host{
		CPU: max(0.1, float64(view.Report.VCPUs)-own), MigrationMiBps: float64(max(1, m.in.Rates.BytesPerSecond>>20)), Power: &power, Asleep: asleep, Memory: memory,
		Utilisation: min(1, reading.CPUUsed/float64(view.Report.VCPUs)),
	})
	if m.fleet.Hosts[len(m.fleet.Hosts)-1].MigrationMiBps <= 1 {
		m.fleet.Hosts[len(m.fleet.Hosts)-1].MigrationMiBps = migrationMiBpsDefault
	}
}

func (m *model) addGuests() {
	ofGuests := make([]int, len(m.views)) // MiB
	for _, s := range m.in.Servers {
		h, ok := m.index[s.Host]
		if !ok {
			continue
		}
		if s.AtRest() && !m.in.Busy[s.ID] && AutomationOf(s) != cloud.AutomationManual {
			m.atRest[h].servers++
			m.atRest[h].ramMiB += s.Flavor.RAMMiB
			continue
		}
		if s.VMState != cloud.VMActive || s.Power != cloud.PowerRunning {
			m.bound[h] = append(m.bound[h], fmt.Sprintf("server %s is %s, and only running servers move live", s.Name, s.VMState))
			continue
		}
		reading, known := m.in.Readings.Servers[s.ID]
		g := consolidate.GuestIndex(len(m.guests))
		m.guests = append(m.guests, s)
		cpus := float64(max(1, s.Flavor.VCPUs))
		guest := consolidate.Guest{Host: h, CPU: cpus, Demand: min(cpus, reading.Asked()), RAMMiB: float64(s.Flavor.RAMMiB), History: make([]float64, len(reading.History))}
		for i, used := range reading.History {
			guest.History[i] = min(1, used/cpus)
		}
		if !known {
			guest.Demand = cpus
		}
		if why := m.in.pin(s, known); why != "" {
			guest.Pinned, m.pinned[g] = true, why
		}
		m.fleet.Guests = append(m.fleet.Guests, guest)
		m.fleet.Hosts[h].Guests = append(m.fleet.Hosts[h].Guests, g)
		ofGuests[h] += s.Flavor.RAMMiB
	}
	for i := range m.views {
		v := &m.views[i]
		others := max(0, v.Usage.Total().RAMMiB-ofGuests[i])
		m.fleet.Hosts[i].RAMMiB = max(1, float64(m.in.Policy.Capacity(v.Report).RAMMiB-others))
		for _, c := range v.Usage.Claims {
			if c.Migration != "" {
				m.bound[i] = append(m.bound[i], fmt.Sprintf("server %s is moving there", c.Server))
			}
		}
	}
}

// pin says why a server stays where it is, "" when it may move.
func (in *Input) pin(s *cloud.Server, known bool) string {
	if err := s.Allow(cloud.OpLiveMigrate); err != nil || in.Busy[s.ID] {
		return "something is being done with it"
	}
	switch level := AutomationOf(s); {
	case level == cloud.AutomationManual:
		return "its automation level is manual"
	case level == cloud.AutomationPartial && in.By == cloud.AutomationFull:
		return "its automation level is partial: it moves only in plans that a person starts"
	}
	if own, moved := in.Rates.Own[s.ID]; moved && in.Snapshot.Now.Sub(own.Finished) < in.Settings.Window {
		if own.Failed {
			return fmt.Sprintf("a move of it ended without success %s ago; it is not tried again within %s", in.Snapshot.Now.Sub(own.Finished).Round(time.Second), in.Settings.Window)
		}
		return fmt.Sprintf("it moved %s ago; no server moves twice within %s", in.Snapshot.Now.Sub(own.Finished).Round(time.Second), in.Settings.Window)
	}
	if !known {
		return "nothing is known of its load yet"
	}
	return ""
}

// AutomationOf returns a server's own automation level, empty when it has none. "off" is manual.
func AutomationOf(s *cloud.Server) cloud.Automation {
	level := cloud.Automation(s.Metadata[cloud.MetaAutomation])
	if level == "" {
		level = cloud.Automation(s.Flavor.ExtraSpecs[cloud.MetaAutomation])
	}
	if level == "off" {
		return cloud.AutomationManual
	}
	return level
}

// powerModels are the hosts' power models: of the first aggregate, by name, that gives one, else the default.
func (in *Input) powerModels() map[cloud.HostName]consolidate.PowerModel {
	out := make(map[cloud.HostName]consolidate.PowerModel, len(in.Snapshot.Hosts))
	for i := range in.Snapshot.Hosts {
		out[in.Snapshot.Hosts[i].Host.Name] = in.Settings.Power
	}
	aggregates := slices.Clone(in.Snapshot.Aggregates)
	slices.SortFunc(aggregates, func(a, b cloud.Aggregate) int { // the first by name is written last
		if a.Name < b.Name {
			return 1
		}
		return -1
	})
	for _, a := range aggregates {
		power, err := ParsePower(a.Metadata[MetaPower])
		if err != nil {
			continue // none, or one that the API should not have taken
		}
		for _, h := range a.Hosts {
			out[h] = power
		}
	}
	return out
}

// PowerOf returns the power model of each host.
func PowerOf(snap *cloud.Snapshot, s Settings) map[cloud.HostName]consolidate.PowerModel {
	in := Input{Snapshot: snap, Settings: s}
	return in.powerModels()
}

// ruleKey is what placement's answer about a server depends on, its room aside, so that alike servers are asked for once.
type ruleKey struct {
	source, target consolidate.HostIndex
	flavor         string
	cpuModel, zone string
	group          cloud.GroupID
	root           bool
	arch           string
}

// allows asks placement's rules, as the move itself will.
func (m *model) allows(g consolidate.GuestIndex, h consolidate.HostIndex) bool {
	s := m.guests[g]
	source := consolidate.Nowhere
	if at, ok := m.index[s.Host]; ok {
		source = at
	}
	key := ruleKey{source, h, string(s.Flavor.ID), s.CPUModel, s.Zone, s.Group, s.RootDevice() != nil, s.ImageProperties["hw_architecture"]}
	if known, ok := m.rules[key]; ok {
		return known
	}
	ok := len(m.refusals(g, h)) == 0
	if s.Group == "" { // a group's rules differ by member
		m.rules[key] = ok
	}
	return ok
}

// refusals are placement's reasons against a move as things stand in the plan.
func (m *model) refusals(g consolidate.GuestIndex, h consolidate.HostIndex) []string {
	s := m.guests[g]
	request := placement.ForMigration(s, &cloud.Migration{Asked: cloud.MigrateAuto, AskedTarget: m.views[h].Host.Name})
	pair := m.snap // placement looks at the source and the target only: it need not search ten thousand hosts for them
	pair.Hosts = []cloud.HostView{m.views[h]}
	if source, ok := m.index[s.Host]; ok {
		pair.Hosts = append(pair.Hosts, m.views[source])
	}
	return placement.Check(m.in.Policy, &pair, m.views[h], request)
}
