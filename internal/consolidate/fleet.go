package consolidate

import (
	"math"
	"math/rand"
)

// Fleet is a moment of a fleet, as much of it as a decision about moving and sleeping needs. Deciders read it and never change it,
// the Memory of hosts excepted, which detectors advance through Observe only.
type Fleet struct {
	StepSeconds float64 // between two samples of every History
	Hosts       []Host
	Guests      []Guest
	// Allows says whether a rule that deciders do not know (affinity, zones, processor models) lets a guest live on a host; nil: all are allowed. It
	// is asked only of hosts that would otherwise be chosen.
	Allows func(g GuestIndex, h HostIndex) bool
	// CPUUnit is what Neat's policy rounds free CPU down to; 0: 1, which suits MIPS and MHz.
	CPUUnit float64
}

// whole rounds CPU down to whole units.
func (f *Fleet) whole(cpu float64) float64 {
	if f.CPUUnit == 0 {
		return math.Floor(cpu)
	}
	return math.Floor(cpu/f.CPUUnit) * f.CPUUnit
}

func (f *Fleet) allows(g GuestIndex, h HostIndex) bool { return f.Allows == nil || f.Allows(g, h) }

// HostIndex and GuestIndex are positions in a Fleet's slices.
type (
	HostIndex  int
	GuestIndex int
)

// Nowhere is the host of a guest that has none yet, and the target that was not found.
const Nowhere HostIndex = -1

// Host is a host as deciders see it. CPU is in one unit throughout a fleet: MIPS in traces, CPUs in a cloud.
type Host struct {
	CPU     float64 // all cores together
	CPUCore float64 // one core: no virtual CPU runs faster; 0 sets no limit
	RAMMiB  float64 // what guests may take together; 0 sets no limit
	// MigrationMiBps is the bandwidth one migration gets, in MiB per second.
	MigrationMiBps float64
	Power          *PowerModel
	Utilisation    float64 // of the CPU, measured, in [0, 1]
	Asleep         bool
	Guests         []GuestIndex
	Memory         *Memory // of the overload detector; nil where none is kept
}

// Guest is a server as deciders see it.
type Guest struct {
	Host   HostIndex
	CPU    float64 // the most it can ask for
	Demand float64 // what it asks for now
	RAMMiB float64
	// History is its demand per step as a share of CPU, oldest first, the current step last.
	History []float64
	// Pinned guests never move: by an operator's word, or because a move of theirs is still under way.
	Pinned bool
}

// Used returns what a guest used n steps ago, 0 being the current step; before its history it used nothing.
func (g *Guest) Used(n int) float64 {
	if n >= len(g.History) {
		return 0
	}
	return g.History[len(g.History)-1-n] * g.CPU
}

// Move is one live migration. Moves are in the order in which they were decided; they may start at the same time.
type Move struct {
	Guest    GuestIndex
	From, To HostIndex
	Reason   Reason
}

// Reason says why a guest moves.
type Reason uint8

// The reasons.
const (
	ReasonOverload  Reason = iota // its host is overloaded, or will be
	ReasonUnderload               // its host is emptied so that it can sleep
	ReasonExchange                // a better kind of host takes all of its guests over
	ReasonBalance                 // its host has more to do than others
	ReasonCount                   // how many reasons there are
)

var reasonNames = [...]string{ReasonOverload: "overload", ReasonUnderload: "underload", ReasonExchange: "exchange", ReasonBalance: "balance"}

func (r Reason) String() string { return reasonNames[r] }

// Planner decides one round: given a fleet, which guests move where. It is deterministic given the state of rng, and changes
// neither the fleet nor itself.
type Planner interface {
	// Plan decides the moves of one round.
	Plan(f *Fleet, rng *rand.Rand) []Move
	// Place picks the host of a guest that is about to boot (its Host is Nowhere), or Nowhere when none fits.
	Place(f *Fleet, g GuestIndex) HostIndex
	// Observe lets detectors take note of a step. It is called once per step, before Plan.
	Observe(f *Fleet)
}

// Collapse joins the moves of one guest into one: the paper's planner may move a guest twice in a round. Guests that end where they
// are do not move at all.
func Collapse(moves []Move) []Move {
	at := make(map[GuestIndex]int, len(moves))
	joined := make([]Move, 0, len(moves))
	for _, m := range moves {
		if i, ok := at[m.Guest]; ok {
			joined[i].To = m.To
			continue
		}
		at[m.Guest] = len(joined)
		joined = append(joined, m)
	}
	out := joined[:0]
	for _, m := range joined {
		if m.To != m.From {
			out = append(out, m)
		}
	}
	return out
}
