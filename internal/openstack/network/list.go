package network

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/ipam"
	"github.com/godwit-cloud/godwit/internal/openstack"
)

// A filter decides whether a resource's view meets one query parameter's values, any of which suffices.
type filter func(view object, values []string) (bool, error)

// listing says how resources of one kind are listed.
type listing struct {
	plural string // "security_groups": the name in the answer
	path   string // "security-groups": the last element of the URL
	// attributes may be filtered and sorted by; everything that a view can hold.
	attributes []string
	// special are parameters that are no attributes, or are compared in a way of their own.
	special map[string]filter
}

// pagingParameters steer the list and filter nothing.
var pagingParameters = []string{"fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir"}

// list answers with the views that pass the query's filters, sorted, paged and cut down to the fields asked for.
func (c *call) list(l *listing, views []object) error {
	q := c.r.URL.Query()
	kept, err := l.filter(q, views)
	if err != nil {
		return err
	}
	if err := l.sort(q, kept); err != nil {
		return err
	}
	page, links, err := c.page(l, q, kept)
	if err != nil {
		return err
	}
	for i := range page {
		page[i] = fields(page[i], q["fields"])
	}
	out := object{l.plural: emptyIfNil(page)}
	if len(links) > 0 {
		out[l.plural+"_links"] = links
	}
	return openstack.WriteJSON(c.w, http.StatusOK, out)
}

// show answers with one view, cut down to the fields asked for.
func (c *call) show(name string, view object) error {
	return c.reply(http.StatusOK, name, fields(view, c.r.URL.Query()["fields"]))
}

func fields(view object, wanted []string) object {
	if len(wanted) == 0 {
		return view
	}
	out := object{}
	for _, f := range wanted {
		if v, ok := view[f]; ok {
			out[f] = v
		}
	}
	return out
}

// filter returns the views that meet every parameter of the query that is not about paging.
func (l *listing) filter(q url.Values, views []object) ([]object, error) {
	out := views
	for name, values := range q {
		if slices.Contains(pagingParameters, name) {
			continue
		}
		test, ok := l.special[name]
		if !ok {
			test, ok = tagFilters[name]
		}
		if !ok {
			if !slices.Contains(l.attributes, name) {
				return nil, ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "['%s'] is invalid attribute for filtering", name)
			}
			test = equals(name)
		}
		var kept []object
		for _, v := range out {
			ok, err := test(v, values)
			if err != nil {
				return nil, err
			}
			if ok {
				kept = append(kept, v)
			}
		}
		out = kept
	}
	return slices.Clone(out), nil
}

// equals compares an attribute with the values: as text, booleans in every spelling, and lists by membership.
func equals(name string) filter {
	return func(view object, values []string) (bool, error) {
		have, ok := view[name]
		if !ok {
			return false, nil
		}
		return slices.ContainsFunc(values, func(want string) bool { return equal(have, want) }), nil
	}
}

func equal(have any, want string) bool {
	switch have := have.(type) {
	case nil:
		return want == ""
	case bool:
		asked, err := strconv.ParseBool(strings.ToLower(want))
		return err == nil && asked == have
	case []string:
		return slices.Contains(have, want)
	case []cloud.SecurityGroupID:
		return slices.Contains(have, cloud.SecurityGroupID(want))
	case []cloud.SubnetID:
		return slices.Contains(have, cloud.SubnetID(want))
	}
	return fmt.Sprint(have) == want
}

// tagFilters are the four ways to ask for tags; tags in one value are separated by commas.
var tagFilters = map[string]filter{
	"tags":         byTags(func(has func(string) bool, tags []string) bool { return all(tags, has) }),
	"tags-any":     byTags(func(has func(string) bool, tags []string) bool { return slices.ContainsFunc(tags, has) }),
	"not-tags":     byTags(func(has func(string) bool, tags []string) bool { return !all(tags, has) }),
	"not-tags-any": byTags(func(has func(string) bool, tags []string) bool { return !slices.ContainsFunc(tags, has) }),
}

func byTags(meets func(has func(string) bool, tags []string) bool) filter {
	return func(view object, values []string) (bool, error) {
		have, _ := view["tags"].([]string)
		var tags []string
		for _, v := range values {
			tags = append(tags, strings.Split(v, ",")...)
		}
		return meets(func(t string) bool { return slices.Contains(have, t) }, tags), nil
	}
}

func all(items []string, test func(string) bool) bool {
	return !slices.ContainsFunc(items, func(s string) bool { return !test(s) })
}

// sort orders the views by the keys asked for, then by id.
func (l *listing) sort(q url.Values, views []object) error {
	keys, dirs := q["sort_key"], q["sort_dir"]
	for _, k := range keys {
		if !slices.Contains(l.attributes, k) {
			return ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "[%q] is invalid attribute for sort_keys", k)
		}
	}
	for _, d := range dirs {
		if d != "asc" && d != "desc" {
			return ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "sort_dirs must be one of ['asc', 'desc']")
		}
	}
	if len(dirs) > 0 && len(dirs) != len(keys) {
		return ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "The number of sort_keys and sort_dirs must be same")
	}
	slices.SortStableFunc(views, func(a, b object) int {
		for i, k := range keys {
			order := compareValues(a[k], b[k])
			if len(dirs) > 0 && dirs[i] == "desc" {
				order = -order
			}
			if order != 0 {
				return order
			}
		}
		return compareValues(a["id"], b["id"])
	})
	return nil
}

func compareValues(a, b any) int {
	if x, ok := a.(int); ok {
		if y, ok := b.(int); ok {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(text(a), text(b))
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// page returns the part of the list that limit, marker and page_reverse ask for, with links to its neighbours. Without a limit it is
// all that is behind the marker, as in Neutron.
func (c *call) page(l *listing, q url.Values, views []object) (page []object, links []openstack.Link, err error) {
	limit := len(views)
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, nil, ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "Limit must be an integer 0 or greater and not '%s'", s)
		}
		if n > 0 {
			limit = n
		}
	}
	backwards := strings.EqualFold(q.Get("page_reverse"), "true")
	if backwards {
		slices.Reverse(views)
	}
	before := false
	if marker := q.Get("marker"); marker != "" {
		at := slices.IndexFunc(views, func(v object) bool { return text(v["id"]) == marker })
		if at < 0 {
			return nil, nil, ipam.Refuse(cloud.KindInvalid, "HTTPBadRequest", "Invalid marker: %s.", marker)
		}
		views, before = views[at+1:], true
	}
	more := len(views) > limit
	if more {
		views = views[:limit]
	}
	if backwards {
		slices.Reverse(views)
		more, before = before, more
	}
	if q.Get("limit") != "" && len(views) > 0 {
		if more {
			links = append(links, c.pageLink(l, q, "next", views[len(views)-1], false))
		}
		if before {
			links = append(links, c.pageLink(l, q, "previous", views[0], true))
		}
	}
	return views, links, nil
}

func (c *call) pageLink(l *listing, q url.Values, rel string, at object, backwards bool) openstack.Link {
	next := url.Values{}
	for k, v := range q {
		next[k] = v
	}
	next.Set("marker", text(at["id"]))
	next.Del("page_reverse")
	if backwards {
		next.Set("page_reverse", "True")
	}
	return openstack.Link{Rel: rel, Href: c.r.PublicURL("/network/v2.0/", l.path, "?", next.Encode())}
}
