package volume

import (
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

var serviceRoutes = []route{
	{pattern: "GET /os-services", handle: (*call).listServices},
	{pattern: "PUT /os-services/{action}", handle: (*call).putService},
	{pattern: "GET /scheduler-stats/get_pools", handle: (*call).listPools},
	{pattern: "GET /os-availability-zone", handle: (*call).listZones},
}

// binaryVolume is what Cinder calls a volume service's program.
const binaryVolume = "cinder-volume"

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func enabledDisabled(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// seen is when something was last heard of a service.
func (c *call) seen(name cloud.HostName) (at time.Time) {
	if s, ok := store.Lookup(c.view, tables.VolumeSessions, name); ok {
		at = s.Seen
	}
	if r, ok := store.Lookup(c.view, tables.VolumeReports, name); ok && r.At.After(at) {
		at = r.At
	}
	return at
}

// serviceView shows a volume service: one row for all its back ends, since they are enabled, disabled and connected together.
func (c *call) serviceView(s *cloud.VolumeService) object {
	_, up := store.Lookup(c.view, tables.VolumeSessions, s.Name)
	out := object{
		"binary": binaryVolume, "host": s.Name, "zone": s.Zone, "status": enabledDisabled(s.Disabled), "state": upDown(up),
		"updated_at": openstack.OptionalTime(c.seen(s.Name), openstack.TimeMicros), "disabled_reason": orNull(s.DisabledReason),
		"replication_status": "disabled", "active_backend_id": nil, "frozen": false,
	}
	if c.since(7) {
		out["cluster"] = nil
	}
	if c.since(49) {
		healthy := up
		if r, ok := store.Lookup(c.view, tables.VolumeReports, s.Name); ok {
			for _, b := range r.Backends {
				healthy = healthy && b.Error == ""
			}
		}
		out["backend_state"] = upDown(healthy)
	}
	return out
}

func (c *call) listServices() error {
	if err := c.mayAdmin("volume_extension:services:index"); err != nil {
		return err
	}
	out := []object{}
	for _, s := range store.All(c.view, tables.VolumeServices) {
		if host := c.query("host"); host != "" && serviceOf(host) != s.Name {
			continue
		}
		if binary := c.query("binary"); binary != "" && binary != binaryVolume {
			continue
		}
		out = append(out, c.serviceView(s))
	}
	return c.ok(object{"services": out})
}

// serviceOf returns the service's part of a host as Cinder writes it: host@backend#pool.
func serviceOf(host string) cloud.HostName {
	name, _, _ := strings.Cut(host, "@")
	return cloud.HostName(name)
}

func (c *call) putService() error {
	if err := c.mayAdmin("volume_extension:services:update"); err != nil {
		return err
	}
	var body struct {
		Host    string  `json:"host" api:"len=..255"`
		Binary  string  `json:"binary"`
		Service string  `json:"service"`
		Server  string  `json:"server"`
		Levels  string  `json:"levels"`
		Level   string  `json:"level"`
		Prefix  string  `json:"prefix"`
		Cluster *string `json:"cluster" api:"null"`
		Backend *string `json:"backend_id" api:"null"`
		Reason  *string `json:"disabled_reason" api:"null;len=1..255"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	disable, reason := false, ""
	switch c.path("action") {
	case "enable":
	case "disable":
		disable = true
	case "disable-log-reason":
		if body.Reason == nil {
			return invalid("'disabled_reason' is a required property")
		}
		disable, reason = true, *body.Reason
	case "freeze", "thaw", "failover_host", "failover":
		return unsupported("There is no replication of volumes.")
	case "set-log", "get-log":
		return unsupported("The log level of a volume service is in its configuration.")
	default:
		return notFound("Unknown action")
	}
	return c.setService(body.Host, disable, reason)
}

func (c *call) setService(host string, disable bool, reason string) error {
	name := serviceOf(host)
	var s cloud.VolumeService
	err := c.update(func(tx *store.Tx) (err error) {
		if s, err = store.Get(tx, tables.VolumeServices, name); err != nil {
			if cloud.Is(err, cloud.KindNotFound) {
				return notFound("Service %s could not be found.", host)
			}
			return err
		}
		s.Disabled, s.DisabledReason, s.Updated = disable, reason, c.now()
		return store.Put(tx, tables.VolumeServices, name, s)
	})
	if err != nil {
		return err
	}
	out := object{"host": host, "service": binaryVolume, "binary": binaryVolume, "disabled": disable, "status": enabledDisabled(disable)}
	if reason != "" {
		out["disabled_reason"] = reason
	}
	return c.ok(out)
}

// listPools answers GET /scheduler-stats/get_pools: one pool for each back end, with placement's figures.
func (c *call) listPools() error {
	if err := c.mayAdmin("scheduler_extension:scheduler_stats:get_pools"); err != nil {
		return err
	}
	detail, err := c.flag("detail")
	if err != nil {
		return err
	}
	wanted := ""
	if name := c.query("volume-type"); name != "" && c.since(35) {
		t, err := volumebook.FindType(c.view, name, c.r.Caller.Project, true)
		if err != nil {
			return err
		}
		wanted = t.ExtraSpecs[cloud.SpecBackend]
	}
	out := []object{}
	for _, s := range volumebook.Services(c.view) {
		for i := range s.Report.Backends {
			b := &s.Report.Backends[i]
			name := string(placement.BackendName(s.Service.Name, b.Name)) + "#" + b.Name
			if asked := c.query("name"); asked != "" && asked != name && c.since(28) || wanted != "" && wanted != b.Name {
				continue
			}
			pool := object{"name": name}
			if detail {
				pool["capabilities"] = c.capabilities(&s, b)
			}
			out = append(out, pool)
		}
	}
	return c.ok(object{"pools": out})
}

func (c *call) capabilities(s *placement.VolumeServiceView, b *cloud.VolumeBackend) object {
	gib := func(bytes int64) float64 { return float64(bytes>>20) / 1024 }
	return object{
		"volume_backend_name": b.Name, "storage_protocol": "nbd", "vendor_name": "godwit", "driver_version": s.Report.Version,
		"total_capacity_gb": gib(b.TotalBytes), "free_capacity_gb": gib(b.FreeBytes), "allocated_capacity_gb": gib(s.Promised[b.Name]),
		"provisioned_capacity_gb": gib(s.Promised[b.Name]), "reserved_percentage": 0, "QoS_support": true, "multiattach": true,
		"max_over_subscription_ratio": placement.DefaultVolumePolicy().SizeRatio, "thin_provisioning_support": true, "thick_provisioning_support": false,
		"total_volumes": b.Volumes, "online_extend_support": true, "backend_state": upDown(s.Up && b.Error == ""), "location_info": b.Kind,
		"timestamp": openstack.OptionalTime(c.seen(s.Service.Name), openstack.TimeMicros), "replication_enabled": false,
		"godwit:reflink": b.Reflink, "godwit:engine": s.Report.Engine,
	}
}

func (c *call) listZones() error {
	if err := c.may(reader, "volume:availability_zone_list"); err != nil {
		return err
	}
	enabled := map[string]bool{}
	for _, s := range store.All(c.view, tables.VolumeServices) {
		enabled[s.Zone] = enabled[s.Zone] || !s.Disabled
	}
	out := []object{}
	for _, z := range c.zones() {
		out = append(out, object{"zoneName": z, "zoneState": object{"available": enabled[z] || len(enabled) == 0}})
	}
	return c.ok(object{"availabilityZoneInfo": out})
}
