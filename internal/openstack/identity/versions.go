package identity

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// versionView is Keystone 3.14 (Rocky and later): the last that added something.
func versionView(r *openstack.Request) map[string]any {
	return map[string]any{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []openstack.Link{{Rel: "self", Href: r.PublicURL("/identity/v3/")}},
		"media-types": []map[string]string{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func (s *Service) versions(w http.ResponseWriter, r *openstack.Request) error {
	w.Header().Set("Location", r.PublicURL("/identity/v3/"))
	return openstack.WriteJSON(w, http.StatusMultipleChoices, map[string]any{"versions": map[string]any{"values": []any{versionView(r)}}})
}

func (s *Service) version(w http.ResponseWriter, r *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"version": versionView(r)})
}

// links are what Keystone puts into every resource.
type links struct {
	Self string `json:"self"`
}

func selfLink(r *openstack.Request, path string) links { return links{r.PublicURL("/identity", path)} }

// writeList answers with a whole list: Keystone does not page.
func writeList[T any](w http.ResponseWriter, r *openstack.Request, name string, items []T) error {
	if items == nil {
		items = []T{}
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{
		name:    items,
		"links": map[string]any{"self": r.PublicURL(r.URL.RequestURI()), "previous": nil, "next": nil},
	})
}

// writeOne answers with the item that is it, or 404.
func writeOne[T any](w http.ResponseWriter, name string, items []T, it func(T) bool, id string) error {
	for _, v := range items {
		if it(v) {
			return openstack.WriteJSON(w, http.StatusOK, map[string]any{name: v})
		}
	}
	return notFound(name, id)
}

// keep returns the items that pass.
func keep[T any](items []T, pass func(T) bool) []T {
	out := []T{}
	for _, v := range items {
		if pass(v) {
			out = append(out, v)
		}
	}
	return out
}

// asked reports whether the query lets the value pass: it does not filter by name, or asks for this value.
func asked(q url.Values, name, value string) bool {
	return !q.Has(name) || q.Get(name) == value
}

// askedBool is asked for a flag; Keystone takes any of these spellings of false.
func askedBool(q url.Values, name string, value bool) bool {
	if !q.Has(name) {
		return true
	}
	switch strings.ToLower(q.Get(name)) {
	case "0", "false", "no", "off":
		return !value
	}
	return value
}

func compareText(pairs ...string) int {
	for i := 0; i+1 < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}
