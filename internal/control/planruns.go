package control

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/hostpower"
	"github.com/godwit-cloud/godwit/internal/optimize"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// wakeMax bounds how long a plan waits for a host to wake: after that its moves there are given up. The wake itself is tried on.
const wakeMax = 10 * time.Minute

// A planRun is one look at a plan that is carried out. It asks for what may begin, notes what has ended, and never waits: the next look sees the rest.
type planRun struct {
	*optimiser
	view    store.View
	plan    cloud.ActionPlan
	now     time.Time
	orders  []func(tx *store.Tx) error // what to write beside the plan
	changed bool
}

// carryOut advances a plan by what has become possible, in one transaction.
func (o *optimiser) carryOut(ctx context.Context, v store.View, was *cloud.ActionPlan, now time.Time) error {
	r := &planRun{optimiser: o, view: v, plan: *was, now: now}
	r.plan.Actions = append([]cloud.PlanAction{}, was.Actions...)
	if r.plan.Status == cloud.StatusPending {
		r.plan.Status, r.changed = cloud.StatusOngoing, true
	}
	for i := range r.plan.Actions {
		r.advance(&r.plan.Actions[i])
	}
	r.conclude()
	if !r.changed {
		return nil
	}
	r.plan.Updated = now
	return o.write(ctx, func(tx *store.Tx) error {
		held, err := store.Get(tx, tables.ActionPlans, was.ID)
		if err != nil {
			return ignore(err, cloud.KindNotFound)
		}
		if held.Status != was.Status || !held.Updated.Equal(was.Updated) { // somebody was faster; the next look sees what they wrote
			return nil
		}
		for _, order := range r.orders {
			if err := order(tx); err != nil {
				return err
			}
		}
		return store.Put(tx, tables.ActionPlans, was.ID, r.plan)
	})
}

func (r *planRun) set(a *cloud.PlanAction, status cloud.OptimizeStatus, format string, args ...any) {
	a.Status, r.changed = status, true
	if format != "" {
		a.Error = fmt.Sprintf(format, args...)
	}
	switch {
	case status == cloud.StatusOngoing:
		a.Began = r.now
	case status.Final():
		a.Finished = r.now
	}
}

func (r *planRun) advance(a *cloud.PlanAction) {
	if a.Status.Final() {
		return
	}
	if r.plan.Status == cloud.StatusCancelling && a.Status == cloud.StatusPending {
		r.set(a, cloud.StatusCancelled, "")
		return
	}
	switch a.Kind {
	case cloud.ActionWake:
		r.wake(a)
	case cloud.ActionMigrate:
		r.migrate(a)
	case cloud.ActionSleep:
		r.sleep(a)
	}
}

func (r *planRun) power(host cloud.HostName) cloud.HostPower {
	if p, ok := store.Lookup(r.view, tables.HostPowers, host); ok {
		return *p
	}
	return cloud.HostPower{Host: host, State: cloud.HostAwake}
}

func (r *planRun) wake(a *cloud.PlanAction) {
	p := r.power(a.Host)
	_, connected := store.Lookup(r.view, tables.HostSessions, a.Host)
	switch {
	case p.Takes() && connected:
		r.set(a, cloud.StatusSucceeded, "")
	case a.Status == cloud.StatusPending:
		r.set(a, cloud.StatusOngoing, "")
		r.orders = append(r.orders, func(tx *store.Tx) error {
			return hostpower.Ask(tx, hostpower.Wish{Host: a.Host, Ask: cloud.AskWake, Reason: "plan: " + a.Reason}, r.now)
		})
	case r.now.Sub(a.Began) > wakeMax:
		r.set(a, cloud.StatusFailed, "host %s did not wake within %s: %s", a.Host, wakeMax, p.Reason)
	}
}

func (r *planRun) migrate(a *cloud.PlanAction) {
	if a.Status == cloud.StatusOngoing {
		r.watchMove(a)
		return
	}
	for i := range r.plan.Actions {
		w := &r.plan.Actions[i]
		if w.Kind != cloud.ActionWake || w.Host != a.Target {
			continue
		}
		if !w.Status.Final() {
			return
		}
		if w.Status != cloud.StatusSucceeded {
			r.set(a, cloud.StatusFailed, "host %s did not wake", a.Target)
			return
		}
	}
	s, ok := store.Lookup(r.view, tables.Servers, a.Server)
	if !ok || s.Host != a.Host {
		r.set(a, cloud.StatusCancelled, "server %s is no longer on host %s", a.Server, a.Host)
		return
	}
	if err := s.Allow(cloud.OpLiveMigrate); err != nil {
		r.set(a, cloud.StatusCancelled, "%v", err)
		return
	}
	a.Migration = cloud.MigrationID(uuid.NewString())
	r.set(a, cloud.StatusOngoing, "")
	order := moveOrder{server: a.Server, source: a.Host, target: a.Target, migration: a.Migration, intent: cloud.IntentID(uuid.NewString()), request: "req-" + uuid.NewString(), at: r.now}
	r.orders = append(r.orders, order.place)
}

func (r *planRun) watchMove(a *cloud.PlanAction) {
	m, ok := store.Lookup(r.view, tables.Migrations, a.Migration)
	switch {
	case !ok:
		r.set(a, cloud.StatusFailed, "its migration record is gone")
	case m.Status == cloud.MigrationCompleted:
		r.set(a, cloud.StatusSucceeded, "")
	case m.Status == cloud.MigrationCancelled:
		r.set(a, cloud.StatusCancelled, "%s", m.Error)
	case m.Status.Final():
		r.set(a, cloud.StatusFailed, "%s", m.Error)
	case r.plan.Status == cloud.StatusCancelling && !m.AbortAsked:
		id := m.ID
		r.changed = true
		r.orders = append(r.orders, func(tx *store.Tx) error {
			m, err := store.Get(tx, tables.Migrations, id)
			if err != nil || m.Status.Final() {
				return ignore(err, cloud.KindNotFound)
			}
			m.AbortAsked, m.Updated = true, r.now
			return store.Put(tx, tables.Migrations, id, m)
		})
	}
}

func (r *planRun) sleep(a *cloud.PlanAction) {
	p := r.power(a.Host)
	if a.Status == cloud.StatusOngoing {
		switch {
		case p.State == cloud.HostAsleep:
			r.set(a, cloud.StatusSucceeded, "")
		case p.Takes() && p.Asked == cloud.AskNothing:
			r.set(a, cloud.StatusFailed, "%s", p.Reason)
		}
		return
	}
	for i := range r.plan.Actions {
		m := &r.plan.Actions[i]
		if m.Kind != cloud.ActionMigrate || m.Host != a.Host {
			continue
		}
		if !m.Status.Final() {
			return
		}
		if m.Status != cloud.StatusSucceeded {
			r.set(a, cloud.StatusCancelled, "the host is not empty: server %s stayed", m.ServerName)
			return
		}
	}
	host, ok := store.Lookup(r.view, tables.Hosts, a.Host)
	if !ok {
		r.set(a, cloud.StatusCancelled, "host %s is gone", a.Host)
		return
	}
	if why := optimize.MayRest(host, p, r.Optimising.Settings, r.now); why != "" {
		r.set(a, cloud.StatusCancelled, "%s", why)
		return
	}
	r.set(a, cloud.StatusOngoing, "")
	r.orders = append(r.orders, func(tx *store.Tx) error {
		return hostpower.Ask(tx, hostpower.Wish{Host: a.Host, Ask: cloud.AskSleep, Reason: "optimiser: " + a.Reason}, r.now)
	})
}

// conclude ends the plan when all its actions have.
func (r *planRun) conclude() {
	failed, cancelled := 0, 0
	for i := range r.plan.Actions {
		switch a := &r.plan.Actions[i]; {
		case !a.Status.Final():
			return
		case a.Status == cloud.StatusFailed:
			failed++
		case a.Status == cloud.StatusCancelled:
			cancelled++
		}
	}
	r.changed, r.plan.Finished = true, r.now
	switch {
	case r.plan.Status == cloud.StatusCancelling:
		r.plan.Status = cloud.StatusCancelled
	case failed > 0:
		r.plan.Status, r.plan.Message = cloud.StatusFailed, fmt.Sprintf("%d of %d actions failed", failed, len(r.plan.Actions))
	default:
		r.plan.Status = cloud.StatusSucceeded
		if cancelled > 0 {
			r.plan.Message = fmt.Sprintf("%d of %d actions had become pointless", cancelled, len(r.plan.Actions))
		}
	}
	r.Optimising.Metrics.ended(r.plan.Status)
	r.log.Info("plan is through", "plan", r.plan.ID, "status", r.plan.Status, "message", r.plan.Message)
}

// moveOrder asks for a live migration, in the server's own project's name.
type moveOrder struct {
	server         cloud.ServerID
	source, target cloud.HostName
	migration      cloud.MigrationID
	intent         cloud.IntentID
	request        string
	at             time.Time
}

// place writes the migration, its intent and its action. A server that has become busy meanwhile makes it fail with cloud.KindConflict.
func (o moveOrder) place(tx *store.Tx) error {
	s, err := store.Get(tx, tables.Servers, o.server)
	if err != nil {
		return err
	}
	if err := s.Allow(cloud.OpLiveMigrate); err != nil {
		return err
	}
	if s.Host != o.source {
		return cloud.Errorf(cloud.KindConflict, "server %s has moved to host %s", s.ID, s.Host)
	}
	number, err := tables.Next(tx, tables.CountMigrations)
	if err != nil {
		return err
	}
	m := cloud.Migration{
		ID: o.migration, Number: number, Server: s.ID, Project: s.Project, User: s.User, Type: cloud.TypeLiveMigration, Asked: cloud.MigrateAuto,
		Source: s.Host, AskedTarget: o.target, Status: cloud.MigrationQueued, Intent: o.intent, Created: o.at, Updated: o.at,
	}
	if err := store.Create(tx, tables.Migrations, m.ID, m); err != nil {
		return err
	}
	s.Task, s.Updated = cloud.TaskMigrating, o.at
	if err := store.Put(tx, tables.Servers, s.ID, s); err != nil {
		return err
	}
	intent := cloud.Intent{ID: o.intent, Kind: cloud.IntentMigrate, Server: s.ID, Migration: m.ID, RequestID: o.request, Project: s.Project, User: s.User, Created: o.at}
	if err := store.Create(tx, tables.Intents, intent.ID, intent); err != nil {
		return err
	}
	return store.Put(tx, tables.Actions, tables.ActionKey(s.ID, o.request), cloud.Action{
		Server: s.ID, RequestID: o.request, Name: "live-migration", Project: s.Project, User: s.User, Started: o.at, Updated: o.at,
	})
}
