package compute

import (
	"net/http"
	"slices"

	"github.com/godwit-cloud/godwit/internal/openstack"
)

// apiRoot is the versioned root of the API in URLs.
const apiRoot = "/compute/v2.1"

// A route is one method and path below the versioned root, with the microversions that have it.
type route struct {
	pattern string // "GET /servers/{id}"
	from    int    // first microversion; 0 means all
	to      int    // last microversion; 0 means all
	query   querySchema
	handle  func(*call) error
}

// routes returns every route of the API.
func (s *Service) routes() []route {
	return slices.Concat(
		flavorRoutes, keypairRoutes, serverRoutes, serverPartRoutes, volumeRoutes, serverMigrationRoutes, migrationRoutes, hypervisorRoutes,
		serviceRoutes, hostRoutes, aggregateRoutes, quotaRoutes, groupRoutes, actionRoutes, usageRoutes, extensionRoutes, refusedRoutes(),
	)
}

// Mount adds the API's routes.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(openstack.Nova)
	rt.HandlePublic("GET /{$}", s.listVersions)
	rt.HandlePublic("GET /v2.1/{$}", s.showVersion)
	versioned := rt.WithProject("/v2.1", "Malformed request URL: URL's project_id '{url}' doesn't match Context's project_id '{own}'")
	for _, one := range s.routes() {
		versioned.Handle(one.pattern, s.serve(one))
	}
}

// serve makes a route a handler: microversion, query and snapshot first.
func (s *Service) serve(one route) openstack.Handler {
	return func(w http.ResponseWriter, r *openstack.Request) error {
		c := &call{Service: s, w: w, r: r, view: s.store.View(), minor: r.Version.Minor}
		if c.minor < one.from || one.to > 0 && c.minor > one.to {
			return notFound("%s", openstack.Nova.NotFound)
		}
		var err error
		if c.query, err = one.query.read(r, c.minor); err != nil {
			return err
		}
		return one.handle(c)
	}
}
