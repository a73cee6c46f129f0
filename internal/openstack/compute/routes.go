package compute

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"

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
	for _, one := range s.routes() {
		method, path, _ := strings.Cut(one.pattern, " ")
		handler := s.serve(one)
		rt.Handle(method+" /v2.1"+path, handler)
		s.prefixed.HandleFunc(one.pattern, func(w http.ResponseWriter, r *http.Request) {
			inner := r.Context().Value(prefixedKey{}).(*prefixedCall)
			inner.matched = true
			inner.request.Request = r
			inner.err = handler(w, inner.request)
		})
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		rt.Handle(method+" /v2.1/{project_id}/{rest...}", s.servePrefixed)
		// Without this the multiplexer would send clients of an unknown path on to the pattern above, with a slash that is taken off on arrival.
		rt.Handle(method+" /v2.1/{project_id}", func(http.ResponseWriter, *openstack.Request) error {
			return notFound("%s", openstack.Nova.NotFound)
		})
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

// prefixedCall carries a request into the second routing and its error out.
type prefixedCall struct {
	request *openstack.Request
	matched bool
	err     error
}

type prefixedKey struct{}

// projectSegment is what Nova takes for a project in a URL; no resource's name matches it.
var projectSegment = regexp.MustCompile(`^[0-9a-f-]{32,36}$`)

// servePrefixed serves URLs that begin with the caller's project, as they had to before 2.18 and still may.
func (s *Service) servePrefixed(w http.ResponseWriter, r *openstack.Request) error {
	project := r.PathValue("project_id")
	if !projectSegment.MatchString(project) {
		return notFound("%s", openstack.Nova.NotFound)
	}
	if own := string(r.Caller.Project); project != own {
		return invalid("Malformed request URL: URL's project_id '%s' doesn't match Context's project_id '%s'", project, own)
	}
	inner := &prefixedCall{request: r}
	plain := r.Request.Clone(context.WithValue(r.Context(), prefixedKey{}, inner))
	plain.URL.Path, plain.URL.RawPath = "/"+r.PathValue("rest"), ""
	s.prefixed.ServeHTTP(discardUnlessMatched{w, inner}, plain)
	if !inner.matched {
		return notFound("%s", openstack.Nova.NotFound)
	}
	return inner.err
}

// discardUnlessMatched keeps the multiplexer's own "404 page not found" from the client, which gets a fault in the API's shape instead.
type discardUnlessMatched struct {
	http.ResponseWriter
	inner *prefixedCall
}

func (d discardUnlessMatched) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d discardUnlessMatched) Header() http.Header {
	if !d.inner.matched {
		return http.Header{}
	}
	return d.ResponseWriter.Header()
}

func (d discardUnlessMatched) WriteHeader(code int) {
	if d.inner.matched {
		d.ResponseWriter.WriteHeader(code)
	}
}

func (d discardUnlessMatched) Write(p []byte) (int, error) {
	if !d.inner.matched {
		return len(p), nil
	}
	return d.ResponseWriter.Write(p)
}
