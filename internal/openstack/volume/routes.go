package volume

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"

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
	for _, one := range routes() {
		method, path, _ := strings.Cut(one.pattern, " ")
		handler := s.serve(one)
		rt.Handle(method+" /v3"+path, handler)
		s.prefixed.HandleFunc(one.pattern, func(w http.ResponseWriter, r *http.Request) {
			inner := r.Context().Value(prefixedKey{}).(*prefixedCall)
			inner.matched = true
			inner.request.Request = r
			inner.err = handler(w, inner.request)
		})
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		rt.Handle(method+" /v3/{project_id}/{rest...}", s.servePrefixed)
		// Without this the multiplexer would send clients of an unknown path on to the pattern above, with a slash that is taken off on arrival.
		rt.Handle(method+" /v3/{project_id}", func(http.ResponseWriter, *openstack.Request) error {
			return notFound("%s", openstack.Cinder.NotFound)
		})
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

// prefixedCall carries a request into the second routing and its error out.
type prefixedCall struct {
	request *openstack.Request
	matched bool
	err     error
}

type prefixedKey struct{}

// projectSegment is what Cinder takes for a project in a URL; no resource's name matches it.
var projectSegment = regexp.MustCompile(`^[0-9a-f-]{32,36}$`)

// servePrefixed serves URLs that begin with the caller's project, as they had to before 3.67 and still may.
func (s *Service) servePrefixed(w http.ResponseWriter, r *openstack.Request) error {
	project := r.PathValue("project_id")
	if !projectSegment.MatchString(project) {
		return notFound("%s", openstack.Cinder.NotFound)
	}
	if own := string(r.Caller.Project); project != own {
		return invalid("Malformed request url")
	}
	inner := &prefixedCall{request: r}
	defer func(asked *http.Request) { r.Request = asked }(r.Request) // the access log tells the path that was asked for
	plain := r.Request.Clone(context.WithValue(r.Context(), prefixedKey{}, inner))
	plain.URL.Path, plain.URL.RawPath = "/"+r.PathValue("rest"), ""
	s.prefixed.ServeHTTP(discardUnlessMatched{w, inner}, plain)
	if !inner.matched {
		return notFound("%s", openstack.Cinder.NotFound)
	}
	return inner.err
}

// discardUnlessMatched keeps the multiplexer's own "404 page not found" from the client, which gets a fault in the API's shape instead.
type discardUnlessMatched struct {
	http.ResponseWriter
	inner *prefixedCall
}

// Unwrap lets http.ResponseController reach the connection.
func (d discardUnlessMatched) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// Header implements http.ResponseWriter.
func (d discardUnlessMatched) Header() http.Header {
	if !d.inner.matched {
		return http.Header{}
	}
	return d.ResponseWriter.Header()
}

// WriteHeader implements http.ResponseWriter.
func (d discardUnlessMatched) WriteHeader(code int) {
	if d.inner.matched {
		d.ResponseWriter.WriteHeader(code)
	}
}

// Write implements http.ResponseWriter.
func (d discardUnlessMatched) Write(p []byte) (int, error) {
	if !d.inner.matched {
		return len(p), nil
	}
	return d.ResponseWriter.Write(p)
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
