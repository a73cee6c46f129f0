package compute

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

var quotaRoutes = []route{
	{pattern: "GET /os-quota-sets/{id}", query: quotaQuery, handle: (*call).showQuota},
	{pattern: "GET /os-quota-sets/{id}/detail", query: quotaQuery, handle: (*call).detailQuota},
	{pattern: "GET /os-quota-sets/{id}/defaults", handle: (*call).defaultQuota},
	{pattern: "PUT /os-quota-sets/{id}", query: quotaQuery, handle: (*call).updateQuota},
	{pattern: "DELETE /os-quota-sets/{id}", query: quotaQuery, handle: (*call).deleteQuota},
	{pattern: "GET /os-quota-class-sets/{id}", handle: (*call).showQuotaClass},
	{pattern: "PUT /os-quota-class-sets/{id}", handle: (*call).updateQuotaClass},
	{pattern: "GET /limits", query: querySchema{strict: 75, parameters: plain("tenant_id")}, handle: (*call).showLimits},
}

var quotaQuery = querySchema{strict: 75, parameters: plain("user_id")}

// defaultClass is the quota class whose limits projects without limits of their own have.
const defaultClass = "default"

// classKey is where the limits of the default class are kept; no project has a colon in its id.
const classKey = cloud.ProjectID("class:" + defaultClass)

// quota returns a project's limits.
func (c *call) quota(project cloud.ProjectID) cloud.Quota {
	if q, ok := store.Lookup(c.view, tables.Quotas, project); ok {
		return *q
	}
	return c.classQuota(project)
}

func (c *call) classQuota(project cloud.ProjectID) cloud.Quota {
	if q, ok := store.Lookup(c.view, tables.Quotas, classKey); ok {
		out := *q
		out.Project = project
		return out
	}
	return cloud.DefaultQuota(project)
}

// exceeds reports whether used is more than a limit allows; -1 allows all.
func exceeds(used, allowed int) bool { return allowed >= 0 && used > allowed }

// affordable returns how many servers of a plan the quota allows now, or the refusal when that is fewer than the least asked for.
func (c *call) affordable(plan *bootPlan) (int, error) {
	quota, used := c.quota(c.r.Caller.Project), c.quotaUsage(c.r.Caller.Project)
	count := plan.countMax
	flavor := plan.template.Flavor
	for _, r := range [...]struct{ allowed, used, each int }{
		{quota.Instances, used.Instances, 1}, {quota.Cores, used.Cores, flavor.VCPUs}, {quota.RAMMiB, used.RAMMiB, flavor.RAMMiB},
	} {
		if r.allowed >= 0 && r.each > 0 {
			count = min(count, max(0, r.allowed-r.used)/r.each)
		}
	}
	if count >= plan.countMin {
		return count, nil
	}
	return 0, tooMany(quota, used, flavor, plan.countMin, plan.countMax)
}

// tooMany words a refusal: which resources run out, and by how much.
func tooMany(quota cloud.Quota, used cloud.QuotaUsage, flavor cloud.Flavor, countMin, countMax int) error {
	servers := fmt.Sprint(countMin)
	if countMax != countMin {
		servers = fmt.Sprintf("%d-%d", countMin, countMax)
	}
	var over, asked, have, allowed []string
	for _, r := range [...]struct {
		name          string
		allowed, used int
		need          int
		asked         string
	}{
		{"cores", quota.Cores, used.Cores, countMin * flavor.VCPUs, fmt.Sprint(countMax * flavor.VCPUs)},
		{"instances", quota.Instances, used.Instances, countMin, servers},
		{"ram", quota.RAMMiB, used.RAMMiB, countMin * flavor.RAMMiB, fmt.Sprint(countMax * flavor.RAMMiB)},
	} {
		if exceeds(r.used+r.need, r.allowed) {
			over, asked = append(over, r.name), append(asked, r.asked)
			have, allowed = append(have, fmt.Sprint(r.used)), append(allowed, fmt.Sprint(r.allowed))
		}
	}
	list := func(parts []string) string { return strings.Join(parts, ", ") }
	return overQuota("Quota exceeded for %s: Requested %s, but already used %s of %s %s", list(over), list(asked), list(have), list(allowed), list(over))
}

func (c *call) quotaUsage(project cloud.ProjectID) cloud.QuotaUsage {
	if u, ok := store.Lookup(c.view, tables.QuotaUsages, project); ok {
		return *u
	}
	return cloud.QuotaUsage{Project: project}
}

// takeQuota counts one server against its project. Two transactions that take the last of it collide here.
func (c *call) takeQuota(tx *store.Tx, s *cloud.Server) error {
	used, err := store.Get(tx, tables.QuotaUsages, s.Project)
	if err != nil && !cloud.Is(err, cloud.KindNotFound) {
		return err
	}
	quota := c.quota(s.Project)
	before := used
	used.Project = s.Project
	used.Instances++
	used.Cores += s.Flavor.VCPUs
	used.RAMMiB += s.Flavor.RAMMiB
	if exceeds(used.Instances, quota.Instances) || exceeds(used.Cores, quota.Cores) || exceeds(used.RAMMiB, quota.RAMMiB) {
		return tooMany(quota, before, s.Flavor, 1, 1)
	}
	return store.Put(tx, tables.QuotaUsages, s.Project, used)
}

// A quotaItem is one limit of a quota set: its name, how long it is shown, and where it is kept.
type quotaItem struct {
	name       string
	until      int                     // last microversion of os-quota-sets that shows it; 0: all
	classFrom  int                     // first microversion of os-quota-class-sets that shows it
	classUntil int                     // last one
	field      func(*cloud.Quota) *int // nil: the limit is fixed
	fixed      int                     // its value then
	used       func(c *call, p cloud.ProjectID) int
}

// quotaItems lists all limits. The fixed ones belong to features that are elsewhere or nowhere; they are shown because clients of their time look for them.
var quotaItems = []quotaItem{
	{name: "instances", field: func(q *cloud.Quota) *int { return &q.Instances }, used: func(c *call, p cloud.ProjectID) int { return c.quotaUsage(p).Instances }},
	{name: "cores", field: func(q *cloud.Quota) *int { return &q.Cores }, used: func(c *call, p cloud.ProjectID) int { return c.quotaUsage(p).Cores }},
	{name: "ram", field: func(q *cloud.Quota) *int { return &q.RAMMiB }, used: func(c *call, p cloud.ProjectID) int { return c.quotaUsage(p).RAMMiB }},
	{name: "metadata_items", field: func(q *cloud.Quota) *int { return &q.MetadataItems }},
	{name: "injected_files", until: 56, classUntil: 56, fixed: 0},
	{name: "injected_file_content_bytes", until: 56, classUntil: 56, fixed: 0},
	{name: "injected_file_path_bytes", until: 56, classUntil: 56, fixed: 0},
	{name: "key_pairs", field: func(q *cloud.Quota) *int { return &q.KeyPairs }},
	{name: "server_groups", classFrom: 50, field: func(q *cloud.Quota) *int { return &q.ServerGroups }, used: (*call).groupsOf},
	{name: "server_group_members", classFrom: 50, field: func(q *cloud.Quota) *int { return &q.ServerGroupMembers }},
	{name: "fixed_ips", until: 35, classUntil: 49, fixed: -1},
	{name: "floating_ips", until: 35, classUntil: 49, fixed: -1},
	{name: "security_groups", until: 35, classUntil: 49, fixed: -1},
	{name: "security_group_rules", until: 35, classUntil: 49, fixed: -1},
}

func (c *call) groupsOf(p cloud.ProjectID) int {
	return len(store.By(c.view, tables.ServerGroups, tables.ByProject, p))
}

func (i quotaItem) limit(q *cloud.Quota) int {
	if i.field == nil {
		return i.fixed
	}
	return *i.field(q)
}

func (i quotaItem) shown(minor int) bool { return i.until == 0 || minor <= i.until }

func (i quotaItem) shownInClass(minor int) bool {
	return minor >= i.classFrom && (i.classUntil == 0 || minor <= i.classUntil)
}

// quotaProject checks that the caller may see a project's quota and that the project exists.
func (c *call) quotaProject(rule string) (cloud.ProjectID, error) {
	project := cloud.ProjectID(c.path("id"))
	if !c.r.Caller.Sees(project) {
		return "", openstack.Forbid("os_compute_api:" + rule)
	}
	if _, ok := store.Lookup(c.view, tables.Projects, project); !ok && !c.r.Caller.Owns(project) {
		return "", invalid("Project ID %s is not a valid project.", project)
	}
	return project, nil
}

func (c *call) showQuota() error {
	project, err := c.quotaProject("os-quota-sets:show")
	if err != nil {
		return err
	}
	return c.ok(c.quotaSet(string(project), c.quota(project)))
}

func (c *call) defaultQuota() error {
	project := cloud.ProjectID(c.path("id"))
	return c.ok(c.quotaSet(string(project), c.classQuota(project)))
}

func (c *call) quotaSet(id string, q cloud.Quota) object {
	return object{"quota_set": c.limits(id, &q, quotaItem.shown)}
}

// limits shows the limits that the microversion has, below the id if there is one.
func (c *call) limits(id string, q *cloud.Quota, shown func(quotaItem, int) bool) object {
	out := object{}
	if id != "" {
		out["id"] = id
	}
	for _, item := range quotaItems {
		if shown(item, c.minor) {
			out[item.name] = item.limit(q)
		}
	}
	return out
}

func (c *call) detailQuota() error {
	project, err := c.quotaProject("os-quota-sets:detail")
	if err != nil {
		return err
	}
	q := c.quota(project)
	out := object{"id": project}
	for _, item := range quotaItems {
		if item.shown(c.minor) {
			used := 0
			if item.used != nil {
				used = item.used(c, project)
			}
			out[item.name] = object{"limit": item.limit(&q), "in_use": used, "reserved": 0}
		}
	}
	return c.ok(object{"quota_set": out})
}

// quotaBody is the body of both kinds of PUT.
type quotaBody struct {
	Set   *openstack.Object `json:"quota_set"`
	Class *openstack.Object `json:"quota_class_set"`
}

// readLimits binds the limits of a body; shown says which names are known. force is given beside them in quota sets.
func (c *call) readLimits(o *openstack.Object, shown func(quotaItem) bool, withForce bool) (limits map[string]int, force bool, err error) {
	limits = map[string]int{}
	for _, name := range o.Names {
		v, _ := o.Get(name)
		if name == "force" && withForce {
			if force, err = parseBoolean(v, ""); err != nil {
				return nil, false, inside(err, name, v)
			}
			continue
		}
		at := slices.IndexFunc(quotaItems, func(i quotaItem) bool { return i.name == name && shown(i) })
		if at < 0 {
			return nil, false, &openstack.InputError{Path: []string{"quota_set"}, Value: o, Reason: fmt.Sprintf("Additional properties are not allowed (%s was unexpected)", quote(name))}
		}
		var n limit
		if err := n.BindJSON(v); err != nil {
			return nil, false, inside(err, name, v)
		}
		if quotaItems[at].field == nil && int(n) != quotaItems[at].fixed {
			return nil, false, invalid("Quota limit for %s is fixed at %d.", name, quotaItems[at].fixed)
		}
		limits[name] = int(n)
	}
	return limits, force, nil
}

// updateQuota sets limits of a project. Without force a limit may not be below what is used.
func (c *call) updateQuota() error {
	if err := c.mayAdmin("os-quota-sets:update"); err != nil {
		return err
	}
	project, err := c.quotaProject("os-quota-sets:update")
	if err != nil {
		return err
	}
	var body quotaBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Set == nil || body.Class != nil {
		return invalid("'quota_set' is a required property")
	}
	limits, force, err := c.readLimits(body.Set, func(i quotaItem) bool { return i.shown(c.minor) }, true)
	if err != nil {
		return err
	}
	err = c.update(func(tx *store.Tx) error {
		q, err := store.Get(tx, tables.Quotas, project)
		if cloud.Is(err, cloud.KindNotFound) {
			q, err = c.classQuota(project), nil
		}
		if err != nil {
			return err
		}
		if err := c.setLimits(&q, project, limits, force); err != nil {
			return err
		}
		return store.Put(tx, tables.Quotas, project, q)
	})
	if err != nil {
		return err
	}
	return c.ok(c.quotaSet("", c.quota(project)))
}

func (c *call) setLimits(q *cloud.Quota, project cloud.ProjectID, limits map[string]int, force bool) error {
	for _, item := range quotaItems {
		value, given := limits[item.name]
		if !given || item.field == nil {
			continue
		}
		if item.used != nil && !force && exceeds(item.used(c, project), value) {
			return invalid("Quota limit %d for %s must be greater than or equal to already used and reserved %d.", value, item.name, item.used(c, project))
		}
		*item.field(q) = value
	}
	return nil
}

// deleteQuota gives a project the default limits again.
func (c *call) deleteQuota() error {
	if err := c.mayAdmin("os-quota-sets:delete"); err != nil {
		return err
	}
	err := c.update(func(tx *store.Tx) error { return store.Delete(tx, tables.Quotas, c.path("id")) })
	if err != nil {
		return err
	}
	return c.status(http.StatusAccepted)
}

func (c *call) showQuotaClass() error {
	if err := c.mayAdmin("os-quota-class-sets:show"); err != nil {
		return err
	}
	return c.ok(c.quotaClassSet(c.path("id")))
}

// quotaClassSet shows a class; every class but the default one has Nova's limits, since none can be used.
func (c *call) quotaClassSet(class string) object {
	q := cloud.DefaultQuota("")
	if class == defaultClass || class == "" {
		q = c.classQuota("")
	}
	return object{"quota_class_set": c.limits(class, &q, quotaItem.shownInClass)}
}

func (c *call) updateQuotaClass() error {
	if err := c.mayAdmin("os-quota-class-sets:update"); err != nil {
		return err
	}
	var body quotaBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Class == nil || body.Set != nil {
		return invalid("'quota_class_set' is a required property")
	}
	// Limits of server groups may be set before 2.50, they are only not shown.
	known := func(i quotaItem) bool { return i.shownInClass(c.minor) || i.classFrom > c.minor }
	limits, _, err := c.readLimits(body.Class, known, false)
	if err != nil {
		return err
	}
	if class := c.path("id"); class != defaultClass {
		return invalid("Quota class %s is not used: the only class is '%s'.", quote(class), defaultClass)
	}
	err = c.update(func(tx *store.Tx) error {
		q, err := store.Get(tx, tables.Quotas, classKey)
		if cloud.Is(err, cloud.KindNotFound) {
			q, err = cloud.DefaultQuota(classKey), nil
		}
		if err != nil {
			return err
		}
		if err := c.setLimits(&q, "", limits, true); err != nil {
			return err
		}
		return store.Put(tx, tables.Quotas, classKey, q)
	})
	if err != nil {
		return err
	}
	return c.ok(c.quotaClassSet(""))
}

// limitNames are the names limits have in GET /limits.
var limitNames = []struct {
	name, quota string
	until       int
}{
	{"maxTotalRAMSize", "ram", 0}, {"maxTotalInstances", "instances", 0}, {"maxTotalCores", "cores", 0}, {"maxTotalKeypairs", "key_pairs", 0},
	{"maxTotalFloatingIps", "floating_ips", 35}, {"maxServerMeta", "metadata_items", 0}, {"maxImageMeta", "metadata_items", 38},
	{"maxPersonality", "injected_files", 56}, {"maxPersonalitySize", "injected_file_content_bytes", 56},
	{"maxSecurityGroups", "security_groups", 35}, {"maxSecurityGroupRules", "security_group_rules", 35},
	{"maxServerGroups", "server_groups", 0}, {"maxServerGroupMembers", "server_group_members", 0},
}

// showLimits answers GET /limits.
func (c *call) showLimits() error {
	project := c.r.Caller.Project
	if c.query.has("tenant_id") {
		project = cloud.ProjectID(c.query.get("tenant_id"))
		if !c.r.Caller.Sees(project) {
			return openstack.Forbid("os_compute_api:limits:other_project")
		}
	}
	q, used := c.quota(project), c.quotaUsage(project)
	absolute := object{
		"totalRAMUsed": used.RAMMiB, "totalCoresUsed": used.Cores, "totalInstancesUsed": used.Instances, "totalServerGroupsUsed": c.groupsOf(project),
	}
	if !c.since(36) {
		absolute["totalFloatingIpsUsed"] = 0
		absolute["totalSecurityGroupsUsed"] = len(store.By(c.view, tables.SecurityGroups, tables.ByProject, project))
	}
	for _, l := range limitNames {
		if l.until > 0 && c.minor > l.until {
			continue
		}
		at := slices.IndexFunc(quotaItems, func(i quotaItem) bool { return i.name == l.quota })
		absolute[l.name] = quotaItems[at].limit(&q)
	}
	return c.ok(object{"limits": object{"rate": []any{}, "absolute": absolute}})
}
