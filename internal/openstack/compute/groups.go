package compute

import (
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var groupRoutes = []route{
	{pattern: "GET /os-server-groups", query: groupQuery, handle: (*call).listGroups},
	{pattern: "POST /os-server-groups", handle: (*call).createGroup},
	{pattern: "GET /os-server-groups/{id}", handle: (*call).showGroup},
	{pattern: "DELETE /os-server-groups/{id}", handle: (*call).deleteGroup},
}

var groupQuery = querySchema{strict: 75, parameters: []parameter{
	{name: "all_projects"}, {name: "limit", check: checkNatural}, {name: "offset", check: checkNatural},
}}

func (c *call) groupView(g *cloud.ServerGroup) object {
	members := make([]cloud.ServerID, 0, len(g.Members))
	for _, id := range g.Members {
		if _, alive := store.Lookup(c.view, tables.Servers, id); alive {
			members = append(members, id)
		}
	}
	out := object{"id": g.ID, "name": g.Name, "members": members}
	if c.since(64) {
		rules := object{}
		if g.MaxPerHost > 0 {
			rules["max_server_per_host"] = g.MaxPerHost
		}
		out["policy"], out["rules"] = g.Policy, rules
	} else {
		out["policies"], out["metadata"] = []cloud.GroupPolicy{g.Policy}, object{}
	}
	if c.since(13) {
		out["project_id"], out["user_id"] = g.Project, g.User
	}
	return out
}

func (c *call) listGroups() error {
	if err := c.may(reader, "os-server-groups:index"); err != nil {
		return err
	}
	var all []*cloud.ServerGroup
	if c.query.has("all_projects") && c.admin() {
		all = store.All(c.view, tables.ServerGroups)
	} else {
		all = store.By(c.view, tables.ServerGroups, tables.ByProject, c.r.Caller.Project)
	}
	slices.SortStableFunc(all, func(a, b *cloud.ServerGroup) int { return a.Created.Compare(b.Created) })
	page, err := c.page()
	if err != nil {
		return err
	}
	offset, _ := strconv.Atoi(c.query.get("offset")) // checked; absent is 0
	all = all[min(max(offset, 0), len(all)):]
	all = all[:min(page.Limit, len(all))]
	out := make([]object, len(all))
	for i, g := range all {
		out[i] = c.groupView(g)
	}
	return c.ok(object{"server_groups": out})
}

func (c *call) findGroup() (*cloud.ServerGroup, error) {
	g, ok := store.Lookup(c.view, tables.ServerGroups, c.path("id"))
	if !ok || !c.r.Caller.Sees(g.Project) {
		return nil, notFound("Instance group %s could not be found.", c.path("id"))
	}
	return g, nil
}

func (c *call) showGroup() error {
	g, err := c.findGroup()
	if err != nil {
		return err
	}
	if err := c.may(reader, "os-server-groups:show"); err != nil {
		return err
	}
	return c.ok(object{"server_group": c.groupView(g)})
}

// deleteGroup removes a group; its members go on without a policy, as in Nova.
func (c *call) deleteGroup() error {
	g, err := c.findGroup()
	if err != nil {
		return err
	}
	if err := c.may(member, "os-server-groups:delete"); err != nil {
		return err
	}
	if err := c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.ServerGroups, g.ID) }); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

// groupBody is the body of POST /os-server-groups.
type groupBody struct {
	Group struct {
		Name     displayName          `json:"name" api:"required"`
		Policies *[]cloud.GroupPolicy `json:"policies" api:"required;until=2.63;len=1..1;unique"`
		Policy   cloud.GroupPolicy    `json:"policy" api:"required;since=2.64;enum=anti-affinity|affinity|soft-anti-affinity|soft-affinity"`
		Rules    struct {
			MaxPerHost positive `json:"max_server_per_host"`
		} `json:"rules" api:"since=2.64"`
	} `json:"server_group" api:"required"`
}

// policy returns the policy asked for, judged by the microversion.
func (b *groupBody) policy(minor int) (cloud.GroupPolicy, error) {
	if minor >= 64 {
		return b.Group.Policy, nil
	}
	known := []cloud.GroupPolicy{cloud.PolicyAntiAffinity, cloud.PolicyAffinity}
	if minor >= 15 {
		known = append(known, cloud.PolicySoftAntiAffinity, cloud.PolicySoftAffinity)
	}
	policy := (*b.Group.Policies)[0]
	if slices.Contains(known, policy) {
		return policy, nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return "", &openstack.InputError{Path: []string{"policies", "0"}, Value: string(policy), Reason: quote(string(policy)) + " is not one of " + quoteAll(names)}
}

func (c *call) createGroup() error {
	if err := c.r.Caller.RequireProject(member, "os_compute_api:os-server-groups:create"); err != nil {
		return err
	}
	var body groupBody
	if err := c.decode(&body); err != nil {
		return err
	}
	policy, err := body.policy(c.minor)
	if err != nil {
		return err
	}
	perHost := int(body.Group.Rules.MaxPerHost)
	if perHost > 0 && policy != cloud.PolicyAntiAffinity {
		return invalid("Only anti-affinity policy supports rules.")
	}
	g := cloud.ServerGroup{
		ID: cloud.GroupID(newID()), Name: strings.TrimSpace(string(body.Group.Name)), Project: c.r.Caller.Project, User: c.r.Caller.User,
		Policy: policy, MaxPerHost: perHost, Members: []cloud.ServerID{}, Placed: map[cloud.ServerID][]cloud.HostName{}, Created: c.now(),
	}
	err = c.update(func(tx *store.Tx) error {
		// Read in the transaction, all of them, so that two creations cannot both take the last of the quota; groups are made rarely.
		all, err := store.PeekList(tx, tables.ServerGroups, cloud.GroupID(""))
		if err != nil {
			return err
		}
		have := slices.DeleteFunc(all, func(o *cloud.ServerGroup) bool { return o.Project != g.Project })
		if exceeds(len(have)+1, c.quota(g.Project).ServerGroups) {
			return overQuota("Quota exceeded, too many server groups.")
		}
		return store.Create(tx, tables.ServerGroups, g.ID, g)
	})
	if err != nil {
		return err
	}
	return c.ok(object{"server_group": c.groupView(&g)})
}
