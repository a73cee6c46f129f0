package compute

import (
	"cmp"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var actionRoutes = []route{
	{pattern: "GET /servers/{server_id}/os-instance-actions", query: actionQuery, handle: (*call).listActions},
	{pattern: "GET /servers/{server_id}/os-instance-actions/{id}", handle: (*call).showAction},
}

var actionQuery = querySchema{strict: 58, parameters: append(paging(58, true),
	parameter{name: "changes-since", since: 58, once: true, check: checkTime},
	parameter{name: "changes-before", since: 66, once: true, check: checkTime})}

// serverOrGrave returns a server, from 2.21 on also one that is deleted and not yet forgotten.
func (c *call) serverOrGrave(rule string) (*cloud.Server, error) {
	id := c.path("server_id")
	s, err := c.findServer(id)
	if err != nil && c.since(21) {
		if grave, ok := store.Lookup(c.view, tables.Graves, id); ok && c.r.Caller.Sees(grave.Project) {
			s, err = grave, nil
		}
	}
	if err != nil {
		return nil, err
	}
	return s, c.may(reader, rule)
}

func (c *call) actionView(a *cloud.Action) object {
	out := object{
		"action": a.Name, "instance_uuid": a.Server, "request_id": a.RequestID, "user_id": a.User, "project_id": a.Project,
		"start_time": openstack.TimeMicros(a.Started), "message": textOrNull(a.Message),
	}
	if c.since(58) {
		out["updated_at"] = openstack.OptionalTime(a.Updated, openstack.TimeMicros)
	}
	return out
}

// listActions shows what was asked of a server, newest first.
func (c *call) listActions() error {
	s, err := c.serverOrGrave("os-instance-actions:list")
	if err != nil {
		return err
	}
	if err := checkChanges(c.query); err != nil {
		return err
	}
	all := slices.DeleteFunc(store.Prefixed(c.view, tables.Actions, tables.ActionKey(s.ID, "")), func(a *cloud.Action) bool {
		return c.query.has("changes-since") && a.Updated.Before(c.query.time("changes-since")) ||
			c.query.has("changes-before") && a.Updated.After(c.query.time("changes-before"))
	})
	slices.SortFunc(all, func(a, b *cloud.Action) int {
		return cmp.Or(b.Started.Compare(a.Started), cmp.Compare(b.RequestID, a.RequestID))
	})
	some, more := all, false
	if c.since(58) {
		page, err := c.page()
		if err != nil {
			return err
		}
		if some, more, err = openstack.Slice(all, page, func(a *cloud.Action) string { return a.RequestID }); err != nil {
			return invalid("Marker %s could not be found.", page.Marker)
		}
	}
	views := make([]object, len(some))
	for i, a := range some {
		views[i] = c.actionView(a)
	}
	out := object{"instanceActions": views}
	if more {
		out["links"] = c.nextLinks("/servers/"+string(s.ID)+"/os-instance-actions", some[len(some)-1].RequestID)
	}
	return c.ok(out)
}

// showAction shows one action with its events: to administrators always, to others from 2.51 on and without what only concerns operators.
func (c *call) showAction() error {
	s, err := c.serverOrGrave("os-instance-actions:show")
	if err != nil {
		return err
	}
	a, ok := store.Lookup(c.view, tables.Actions, tables.ActionKey(s.ID, c.path("id")))
	if !ok {
		return notFound("Action %s not found", c.path("id"))
	}
	out := c.actionView(a)
	if c.admin() || c.since(51) {
		events := make([]object, len(a.Events))
		for i := range a.Events {
			events[len(events)-1-i] = c.eventView(a, &a.Events[i])
		}
		out["events"] = events
	}
	return c.ok(object{"instanceAction": out})
}

func (c *call) eventView(a *cloud.Action, e *cloud.ActionEvent) object {
	out := object{
		"event": e.Name, "start_time": openstack.TimeMicros(e.Started), "finish_time": openstack.OptionalTime(e.Finished, openstack.TimeMicros),
		"result": textOrNull(e.Result),
	}
	if c.admin() {
		out["traceback"] = textOrNull(e.Details)
	}
	if c.since(62) {
		if c.admin() {
			out["host"] = textOrNull(string(e.Host))
		}
		out["hostId"] = hostID(a.Project, e.Host)
	}
	if c.since(84) && c.admin() {
		out["details"] = textOrNull(e.Details)
	}
	return out
}
