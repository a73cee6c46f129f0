package consolidate

import (
	"math"
	"math/rand"
)

// Balance spreads load evenly over the hosts that are awake, as VMware's DRS does: it puts no host to sleep and wakes one only for guests that fit
// nowhere else.
//
// A host's load is the share of its CPU that is asked for and the share of its memory that is held; what is made small is the sum of both squares
// over all hosts, which is least when all are alike. Each step takes the move off the most loaded host that lowers that sum most, and a move
// must lower the host's distance from the mean by something worth a migration: small differences are left alone.
type Balance struct {
	// GainMin is the least difference of load, as a share of a host, that a move must take away.
	GainMin float64
	// MovesMax bounds the moves of a round.
	MovesMax int
	// MemoryWeight is how much memory counts beside CPU.
	MemoryWeight float64
}

// DefaultBalance returns the defaults: differences of a twentieth of a host are left alone.
func DefaultBalance() Balance { return Balance{GainMin: 0.05, MovesMax: 20, MemoryWeight: 0.25} }

// Observe implements Planner.
func (Balance) Observe(*Fleet) {}

// Place implements Planner: a guest boots on the least loaded host that is awake and fits it.
func (b Balance) Place(f *Fleet, g GuestIndex) HostIndex {
	l := newLoads(f)
	best, least := Nowhere, math.Inf(1)
	for i := range f.Hosts {
		h := HostIndex(i)
		if f.Hosts[i].Asleep || !l.fits(h, g) || !f.allows(g, h) {
			continue
		}
		if v := l.value(h, b.MemoryWeight); v < least {
			best, least = h, v
		}
	}
	if best == Nowhere {
		return Godwit{}.Place(f, g)
	}
	return best
}

// Plan implements Planner.
func (b Balance) Plan(f *Fleet, _ *rand.Rand) (moves []Move) {
	l := newLoads(f)
	moved := map[GuestIndex]bool{}
	settled := make([]bool, len(f.Hosts)) // hosts that nothing can leave any more
	for len(moves) < b.MovesMax {
		from := l.heaviest(settled, b.MemoryWeight)
		if from == Nowhere {
			return moves
		}
		m, ok := b.best(f, l, from, moved)
		if !ok {
			settled[from] = true
			continue
		}
		moved[m.Guest] = true
		l.move(m)
		moves = append(moves, m)
	}
	return moves
}

// best returns the move off a host that lowers the sum of squares most, if one is worth it.
func (b Balance) best(f *Fleet, l *loads, from HostIndex, moved map[GuestIndex]bool) (best Move, ok bool) {
	most := 0.0
	for _, g := range f.Hosts[from].Guests {
		guest := &f.Guests[g]
		if guest.Pinned || moved[g] {
			continue
		}
		for i := range f.Hosts {
			to := HostIndex(i)
			if to == from || f.Hosts[i].Asleep || !l.fits(to, g) {
				continue
			}
			// What is taken off the difference of the two hosts must be worth a move.
			if gap := l.value(from, b.MemoryWeight) - l.value(to, b.MemoryWeight); gap < b.GainMin {
				continue
			}
			gain := l.gain(f, g, from, to, b.MemoryWeight)
			if gain > most && gain >= b.GainMin*b.GainMin && f.allows(g, to) {
				best, most, ok = Move{Guest: g, From: from, To: to, Reason: ReasonBalance}, gain, true
			}
		}
	}
	return best, ok
}

// loads is the bench of Balance.
type loads struct {
	f     *Fleet
	asked []float64
	held  []float64 // memory of guests here and of those that leave
	own   []float64 // memory of guests here
}

func newLoads(f *Fleet) *loads {
	l := &loads{f: f, asked: make([]float64, len(f.Hosts)), held: make([]float64, len(f.Hosts)), own: make([]float64, len(f.Hosts))}
	for i := range f.Hosts {
		for _, g := range f.Hosts[i].Guests {
			l.asked[i] += f.Guests[g].Demand
			l.held[i] += f.Guests[g].RAMMiB
		}
		l.own[i] = l.held[i]
	}
	return l
}

func (l *loads) cpu(h HostIndex) float64 { return l.asked[h] / max(l.f.Hosts[h].CPU, 1e-9) }

func (l *loads) memory(h HostIndex) float64 {
	if l.f.Hosts[h].RAMMiB <= 0 {
		return 0
	}
	return l.own[h] / l.f.Hosts[h].RAMMiB
}

func (l *loads) value(h HostIndex, memoryWeight float64) float64 {
	return l.cpu(h) + memoryWeight*l.memory(h)
}

func (l *loads) fits(h HostIndex, g GuestIndex) bool {
	host, guest := &l.f.Hosts[h], &l.f.Guests[g]
	return (host.RAMMiB <= 0 || l.held[h]+guest.RAMMiB <= host.RAMMiB) && l.asked[h]+guest.Demand <= host.CPU
}

// heaviest returns the awake host of the greatest load among those not settled.
func (l *loads) heaviest(settled []bool, memoryWeight float64) HostIndex {
	best := Nowhere
	for i := range l.f.Hosts {
		h := HostIndex(i)
		if l.f.Hosts[i].Asleep || settled[i] || len(l.f.Hosts[i].Guests) == 0 {
			continue
		}
		if best == Nowhere || l.value(h, memoryWeight) > l.value(best, memoryWeight) {
			best = h
		}
	}
	return best
}

// gain is by how much a move lowers the sum of squares.
func (l *loads) gain(f *Fleet, g GuestIndex, from, to HostIndex, memoryWeight float64) float64 {
	guest := &f.Guests[g]
	square := func(before, change float64) float64 { return before*before - (before+change)*(before+change) }
	sum := square(l.cpu(from), -guest.Demand/f.Hosts[from].CPU) + square(l.cpu(to), guest.Demand/f.Hosts[to].CPU)
	if f.Hosts[from].RAMMiB > 0 && f.Hosts[to].RAMMiB > 0 {
		sum += memoryWeight * (square(l.memory(from), -guest.RAMMiB/f.Hosts[from].RAMMiB) + square(l.memory(to), guest.RAMMiB/f.Hosts[to].RAMMiB))
	}
	return sum
}

// move carries a move out on the bench; the memory stays held on its old host.
func (l *loads) move(m Move) {
	guest := &l.f.Guests[m.Guest]
	l.asked[m.From] -= guest.Demand
	l.asked[m.To] += guest.Demand
	l.own[m.From] -= guest.RAMMiB
	l.own[m.To] += guest.RAMMiB
	l.held[m.To] += guest.RAMMiB
}
