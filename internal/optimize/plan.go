package optimize

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/placement"
)

// Outcome is a plan without its identity: actions in the order of their phases, refusals, and the effect.
type Outcome struct {
	Goal     cloud.OptimizeGoal
	Strategy string
	Actions  []cloud.PlanAction
	Refused  []cloud.RefusedMove
	Effect   cloud.PlanEffect
}

// movesLookedAt is how many times the moves that a plan may have are looked at, for emptying hosts and for relieving them each: some are refused, and to
// find more is in vain.
const movesLookedAt = 20

// refusedMax bounds the refusals of a plan: they are read by people, and live in one record.
const refusedMax = 100

// Plan decides. The error is an unknown strategy.
func Plan(in *Input, goal cloud.OptimizeGoal, strategy string) (Outcome, error) {
	if strategy == "" {
		strategy = in.Settings.Strategy
	}
	if goal == cloud.GoalBalance {
		strategy = string(cloud.GoalBalance)
	}
	planner, err := consolidate.Parse(strategy)
	if err != nil {
		return Outcome{}, cloud.E(cloud.KindInvalid, "optimize", "", err)
	}
	if g, ok := planner.(consolidate.Godwit); ok {
		g.DrainsMax, g.RelievesMax = movesLookedAt*in.Settings.MovesMax, movesLookedAt*in.Settings.MovesMax
		planner = g.Cautious(max(1, in.Settings.Caution))
	}
	if b, ok := planner.(consolidate.Balance); ok {
		b.MovesMax = in.Settings.MovesMax
		planner = b
	}
	m := build(in)
	j := newJudge(m, Outcome{Goal: goal, Strategy: strategy})
	if len(m.views) == 0 {
		return j.out, nil
	}
	j.before()
	planner.Observe(&m.fleet)
	moves := consolidate.Collapse(planner.Plan(&m.fleet, rand.New(rand.NewSource(in.Seed))))
	groups := grouped(moves)
	for _, g := range groups {
		if !emptying(g) {
			j.group(g)
		}
	}
	j.wakeAhead()
	if goal == cloud.GoalConsolidate {
		j.sleeps() // what is empty as it is comes before what moves would empty
	}
	for _, g := range groups {
		if emptying(g) {
			j.group(g)
		}
	}
	if goal == cloud.GoalConsolidate {
		j.stay()
	}
	j.after()
	j.scores()
	slices.SortStableFunc(j.out.Actions, func(a, b cloud.PlanAction) int { return phase[a.Kind] - phase[b.Kind] })
	return j.out, nil
}

var phase = map[cloud.PlanActionKind]int{cloud.ActionWake: 0, cloud.ActionMigrate: 1, cloud.ActionSleep: 2}

// grouped keeps the moves that empty a host together; others stand alone. The order is the planner's.
func grouped(moves []consolidate.Move) (out [][]consolidate.Move) {
	at := map[consolidate.HostIndex]int{}
	for _, m := range moves {
		if emptying([]consolidate.Move{m}) {
			if i, ok := at[m.From]; ok {
				out[i] = append(out[i], m)
				continue
			}
			at[m.From] = len(out)
		}
		out = append(out, []consolidate.Move{m})
	}
	return out
}

// emptying reports whether moves are made to empty their host.
func emptying(moves []consolidate.Move) bool {
	return moves[0].Reason == consolidate.ReasonUnderload || moves[0].Reason == consolidate.ReasonExchange
}

// judge takes or refuses what the planner proposes, on the claims as they would be.
type judge struct {
	*model
	out         Outcome
	asked       []float64 // CPUs asked for, by host, as moves are taken
	askedBefore []float64
	held        []int // MiB claimed, by host, of servers that are there or come
	count       []int // servers, by host, but those that sleep with it
	awake       []bool
	woken       []bool
	slept       []bool
	gave        []bool // moves leave it in this plan
	took        []bool
	moves       int
	expect      float64 // CPUs that the fleet will ask for soon
}

func newJudge(m *model, out Outcome) *judge {
	n := len(m.views)
	j := &judge{model: m, out: out, asked: make([]float64, n), held: make([]int, n), count: make([]int, n), awake: make([]bool, n), woken: make([]bool, n), slept: make([]bool, n), gave: make([]bool, n), took: make([]bool, n)}
	for i := range m.views {
		j.awake[i] = !m.fleet.Hosts[i].Asleep
		j.held[i], j.count[i] = m.views[i].Usage.Total().RAMMiB, len(m.views[i].Usage.Claims)-m.atRest[i].servers
		for _, g := range m.fleet.Hosts[i].Guests {
			j.asked[i] += m.fleet.Guests[g].Demand
		}
	}
	j.askedBefore = slices.Clone(j.asked)
	j.expect = j.expected()
	return j
}

func (j *judge) refuse(g consolidate.GuestIndex, from, to consolidate.HostIndex, format string, args ...any) {
	if len(j.out.Refused) >= refusedMax {
		return
	}
	r := cloud.RefusedMove{Host: j.views[from].Host.Name, Reason: fmt.Sprintf(format, args...)}
	if g >= 0 {
		r.Server, r.ServerName = j.guests[g].ID, j.guests[g].Name
	}
	if to != consolidate.Nowhere {
		r.Target = j.views[to].Host.Name
	}
	j.out.Refused = append(j.out.Refused, r)
}

// noGuest stands for a refusal that concerns a host, not a server.
const noGuest consolidate.GuestIndex = -1

// group takes a group of moves, or refuses it as a whole.
func (j *judge) group(moves []consolidate.Move) {
	first := moves[0]
	empties := emptying(moves)
	if j.moves+len(moves) > j.in.Settings.MovesMax && (j.moves > 0 || !empties) {
		j.refuse(noGuest, first.From, consolidate.Nowhere, "%d moves are left for the next plan: one has at most %d", len(moves), j.in.Settings.MovesMax)
		return
	}
	costs := make([]cloud.MoveCost, len(moves))
	for i, m := range moves {
		cost, why := j.check(m)
		if why != "" {
			for _, undo := range moves[:i] {
				j.shift(undo, -1)
			}
			j.refuse(m.Guest, m.From, m.To, "%s", why)
			if empties && len(moves) > 1 {
				j.refuse(noGuest, m.From, consolidate.Nowhere, "the host is not emptied, since server %s stays", j.guests[m.Guest].Name)
			}
			return
		}
		costs[i] = cost
		j.shift(m, +1)
	}
	gain, why := j.gain(moves, costs, empties)
	if why != "" {
		for _, undo := range moves {
			j.shift(undo, -1)
		}
		j.refuse(moves[0].Guest, first.From, first.To, "%s", why)
		return
	}
	for i, m := range moves {
		j.take(m, costs[i], gain)
	}
	if empties {
		j.sleep(first.From)
	}
}

// check returns a move's cost, or why it is not made.
func (j *judge) check(m consolidate.Move) (cloud.MoveCost, string) {
	s := j.guests[m.Guest]
	source, target := &j.views[m.From], &j.views[m.To]
	if j.slept[m.To] {
		return cloud.MoveCost{}, fmt.Sprintf("host %s goes to sleep", target.Host.Name)
	}
	if reasons := j.refusals(m.Guest, m.To); len(reasons) > 0 {
		return cloud.MoveCost{}, strings.Join(reasons, "; ")
	}
	cost := j.in.cost(s, placement.KindOf(s, source.Report, target.Report), j.in.Readings.Servers[s.ID])
	power := j.fleet.Hosts[m.To].Power
	perCPU := (power.Max() - power[0]) / max(1, j.fleet.Hosts[m.To].CPU)
	cost.WattHours = 2 * migrationShare * max(1, j.fleet.Guests[m.Guest].Demand) * perCPU * cost.Takes.Hours() // on both hosts; copying keeps a tenth of a CPU busy at least
	if cost.DirtyBytesPerSecond > 0 && !converges(cost) && !j.in.Settings.Converges {
		return cost, fmt.Sprintf("it writes %d MiB/s to its memory and migrations copy %d MiB/s: the move would not end by itself", cost.DirtyBytesPerSecond>>20, cost.BytesPerSecond>>20)
	}
	return cost, ""
}

// shift moves a server's claim and load in the plan, back when sign is negative. The memory on its old host stays claimed until the move is over.
func (j *judge) shift(m consolidate.Move, sign int) {
	s, demand := j.guests[m.Guest], j.fleet.Guests[m.Guest].Demand
	j.asked[m.From] -= float64(sign) * demand
	j.asked[m.To] += float64(sign) * demand
	j.held[m.To] += sign * s.Flavor.RAMMiB
	j.held[m.From] -= sign * s.Flavor.RAMMiB
	j.count[m.To] += sign
	j.count[m.From] -= sign
	target := &j.views[m.To]
	claims := make(map[string]cloud.Claim, len(target.Usage.Claims)+1)
	for k, c := range target.Usage.Claims {
		claims[k] = c
	}
	if sign > 0 {
		claims[cloud.ClaimKey(s.ID)] = cloud.Claim{Server: s.ID, Resources: s.Resources()}
	} else {
		delete(claims, cloud.ClaimKey(s.ID))
	}
	target.Usage.Claims = claims
	if s.Group != "" {
		j.place(s, target.Host.Name, sign)
	}
}

// place notes a group member on a host, in a copy of the snapshot's groups.
func (j *judge) place(s *cloud.Server, host cloud.HostName, sign int) {
	groups := make(map[cloud.GroupID]cloud.ServerGroup, len(j.snap.Groups))
	for id, g := range j.snap.Groups {
		groups[id] = g
	}
	group := groups[s.Group]
	placed := make(map[cloud.ServerID][]cloud.HostName, len(group.Placed))
	for id, hosts := range group.Placed {
		placed[id] = hosts
	}
	if sign > 0 {
		placed[s.ID] = append(slices.Clone(placed[s.ID]), host)
	} else {
		placed[s.ID] = slices.DeleteFunc(slices.Clone(placed[s.ID]), func(h cloud.HostName) bool { return h == host })
	}
	group.Placed = placed
	groups[s.Group] = group
	j.snap.Groups = groups
}

// gain says what a group of moves, already shifted, gains beyond its cost, or why it is not worth it.
func (j *judge) gain(moves []consolidate.Move, costs []cloud.MoveCost, empties bool) (float64, string) {
	if empties {
		return j.gainOfRest(moves, costs)
	}
	m := moves[0]
	host := &j.fleet.Hosts[m.From]
	demand := j.fleet.Guests[m.Guest].Demand
	if m.Reason == consolidate.ReasonBalance {
		before := (j.asked[m.From]+demand)/host.CPU - (j.asked[m.To]-demand)/j.fleet.Hosts[m.To].CPU
		after := math.Abs(j.asked[m.From]/host.CPU - j.asked[m.To]/j.fleet.Hosts[m.To].CPU)
		return before - after, ""
	}
	// Relief: what the host lacks now, or a breath of it when it only may, for as long as a plan lasts.
	lacked := max(j.asked[m.From]+demand-host.CPU, 0.05*host.CPU)
	relief := min(lacked, demand) * max(j.fleet.StepSeconds, 60)
	if relief < j.in.Settings.Factor*costs[0].CPUSeconds {
		return 0, fmt.Sprintf("moving it would relieve the host by %.0f CPU seconds and cost %.0f: not worth it", relief, costs[0].CPUSeconds)
	}
	return relief - costs[0].CPUSeconds, ""
}

// gainOfRest is what the sleep of an emptied host saves, in watt hours over the horizon.
func (j *judge) gainOfRest(moves []consolidate.Move, costs []cloud.MoveCost) (float64, string) {
	from := moves[0].From
	exchange := moves[0].Reason == consolidate.ReasonExchange
	var targets []consolidate.HostIndex
	for _, m := range moves {
		targets = append(targets, m.To)
	}
	if why := j.maySleep(from, targets...); why != "" {
		return 0, "emptying the host gains nothing: " + why
	}
	watts, spent := j.watts(from, j.asked[from]+sum(moves, func(m consolidate.Move) float64 { return j.fleet.Guests[m.Guest].Demand })), 0.0
	added := map[consolidate.HostIndex]float64{}
	for i, m := range moves {
		added[m.To] += j.fleet.Guests[m.Guest].Demand
		spent += costs[i].WattHours
	}
	for to, demand := range added {
		before := 0.0
		if j.awake[to] || !exchange {
			before = j.watts(to, j.asked[to]-demand)
		}
		watts -= j.watts(to, j.asked[to]) - before
	}
	cycle := j.fleet.Hosts[from].Power[0] * j.cycleTakes(from).Hours()
	gained := watts * j.in.Settings.Horizon.Hours()
	if gained < j.in.Settings.Factor*(spent+cycle) {
		return 0, fmt.Sprintf("its sleep would save %.2f Wh in %s, and moving and waking cost %.2f: not worth it", gained, j.in.Settings.Horizon, spent+cycle)
	}
	return gained - spent - cycle, ""
}

func sum(moves []consolidate.Move, of func(consolidate.Move) float64) (total float64) {
	for _, m := range moves {
		total += of(m)
	}
	return total
}

// watts is what a host draws with that many CPUs asked for.
func (j *judge) watts(h consolidate.HostIndex, asked float64) float64 {
	return j.fleet.Hosts[h].Power.At(asked / j.fleet.Hosts[h].CPU)
}

// take makes actions of a move, and of the wake of its target.
func (j *judge) take(m consolidate.Move, cost cloud.MoveCost, gain float64) {
	s := j.guests[m.Guest]
	target := j.views[m.To].Host.Name
	if !j.awake[m.To] {
		j.wake(m.To, fmt.Sprintf("server %s comes", s.Name))
	}
	j.moves++
	j.gave[m.From], j.took[m.To] = true, true
	j.out.Actions = append(j.out.Actions, cloud.PlanAction{
		Kind: cloud.ActionMigrate, Server: s.ID, ServerName: s.Name, Host: j.views[m.From].Host.Name, Target: target, Reason: j.reason(m), Gain: gain, Cost: &cost,
		Status: cloud.StatusRecommended,
	})
}

func (j *judge) reason(m consolidate.Move) string {
	host, demand := &j.fleet.Hosts[m.From], j.fleet.Guests[m.Guest].Demand
	switch m.Reason {
	case consolidate.ReasonOverload:
		return fmt.Sprintf("relieves %s, where %.2f of %.2f CPUs are asked for", j.views[m.From].Host.Name, j.asked[m.From]+demand, host.CPU)
	case consolidate.ReasonUnderload:
		return fmt.Sprintf("empties %s so that it can sleep", j.views[m.From].Host.Name)
	case consolidate.ReasonExchange:
		return fmt.Sprintf("%s does the same for less power than %s", j.views[m.To].Host.Name, j.views[m.From].Host.Name)
	case consolidate.ReasonBalance:
		return fmt.Sprintf("evens load out: %s has %.2f of %.2f CPUs asked for", j.views[m.From].Host.Name, j.asked[m.From]+demand, host.CPU)
	case consolidate.ReasonCount:
	}
	return m.Reason.String()
}

func (j *judge) wake(h consolidate.HostIndex, why string) {
	j.awake[h], j.woken[h] = true, true
	j.out.Actions = append(j.out.Actions, cloud.PlanAction{Kind: cloud.ActionWake, Host: j.views[h].Host.Name, Reason: why, Status: cloud.StatusRecommended})
}

// stay explains the servers that no plan of this kind moves, where that keeps a host awake: pinned ones on hosts that are little used.
func (j *judge) stay() {
	const little = 0.5
	for i := range j.views {
		h := consolidate.HostIndex(i)
		if !j.awake[i] || j.gave[i] || j.took[i] || j.asked[i] > little*j.fleet.Hosts[i].CPU {
			continue
		}
		for _, g := range j.fleet.Hosts[i].Guests {
			if why := j.pinned[g]; why != "" {
				j.refuse(g, h, consolidate.Nowhere, "%s", why)
			}
		}
		for _, why := range j.bound[i] {
			j.refuse(noGuest, h, consolidate.Nowhere, "%s", why)
		}
	}
}
