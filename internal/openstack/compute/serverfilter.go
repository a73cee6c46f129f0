package compute

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A serverFilter is what a list of servers was restricted to.
type serverFilter struct {
	nothing    bool            // no server can pass
	project    cloud.ProjectID // empty: all projects
	graves     bool            // look among the deleted too
	onlyGraves bool            // look only there
	tests      []func(*cloud.Server) bool
}

func (f *serverFilter) accepts(s *cloud.Server) bool {
	for _, test := range f.tests {
		if !test(s) {
			return false
		}
	}
	return true
}

func (f *serverFilter) add(test func(*cloud.Server) bool) { f.tests = append(f.tests, test) }

// expressionFilters are parameters matched as regular expressions, as Nova does for what it has no exact rule for.
var expressionFilters = map[string]func(*cloud.Server) string{
	"name": func(s *cloud.Server) string { return s.Name }, "display_name": func(s *cloud.Server) string { return s.Name },
	"description": func(s *cloud.Server) string { return s.Description }, "display_description": func(s *cloud.Server) string { return s.Description },
	"hostname": func(s *cloud.Server) string { return s.Hostname }, "key_name": func(s *cloud.Server) string { return s.KeyName },
	"power_state":       func(s *cloud.Server) string { return strconv.Itoa(int(s.Power)) },
	"node":              func(s *cloud.Server) string { return string(s.Host) },
	"reservation_id":    func(s *cloud.Server) string { return s.Reservation },
	"launched_at":       func(s *cloud.Server) string { return databaseTime(s.Launched) },
	"terminated_at":     func(s *cloud.Server) string { return databaseTime(s.Terminated) },
	"created_at":        func(s *cloud.Server) string { return databaseTime(s.Created) },
	"availability_zone": nil, // by host; see zoneFilter
	"root_device_name":  func(*cloud.Server) string { return rootDevice },
	"config_drive":      nil, // a boolean in disguise
	"access_ip_v4":      func(s *cloud.Server) string { return s.AccessIPv4 },
	"access_ip_v6":      func(s *cloud.Server) string { return s.AccessIPv6 },
	"auto_disk_config":  func(s *cloud.Server) string { return strconv.FormatBool(s.DiskConfig == "AUTO") },
	"progress":          func(s *cloud.Server) string { return strconv.Itoa(s.Progress) },
	"kernel_id":         func(*cloud.Server) string { return "" }, "ramdisk_id": func(*cloud.Server) string { return "" },
	"locked_by": lockedBy, "ip": nil, "ip6": nil, "flavor": nil,
}

// exactFilters are parameters that must be equal; several values are alternatives.
var exactFilters = map[string]func(*cloud.Server) string{
	"user_id": func(s *cloud.Server) string { return string(s.User) },
	"image":   func(s *cloud.Server) string { return string(s.OwnersImage()) }, "image_ref": func(s *cloud.Server) string { return string(s.OwnersImage()) },
	"vm_state": func(s *cloud.Server) string { return string(s.VMState) }, "task_state": func(s *cloud.Server) string { return string(s.Task) },
	"uuid": func(s *cloud.Server) string { return string(s.ID) }, "host": func(s *cloud.Server) string { return string(s.Host) },
	"launch_index": func(s *cloud.Server) string { return strconv.Itoa(s.BootIndex) },
}

// joinedTables are names Nova refuses in queries, because they once reached its database.
var joinedTables = []string{"block_device_mapping", "services", "metadata", "system_metadata", "info_cache", "security_groups", "pci_devices"}

// openFilters are the parameters everybody may filter by, with the microversion from which on; administrators may use all.
var openFilters = map[string]int{
	"reservation_id": 1, "name": 1, "status": 1, "image": 1, "flavor": 1, "ip": 1, "changes-since": 1, "all_tenants": 1,
	"ip6": 5, "tags": 26, "tags-any": 26, "not-tags": 26, "not-tags-any": 26, "changes-before": 66, "locked": 73,
	"availability_zone": 83, "config_drive": 83, "key_name": 83, "created_at": 83, "launched_at": 83, "terminated_at": 83,
	"power_state": 83, "task_state": 83, "vm_state": 83, "progress": 83, "user_id": 83, "hostname": 90,
}

// serverQuery is the query of the lists of servers.
var serverQuery = querySchema{strict: 75, parameters: slices.Concat(
	serverExpressionParameters(), plain(sortedKeys(exactFilters)...), plain(joinedTables...), paging(0, false),
	plain("project_id", "tenant_id", "sort_key", "sort_dir", "all_tenants", "soft_deleted", "deleted", "status"),
	[]parameter{
		{name: "changes-since", check: checkTime},
		{name: "changes-before", since: 66, check: checkTime},
		{name: "tags", since: 26, check: checkRegexp}, {name: "tags-any", since: 26, check: checkRegexp},
		{name: "not-tags", since: 26, check: checkRegexp}, {name: "not-tags-any", since: 26, check: checkRegexp},
		{name: "locked", since: 73},
	},
)}

func serverExpressionParameters() []parameter {
	var out []parameter
	for _, name := range sortedKeys(expressionFilters) {
		out = append(out, parameter{name: name, check: checkRegexp})
	}
	return out
}

func lockedBy(s *cloud.Server) string {
	switch {
	case s.LockedByAdmin:
		return "admin"
	case s.Locked:
		return "owner"
	}
	return ""
}

// databaseTime is how Nova's database writes a time, which is what filters by time are matched against.
func databaseTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// serverFilter reads the query of a list of servers.
func (c *call) serverFilter() (serverFilter, error) {
	q := c.permittedFilters()
	var f serverFilter
	for _, name := range joinedTables {
		if q.has(name) {
			return f, invalid("Invalid filter field: %s.", name)
		}
	}
	for _, step := range []func(*serverFilter, parameters) error{
		c.filterScope, c.filterStatus, c.filterChanges, c.filterDeleted, c.filterTexts, c.filterTags, c.filterSpecials,
	} {
		if err := step(&f, q); err != nil || f.nothing {
			return f, err
		}
	}
	return f, nil
}

// permittedFilters drops what the caller may not filter by; Nova drops it silently too.
func (c *call) permittedFilters() parameters {
	if c.admin() {
		return c.query
	}
	out := parameters{}
	for name, values := range c.query {
		if since, open := openFilters[name]; open && c.since(since) || slices.Contains(joinedTables, name) {
			out[name] = values
		}
	}
	return out
}

// filterScope restricts to the caller's project unless an administrator asked for all.
func (c *call) filterScope(f *serverFilter, q parameters) error {
	all, ok := q.has("all_tenants"), true
	if text := q.get("all_tenants"); text != "" {
		all, ok = queryBoolean(text)
	}
	switch {
	case !ok:
		return invalid("Invalid input received: Unrecognized value %s, acceptable values are: '0', '1', 'f', 'false', 'n', 'no', 'off', 'on', 't', 'true', 'y', 'yes'", quote(q.get("all_tenants")))
	case !all && c.r.Caller.Project == "":
		f.add(func(s *cloud.Server) bool { return s.User == c.r.Caller.User })
	case !all:
		f.project = c.r.Caller.Project
	case !c.admin():
		return openstack.Forbid("os_compute_api:servers:index:get_all_tenants")
	default:
		f.project = cloud.ProjectID(q.get("project_id"))
		if f.project == "" {
			f.project = cloud.ProjectID(q.get("tenant_id"))
		}
	}
	return nil
}

// filterStatus restricts to any of several statuses.
func (c *call) filterStatus(f *serverFilter, q parameters) error {
	wanted := q["status"]
	if len(wanted) == 0 {
		return nil
	}
	if !slices.ContainsFunc(wanted, knownStatus) {
		if c.since(38) {
			return invalid("Invalid status value")
		}
		f.nothing = true
		return nil
	}
	if len(wanted) == 1 && strings.EqualFold(wanted[0], "DELETED") {
		if !c.admin() {
			return cloud.Errorf(cloud.KindForbidden, "Only administrators may list deleted instances")
		}
		f.graves, f.onlyGraves = true, true
	}
	f.add(func(s *cloud.Server) bool {
		status := statusOf(s)
		return slices.ContainsFunc(wanted, func(w string) bool { return strings.EqualFold(w, status) })
	})
	return nil
}

// changed is when a server last changed, its end included.
func changed(s *cloud.Server) time.Time {
	if s.Terminated.After(s.Updated) {
		return s.Terminated
	}
	return s.Updated
}

// filterChanges restricts to what changed in an interval. Deleted servers are part of what changed.
func (c *call) filterChanges(f *serverFilter, q parameters) error {
	if err := checkChanges(q); err != nil {
		return err
	}
	if q.has("changes-since") {
		since := q.time("changes-since")
		f.graves = true
		f.add(func(s *cloud.Server) bool { return !changed(s).Before(since) })
	}
	if q.has("changes-before") {
		before := q.time("changes-before")
		f.graves = true
		f.add(func(s *cloud.Server) bool { return !changed(s).After(before) })
	}
	return nil
}

// filterDeleted restricts to the deleted or the living, whatever else would have widened the search.
func (c *call) filterDeleted(f *serverFilter, q parameters) error {
	if q.has("deleted") {
		deleted, _ := queryBoolean(q.get("deleted")) // Nova takes anything else for false
		f.graves, f.onlyGraves = deleted, deleted
	}
	return nil
}

// filterTexts adds the filters that compare one text.
func (c *call) filterTexts(f *serverFilter, q parameters) error {
	for name, of := range exactFilters {
		if values := q[name]; len(values) > 0 {
			f.add(func(s *cloud.Server) bool { return slices.Contains(values, of(s)) })
		}
	}
	for name, of := range expressionFilters {
		if of == nil || !q.has(name) {
			continue
		}
		matches, err := matcher(q.get(name))
		if err != nil {
			return err
		}
		f.add(func(s *cloud.Server) bool { return matches(of(s)) })
	}
	return nil
}

// tagTests says when a server passes a tag filter, given how many of the tags it has.
var tagTests = map[string]func(have, asked int) bool{
	"tags":         func(have, asked int) bool { return have == asked },
	"tags-any":     func(have, _ int) bool { return have > 0 },
	"not-tags":     func(have, asked int) bool { return have < asked },
	"not-tags-any": func(have, _ int) bool { return have == 0 },
}

func (c *call) filterTags(f *serverFilter, q parameters) error {
	for name, test := range tagTests {
		if !q.has(name) {
			continue
		}
		asked := strings.Split(q.get(name), ",")
		f.add(func(s *cloud.Server) bool {
			have := 0
			for _, t := range asked {
				if slices.Contains(s.Tags, t) {
					have++
				}
			}
			return test(have, len(asked))
		})
	}
	return nil
}

// filterSpecials adds the filters that need more than the server's record.
func (c *call) filterSpecials(f *serverFilter, q parameters) error {
	if q.has("locked") {
		locked, ok := queryBoolean(q.get("locked"))
		if !ok {
			return invalid("Invalid input received: Unrecognized value %s, acceptable values are: '0', '1', 'f', 'false', 'n', 'no', 'off', 'on', 't', 'true', 'y', 'yes'", quote(q.get("locked")))
		}
		f.add(func(s *cloud.Server) bool { return s.Locked == locked })
	}
	if q.has("config_drive") {
		drive, _ := queryBoolean(q.get("config_drive"))
		f.add(func(s *cloud.Server) bool { return s.ConfigDrive == drive })
	}
	if q.has("flavor") {
		id := q.get("flavor")
		if at := strings.LastIndexByte(id, '/'); at >= 0 {
			id = id[at+1:]
		}
		f.add(func(s *cloud.Server) bool { return string(s.Flavor.ID) == id })
	}
	if q.has("availability_zone") {
		matches, err := matcher(q.get("availability_zone"))
		if err != nil {
			return err
		}
		hosts := &fleet{view: c.view}
		f.add(func(s *cloud.Server) bool {
			if s.Host == "" {
				return matches(s.Zone)
			}
			return matches(hosts.zone(s.Host))
		})
	}
	return c.filterAddresses(f, q)
}

// filterAddresses restricts to servers with an address that matches. Nova takes ip for a part of the address.
func (c *call) filterAddresses(f *serverFilter, q parameters) error {
	for _, name := range []string{"ip", "ip6"} {
		if !q.has(name) {
			continue
		}
		matches, err := matcher(q.get(name))
		if err != nil {
			return err
		}
		version := map[string]int{"ip": 4, "ip6": 6}[name]
		f.add(func(s *cloud.Server) bool {
			for _, id := range s.Ports {
				p, ok := store.Lookup(c.view, tables.Ports, id)
				if ok && slices.ContainsFunc(p.FixedIPs, func(ip cloud.FixedIP) bool { return ipVersion(ip.Address) == version && matches(ip.Address) }) {
					return true
				}
			}
			return false
		})
	}
	return nil
}
