package volume

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// apiRoot is the versioned root of the API in URLs.
const apiRoot = "/volume/v3"

// A route is one method and path below the versioned root, with the microversion that brought it.
type route struct {
	pattern string // "GET /volumes/{id}"
	from    int    // first microversion
	handle  func(*call) error
}

// routes returns every route of the API.
func routes() []route {
	return slices.Concat(
		volumeRoutes, metadataRoutes, snapshotRoutes, typeRoutes, attachmentRoutes, quotaRoutes, serviceRoutes, infoRoutes, messageRoutes, refusedRoutes(),
	)
}

// Mount adds the API's routes, each with and without the project in its URL.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Cinder)
	rt.HandlePublic("GET /{$}", s.listVersions)
	rt.HandlePublic("GET /v3/{$}", s.showVersion)
	versioned := rt.WithProject("/v3", "Malformed request url")
	for _, one := range routes() {
		versioned.Handle(one.pattern, s.serve(one))
	}
}

// serve makes a route a handler: microversion and snapshot first.
func (s *Service) serve(one route) openstack.Handler {
	return func(w http.ResponseWriter, r *openstack.Request) error {
		c := &call{Service: s, w: w, r: r, view: s.store.View(), minor: r.Version.Minor}
		if c.minor < one.from {
			return notFound("%s", openstack.Cinder.NotFound)
		}
		return one.handle(c)
	}
}

// links returns a resource's links; the project is part of them as the catalog's URL has it.
func (c *call) links(resource string) []openstack.Link {
	project := "/" + string(c.r.Caller.Project)
	if project == "/" {
		project = ""
	}
	return []openstack.Link{
		{Rel: "self", Href: c.r.PublicURL(apiRoot, project, resource)},
		{Rel: "bookmark", Href: c.r.PublicURL("/volume", project, resource)},
	}
}

// nextLinks returns the links of a list that goes on behind the item with this id.
func (c *call) nextLinks(path, lastID string) []openstack.Link {
	project := "/" + string(c.r.Caller.Project)
	if project == "/" {
		project = ""
	}
	return []openstack.Link{{Rel: "next", Href: c.r.Next(apiRoot+project+path, lastID)}}
}
