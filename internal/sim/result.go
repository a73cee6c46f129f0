package sim

import "github.com/godwit-cloud/godwit/internal/consolidate"

// Result is what a policy did with a day.
type Result struct {
	Day     string `json:"day"`
	Rules   string `json:"rules"`
	Policy  string `json:"policy"`
	Seed    int64  `json:"seed"`
	Hosts   int    `json:"hosts"`
	Servers int    `json:"servers"`
	// Dropped servers were removed as idle (CloudSimRules only); Served is the CPU that servers got over what the traces ask for.
	Dropped int     `json:"dropped"`
	Served  float64 `json:"served"`

	EnergyKWh float64 `json:"energy_kwh"`
	// BoundKWh is what serving all of the traces takes at least. TimesBound is the energy over it, TimesServed over its share that was
	// served: where work is lost, only the latter says how well the policy did.
	BoundKWh    float64 `json:"bound_kwh"`
	TimesBound  float64 `json:"times_bound"`
	TimesServed float64 `json:"times_served"`

	Migrations int            `json:"migrations"`
	Reasons    map[string]int `json:"reasons"`
	Sleeps     int            `json:"sleeps"` // times a host fell asleep
	// SLATAH is the share of hosts' active time in which servers got less than they asked for, as CloudSim counts it: a server that is
	// moving in asks for all and gets a tenth. PDM is the share of the CPU asked for that was lost to migrations.
	SLATAH float64 `json:"slatah"`
	PDM    float64 `json:"pdm"`
	SLAV   float64 `json:"slav"` // SLATAH * PDM
	ESV    float64 `json:"esv"`  // energy in kWh * SLAV
	// AITF is the share of all host time spent asleep; AOTF the share of active host time at a utilisation of 80 and of 100 %.
	AITF    float64 `json:"aitf"`
	AOTF80  float64 `json:"aotf_80"`
	AOTF100 float64 `json:"aotf_100"`

	Series []Point `json:"series,omitempty"`
}

// result sums the day up.
func (w *world) result(d *Day, seconds float64) Result {
	r := Result{
		Day: d.Load.Name, Rules: d.Rules.Name, Policy: d.Policy, Seed: d.Seed, Hosts: len(w.hosts), Servers: len(w.servers),
		EnergyKWh: w.tally.joules / joulesPerKWh, Migrations: w.tally.migrations, Reasons: map[string]int{}, Series: w.tally.series,
	}
	if d.AlwaysOn {
		r.EnergyKWh = 0
		for i := range w.hosts {
			r.EnergyKWh += w.hosts[i].kind.Power.Max() * seconds / joulesPerKWh
		}
	}
	for reason, n := range w.tally.reasons {
		if n > 0 {
			r.Reasons[consolidate.Reason(reason).String()] = n
		}
	}
	w.sumHosts(&r)
	w.sumServers(&r)
	r.SLAV = r.SLATAH * r.PDM
	r.ESV = r.EnergyKWh * r.SLAV
	r.BoundKWh = Bound(d.Spec, d.Rules, d.Load)
	r.TimesBound = ratio(r.EnergyKWh, r.BoundKWh)
	r.TimesServed = ratio(r.TimesBound, r.Served)
	return r
}

func (w *world) sumHosts(r *Result) {
	var all hostRecord
	for i := range w.hosts {
		h := &w.hosts[i].record
		all.active += h.active
		all.asleep += h.asleep
		all.short += h.short
		all.busy += h.busy
		all.full += h.full
		all.sleeps += h.sleeps
	}
	r.Sleeps = all.sleeps
	r.SLATAH = ratio(all.short, all.active)
	r.AITF = ratio(all.asleep, all.active+all.asleep)
	r.AOTF80, r.AOTF100 = ratio(all.busy, all.active), ratio(all.full, all.active)
}

func (w *world) sumServers(r *Result) {
	var all serverRecord
	wanted := 0.0
	for i := range w.servers {
		s := &w.servers[i]
		all.gotTotal += s.record.gotTotal
		all.askedTotal += s.record.askedTotal
		all.lostMoving += s.record.lostMoving
		wanted += s.trace.total(w.spec.StepSeconds) * s.kind.MIPS
		if s.gone {
			r.Dropped++
		}
	}
	r.PDM = ratio(all.lostMoving, all.askedTotal)
	r.Served = ratio(all.gotTotal, wanted)
}

const joulesPerKWh = 3.6e6

func ratio(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}
