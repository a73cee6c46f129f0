package compute

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var hypervisorRoutes = []route{
	{pattern: "GET /os-hypervisors", query: hypervisorQuery, handle: func(c *call) error { return c.listHypervisors(false) }},
	{pattern: "GET /os-hypervisors/detail", query: hypervisorQuery, handle: func(c *call) error { return c.listHypervisors(true) }},
	{pattern: "GET /os-hypervisors/statistics", to: 87, handle: (*call).hypervisorStatistics},
	{pattern: "GET /os-hypervisors/{id}", query: hypervisorShowQuery, handle: (*call).showHypervisor},
	{pattern: "GET /os-hypervisors/{id}/uptime", to: 87, handle: (*call).hypervisorUptime},
	{pattern: "GET /os-hypervisors/{id}/search", to: 52, handle: func(c *call) error { return c.matchHypervisors(false) }},
	{pattern: "GET /os-hypervisors/{id}/servers", to: 52, handle: func(c *call) error { return c.matchHypervisors(true) }},
}

var hypervisorQuery = querySchema{strict: 53, parameters: slices.Concat(paging(33, true), []parameter{
	{name: "hypervisor_hostname_pattern", since: 53, once: true, check: checkHostName},
	{name: "with_servers", since: 53, once: true, check: checkBoolean},
})}

var hypervisorShowQuery = querySchema{strict: 53, parameters: []parameter{{name: "with_servers", since: 53, once: true, check: checkBoolean}}}

// hosts returns all hosts in the order of their numbers, which is the order of their first contact.
func (c *call) hosts() []*cloud.Host {
	out := store.All(c.view, tables.Hosts)
	slices.SortFunc(out, func(a, b *cloud.Host) int { return a.Number - b.Number })
	return out
}

// hypervisorID returns the identifier of the microversion: a UUID from 2.53 on, a number before.
func (c *call) hypervisorID(h *cloud.Host) any {
	if c.since(53) {
		return h.ID
	}
	return h.Number
}

// hypervisorParts says what a view of a hypervisor has besides its name and state.
type hypervisorParts struct {
	detail  bool
	servers bool
}

func (c *call) hypervisorView(hosts *fleet, h *cloud.Host, p hypervisorParts) object {
	out := object{
		"id": c.hypervisorID(h), "hypervisor_hostname": h.Name,
		"state": pick(hosts.up(h), "up", "down"), "status": pick(h.Disabled, "disabled", "enabled"),
	}
	if p.detail {
		c.hypervisorDetail(out, h, hosts.up(h))
	}
	if p.servers {
		if servers := c.serversOn(h.Name); len(servers) > 0 || c.since(75) {
			out["servers"] = servers
		}
	}
	return out
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func (c *call) report(name cloud.HostName) *cloud.HostReport {
	if r, ok := store.Lookup(c.view, tables.HostReports, name); ok {
		return r
	}
	return &cloud.HostReport{Host: name}
}

func (c *call) hypervisorDetail(out object, h *cloud.Host, up bool) {
	r := c.report(h.Name)
	out["hypervisor_type"], out["hypervisor_version"], out["host_ip"] = r.Hypervisor, versionNumber(r.QEMUVersion), textOrNull(r.MigrationAddress)
	service := object{"id": any(h.Number), "host": h.Name, "disabled_reason": textOrNull(h.DisabledReason)}
	if c.since(53) {
		service["id"] = h.ServiceID
	}
	out["service"] = service
	if c.since(88) {
		out["uptime"] = nil
		if up {
			out["uptime"] = textOrNull(uptime(r))
		}
		return
	}
	for name, value := range c.hypervisorFigures(h, r) {
		out[name] = value
	}
	switch {
	case !c.since(28):
		out["cpu_info"] = r.CPUInfo
	case json.Valid([]byte(r.CPUInfo)):
		out["cpu_info"] = json.RawMessage(r.CPUInfo)
	default:
		out["cpu_info"] = object{}
	}
}

// figureNames are the figures a hypervisor shows until 2.87.
var figureNames = []string{
	"vcpus", "memory_mb", "local_gb", "vcpus_used", "memory_mb_used", "local_gb_used", "free_ram_mb", "free_disk_gb", "current_workload",
	"running_vms", "disk_available_least",
}

// hypervisorFigures are what the host has and what is promised of it. Memory kept for the host counts as used, as in Nova.
func (c *call) hypervisorFigures(h *cloud.Host, r *cloud.HostReport) map[string]int {
	used := cloud.Resources{}
	if u, ok := store.Lookup(c.view, tables.Usages, h.Name); ok {
		used = u.Total()
	}
	workload := 0
	for _, s := range store.By(c.view, tables.Servers, tables.ByHost, h.Name) {
		if s.Task != cloud.TaskNone {
			workload++
		}
	}
	ramUsed := used.RAMMiB + c.policy.ReservedRAMMiB
	return map[string]int{
		"vcpus": r.VCPUs, "memory_mb": r.RAMMiB, "local_gb": r.DiskGiB,
		"vcpus_used": used.VCPUs, "memory_mb_used": ramUsed, "local_gb_used": used.DiskGiB,
		"free_ram_mb": r.RAMMiB - ramUsed, "free_disk_gb": r.DiskGiB - used.DiskGiB,
		"current_workload": workload, "running_vms": r.Running, "disk_available_least": r.DiskFreeGiB,
	}
}

// versionNumber makes Nova's integer of a version: 7.2.0 is 7002000.
func versionNumber(version string) int {
	out := 0
	fields := strings.SplitN(version, ".", 4)
	for i := range 3 {
		n := 0
		if i < len(fields) {
			n, _ = strconv.Atoi(fields[i]) // not a number counts as 0
		}
		out = out*1000 + n
	}
	return out
}

// uptime is what the command uptime would say on the host; empty when the host never reported.
func uptime(r *cloud.HostReport) string {
	if r.At.IsZero() {
		return ""
	}
	up := time.Duration(r.UptimeSeconds) * time.Second
	hours := int(up.Hours())
	return fmt.Sprintf(" %s up %d days, %2d:%02d,  0 users,  load average: %.2f, %.2f, %.2f\n",
		r.At.UTC().Format("15:04:05"), hours/24, hours%24, int(up.Minutes())%60, r.Load[0], r.Load[1], r.Load[2])
}

// serversOn lists the servers on a host as hypervisors show them.
func (c *call) serversOn(host cloud.HostName) []object {
	out := []object{}
	for _, s := range store.By(c.view, tables.Servers, tables.ByHost, host) {
		out = append(out, object{"name": instanceName(s), "uuid": s.ID})
	}
	return out
}

func (c *call) listHypervisors(detail bool) error {
	if err := c.mayAdmin("os-hypervisors:" + pick(detail, "list-detail", "list")); err != nil {
		return err
	}
	page, err := c.page()
	if err != nil {
		return err
	}
	pattern := c.query.get("hypervisor_hostname_pattern")
	withServers, _ := queryBoolean(c.query.get("with_servers"))
	some, more := c.hosts(), false
	switch {
	case pattern != "" && (c.query.has("limit") || c.query.has("marker")):
		return invalid("Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.")
	case pattern != "":
		if some, err = c.hostsMatching(pattern); err != nil {
			return err
		}
	case c.since(33):
		if some, more, err = openstack.Slice(some, page, func(h *cloud.Host) string { return fmt.Sprint(c.hypervisorID(h)) }); err != nil {
			return err
		}
	}
	hosts := &fleet{view: c.view}
	views := make([]object, len(some))
	for i, h := range some {
		views[i] = c.hypervisorView(hosts, h, hypervisorParts{detail: detail, servers: withServers})
	}
	out := object{"hypervisors": views}
	if more {
		out["hypervisors_links"] = c.nextLinks(pick(detail, "/os-hypervisors/detail", "/os-hypervisors"), fmt.Sprint(c.hypervisorID(some[len(some)-1])))
	}
	return c.ok(out)
}

// hostsMatching returns the hosts whose names contain the pattern.
func (c *call) hostsMatching(pattern string) ([]*cloud.Host, error) {
	found := slices.DeleteFunc(c.hosts(), func(h *cloud.Host) bool { return !strings.Contains(string(h.Name), pattern) })
	if len(found) == 0 {
		return nil, notFound("No hypervisor matching '%s' could be found.", pattern)
	}
	return found, nil
}

// matchHypervisors answers the two sub-resources that take a pattern for an id.
func (c *call) matchHypervisors(servers bool) error {
	if err := c.mayAdmin("os-hypervisors:" + pick(servers, "servers", "search")); err != nil {
		return err
	}
	found, err := c.hostsMatching(c.path("id"))
	if err != nil {
		return err
	}
	hosts := &fleet{view: c.view}
	views := make([]object, len(found))
	for i, h := range found {
		views[i] = c.hypervisorView(hosts, h, hypervisorParts{servers: servers})
	}
	return c.ok(object{"hypervisors": views})
}

// findHypervisor resolves the id of the microversion.
func (c *call) findHypervisor() (*cloud.Host, error) {
	id, index := c.path("id"), tables.ByNumber
	if c.since(53) {
		index = tables.ByID
		if !isUUID(id) {
			return nil, invalid("Invalid uuid %s", id)
		}
	}
	h, ok := store.One(c.view, tables.Hosts, index, id)
	if !ok {
		return nil, notFound("Hypervisor with ID '%s' could not be found.", id)
	}
	return h, nil
}

func (c *call) showHypervisor() error {
	if err := c.mayAdmin("os-hypervisors:show"); err != nil {
		return err
	}
	h, err := c.findHypervisor()
	if err != nil {
		return err
	}
	withServers, _ := queryBoolean(c.query.get("with_servers"))
	return c.ok(object{"hypervisor": c.hypervisorView(&fleet{view: c.view}, h, hypervisorParts{detail: true, servers: withServers})})
}

func (c *call) hypervisorUptime() error {
	if err := c.mayAdmin("os-hypervisors:uptime"); err != nil {
		return err
	}
	h, err := c.findHypervisor()
	if err != nil {
		return err
	}
	hosts := &fleet{view: c.view}
	if !hosts.up(h) {
		return serviceUnavailable(h.Name)
	}
	out := c.hypervisorView(hosts, h, hypervisorParts{})
	out["uptime"] = uptime(c.report(h.Name))
	return c.ok(object{"hypervisor": out})
}

// hypervisorStatistics sums the figures of all enabled hosts.
func (c *call) hypervisorStatistics() error {
	if err := c.mayAdmin("os-hypervisors:statistics"); err != nil {
		return err
	}
	out := object{}
	sums, count := map[string]int{}, 0
	for _, h := range c.hosts() {
		if h.Disabled {
			continue
		}
		count++
		for name, value := range c.hypervisorFigures(h, c.report(h.Name)) {
			sums[name] += value
		}
	}
	for _, name := range figureNames {
		out[name] = sums[name]
	}
	out["count"] = count
	return c.ok(object{"hypervisor_statistics": out})
}
