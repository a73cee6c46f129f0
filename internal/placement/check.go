package placement

import (
	"fmt"
	"slices"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Check returns every reason why host must not take the server; none means that it may. Reasons are sentences with the figures, in a fixed
// order, without the host's name.
func Check(p Policy, snap *cloud.Snapshot, host cloud.HostView, req Request) []string {
	return newChecker(p, snap, req).check(&host)
}

// Recheck is the part of Check that other transactions can change between a snapshot and a commit: the host's state, its claims, and the
// group. group must be non-nil exactly when req.Group is set. The host's report may be older than the other records.
func Recheck(p Policy, host cloud.HostView, group *cloud.ServerGroup, req Request) []string {
	c := &checker{policy: p, req: &req, group: newGroupRule(group, req)}
	reasons := c.reserve(&host, c.state(&host, nil))
	reasons = c.room(&host, reasons)
	return c.group.refuse(host.Host.Name, reasons)
}

// A checker is a request prepared for many hosts: what depends on the request alone is worked out once.
type checker struct {
	policy     Policy
	req        *Request
	source     *cloud.HostView // nil when the request has none or it is not in the snapshot
	group      groupRule
	aggregates aggregateRule
}

func newChecker(p Policy, snap *cloud.Snapshot, req Request) *checker {
	c := &checker{policy: p, req: &req, aggregates: newAggregateRule(snap.Aggregates, req.ExtraSpecs)}
	var group *cloud.ServerGroup
	if g, ok := snap.Groups[req.Group]; ok && req.Group != "" {
		group = &g
	}
	c.group = newGroupRule(group, req)
	if req.SourceHost != "" {
		for i := range snap.Hosts {
			if snap.Hosts[i].Host.Name == req.SourceHost {
				c.source = &snap.Hosts[i]
			}
		}
	}
	return c
}

func (c *checker) check(h *cloud.HostView) []string {
	reasons := c.asked(h, nil)
	reasons = c.state(h, reasons)
	reasons = c.reserve(h, reasons)
	reasons = c.abilities(h, reasons)
	if c.req.Purpose == PurposeMigrate {
		reasons = c.compatible(h, reasons)
	}
	reasons = c.room(h, reasons)
	reasons = c.aggregates.refuse(h.Host.Name, reasons)
	return c.group.refuse(h.Host.Name, reasons)
}

// asked appends what the request itself rules out.
func (c *checker) asked(h *cloud.HostView, reasons []string) []string {
	if c.req.ForcedHost != "" && h.Host.Name != c.req.ForcedHost {
		reasons = append(reasons, fmt.Sprintf("request: host %s was asked for", c.req.ForcedHost))
	}
	if slices.Contains(c.req.Exclude, h.Host.Name) {
		reasons = append(reasons, "request: the host is excluded, usually because it failed this server before")
	}
	if c.req.Zone != "" && h.Zone != c.req.Zone {
		reasons = append(reasons, fmt.Sprintf("zone: needs %s, host is in %s", c.req.Zone, h.Zone))
	}
	return reasons
}

// state appends what the host's own state rules out.
func (c *checker) state(h *cloud.HostView, reasons []string) []string {
	switch {
	case h.Host.ForcedDown:
		reasons = append(reasons, "state: an operator declared the host down")
	case !h.Up:
		reasons = append(reasons, "state: the host is down, its agent is not connected")
	}
	if h.Host.Disabled {
		why := "no reason given"
		if h.Host.DisabledReason != "" {
			why = h.Host.DisabledReason
		}
		reasons = append(reasons, fmt.Sprintf("state: the host is disabled (%s)", why))
	}
	if h.Report.Generation == 0 && h.Report.VCPUs == 0 {
		reasons = append(reasons, "state: the host has never reported what it has")
	}
	return reasons
}

// abilities appends what the host cannot give to any guest of this kind.
func (c *checker) abilities(h *cloud.HostView, reasons []string) []string {
	r := &h.Report
	if c.req.Arch != "" && r.Arch != "" && c.req.Arch != r.Arch {
		reasons = append(reasons, fmt.Sprintf("architecture: needs %s, host is %s", c.req.Arch, r.Arch))
	}
	if c.req.Virtualization != "" && c.req.Virtualization != r.Virtualization {
		reasons = append(reasons, fmt.Sprintf("virtualization: needs %s, host gives %s", c.req.Virtualization, orNone(r.Virtualization)))
	}
	if c.req.CPUModel != "" && !slices.Contains(r.CPUModels, c.req.CPUModel) {
		reasons = append(reasons, fmt.Sprintf("cpu model: needs %s, host offers %d other models", c.req.CPUModel, len(r.CPUModels)))
	}
	return reasons
}

// room appends the resources that are short. The server's own claim on the host does not count against it: asking again is no new demand.
func (c *checker) room(h *cloud.HostView, reasons []string) []string {
	capacity, free := c.free(h)
	need := c.req.Resources
	short := func(what, unit string, need, free, capacity int, ratio float64) {
		if need > max(0, free) {
			reasons = append(reasons, fmt.Sprintf("%s: needs %d%s, %d%s free of %d%s (ratio %.1f)", what, need, unit, free, unit, capacity, unit, ratio))
		}
	}
	short("vcpus", "", need.VCPUs, free.VCPUs, capacity.VCPUs, c.policy.CPURatio)
	short("memory", " MiB", need.RAMMiB, free.RAMMiB, capacity.RAMMiB, c.policy.RAMRatio)
	short("disk", " GiB", need.DiskGiB, free.DiskGiB, capacity.DiskGiB, c.policy.DiskRatio)
	return reasons
}

// free returns what may be promised on the host in all, and what of it is not yet promised to others. Free may be negative after an
// operator lowered a ratio or a host lost memory.
func (c *checker) free(h *cloud.HostView) (capacity, free cloud.Resources) {
	capacity = c.policy.Capacity(h.Report)
	taken := h.Usage.Total()
	if own, ok := h.Usage.Claims[cloud.ClaimKey(c.req.Server)]; ok {
		taken = minus(taken, own.Resources)
	}
	return capacity, minus(capacity, taken)
}

func minus(a, b cloud.Resources) cloud.Resources {
	return cloud.Resources{VCPUs: a.VCPUs - b.VCPUs, RAMMiB: a.RAMMiB - b.RAMMiB, DiskGiB: a.DiskGiB - b.DiskGiB}
}

// movesTowards counts the unfinished migrations of other servers whose target is the host.
func movesTowards(u cloud.Usage, except cloud.ServerID) int {
	n := 0
	for _, claim := range u.Claims {
		if claim.Migration != "" && claim.Server != except {
			n++
		}
	}
	return n
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
