package consolidate

import (
	"math"
	"math/rand"
)

// Paper is the planner of the 2012 paper. Each round, guests leave overloaded hosts one by one until the detector is content, and are
// placed by PABFD; then the least used host is tried to be emptied, and the next, until all were tried.
//
// It does what CloudSim's build of the paper does, which says more than the paper: hosts that take guests of an emptied host are not
// emptied in the same round, but hosts that take guests of overloaded hosts are; so a guest may move twice (see Collapse). A host that
// could not be emptied takes no guests of others for the rest of the round.
type Paper struct {
	Overload Detector
	Select   Selector
}

// Observe implements Planner.
func (p Paper) Observe(f *Fleet) {
	if o, remembers := p.Overload.(Observer); remembers {
		observe(NewBench(f), o)
	}
}

// observe tells a detector about every host that is awake; a host forgets when it sleeps.
func observe(b *Bench, o Observer) {
	for h := range b.f.Hosts {
		host := &b.f.Hosts[h]
		switch {
		case host.Memory == nil:
		case host.Asleep:
			*host.Memory = Memory{}
		default:
			o.Observe(host.Memory, b.Load(HostIndex(h)))
		}
	}
}

// Place implements Planner: a guest boots where power grows least among the hosts with room for all it may ask for. What it will use
// nobody knows yet, so no detector is asked.
func (p Paper) Place(f *Fleet, g GuestIndex) HostIndex {
	return PowerAware{Threshold{Share: math.Inf(1)}}.Host(NewBench(f), g, nil)
}

// Plan implements Planner.
func (p Paper) Plan(f *Fleet, rng *rand.Rand) []Move {
	b := NewBench(f)
	overloaded := make([]bool, len(f.Hosts))
	var leaving []GuestIndex
	for i := range f.Hosts {
		h := HostIndex(i)
		if !p.overloaded(b, h) {
			continue
		}
		overloaded[h] = true
	}
	for i := range f.Hosts {
		if overloaded[i] {
			leaving = p.relieve(b, HostIndex(i), leaving, rng)
		}
	}
	placer := PowerAware{p.Overload}
	var moves []Move
	Decreasing(f, leaving)
	for _, g := range leaving {
		if to := placer.Host(b, g, overloaded); to != Nowhere {
			b.Add(to, g)
			moves = append(moves, Move{Guest: g, From: f.Guests[g].Host, To: to, Reason: ReasonOverload})
		}
	}
	return append(moves, p.empty(b, overloaded)...)
}

func (p Paper) overloaded(b *Bench, h HostIndex) bool {
	return p.Overload.Overloaded(b.f.Hosts[h].Memory, b.Load(h))
}

// relieve takes guests off an overloaded host until it no longer is.
func (p Paper) relieve(b *Bench, h HostIndex, leaving []GuestIndex, rng *rand.Rand) []GuestIndex {
	for {
		g, ok := p.Select.Select(b.f, movable(b.f, b.Guests(h)), rng)
		if !ok {
			return leaving
		}
		leaving = append(leaving, g)
		b.Remove(h, g)
		if !p.overloaded(b, h) {
			return leaving
		}
	}
}

// empty tries to empty hosts, the least used first.
func (p Paper) empty(b *Bench, overloaded []bool) (moves []Move) {
	f := b.f
	notSource, notTarget := make([]bool, len(f.Hosts)), make([]bool, len(f.Hosts))
	for h := range f.Hosts {
		notSource[h] = overloaded[h] || f.Hosts[h].Asleep
		notTarget[h] = notSource[h]
	}
	placer := PowerAware{p.Overload}
	for {
		from := leastUsed(f, notSource)
		if from == Nowhere {
			return moves
		}
		notSource[from], notTarget[from] = true, true
		for _, m := range emptyHost(b, from, placer, notTarget) {
			notSource[m.To] = true
			moves = append(moves, m)
		}
	}
}

// emptyHost places all guests of a host elsewhere, or none. They stay on the bench's source: it takes part in nothing any more.
func emptyHost(b *Bench, from HostIndex, placer PowerAware, notTarget []bool) []Move {
	guests := append([]GuestIndex(nil), b.Guests(from)...)
	if len(movable(b.f, guests)) < len(guests) {
		return nil
	}
	Decreasing(b.f, guests)
	moves := make([]Move, 0, len(guests))
	for _, g := range guests {
		to := placer.Host(b, g, notTarget)
		if to == Nowhere {
			for _, m := range moves {
				b.Remove(m.To, m.Guest)
			}
			return nil
		}
		b.Add(to, g)
		moves = append(moves, Move{Guest: g, From: from, To: to, Reason: ReasonUnderload})
	}
	return moves
}

// leastUsed returns the least utilised host that is neither excluded nor full; Nowhere when there is none.
func leastUsed(f *Fleet, excluded []bool) HostIndex {
	best, utilisation := Nowhere, 1.0
	for h := range f.Hosts {
		if u := f.Hosts[h].Utilisation; !excluded[h] && u < utilisation {
			best, utilisation = HostIndex(h), u
		}
	}
	return best
}

// movable returns the guests that are not pinned.
func movable(f *Fleet, guests []GuestIndex) []GuestIndex {
	for i, g := range guests {
		if f.Guests[g].Pinned {
			out := append([]GuestIndex(nil), guests[:i]...)
			for _, g := range guests[i+1:] {
				if !f.Guests[g].Pinned {
					out = append(out, g)
				}
			}
			return out
		}
	}
	return guests
}
