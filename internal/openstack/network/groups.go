package network

import (
	"net/http"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var groupRoutes = []route{
	{"GET /security-groups", openstack.RoleReader, (*call).listGroups},
	{"POST /security-groups", openstack.RoleMember, (*call).createGroup},
	{"GET /security-groups/{id}", openstack.RoleReader, (*call).showGroup},
	{"PUT /security-groups/{id}", openstack.RoleMember, (*call).updateGroup},
	{"DELETE /security-groups/{id}", openstack.RoleMember, (*call).deleteGroup},
}

var groupList = &listing{plural: "security_groups", path: "security-groups", attributes: []string{
	"id", "name", "description", "project_id", "tenant_id", "stateful", "shared", "revision_number", "created_at", "updated_at",
}}

type groupInput struct {
	Name        *string          `json:"name" api:"len=..255"`
	Description *string          `json:"description" api:"null;len=..255"`
	Stateful    *bool            `json:"stateful" api:"loose"`
	Project     *cloud.ProjectID `json:"project_id" api:"null"`
	Tenant      *cloud.ProjectID `json:"tenant_id" api:"null"`
}

func (c *call) groupView(g *cloud.SecurityGroup) object {
	rules := []object{}
	for i := range g.Rules {
		rules = append(rules, ruleView(g, &g.Rules[i]))
	}
	return object{
		"id": g.ID, "name": g.Name, "description": g.Description, "project_id": g.Project, "tenant_id": g.Project, "stateful": g.Stateful,
		"security_group_rules": rules, "shared": false, "tags": emptyIfNil(g.Tags), "revision_number": g.Revision,
		"created_at": openstack.TimeSeconds(g.Created), "updated_at": openstack.TimeSeconds(g.Updated),
	}
}

// ensureDefaultGroup makes the caller's project have its default group, as every look at the groups does in Neutron.
func (c *call) ensureDefaultGroup() error {
	if c.project() == "" {
		return nil
	}
	if _, ok := store.One(c.view, tables.SecurityGroups, tables.ByDefault, c.project()); ok {
		return nil
	}
	return c.update(func(tx *store.Tx) error {
		_, err := ipam.DefaultGroup(tx, c.project(), c.now())
		return err
	})
}

func (c *call) listGroups() error {
	if err := c.ensureDefaultGroup(); err != nil {
		return err
	}
	var views []object
	for _, g := range store.All(c.view, tables.SecurityGroups) {
		if c.r.Caller.Sees(g.Project) {
			views = append(views, c.groupView(g))
		}
	}
	return c.list(groupList, views)
}

func (c *call) showGroup() error {
	g, ok := store.Lookup(c.view, tables.SecurityGroups, c.id())
	if !ok || !c.r.Caller.Sees(g.Project) {
		return ipam.SecurityGroupNotFound(cloud.SecurityGroupID(c.id()))
	}
	return c.show("security_group", c.groupView(g))
}

func (c *call) createGroup() error {
	var body struct {
		Group groupInput `json:"security_group" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in := &body.Group
	project, err := c.owner(in.Project, in.Tenant, "create_security_group")
	if err != nil {
		return err
	}
	name, description := "", ""
	set(&name, in.Name)
	set(&description, in.Description)
	if name == ipam.DefaultGroupName {
		return ipam.Refuse(cloud.KindConflict, "SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
	}
	g := ipam.NewGroup(project, name, description, c.now())
	if err := applyStateful(&g, in.Stateful); err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		if _, err := ipam.DefaultGroup(tx, project, c.now()); err != nil {
			return err
		}
		return store.Create(tx, tables.SecurityGroups, g.ID, g)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, "security_group", c.groupView(&g))
}

// applyStateful refuses stateless groups: hosts track connections for all of them.
func applyStateful(g *cloud.SecurityGroup, stateful *bool) error {
	if stateful != nil && !*stateful {
		return invalid("stateless security groups are not offered")
	}
	g.Stateful = true
	return nil
}

// ownGroup returns the group for a change.
func (c *call) ownGroup(tx *store.Tx, id cloud.SecurityGroupID) (cloud.SecurityGroup, error) {
	g, err := store.Get(tx, tables.SecurityGroups, id)
	if cloud.Is(err, cloud.KindNotFound) || err == nil && !c.r.Caller.Sees(g.Project) {
		return g, ipam.SecurityGroupNotFound(id)
	}
	return g, err
}

func (c *call) putGroup(tx *store.Tx, g *cloud.SecurityGroup) error {
	g.Updated = c.now()
	g.Revision++
	return store.Put(tx, tables.SecurityGroups, g.ID, *g)
}

func (c *call) updateGroup() error {
	var body struct {
		Group groupInput `json:"security_group" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in, id := &body.Group, cloud.SecurityGroupID(c.id())
	if in.Project != nil || in.Tenant != nil {
		return invalid("Attribute 'project_id' cannot be updated")
	}
	err := c.update(func(tx *store.Tx) error {
		g, err := c.ownGroup(tx, id)
		if err != nil {
			return err
		}
		if err := c.matches(g.Revision); err != nil {
			return err
		}
		if in.Name != nil && *in.Name != g.Name && (g.Name == ipam.DefaultGroupName || *in.Name == ipam.DefaultGroupName) {
			return ipam.Refuse(cloud.KindConflict, "SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.")
		}
		if err := applyStateful(&g, in.Stateful); err != nil {
			return err
		}
		set(&g.Name, in.Name)
		set(&g.Description, in.Description)
		return c.putGroup(tx, &g)
	})
	if err != nil {
		return err
	}
	return c.showGroup()
}

func (c *call) deleteGroup() error {
	id := cloud.SecurityGroupID(c.id())
	err := c.update(func(tx *store.Tx) error {
		g, err := c.ownGroup(tx, id)
		if err != nil {
			return err
		}
		if err := c.matches(g.Revision); err != nil {
			return err
		}
		return ipam.RemoveGroup(tx, id, c.admin())
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}
