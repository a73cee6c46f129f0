package consolidate

import (
	"math"
	"slices"
)

// PowerAware is PABFD, the paper's algorithm 2: guests by CPU, largest first, each to the host whose power grows least by it and that
// the detector does not call overloaded with it.
type PowerAware struct{ Overload Detector }

// Decreasing sorts guests by the CPU they ask for, largest first; equal ones stay in order.
func Decreasing(f *Fleet, guests []GuestIndex) {
	slices.SortStableFunc(guests, func(a, b GuestIndex) int {
		switch x, y := f.Guests[a].Demand, f.Guests[b].Demand; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
}

// Host picks the host for one guest, Nowhere when none fits. Growth of power is against the power drawn now, so a sleeping host
// counts as idling: waking it seems free. That is the paper's rule, and a large part of what it costs.
func (p PowerAware) Host(b *Bench, g GuestIndex, excluded []bool) HostIndex {
	best, least := Nowhere, math.Inf(1)
	var scratch [HistoryLength]float64
	for i := range b.f.Hosts {
		h := HostIndex(i)
		if excluded != nil && excluded[h] || !b.Fits(h, g) {
			continue
		}
		spec := &b.f.Hosts[h]
		growth := spec.Power.At((b.hosts[h].granted+b.f.Guests[g].Demand)/spec.CPU) - spec.Power.At(spec.Utilisation)
		if growth >= least {
			continue // asking the detector is what costs: only hosts that would win are asked about
		}
		if !b.f.allows(g, h) {
			continue
		}
		if b.hosts[h].granted != 0 && p.Overload.Overloaded(spec.Memory, b.LoadWith(h, g, &scratch)) {
			continue
		}
		best, least = h, growth
	}
	return best
}
