package consolidate

import (
	"cmp"
	"math"
	"math/rand"
	"slices"
)

// BestFit is Neat's BFD. Guests go by mean CPU of the last LastN steps and then memory, largest first; hosts by free CPU and then free
// memory, least first; a guest goes to the first host that has both. When none has, the smallest sleeping host joins them, all of it
// free to use. Either all guests find a place or none does. The order of hosts is not refreshed while guests are placed.
type BestFit struct {
	CPUShare, RAMShare float64 // of a host that may be used
	LastN              int
}

type bin struct {
	host     HostIndex
	cpu, ram float64 // free, whole units
}

// Place finds hosts for guests; hosts that are closed are not used, sleeping ones only when wake is set. False when one finds none.
func (p BestFit) Place(b *Bench, guests []GuestIndex, closed []bool, wake bool) (targets []HostIndex, ok bool) {
	awake, sleeping := p.bins(b, closed, wake)
	order := make([]int, len(guests))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int {
		return cmp.Or(cmp.Compare(p.cpu(b, guests[y]), p.cpu(b, guests[x])), cmp.Compare(b.f.Guests[guests[y]].RAMMiB, b.f.Guests[guests[x]].RAMMiB))
	})
	targets = make([]HostIndex, len(guests))
	for _, i := range order {
		cpu, ram := p.cpu(b, guests[i]), b.f.Guests[guests[i]].RAMMiB
		allowed := func(h HostIndex) bool { return b.f.allows(guests[i], h) }
		at := firstFit(awake, cpu, ram, allowed)
		for at < 0 && len(sleeping) > 0 {
			awake = append(awake, sleeping[0])
			sleeping = sleeping[1:]
			slices.SortStableFunc(awake, smaller)
			at = firstFit(awake, cpu, ram, allowed)
		}
		if at < 0 {
			return nil, false
		}
		awake[at].cpu -= cpu
		awake[at].ram -= ram
		targets[i] = awake[at].host
	}
	return targets, true
}

// bins lists hosts with what they have free, the smallest first.
func (p BestFit) bins(b *Bench, closed []bool, wake bool) (awake, sleeping []bin) {
	for i := range b.f.Hosts {
		h, spec := HostIndex(i), &b.f.Hosts[i]
		ram := math.Inf(1)
		switch {
		case closed[h]:
		case len(b.Guests(h)) > 0:
			if spec.RAMMiB > 0 {
				ram = math.Floor(p.RAMShare*spec.RAMMiB - b.hosts[h].heldMiB)
			}
			used := 0.0
			for _, g := range b.Guests(h) {
				used += b.f.Guests[g].Demand
			}
			awake = append(awake, bin{h, b.f.whole(p.CPUShare*spec.CPU - used), ram})
		case wake:
			if spec.RAMMiB > 0 {
				ram = spec.RAMMiB
			}
			sleeping = append(sleeping, bin{h, spec.CPU, ram})
		}
	}
	slices.SortStableFunc(awake, smaller)
	slices.SortStableFunc(sleeping, smaller)
	return awake, sleeping
}

func smaller(a, b bin) int { return cmp.Or(cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.ram, b.ram)) }

func firstFit(bins []bin, cpu, ram float64, allowed func(HostIndex) bool) int {
	return slices.IndexFunc(bins, func(b bin) bool { return b.cpu >= cpu && b.ram >= ram && allowed(b.host) })
}

// cpu is the mean CPU of a guest's last steps; of one without history, all that it may ask for.
func (p BestFit) cpu(b *Bench, g GuestIndex) float64 {
	guest := &b.f.Guests[g]
	if len(guest.History) == 0 {
		return guest.CPU
	}
	return Mean(lastN(guest.History, p.LastN)) * guest.CPU
}

// Neat is the planner of OpenStack Neat: every host decides for itself, underload first, then overload, and the moves are placed one
// host at a time by BFD. An overloaded host gives one guest per round. Unlike Neat, each decision sees what those before it in the round
// have changed, so two hosts are never emptied into each other.
type Neat struct {
	Underload Underload
	Overload  Detector
	Select    Selector
	Pack      BestFit
}

// Observe implements Planner.
func (p Neat) Observe(f *Fleet) {
	if o, remembers := p.Overload.(Observer); remembers {
		observe(p.bench(f), o)
	}
}

func (p Neat) bench(f *Fleet) *Bench {
	b := NewBench(f)
	b.meanMigration = true
	return b
}

// Place implements Planner. Neat leaves booting to Nova: the first host with room.
func (Neat) Place(f *Fleet, g GuestIndex) HostIndex { return Static{}.Place(f, g) }

// Plan implements Planner.
func (p Neat) Plan(f *Fleet, rng *rand.Rand) (moves []Move) {
	b := p.bench(f)
	closed := make([]bool, len(f.Hosts)) // hosts that gave guests in this round
	took := make([]bool, len(f.Hosts))
	for i := range f.Hosts {
		h := HostIndex(i)
		if f.Hosts[h].Asleep || len(b.Guests(h)) == 0 || took[h] {
			continue
		}
		load := b.Load(h)
		var leaving []GuestIndex
		var reason Reason
		switch {
		case p.Underload.Underloaded(load):
			leaving, reason = slices.Clone(b.Guests(h)), ReasonUnderload
			if len(movable(f, leaving)) < len(leaving) {
				continue
			}
		case p.Overload.Overloaded(f.Hosts[h].Memory, load):
			g, ok := p.Select.Select(f, movable(f, b.Guests(h)), rng)
			if !ok {
				continue
			}
			leaving, reason = []GuestIndex{g}, ReasonOverload
		default:
			continue
		}
		closed[h] = true
		targets, ok := p.Pack.Place(b, leaving, closed, reason == ReasonOverload)
		if !ok {
			closed[h] = reason == ReasonOverload
			continue
		}
		for k, g := range leaving {
			b.Remove(h, g)
			b.Add(targets[k], g)
			took[targets[k]] = true
			moves = append(moves, Move{Guest: g, From: h, To: targets[k], Reason: reason})
		}
	}
	return moves
}
