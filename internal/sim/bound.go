package sim

import (
	"math"

	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// Bound returns a lower bound of the energy in kWh that serving all of the traces takes, whatever the policy.
//
// Where memory does not limit hosts it is the fluid bound: each sample's total served at the best watts per MIPS that any host offers
// at any load, all else off. Where it does, the servers' memory must be held as well: the bound is then that of the fluid problem with
// both resources, which is at least the larger of the bounds for either alone.
func Bound(spec Spec, rules Rules, load *Workload) float64 {
	if !rules.LimitRAM {
		return demand(spec, load) * bestWattsPerMIPS(spec) / joulesPerKWh
	}
	classes := make([]consolidate.HostClass, len(spec.HostTypes))
	for i := range classes {
		t := &spec.HostTypes[i]
		count := (spec.Hosts + len(classes) - 1 - i) / len(classes)
		classes[i] = consolidate.HostClass{Count: count, CPU: t.CPU(), RAMMiB: t.RAMMiB, Power: &t.Power}
	}
	ram, joules := 0.0, 0.0
	for i := range load.Traces {
		ram += spec.serverType(i, len(load.Traces)).RAMMiB
	}
	for k := range load.Samples() {
		joules += consolidate.ShadowPrices(classes, demandAt(spec, load, k), ram).Watts * spec.StepSeconds
	}
	return joules / joulesPerKWh
}

// demand returns what the traces ask for over the day, in MIPS seconds.
func demand(spec Spec, load *Workload) float64 {
	total := 0.0
	for i, t := range load.Traces {
		total += t.total(spec.StepSeconds) * spec.serverType(i, len(load.Traces)).MIPS
	}
	return total
}

func demandAt(spec Spec, load *Workload, sample int) float64 {
	total := 0.0
	for i, t := range load.Traces {
		total += t[sample] * spec.serverType(i, len(load.Traces)).MIPS
	}
	return total
}

// total is the trace's integral: a sample holds for a step.
func (t Trace) total(step float64) float64 {
	sum := 0.0
	for _, v := range t {
		sum += v
	}
	return sum * step
}

func bestWattsPerMIPS(spec Spec) float64 {
	best := math.Inf(1)
	for i := range spec.HostTypes {
		t := &spec.HostTypes[i]
		for tenth := 1; tenth <= 10; tenth++ {
			best = min(best, t.Power[tenth]/(t.CPU()*float64(tenth)/10))
		}
	}
	return best
}
