package compute

import (
	"cmp"
	"slices"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var usageRoutes = []route{
	{pattern: "GET /os-simple-tenant-usage", query: usageQuery, handle: (*call).listUsage},
	{pattern: "GET /os-simple-tenant-usage/{id}", query: usageQuery, handle: (*call).showUsage},
}

var usageQuery = querySchema{strict: 75, parameters: append(paging(40, false), plain("start", "end", "detailed")...)}

// A period is the time a usage report covers.
type period struct{ start, stop time.Time }

// usagePeriod reads start and end; both default to now, which makes an empty start an error, as in Nova.
func (c *call) usagePeriod() (period, error) {
	now := c.now().UTC()
	p := period{now, now}
	for name, into := range map[string]*time.Time{"start": &p.start, "end": &p.stop} {
		if text := c.query.get(name); text != "" {
			t, ok := parseTime(text)
			if !ok {
				return p, invalid("Invalid datetime string: Datetime is in invalid format")
			}
			*into = t
		}
	}
	if !p.start.Before(p.stop) {
		return p, invalid("Invalid start time. The start time cannot occur after the end time.")
	}
	if p.stop.After(now) {
		p.stop = now
	}
	return p, nil
}

// hours returns how long the server existed within the period.
func (p period) hours(s *cloud.Server) float64 {
	start, stop := s.Launched, p.stop
	if start.IsZero() {
		return 0
	}
	if start.Before(p.start) {
		start = p.start
	}
	if !s.Terminated.IsZero() && s.Terminated.Before(stop) {
		stop = s.Terminated
	}
	return max(0, stop.Sub(start).Hours())
}

// active reports whether the server was there in the period.
func (p period) active(s *cloud.Server) bool {
	return !s.Launched.IsZero() && !s.Launched.After(p.stop) && (s.Terminated.IsZero() || !s.Terminated.Before(p.start))
}

// usedServers returns the servers of a project (empty: of all) that were there in the period, dead ones included, by id.
func (c *call) usedServers(p period, project cloud.ProjectID) []*cloud.Server {
	var out []*cloud.Server
	for _, t := range []store.Table[cloud.Server]{tables.Servers, tables.Graves} {
		for _, s := range store.All(c.view, t) {
			if p.active(s) && (project == "" || s.Project == project) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b *cloud.Server) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// tenantUsage sums the usage of one project.
type tenantUsage struct {
	hours, gigabytes, vcpus, megabytes float64
	servers                            []object
}

func (u *tenantUsage) add(p period, s *cloud.Server, now time.Time) {
	hours := p.hours(s)
	disk := s.Flavor.RootGiB + s.Flavor.EphemeralGiB
	u.hours += hours
	u.gigabytes += float64(disk) * hours
	u.vcpus += float64(s.Flavor.VCPUs) * hours
	u.megabytes += float64(s.Flavor.RAMMiB) * hours
	state, until := string(s.VMState), now
	if !s.Terminated.IsZero() {
		state, until = "terminated", s.Terminated
	}
	u.servers = append(u.servers, object{
		"instance_id": s.ID, "name": s.Name, "tenant_id": s.Project, "flavor": s.Flavor.Name, "hours": hours, "vcpus": s.Flavor.VCPUs,
		"memory_mb": s.Flavor.RAMMiB, "local_gb": disk, "started_at": openstack.TimeMicros(s.Launched),
		"ended_at": openstack.OptionalTime(s.Terminated, openstack.TimeMicros), "state": state, "uptime": int(until.Sub(s.Launched).Seconds()),
	})
}

func (u *tenantUsage) view(p period, project cloud.ProjectID, detailed bool) object {
	out := object{
		"tenant_id": project, "total_hours": u.hours, "total_local_gb_usage": u.gigabytes, "total_vcpus_usage": u.vcpus,
		"total_memory_mb_usage": u.megabytes, "start": openstack.TimeMicros(p.start), "stop": openstack.TimeMicros(p.stop),
	}
	if detailed {
		out["server_usages"] = u.servers
	}
	return out
}

// usagePage returns one page of servers with their sums by project.
func (c *call) usagePage(p period, project cloud.ProjectID) (map[cloud.ProjectID]*tenantUsage, []*cloud.Server, bool, error) {
	page, err := c.page()
	if err != nil {
		return nil, nil, false, err
	}
	if !c.since(40) {
		page.Marker = ""
	}
	some, more, err := openstack.Slice(c.usedServers(p, project), page, func(s *cloud.Server) string { return string(s.ID) })
	if err != nil {
		return nil, nil, false, invalid("Marker %s could not be found.", page.Marker)
	}
	sums, now := map[cloud.ProjectID]*tenantUsage{}, c.now()
	for _, s := range some {
		if sums[s.Project] == nil {
			sums[s.Project] = &tenantUsage{}
		}
		sums[s.Project].add(p, s, now)
	}
	return sums, some, more && c.since(40), nil
}

func (c *call) listUsage() error {
	if err := c.mayAdmin("os-simple-tenant-usage:list"); err != nil {
		return err
	}
	p, err := c.usagePeriod()
	if err != nil {
		return err
	}
	sums, some, more, err := c.usagePage(p, "")
	if err != nil {
		return err
	}
	views := []object{}
	for _, project := range sortedKeys(sums) {
		views = append(views, sums[project].view(p, project, c.query.get("detailed") == "1"))
	}
	out := object{"tenant_usages": views}
	if more {
		out["tenant_usages_links"] = c.nextLinks("/os-simple-tenant-usage", string(some[len(some)-1].ID))
	}
	return c.ok(out)
}

func (c *call) showUsage() error {
	project := cloud.ProjectID(c.path("id"))
	if !c.r.Caller.Sees(project) {
		return openstack.Forbid("os_compute_api:os-simple-tenant-usage:show")
	}
	p, err := c.usagePeriod()
	if err != nil {
		return err
	}
	sums, some, more, err := c.usagePage(p, project)
	if err != nil {
		return err
	}
	usage := object{}
	if sum := sums[project]; sum != nil {
		usage = sum.view(p, project, true)
	}
	out := object{"tenant_usage": usage}
	if more {
		out["tenant_usage_links"] = c.nextLinks("/os-simple-tenant-usage/"+string(project), string(some[len(some)-1].ID))
	}
	return c.ok(out)
}
