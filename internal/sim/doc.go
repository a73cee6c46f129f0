// Package sim lives through a day of a fleet in virtual time: servers that ask for what traces say, hosts that share their CPU out and
// draw power by load, and a planner that moves servers once per step. The planners are those of production (package consolidate); only
// what they look at is made here instead of reported by hosts.
//
//	traces, fleet, rules, planner, seed --Day.Run--> Result: energy, overload, migrations, and the bound below which no policy gets
//
// # Time
//
// There is no clock. A day is a loop over steps of 5 minutes; within a step, moves that take equally long end together, and the load is
// taken anew at each such moment. Between two moments power is a straight line and everything else stays as it was at the first. Equal
// input gives equal output, to the last digit; the seed is only used by planners that draw lots.
//
// # Rules
//
// CloudSimRules are those of CloudSim 5.0's PlanetLab example, which comes from the authors of the 2012 paper, as far as they decide
// results. They exist so that this simulator can be checked against that one; docs/consolidation.md has the figures. Two of them are no
// rules that a cloud has: a server that asks for nothing at one moment is taken for finished and never comes back, which loses a sixth
// to a quarter of all work, and hosts draw nothing before the first sample and after the last. PaperRules are the same without these
// two; RAMRules hold hosts to their memory as well. Policies are compared under PaperRules and RAMRules.
//
// # What it leaves out
//
// As the paper does: hosts fall asleep and wake in no time and for no energy, migrations never fail and take memory over bandwidth, and
// a server gets its demand of the moment or a fair share of what there is.
package sim
