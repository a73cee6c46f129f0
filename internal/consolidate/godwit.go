package consolidate

import (
	"cmp"
	"math"
	"math/rand"
	"slices"
)

// Godwit is our planner. It packs by chance constraints: a host takes a guest only while what is likely in the next step still fits, and
// how likely it must be is set in standard deviations of what its guests were seen to do. So a host of steady guests is filled to the
// brim and one of jumpy guests is not, with one set of parameters for all fleets.
//
//   - Relieve: a host that is short, or a breath away from it, gives guests away, those first whose move costs least for what it frees.
//     They go to the host where least room is left over: to one that will likely be safe (Risk) if there is one, to one that is at least
//     not short now otherwise; only then is a host woken.
//   - Drain: the least used host is emptied when all its guests find safe places. What "safe" means is stricter here (DrainRisk), so a
//     host that is put to sleep is not missed at once: that gap is the hysteresis.
//   - Exchange: when a better kind of host sleeps while a worse one works, its guests move over as a whole if that saves enough.
//
// Which kind of host is better follows from the shadow prices of the resources (see ShadowPrices): efficient hosts where CPU is scarce,
// frugal ones where memory is.
type Godwit struct {
	Risk      float64 // kept free where guests are moved to in need, in standard deviations of a step's change
	DrainRisk float64 // kept free where guests of a drained host go to; at least Risk
	// Trigger is how much a host keeps free above what is asked for now: one that has less gives guests away until it has as much.
	Trigger float64
	// MoveCost is what one move costs beyond the CPU that it takes from the moving guest, as a share of the host's CPU. The more, the
	// fewer and larger guests leave a host.
	MoveCost float64
	// GainMin is the share of a host's power that an exchange must save.
	GainMin float64
	// DrainsMax bounds the moves by which hosts are emptied in a round, RelievesMax those off hosts that are short, the largest guests first; 0: no
	// bound. A fleet that carries out a few at a time needs no more, and a bound makes the time of a round grow as the fleet does.
	DrainsMax, RelievesMax int
}

// DefaultGodwit returns the parameters that hold for all fleets.
func DefaultGodwit() Godwit {
	return Godwit{Risk: 0.6, DrainRisk: 0.85, Trigger: 0.15, MoveCost: 0.1, GainMin: 0.03}
}

// drainTries is how many hosts that cannot be emptied are tried before a round gives up: they are tried in the order of their load,
// and when the three least loaded ones have no place to go, the others hardly will.
const drainTries = 3

// Cautious returns the planner with all it keeps free multiplied: by more than 1 hosts are filled less and short more rarely.
func (p Godwit) Cautious(factor float64) Godwit {
	p.Risk, p.DrainRisk, p.Trigger = p.Risk*factor, p.DrainRisk*factor, p.Trigger*factor
	return p
}

// Observe implements Planner: all it needs is in the guests' histories.
func (Godwit) Observe(*Fleet) {}

// Place implements Planner: a guest boots on the best awake host with room for all it may ask for, or wakes the best sleeping one.
func (p Godwit) Place(f *Fleet, g GuestIndex) HostIndex {
	k := newPacking(f)
	for i := range k.hosts {
		k.hosts[i].awake = len(k.hosts[i].guests) > 0
	}
	closed := make([]bool, len(f.Hosts))
	if h := k.target(g, search{from: Nowhere, closed: closed}); h != Nowhere {
		return h
	}
	return k.asleep(g, closed)
}

// Plan implements Planner.
func (p Godwit) Plan(f *Fleet, _ *rand.Rand) []Move {
	k := newPacking(f)
	moves := p.relieve(k)
	return append(moves, p.drain(k)...)
}

type leaver struct {
	guest GuestIndex
	from  HostIndex
}

// relieve moves guests away from hosts that are about to be short, the largest first.
func (p Godwit) relieve(k *packing) (moves []Move) {
	closed := make([]bool, len(k.hosts))
	var leaving []leaver
	for i := range k.hosts {
		h := HostIndex(i)
		if k.over(h, p.Trigger) > 0 {
			closed[h] = true
		}
		for excess := k.over(h, p.Trigger); excess > 0; excess = k.over(h, p.Trigger) {
			g, ok := p.cheapest(k, h, excess)
			if !ok {
				break
			}
			k.leave(h, g)
			leaving = append(leaving, leaver{g, h})
		}
	}
	slices.SortStableFunc(leaving, func(a, b leaver) int {
		return cmp.Compare(k.f.Guests[b.guest].Demand, k.f.Guests[a.guest].Demand)
	})
	for _, l := range leaving {
		to := Nowhere
		if p.RelievesMax == 0 || len(moves) < p.RelievesMax {
			to = p.refuge(k, l, closed)
		}
		if to == Nowhere {
			k.add(l.from, l.guest)
			k.hosts[l.from].heldMiB -= k.f.Guests[l.guest].RAMMiB // was held all the time
			continue
		}
		k.add(to, l.guest)
		k.hosts[to].took, k.hosts[to].awake = true, true
		moves = append(moves, Move{Guest: l.guest, From: l.from, To: to, Reason: ReasonOverload})
	}
	return moves
}

// cheapest picks the guest whose move frees CPU at the least cost: what the move takes, which grows with the guest's load and its
// memory, per unit of what is needed. Freeing more than needed counts for nothing.
func (p Godwit) cheapest(k *packing, h HostIndex, excess float64) (picked GuestIndex, ok bool) {
	least := math.Inf(1)
	fixed := p.MoveCost * k.f.Hosts[h].CPU
	for _, g := range k.hosts[h].guests {
		guest := &k.f.Guests[g]
		if guest.Pinned || guest.Demand <= 0 {
			continue
		}
		if cost := (guest.Demand + fixed) * guest.RAMMiB / min(guest.Demand, excess); cost < least {
			picked, least, ok = g, cost, true
		}
	}
	return picked, ok
}

// refuge finds a host for a guest that must leave.
func (p Godwit) refuge(k *packing, l leaver, closed []bool) HostIndex {
	safe := search{risk: p.Risk, now: p.Trigger, from: l.from, closed: closed, gather: true}
	if to := k.target(l.guest, safe); to != Nowhere {
		return to
	}
	daring := safe
	daring.risk = math.Inf(-1)
	if to := k.target(l.guest, daring); to != Nowhere {
		return to
	}
	return k.asleep(l.guest, closed)
}

// drain empties hosts, those of the worst price first and the least used of them.
func (p Godwit) drain(k *packing) (moves []Move) {
	var order []HostIndex
	for i := range k.hosts {
		h := &k.hosts[i]
		if h.awake && !h.took && !h.gave && len(h.guests) > 0 {
			order = append(order, HostIndex(i))
		}
	}
	slices.SortStableFunc(order, func(a, b HostIndex) int {
		x, y := &k.hosts[a], &k.hosts[b]
		return cmp.Or(cmp.Compare(y.price, x.price), cmp.Compare(x.expected, y.expected))
	})
	closed := make([]bool, len(k.hosts))
	failed := 0
	for _, h := range order {
		if p.DrainsMax > 0 && len(moves) >= p.DrainsMax {
			break
		}
		if k.hosts[h].took {
			continue
		}
		m := p.empty(k, h, closed)
		if m == nil {
			m = p.exchange(k, h, closed)
		}
		if m == nil {
			if failed++; failed == drainTries {
				break
			}
			continue
		}
		closed[h], k.hosts[h].awake = true, false
		moves = append(moves, m...)
	}
	return moves
}

// empty finds safe places for all guests of a host, the largest first, or returns nil.
func (p Godwit) empty(k *packing, from HostIndex, closed []bool) []Move {
	guests := slices.Clone(k.hosts[from].guests)
	slices.SortStableFunc(guests, func(a, b GuestIndex) int {
		return cmp.Or(cmp.Compare(k.weight(b), k.weight(a)), cmp.Compare(k.f.Guests[b].Demand, k.f.Guests[a].Demand))
	})
	moves := make([]Move, 0, len(guests))
	for _, g := range guests {
		to := Nowhere
		if !k.f.Guests[g].Pinned {
			to = k.target(g, search{risk: p.DrainRisk, now: p.Trigger, from: from, closed: closed})
		}
		if to == Nowhere || k.hosts[to].price > k.hosts[from].price {
			for _, m := range moves {
				k.undo(m.To, m.Guest)
			}
			return nil
		}
		k.add(to, g)
		moves = append(moves, Move{Guest: g, From: from, To: to, Reason: ReasonUnderload})
	}
	for _, m := range moves {
		k.hosts[m.To].took = true
	}
	return moves
}

// weight is how large a guest is as a share of an average host, by the resource that matters.
func (p *packing) weight(g GuestIndex) float64 {
	guest := &p.f.Guests[g]
	return p.weighRAM*guest.RAMMiB + p.weighCPU*guest.Demand
}

// exchange moves all guests of a host to one sleeping host of a better kind, when that saves enough power; nil otherwise.
func (p Godwit) exchange(k *packing, from HostIndex, closed []bool) []Move {
	source := &k.hosts[from]
	to := k.asleep(source.guests[0], closed)
	if to == Nowhere || k.hosts[to].price >= source.price {
		return nil
	}
	old, spec := &k.f.Hosts[from], &k.f.Hosts[to]
	if spec.RAMMiB > 0 && source.heldMiB > spec.RAMMiB || source.expected+p.DrainRisk*math.Sqrt(source.variance) > spec.CPU || source.asked > spec.CPU {
		return nil
	}
	saved := old.Power.At(source.expected/old.CPU) - spec.Power.At(source.expected/spec.CPU)
	if saved < p.GainMin*old.Power.At(source.expected/old.CPU) {
		return nil
	}
	moves := make([]Move, 0, len(source.guests))
	for _, g := range source.guests {
		guest := &k.f.Guests[g]
		if guest.Pinned || spec.CPUCore > 0 && max(guest.Demand, k.peak[g]) > spec.CPUCore || !k.f.allows(g, to) {
			return nil
		}
		moves = append(moves, Move{Guest: g, From: from, To: to, Reason: ReasonExchange})
	}
	for _, m := range moves {
		k.add(to, m.Guest)
	}
	k.hosts[to].took, k.hosts[to].awake = true, true
	return moves
}
