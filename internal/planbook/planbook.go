// Package planbook is the book of audits and action plans that both edges write in: the operator API and Watcher's dialect. It holds rules over a
// transaction; the leader, which makes the plans and carries them out, reads what was written.
package planbook

import (
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/consolidate"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// AuditsMax bounds the audits that are not finished: each is a record that the leader looks at every second.
const AuditsMax = 100

// CheckAsk returns cloud.KindInvalid for a goal or strategy that does not exist.
func CheckAsk(goal cloud.OptimizeGoal, strategy string) error {
	if goal != cloud.GoalConsolidate && goal != cloud.GoalBalance {
		return cloud.Errorf(cloud.KindInvalid, "goal %q: want %s or %s", goal, cloud.GoalConsolidate, cloud.GoalBalance)
	}
	if strategy == "" {
		return nil
	}
	if _, err := consolidate.Parse(strategy); err != nil {
		return cloud.E(cloud.KindInvalid, "", "", err)
	}
	return nil
}

// Ask writes an audit that the leader will answer with a plan. What it leaves empty (id, name, kind, status) is filled in.
func Ask(tx *store.Tx, a *cloud.Audit, now time.Time) error {
	if err := CheckAsk(a.Goal, a.Strategy); err != nil {
		return err
	}
	open, err := store.PeekList(tx, tables.Audits, "")
	if err != nil {
		return err
	}
	unfinished := 0
	for _, other := range open {
		if !other.Status.Final() {
			unfinished++
		}
	}
	if unfinished >= AuditsMax {
		return cloud.Errorf(cloud.KindConflict, "%d audits are not finished: cancel some", unfinished)
	}
	if a.ID == "" {
		a.ID = cloud.AuditID(uuid.NewString())
	}
	if a.Name == "" {
		a.Name = string(a.Goal) + "-" + now.Format("20060102T150405.000Z")
	}
	if a.Kind == "" {
		a.Kind = cloud.AuditOneShot
	}
	a.Status, a.Created, a.Updated = cloud.StatusPending, now, now
	return store.Create(tx, tables.Audits, a.ID, *a)
}

// Start has a recommended plan carried out. A plan that is under way or done is left alone; one that was superseded is refused.
func Start(tx *store.Tx, id cloud.PlanID, now time.Time) (cloud.ActionPlan, error) {
	p, err := store.Get(tx, tables.ActionPlans, id)
	if err != nil {
		return p, err
	}
	switch p.Status {
	case cloud.StatusRecommended:
	case cloud.StatusPending, cloud.StatusOngoing, cloud.StatusSucceeded:
		return p, nil
	default:
		return p, cloud.Errorf(cloud.KindConflict, "plan %s is %s and cannot be started: ask for a new one", id, p.Status)
	}
	p.Status, p.Updated = cloud.StatusPending, now
	return p, store.Put(tx, tables.ActionPlans, id, p)
}

// Cancel ends a plan: a recommended one at once, one that is carried out as soon as its moves have been called off.
func Cancel(tx *store.Tx, id cloud.PlanID, now time.Time) (cloud.ActionPlan, error) {
	p, err := store.Get(tx, tables.ActionPlans, id)
	if err != nil {
		return p, err
	}
	switch p.Status {
	case cloud.StatusRecommended, cloud.StatusPending:
		p.Status, p.Finished = cloud.StatusCancelled, now
		for i := range p.Actions {
			p.Actions[i].Status = cloud.StatusCancelled
		}
	case cloud.StatusOngoing:
		p.Status = cloud.StatusCancelling
	default:
		return p, nil
	}
	p.Updated = now
	return p, store.Put(tx, tables.ActionPlans, id, p)
}
