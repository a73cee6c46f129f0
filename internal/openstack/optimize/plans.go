package optimize

import (
	"net/http"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func planBody(p *cloud.ActionPlan) object {
	e := p.Effect
	var audit any
	if p.Audit != "" {
		audit = p.Audit
	}
	indicator := func(name, description, unit string, value float64) object {
		return object{"name": name, "description": description, "unit": unit, "value": value}
	}
	moves := 0
	for i := range p.Actions {
		if p.Actions[i].Kind == cloud.ActionMigrate {
			moves++
		}
	}
	return object{
		"uuid": p.ID, "audit_uuid": audit, "strategy_uuid": strategyUUID(p.Strategy), "strategy_name": p.Strategy, "state": p.Status, "hostname": nil, "status_message": p.Message,
		"global_efficacy": []object{
			indicator("power_saved", "Power that the hosts draw less, by their models", "W", e.WattsBefore-e.WattsAfter),
			indicator("hosts_released", "Hosts that may sleep", "", float64(e.AwakeBefore-e.AwakeAfter)),
		},
		"efficacy_indicators": []object{
			indicator("compute_nodes_count", "Hosts awake", "", float64(e.AwakeBefore)),
			indicator("released_compute_nodes_count", "Hosts that may sleep", "", float64(e.AwakeBefore-e.AwakeAfter)),
			indicator("instance_migrations_count", "Live migrations", "", float64(moves)),
			indicator("load_deviation", "Standard deviation of the hosts' load afterwards", "", e.SpreadAfter),
		},
		"created_at": stamp(p.Created), "updated_at": stamp(p.Updated), "deleted_at": nil, "links": []object{},
	}
}

func (c *call) listPlans() error {
	audit := c.r.URL.Query().Get("audit_uuid")
	out := []object{}
	for _, p := range newest(store.All(c.view, tables.ActionPlans), func(p *cloud.ActionPlan) time.Time { return p.Created }) {
		if audit == "" || string(p.Audit) == audit {
			out = append(out, planBody(p))
		}
	}
	return c.ok(object{"action_plans": out})
}

func (c *call) plan() (*cloud.ActionPlan, error) {
	p, ok := store.Lookup(c.view, tables.ActionPlans, c.id())
	if !ok {
		return nil, missing("ActionPlan", c.id())
	}
	return p, nil
}

func (c *call) showPlan() error {
	if c.id() == "detail" {
		return c.listPlans()
	}
	p, err := c.plan()
	if err != nil {
		return err
	}
	return c.ok(planBody(p))
}

func (c *call) startPlan() error { return c.changePlan(planbook.Start) }

func (c *call) changePlan(change func(*store.Tx, cloud.PlanID, time.Time) (cloud.ActionPlan, error)) error {
	if _, err := c.plan(); err != nil {
		return err
	}
	var p cloud.ActionPlan
	err := c.update(func(tx *store.Tx) (err error) {
		p, err = change(tx, cloud.PlanID(c.id()), c.now())
		return err
	})
	if err != nil {
		return err
	}
	return c.ok(planBody(&p))
}

// patchPlan starts or cancels a plan, as older clients do.
func (c *call) patchPlan() error {
	state, err := c.stateAsked()
	if err != nil {
		return err
	}
	switch state {
	case cloud.StatusPending:
		return c.changePlan(planbook.Start)
	case cloud.StatusCancelled, cloud.StatusCancelling:
		return c.changePlan(planbook.Cancel)
	default:
		return cloud.Errorf(cloud.KindInvalid, "state %s: want PENDING to start the plan, CANCELLED to end it", state)
	}
}

func (c *call) deletePlan() error {
	p, err := c.plan()
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		held, err := store.Get(tx, tables.ActionPlans, p.ID)
		if err != nil {
			return err
		}
		if !held.Status.Final() && held.Status != cloud.StatusRecommended {
			return cloud.Errorf(cloud.KindConflict, "action plan %s is %s: cancel it first", p.ID, held.Status)
		}
		return store.Delete(tx, tables.ActionPlans, p.ID)
	})
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// actionTypes are Watcher's names of what plans do.
var actionTypes = map[cloud.PlanActionKind]string{
	cloud.ActionMigrate: "migrate", cloud.ActionWake: "change_node_power_state", cloud.ActionSleep: "change_node_power_state",
}

func actionBody(p *cloud.ActionPlan, a *cloud.PlanAction) object {
	input := object{"resource_id": a.Host}
	switch a.Kind {
	case cloud.ActionMigrate:
		input = object{"resource_id": a.Server, "migration_type": "live", "source_node": a.Host, "destination_node": a.Target}
	case cloud.ActionWake:
		input["state"] = "on"
	case cloud.ActionSleep:
		input["state"] = "off"
	}
	var parents = []cloud.PlanActionID{}
	for i := range p.Actions { // a move waits for the wake of its target, a sleep for the moves off its host
		b := &p.Actions[i]
		if a.Kind == cloud.ActionMigrate && b.Kind == cloud.ActionWake && b.Host == a.Target || a.Kind == cloud.ActionSleep && b.Kind == cloud.ActionMigrate && b.Host == a.Host {
			parents = append(parents, b.ID)
		}
	}
	return object{"uuid": a.ID, "action_plan_uuid": p.ID, "action_type": actionTypes[a.Kind], "state": a.Status, "input_parameters": input, "parents": parents,
		"description": a.Reason, "status_message": a.Error, "created_at": stamp(p.Created), "updated_at": stamp(p.Updated), "deleted_at": nil, "links": []object{}}
}

func (c *call) listActions() error {
	q := c.r.URL.Query()
	out := []object{}
	for _, p := range newest(store.All(c.view, tables.ActionPlans), func(p *cloud.ActionPlan) time.Time { return p.Created }) {
		if want := q.Get("action_plan_uuid"); want != "" && want != string(p.ID) {
			continue
		}
		if want := q.Get("audit_uuid"); want != "" && want != string(p.Audit) {
			continue
		}
		for i := range p.Actions {
			out = append(out, actionBody(p, &p.Actions[i]))
		}
	}
	return c.ok(object{"actions": out})
}

func (c *call) showAction() error {
	if c.id() == "detail" {
		return c.listActions()
	}
	for _, p := range store.All(c.view, tables.ActionPlans) {
		for i := range p.Actions {
			if string(p.Actions[i].ID) == c.id() {
				return c.ok(actionBody(p, &p.Actions[i]))
			}
		}
	}
	return missing("Action", c.id())
}
