package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/telemetry"
)

// Optimising is how the leader arranges the fleet.
type Optimising struct {
	Book       *telemetry.Book // what hosts and servers use; nil: nothing is planned
	Settings   optimize.Settings
	Automation cloud.Automation  // empty: manual
	Local      *time.Location    // of the schedule; nil: the machine's
	SleepMode  cloud.SleepMode   // empty: power off
	Metrics    *OptimiserMetrics // nil: none
	// AccountEvery is how often use is added up; after FlushTimes such times the sums are written. 0: every five seconds.
	AccountEvery time.Duration
}

const (
	// optimisePeriod is how often audits, plans and hosts' power are looked at without a change.
	optimisePeriod = time.Second
	// plansKept bounds finished plans and audits, each.
	plansKept = 50
	// planStaleAfter ends a recommendation that nobody took: the fleet is another one by then.
	planStaleAfter = time.Hour
)

// optimiser makes plans and carries them out.
type optimiser struct {
	*leader
	memories map[cloud.HostName]*consolidate.Memory
	caution  float64
	books    books
	heeded   time.Time // when caution was last adjusted
	made     time.Time // when the automation last made a plan
}

// optimise runs until ctx ends.
func (l *leader) optimise(ctx context.Context) error {
	if l.Optimising.Book == nil {
		<-ctx.Done()
		return nil
	}
	o := &optimiser{leader: l, memories: map[cloud.HostName]*consolidate.Memory{}, caution: 1, heeded: time.Now(), made: time.Now()}
	watch := l.Store.Watch(ctx, tables.Audits, tables.ActionPlans, tables.Migrations, tables.HostPowers, tables.HostSessions)
	return l.loop(ctx, "optimising", optimisePeriod, watch, o.round)
}

func (o *optimiser) round(ctx context.Context) error {
	now := time.Now().UTC()
	v := o.Store.View()
	o.heed(now)
	var errs []error
	for _, a := range store.All(v, tables.Audits) {
		if due(a, now) {
			errs = append(errs, o.audit(ctx, a, now))
		}
	}
	errs = append(errs, o.account(ctx, v, now), o.automatic(ctx, now))
	v = o.Store.View()
	for _, p := range store.All(v, tables.ActionPlans) {
		if p.Status == cloud.StatusPending || p.Status == cloud.StatusOngoing || p.Status == cloud.StatusCancelling {
			errs = append(errs, o.carryOut(ctx, v, p, now))
		}
	}
	errs = append(errs, o.tidy(ctx, v, now))
	return errors.Join(errs...)
}

// due reports whether an audit wants a plan now.
func due(a *cloud.Audit, now time.Time) bool {
	return a.Status == cloud.StatusPending || a.Status == cloud.StatusOngoing && a.Kind == cloud.AuditContinuous && !now.Before(a.Next)
}

// audit makes the plan that an audit asks for and writes both.
func (o *optimiser) audit(ctx context.Context, was *cloud.Audit, now time.Time) error {
	a := *was
	a.Updated, a.Status, a.Message = now, cloud.StatusSucceeded, ""
	by := cloud.AutomationManual
	if a.AutoStart {
		by = cloud.AutomationFull
	}
	outcome, err := o.plan(a.Goal, a.Strategy, by, now)
	var plan *cloud.ActionPlan
	switch {
	case err != nil:
		a.Status, a.Message = cloud.StatusFailed, err.Error()
	default:
		plan = o.record(outcome, a.ID, now)
		a.Plan = plan.ID
		if a.AutoStart && len(plan.Actions) > 0 {
			plan.Status = cloud.StatusPending
		}
		if a.Kind == cloud.AuditContinuous {
			a.Status, a.Next = cloud.StatusOngoing, now.Add(max(a.Interval, o.Optimising.Book.Step()))
			if !a.Ends.IsZero() && now.After(a.Ends) {
				a.Status = cloud.StatusSucceeded
			}
		}
	}
	return o.write(ctx, func(tx *store.Tx) error {
		held, err := store.Get(tx, tables.Audits, a.ID)
		if err != nil || held.Status != was.Status { // deleted, cancelled or suspended meanwhile
			return ignore(err, cloud.KindNotFound)
		}
		if err := store.Put(tx, tables.Audits, a.ID, a); err != nil || plan == nil {
			return err
		}
		if err := supersede(tx, a.ID, now); err != nil {
			return err
		}
		return store.Put(tx, tables.ActionPlans, plan.ID, *plan)
	})
}

func (o *optimiser) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	_, err := o.records.UpdateVisible(ctx, fn)
	return err
}

// supersede ends the recommendations that an audit made before; the automation's have no audit.
func supersede(tx *store.Tx, audit cloud.AuditID, now time.Time) error {
	plans, err := store.PeekList(tx, tables.ActionPlans, "")
	if err != nil {
		return err
	}
	for _, p := range plans {
		if p.Audit != audit || p.Status != cloud.StatusRecommended {
			continue
		}
		next := *p
		next.Status, next.Updated, next.Finished = cloud.StatusSuperseded, now, now
		if err := store.Put(tx, tables.ActionPlans, next.ID, next); err != nil {
			return err
		}
	}
	return nil
}

// automatic makes a plan each step, as far as the automation level goes. While one is carried out no other is made: it would be about a fleet
// that is on the move.
func (o *optimiser) automatic(ctx context.Context, now time.Time) error {
	level, step := o.Optimising.Automation, o.Optimising.Book.Step()
	if level != cloud.AutomationPartial && level != cloud.AutomationFull || now.Sub(o.made) < step {
		return nil
	}
	for _, p := range store.All(o.Store.View(), tables.ActionPlans) {
		if p.Status == cloud.StatusPending || p.Status == cloud.StatusOngoing || p.Status == cloud.StatusCancelling {
			return nil
		}
	}
	o.made = now
	settings := o.Optimising.Settings
	outcome, err := o.plan(settings.GoalAt(now.In(o.local())), "", level, now)
	if err != nil {
		return err
	}
	if len(outcome.Actions) == 0 {
		return nil
	}
	plan := o.record(outcome, "", now)
	if level == cloud.AutomationFull {
		plan.Status = cloud.StatusPending
	}
	o.log.Info("optimiser has a plan", "plan", plan.ID, "goal", plan.Goal, "actions", len(plan.Actions), "status", plan.Status)
	return o.write(ctx, func(tx *store.Tx) error {
		if err := supersede(tx, "", now); err != nil {
			return err
		}
		return store.Put(tx, tables.ActionPlans, plan.ID, *plan)
	})
}

// heed adjusts the caution once a step by the time in which hosts were short, at every automation level: plans that a person asks for keep the goal too.
func (o *optimiser) heed(now time.Time) {
	if now.Sub(o.heeded) < o.Optimising.Book.Step() {
		return
	}
	o.heeded = now
	o.caution = optimize.CautionAfter(o.caution, o.books.takeShort(), o.Optimising.Settings.OverloadGoal)
	o.Optimising.Metrics.heed(o.caution)
}

func (o *optimiser) local() *time.Location {
	if o.Optimising.Local != nil {
		return o.Optimising.Local
	}
	return time.Local
}

// plan asks the decider about the fleet as it is.
func (o *optimiser) plan(goal cloud.OptimizeGoal, strategy string, by cloud.Automation, now time.Time) (optimize.Outcome, error) {
	v := o.Store.View()
	snap := tables.Snapshot(v, now)
	in := optimize.Input{
		Settings: o.Optimising.Settings, Policy: o.Policy, Snapshot: &snap, Servers: store.All(v, tables.Servers), Powers: powersOf(v),
		Readings: o.Optimising.Book.Readings(), Rates: optimize.Learn(store.All(v, tables.Migrations)), Busy: busyServers(v), By: by,
		Memories: o.memories, Seed: snap.Revision,
	}
	in.Settings.Caution = o.caution
	return optimize.Plan(&in, goal, strategy)
}

func powersOf(v store.View) map[cloud.HostName]cloud.HostPower {
	out := map[cloud.HostName]cloud.HostPower{}
	for _, p := range store.All(v, tables.HostPowers) {
		out[p.Host] = *p
	}
	return out
}

func busyServers(v store.View) map[cloud.ServerID]bool {
	out := map[cloud.ServerID]bool{}
	for _, i := range store.All(v, tables.Intents) {
		out[i.Server] = true
	}
	for _, s := range store.All(v, tables.Servers) {
		if s.Task != cloud.TaskNone {
			out[s.ID] = true
		}
	}
	return out
}

// record makes a plan's record.
func (o *optimiser) record(outcome optimize.Outcome, audit cloud.AuditID, now time.Time) *cloud.ActionPlan {
	p := &cloud.ActionPlan{
		ID: cloud.PlanID(uuid.NewString()), Audit: audit, Goal: outcome.Goal, Strategy: outcome.Strategy, Status: cloud.StatusRecommended,
		Actions: append([]cloud.PlanAction{}, outcome.Actions...), Refused: outcome.Refused, Effect: outcome.Effect, Revision: o.Store.Revision(), Created: now, Updated: now,
	}
	for i := range p.Actions {
		p.Actions[i].ID = cloud.PlanActionID(uuid.NewString())
		p.Actions[i].Status = cloud.StatusPending
	}
	if len(p.Actions) == 0 {
		p.Status, p.Message, p.Finished = cloud.StatusSucceeded, "nothing is to be gained", now
	}
	return p
}

// tidy removes what is old, so that the tables stay small.
func (o *optimiser) tidy(ctx context.Context, v store.View, now time.Time) error {
	var done []*cloud.ActionPlan
	var stale []cloud.PlanID
	for _, p := range store.All(v, tables.ActionPlans) {
		switch {
		case p.Status.Final():
			done = append(done, p)
		case p.Status == cloud.StatusRecommended && now.Sub(p.Created) > planStaleAfter:
			stale = append(stale, p.ID)
		}
	}
	var audits []*cloud.Audit
	for _, a := range store.All(v, tables.Audits) {
		if a.Status.Final() {
			audits = append(audits, a)
		}
	}
	if len(done) <= plansKept && len(audits) <= plansKept && len(stale) == 0 {
		return nil
	}
	slices.SortFunc(done, func(a, b *cloud.ActionPlan) int { return b.Updated.Compare(a.Updated) })
	slices.SortFunc(audits, func(a, b *cloud.Audit) int { return b.Updated.Compare(a.Updated) })
	return o.write(ctx, func(tx *store.Tx) error {
		for _, p := range done[min(len(done), plansKept):] {
			if err := store.Delete(tx, tables.ActionPlans, p.ID); err != nil {
				return err
			}
		}
		for _, a := range audits[min(len(audits), plansKept):] {
			if err := store.Delete(tx, tables.Audits, a.ID); err != nil {
				return err
			}
		}
		for _, id := range stale {
			p, err := store.Get(tx, tables.ActionPlans, id)
			if err != nil || p.Status != cloud.StatusRecommended {
				continue
			}
			p.Status, p.Message, p.Updated, p.Finished = cloud.StatusSuperseded, fmt.Sprintf("nobody started it within %s", planStaleAfter), now, now
			if err := store.Put(tx, tables.ActionPlans, id, p); err != nil {
				return err
			}
		}
		return nil
	})
}
