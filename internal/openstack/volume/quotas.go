package volume

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
	"github.com/godwit-cloud/godwit/internal/volumebook"
)

var quotaRoutes = []route{
	{pattern: "GET /os-quota-sets/{id}", handle: (*call).showQuota},
	{pattern: "GET /os-quota-sets/{id}/defaults", handle: (*call).defaultQuota},
	{pattern: "PUT /os-quota-sets/{id}", handle: (*call).updateQuota},
	{pattern: "DELETE /os-quota-sets/{id}", handle: (*call).deleteQuota},
	{pattern: "GET /os-quota-class-sets/{id}", handle: (*call).showQuotaClass},
	{pattern: "PUT /os-quota-class-sets/{id}", handle: (*call).updateQuotaClass},
	{pattern: "GET /limits", handle: (*call).showLimits},
}

// A quotaItem is one limit by Cinder's name.
type quotaItem struct {
	name  string
	field func(*cloud.VolumeQuota) *int // nil: fixed
	used  func(cloud.VolumeUsage) int   // nil: nothing is counted
	fixed int
}

// quotaItems are all limits. Those of backups and groups are 0 because there are none.
var quotaItems = []quotaItem{
	{name: "volumes", field: func(q *cloud.VolumeQuota) *int { return &q.Volumes }, used: func(u cloud.VolumeUsage) int { return u.Volumes }},
	{name: "snapshots", field: func(q *cloud.VolumeQuota) *int { return &q.Snapshots }, used: func(u cloud.VolumeUsage) int { return u.Snapshots }},
	{name: "gigabytes", field: func(q *cloud.VolumeQuota) *int { return &q.GiB }, used: func(u cloud.VolumeUsage) int { return u.GiB }},
	{name: "per_volume_gigabytes", field: func(q *cloud.VolumeQuota) *int { return &q.PerVolumeGiB }},
	{name: "backups"}, {name: "backup_gigabytes"}, {name: "groups"},
}

// quotaItemOf finds a limit by name. A limit of one volume type ("volumes_fast") is always -1: usage is not counted by type.
func (c *call) quotaItemOf(name string) (quotaItem, bool) {
	for _, i := range c.allQuotaItems() {
		if i.name == name {
			return i, true
		}
	}
	return quotaItem{}, false
}

func (c *call) allQuotaItems() []quotaItem {
	out := append([]quotaItem(nil), quotaItems...)
	for _, t := range store.All(c.view, tables.VolumeTypes) {
		for _, what := range []string{"volumes_", "snapshots_", "gigabytes_"} {
			out = append(out, quotaItem{name: what + t.Name, fixed: -1})
		}
	}
	return out
}

func (i quotaItem) limit(q *cloud.VolumeQuota) int {
	if i.field == nil {
		return i.fixed
	}
	return *i.field(q)
}

// quotaProject checks that the caller may see a project's quota.
func (c *call) quotaProject(rule string) (cloud.ProjectID, error) {
	project := cloud.ProjectID(c.path("id"))
	if err := c.may(reader, rule); err != nil {
		return "", err
	}
	if !c.r.Caller.Sees(project) {
		return "", openstack.Forbid(rule)
	}
	if _, ok := store.Lookup(c.view, tables.Projects, project); !ok && !c.r.Caller.Owns(project) {
		return "", notFound("Project %s could not be found.", project)
	}
	return project, nil
}

func (c *call) showQuota() error {
	project, err := c.quotaProject("volume_extension:quotas:show")
	if err != nil {
		return err
	}
	usage, err := c.flag("usage")
	if err != nil {
		return err
	}
	q := volumebook.Limits(c.view, project)
	if !usage {
		return c.ok(object{"quota_set": c.quotaSet(string(project), &q)})
	}
	used := volumebook.Usage(c.view, project)
	out := object{"id": project}
	for _, i := range c.allQuotaItems() {
		inUse := 0
		if i.used != nil {
			inUse = i.used(used)
		}
		out[i.name] = object{"limit": i.limit(&q), "in_use": inUse, "reserved": 0, "allocated": 0}
	}
	return c.ok(object{"quota_set": out})
}

func (c *call) quotaSet(id string, q *cloud.VolumeQuota) object {
	out := object{}
	if id != "" {
		out["id"] = id
	}
	for _, i := range c.allQuotaItems() {
		out[i.name] = i.limit(q)
	}
	return out
}

func (c *call) defaultQuota() error {
	project, err := c.quotaProject("volume_extension:quotas:show")
	if err != nil {
		return err
	}
	q := volumebook.ClassLimits(c.view, project)
	return c.ok(object{"quota_set": c.quotaSet(string(project), &q)})
}

// readLimits reads limits by name; skip are properties that are no limits.
func (c *call) readLimits(o *openstack.Object, skip ...string) (map[string]int, error) {
	out := map[string]int{}
	for _, name := range o.Names {
		if strings.Join(skip, " ") == name {
			continue
		}
		i, ok := c.quotaItemOf(name)
		if !ok {
			continue // Cinder ignores limits of volume types that are not there, and whatever else is no limit
		}
		v, _ := o.Get(name)
		n, err := limitOf(name, v)
		if err != nil {
			return nil, err
		}
		if i.field == nil && n != i.fixed {
			return nil, invalid("Quota limit for %s is fixed at %d.", name, i.fixed)
		}
		out[name] = n
	}
	return out, nil
}

func limitOf(name string, v any) (int, error) {
	text, ok := v.(string)
	if number, isNumber := v.(json.Number); isNumber {
		text, ok = number.String(), true
	}
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < -1 || n > 1<<31-1 {
		return 0, invalid("Invalid input for field/attribute %s. Value: %v. A quota limit is a whole number, or -1 for none.", name, v)
	}
	return n, nil
}

func setLimits(c *call, q *cloud.VolumeQuota, limits map[string]int) {
	for name, n := range limits {
		if i, ok := c.quotaItemOf(name); ok && i.field != nil {
			*i.field(q) = n
		}
	}
}

func (c *call) updateQuota() error {
	if err := c.mayAdmin("volume_extension:quotas:update"); err != nil {
		return err
	}
	project, err := c.quotaProject("volume_extension:quotas:update")
	if err != nil {
		return err
	}
	var body struct {
		Set *openstack.Object `json:"quota_set" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	limits, err := c.readLimits(body.Set)
	if err != nil {
		return err
	}
	if skip, _ := body.Set.Get("skip_validation"); skip == false || skip == "False" || skip == "false" {
		used := volumebook.Usage(c.view, project)
		for name, n := range limits {
			if i, _ := c.quotaItemOf(name); i.used != nil && n >= 0 && i.used(used) > n {
				return invalid("Invalid quota value for %s: %d is less than the %d in use.", name, n, i.used(used))
			}
		}
	}
	q, err := c.storeLimits(project, volumebook.ClassLimits(c.view, project), limits)
	if err != nil {
		return err
	}
	return c.ok(object{"quota_set": c.quotaSet("", &q)})
}

// storeLimits changes the limits kept under a key, which begin as fallback.
func (c *call) storeLimits(key cloud.ProjectID, fallback cloud.VolumeQuota, limits map[string]int) (cloud.VolumeQuota, error) {
	var q cloud.VolumeQuota
	err := c.update(func(tx *store.Tx) (err error) {
		q, err = store.Get(tx, tables.VolumeQuotas, key)
		if cloud.Is(err, cloud.KindNotFound) {
			q, err = fallback, nil
		}
		if err != nil {
			return err
		}
		q.Project = key
		setLimits(c, &q, limits)
		return store.Put(tx, tables.VolumeQuotas, key, q)
	})
	return q, err
}

func (c *call) deleteQuota() error {
	if err := c.mayAdmin("volume_extension:quotas:delete"); err != nil {
		return err
	}
	if err := c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.VolumeQuotas, c.path("id")) }); err != nil {
		return err
	}
	return c.status(http.StatusOK)
}

// defaultClass is the quota class whose limits projects without limits of their own have.
const defaultClass = "default"

func (c *call) showQuotaClass() error {
	if err := c.mayAdmin("volume_extension:quota_classes:get"); err != nil {
		return err
	}
	class := c.path("id")
	q := cloud.DefaultVolumeQuota("")
	if class == defaultClass {
		q = volumebook.ClassLimits(c.view, "")
	}
	return c.ok(object{"quota_class_set": c.quotaSet(class, &q)})
}

func (c *call) updateQuotaClass() error {
	if err := c.mayAdmin("volume_extension:quota_classes:update"); err != nil {
		return err
	}
	var body struct {
		Set *openstack.Object `json:"quota_class_set" api:"required"`
	}
	if err := c.decode(&body); err != nil {
		return err
	}
	if class := c.path("id"); class != defaultClass {
		return invalid("Quota class '%s' is not used: the only class is '%s'.", class, defaultClass)
	}
	limits, err := c.readLimits(body.Set, "class_name")
	if err != nil {
		return err
	}
	q, err := c.storeLimits(volumebook.ClassKey, cloud.DefaultVolumeQuota(volumebook.ClassKey), limits)
	if err != nil {
		return err
	}
	return c.ok(object{"quota_class_set": c.quotaSet("", &q)})
}

// showLimits answers GET /limits.
func (c *call) showLimits() error {
	if err := c.may(reader, "limits_extension:used_limits"); err != nil {
		return err
	}
	project := c.r.Caller.Project
	if p := c.query("project_id"); p != "" && c.since(39) {
		if !c.r.Caller.Sees(cloud.ProjectID(p)) {
			return openstack.Forbid("limits_extension:used_limits")
		}
		project = cloud.ProjectID(p)
	}
	q, used := volumebook.Limits(c.view, project), volumebook.Usage(c.view, project)
	return c.ok(object{"limits": object{"rate": []any{}, "absolute": object{
		"maxTotalVolumes": q.Volumes, "totalVolumesUsed": used.Volumes, "maxTotalSnapshots": q.Snapshots, "totalSnapshotsUsed": used.Snapshots,
		"maxTotalVolumeGigabytes": q.GiB, "totalGigabytesUsed": used.GiB,
		"maxTotalBackups": 0, "totalBackupsUsed": 0, "maxTotalBackupGigabytes": 0, "totalBackupGigabytesUsed": 0,
	}}})
}
