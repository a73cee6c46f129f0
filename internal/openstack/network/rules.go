package network

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/netspec"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var ruleRoutes = []route{
	{"GET /security-group-rules", openstack.RoleReader, (*call).listRules},
	{"POST /security-group-rules", openstack.RoleMember, (*call).createRule},
	{"GET /security-group-rules/{id}", openstack.RoleReader, (*call).showRule},
	{"DELETE /security-group-rules/{id}", openstack.RoleMember, (*call).deleteRule},
}

var ruleList = &listing{plural: "security_group_rules", path: "security-group-rules", attributes: []string{
	"id", "description", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id", "remote_address_group_id",
	"security_group_id", "project_id", "tenant_id", "revision_number", "created_at", "updated_at",
}}

// rulesPerGroupMax bounds a group, whose rules are one record that every port in it is resolved from.
const rulesPerGroupMax = 500

// protocol is a name, a number as text or as a number, or null for any.
type protocol struct{ Text string }

// BindJSON takes a string, an integer or null.
func (p *protocol) BindJSON(v any) error {
	switch v := v.(type) {
	case nil:
	case string:
		p.Text = strings.ToLower(v)
	case json.Number:
		p.Text = v.String()
	default:
		return openstack.Mismatch(v, "string", "integer", "null")
	}
	if p.Text == "any" {
		p.Text = ""
	}
	return nil
}

type ruleInput struct {
	Group        cloud.SecurityGroupID `json:"security_group_id" api:"required"`
	Direction    string                `json:"direction" api:"required"`
	EtherType    *string               `json:"ethertype" api:"null"`
	Protocol     protocol              `json:"protocol"`
	PortMin      *int                  `json:"port_range_min" api:"null;loose"`
	PortMax      *int                  `json:"port_range_max" api:"null;loose"`
	RemoteCIDR   *string               `json:"remote_ip_prefix" api:"null"`
	RemoteGroup  *string               `json:"remote_group_id" api:"null"`
	AddressGroup absent                `json:"remote_address_group_id"`
	Description  *string               `json:"description" api:"null;len=..255"`
	Project      *cloud.ProjectID      `json:"project_id" api:"null"`
	Tenant       *cloud.ProjectID      `json:"tenant_id" api:"null"`
}

func ruleView(g *cloud.SecurityGroup, r *cloud.SecurityGroupRule) object {
	out := object{
		"id": r.ID, "security_group_id": g.ID, "project_id": g.Project, "tenant_id": g.Project, "description": r.Description, "direction": r.Direction,
		"ethertype": r.EtherType, "protocol": nilIfEmpty(r.Protocol), "port_range_min": nil, "port_range_max": nil,
		"remote_ip_prefix": nilIfEmpty(r.RemoteCIDR), "normalized_cidr": nilIfEmpty(r.RemoteCIDR), "remote_group_id": nilIfEmpty(r.RemoteGroup),
		"remote_address_group_id": nil, "revision_number": 0, "tags": []string{},
		"created_at": openstack.TimeSeconds(r.Created), "updated_at": openstack.TimeSeconds(r.Created),
	}
	if r.PortMin != nil {
		out["port_range_min"] = *r.PortMin
	}
	if r.PortMax != nil {
		out["port_range_max"] = *r.PortMax
	}
	return out
}

func (c *call) listRules() error {
	if err := c.ensureDefaultGroup(); err != nil {
		return err
	}
	var views []object
	for _, g := range store.All(c.view, tables.SecurityGroups) {
		if !c.r.Caller.Sees(g.Project) {
			continue
		}
		for i := range g.Rules {
			views = append(views, ruleView(g, &g.Rules[i]))
		}
	}
	return c.list(ruleList, views)
}

// rule finds a rule the caller may see by its id. Rules have no records of their own, so the groups are walked; there are few.
func (c *call) rule(id string) (*cloud.SecurityGroup, *cloud.SecurityGroupRule, error) {
	for _, g := range store.All(c.view, tables.SecurityGroups) {
		if !c.r.Caller.Sees(g.Project) {
			continue
		}
		for i := range g.Rules {
			if g.Rules[i].ID == id {
				return g, &g.Rules[i], nil
			}
		}
	}
	return nil, nil, ruleNotFound(id)
}

func ruleNotFound(id string) error {
	return ipam.Refuse(cloud.KindNotFound, "SecurityGroupRuleNotFound", "Security group rule %s does not exist", id)
}

func (c *call) showRule() error {
	g, r, err := c.rule(c.id())
	if err != nil {
		return err
	}
	return c.show("security_group_rule", ruleView(g, r))
}

func (c *call) createRule() error {
	var body struct {
		Rule ruleInput `json:"security_group_rule" api:"required"`
	}
	if err := c.r.Decode(c.w, &body); err != nil {
		return err
	}
	in := &body.Rule
	if in.Project != nil || in.Tenant != nil {
		if _, err := c.owner(in.Project, in.Tenant, "create_security_group_rule"); err != nil {
			return err
		}
	}
	rule, err := parseRule(in)
	if err != nil {
		return err
	}
	rule.ID, rule.Created = uuid.NewString(), c.now()
	var group cloud.SecurityGroup
	err = c.update(func(tx *store.Tx) error {
		if group, err = c.ownGroup(tx, in.Group); err != nil {
			return err
		}
		return c.addRule(tx, &group, rule)
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, "security_group_rule", ruleView(&group, &rule))
}

func (c *call) addRule(tx *store.Tx, g *cloud.SecurityGroup, rule cloud.SecurityGroupRule) error {
	if len(g.Rules) >= rulesPerGroupMax {
		return ipam.Refuse(cloud.KindQuota, "OverQuota", "Quota exceeded for resources: a security group has at most %d rules.", rulesPerGroupMax)
	}
	if rule.RemoteGroup != "" {
		if _, err := c.ownGroup(tx, rule.RemoteGroup); err != nil {
			return err
		}
	}
	for i := range g.Rules {
		if sameRule(&g.Rules[i], &rule) {
			return ipam.Refuse(cloud.KindConflict, "SecurityGroupRuleExists", "Security group rule already exists. Rule id is %s.", g.Rules[i].ID)
		}
	}
	g.Rules = append(slices.Clone(g.Rules), rule)
	return c.putGroup(tx, g)
}

// sameRule reports whether two rules allow the same traffic.
func sameRule(a, b *cloud.SecurityGroupRule) bool {
	same := func(x, y *int) bool { return x == y || x != nil && y != nil && *x == *y }
	return a.Direction == b.Direction && a.EtherType == b.EtherType && netspec.Protocol(a.Protocol) == netspec.Protocol(b.Protocol) &&
		same(a.PortMin, b.PortMin) && same(a.PortMax, b.PortMax) && a.RemoteCIDR == b.RemoteCIDR && a.RemoteGroup == b.RemoteGroup
}

func (c *call) deleteRule() error {
	found, _, err := c.rule(c.id())
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		g, err := c.ownGroup(tx, found.ID)
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(slices.Clone(g.Rules), func(r cloud.SecurityGroupRule) bool { return r.ID == c.id() })
		if len(kept) == len(g.Rules) {
			return ruleNotFound(c.id())
		}
		g.Rules = kept
		return c.putGroup(tx, &g)
	})
	if err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

// parseRule validates a rule by itself.
func parseRule(in *ruleInput) (cloud.SecurityGroupRule, error) {
	r := cloud.SecurityGroupRule{Direction: strings.ToLower(in.Direction), EtherType: "IPv4", Protocol: in.Protocol.Text, PortMin: in.PortMin, PortMax: in.PortMax}
	set(&r.Description, in.Description)
	if r.Direction != "ingress" && r.Direction != "egress" {
		return r, invalid("direction '%s' is not one of ingress, egress", in.Direction)
	}
	if in.EtherType != nil {
		known := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[strings.ToLower(*in.EtherType)]
		if known == "" {
			return r, ipam.Refuse(cloud.KindInvalid, "SecurityGroupRuleInvalidEtherType",
				"Security group rule for ethertype '%s' not supported. Allowed values are ['IPv4', 'IPv6'].", *in.EtherType)
		}
		r.EtherType = known
	}
	if !netspec.KnownProtocol(r.Protocol) {
		return r, ipam.Refuse(cloud.KindInvalid, "SecurityGroupRuleInvalidProtocol",
			"Security group rule protocol %s not supported. Only protocol names and integer representations [0 to 255] are supported.", r.Protocol)
	}
	if err := checkPorts(&r); err != nil {
		return r, err
	}
	return r, parseRemote(&r, in)
}

// checkPorts validates the port range, which for ICMP is a type and a code.
func checkPorts(r *cloud.SecurityGroupRule) error {
	if r.PortMin == nil && r.PortMax == nil {
		return nil
	}
	switch netspec.Protocol(r.Protocol) {
	case "":
		return ipam.Refuse(cloud.KindInvalid, "SecurityGroupProtocolRequiredWithPorts", "Must also specify protocol if port range is given.")
	case "icmp", "58":
		for _, part := range []struct {
			name  string
			value *int
		}{{"type", r.PortMin}, {"code", r.PortMax}} {
			if part.value != nil && (*part.value < 0 || *part.value > 255) {
				return ipam.Refuse(cloud.KindInvalid, "SecurityGroupInvalidIcmpValue", "Invalid value for ICMP %s (%s). It must be 0 to 255.", part.name, strconv.Itoa(*part.value))
			}
		}
		if r.PortMin == nil {
			return ipam.Refuse(cloud.KindInvalid, "SecurityGroupMissingIcmpType", "ICMP code (port-range-max) %d is provided but ICMP type (port-range-min) is missing.", *r.PortMax)
		}
	case "tcp", "udp", "33", "132", "136": // those with ports: dccp, sctp and udplite besides
		if r.PortMin == nil || r.PortMax == nil || *r.PortMin > *r.PortMax || *r.PortMin < 1 || *r.PortMax > 65535 {
			return ipam.Refuse(cloud.KindInvalid, "SecurityGroupInvalidPortRange", "For TCP/UDP protocols, port_range_min must be <= port_range_max, and both from 1 to 65535.")
		}
	default:
		return ipam.Refuse(cloud.KindInvalid, "SecurityGroupInvalidProtocolForPortRange", "Invalid protocol %s for port range, only supported for TCP, UDP, UDPLITE, SCTP and DCCP.", r.Protocol)
	}
	return nil
}

func parseRemote(r *cloud.SecurityGroupRule, in *ruleInput) error {
	if in.RemoteGroup != nil {
		r.RemoteGroup = cloud.SecurityGroupID(*in.RemoteGroup)
	}
	if in.RemoteCIDR == nil || *in.RemoteCIDR == "" {
		return nil
	}
	if r.RemoteGroup != "" {
		return ipam.Refuse(cloud.KindInvalid, "SecurityGroupRemoteGroupAndRemoteIpPrefix", "Only remote_ip_prefix or remote_group_id may be provided.")
	}
	block, err := netspec.ParsePair(*in.RemoteCIDR)
	if err != nil {
		return invalid("%v", err)
	}
	if block.Addr().Is4() != (r.EtherType == "IPv4") {
		return ipam.Refuse(cloud.KindInvalid, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype %s for CIDR %s", r.EtherType, *in.RemoteCIDR)
	}
	r.RemoteCIDR = block.String()
	return nil
}
