package image

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
	"github.com/godwit-cloud/godwit/internal/store/tables"
)

const (
	// pageDefault is Glance's limit_param_default.
	pageDefault = 25
	// sortKeysMax bounds the work of a comparison.
	sortKeysMax = 8
)

func (s *Service) list(w http.ResponseWriter, r *openstack.Request) error {
	if err := r.Caller.Require(openstack.RoleReader, "get_images"); err != nil {
		return err
	}
	q := r.URL.Query()
	page, err := pageOf(r, q)
	if err != nil {
		return err
	}
	order, err := parseSort(q)
	if err != nil {
		return err
	}
	pass, err := parseFilters(r.Caller, q)
	if err != nil {
		return err
	}
	found := slices.DeleteFunc(store.All(s.store, tables.Images), func(i *cloud.Image) bool { return !pass(i) })
	slices.SortFunc(found, order)
	found, more, err := openstack.Slice(found, page, func(i *cloud.Image) string { return string(i.ID) })
	if err != nil {
		return err
	}
	out := map[string]any{"schema": "/v2/schemas/images", "first": link(q, "")}
	images := make([]map[string]any, len(found))
	for n, i := range found {
		images[n] = view(i)
	}
	out["images"] = images
	if more {
		out["next"] = link(q, string(found[len(found)-1].ID))
	}
	return openstack.WriteJSON(w, http.StatusOK, out)
}

// pageOf reads limit and marker. Limit 0 is an empty page in Glance; it is taken as the default here, which clients that page expect.
func pageOf(r *openstack.Request, q url.Values) (openstack.Page, error) {
	p, err := r.Page(openstack.PageMax)
	if err != nil {
		return p, cloud.Errorf(cloud.KindInvalid, "limit param must be a non-negative integer")
	}
	if !q.Has("limit") || q.Get("limit") == "0" {
		p.Limit = pageDefault
	}
	return p, nil
}

// link is a relative link to the page behind the marker.
func link(q url.Values, marker string) string {
	next := url.Values{}
	for k, v := range q {
		if k != "marker" {
			next[k] = v
		}
	}
	if marker != "" {
		next.Set("marker", marker)
	}
	if len(next) == 0 {
		return "/v2/images"
	}
	return "/v2/images?" + next.Encode()
}

// orders compare images by one key.
var orders = map[string]func(a, b *cloud.Image) int{
	"id":               func(a, b *cloud.Image) int { return cmp.Compare(a.ID, b.ID) },
	"name":             func(a, b *cloud.Image) int { return cmp.Compare(a.Name, b.Name) },
	"status":           func(a, b *cloud.Image) int { return cmp.Compare(a.Status, b.Status) },
	"container_format": func(a, b *cloud.Image) int { return cmp.Compare(a.ContainerFormat, b.ContainerFormat) },
	"disk_format":      func(a, b *cloud.Image) int { return cmp.Compare(a.DiskFormat, b.DiskFormat) },
	"size":             func(a, b *cloud.Image) int { return cmp.Compare(a.SizeBytes, b.SizeBytes) },
	"created_at":       func(a, b *cloud.Image) int { return a.Created.Compare(b.Created) },
	"updated_at":       func(a, b *cloud.Image) int { return a.Updated.Compare(b.Updated) },
}

// parseSort reads sort ("name:asc,created_at") or sort_key and sort_dir; the default is newest first, and the id decides between equals.
func parseSort(q url.Values) (func(a, b *cloud.Image) int, error) {
	var keys, dirs []string
	if text := q.Get("sort"); text != "" {
		if q.Has("sort_key") || q.Has("sort_dir") {
			return nil, cloud.Errorf(cloud.KindInvalid, "Old and new sorting syntax cannot be combined")
		}
		for part := range strings.SplitSeq(text, ",") {
			key, dir, _ := strings.Cut(part, ":")
			keys, dirs = append(keys, strings.TrimSpace(key)), append(dirs, strings.TrimSpace(dir))
		}
	} else {
		keys, dirs = q["sort_key"], q["sort_dir"]
		if len(dirs) > 1 && len(dirs) != len(keys) {
			return nil, cloud.Errorf(cloud.KindInvalid, "Number of sort dirs does not match the number of sort keys")
		}
		if len(keys) == 0 {
			keys = []string{"created_at"}
		}
	}
	if len(keys) > sortKeysMax {
		return nil, cloud.Errorf(cloud.KindInvalid, "At most %d sort keys are taken", sortKeysMax)
	}
	var steps []func(a, b *cloud.Image) int
	for n, key := range keys {
		order, ok := orders[key]
		if !ok {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid sort key: %.50s. It must be one of the following: %s.", key, strings.Join(sortedKeys(orders), ", "))
		}
		dir := "desc"
		switch {
		case n < len(dirs) && dirs[n] != "":
			dir = dirs[n]
		case len(dirs) == 1 && dirs[0] != "":
			dir = dirs[0]
		}
		switch dir {
		case "asc":
			steps = append(steps, order)
		case "desc":
			steps = append(steps, func(a, b *cloud.Image) int { return order(b, a) })
		default:
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid sort direction: %.50s. It must be one of the following: asc, desc.", dir)
		}
	}
	return func(a, b *cloud.Image) int {
		for _, step := range steps {
			if c := step(a, b); c != 0 {
				return c
			}
		}
		return orders["id"](a, b)
	}, nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

type filter func(*cloud.Image) bool

// notFilters are the query's other parameters.
var notFilters = []string{"limit", "marker", "sort", "sort_key", "sort_dir"}

// parseFilters returns one filter of all the query asks for and the caller may see.
func parseFilters(c *openstack.Caller, q url.Values) (filter, error) {
	visible, err := listed(c, q)
	if err != nil {
		return nil, err
	}
	all := []filter{visible}
	if !q.Has("os_hidden") {
		all = append(all, func(i *cloud.Image) bool { return !i.Hidden })
	}
	for name, values := range q {
		if slices.Contains(notFilters, name) || name == "visibility" || name == "member_status" {
			continue
		}
		for _, value := range values {
			f, err := parseFilter(name, value)
			if err != nil {
				return nil, err
			}
			all = append(all, f)
		}
	}
	return func(i *cloud.Image) bool {
		for _, f := range all {
			if !f(i) {
				return false
			}
		}
		return true
	}, nil
}

// listed returns the filter of what a list shows: narrower than what may be seen, since community images and shared ones not accepted are
// listed only when asked for.
func listed(c *openstack.Caller, q url.Values) (filter, error) {
	want := q.Get("visibility")
	if want != "" && want != "all" && !slices.Contains(visibilities, want) {
		return nil, cloud.Errorf(cloud.KindInvalid, "Invalid visibility value: %.50s", want)
	}
	memberStatus := memberAccepted
	if q.Has("member_status") {
		memberStatus = q.Get("member_status")
		if !slices.Contains([]string{memberPending, memberAccepted, memberRejected, "all"}, memberStatus) {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid status: %.50s", memberStatus)
		}
	}
	return func(i *cloud.Image) bool {
		if !Visible(c, i) || want != "" && want != "all" && i.Visibility != want {
			return false
		}
		if c.Owns(i.Owner) || i.Visibility == visibilityPublic {
			return true
		}
		if i.Visibility == visibilityCommunity {
			return want == visibilityCommunity || want == "all"
		}
		if status, member := i.Members[c.Project]; member && i.Visibility == visibilityShared {
			return memberStatus == "all" || status == memberStatus
		}
		return c.IsAdmin()
	}, nil
}

// parseFilter reads one parameter. What is not a built-in property is a custom one.
func parseFilter(name, value string) (filter, error) {
	if get, ok := texts[name]; ok {
		allowed, err := oneOf(value)
		return func(i *cloud.Image) bool { return slices.Contains(allowed, get(i)) }, err
	}
	switch name {
	case "tag":
		return func(i *cloud.Image) bool { return slices.Contains(i.Tags, value) }, nil
	case "protected", "os_hidden":
		flag, err := strconv.ParseBool(strings.ToLower(value))
		if err != nil {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid value '%.50s' for '%s' filter. Valid values are case insensitive 'true' or 'false'.", value, name)
		}
		if name == "protected" {
			return func(i *cloud.Image) bool { return i.Protected == flag }, nil
		}
		return func(i *cloud.Image) bool { return i.Hidden == flag }, nil
	case "size_min", "size_max", "min_ram", "min_disk":
		return sizeFilter(name, value)
	case "created_at", "updated_at":
		return timeFilter(name, value)
	}
	return func(i *cloud.Image) bool { v, ok := i.Properties[name]; return ok && v == value }, nil
}

// texts are the properties compared as text, with Glance's "in:a,b".
var texts = map[string]func(*cloud.Image) string{
	"id":               func(i *cloud.Image) string { return string(i.ID) },
	"name":             func(i *cloud.Image) string { return i.Name },
	"owner":            func(i *cloud.Image) string { return string(i.Owner) },
	"status":           func(i *cloud.Image) string { return string(i.Status) },
	"disk_format":      func(i *cloud.Image) string { return i.DiskFormat },
	"container_format": func(i *cloud.Image) string { return i.ContainerFormat },
	"checksum":         func(i *cloud.Image) string { return i.MD5 },
	"os_hash_value":    func(i *cloud.Image) string { return i.Hash },
}

// oneOf splits "in:a,"b,c"" into its values; anything else is one value.
func oneOf(value string) ([]string, error) {
	rest, ok := strings.CutPrefix(value, "in:")
	if !ok {
		return []string{value}, nil
	}
	var out []string
	for rest != "" {
		if !strings.HasPrefix(rest, `"`) {
			item, after, _ := strings.Cut(rest, ",")
			out, rest = append(out, item), after
			continue
		}
		item, after, closed := strings.Cut(rest[1:], `"`)
		if !closed || after != "" && after[0] != ',' {
			return nil, cloud.Errorf(cloud.KindInvalid, "Invalid filter value %.100s. The quote is not closed.", value)
		}
		out, rest = append(out, item), strings.TrimPrefix(after, ",")
	}
	return out, nil
}

func sizeFilter(name, value string) (filter, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return nil, cloud.Errorf(cloud.KindInvalid, "%s must be a non-negative integer, not '%.50s'", name, value)
	}
	switch name {
	case "size_min":
		return func(i *cloud.Image) bool { return i.SizeBytes >= n }, nil
	case "size_max":
		return func(i *cloud.Image) bool { return i.SizeBytes <= n }, nil
	case "min_ram":
		return func(i *cloud.Image) bool { return int64(i.MinRAMMiB) == n }, nil
	}
	return func(i *cloud.Image) bool { return int64(i.MinDiskGiB) == n }, nil
}

// timeFilter reads "gte:2026-01-02T15:04:05Z".
func timeFilter(name, value string) (filter, error) {
	operator, text, ok := strings.Cut(value, ":")
	hits := map[string]func(int) bool{"gt": func(c int) bool { return c > 0 }, "gte": func(c int) bool { return c >= 0 }, "eq": func(c int) bool { return c == 0 },
		"neq": func(c int) bool { return c != 0 }, "lt": func(c int) bool { return c < 0 }, "lte": func(c int) bool { return c <= 0 }}
	hit, known := hits[operator]
	if !ok || !known {
		hit, text = hits["eq"], value
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, cloud.Errorf(cloud.KindInvalid, "Invalid time format for %s: '%.50s'", name, value)
	}
	return func(i *cloud.Image) bool {
		at := i.Created
		if name == "updated_at" {
			at = i.Updated
		}
		return hit(at.Truncate(time.Second).Compare(t)) // seconds are all that clients see
	}, nil
}
