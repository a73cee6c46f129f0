package compute

import (
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// listSecurityGroups and showSecurityGroup are what is left of the proxy to the network service (until 2.35).
func (c *call) listSecurityGroups() error {
	if err := c.may(reader, "os-security-groups:get"); err != nil {
		return err
	}
	out := []object{}
	for _, g := range store.By(c.view, tables.SecurityGroups, tables.ByProject, c.r.Caller.Project) {
		out = append(out, c.securityGroupView(g))
	}
	return c.ok(object{"security_groups": out})
}

func (c *call) showSecurityGroup() error {
	if err := c.may(reader, "os-security-groups:show"); err != nil {
		return err
	}
	g, ok := store.Lookup(c.view, tables.SecurityGroups, c.path("id"))
	if !ok || !c.r.Caller.Sees(g.Project) {
		return notFound("Security group %s not found.", c.path("id"))
	}
	return c.ok(object{"security_group": c.securityGroupView(g)})
}

// listServerGroups shows the security groups of a server's ports with their ingress rules, in the form they had before Neutron.
func (c *call) listServerGroups() error {
	s, err := c.serverFor(reader, "os-security-groups:list", c.path("server_id"))
	if err != nil {
		return err
	}
	seen := map[cloud.SecurityGroupID]bool{}
	var groups []*cloud.SecurityGroup
	for _, p := range c.serverViews(0).ports(s) {
		for _, id := range p.SecurityGroups {
			if g, ok := store.Lookup(c.view, tables.SecurityGroups, id); ok && !seen[id] {
				seen[id] = true
				groups = append(groups, g)
			}
		}
	}
	slices.SortFunc(groups, func(a, b *cloud.SecurityGroup) int { return strings.Compare(a.Name, b.Name) })
	out := make([]object, len(groups))
	for i, g := range groups {
		out[i] = c.securityGroupView(g)
	}
	return c.ok(object{"security_groups": out})
}

func (c *call) securityGroupView(g *cloud.SecurityGroup) object {
	rules := []object{}
	for _, r := range g.Rules {
		if r.Direction == "ingress" {
			rules = append(rules, c.ruleView(g, r))
		}
	}
	return object{"id": g.ID, "name": g.Name, "description": g.Description, "tenant_id": g.Project, "rules": rules}
}

func (c *call) ruleView(g *cloud.SecurityGroup, r cloud.SecurityGroupRule) object {
	out := object{
		"id": r.ID, "parent_group_id": g.ID, "ip_protocol": textOrNull(strings.ToLower(r.Protocol)), "from_port": r.PortMin, "to_port": r.PortMax,
		"group": object{}, "ip_range": object{},
	}
	if r.RemoteGroup != "" {
		if remote, ok := store.Lookup(c.view, tables.SecurityGroups, r.RemoteGroup); ok {
			out["group"] = object{"name": remote.Name, "tenant_id": remote.Project}
		}
		return out
	}
	cidr := r.RemoteCIDR
	if cidr == "" {
		cidr = pick(r.EtherType == "IPv6", "::/0", "0.0.0.0/0")
	}
	out["ip_range"] = object{"cidr": cidr}
	return out
}

// groupActionBody is the body of addSecurityGroup and removeSecurityGroup.
type groupActionBody struct {
	Add    *groupAction `json:"addSecurityGroup"`
	Remove *groupAction `json:"removeSecurityGroup"`
}

type groupAction struct {
	Name *string `json:"name"`
}

func readGroupAction(o *openstack.Object, version openstack.Microversion) (string, error) {
	var body groupActionBody
	if err := openstack.Bind(o, &body, version); err != nil {
		return "", err
	}
	asked := body.Add
	if asked == nil {
		asked = body.Remove
	}
	switch {
	case asked == nil || asked.Name == nil:
		return "", invalid("Security group not specified")
	case strings.TrimSpace(*asked.Name) == "":
		return "", invalid("Security group name cannot be empty")
	}
	return *asked.Name, nil
}

func (c *call) addSecurityGroup(s *cloud.Server, o *openstack.Object) error {
	return c.changeGroups(s, o, func(p *cloud.Port, id cloud.SecurityGroupID) bool {
		if slices.Contains(p.SecurityGroups, id) {
			return true
		}
		p.SecurityGroups = append(slices.Clone(p.SecurityGroups), id)
		return true
	})
}

func (c *call) removeSecurityGroup(s *cloud.Server, o *openstack.Object) error {
	return c.changeGroups(s, o, func(p *cloud.Port, id cloud.SecurityGroupID) bool {
		had := slices.Contains(p.SecurityGroups, id)
		p.SecurityGroups = slices.DeleteFunc(slices.Clone(p.SecurityGroups), func(g cloud.SecurityGroupID) bool { return g == id })
		return had
	})
}

// changeGroups changes the security groups of all ports of a server to which groups can apply. change reports whether it concerned the port.
func (c *call) changeGroups(found *cloud.Server, o *openstack.Object, change func(*cloud.Port, cloud.SecurityGroupID) bool) error {
	name, err := readGroupAction(o, c.r.Version)
	if err != nil {
		return err
	}
	id, err := c.findSecurityGroup(found.Project, name)
	if err != nil {
		return err
	}
	now := c.now()
	err = c.changeServer(found.ID, func(tx *store.Tx, s *cloud.Server) error {
		if g, err := store.Peek(tx, tables.SecurityGroups, id); err != nil || g == nil {
			if err == nil {
				err = notFound("Security group %s not found.", name)
			}
			return err
		}
		concerned := false
		for _, port := range s.Ports {
			p, err := store.Get(tx, tables.Ports, port)
			if err != nil {
				return err
			}
			if !p.PortSecurity || len(p.FixedIPs) == 0 || !change(&p, id) {
				continue
			}
			concerned = true
			p.Updated = now
			p.Revision++
			if err := store.Put(tx, tables.Ports, port, p); err != nil {
				return err
			}
		}
		if !concerned {
			return notFound("Security group %s not associated with the instance %s", name, s.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}
