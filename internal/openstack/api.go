package openstack

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/godwit-cloud/godwit/internal/cloud"
)

// Options are what an API needs from the outside.
type Options struct {
	// PublicURL is the base of all links, without a path ("https://cloud.example:8774"). Empty: each client is shown the address it used.
	PublicURL string
	// Auth verifies tokens. It may be set until the first request, by SetAuthenticator.
	Auth Authenticator
	// Logger receives the access log (info) and internal errors (error). Nil means slog.Default.
	Logger *slog.Logger
	// Metrics is where the API registers its metrics and what /metrics shows. Nil means a new registry.
	Metrics *prometheus.Registry
	// Healthy says why the process should get no traffic, nil when it should. Nil means always healthy.
	Healthy func(context.Context) error
}

// A Service is one dialect's implementation. Mount adds its routes and returns.
type Service interface {
	Mount(api *API)
}

// A Handler answers one request, or returns an error and writes nothing. See the package comment.
type Handler func(w http.ResponseWriter, r *Request) error

// API is the one listener's root handler. Build it completely, then serve: adding routes while serving is not safe.
type API struct {
	options  Options
	routes   map[string]*Routes // by first path element
	services []string           // in order of mounting
	metrics  *metrics
	scrape   http.Handler
}

// New returns an API without dialects; it answers /, /healthz and /metrics.
func New(o Options) *API {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	o.PublicURL = strings.TrimRight(o.PublicURL, "/")
	return &API{options: o, routes: map[string]*Routes{}, metrics: newMetrics(o.Metrics),
		scrape: promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{})}
}

// SetAuthenticator sets who verifies tokens, for wiring where the authenticator is itself a mounted service. Call it before serving.
func (a *API) SetAuthenticator(auth Authenticator) { a.options.Auth = auth }

// Mount lets each service add its routes.
func (a *API) Mount(services ...Service) {
	for _, s := range services {
		s.Mount(a)
	}
}

// Routes returns the routes of the dialect, which serves below "/" + d.Service. Several services may share one.
func (a *API) Routes(d *Dialect) *Routes {
	if rt := a.routes[d.Service]; rt != nil {
		return rt
	}
	rt := &Routes{api: a, dialect: d, mux: http.NewServeMux()}
	rt.mux.HandleFunc("/", rt.wrap("unmatched", true, rt.unmatched))
	a.routes[d.Service] = rt
	a.services = append(a.services, d.Service)
	return rt
}

// ServeHTTP finds the dialect by the first path element.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	// Clients disagree on trailing slashes and real services accept both.
	if len(path) > 1 && strings.HasSuffix(path, "/") {
		copied, u := *r, *r.URL
		u.Path, u.RawPath = strings.TrimRight(path, "/"), strings.TrimRight(u.RawPath, "/")
		copied.URL = &u
		r, path = &copied, u.Path
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if rt := a.routes[first]; rt != nil {
		rt.mux.ServeHTTP(w, r)
		return
	}
	switch path {
	case "/metrics":
		a.scrape.ServeHTTP(w, r)
	case "/healthz":
		a.health(w, r)
	case "/", "":
		a.index(w, r)
	default:
		_ = WriteJSON(w, http.StatusNotFound, keystoneShape(Fault{Code: http.StatusNotFound, Message: "The resource could not be found."}))
	}
}

// health answers 200 "ok" or 503 with the reason.
func (a *API) health(w http.ResponseWriter, r *http.Request) {
	if a.options.Healthy != nil {
		if err := a.options.Healthy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// index lists the dialects with their URLs.
func (a *API) index(w http.ResponseWriter, r *http.Request) {
	base := publicBase(a.options.PublicURL, r)
	services := map[string]string{}
	for _, s := range a.services {
		services[s] = base + "/" + s
	}
	_ = WriteJSON(w, http.StatusOK, map[string]any{"name": "godwit", "services": services})
}

// Routes are one dialect's patterns.
type Routes struct {
	api     *API
	dialect *Dialect
	mux     *http.ServeMux
}

// Handle serves a pattern ("GET /v2.1/servers/{id}", relative to the dialect's prefix) to callers with a valid token, under a negotiated microversion.
// A GET pattern answers HEAD too.
func (rt *Routes) Handle(pattern string, h Handler) { rt.add(pattern, false, h) }

// HandlePublic serves a pattern without asking for a token or a microversion.
func (rt *Routes) HandlePublic(pattern string, h Handler) { rt.add(pattern, true, h) }

func (rt *Routes) add(pattern string, public bool, h Handler) {
	method, path, _ := strings.Cut(pattern, " ")
	full := "/" + rt.dialect.Service + path
	// Trailing slashes are stripped before routing, so "GET /{$}" is the prefix itself.
	full = strings.TrimSuffix(full, "/{$}")
	rt.mux.HandleFunc(method+" "+full, rt.wrap(full, public, h))
}

// unmatched answers 405 when the path exists for another method, else 404.
func (rt *Routes) unmatched(_ http.ResponseWriter, r *Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		other := *r.Request
		other.Method = method
		if _, pattern := rt.mux.Handler(&other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 || slices.Contains(allowed, r.Method) {
		return cloud.Errorf(cloud.KindNotFound, "%s", rt.dialect.NotFound)
	}
	return &StatusError{Code: http.StatusMethodNotAllowed, Text: "The method is not allowed for this resource.",
		Header: http.Header{"Allow": {strings.Join(allowed, ", ")}}}
}

// wrap puts a handler behind everything all handlers have in common.
func (rt *Routes) wrap(route string, public bool, h Handler) http.HandlerFunc {
	d, counters := rt.dialect, rt.api.metrics.route(rt.dialect.Service, route)
	return func(plain http.ResponseWriter, hr *http.Request) {
		w := &recorder{ResponseWriter: plain}
		r := &Request{Request: hr, ID: newRequestID(), Received: time.Now(), dialect: d, public: publicBase(rt.api.options.PublicURL, hr)}
		w.Header().Set(requestIDHeader, r.ID)
		if d.RequestIDHeader != "" {
			w.Header().Set(d.RequestIDHeader, r.ID)
		}
		defer func() { // deferred, so that an aborted answer is on record too
			elapsed := time.Since(r.Received)
			counters.observe(hr.Method, w.status(), elapsed)
			rt.access(w, r, elapsed)
		}()
		if err := rt.serve(w, r, public, h); err != nil {
			rt.refuse(w, r, err)
		}
	}
}

// serve does what comes before the handler and turns a panic into an error.
func (rt *Routes) serve(w *recorder, r *Request, public bool, h Handler) (err error) {
	defer recovered(&err)
	if !public {
		if r.Caller, err = rt.authenticate(r); err != nil {
			return err
		}
		if err := rt.negotiate(w, r); err != nil {
			return err
		}
	}
	return h(w, r)
}

func (rt *Routes) authenticate(r *Request) (*Caller, error) {
	token := r.Token()
	if token == "" || rt.api.options.Auth == nil {
		return nil, cloud.Errorf(cloud.KindUnauthenticated, "no token")
	}
	return rt.api.options.Auth.Authenticate(r.Context(), token)
}

// negotiate sets the request's microversion and announces it, on refusals too when it was well-formed.
func (rt *Routes) negotiate(w *recorder, r *Request) (err error) {
	vr := rt.dialect.Versions
	if vr == (VersionRange{}) {
		return nil
	}
	r.Version, err = vr.negotiate(rt.dialect.Service, r.Header)
	vr.announce(rt.dialect.Service, r.Version, w.Header())
	return err
}

// refuse writes the fault of a handler's error. If the handler had begun an answer, the only honest way to say that it is not whole is to cut the
// connection.
func (rt *Routes) refuse(w *recorder, r *Request, err error) {
	if w.code != 0 {
		rt.log(r, err, w.code)
		panic(http.ErrAbortHandler)
	}
	if cloud.Is(err, cloud.KindUnauthenticated) {
		w.Header().Set("WWW-Authenticate", `Keystone uri="`+r.PublicURL("/identity")+`"`)
	}
	f := rt.dialect.writeFault(w, err, r.ID)
	rt.log(r, err, f.Code)
}
