package compute

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// listServers answers GET /servers and /servers/detail.
func (c *call) listServers(detail bool) error {
	if err := c.may(reader, "servers:index"); err != nil {
		return err
	}
	filter, err := c.serverFilter()
	if err != nil {
		return err
	}
	page, err := c.page()
	if err != nil {
		return err
	}
	sorting, err := c.serverSorting()
	if err != nil {
		return err
	}
	found, more, err := c.selectServers(filter, sorting, page)
	if err != nil {
		return err
	}
	v := c.serverViews(len(found))
	v.begin()
	v.array("servers")
	for _, s := range found {
		if detail {
			v.full(s, parts{extended: true})
		} else {
			v.basic(s)
		}
	}
	v.close(']')
	if more {
		path := "/servers"
		if detail {
			path = "/servers/detail"
		}
		v.array("servers_links")
		v.begin()
		v.text("rel", "next")
		v.text("href", c.nextLinks(path, string(found[len(found)-1].ID))[0].Href)
		v.close('}')
		v.close(']')
	}
	v.close('}')
	return c.ok(&v.document)
}

// selectServers returns one page of the servers that pass, in order.
func (c *call) selectServers(f serverFilter, sorting []sortKey, page openstack.Page) ([]*cloud.Server, bool, error) {
	if f.nothing {
		return nil, false, nil
	}
	if len(sorting) == 0 && !f.graves {
		return c.newestServers(f, page)
	}
	var all []*cloud.Server
	for _, s := range c.candidates(f) {
		if f.accepts(s) || string(s.ID) == page.Marker {
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b *cloud.Server) int { return compareServers(a, b, sorting) })
	found, more, err := openstack.Slice(all, page, func(s *cloud.Server) string { return string(s.ID) })
	return found, more && len(found) > 0, err
}

// candidates returns the servers a filter may find, dead ones too when it asks for them.
func (c *call) candidates(f serverFilter) []*cloud.Server {
	var out []*cloud.Server
	collect := func(t store.Table[cloud.Server]) {
		if f.project != "" {
			out = append(out, store.By(c.view, t, tables.ByProject, f.project)...)
		} else {
			out = append(out, store.All(c.view, t)...)
		}
	}
	if !f.onlyGraves {
		collect(tables.Servers)
	}
	if f.graves {
		collect(tables.Graves)
	}
	return out
}

// newestServers walks the index of creation times from the newest, which is the usual order, and stops when the page is full.
func (c *call) newestServers(f serverFilter, page openstack.Page) (found []*cloud.Server, more bool, err error) {
	index, prefix, from := tables.ByCreated, "", store.Cursor{}
	if f.project != "" {
		index, prefix = tables.ByProjectCreated, string(f.project)+"/"
		from = store.Cursor{Value: string(f.project) + "0"} // '0' follows '/': behind the project's last server
	}
	if page.Marker != "" {
		s, ok := store.Lookup(c.view, tables.Servers, page.Marker)
		if !ok || !c.r.Caller.Sees(s.Project) {
			return nil, false, openstack.BadMarker(page.Marker)
		}
		from = store.Cursor{Value: prefix + tables.SortTime(s.Created), Key: page.Marker}
	}
	for at, s := range store.Descend(c.view, tables.Servers, index, from) {
		if !strings.HasPrefix(at.Value, prefix) {
			break
		}
		if !f.accepts(s) {
			continue
		}
		if len(found) == page.Limit {
			return found, true, nil
		}
		found = append(found, s)
	}
	return found, false, nil
}

// A sortKey orders servers by one property.
type sortKey struct {
	compare    func(a, b *cloud.Server) int
	descending bool
}

// compareServers orders by the keys, then by creation and id, newest first, so that pages are stable.
func compareServers(a, b *cloud.Server, keys []sortKey) int {
	for _, k := range keys {
		n := k.compare(a, b)
		if k.descending {
			n = -n
		}
		if n != 0 {
			return n
		}
	}
	if n := b.Created.Compare(a.Created); n != 0 {
		return n
	}
	return cmp.Compare(b.ID, a.ID)
}

func byText(of func(*cloud.Server) string) func(a, b *cloud.Server) int {
	return func(a, b *cloud.Server) int { return cmp.Compare(of(a), of(b)) }
}

func byTime(of func(*cloud.Server) time.Time) func(a, b *cloud.Server) int {
	return func(a, b *cloud.Server) int { return of(a).Compare(of(b)) }
}

func byNumber(of func(*cloud.Server) int) func(a, b *cloud.Server) int {
	return func(a, b *cloud.Server) int { return cmp.Compare(of(a), of(b)) }
}

// serverSortKeys are Nova's; a nil comparison is a key that is accepted and orders nothing, because all servers have the same value.
var serverSortKeys = map[string]func(a, b *cloud.Server) int{
	"access_ip_v4":        byText(func(s *cloud.Server) string { return s.AccessIPv4 }),
	"access_ip_v6":        byText(func(s *cloud.Server) string { return s.AccessIPv6 }),
	"auto_disk_config":    byText(diskConfig),
	"availability_zone":   byText(func(s *cloud.Server) string { return s.Zone }),
	"config_drive":        byText(func(s *cloud.Server) string { return strconv.FormatBool(s.ConfigDrive) }),
	"created_at":          byTime(func(s *cloud.Server) time.Time { return s.Created }),
	"display_description": byText(func(s *cloud.Server) string { return s.Description }),
	"display_name":        byText(func(s *cloud.Server) string { return s.Name }),
	"host":                byText(func(s *cloud.Server) string { return string(s.Host) }),
	"hostname":            byText(func(s *cloud.Server) string { return s.Hostname }),
	"image_ref":           byText(func(s *cloud.Server) string { return string(s.OwnersImage()) }),
	"instance_type_id":    byText(func(s *cloud.Server) string { return string(s.Flavor.ID) }),
	"kernel_id":           nil,
	"key_name":            byText(func(s *cloud.Server) string { return s.KeyName }),
	"launch_index":        byNumber(func(s *cloud.Server) int { return s.BootIndex }),
	"launched_at":         byTime(func(s *cloud.Server) time.Time { return s.Launched }),
	"locked_by":           byText(func(s *cloud.Server) string { return strconv.FormatBool(s.Locked) }),
	"locked":              byText(func(s *cloud.Server) string { return strconv.FormatBool(s.Locked) }),
	"node":                byText(func(s *cloud.Server) string { return string(s.Host) }),
	"power_state":         byNumber(func(s *cloud.Server) int { return int(s.Power) }),
	"progress":            byNumber(func(s *cloud.Server) int { return s.Progress }),
	"project_id":          byText(func(s *cloud.Server) string { return string(s.Project) }),
	"ramdisk_id":          nil,
	"root_device_name":    nil,
	"task_state":          byText(func(s *cloud.Server) string { return string(s.Task) }),
	"terminated_at":       byTime(func(s *cloud.Server) time.Time { return s.Terminated }),
	"updated_at":          byTime(func(s *cloud.Server) time.Time { return s.Updated }),
	"user_id":             byText(func(s *cloud.Server) string { return string(s.User) }),
	"uuid":                byText(func(s *cloud.Server) string { return string(s.ID) }),
	"vm_state":            byText(func(s *cloud.Server) string { return string(s.VMState) }),
}

// ignoredSortKeys are accepted and ignored until 2.74 and refused from 2.75 on, as in Nova.
var ignoredSortKeys = []string{
	"architecture", "cell_name", "cleaned", "default_ephemeral_device", "default_swap_device", "deleted", "deleted_at", "disable_terminate",
	"ephemeral_gb", "ephemeral_key_uuid", "id", "key_data", "launched_on", "memory_mb", "os_type", "reservation_id", "root_gb",
	"shutdown_terminate", "user_data", "vcpus", "vm_mode",
}

// serverSorting reads sort_key and sort_dir; nil means the usual order.
func (c *call) serverSorting() ([]sortKey, error) {
	keys, directions := c.query["sort_key"], c.query["sort_dir"]
	var out []sortKey
	for i, name := range keys {
		compare, known := serverSortKeys[name]
		if name == "locked" && !c.since(73) {
			known, compare = false, nil
		}
		if !known && c.since(75) || !known && !slices.Contains(ignoredSortKeys, name) && name != "locked" {
			return nil, invalid("Invalid input for query parameters sort_key. Value: %s. %s is not one of %s", name, quote(name), quoteAll(sortedKeys(serverSortKeys)))
		}
		if (name == "host" || name == "node") && !c.admin() {
			return nil, cloud.Errorf(cloud.KindForbidden, "Only administrators can sort servers by %s", name)
		}
		if compare == nil {
			continue
		}
		direction := "desc"
		switch {
		case i < len(directions):
			direction = directions[i]
		case len(directions) > 0:
			direction = directions[len(directions)-1]
		}
		if direction != "asc" && direction != "desc" {
			return nil, invalid("Unknown sort direction, must be one of: asc, desc")
		}
		out = append(out, sortKey{compare, direction == "desc"})
	}
	if len(out) == 0 && len(directions) > 0 && directions[0] == "asc" {
		out = append(out, sortKey{serverSortKeys["created_at"], false})
	}
	return out, nil
}

// matcher compiles a filter that is a regular expression; Nova hands it to its database, which ignores case.
func matcher(expression string) (func(string) bool, error) {
	r, err := regexp.Compile("(?i)" + expression)
	if err != nil {
		return nil, invalid("Invalid input for query parameters. Value: %s. %s is not a 'regex'", expression, quote(expression))
	}
	return r.MatchString, nil
}
