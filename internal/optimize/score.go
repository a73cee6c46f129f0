package optimize

import (
	"math"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
)

// A server's score says how well it gets what it asks for, 0 to 100: the CPU it got of what it was ready to use, times the time in which nothing on
// its host waited for memory. It is what balancing is for: hosts may be loaded unevenly while every score is 100.
//
// What it would be after a plan follows from what its host will be asked for: nobody can measure that before.

// fullScore is that of a server that waits for nothing.
const fullScore = 100

// got is the share of the CPU it asked for that a server got; 1 of one that asks for next to nothing.
func (j *judge) got(g consolidate.GuestIndex) float64 {
	const idle = 0.01 // CPUs
	r := j.in.Readings.Servers[j.guests[g].ID]
	if r.Asked() < idle {
		return 1
	}
	return r.CPUUsed / r.Asked()
}

// calm is the share of the time in which nothing on a host waited for memory.
func (j *judge) calm(h consolidate.HostIndex) float64 {
	return 1 - min(1, max(0, j.in.Readings.Hosts[j.views[h].Host.Name].Pressure.Memory))
}

// satisfied is the share of what a host's servers ask for that it has.
func (j *judge) satisfied(h consolidate.HostIndex, asked float64) float64 {
	if asked <= j.fleet.Hosts[h].CPU {
		return 1
	}
	return j.fleet.Hosts[h].CPU / asked
}

// scoreNow is a server's score as it was measured.
func (j *judge) scoreNow(g consolidate.GuestIndex) float64 {
	return fullScore * j.got(g) * j.calm(j.fleet.Guests[g].Host)
}

// scoreThen is what it would be on a host when the plan is through.
func (j *judge) scoreThen(g consolidate.GuestIndex, on consolidate.HostIndex) float64 {
	then := j.satisfied(on, j.asked[on])
	if on == j.fleet.Guests[g].Host { // it gets more or less of what it got by as much as the host has more or less for all
		then = min(1, j.got(g)*then/j.satisfied(on, j.askedBefore[on]))
	}
	return fullScore * then * j.calm(on)
}

// scores fills in the scores of the servers that move and the effect on all.
func (j *judge) scores() {
	target := make(map[cloud.ServerID]*cloud.PlanAction, len(j.out.Actions))
	for i := range j.out.Actions {
		if a := &j.out.Actions[i]; a.Kind == cloud.ActionMigrate {
			target[a.Server] = a
		}
	}
	e := &j.out.Effect
	e.ScoreLeastBefore, e.ScoreLeastAfter = fullScore, fullScore
	for i := range j.guests {
		g, on := consolidate.GuestIndex(i), j.fleet.Guests[i].Host
		a := target[j.guests[i].ID]
		if a != nil {
			on = j.index[a.Target]
		}
		before, after := j.scoreNow(g), j.scoreThen(g, on)
		if a != nil {
			a.ScoreBefore, a.ScoreAfter = tenth(before), tenth(after)
		}
		e.ScoreBefore += before / float64(len(j.guests))
		e.ScoreAfter += after / float64(len(j.guests))
		e.ScoreLeastBefore, e.ScoreLeastAfter = min(e.ScoreLeastBefore, before), min(e.ScoreLeastAfter, after)
	}
	e.ScoreBefore, e.ScoreAfter, e.ScoreLeastBefore, e.ScoreLeastAfter = tenth(e.ScoreBefore), tenth(e.ScoreAfter), tenth(e.ScoreLeastBefore), tenth(e.ScoreLeastAfter)
}

func tenth(x float64) float64 { return math.Round(10*x) / 10 }
