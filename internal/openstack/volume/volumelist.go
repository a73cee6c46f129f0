package volume

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

// A filter says which things of a list a request is about.
type filter[T any] struct {
	project cloud.ProjectID // empty: all
	keep    []func(*T) bool
}

func (f *filter[T]) add(keep func(*T) bool) { f.keep = append(f.keep, keep) }

func (f *filter[T]) accepts(v *T) bool {
	return !slices.ContainsFunc(f.keep, func(keep func(*T) bool) bool { return !keep(v) })
}

// scope sets whose things a list shows: the caller's project's, or those that an administrator asks for.
func (c *call) scope() (cloud.ProjectID, error) {
	all, err := c.flag("all_tenants")
	if err != nil {
		return "", err
	}
	if !c.admin() {
		return c.r.Caller.Project, nil // the parameter is not theirs, and is ignored as in Cinder
	}
	if p := cmp.Or(c.query("project_id"), c.query("tenant_id")); p != "" {
		return cloud.ProjectID(p), nil
	}
	if all || c.r.Caller.Project == "" {
		return "", nil
	}
	return c.r.Caller.Project, nil
}

// paging are the parameters of every list that are no filters.
var paging = []string{"limit", "offset", "marker", "sort", "sort_key", "sort_dir", "all_tenants", "with_count", "project_id", "tenant_id"}

// refuseUnknownFilters refuses, from 3.33 on, what anybody but an administrator asks for beyond the known filters. Before it is ignored.
func (c *call) refuseUnknownFilters(known []string) error {
	if c.admin() || !c.since(33) {
		return nil
	}
	var strange []string
	for name := range c.r.URL.Query() {
		bare := name
		if c.since(34) {
			bare = strings.TrimSuffix(name, "~")
		}
		if !slices.Contains(known, bare) && !slices.Contains(paging, name) {
			strange = append(strange, name)
		}
	}
	if len(strange) == 0 {
		return nil
	}
	slices.Sort(strange)
	return invalid("Invalid filters %s are found in query options.", strings.Join(strange, ","))
}

// volumeFilters are the filters for everybody; administrators have those of adminVolumeFilters besides.
var volumeFilters = []string{"name", "status", "metadata", "bootable", "migration_status", "availability_zone", "group_id", "size",
	"glance_metadata", "created_at", "updated_at", "consumes_quota", "volume_type", "multiattach", "snapshot_id", "source_volid", "id", "display_name"}

// fieldsOf are the properties of a volume that filters compare as text.
func (c *call) fieldsOf() map[string]func(*cloud.Volume) string {
	out := map[string]func(*cloud.Volume) string{
		"name": func(v *cloud.Volume) string { return v.Name }, "display_name": func(v *cloud.Volume) string { return v.Name },
		"status": func(v *cloud.Volume) string { return string(v.Status) }, "availability_zone": func(v *cloud.Volume) string { return v.Zone },
		"migration_status": func(v *cloud.Volume) string { return v.MigrationStatus }, "size": func(v *cloud.Volume) string { return strconv.Itoa(v.SizeGiB) },
		"group_id": func(*cloud.Volume) string { return "" }, "id": func(v *cloud.Volume) string { return string(v.ID) },
		"snapshot_id": func(v *cloud.Volume) string { return string(v.SourceSnapshot) }, "source_volid": func(v *cloud.Volume) string { return string(v.SourceVolume) },
	}
	if c.admin() {
		out["user_id"] = func(v *cloud.Volume) string { return string(v.User) }
		out["host"] = func(v *cloud.Volume) string { host, _ := hostOf(v).(string); return host }
	}
	return out
}

// volumeFilter reads the filters of a list of volumes.
func (c *call) volumeFilter() (filter[cloud.Volume], error) {
	var f filter[cloud.Volume]
	var err error
	if f.project, err = c.scope(); err != nil {
		return f, err
	}
	if err := c.refuseUnknownFilters(volumeFilters); err != nil {
		return f, err
	}
	query, fields := c.r.URL.Query(), c.fieldsOf()
	for name := range query {
		value := query.Get(name)
		if of := fields[name]; of != nil {
			f.add(func(v *cloud.Volume) bool { return textMatches(of(v), value) })
			continue
		}
		if of := fields[strings.TrimSuffix(name, "~")]; of != nil && c.since(34) {
			f.add(func(v *cloud.Volume) bool { return likeMatch(of(v), value) })
			continue
		}
		if err := c.specialFilter(&f, name, value); err != nil {
			return f, err
		}
	}
	return f, nil
}

// textMatches compares as Cinder does: a value in brackets is a list of which one must match, "None" is nothing.
func textMatches(text, value string) bool {
	if list, ok := strings.CutPrefix(value, "["); ok && strings.HasSuffix(list, "]") {
		for one := range strings.SplitSeq(strings.TrimSuffix(list, "]"), ",") {
			if strings.Trim(strings.TrimSpace(one), `'"`) == text {
				return true
			}
		}
		return false
	}
	return text == value || value == "None" && text == ""
}

// specialFilter reads the filters that are no plain text.
func (c *call) specialFilter(f *filter[cloud.Volume], name, value string) error {
	switch {
	case name == "bootable":
		return c.filterBoolean(f, name, value, func(v *cloud.Volume) bool { return v.Bootable }, c.since(2))
	case name == "multiattach":
		return c.filterBoolean(f, name, value, func(v *cloud.Volume) bool { return v.Multiattach }, true)
	case name == "consumes_quota" && c.since(65):
		return c.filterBoolean(f, name, value, func(*cloud.Volume) bool { return true }, true)
	case name == "volume_type" || name == "volume_type_id":
		f.add(func(v *cloud.Volume) bool { return string(v.Type) == value || c.typeName(v.Type) == value })
	case name == "metadata":
		return filterMap(f, name, value, func(v *cloud.Volume) map[string]string { return v.Metadata })
	case name == "glance_metadata" && c.since(4):
		return filterMap(f, name, value, func(v *cloud.Volume) map[string]string { return v.ImageMetadata })
	case name == "created_at" && c.since(60):
		return filterTime(f, name, value, func(v *cloud.Volume) time.Time { return v.Created })
	case name == "updated_at" && c.since(60):
		return filterTime(f, name, value, func(v *cloud.Volume) time.Time { return v.Updated })
	}
	return nil
}

// filterBoolean keeps what has the value. Before 3.2 anything but false meant true.
func (c *call) filterBoolean(f *filter[cloud.Volume], name, value string, of func(*cloud.Volume) bool, strict bool) error {
	want, ok := parseBoolean(value)
	if !ok {
		if strict {
			return invalidInput("%s=%s", name, value)
		}
		want = true
	}
	f.add(func(v *cloud.Volume) bool { return of(v) == want })
	return nil
}

// filterMap keeps what has all the pairs of a dictionary written as Python or JSON.
func filterMap[T any](f *filter[T], name, value string, of func(*T) map[string]string) error {
	want, ok := parseDictionary(value)
	if !ok {
		return invalidInput("%s=%s is not a dictionary", name, value)
	}
	f.add(func(v *T) bool {
		have := of(v)
		for k, w := range want {
			if h, ok := have[k]; !ok || h != w {
				return false
			}
		}
		return true
	})
	return nil
}

// parseDictionary reads {'a': 'b'} of texts and numbers, as Python's str and JSON write it.
func parseDictionary(s string) (map[string]string, bool) {
	s = strings.TrimSpace(s)
	if v, err := openstack.ParseObject([]byte(s)); err == nil {
		return dictionaryOf(v)
	}
	// Python's own way of writing texts; one with both kinds of quotes in it is not worth a parser.
	v, err := openstack.ParseObject([]byte(strings.ReplaceAll(strings.ReplaceAll(s, "u'", "'"), "'", `"`)))
	if err != nil {
		return nil, false
	}
	return dictionaryOf(v)
}

func dictionaryOf(o *openstack.Object) (map[string]string, bool) {
	out := map[string]string{}
	for _, name := range o.Names {
		v, _ := o.Get(name)
		text, ok := v.(string)
		if !ok {
			number, isNumber := v.(interface{ String() string })
			if !isNumber {
				return nil, false
			}
			text = number.String()
		}
		out[name] = text
	}
	return out, true
}

// timeTests compare by the operators of 3.60: "gt:2026-01-02T15:04:05,lt:...".
var timeTests = map[string]func(n int) bool{
	"gt": func(n int) bool { return n > 0 }, "gte": func(n int) bool { return n >= 0 }, "eq": func(n int) bool { return n == 0 },
	"neq": func(n int) bool { return n != 0 }, "lt": func(n int) bool { return n < 0 }, "lte": func(n int) bool { return n <= 0 },
}

func filterTime[T any](f *filter[T], name, value string, of func(*T) time.Time) error {
	for part := range strings.SplitSeq(value, ",") {
		operator, text, found := strings.Cut(part, ":")
		test := timeTests[operator]
		if test == nil {
			operator, text, test = "eq", part, timeTests["eq"]
		}
		at, ok := parseTime(text)
		if !ok || found && operator == "" {
			return invalidInput("Invalid filter value for %s: %s. Time must be ISO 8601.", name, part)
		}
		f.add(func(v *T) bool { return test(of(v).Truncate(time.Second).Compare(at)) })
	}
	return nil
}

func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04:05.999999", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// matchingVolumes returns the volumes that pass, in no particular order.
func (c *call) matchingVolumes(f filter[cloud.Volume]) []*cloud.Volume {
	all := store.All(c.view, tables.Volumes)
	if f.project != "" {
		all = store.By(c.view, tables.Volumes, tables.ByProject, f.project)
	}
	return slices.DeleteFunc(all, func(v *cloud.Volume) bool { return !f.accepts(v) })
}

// volumeOrders are the keys that volumes can be sorted by.
var volumeOrders = map[string]func(a, b *cloud.Volume) int{
	"id":     func(a, b *cloud.Volume) int { return cmp.Compare(a.ID, b.ID) },
	"status": func(a, b *cloud.Volume) int { return cmp.Compare(a.Status, b.Status) }, "size": func(a, b *cloud.Volume) int { return cmp.Compare(a.SizeGiB, b.SizeGiB) },
	"availability_zone": func(a, b *cloud.Volume) int { return cmp.Compare(a.Zone, b.Zone) }, "name": func(a, b *cloud.Volume) int { return cmp.Compare(a.Name, b.Name) },
	"display_name": func(a, b *cloud.Volume) int { return cmp.Compare(a.Name, b.Name) }, "created_at": func(a, b *cloud.Volume) int { return a.Created.Compare(b.Created) },
	"updated_at": func(a, b *cloud.Volume) int { return a.Updated.Compare(b.Updated) },
	"bootable": func(a, b *cloud.Volume) int {
		return cmp.Compare(strconv.FormatBool(a.Bootable), strconv.FormatBool(b.Bootable))
	},
	"host": func(a, b *cloud.Volume) int { return cmp.Compare(a.Service, b.Service) },
}

// sortItems sorts by the request's keys, newest first when it names none; the id makes the order total.
func sortItems[T any](c *call, items []*T, orders map[string]func(a, b *T) int) error {
	keys, directions, err := c.sorting()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if orders[k] == nil {
			return invalidInput("Sort key is invalid: %s", k)
		}
	}
	slices.SortFunc(items, func(a, b *T) int {
		for i, k := range keys {
			n := orders[k](a, b)
			if directions[i] {
				n = -n
			}
			if n != 0 {
				return n
			}
		}
		return -orders["id"](a, b)
	})
	return nil
}

// sorting reads sort ("key:dir,key") or the older sort_key and sort_dir; the directions say whether they descend.
func (c *call) sorting() (keys []string, descend []bool, err error) {
	q := c.r.URL.Query()
	var given []string
	switch {
	case q.Has("sort") && (q.Has("sort_key") || q.Has("sort_dir")):
		return nil, nil, invalid("The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.")
	case q.Has("sort"):
		given = strings.Split(q.Get("sort"), ",")
	default:
		given = []string{cmp.Or(q.Get("sort_key"), "created_at") + ":" + cmp.Or(q.Get("sort_dir"), "desc")}
	}
	for _, one := range given {
		key, direction, _ := strings.Cut(strings.TrimSpace(one), ":")
		direction = cmp.Or(direction, "desc")
		if direction != "asc" && direction != "desc" {
			return nil, nil, invalidInput("Unknown sort direction, must be one of: asc, desc")
		}
		keys, descend = append(keys, cmp.Or(key, "created_at")), append(descend, direction == "desc")
	}
	return keys, descend, nil
}

// page cuts the request's page out of a sorted list.
func page[T any](c *call, items []*T, id func(*T) string, missing func(string) error) (found []*T, more bool, err error) {
	p, err := c.r.Page(openstack.PageMax)
	if err != nil {
		return nil, false, err
	}
	if text := c.query("offset"); text != "" {
		offset, err := strconv.Atoi(text)
		if err != nil || offset < 0 {
			return nil, false, invalidInput("offset param must be an integer")
		}
		items = items[min(offset, len(items)):]
	}
	found, more, err = openstack.Slice(items, p, id)
	if err != nil {
		return nil, false, missing(p.Marker)
	}
	return found, more, nil
}

// listVolumes answers GET /volumes and /volumes/detail.
func (c *call) listVolumes(detail bool) error {
	if err := c.may(reader, "volume:get_all"); err != nil {
		return err
	}
	f, err := c.volumeFilter()
	if err != nil {
		return err
	}
	all := c.matchingVolumes(f)
	if err := sortItems(c, all, volumeOrders); err != nil {
		return err
	}
	found, more, err := page(c, all, func(v *cloud.Volume) string { return string(v.ID) }, volumeMissing)
	if err != nil {
		return err
	}
	views := make([]object, len(found))
	for i, v := range found {
		if detail {
			views[i] = c.volumeView(v)
		} else {
			views[i] = c.summaryView(v)
		}
	}
	path := "/volumes"
	if detail {
		path += "/detail"
	}
	return c.list("volumes", path, views, len(all), more)
}

// list answers with one page: its items, the link to the next, and how many there are in all if that was asked for.
func (c *call) list(name, path string, views []object, count int, more bool) error {
	out := object{name: views}
	if more && len(views) > 0 {
		last, _ := views[len(views)-1]["id"]
		out[name+"_links"] = c.nextLinks(path, text(last))
	}
	if c.since(45) {
		with, err := c.flag("with_count")
		if err != nil {
			return err
		}
		if with {
			out["count"] = count
		}
	}
	return c.ok(out)
}
