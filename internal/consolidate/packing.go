package consolidate

import "math"

// packing is the bench of the Godwit planner: who is where, how much that asks for, and how much it may ask for in a step's time.
type packing struct {
	f        *Fleet
	hosts    []packedHost
	expected []float64 // CPU in the next step, per guest
	variance []float64 // of that forecast's error
	peak     []float64 // the most that a guest asked for in its history
	lasting  float64   // share of a guest's distance from its mean that is there in the next step
	// What room is left over is weighed by: each resource by the hosts that it alone would need.
	weighCPU, weighRAM float64
}

type packedHost struct {
	guests   []GuestIndex
	asked    float64 // CPU now
	expected float64 // CPU in the next step
	variance float64 // of that forecast's error
	// heldMiB is the memory of guests here, and of those that leave: it is theirs until they are gone.
	heldMiB float64
	price   float64 // watts beyond its worth, see HostClass.reducedWatts: the less the better
	awake   bool
	took    bool // a guest in this round
	gave    bool // a guest in this round
}

// What is assumed of a guest before it is known: from step to step its use varies by a fourteenth of its CPU, which makes a change of a
// tenth. The assumption weighs as much as two observed steps.
const (
	priorVariance = 0.1 * 0.1 / 2
	priorSteps    = 2
)

// forecast foretells the next step of every guest: its mean, plus what of its present distance from the mean is expected to last. How
// much lasts is one number for the whole fleet (the autocorrelation of all guests together): a guest's own would be lost in noise.
// Where use jumps about a mean it is near 0 and yesterday says more than now; where use drifts it is near 1 and now says it all.
func (p *packing) forecast() {
	means, spreads := make([]float64, len(p.f.Guests)), make([]float64, len(p.f.Guests))
	var lasting, total, weight float64
	for i := range p.f.Guests {
		g := &p.f.Guests[i]
		history := lastN(g.History, HistoryLength)
		means[i] = Mean(history)
		squares := 0.0
		for t, v := range history {
			d := v - means[i]
			p.peak[i] = max(p.peak[i], v*g.CPU)
			squares += d * d
			if t > 0 {
				lasting += d * (history[t-1] - means[i]) * g.CPU * g.CPU
			}
		}
		total += squares * g.CPU * g.CPU
		weight += squares * g.CPU * g.CPU * float64(len(history))
		spreads[i] = (squares + priorSteps*priorVariance) / (float64(len(history)) + priorSteps)
	}
	p.lasting = 1
	if total > 0 {
		n := weight / total // steps behind the estimate
		// An autocorrelation taken about the sample's own mean is too small, by about (1+4r)/n.
		p.lasting = min(max((lasting/total+1/n)/(1-min(4/n, 0.5)), 0), 1)
	}
	for i := range p.f.Guests {
		g := &p.f.Guests[i]
		if len(g.History) == 0 {
			p.expected[i] = g.Demand
		} else {
			p.expected[i] = means[i]*g.CPU + p.lasting*(g.Demand-means[i]*g.CPU)
		}
		p.variance[i] = spreads[i] * (1 - 0.9*p.lasting*p.lasting) * g.CPU * g.CPU
	}
}

// newPacking lays a fleet out. Guests without a host are about to boot: they are priced with the others.
func newPacking(f *Fleet) *packing {
	p := &packing{f: f, hosts: make([]packedHost, len(f.Hosts)), expected: make([]float64, len(f.Guests)), variance: make([]float64, len(f.Guests)), peak: make([]float64, len(f.Guests))}
	var asked, ram float64
	p.forecast()
	for i := range f.Hosts {
		h := &p.hosts[i]
		h.awake = !f.Hosts[i].Asleep
		for _, g := range f.Hosts[i].Guests {
			p.add(HostIndex(i), g)
		}
		asked += h.asked
		ram += h.heldMiB
	}
	for i := range f.Guests {
		if g := &f.Guests[i]; g.Host == Nowhere {
			asked += g.Demand
			ram += g.RAMMiB
		}
	}
	p.value(asked, ram)
	return p
}

// value prices the hosts and weighs the resources.
func (p *packing) value(asked, ram float64) {
	classes, class := classesOf(p.f)
	prices := ShadowPrices(classes, asked, ram)
	for i := range p.hosts {
		p.hosts[i].price = classes[class[i]].reducedWatts(prices.CPU, prices.RAMMiB)
	}
	var cpu, mib float64
	for i := range p.f.Hosts {
		cpu += p.f.Hosts[i].CPU
		mib += p.f.Hosts[i].RAMMiB
	}
	byCPU, byRAM := asked/cpu, 0.0
	if mib > 0 {
		byRAM = ram / mib
	}
	if byCPU+byRAM == 0 {
		byCPU = 1
	}
	p.weighCPU, p.weighRAM = byCPU/(byCPU+byRAM), byRAM/(byCPU+byRAM)
}

func (p *packing) add(h HostIndex, g GuestIndex) {
	host, guest := &p.hosts[h], &p.f.Guests[g]
	host.guests = append(host.guests, g)
	host.asked += guest.Demand
	host.expected += p.expected[g]
	host.variance += p.variance[g]
	host.heldMiB += guest.RAMMiB
}

// leave takes a guest off its host; its memory stays held until the move is over.
func (p *packing) leave(h HostIndex, g GuestIndex) {
	p.take(h, g)
	p.hosts[h].gave = true
}

// undo takes back an add.
func (p *packing) undo(h HostIndex, g GuestIndex) {
	p.take(h, g)
	p.hosts[h].heldMiB -= p.f.Guests[g].RAMMiB
}

func (p *packing) take(h HostIndex, g GuestIndex) {
	host := &p.hosts[h]
	guests := host.guests
	host.guests, host.asked, host.expected, host.variance = guests[:0], 0, 0, 0
	held := host.heldMiB
	for _, on := range guests {
		if on != g {
			p.add(h, on)
		}
	}
	host.heldMiB = held
}

// over returns the CPU that a host lacks for what its guests ask for and risk standard deviations of their next step.
func (p *packing) over(h HostIndex, risk float64) float64 {
	return p.hosts[h].asked + risk*math.Sqrt(p.hosts[h].variance) - p.f.Hosts[h].CPU
}

// room returns what would be left of a host with a guest on it, by weight, and whether it fits: its memory, a core fast enough, and
// CPU for what is asked for now and what is expected next, each with some standard deviations more.
func (p *packing) room(h HostIndex, g GuestIndex, s search) (left float64, ok bool) {
	host, guest, spec := &p.hosts[h], &p.f.Guests[g], &p.f.Hosts[h]
	if spec.RAMMiB > 0 {
		mib := spec.RAMMiB - host.heldMiB - guest.RAMMiB
		if mib < 0 {
			return 0, false
		}
		left = p.weighRAM * mib / spec.RAMMiB
	}
	if spec.CPUCore > 0 && max(guest.Demand, p.peak[g]) > spec.CPUCore {
		return 0, false
	}
	deviation := math.Sqrt(host.variance + p.variance[g])
	if host.asked+guest.Demand+s.now*deviation > spec.CPU {
		return 0, false
	}
	cpu := spec.CPU - host.expected - p.expected[g]
	return left + p.weighCPU*cpu/spec.CPU, cpu >= s.risk*deviation
}

// A search says which hosts are looked at for a guest.
type search struct {
	risk   float64   // standard deviations kept free above what is expected in the next step
	now    float64   // and above what is asked for now
	from   HostIndex // not this one
	closed []bool    // nor these
	// gather prefers hosts that already take a guest in this round: a host is disturbed by taking guests, by two hardly more than by one.
	gather bool
}

// target returns the awake host for a guest: of the least price, and there the one where least is left over. Nowhere when none fits.
func (p *packing) target(g GuestIndex, s search) HostIndex {
	best, bestLeft := Nowhere, 0.0
	for i := range p.hosts {
		h, host := HostIndex(i), &p.hosts[i]
		if !host.awake || h == s.from || s.closed[h] {
			continue
		}
		if best != Nowhere && host.price > p.hosts[best].price {
			continue
		}
		left, ok := p.room(h, g, s)
		if ok && (best == Nowhere || p.before(h, left, best, bestLeft, s.gather)) && p.f.allows(g, h) {
			best, bestLeft = h, left
		}
	}
	return best
}

func (p *packing) before(a HostIndex, leftA float64, b HostIndex, leftB float64, gather bool) bool {
	x, y := &p.hosts[a], &p.hosts[b]
	switch {
	case x.price != y.price:
		return x.price < y.price
	case gather && x.took != y.took:
		return x.took
	}
	return leftA < leftB
}

// asleep returns the sleeping host of the least price that a guest fits, Nowhere when there is none.
func (p *packing) asleep(g GuestIndex, closed []bool) HostIndex {
	best := Nowhere
	for i := range p.hosts {
		h := HostIndex(i)
		if p.hosts[h].awake || closed[h] || best != Nowhere && p.hosts[h].price >= p.hosts[best].price {
			continue
		}
		if _, ok := p.room(h, g, search{}); ok && p.f.allows(g, h) {
			best = h
		}
	}
	return best
}
