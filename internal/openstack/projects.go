package openstack

import (
	"context"
	"net/http"
	"regexp"
	"strings"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// ProjectRoutes serves routes below a version's root both plainly and behind the caller's project ("/v2.1/PROJECT/servers"), as URLs had to be once and
// still may. Make it with Routes.WithProject; it is only read after the last Handle.
type ProjectRoutes struct {
	routes   *Routes
	root     string
	mismatch string
	inner    *http.ServeMux // the patterns once more, without the root
}

// WithProject returns routes below root ("/v2.1"). A URL with a project that is not the caller's is refused with mismatch, in which {url} and {own} stand
// for the two projects.
func (rt *Routes) WithProject(root, mismatch string) *ProjectRoutes {
	p := &ProjectRoutes{routes: rt, root: root, mismatch: mismatch, inner: http.NewServeMux()}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		rt.Handle(method+" "+root+"/{project_id}/{rest...}", p.serve)
		// Without this the multiplexer would send clients of an unknown path on to the pattern above, with a slash that is taken off on arrival.
		rt.Handle(method+" "+root+"/{project_id}", func(http.ResponseWriter, *Request) error { return p.unknown() })
	}
	return p
}

// Handle serves a pattern ("GET /servers/{id}", relative to the root), with and without the project.
func (p *ProjectRoutes) Handle(pattern string, h Handler) {
	method, path, _ := strings.Cut(pattern, " ")
	p.routes.Handle(method+" "+p.root+path, h)
	p.inner.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		call := r.Context().Value(projectKey{}).(*projectCall)
		call.matched = true
		call.request.Request = r
		call.err = h(w, call.request)
	})
}

// projectCall carries a request into the second routing and its error out.
type projectCall struct {
	request *Request
	matched bool
	err     error
}

type projectKey struct{}

// projectSegment is what is taken for a project in a URL; no resource's name matches it.
var projectSegment = regexp.MustCompile(`^[0-9a-f-]{32,36}$`)

func (p *ProjectRoutes) unknown() error {
	return cloud.Errorf(cloud.KindNotFound, "%s", p.routes.dialect.NotFound)
}

func (p *ProjectRoutes) serve(w http.ResponseWriter, r *Request) error {
	project, own := r.PathValue("project_id"), string(r.Caller.Project)
	switch {
	case !projectSegment.MatchString(project):
		return p.unknown()
	case project != own:
		return cloud.Errorf(cloud.KindInvalid, "%s", strings.NewReplacer("{url}", project, "{own}", own).Replace(p.mismatch))
	}
	call := &projectCall{request: r}
	defer func(asked *http.Request) { r.Request = asked }(r.Request) // the access log tells the path that was asked for
	plain := r.Request.Clone(context.WithValue(r.Context(), projectKey{}, call))
	plain.URL.Path, plain.URL.RawPath = "/"+r.PathValue("rest"), ""
	p.inner.ServeHTTP(discardUnlessMatched{w, call}, plain)
	if !call.matched {
		return p.unknown()
	}
	return call.err
}

// discardUnlessMatched keeps the multiplexer's own "404 page not found" from the client, which gets a fault in the API's shape instead.
type discardUnlessMatched struct {
	http.ResponseWriter
	call *projectCall
}

// Unwrap lets http.ResponseController reach the connection.
func (d discardUnlessMatched) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// Header implements http.ResponseWriter.
func (d discardUnlessMatched) Header() http.Header {
	if !d.call.matched {
		return http.Header{}
	}
	return d.ResponseWriter.Header()
}

// WriteHeader implements http.ResponseWriter.
func (d discardUnlessMatched) WriteHeader(code int) {
	if d.call.matched {
		d.ResponseWriter.WriteHeader(code)
	}
}

// Write implements http.ResponseWriter.
func (d discardUnlessMatched) Write(b []byte) (int, error) {
	if !d.call.matched {
		return len(b), nil
	}
	return d.ResponseWriter.Write(b)
}
