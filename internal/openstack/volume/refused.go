package volume

import (
	"net/http"
)

// What Cinder has and godwit does not offer. Lists are empty, which is true; single things are 404; whatever would make or change one is a 501 that no
// client can take for success.

// A lacking is a feature that is not there.
type lacking struct {
	path string // of the collection
	name string // of its list in answers
	what string // for messages: "Backups"
	from int    // microversion that brought it
	own  bool   // not only administrators may look
}

var lackings = []lacking{
	{"/backups", "backups", "Backups", 0, true},
	{"/os-volume-transfer", "transfers", "Transfers of volumes between projects", 0, true},
	{"/volume-transfers", "transfers", "Transfers of volumes between projects", 55, true},
	{"/consistencygroups", "consistencygroups", "Consistency groups", 0, true},
	{"/cgsnapshots", "cgsnapshots", "Consistency groups", 0, true},
	{"/groups", "groups", "Groups", 13, true},
	{"/group_snapshots", "group_snapshots", "Groups", 14, true},
	{"/group_types", "group_types", "Groups", 11, true},
	{"/qos-specs", "qos_specs", "QoS specs (limits are extra specs of volume types, godwit:iops_max and godwit:bytes_per_second_max)", 0, false},
	{"/clusters", "clusters", "Clusters of volume services", 7, false},
	{"/manageable_volumes", "manageable-volumes", "Taking over volumes made elsewhere", 8, false},
	{"/manageable_snapshots", "manageable-snapshots", "Taking over snapshots made elsewhere", 8, false},
	{"/os-volume-manage", "manageable-volumes", "Taking over volumes made elsewhere", 0, false},
	{"/os-snapshot-manage", "manageable-snapshots", "Taking over snapshots made elsewhere", 0, false},
	{"/default-types", "default_types", "Default volume types of single projects", 62, false},
}

func refusedRoutes() []route {
	var out []route
	for _, l := range lackings {
		refuse := func(c *call) error {
			if err := l.allowed(c); err != nil {
				return err
			}
			return unsupported("%s are not supported.", l.what)
		}
		out = append(out,
			route{pattern: "GET " + l.path, from: l.from, handle: l.list},
			route{pattern: "GET " + l.path + "/detail", from: l.from, handle: l.list},
			route{pattern: "POST " + l.path, from: l.from, handle: refuse},
			route{pattern: "POST " + l.path + "/{id}", from: l.from, handle: refuse},
			route{pattern: "GET " + l.path + "/{id}", from: l.from, handle: l.missing},
			route{pattern: "PUT " + l.path + "/{id}", from: l.from, handle: refuse},
			route{pattern: "DELETE " + l.path + "/{id}", from: l.from, handle: l.missing},
			route{pattern: "POST " + l.path + "/{id}/{action}", from: l.from, handle: refuse},
			route{pattern: "GET " + l.path + "/{id}/{action}", from: l.from, handle: l.missing},
		)
	}
	return append(out,
		route{pattern: "POST /workers/cleanup", from: 24, handle: adminRefusal("Unfinished work goes on by itself: there is nothing to clean up by hand.")},
		route{pattern: "POST /types/{id}/encryption", handle: adminRefusal("Encrypted volumes are not supported.")},
		route{pattern: "PUT /types/{id}/encryption/{key}", handle: adminRefusal("Encrypted volumes are not supported.")},
		route{pattern: "DELETE /types/{id}/encryption/{key}", handle: adminMissing("Encrypted volumes are not supported.")},
		route{pattern: "GET /capabilities/{host}", handle: adminMissing("Capabilities are shown by scheduler-stats/get_pools.")},
	)
}

// allowed checks the role of a request for what is not there, so that the answer depends on nothing else.
func (l lacking) allowed(c *call) error {
	if l.own {
		return c.may(reader, "volume_extension:"+l.name)
	}
	return c.mayAdmin("volume_extension:" + l.name)
}

func (l lacking) list(c *call) error {
	if err := l.allowed(c); err != nil {
		return err
	}
	return c.ok(object{l.name: []object{}})
}

func (l lacking) missing(c *call) error {
	if err := l.allowed(c); err != nil {
		return err
	}
	return notFound("%s could not be found: %s are not supported.", c.path("id"), l.what)
}

func adminRefusal(why string) func(*call) error {
	return func(c *call) error {
		if err := c.mayAdmin("volume_extension:admin"); err != nil {
			return err
		}
		return unsupported("%s", why)
	}
}

func adminMissing(why string) func(*call) error {
	return func(c *call) error {
		if err := c.mayAdmin("volume_extension:admin"); err != nil {
			return err
		}
		return notFound("%s", why)
	}
}

var infoRoutes = []route{
	{pattern: "GET /extensions", handle: (*call).listExtensions},
	{pattern: "GET /extensions/{id}", handle: (*call).showExtension},
	{pattern: "GET /resource_filters", from: 33, handle: (*call).listFilters},
}

// extensions are the parts of Cinder that clients look for by alias.
var extensions = []struct{ alias, name string }{
	{"os-admin-actions", "AdminActions"}, {"os-availability-zone", "AvailabilityZones"}, {"os-extended-snapshot-attributes", "ExtendedSnapshotAttributes"},
	{"os-quota-class-sets", "QuotaClasses"}, {"os-quota-sets", "Quotas"}, {"os-services", "Services"}, {"os-types-extra-specs", "TypesExtraSpecs"},
	{"os-types-manage", "TypesManage"}, {"os-used-limits", "UsedLimits"}, {"os-vol-host-attr", "VolumeHostAttribute"},
	{"os-vol-image-meta", "VolumeImageMetadata"}, {"os-vol-mig-status-attr", "VolumeMigStatusAttribute"}, {"os-vol-tenant-attr", "VolumeTenantAttribute"},
	{"os-volume-actions", "VolumeActions"}, {"os-volume-type-access", "VolumeTypeAccess"}, {"scheduler-stats", "Scheduler_stats"},
}

func extensionView(alias, name string) object {
	return object{"alias": alias, "name": name, "description": "", "namespace": "", "updated": "2014-01-01T00:00:00+00:00", "links": []object{}}
}

func (c *call) listExtensions() error {
	out := make([]object, len(extensions))
	for i, e := range extensions {
		out[i] = extensionView(e.alias, e.name)
	}
	return c.ok(object{"extensions": out})
}

func (c *call) showExtension() error {
	for _, e := range extensions {
		if e.alias == c.path("id") {
			return c.ok(object{"extension": extensionView(e.alias, e.name)})
		}
	}
	return notFound("%s", http.StatusText(http.StatusNotFound))
}

func (c *call) listFilters() error {
	if err := c.may(reader, "volume:get_all"); err != nil {
		return err
	}
	out := []object{}
	for _, r := range []struct {
		resource string
		filters  []string
	}{
		{"volume", volumeFilters}, {"snapshot", snapshotFilters}, {"attachment", []string{"volume_id", "status", "instance_id", "attach_status"}},
		{"message", []string{"resource_uuid", "resource_type"}}, {"pool", []string{"name", "volume_type"}}, {"volume_type", []string{"is_public", "name"}},
	} {
		if asked := c.query("resource"); asked == "" || asked == r.resource {
			out = append(out, object{"resource": r.resource, "filters": r.filters})
		}
	}
	return c.ok(object{"resource_filters": out})
}
