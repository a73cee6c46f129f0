package placement

import (
	"fmt"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// groupRule is a server group as one member sees it: where the others are.
type groupRule struct {
	policy     cloud.GroupPolicy
	missing    cloud.GroupID // asked for and not found
	name       string
	maxPerHost int
	others     map[cloud.HostName]int // other members holding a claim, by host
	members    int                    // other members that are placed
	moving     int                    // of those, how many hold claims on several hosts
}

func newGroupRule(g *cloud.ServerGroup, req Request) groupRule {
	if req.Group == "" {
		return groupRule{}
	}
	if g == nil {
		return groupRule{missing: req.Group}
	}
	rule := groupRule{policy: g.Policy, name: g.Name, maxPerHost: max(1, g.MaxPerHost), others: map[cloud.HostName]int{}}
	for member, hosts := range g.Placed {
		hosts = req.living(hosts)
		if member == req.Server || len(hosts) == 0 {
			continue
		}
		rule.members++
		if len(hosts) > 1 {
			rule.moving++
		}
		for _, h := range hosts {
			rule.others[h]++
		}
	}
	return rule
}

// refuse appends why the group's hard policy forbids the host.
func (g *groupRule) refuse(h cloud.HostName, reasons []string) []string {
	if g.missing != "" {
		return append(reasons, fmt.Sprintf("group: server group %s does not exist", g.missing))
	}
	switch g.policy {
	case cloud.PolicyAffinity:
		switch here := g.others[h]; {
		case g.moving > 0:
			reasons = append(reasons, fmt.Sprintf("group: %d members of affinity group %q are moving, and where the group will be is open until they have arrived", g.moving, g.name))
		case here < g.members:
			reasons = append(reasons, fmt.Sprintf("group: %d of %d members of affinity group %q are on another host", g.members-here, g.members, g.name))
		}
	case cloud.PolicyAntiAffinity:
		if here := g.others[h]; here >= g.maxPerHost {
			reasons = append(reasons, fmt.Sprintf("group: %d members of anti-affinity group %q are on this host, at most %d", here, g.name, g.maxPerHost))
		}
	case cloud.PolicySoftAffinity, cloud.PolicySoftAntiAffinity: // ranked, never refused
	}
	return reasons
}

// score returns how well the host suits the group's soft policy, 0 to 1; without one, 0 for every host.
func (g *groupRule) score(h cloud.HostName) float64 {
	if g.members == 0 {
		return 0
	}
	share := float64(g.others[h]) / float64(g.members)
	switch g.policy {
	case cloud.PolicySoftAffinity:
		return share
	case cloud.PolicySoftAntiAffinity:
		return 1 - share
	case cloud.PolicyAffinity, cloud.PolicyAntiAffinity:
	}
	return 0
}

// living returns the hosts without the source when that is dead.
func (r *Request) living(hosts []cloud.HostName) []cloud.HostName {
	if !r.SourceDead || !slices.Contains(hosts, r.SourceHost) {
		return hosts
	}
	return slices.DeleteFunc(slices.Clone(hosts), func(h cloud.HostName) bool { return h == r.SourceHost })
}
