package optimize

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// wakeTakesDefault is assumed of a host that was never timed: what a server with a long self-test takes.
const wakeTakesDefault = 3 * time.Minute

func (j *judge) wakeTakes(h consolidate.HostIndex) time.Duration {
	if took := j.in.Powers[j.views[h].Host.Name].WakeTook; took > 0 {
		return took
	}
	return wakeTakesDefault
}

// sleepTakesDefault is assumed of a host that was never seen to fall asleep.
const sleepTakesDefault = 30 * time.Second

// cycleTakes is how long a host draws power for nothing when it sleeps and wakes once.
func (j *judge) cycleTakes(h consolidate.HostIndex) time.Duration {
	if took := j.in.Powers[j.views[h].Host.Name].SleepTook; took > 0 {
		return took + j.wakeTakes(h)
	}
	return sleepTakesDefault + j.wakeTakes(h)
}

// MayRest says why a host may not be put to sleep by the optimiser, whatever is on it; "" when it may.
func MayRest(h *cloud.Host, p cloud.HostPower, s Settings, now time.Time) string {
	switch {
	case !s.Sleep:
		return "hosts may not sleep here (optimize.sleep)"
	case h.Disabled:
		return "it is disabled"
	case p.WakeFailures > 0:
		return fmt.Sprintf("it failed to wake %d times", p.WakeFailures)
	case p.WakeProven.IsZero():
		return fmt.Sprintf("it was never seen to wake: `godwit hosts wake-test %s` proves it", h.Name)
	case now.Sub(p.WakeProven) > s.WakeValid:
		return fmt.Sprintf("it was last seen to wake at %s, too long ago", p.WakeProven.Format(time.DateOnly))
	case p.Asked != cloud.AskNothing || p.Resting():
		return "it is being woken or put to sleep"
	case !p.Since.IsZero() && now.Sub(p.Since) < s.AwakeMin:
		return fmt.Sprintf("it woke %s ago and stays awake for at least %s", now.Sub(p.Since).Round(time.Second), s.AwakeMin)
	}
	return ""
}

// maySleep says why a host may not sleep when its guests are gone to the hosts coming, "" when it may. The moves that empty it are already shifted.
func (j *judge) maySleep(h consolidate.HostIndex, coming ...consolidate.HostIndex) string {
	view := &j.views[h]
	if why := MayRest(&view.Host, j.in.Powers[view.Host.Name], j.in.Settings, j.in.Snapshot.Now); why != "" {
		return why
	}
	if len(j.bound[h]) > 0 {
		return j.bound[h][0]
	}
	for _, to := range coming { // hosts that wake for the guests of this one
		if !j.awake[to] {
			j.awake[to] = true
			defer func() { j.awake[to] = false }()
		}
	}
	j.awake[h] = false
	defer func() { j.awake[h] = true }()
	if why := j.tooFew(); why != "" {
		return why
	}
	return ""
}

// tooFew says why the awake hosts are too few, "" when they are enough.
func (j *judge) tooFew() string {
	var ram []int
	cpu, capacity, held := 0.0, 0, 0
	for i := range j.views {
		held += j.held[i]
		if !j.awake[i] { // stopped servers sleep with their host
			held -= j.atRest[i].ramMiB
		}
		if !j.awake[i] || j.views[i].Host.Disabled { // a disabled host takes no servers, so nobody's room is on it
			continue
		}
		mib := j.in.Policy.Capacity(j.views[i].Report).RAMMiB
		ram = append(ram, mib)
		capacity += mib
		cpu += j.fleet.Hosts[i].CPU
	}
	if len(ram) <= j.in.Settings.Failover {
		return fmt.Sprintf("%d hosts must stay awake, so that %d may fail", j.in.Settings.Failover+1, j.in.Settings.Failover)
	}
	slices.Sort(ram)
	for _, mib := range ram[len(ram)-j.in.Settings.Failover:] {
		capacity -= mib
	}
	if held > capacity {
		return fmt.Sprintf("%d MiB are claimed, and were the %d largest hosts to fail, the others awake would hold %d", held, j.in.Settings.Failover, capacity)
	}
	if free := 1 - j.in.Settings.Reserve; j.expect > free*cpu {
		return fmt.Sprintf("%.2f CPUs will soon be asked for, and the awake hosts would have %.2f with their reserve kept", j.expect, free*cpu)
	}
	return ""
}

// trendSteps is how far back the trend of the fleet's load is looked for: half an hour at five minutes a step.
const trendSteps = 6

// expected returns the CPUs that the fleet will ask for when a host that is woken now is there: what is asked for now, and its rise over the last steps
// carried on. A falling load is not counted on.
func (j *judge) expected() float64 {
	now := 0.0
	for i := range j.fleet.Guests {
		now += j.fleet.Guests[i].Demand
	}
	totals := make([]float64, trendSteps)
	for i := range j.fleet.Guests {
		g := &j.fleet.Guests[i]
		if len(g.History) < trendSteps {
			return now // too early for a trend
		}
		for k := range totals {
			totals[k] += g.Used(trendSteps - 1 - k)
		}
	}
	slope := slopeOf(totals)
	ahead := wakeTakesDefault
	for i := range j.views {
		if !j.awake[i] {
			ahead = max(ahead, j.wakeTakes(consolidate.HostIndex(i)))
		}
	}
	return now + max(0, slope)*(1+ahead.Seconds()/j.fleet.StepSeconds)
}

// slopeOf fits a line by least squares and returns its rise per step.
func slopeOf(y []float64) float64 {
	n := float64(len(y))
	meanX, meanY := (n-1)/2, 0.0
	for _, v := range y {
		meanY += v / n
	}
	var xy, xx float64
	for i, v := range y {
		x := float64(i) - meanX
		xy += x * (v - meanY)
		xx += x * x
	}
	return xy / xx
}

// wakeAhead wakes hosts, the frugal ones first, until those awake are enough.
func (j *judge) wakeAhead() {
	for {
		why := j.tooFew()
		if why == "" {
			return
		}
		best := consolidate.Nowhere
		for i := range j.views {
			h := consolidate.HostIndex(i)
			if j.awake[i] || j.in.Powers[j.views[i].Host.Name].State != cloud.HostAsleep {
				continue
			}
			if best == consolidate.Nowhere || j.perCPU(h) < j.perCPU(best) {
				best = h
			}
		}
		if best == consolidate.Nowhere {
			return
		}
		j.wake(best, why)
	}
}

func (j *judge) perCPU(h consolidate.HostIndex) float64 {
	return j.fleet.Hosts[h].Power.Max() / j.fleet.Hosts[h].CPU
}

// sleeps puts to sleep what is empty without this plan.
func (j *judge) sleeps() {
	for i := range j.views {
		h := consolidate.HostIndex(i)
		if !j.awake[i] || j.woken[i] || j.took[i] || j.count[i] > 0 {
			continue
		}
		if why := j.maySleep(h); why != "" {
			j.refuse(noGuest, h, consolidate.Nowhere, "the host is empty and does not sleep: %s", why)
			continue
		}
		j.sleep(h)
	}
}

func (j *judge) sleep(h consolidate.HostIndex) {
	j.awake[h], j.slept[h] = false, true
	j.out.Actions = append(j.out.Actions, cloud.PlanAction{
		Kind: cloud.ActionSleep, Host: j.views[h].Host.Name, Status: cloud.StatusRecommended,
		Reason: fmt.Sprintf("empty then; idle it draws about %.0f W", j.fleet.Hosts[h].Power[0]),
	})
}

// before and after fill in the effect.
func (j *judge) before() {
	e := &j.out.Effect
	e.WattsBefore, e.AwakeBefore, e.SpreadBefore, e.ShortBefore = j.state()
}

func (j *judge) after() {
	e := &j.out.Effect
	e.WattsAfter, e.AwakeAfter, e.SpreadAfter, e.ShortAfter = j.state()
	spent := 0.0
	for i := range j.out.Actions {
		if c := j.out.Actions[i].Cost; c != nil {
			spent += c.WattHours
		}
	}
	e.GainWattHours = (e.WattsBefore-e.WattsAfter)*j.in.Settings.Horizon.Hours() - spent
}

func (j *judge) state() (watts float64, awake int, spread, short float64) {
	var loads []float64
	for i := range j.views {
		if !j.awake[i] {
			continue
		}
		h := consolidate.HostIndex(i)
		awake++
		watts += j.watts(h, j.asked[i])
		short += max(0, j.asked[i]-j.fleet.Hosts[i].CPU)
		loads = append(loads, j.asked[i]/j.fleet.Hosts[i].CPU)
	}
	mean := 0.0
	for _, l := range loads {
		mean += l / float64(len(loads))
	}
	for _, l := range loads {
		spread += (l - mean) * (l - mean) / float64(len(loads))
	}
	return watts, awake, math.Sqrt(spread), short
}
