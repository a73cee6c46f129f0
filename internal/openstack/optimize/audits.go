package optimize

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/planbook"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

func templateBody(t *cloud.AuditTemplate) object {
	g := goalOf(t.Goal)
	return object{"uuid": t.ID, "name": t.Name, "description": t.Description, "goal_uuid": g.uuid(), "goal_name": g.name, "strategy_uuid": strategyUUID(t.Strategy),
		"strategy_name": t.Strategy, "scope": []object{}, "created_at": stamp(t.Created), "updated_at": stamp(t.Updated), "deleted_at": nil, "links": []object{}}
}

func (c *call) listTemplates() error {
	out := []object{}
	for _, t := range newest(store.All(c.view, tables.AuditTemplates), func(t *cloud.AuditTemplate) time.Time { return t.Created }) {
		out = append(out, templateBody(t))
	}
	return c.ok(object{"audit_templates": out})
}

func (c *call) template(idOrName string) (*cloud.AuditTemplate, error) {
	if t, ok := store.Lookup(c.view, tables.AuditTemplates, idOrName); ok {
		return t, nil
	}
	if t, ok := store.One(c.view, tables.AuditTemplates, tables.ByName, idOrName); ok {
		return t, nil
	}
	return nil, missing("AuditTemplate", idOrName)
}

func (c *call) showTemplate() error {
	if c.id() == "detail" {
		return c.listTemplates()
	}
	t, err := c.template(c.id())
	if err != nil {
		return err
	}
	return c.ok(templateBody(t))
}

func (c *call) createTemplate() error {
	var body struct {
		Name        string `json:"name" api:"required;len=1..63"`
		Goal        string `json:"goal" api:"required;len=1..255"`
		Strategy    string `json:"strategy" api:"null;len=..255"`
		Description string `json:"description" api:"null;len=..255"`
		Scope       []any  `json:"scope" api:"null"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	g, ok := findGoal(body.Goal)
	if !ok {
		return cloud.Errorf(cloud.KindInvalid, "goal %s does not exist", body.Goal)
	}
	if len(body.Scope) > 0 {
		return cloud.Errorf(cloud.KindInvalid, "scope: plans are about the whole fleet; servers are left out by their metadata %s", cloud.MetaAutomation)
	}
	strategy, err := strategyOf(g, body.Strategy)
	if err != nil {
		return err
	}
	now := c.now()
	t := cloud.AuditTemplate{ID: cloud.AuditTemplateID(uuid.NewString()), Name: body.Name, Description: body.Description, Goal: g.goal, Strategy: strategy, Created: now, Updated: now}
	if err := c.update(func(tx *store.Tx) error { return store.Create(tx, tables.AuditTemplates, t.ID, t) }); err != nil {
		return err
	}
	return openstack.WriteJSON(c.w, http.StatusCreated, templateBody(&t))
}

func (c *call) deleteTemplate() error {
	t, err := c.template(c.id())
	if err != nil {
		return err
	}
	if err := c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.AuditTemplates, t.ID) }); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func auditBody(a *cloud.Audit) object {
	g := goalOf(a.Goal)
	var interval any
	if a.Interval > 0 {
		interval = strconv.Itoa(int(a.Interval.Seconds()))
	}
	return object{"uuid": a.ID, "name": a.Name, "audit_type": a.Kind, "state": a.Status, "parameters": object{}, "interval": interval, "goal_uuid": g.uuid(), "goal_name": g.name,
		"strategy_uuid": strategyUUID(a.Strategy), "strategy_name": a.Strategy, "scope": []object{}, "auto_trigger": a.AutoStart, "next_run_time": stamp(a.Next),
		"hostname": nil, "start_time": nil, "end_time": stamp(a.Ends), "force": false, "status_message": a.Message,
		"created_at": stamp(a.Created), "updated_at": stamp(a.Updated), "deleted_at": nil, "links": []object{}}
}

func (c *call) listAudits() error {
	q := c.r.URL.Query()
	out := []object{}
	for _, a := range newest(store.All(c.view, tables.Audits), func(a *cloud.Audit) time.Time { return a.Created }) {
		g := goalOf(a.Goal)
		if want := q.Get("goal"); want != "" && want != g.name && want != g.uuid() {
			continue
		}
		if want := q.Get("strategy"); want != "" && want != a.Strategy && want != strategyUUID(a.Strategy) {
			continue
		}
		out = append(out, auditBody(a))
	}
	return c.ok(object{"audits": out})
}

func (c *call) audit(idOrName string) (*cloud.Audit, error) {
	if a, ok := store.Lookup(c.view, tables.Audits, idOrName); ok {
		return a, nil
	}
	for _, a := range store.All(c.view, tables.Audits) {
		if a.Name == idOrName {
			return a, nil
		}
	}
	return nil, missing("Audit", idOrName)
}

func (c *call) showAudit() error {
	if c.id() == "detail" {
		return c.listAudits()
	}
	a, err := c.audit(c.id())
	if err != nil {
		return err
	}
	return c.ok(auditBody(a))
}

// auditAsk is the body of an audit's creation.
type auditAsk struct {
	Template   string          `json:"audit_template_uuid" api:"null;len=..255"`
	Kind       cloud.AuditKind `json:"audit_type" api:"null;enum=ONESHOT|CONTINUOUS"`
	Interval   string          `json:"interval" api:"null;len=..255"`
	Parameters map[string]any  `json:"parameters" api:"null"`
	Goal       string          `json:"goal" api:"null;len=..255"`
	Strategy   string          `json:"strategy" api:"null;len=..255"`
	AutoStart  bool            `json:"auto_trigger" api:"null"`
	Name       string          `json:"name" api:"null;len=..63"`
	StartTime  string          `json:"start_time" api:"null;len=..64"`
	EndTime    string          `json:"end_time" api:"null;len=..64"`
	Force      bool            `json:"force" api:"null"`
}

func (c *call) createAudit() error {
	var body auditAsk
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	a, err := c.auditOf(&body)
	if err != nil {
		return err
	}
	if err := c.update(func(tx *store.Tx) error { return planbook.Ask(tx, a, c.now()) }); err != nil {
		return err
	}
	return openstack.WriteJSON(c.w, http.StatusCreated, auditBody(a))
}

// auditOf is the audit that a body asks for.
func (c *call) auditOf(body *auditAsk) (*cloud.Audit, error) {
	if len(body.Parameters) > 0 {
		return nil, cloud.Errorf(cloud.KindInvalid, "parameters: strategies have theirs in the server's configuration, section optimize")
	}
	if body.StartTime != "" {
		return nil, cloud.Errorf(cloud.KindInvalid, "start_time: audits begin when they are asked for")
	}
	a := &cloud.Audit{ID: cloud.AuditID(uuid.NewString()), Name: body.Name, Kind: body.Kind, AutoStart: body.AutoStart, Project: c.r.Caller.Project, User: c.r.Caller.User}
	strategy := body.Strategy
	if body.Template != "" {
		t, err := c.template(body.Template)
		if err != nil {
			return nil, err
		}
		a.Template = t.ID
		body.Goal = string(t.Goal)
		if strategy == "" {
			strategy = t.Strategy
		}
	}
	g, ok := findGoal(body.Goal)
	if !ok {
		return nil, cloud.Errorf(cloud.KindInvalid, "goal %q does not exist: name one, or an audit template", body.Goal)
	}
	a.Goal = g.goal
	var err error
	if a.Strategy, err = strategyOf(g, strategy); err != nil {
		return nil, err
	}
	if body.EndTime != "" {
		if a.Ends, err = time.Parse(time.DateTime, body.EndTime); err != nil {
			return nil, cloud.Errorf(cloud.KindInvalid, "end_time: %w", err)
		}
	}
	if a.Interval, err = interval(body); err != nil {
		return nil, err
	}
	return a, nil
}

// intervalMin keeps an audit from doing nothing but planning.
const intervalMin = time.Second

func interval(body *auditAsk) (time.Duration, error) {
	switch {
	case body.Kind == cloud.AuditContinuous && body.Interval == "":
		return 0, cloud.Errorf(cloud.KindInvalid, "interval of audit must be specified for %s audits", cloud.AuditContinuous)
	case body.Kind != cloud.AuditContinuous && body.Interval != "":
		return 0, cloud.Errorf(cloud.KindInvalid, "interval of audit must not be set for %s audits", cloud.AuditOneShot)
	case body.Interval == "":
		return 0, nil
	}
	seconds, err := strconv.Atoi(body.Interval)
	if d := time.Duration(seconds) * time.Second; err == nil && d >= intervalMin {
		return d, nil
	}
	return 0, cloud.Errorf(cloud.KindInvalid, "interval %q: want seconds; cron expressions are not supported", body.Interval)
}

// patchAudit cancels, suspends or resumes an audit.
func (c *call) patchAudit() error {
	state, err := c.stateAsked()
	if err != nil {
		return err
	}
	found, err := c.audit(c.id())
	if err != nil {
		return err
	}
	var a cloud.Audit
	err = c.update(func(tx *store.Tx) (err error) {
		if a, err = store.Get(tx, tables.Audits, found.ID); err != nil {
			return err
		}
		legal := map[cloud.OptimizeStatus][]cloud.OptimizeStatus{
			cloud.StatusPending: {cloud.StatusCancelled}, cloud.StatusOngoing: {cloud.StatusCancelled, cloud.StatusSuspended}, cloud.StatusSuspended: {cloud.StatusCancelled, cloud.StatusOngoing},
		}
		for _, next := range legal[a.Status] {
			if next == state {
				a.Status, a.Updated = state, c.now()
				return store.Put(tx, tables.Audits, a.ID, a)
			}
		}
		return cloud.Errorf(cloud.KindInvalid, "State transition not allowed: (%s -> %s)", a.Status, state)
	})
	if err != nil {
		return err
	}
	return c.ok(auditBody(&a))
}

func (c *call) deleteAudit() error {
	a, err := c.audit(c.id())
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		held, err := store.Get(tx, tables.Audits, a.ID)
		if err != nil {
			return err
		}
		if !held.Status.Final() {
			return cloud.E(cloud.KindConflict, "", "", fmt.Errorf("audit %s is %s: cancel it first", a.ID, held.Status))
		}
		return store.Delete(tx, tables.Audits, a.ID)
	})
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
