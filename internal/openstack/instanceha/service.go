package instanceha

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Options are what the service needs.
type Options struct {
	Store *store.Store
	Now   func() time.Time // nil: time.Now
}

// Service is the instance-ha API. It holds no state of its own and is safe for concurrent use.
type Service struct {
	store *store.Store
	now   func() time.Time
}

// New returns the service; mount it with openstack.API.Mount.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = func() time.Time { return time.Now().UTC() }
	}
	return &Service{store: o.Store, now: o.Now}
}

// apiRoot is the versioned root of the API in URLs.
const apiRoot = "/instance-ha/v1"

type route struct {
	pattern string // below the versioned root
	from    int    // first microversion
	rule    string // of Masakari's policy
	handle  func(*call) error
}

var routes = slices.Concat(segmentRoutes, hostRoutes, notificationRoutes)

// Mount adds the API's routes, each with and without the project in its URL.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Masakari)
	rt.HandlePublic("GET /{$}", s.listVersions)
	rt.HandlePublic("GET /v1/{$}", s.showVersion)
	versioned := rt.WithProject("/v1", "Malformed request URL: URL's project_id '{url}' doesn't match Context's project_id '{own}'")
	for _, one := range routes {
		versioned.Handle(one.pattern, s.serve(one))
	}
}

func (s *Service) serve(one route) openstack.Handler {
	return func(w http.ResponseWriter, r *openstack.Request) error {
		c := &call{Service: s, w: w, r: r, view: s.store.View(), minor: r.Version.Minor}
		if c.minor < one.from {
			return cloud.Errorf(cloud.KindNotFound, "%s", openstack.Masakari.NotFound)
		}
		if err := r.Caller.RequireAdmin(one.rule); err != nil {
			return err
		}
		return one.handle(c)
	}
}

// A call is one request on its way through a handler.
type call struct {
	*Service
	w     http.ResponseWriter
	r     *openstack.Request
	view  store.View
	minor int
}

type object = map[string]any

func (c *call) reply(status int, body any) error { return openstack.WriteJSON(c.w, status, body) }

// update runs fn in a transaction and returns when this process's reads show the result.
func (c *call) update(fn func(tx *store.Tx) error) error {
	if _, err := c.store.UpdateVisible(c.r.Context(), fn); err != nil {
		return err
	}
	c.view = c.store.View()
	return nil
}

func newID() string { return uuid.NewString() }

func notFound(format string, args ...any) error {
	return cloud.Errorf(cloud.KindNotFound, format, args...)
}
func conflict(format string, args ...any) error {
	return cloud.Errorf(cloud.KindConflict, format, args...)
}
func invalid(format string, args ...any) error {
	return cloud.Errorf(cloud.KindInvalid, format, args...)
}

// timeText is a time as Masakari shows it, null when there is none.
func timeText(t time.Time) any { return openstack.OptionalTime(t, openstack.TimeMicros) }

func version(r *openstack.Request) object {
	vr := openstack.Masakari.Versions
	return object{"id": "v1.0", "status": "CURRENT", "version": vr.Max.String(), "min_version": vr.Min.String(), "updated": "2016-07-01T11:33:21Z",
		"links":       []openstack.Link{{Rel: "self", Href: r.PublicURL(apiRoot + "/")}},
		"media-types": []object{{"base": "application/json", "type": "application/vnd.openstack.masakari+json;version=1"}}}
}

func (s *Service) listVersions(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, object{"versions": []object{version(r)}})
}

func (s *Service) showVersion(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, object{"version": version(r)})
}

// A listing is how a list is sorted and cut.
type listing[T any] struct {
	id      func(T) string
	made    func(T) (at time.Time, number int) // sort key created_at
	changed func(T) time.Time                  // updated_at
	keys    map[string]func(a, b T) int        // the others
}

// compare returns the order by a sort key.
func (l listing[T]) compare(key string) (order func(a, b T) int, ok bool) {
	switch key {
	case "created_at":
		return func(a, b T) int {
			was, first := l.made(a)
			is, second := l.made(b)
			return cmp.Or(was.Compare(is), cmp.Compare(first, second))
		}, true
	case "updated_at":
		return func(a, b T) int { return l.changed(a).Compare(l.changed(b)) }, true
	}
	order, ok = l.keys[key]
	return order, ok
}

// page filters, sorts and cuts a list as the query asks.
func page[T any](c *call, items []T, l listing[T], keep func(T) bool) ([]T, error) {
	items = slices.DeleteFunc(slices.Clone(items), func(item T) bool { return !keep(item) })
	key := c.r.URL.Query().Get("sort_key")
	if key == "" {
		key = "created_at"
	}
	compare, ok := l.compare(key)
	if !ok {
		return nil, invalid("Sort key supplied is invalid: %s", key)
	}
	slices.SortStableFunc(items, compare)
	switch dir := strings.ToLower(c.r.URL.Query().Get("sort_dir")); {
	case dir == "desc", dir == "" && key == "created_at": // newest first
		slices.Reverse(items)
	case dir != "" && dir != "asc":
		return nil, invalid("Unknown sort direction, must be one of: asc-nullsfirst, asc-nullslast, asc, desc-nullsfirst, desc-nullslast, desc")
	}
	p, err := c.r.Page(openstack.PageMax)
	if err != nil {
		return nil, err
	}
	items, _, err = openstack.Slice(items, p, l.id)
	return items, err
}

// views shows each item.
func views[T any](items []T, view func(T) object) []object {
	out := []object{}
	for _, item := range items {
		out = append(out, view(item))
	}
	return out
}

// boolean reads a word as OpenStack's bool_from_string does.
func boolean(word string) (value, ok bool) {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "1", "t", "true", "on", "y", "yes":
		return true, true
	case "0", "f", "false", "off", "n", "no":
		return false, true
	}
	return false, false
}

// flag is a boolean in a body, which may be a word.
type flag bool

// BindJSON implements openstack.Binder.
func (f *flag) BindJSON(v any) error {
	switch v := v.(type) {
	case bool:
		*f = flag(v)
		return nil
	case string:
		if value, ok := boolean(v); ok {
			*f = flag(value)
			return nil
		}
	}
	return openstack.Mismatch(v, "boolean")
}

// askedFlag reads a boolean filter; absent accepts all.
func (c *call) askedFlag(name string) (want *bool, err error) {
	word := c.r.URL.Query().Get(name)
	if word == "" {
		return nil, nil
	}
	value, ok := boolean(word)
	if !ok {
		return nil, invalid("Invalid input received: Unrecognized value '%s', acceptable values are: '0', '1', 'f', 'false', 'n', 'no', 'off', 'on', 't', 'true', 'y', 'yes'", word)
	}
	return &value, nil
}

// filters reports whether a text passes the query's filter of that name.
func (c *call) passes(filter, value string) bool {
	want := c.r.URL.Query().Get(filter)
	return want == "" || want == value
}
