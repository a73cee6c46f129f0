package operator

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/godwit-cloud/godwit/internal/cloud"
	"github.com/godwit-cloud/godwit/internal/openstack"
	"github.com/godwit-cloud/godwit/internal/placement"
	"github.com/godwit-cloud/godwit/internal/store"
)

// Root is the path below the API's public URL that all of the operator API is under.
const Root = "/godwit/v1"

// Options are what the service needs.
type Options struct {
	// Store is where everything is read.
	Store *store.Store
	// Policy is placement's; it must be the one the flows use. The zero value means placement.DefaultPolicy.
	Policy placement.Policy
	// Version is the program's, as GET version shows it.
	Version string
	// Logger receives what is neither an answer nor an access log line. Nil means slog.Default.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service is the operator API. Besides its open event streams it holds no state. It is safe for concurrent use.
type Service struct {
	store   *store.Store
	policy  placement.Policy
	version string
	logger  *slog.Logger
	now     func() time.Time
	streams *streams
	pace    pace
}

// New returns the service; mount it with openstack.API.Mount, and let Run end its event streams.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Policy == (placement.Policy{}) {
		o.Policy = placement.DefaultPolicy()
	}
	return &Service{store: o.Store, policy: o.Policy, version: o.Version, logger: o.Logger, now: o.Now, streams: newStreams(), pace: defaultPace}
}

// Run returns after ctx has ended and every event stream with it. A listener that shuts down gracefully waits for requests in progress, and an event
// stream is one that would go on for ever. Without Run, streams end with their clients.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	s.streams.stop()
	return nil
}

// dialect is how the operator API speaks. A fault is {"error": {"code", "kind", "message", "request_id"}}; kind is the cloud.Kind's name.
// A 401 has Keystone's words, as with every dialect, and they are of the same shape.
var dialect = &openstack.Dialect{
	Service:  "godwit",
	Shape:    faultShape,
	Denied:   func(rule string) string { return "this takes the role admin (rule " + rule + ")" },
	Invalid:  (*openstack.InputError).Error,
	NotFound: "no such resource in the operator API",
}

func faultShape(f openstack.Fault) any {
	return map[string]any{"error": map[string]any{"code": f.Code, "kind": kindOf(f), "message": f.Message, "request_id": f.RequestID}}
}

// kindOf names the fault's kind. Faults that are made of a status, not of a kind, are named by the status.
func kindOf(f openstack.Fault) string {
	var e *cloud.Error
	if errors.As(f.Err, &e) {
		return e.Kind.String()
	}
	if f.Code == http.StatusInternalServerError {
		return cloud.KindInternal.String()
	}
	return strings.ToLower(http.StatusText(f.Code))
}

// Mount implements openstack.Service.
func (s *Service) Mount(api *openstack.API) {
	rt := api.Routes(dialect)
	rt.HandlePublic("GET /{$}", s.index)
	rt.HandlePublic("GET /v1", s.index)
	for _, route := range append(append(s.recoveryRoutes(), s.optimizeRoutes()...), []route{
		{"GET /v1/version", "", s.showVersion},
		{"GET /v1/migrations", "godwit:migrations:list", s.listMigrations},
		{"GET /v1/migrations/{id}", "godwit:migrations:show", s.showMigration},
		{"GET /v1/servers/{id}/decisions", "godwit:decisions:list", s.listDecisions},
		{"GET /v1/servers/{id}/life", "godwit:servers:life", s.showServerLife},
		{"POST /v1/servers/{id}/migrate-plan", "godwit:migrations:plan", s.planMigration},
		{"GET /v1/hosts", "godwit:hosts:list", s.listHosts},
		{"GET /v1/hosts/{name}", "godwit:hosts:show", s.showHost},
		{"GET /v1/volume-services", "godwit:volume_services:list", s.listVolumeServices},
		{"GET /v1/events", "godwit:events:watch", s.watchEvents},
	}...) {
		rt.Handle(route.pattern, admin(route.rule, route.handler))
	}
}

// admin lets administrators through; an empty rule lets everybody with a token through.
func admin(rule string, h openstack.Handler) openstack.Handler {
	if rule == "" {
		return h
	}
	return func(w http.ResponseWriter, r *openstack.Request) error {
		if err := r.Caller.RequireAdmin(rule); err != nil {
			return err
		}
		return h(w, r)
	}
}

// index says where things are, to everybody: it is what tells a client that it talks to godwit.
func (s *Service) index(w http.ResponseWriter, r *openstack.Request) error {
	links := map[string]string{}
	for _, name := range []string{"version", "migrations", "hosts", "volume-services", "recoveries", "spare-room", "plans", "accounting", "events"} {
		links[name] = r.PublicURL(Root, "/", name)
	}
	return openstack.WriteJSON(w, http.StatusOK, map[string]any{"name": "godwit", "api": "v1", "links": links})
}

// Version is what GET version shows.
type Version struct {
	Version  string `json:"version"`  // the program's
	Go       string `json:"go"`       // the toolchain that built it
	API      string `json:"api"`      // of the operator API: "v1"
	Revision int64  `json:"revision"` // the store's, as this server's reads show it
}

func (s *Service) showVersion(w http.ResponseWriter, _ *openstack.Request) error {
	return openstack.WriteJSON(w, http.StatusOK, map[string]Version{
		"version": {Version: s.version, Go: runtime.Version(), API: "v1", Revision: s.store.Revision()},
	})
}

// parameters returns the query's parameters and refuses those the route does not have, and repeated ones: a filter with a typing mistake must not
// answer with everything.
func parameters(r *openstack.Request, known ...string) (url.Values, error) {
	q := r.URL.Query()
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, cloud.Errorf(cloud.KindInvalid, "unknown query parameter %q; known are %s", name, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, cloud.Errorf(cloud.KindInvalid, "query parameter %q is given %d times", name, len(values))
		}
	}
	return q, nil
}
