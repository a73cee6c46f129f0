package compute

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var serviceRoutes = []route{
	{pattern: "GET /os-services", query: querySchema{strict: 75, parameters: plain("host", "binary")}, handle: (*call).listServices},
	{pattern: "PUT /os-services/{id}", handle: (*call).putService},
	{pattern: "DELETE /os-services/{id}", handle: (*call).deleteService},
}

// serviceView shows a host as the service Nova runs on it.
func (c *call) serviceView(hosts *fleet, h *cloud.Host) object {
	out := object{
		"binary": binaryCompute, "host": h.Name, "id": any(h.Number), "zone": hosts.zone(h.Name),
		"status": pick(h.Disabled, "disabled", "enabled"), "state": pick(hosts.up(h), "up", "down"),
		"updated_at": openstack.OptionalTime(c.lastSeen(h), openstack.TimeMicros), "disabled_reason": textOrNull(h.DisabledReason),
	}
	if c.since(53) {
		out["id"] = h.ServiceID
	}
	if c.since(11) {
		out["forced_down"] = h.ForcedDown
	}
	return out
}

// lastSeen is when something was last heard of the host.
func (c *call) lastSeen(h *cloud.Host) time.Time {
	seen := h.Updated
	if session, ok := store.Lookup(c.view, tables.HostSessions, h.Name); ok && session.Seen.After(seen) {
		seen = session.Seen
	}
	if r := c.report(h.Name); r.At.After(seen) {
		seen = r.At
	}
	return seen
}

func (c *call) listServices() error {
	if err := c.mayAdmin("os-services:list"); err != nil {
		return err
	}
	out := []object{}
	hosts := &fleet{view: c.view}
	for _, h := range c.hosts() {
		if host := c.query.get("host"); host != "" && host != string(h.Name) {
			continue
		}
		if binary := c.query.get("binary"); binary != "" && binary != binaryCompute {
			continue
		}
		out = append(out, c.serviceView(hosts, h))
	}
	return c.ok(object{"services": out})
}

// changeHost changes what operators say of a host.
func (c *call) changeHost(name cloud.HostName, change func(*cloud.Host)) error {
	now := c.now()
	return c.update(func(tx *store.Tx) error {
		h, err := store.Get(tx, tables.Hosts, name)
		if err != nil {
			return err
		}
		change(&h)
		h.Updated = now
		return store.Put(tx, tables.Hosts, name, h)
	})
}

// putService is two resources in one: /os-services/{action} until 2.52, /os-services/{uuid} from 2.53 on.
func (c *call) putService() error {
	if err := c.mayAdmin("os-services:update"); err != nil {
		return err
	}
	if c.since(53) {
		return c.updateService()
	}
	return c.serviceAction()
}

// serviceActionBody is the body until 2.52.
type serviceActionBody struct {
	Host       hostName `json:"host" api:"required"`
	Binary     string   `json:"binary" api:"required;len=1..255"`
	Reason     *string  `json:"disabled_reason" api:"len=1..255"`
	ForcedDown *boolean `json:"forced_down" api:"since=2.11"`
}

func (c *call) serviceAction() error {
	var body serviceActionBody
	if err := c.decode(&body); err != nil {
		return err
	}
	answer := object{"host": body.Host, "binary": body.Binary}
	var change func(*cloud.Host)
	switch action := c.path("id"); {
	case action == "enable":
		answer["status"] = "enabled"
		change = func(h *cloud.Host) { h.Disabled, h.DisabledReason = false, "" }
	case action == "disable":
		answer["status"] = "disabled"
		change = func(h *cloud.Host) { h.Disabled, h.DisabledReason = true, "" }
	case action == "disable-log-reason":
		if body.Reason == nil {
			return invalid("Missing disabled reason field")
		}
		answer["status"], answer["disabled_reason"] = "disabled", *body.Reason
		change = func(h *cloud.Host) { h.Disabled, h.DisabledReason = true, *body.Reason }
	case action == "force-down" && c.since(11):
		if body.ForcedDown == nil {
			return invalid("Missing forced_down field")
		}
		answer["forced_down"] = *body.ForcedDown
		change = func(h *cloud.Host) { h.ForcedDown = bool(*body.ForcedDown) }
	default:
		return notFound("Unknown action")
	}
	if body.Binary != binaryCompute {
		return invalid("Updating a %s service is not supported. Only nova-compute services can be updated.", body.Binary)
	}
	name := cloud.HostName(body.Host)
	if _, ok := store.Lookup(c.view, tables.Hosts, name); !ok {
		return notFound("Host '%s' is not mapped to any cell", name)
	}
	if err := c.changeHost(name, change); err != nil {
		return err
	}
	return c.ok(object{"service": answer})
}

// serviceBody is the body from 2.53 on.
type serviceBody struct {
	Status     string   `json:"status" api:"enum=enabled|disabled"`
	Reason     string   `json:"disabled_reason" api:"len=1..255"`
	ForcedDown *boolean `json:"forced_down"`
}

func (c *call) updateService() error {
	var body serviceBody
	if err := c.decode(&body); err != nil {
		return err
	}
	found, err := c.findService()
	if err != nil {
		return err
	}
	switch {
	case body.Status == "enabled" && body.Reason != "":
		return invalid("Specifying 'disabled_reason' with status 'enabled' is invalid.")
	case body.Status == "" && body.ForcedDown == nil:
		return invalid("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
	}
	err = c.changeHost(found.Name, func(h *cloud.Host) {
		if body.Status != "" {
			h.Disabled, h.DisabledReason = body.Status == "disabled", body.Reason
		}
		if body.ForcedDown != nil {
			h.ForcedDown = bool(*body.ForcedDown)
		}
	})
	if err != nil {
		return err
	}
	h, _ := store.Lookup(c.view, tables.Hosts, found.Name)
	if h == nil {
		h = found // removed meanwhile
	}
	return c.ok(object{"service": c.serviceView(&fleet{view: c.view}, h)})
}

func (c *call) findService() (*cloud.Host, error) {
	id, index := c.path("id"), tables.ByNumber
	switch {
	case c.since(53) && !isUUID(id):
		return nil, invalid("Invalid uuid %s", id)
	case c.since(53):
		index = tables.ByServiceID
	case !decimal.MatchString(id):
		return nil, invalid("Invalid input received: id must be an integer")
	}
	h, ok := store.One(c.view, tables.Hosts, index, id)
	if !ok {
		return nil, notFound("Service %s could not be found.", id)
	}
	return h, nil
}

// deleteService forgets a host that is down and holds nothing. A host that comes back is met as a new one.
func (c *call) deleteService() error {
	if err := c.mayAdmin("os-services:delete"); err != nil {
		return err
	}
	found, err := c.findService()
	if err != nil {
		return err
	}
	if (&fleet{view: c.view}).up(found) {
		return conflict("Unable to delete compute service of host %s, which is up. Stop its agent first.", found.Name)
	}
	for _, m := range store.By(c.view, tables.Migrations, tables.ByHost, found.Name) {
		if inProgress(m) {
			return conflict("Unable to delete compute service that has in-progress migrations. Complete the migrations or delete the instances first.")
		}
	}
	if err := c.forgetHost(found.Name); err != nil {
		return err
	}
	return openstack.NoContent(c.w)
}

func (c *call) forgetHost(name cloud.HostName) error {
	now := c.now()
	return c.update(func(tx *store.Tx) error {
		usage, err := store.Get(tx, tables.Usages, name)
		if err != nil && !cloud.Is(err, cloud.KindNotFound) {
			return err
		}
		if len(usage.Claims) > 0 || len(store.By(c.view, tables.Servers, tables.ByHost, name)) > 0 {
			return conflict("Unable to delete compute service that is hosting instances. Migrate or delete the instances first.")
		}
		for _, member := range store.By(c.view, tables.Aggregates, tables.ByHost, name) {
			a, err := store.Get(tx, tables.Aggregates, member.ID)
			if err != nil {
				return err
			}
			a.Hosts = slices.DeleteFunc(slices.Clone(a.Hosts), func(h cloud.HostName) bool { return h == name })
			a.Updated = now
			if err := store.Put(tx, tables.Aggregates, a.ID, a); err != nil {
				return err
			}
		}
		if err := store.Delete(tx, tables.Usages, name); err != nil {
			return err
		}
		if err := store.Delete(tx, tables.HostReports, name); err != nil {
			return err
		}
		return store.Delete(tx, tables.Hosts, name)
	})
}

var hostRoutes = []route{
	{pattern: "GET /os-hosts", to: 42, query: querySchema{parameters: plain("zone")}, handle: (*call).listHosts},
	{pattern: "GET /os-hosts/{id}", to: 42, handle: (*call).showHost},
	{pattern: "PUT /os-hosts/{id}", to: 42, handle: (*call).hostUnsupported},
	{pattern: "GET /os-hosts/{id}/reboot", to: 42, handle: (*call).hostUnsupported},
	{pattern: "GET /os-hosts/{id}/shutdown", to: 42, handle: (*call).hostUnsupported},
	{pattern: "GET /os-hosts/{id}/startup", to: 42, handle: (*call).hostUnsupported},
	{pattern: "GET /os-availability-zone", handle: (*call).listZones},
	{pattern: "GET /os-availability-zone/detail", handle: (*call).detailZones},
}

func (c *call) listHosts() error {
	if err := c.mayAdmin("os-hosts:list"); err != nil {
		return err
	}
	out := []object{}
	hosts := &fleet{view: c.view}
	for _, h := range c.hosts() {
		zone := hosts.zone(h.Name)
		if wanted := c.query.get("zone"); h.Disabled || wanted != "" && wanted != zone {
			continue
		}
		out = append(out, object{"host_name": h.Name, "service": strings.TrimPrefix(binaryCompute, "nova-"), "zone": zone})
	}
	return c.ok(object{"hosts": out})
}

func (c *call) findHost() (*cloud.Host, error) {
	h, ok := store.Lookup(c.view, tables.Hosts, c.path("id"))
	if !ok {
		return nil, notFound("Compute host %s could not be found.", c.path("id"))
	}
	return h, nil
}

// showHost shows what a host has, what is promised of it, and to which projects.
func (c *call) showHost() error {
	if err := c.mayAdmin("os-hosts:show"); err != nil {
		return err
	}
	h, err := c.findHost()
	if err != nil {
		return err
	}
	line := func(project string, cpu, memory, disk int) object {
		return object{"resource": object{"host": h.Name, "project": project, "cpu": cpu, "memory_mb": memory, "disk_gb": disk}}
	}
	figures := c.hypervisorFigures(h, c.report(h.Name))
	total, projects := cloud.Resources{}, map[cloud.ProjectID]cloud.Resources{}
	for _, s := range store.By(c.view, tables.Servers, tables.ByHost, h.Name) {
		one := cloud.Resources{VCPUs: s.Flavor.VCPUs, RAMMiB: s.Flavor.RAMMiB, DiskGiB: s.Flavor.RootGiB + s.Flavor.EphemeralGiB}
		total, projects[s.Project] = total.Add(one), projects[s.Project].Add(one)
	}
	out := []object{
		line("(total)", figures["vcpus"], figures["memory_mb"], figures["local_gb"]),
		line("(used_now)", figures["vcpus_used"], figures["memory_mb_used"], figures["local_gb_used"]),
		line("(used_max)", total.VCPUs, total.RAMMiB, total.DiskGiB),
	}
	for _, p := range sortedKeys(projects) {
		out = append(out, line(string(p), projects[p].VCPUs, projects[p].RAMMiB, projects[p].DiskGiB))
	}
	return c.ok(object{"host": out})
}

func (c *call) hostUnsupported() error {
	if err := c.mayAdmin("os-hosts:update"); err != nil {
		return err
	}
	if _, err := c.findHost(); err != nil {
		return err
	}
	return openstack.Fail(http.StatusNotImplemented, "The requested functionality is not supported.")
}

// openZones returns the zones that have an enabled host.
func (c *call) openZones() []string {
	open, _ := c.zones()
	return open
}

// zones returns the zones with an enabled host, and those with disabled hosts only.
func (c *call) zones() (open, closed []string) {
	hosts := &fleet{view: c.view}
	enabled := map[string]bool{}
	for _, h := range c.hosts() {
		zone := hosts.zone(h.Name)
		enabled[zone] = enabled[zone] || !h.Disabled
	}
	for _, zone := range sortedKeys(enabled) {
		if enabled[zone] {
			open = append(open, zone)
		} else {
			closed = append(closed, zone)
		}
	}
	return open, closed
}

func (c *call) listZones() error {
	open, closed := c.zones()
	out := []object{}
	for _, zone := range open {
		out = append(out, zoneView(zone, true, nil))
	}
	for _, zone := range closed {
		out = append(out, zoneView(zone, false, nil))
	}
	return c.ok(object{"availabilityZoneInfo": out})
}

func zoneView(name string, available bool, hosts any) object {
	return object{"zoneName": name, "zoneState": object{"available": available}, "hosts": hosts}
}

func (c *call) detailZones() error {
	if err := c.mayAdmin("os-availability-zone:detail"); err != nil {
		return err
	}
	hosts := &fleet{view: c.view}
	members := map[string]object{}
	for _, h := range c.hosts() {
		zone := hosts.zone(h.Name)
		if h.Disabled {
			continue
		}
		if members[zone] == nil {
			members[zone] = object{}
		}
		members[zone][string(h.Name)] = object{binaryCompute: object{
			"available": hosts.up(h), "active": true, "updated_at": openstack.OptionalTime(c.lastSeen(h), openstack.TimeMicros),
		}}
	}
	open, closed := c.zones()
	out := []object{}
	for _, zone := range open {
		out = append(out, zoneView(zone, true, members[zone]))
	}
	for _, zone := range closed {
		out = append(out, zoneView(zone, false, nil))
	}
	return c.ok(object{"availabilityZoneInfo": out})
}
